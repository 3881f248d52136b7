//! Other users of the machine: what they can ask, plant and look into.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use containerfs::emulator::{Fault, Kind};
use containerfs::fuse::mounts;

use crate::env::{Env, Mount, is_missing, is_mounted, on_openai, save, wait_until};

/// Nobody in particular.
const STRANGER: u32 = 65534;

fn not_root() -> bool {
    is_missing("root, to become somebody else", !nix::unistd::geteuid().is_root())
}

/// The control socket of a mount of root.
fn socket_of(mount: &Mount) -> PathBuf {
    let (major, minor) = mounts::topmost_at(&mount.dir.canonicalize().unwrap()).unwrap().unwrap().device;
    PathBuf::from(format!("/run/containerfs/{major}-{minor}.sock"))
}

/// Asks for the status; what comes back before the end of the connection.
fn ask(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    let mut answer = String::new();
    // Who is not heard finds the connection closed at any of these steps.
    let _ = stream.write_all(b"{\"ask\":\"status\"}\n").and_then(|()| stream.read_to_string(&mut answer));
    Ok(answer)
}

/// The same as somebody else: a thread of its own has another user id.
fn ask_as_a_stranger(socket: &Path) -> std::io::Result<String> {
    std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            let id = rustix::process::Uid::from_raw(STRANGER);
            rustix::thread::set_thread_res_uid(id, id, id).unwrap();
            ask(socket)
        });
        stranger.join().unwrap()
    })
}

/// A mount of somebody without rights, through fusermount3, in a mount namespace where everybody may open
/// `/dev/fuse`.
struct Stranger {
    daemon: Child,
    dir: PathBuf,
    log: PathBuf,
}

impl Stranger {
    /// Mounts with `tmp` for temporary files; nothing if this machine does not let us.
    fn mounts(env: &Env, tmp: &Path) -> Option<Self> {
        Self::mounts_with(env, tmp, &[])
    }

    fn mounts_with(env: &Env, tmp: &Path, flags: &[&str]) -> Option<Self> {
        let programs = ["fusermount3", "unshare", "nsenter", "setpriv"];
        if not_root() || programs.into_iter().any(crate::env::program_is_missing) {
            return None;
        }
        let (dir, device) = (env.mountpoint(), env.dir.path().join("device"));
        fs::create_dir_all(&device).unwrap();
        for dir in [env.dir.path(), &dir] {
            nix::unistd::chown(dir, Some(nix::unistd::Uid::from_raw(STRANGER)), None).unwrap();
        }
        let script = "mount -t tmpfs -o mode=755,dev device \"$0\" && mknod -m 666 \"$0/fuse\" c 10 229 && \
                      mount --bind \"$0/fuse\" /dev/fuse && \
                      exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
        let asked = env.command(&[&["mount", "--foreground"], flags].concat());
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(&device).arg(asked.get_program()).args(asked.get_args());
        command.arg(&dir).envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", tmp);
        let log = env.dir.path().join("log");
        let mut daemon = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        wait_until("the mount answers", || {
            assert!(daemon.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&log).unwrap());
            let table = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap_or_default();
            let at = format!(" {} ", dir.display());
            table.lines().any(|line| line.contains(&at) && line.contains("fuse.containerfs"))
        });
        Some(Self { daemon, dir, log })
    }

    /// What a shell of the same user prints.
    fn sh(&self, env: &Env, tmp: &Path, script: &str) -> String {
        let mut shell = Command::new("nsenter");
        shell.args([
            "-m",
            "-t",
            &self.daemon.id().to_string(),
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
        ]);
        shell
            .args(["--clear-groups", "sh", "-c", script])
            .arg(&self.dir)
            .arg(env!("CARGO_BIN_EXE_containerfs"));
        shell.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", tmp).current_dir("/");
        let output = shell.env("XDG_CONFIG_HOME", env.dir.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {stderr}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// `unmount` by root, with an environment that says nothing of this user's.
    fn unmount_by_root(&self, flags: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.daemon.id().to_string(), env!("CARGO_BIN_EXE_containerfs")]);
        command.arg("unmount").args(flags).arg(&self.dir).env_remove("XDG_RUNTIME_DIR").env_remove("TMPDIR");
        let output = command.current_dir("/").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // The mount goes with its namespace.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The one directory of an account below `base`.
fn account(env: &Env, base: &str) -> PathBuf {
    let mut entries = fs::read_dir(env.dir.path().join(base)).unwrap();
    entries.find_map(|entry| Some(entry.unwrap().path()).filter(|path| path.is_dir())).unwrap()
}

#[test]
fn the_control_socket_answers_its_user_and_root_and_nobody_else() {
    if not_root() {
        return;
    }
    on_openai(|env| {
        let mount = env.mount(&[]);
        let socket = socket_of(&mount);
        wait_until("the socket is there", || socket.exists());
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        wait_until("it is private", || mode(&socket) == 0o600);
        assert_eq!(mode(socket.parent().unwrap()), 0o700);
        assert_eq!(ask_as_a_stranger(&socket).unwrap_err().raw_os_error(), Some(libc::EACCES));
        // Past the modes, the kernel's word for who asks is left.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        let held = rustix::fs::open(&socket, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let past = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        assert!(ask(&past).unwrap().contains("mountpoint") || ask(&past).unwrap().contains("server"));
        assert_eq!(ask_as_a_stranger(&past).unwrap(), "");
        assert!(mount.log().contains("knocked"), "{}", mount.log());
    });
}

#[test]
fn a_control_socket_that_was_out_of_descriptors_is_heard_again() {
    if not_root() {
        return;
    }
    on_openai(|env| {
        let mount = env.mount(&[]);
        let socket = socket_of(&mount);
        wait_until("the socket answers", || ask(&socket).is_ok_and(|told| told.contains("server")));
        // Whoever answers has all the descriptors that it begins with.
        assert!(mount.names("").is_empty());
        let limit = |limit| {
            let daemon = rustix::process::Pid::from_raw(mount.pid());
            rustix::process::prlimit(daemon, rustix::process::Resource::Nofile, limit).unwrap()
        };
        let open = fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap().count() as u64;
        let ours = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let before = limit(rustix::process::Rlimit { current: Some(open), ..ours });
        let waiting: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket)).collect();
        wait_until("nobody is heard", || mount.log().contains("nobody is heard"));
        drop(waiting);
        limit(before);
        wait_until("the next one is heard", || ask(&socket).is_ok_and(|told| told.contains("server")));
    });
}

#[test]
fn a_killed_daemon_leaves_no_memory_behind() {
    on_openai(|env| {
        env.container("c");
        // A shell has what it starts in the background ignore SIGQUIT.
        for signal in ["ABRT", "TRAP"] {
            let dir = env.mountpoint();
            let mut daemon = env.command(&["mount", "--foreground"]).arg(&dir).spawn().unwrap();
            wait_until("the mount answers", || is_mounted(&dir));
            let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().rev().nth(1), Some("0"), "{core}");
            let sent = Command::new("kill").args(["-s", signal, &daemon.id().to_string()]).status().unwrap();
            assert!(sent.success());
            let ended = daemon.wait().unwrap();
            assert!(ended.signal().is_some() && !ended.core_dumped(), "{ended:?}");
            mounts::clear_stale(&dir).unwrap();
        }
    });
}

/// `/proc/PID` of a process that may be dumped belongs to its user, else to root. The mount goes through
/// fusermount3, and goes on working.
#[test]
fn nobody_of_the_same_user_looks_into_the_daemon() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let tmp = env.dir.path();
        let Some(mount) = Stranger::mounts(env, tmp) else { return };
        let file = |name: &str| format!("/proc/{}/{name}", mount.daemon.id());
        let status = fs::read_to_string(file("status")).unwrap();
        let user = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        assert_eq!(user.split_whitespace().nth(1), Some("65534"));
        for name in ["environ", "mem"] {
            assert_eq!(fs::metadata(file(name)).unwrap().uid(), 0, "{name}");
        }
        let read = mount.sh(env, tmp, "cd \"$0\" && cat c/f && echo more > c/g && cat c/g");
        assert_eq!(read, "bytesmore\n");
        let told = mount.sh(env, tmp, "\"$1\" status \"$0\" && \"$1\" unmount \"$0\"");
        assert!(told.contains("list files"), "{told}");
        assert_eq!(env.bytes_on_server(&id, "g"), b"more\n");
    });
}

/// Tries to mount; what it says when it does not.
fn refusal(env: &Env) -> String {
    let dir = env.mountpoint();
    let output = env.command(&["mount"]).arg(&dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "it must not mount");
    assert!(!is_mounted(&dir));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_link_that_was_planted_in_the_state_is_not_followed() {
    on_openai(|env| {
        env.container("c");
        assert_eq!(env.mount(&[]).unmount(env), (0, 0));
        let account = account(env, "state");
        let (victim, empty) = (env.dir.path().join("victim"), env.dir.path().join("empty"));
        fs::write(&victim, "precious").unwrap();
        fs::create_dir(&empty).unwrap();
        let log = env.dir.path().join("state/containerfs.log");
        let places = [
            (account.join("records.jsonl"), &victim),
            (account.join("journal"), &empty),
            (log, &victim),
            (account.clone(), &empty),
        ];
        for (place, target) in places {
            let aside = env.dir.path().join("aside");
            let had = fs::rename(&place, &aside).is_ok();
            symlink(target, &place).unwrap();
            let said = refusal(env);
            assert!(said.contains("symbolic link"), "{}: {said}", place.display());
            // A second name of somebody's file is no better.
            fs::remove_file(&place).unwrap();
            if target.is_file() {
                fs::hard_link(target, &place).unwrap();
                let said = refusal(env);
                assert!(said.contains("another name"), "{}: {said}", place.display());
                fs::remove_file(&place).unwrap();
            }
            if had {
                fs::rename(&aside, &place).unwrap();
            }
        }
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
        assert_eq!(env.mount(&[]).unmount(env), (0, 0));
    });
}

#[test]
fn a_link_in_the_place_of_unsent_bytes_sends_nobodys_file() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&["--timeout", "2s"]);
        env.status_fault(Kind::Upload, 503);
        assert!(save(&mount.path("c/f"), b"mine").is_err());
        assert_eq!(mount.unmount(env).1, 3);
        env.emulator.faults().clear();
        let victim = env.dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let journal = account(env, "state").join("journal");
        let own = fs::read_dir(journal).unwrap().next().unwrap().unwrap().path();
        let staged = fs::read_dir(own).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
        let data = staged.unwrap().join("data");
        fs::remove_file(&data).unwrap();
        symlink(&victim, &data).unwrap();
        let saved = env.dir.path().join("saved");
        let output = env.command(&["pending", "save"]).arg(&saved).output().unwrap();
        assert!(!String::from_utf8_lossy(&output.stdout).contains("precious"));
        let changes = env.changes_of(|| {
            let mount = env.mount(&[]);
            assert!(mount.names("c").is_empty(), "{:?}", mount.names("c"));
            wait_until("it is told", || mount.log().contains("symbolic link"));
            mount.unmount(env);
        });
        assert_eq!(changes, []);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(!fs::exists(saved.join("c/f")).unwrap());
    });
}

#[test]
fn a_link_in_the_place_of_a_cached_file_is_neither_read_nor_written_through() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"the right bytes");
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"the right bytes");
        assert_eq!(mount.unmount(env), (0, 0));
        let files = account(env, "cache").join("files");
        let entry = fs::read_dir(&files).unwrap().next().unwrap().unwrap().path();
        let victim = env.dir.path().join("victim");
        fs::write(&victim, "the wrong bytes").unwrap();
        for hard in [false, true] {
            fs::remove_file(&entry).unwrap();
            if hard {
                fs::hard_link(&victim, &entry).unwrap();
            } else {
                symlink(&victim, &entry).unwrap();
            }
            let mount = env.mount(&[]);
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"the right bytes");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(fs::read(&victim).unwrap(), b"the wrong bytes");
            assert_eq!(fs::read(&entry).unwrap(), b"the right bytes");
        }
    });
}

#[test]
fn directories_that_others_have_a_say_in_are_refused_and_ours_are_closed() {
    on_openai(|env| {
        env.container("c");
        assert_eq!(env.mount(&[]).unmount(env), (0, 0));
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for base in ["state", "cache"] {
            let base = env.dir.path().join(base);
            set(&base, 0o777);
            let said = refusal(env);
            assert!(said.contains("others can write") && said.contains("chmod go-w"), "{said}");
            set(&base, 0o700);
            let account = account(env, base.file_name().unwrap().to_str().unwrap());
            set(&account, 0o777);
            assert_eq!(env.mount(&[]).unmount(env), (0, 0));
            assert_eq!(fs::metadata(&account).unwrap().permissions().mode() & 0o777, 0o700);
            if nix::unistd::geteuid().is_root() {
                for theirs in [&base, &account] {
                    let stranger = nix::unistd::Uid::from_raw(STRANGER);
                    nix::unistd::chown(theirs, Some(stranger), None).unwrap();
                    let said = refusal(env);
                    assert!(said.contains("belongs to uid 65534"), "{said}");
                    nix::unistd::chown(theirs, Some(nix::unistd::geteuid()), None).unwrap();
                }
            }
        }
    });
}

/// The directory for the control socket, at a place where everybody can make one before us.
#[test]
fn no_socket_is_made_where_somebody_else_has_a_say() {
    on_openai(|env| {
        env.container("c");
        let (tmp, elsewhere) = (env.dir.path().join("tmp"), env.dir.path().join("elsewhere"));
        for dir in [&tmp, &elsewhere] {
            fs::create_dir(dir).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let place = tmp.join(format!("containerfs-{STRANGER}"));
        symlink(&elsewhere, &place).unwrap();
        let refused = |mount: &Stranger| mount.log().contains("cannot reach this mount");
        let Some(mount) = Stranger::mounts(env, &tmp) else { return };
        wait_until("it is told", || refused(&mount));
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        assert_eq!(mount.sh(env, &tmp, "ls \"$0\""), "c\n", "it serves all the same");
        drop(mount);
        // Root's, though everybody may write in it.
        fs::remove_file(&place).unwrap();
        fs::rename(&elsewhere, &place).unwrap();
        let mount = Stranger::mounts(env, &tmp).unwrap();
        wait_until("it is told", || refused(&mount));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        drop(mount);
        // Its own, with a link wherever the socket may come to lie.
        nix::unistd::chown(&place, Some(nix::unistd::Uid::from_raw(STRANGER)), None).unwrap();
        let victim = tmp.join("victim");
        for minor in 1..2000 {
            symlink(&victim, place.join(format!("0-{minor}.sock"))).unwrap();
        }
        let mount = Stranger::mounts(env, &tmp).unwrap();
        let socket = |entry: &fs::DirEntry| entry.file_type().unwrap().is_socket();
        wait_until("a socket is there", || {
            fs::read_dir(&place).unwrap().any(|entry| socket(&entry.unwrap()))
        });
        assert!(!victim.exists() && !refused(&mount));
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    });
}

#[test]
fn other_users_come_in_with_their_permissions_checked_and_never_with_setuid_or_devices() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"x");
        let dir = env.mountpoint();
        let flags: [&[&str]; 2] = [&["-o", "allow_other,suid,dev"], &["-o", "suid,dev"]];
        for flags in flags {
            let mut command = env.command(&["mount", "--foreground", "--umask", "077"]);
            command.args(flags).arg(&dir);
            let mount = env.start(command, dir.clone());
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let at = format!(" {} ", mount.dir.display());
            let line = table.lines().rfind(|line| line.contains(&at)).unwrap();
            let of_mount: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
            let of_filesystem: Vec<&str> = line.rsplit(' ').next().unwrap().split(',').collect();
            assert!(of_mount.contains(&"nosuid") && of_mount.contains(&"nodev"), "{line}");
            assert!(of_filesystem.contains(&"default_permissions"), "{line}");
            let others = flags[1].contains("allow_other");
            assert_eq!(of_filesystem.contains(&"allow_other"), others, "{line}");
            if nix::unistd::geteuid().is_root() {
                // Let in, and still not allowed to read what the umask hides; not let in at all without the
                // flag.
                let mut cat = Command::new("cat");
                cat.arg(mount.path("c/f")).current_dir("/");
                fs::set_permissions(env.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
                let said = cat.uid(STRANGER).gid(STRANGER).env("LC_ALL", "C").output().unwrap();
                assert!(String::from_utf8_lossy(&said.stderr).contains("Permission denied"), "{said:?}");
            }
            assert_eq!(mount.unmount(env), (0, 0));
        }
    });
}

#[test]
fn a_mount_in_the_place_of_one_of_the_same_user_stays_when_the_daemon_of_that_ends() {
    on_openai(|env| {
        env.container("c");
        let tmp = env.dir.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o777)).unwrap();
        let Some(mount) = Stranger::mounts(env, &tmp) else { return };
        let (pid, dir, url) = (mount.daemon.id(), env.dir.path().display(), env.emulator.base_url());
        // While it is stopped it cannot notice; its namespace is this shell's for as long as this needs it.
        let replaced = format!(
            "kill -STOP {pid} && fusermount3 -u \"$0\" && \
             OPENAI_API_KEY=sk-test OPENAI_BASE_URL={url} CONTAINERFS_STATE_DIR='{dir}/state2' \
             CONTAINERFS_CACHE_DIR='{dir}/cache2' \"$1\" mount \"$0\" && kill -CONT {pid} || exit 1; \
             until grep -q '^State:.Z' /proc/{pid}/status; do sleep 0.05; done; \
             ls \"$0\"; \"$1\" unmount \"$0\""
        );
        assert_eq!(mount.sh(env, &tmp, &replaced), "c\n");
    });
}

/// A mount of somebody else with a file that is not on the server, and stays here for now.
fn with_a_file_that_waits(env: &Env, tmp: &Path) -> Option<Stranger> {
    env.container("c");
    let mount = Stranger::mounts_with(env, tmp, &["--write-back", "--write-back-delay", "1h"])?;
    mount.sh(env, tmp, "echo precious > \"$0/c/f\"");
    env.inject(Kind::Upload, Fault::HangBefore);
    Some(mount)
}

#[test]
fn root_who_unmounts_somebody_elses_mount_is_told_what_is_left() {
    on_openai(|env| {
        // Where the socket of every user is that has no directory for such things; others may use it, too.
        let Some(mut mount) = with_a_file_that_waits(env, Path::new("/tmp")) else { return };
        let (code, told) = mount.unmount_by_root(&["--timeout", "1s"]);
        assert!(code == Some(3) && told.contains("  c/f: "), "{code:?}: {told}");
        assert_eq!(mount.daemon.wait().unwrap().code(), Some(3));
    });
}

#[test]
fn an_unmount_of_which_nobody_tells_the_outcome_is_no_success() {
    on_openai(|env| {
        let tmp = env.dir.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o777)).unwrap();
        let Some(mut mount) = with_a_file_that_waits(env, &tmp) else { return };
        let (code, told) = mount.unmount_by_root(&[]);
        assert!(code == Some(1) && told.contains("nobody knows"), "{code:?}: {told}");
        env.emulator.faults().clear();
        // What hangs on the server hangs until its time is over.
        let _ = mount.daemon.kill();
    });
}

/// What a directory of the user holds is his, links too: root follows none of them.
#[test]
fn root_does_not_speak_with_what_a_user_has_put_in_the_place_of_his_socket() {
    on_openai(|env| {
        let tmp = env.dir.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o777)).unwrap();
        let Some(mount) = with_a_file_that_waits(env, &tmp) else { return };
        let table = fs::read(format!("/proc/{}/mountinfo", mount.daemon.id())).unwrap();
        let table = String::from_utf8_lossy(&table);
        let at = format!(" {} ", mount.dir.display());
        let line = table.lines().find(|line| line.contains(&at)).unwrap();
        let name = format!("{}.sock", line.split(' ').nth(2).unwrap().replace(':', "-"));
        // Of root, and somebody else's business.
        let other = env.dir.path().join("other.sock");
        let listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
        let place = PathBuf::from(format!("/tmp/containerfs-{STRANGER}"));
        fs::create_dir_all(&place).unwrap();
        nix::unistd::chown(&place, Some(nix::unistd::Uid::from_raw(STRANGER)), None).unwrap();
        let _ = fs::remove_file(place.join(&name));
        symlink(&other, place.join(&name)).unwrap();
        let (code, told) = mount.unmount_by_root(&["--timeout", "1s"]);
        fs::remove_file(place.join(&name)).unwrap();
        assert!(code == Some(1) && told.contains("nobody knows"), "{code:?}: {told}");
        listener.set_nonblocking(true).unwrap();
        let mut heard = Vec::new();
        let mut came = listener.incoming().take_while(Result::is_ok).map(Result::unwrap).peekable();
        assert!(came.peek().is_some(), "the link was in its place");
        came.for_each(|mut stream| assert!(stream.read_to_end(&mut heard).is_ok()));
        assert_eq!(heard, b"");
    });
}
