//! The flags of a mount, and where their values come from.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use containerfs::emulator::Kind::Upload;
use containerfs::emulator::{Config, Profile};

use crate::env::{Env, is_mounted, on_both_profiles, on_openai, wait_until};

#[test]
fn owner_group_and_modes_are_those_that_were_asked_for() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"x");
        // The owner stays who mounts, so that the test may look.
        let gid = 4321;
        let mount = env.mount(&["--gid", &gid.to_string(), "--umask", "027"]);
        for (path, mode) in [("c", 0o750), ("c/f", 0o640)] {
            let found = fs::metadata(mount.path(path)).unwrap();
            assert_eq!((found.gid(), found.mode() & 0o777), (gid, mode), "{path}");
        }
    });
}

#[test]
fn containers_that_mkdir_makes_are_as_asked_for() {
    on_both_profiles(|env| {
        let policy = r#"{"type":"allowlist","allowed_domains":["example.com"]}"#;
        let flags = ["--memory-limit", "4g", "--expires-after", "7m", "--network-policy", policy];
        let mount = env.mount(&flags);
        fs::create_dir(mount.path("new")).unwrap();
        let made = &env.store().containers()[0];
        assert_eq!((made.name.as_str(), made.memory_limit.as_str(), made.minutes), ("new", "4g", 7));
        assert_eq!(made.network_policy["allowed_domains"][0], "example.com");
    });
}

#[test]
fn a_longer_life_than_the_service_gives_is_refused_at_the_start() {
    on_openai(|env| {
        let dir = env.mountpoint();
        let output = env.command(&["mount", "--expires-after", "21m"]).arg(&dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("20"), "{said}");
        assert!(!is_mounted(&dir));
    });
}

#[test]
fn a_bare_mount_lists_and_one_with_flags_needs_a_mountpoint() {
    on_openai(|env| {
        let dir = env.mountpoint();
        let file = env.dir.path().join("config.toml");
        fs::write(&file, "ttl = '1s'\nread-only = true").unwrap();
        let run = |args: &[&str]| {
            let output = env.command(args).arg("--config").arg(&file).output().unwrap();
            (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(run(&["mount", "--log-level", "error"]).0, 0);
        for flags in [&["--read-only"][..], &["--demo"], &["--container", "foo"], &["-o", "ro"]] {
            let (code, said) = run(&[&["mount"], flags].concat());
            assert!(code == 2 && said.contains("MOUNTPOINT is missing"), "{flags:?}: {code} {said}");
        }
        let (code, said) = run(&["mount", "-o", "state-dir", dir.to_str().unwrap()]);
        assert!(code == 2 && said.contains("-o state-dir needs a value"), "{code} {said}");
        assert!(!is_mounted(&dir));
    });
}

#[test]
fn an_empty_variable_counts_as_unset() {
    on_openai(|env| {
        let id = env.container("c");
        let names = [
            "OPENAI_API_KEY_FILE",
            "OPENAI_ORG_ID",
            "OPENAI_PROJECT_ID",
            "CONTAINERFS_LOG_FORMAT",
            "CONTAINERFS_LOG_LEVEL",
            "CONTAINERFS_INSECURE_HTTP",
            "CONTAINERFS_CONFIG",
            "CONTAINERFS_CONFIG_PROFILE",
            "CONTAINERFS_STATE_DIR",
            "CONTAINERFS_CACHE_DIR",
        ];
        let home = env.dir.path().join("home");
        fs::create_dir(&home).unwrap();
        for args in
            [&["containers", "list"][..], &["pending", "list"], &["mount"], &["containers", "retrieve", &id]]
        {
            let mut command = env.command(args);
            command.envs(names.map(|name| (name, ""))).env("HOME", &home);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    });
}

#[test]
fn options_of_fstab_hold_commas_that_belong_to_a_value() {
    on_openai(|env| {
        let dir = env.mountpoint();
        let policy = r#"network_policy={"type":"allowlist","allowed_domains":["a.com","b.com"]}"#;
        let command =
            env.command(&["containerfs", dir.to_str().unwrap(), "-o", policy, "-o", "foreground,dev"]);
        let mount = env.start(command, dir);
        fs::create_dir(mount.path("new")).unwrap();
        assert_eq!(env.store().containers()[0].network_policy["allowed_domains"][1], "b.com");
        assert_eq!(mount.unmount(env), (0, 0));

        // A name that a command has too.
        env.container("status");
        let dir = env.mountpoint();
        let mount = env.start(env.command(&["status", dir.to_str().unwrap(), "-o", "ro,foreground"]), dir);
        assert_eq!(mount.names(""), [""; 0]);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn options_of_mount_itself_are_ignored_and_a_remount_is_refused() {
    on_openai(|env| {
        env.container("c");
        let dir = env.mountpoint();
        let options = "defaults,rw,auto,noauto,nofail,_netdev,_rnetdev,user,user=me,nouser,users,nousers,owner,noowner,\
            group,nogroup,comment=why,uhelper=udisks2,x-systemd.automount,x-gvfs-name=a,X-mount.mkdir,dev,nodev,suid,\
            nosuid,exec,noexec,symfollow,nosymfollow,sync,async,dirsync,mand,nomand,iversion,noiversion,silent,loud,\
            atime,noatime,diratime,nodiratime,relatime,norelatime,strictatime,nostrictatime,lazytime,nolazytime,\
            foreground";
        let command = env.command(&["containerfs", dir.to_str().unwrap(), "-o", options]);
        let mount = env.start(command, dir);
        let again = |options| {
            let output =
                env.command(&["containerfs"]).arg(&mount.dir).args(["-o", options]).output().unwrap();
            (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, said) = again("ro,relatime,user_id=0,remount");
        assert!(code == 2 && said.contains("unmount it, and mount it anew"), "{code} {said}");
        fs::write(mount.path("c/f"), "written").unwrap();
        let (code, said) = again("nosuch");
        assert!(code == 2 && said.contains("--nosuch"), "{code} {said}");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn without_deleting_an_overwritten_version_stays() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&["--no-delete", "--ttl", "100ms"]);
        let changes = env.changes_of(|| fs::write(mount.path("c/f"), "newer").unwrap());
        assert_eq!(changes, [Upload]);
        assert_eq!(env.versions(&id, "f").len(), 2);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"newer");
        wait_until("both are shown", || mount.names("c").len() == 2);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"newer");
    });
}

#[test]
fn without_overwriting_new_files_are_still_made() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&["--no-overwrite"]);
        fs::write(mount.path("c/new"), "x").unwrap();
        assert_eq!(env.bytes_on_server(&id, "new"), b"x");
        assert!(fs::OpenOptions::new().append(true).open(mount.path("c/f")).is_err());
        assert!(fs::rename(mount.path("c/new"), mount.path("c/f")).is_err());
        assert_eq!(env.bytes_on_server(&id, "f"), b"old");
    });
}

#[test]
fn a_key_file_serves_and_an_empty_variable_is_none() {
    on_openai(|env| {
        env.container("c");
        let dir = env.mountpoint();
        let key = env.dir.path().join("key");
        fs::write(&key, "sk-from-a-file\n").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = env.command(&["mount", "--api-key-file"]);
        let output = command.arg(&key).arg(&dir).env("OPENAI_API_KEY", "").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(dir.join("c").is_dir());
        assert!(env.command(&["unmount"]).arg(&dir).status().unwrap().success());
        let output = env.command(&["mount"]).arg(&dir).env("OPENAI_API_KEY", " ").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no API key"));
    });
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_whose_profiles_beat_its_top() {
    on_openai(|env| {
        env.container("top");
        env.container("profile");
        env.container("flag");
        let config = env.dir.path().join("config.toml");
        let base_url = env.emulator.base_url();
        let text = format!(
            "base-url = \"{base_url}\"\ncontainer = \"top\"\n[profile.work]\ncontainer = \"profile\"\n"
        );
        fs::write(&config, text).unwrap();
        for (container, name) in [("top", "1"), ("profile", "2"), ("flag", "3")] {
            let id = env.store().containers().into_iter().find(|c| c.name == container).unwrap().id;
            env.store().put_upload(&id, name, b"x");
        }
        let dir = env.mountpoint();
        let cases: [(&[&str], &str); 3] = [
            (&[], "1"),
            (&["--config-profile", "work"], "2"),
            (&["--config-profile", "work", "--container", "flag"], "3"),
        ];
        for (flags, shown) in cases {
            let mut command = env.command(&["mount", "--config"]);
            let output =
                command.arg(&config).args(flags).arg(&dir).env_remove("OPENAI_BASE_URL").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, [shown], "{flags:?}");
            assert!(env.command(&["unmount"]).arg(&dir).status().unwrap().success());
        }
        fs::write(&config, "base-url = \"http://127.0.0.1:9/v1\"\n").unwrap();
        let output = env.command(&["mount", "--config"]).arg(&config).arg(&dir).output().unwrap();
        assert!(output.status.success(), "the environment beats the file");
        assert!(env.command(&["unmount"]).arg(&dir).status().unwrap().success());
    });
}

#[test]
fn a_flag_of_every_command_beats_the_file_wherever_it_is_typed() {
    let env = Env::of(Config::new(Profile::Openai));
    let config = env.dir.path().join("config.toml");
    fs::write(&config, "base-url = \"http://127.0.0.1:9/v1\"\nlog-level = \"error\"\n").unwrap();
    let flag = format!("--base-url={}", env.emulator.base_url());
    for place in 0..=2 {
        let mut args = vec!["containers", "list"];
        args.insert(place, &flag);
        let mut command = env.command(&args);
        command.env_remove("OPENAI_BASE_URL").env("CONTAINERFS_CONFIG", &config);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        // The environment loses as well, and still beats the file.
        let output = command.env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1").output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(env.emulator.requests().len(), 6);
}

#[test]
fn a_key_from_a_better_place_beats_one_in_a_file_that_is_named_elsewhere() {
    let mut server = Config::new(Profile::Openai);
    server.api_key = Some("sk-right".into());
    let env = Env::of(server);
    let path = |name: &str| env.dir.path().join(name).to_str().unwrap().to_owned();
    for (name, text) in [
        ("right", "sk-right"),
        ("wrong", "sk-wrong"),
        ("names-wrong.toml", &format!("api-key-file = {:?}", path("wrong"))),
        ("names-right.toml", &format!("api-key-file = {:?}", path("right"))),
        ("wrong.toml", "api-key = \"sk-wrong\""),
    ] {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (right, wrong) = (path("right"), path("wrong"));
    let (typed_right, typed_file) = ("--api-key=sk-right", format!("--api-key-file={right}"));
    // What the configuration file, the variables of key and of its file, and the command line say.
    let cases: [(&str, &str, &str, &[&str]); 8] = [
        ("names-wrong.toml", "", "", &[typed_right]),
        ("names-wrong.toml", "sk-right", "", &[]),
        ("wrong.toml", "", &right, &[]),
        ("names-right.toml", "", "", &[]),
        ("names-wrong.toml", "sk-wrong", &wrong, &[typed_right]),
        ("wrong.toml", "sk-wrong", &wrong, &[&typed_file]),
        ("wrong.toml", "sk-wrong", &right, &[]),
        ("wrong.toml", "sk-wrong", &wrong, &["--api-key=sk-wrong", &typed_file]),
    ];
    for case in cases {
        let (config, key, file, flags) = case;
        let mut command = env.command(&["containers", "list"]);
        command.args(flags).env("CONTAINERFS_CONFIG", path(config));
        command.env("OPENAI_API_KEY", key).env("OPENAI_API_KEY_FILE", file);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{case:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_kernel_without_fuse_is_told_with_what_to_do() {
    if !nix::unistd::geteuid().is_root() || crate::env::program_is_missing("unshare") {
        eprintln!("\n*** SKIPPED: hiding /dev/fuse from a process takes root and unshare ***\n");
        assert!(std::env::var_os("CI").is_none() || !nix::unistd::geteuid().is_root());
        return;
    }
    on_openai(|env| {
        let dir = env.mountpoint();
        let hidden = env.dir.path().join("dev");
        fs::create_dir(&hidden).unwrap();
        let script = "mount --bind \"$0\" /dev && exec \"$@\"";
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "sh", "-c", script]).arg(&hidden);
        command.arg(env!("CARGO_BIN_EXE_containerfs")).args(["mount", "--foreground"]).arg(&dir);
        command.env("OPENAI_API_KEY", "sk-test").env("OPENAI_BASE_URL", env.emulator.base_url());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("/dev/fuse") && said.contains("modprobe"), "{said}");
        assert!(!is_mounted(&dir));
    });
}

#[test]
fn the_configuration_file_holds_the_flags_of_grouped_commands_too() {
    let env = Env::of(Config::new(Profile::Openai));
    let config = env.dir.path().join("flags.toml");
    std::fs::write(&config, "format = \"jsonl\"\nlimit = 2\nname = \"list\"\n").unwrap();
    for name in ["list", "other", "list", "list"] {
        env.container(name);
    }
    let output = env.command(&["containers", "list", "--config"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.lines().count() > 0 && printed.lines().all(|line| line.contains("\"list\"")),
        "{printed}"
    );
    assert!(env.emulator.requests().iter().all(|request| request.query.contains("limit=2")));
}
