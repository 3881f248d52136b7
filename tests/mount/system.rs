//! What the system starts: `/etc/fstab` with mount(8), and the systemd units.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::env::{Env, PATIENCE, is_mounted, on_openai, program_is_missing, wait_until};

fn unit(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name)).unwrap()
}

/// mount(8) is for root alone where no fstab of the system's own says `user`.
fn not_root() -> bool {
    let not_root = !Uid::effective().is_root();
    if not_root {
        eprintln!("\n*** SKIPPED: this test is root's ***\n");
    }
    not_root
}

/// Runs a script in a mount namespace of its own, in which the command is where mount(8) looks for it: it
/// keeps no `PATH`.
fn with_the_command_installed(env: &Env, script: &str) -> Output {
    let directory = Path::new(env!("CARGO_BIN_EXE_containerfs")).parent().unwrap();
    let script = format!("set -e; mount --bind '{}' /usr/local/sbin; {script}", directory.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).current_dir(env.dir.path());
    // Whatever it needs, its options tell.
    for variable in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "CONTAINERFS_CACHE_DIR", "CONTAINERFS_STATE_DIR"] {
        command.env_remove(variable);
    }
    command.output().unwrap()
}

fn options(env: &Env) -> String {
    let dir = env.dir.path().display();
    fs::write(env.dir.path().join("key"), "sk-test\n").unwrap();
    let url = env.emulator.base_url();
    format!("base_url={url},api_key_file={dir}/key,cache_dir={dir}/cache,state_dir={dir}/state")
}

#[test]
fn mount_8_and_a_line_of_fstab_mount() {
    on_openai(|env| {
        if not_root() || program_is_missing("mount.fuse3") {
            return;
        }
        let id = env.container("report");
        env.store().put_upload(&id, "f", b"bytes");
        let (mnt, options) = (env.mountpoint(), options(env));
        let fstab = env.dir.path().join("fstab");
        let common = format!(
            "noauto,_netdev,nofail,x-systemd.automount,lazytime,dirsync,nosymfollow,allow_other,{options}"
        );
        let lines = format!("containerfs {0} fuse.containerfs {common} 0 0\n", mnt.display());
        let one = lines.replace("containerfs /", "report /").replace("noauto", "noauto,ro");
        for (line, args, below, read_only) in [
            ("", format!("-t fuse.containerfs containerfs -o {options}"), "report/", false),
            (&lines, format!("-T {}", fstab.display()), "report/", false),
            (&one, format!("-T {}", fstab.display()), "", true),
        ] {
            fs::write(&fstab, line).unwrap();
            let mount = format!("mount {args} mnt; findmnt -n -o FSTYPE mnt; cat mnt/{below}f");
            let write = format!("if echo more >mnt/{below}g; then echo -written; fi");
            let output = with_the_command_installed(env, &format!("{mount}; {write}; umount mnt"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args}: {said}");
            let expected = format!("fuse.containerfs\nbytes{}", if read_only { "" } else { "-written\n" });
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{args}: {said}");
            wait_until("what was written has arrived", || env.versions(&id, "g").len() == 1);
        }
    });
}

#[test]
fn mount_8_tells_what_went_wrong() {
    on_openai(|env| {
        if not_root() || program_is_missing("mount.fuse3") {
            return;
        }
        let options = options(env).replace("key,", "absent,");
        env.mountpoint();
        let script = format!("mount -t fuse.containerfs containerfs mnt -o {options}");
        let output = with_the_command_installed(env, &script);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("cannot read the API key"), "{said}");
        assert_eq!(output.status.code(), Some(1));
    });
}

/// Starts what a unit says as systemd would, with specifiers and credentials in their places.
#[test]
fn what_the_units_start_serves_and_tells_systemd() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let home = env.dir.path();
        fs::create_dir_all(home.join("containerfs")).unwrap();
        for key in ["key", "containerfs/key"] {
            fs::write(home.join(key), "sk-test").unwrap();
            fs::set_permissions(home.join(key), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/config.toml");
        let mountpoint = home.join("containers");
        fs::create_dir(&mountpoint).unwrap();
        let notify = UnixDatagram::bind(home.join("notify")).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        for name in ["system/containerfs@.service", "user/containerfs.service"] {
            if name.starts_with("system") && !Uid::effective().is_root() {
                continue;
            }
            let text = unit(name)
                .replace("%f", mountpoint.to_str().unwrap())
                .replace("%h", home.to_str().unwrap())
                .replace("%d", home.to_str().unwrap())
                .replace("%E", home.to_str().unwrap())
                .replace("/etc/containerfs/config.toml", config.to_str().unwrap());
            assert!(text.contains("Type=notify\n"));
            let values = |key: &str| {
                let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            let start = values("ExecStart").remove(0);
            let args: Vec<&str> = start.strip_prefix("/usr/bin/containerfs ").unwrap().split(' ').collect();
            let mut command = env.command(&args);
            command.env_remove("OPENAI_API_KEY").env("NOTIFY_SOCKET", home.join("notify"));
            for variable in values("Environment") {
                let (name, value) = variable.split_once('=').unwrap();
                // The directories of the machine are no place for a test.
                if !value.starts_with("/var/") {
                    command.env(name, value);
                }
            }
            let mut child = command.spawn().unwrap();
            let told = |what: &str| {
                let mut message = [0; 200];
                loop {
                    let got =
                        notify.recv(&mut message).unwrap_or_else(|error| panic!("{name}: {what}: {error}"));
                    if message[..got].starts_with(what.as_bytes()) {
                        break;
                    }
                }
            };
            told("READY=1");
            assert_eq!(fs::read(mountpoint.join("c/f")).unwrap(), b"bytes", "{name}");
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
            told("STOPPING=1");
            assert!(child.wait().unwrap().success(), "{name}");
            assert!(!is_mounted(&mountpoint));
        }
    });
}

#[test]
fn systemd_finds_nothing_amiss_in_the_units() {
    if program_is_missing("systemd-analyze") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["system/containerfs@.service", "user/containerfs.service"] {
        let file = dir.path().join(Path::new(name).file_name().unwrap());
        let text = unit(name).replace("/usr/bin/containerfs", env!("CARGO_BIN_EXE_containerfs"));
        fs::write(&file, text).unwrap();
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("containerfs"), "{name}: {said}");
    }
}
