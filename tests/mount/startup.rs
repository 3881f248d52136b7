//! How a mount begins and ends.

use std::fs;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use containerfs::emulator::{Config, Fault, Kind, Profile};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{Env, fuse_is_missing, is_mounted, noise, on_openai, sha256, wait_until};

/// What `mount` says when it must fail: exit 1, nothing mounted, the key in no output.
fn refused(env: &Env, output: &Output, expected: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in expected {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    assert!(!said.contains("sk-wrong") && !said.contains("sk-test"), "{said}");
    assert!(!is_mounted(&env.mountpoint()));
}

#[test]
fn a_wrong_key_is_told_on_the_callers_terminal() {
    if fuse_is_missing() {
        return;
    }
    let mut config = Config::new(Profile::Openai);
    config.api_key = Some("sk-right".to_owned().into());
    let env = Env::of(config);
    let dir = env.mountpoint();
    for foreground in [true, false] {
        let mut command = env.command(&["mount"]);
        command.env("OPENAI_API_KEY", "sk-wrong-0123456789");
        if foreground {
            command.arg("--foreground");
        }
        let output = command.arg(&dir).output().unwrap();
        refused(&env, &output, &["key", "OPENAI_API_KEY"]);
    }
    let traces = String::from_utf8_lossy(&env.traces()).into_owned();
    assert!(!traces.contains("sk-wrong"), "{traces}");
}

#[test]
fn what_is_missing_is_told_with_what_to_do() {
    on_openai(|env| {
        let dir = env.mountpoint();
        let output = env.command(&["mount"]).arg(&dir).env_remove("OPENAI_API_KEY").output().unwrap();
        refused(env, &output, &["no API key", "OPENAI_API_KEY", "--api-key-file"]);

        let absent = dir.join("absent");
        let output = env.command(&["mount"]).arg(&absent).output().unwrap();
        refused(env, &output, &["does not exist", "mkdir"]);

        fs::write(dir.join("something"), "").unwrap();
        let output = env.command(&["mount"]).arg(&dir).output().unwrap();
        refused(env, &output, &["not empty"]);
        let output = env.command(&["mount"]).arg(dir.join("something")).output().unwrap();
        refused(env, &output, &["not a directory"]);
        fs::remove_file(dir.join("something")).unwrap();

        let output = env
            .command(&["mount"])
            .arg(&dir)
            .env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
            .output()
            .unwrap();
        refused(env, &output, &["cannot reach", "127.0.0.1:9"]);
        let output =
            env.command(&["mount"]).arg(&dir).env("OPENAI_BASE_URL", "http://10.1.2.3/v1").output().unwrap();
        refused(env, &output, &["--insecure-http"]);
        let output = env.command(&["mount", "--container", "absent"]).arg(&dir).output().unwrap();
        refused(env, &output, &["absent", "containers list"]);
        let output = env.command(&["mount", "--state-dir", "/proc/state"]).arg(&dir).output().unwrap();
        refused(env, &output, &["/proc/state", "--state-dir"]);
        let output = env.command(&["mount", "--cache-dir", "/proc/cache"]).arg(&dir).output().unwrap();
        refused(env, &output, &["/proc/cache", "--cache-dir"]);
        let output = env.command(&["mount"]).arg(&dir).env("OPENAI_BASE_URL", "foo").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("foo") && said.contains("https://api.openai.com/v1"), "{said}");
        assert!(output.status.code() == Some(2) && !is_mounted(&dir), "{said}");
        let output = env.command(&["mount", "--nonsense"]).arg(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    });
}

#[test]
fn a_mount_goes_to_the_background_and_unmount_ends_it() {
    on_openai(|env| {
        let id = env.container("c");
        let dir = env.mountpoint();
        let output = env.command(&["mount"]).arg(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(dir.join("c").is_dir(), "it answers when the command returns");
        let again = env.command(&["mount"]).arg(&dir).output().unwrap();
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&again.stderr).contains("already"));

        let status = env.command(&["status", "--json"]).arg(&dir).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!(status[0]["server"], env.emulator.base_url());
        assert_eq!(status[0]["mountpoint"], dir.to_str().unwrap());

        fs::write(dir.join("c/f"), "x").unwrap();
        let output = env.command(&["unmount"]).arg(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!is_mounted(&dir));
        assert_eq!(env.bytes_on_server(&id, "f"), b"x");
        let output = env.command(&["unmount"]).arg(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
    });
}

#[test]
fn a_mount_does_not_go_into_a_mount() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let inside = mount.path("c/d");
        fs::create_dir(&inside).unwrap();
        for command in ["mount", "unmount"] {
            let output = env.command(&[command]).arg(&inside).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("lies in the") && said.contains(mount.dir.to_str().unwrap()), "{said}");
        }
    });
}

#[test]
fn state_and_cache_do_not_go_into_the_mountpoint() {
    on_openai(|env| {
        let dir = env.mountpoint();
        let (link, dangling) = (env.dir.path().join("link"), env.dir.path().join("dangling"));
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        std::os::unix::fs::symlink("mnt/made/later", &dangling).unwrap();
        let inside = [dir.clone(), dir.join("a/b"), dir.join("../mnt/a"), link.join("a"), dangling];
        for flag in ["--state-dir", "--cache-dir"] {
            for place in &inside {
                for foreground in [true, false] {
                    let mut command = env.command(&["mount", flag]);
                    command.arg(place).args(foreground.then_some("--foreground")).arg(&dir);
                    refused(env, &command.output().unwrap(), &[flag, "lies in the mountpoint"]);
                    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing was made there");
                }
            }
        }
        let beside = env.dir.path().join("mnt2");
        let mount = env.mount(&["--state-dir", beside.to_str().unwrap()]);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn the_form_of_fstab_mounts() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"x");
        let dir = env.mountpoint();
        for (source, file) in [("containerfs", "c/f"), ("c", "f")] {
            let mut command = env.command(&[source]);
            let output = command.arg(&dir).args(["-o", "rw,dev,suid,_netdev,ttl=1s,ro"]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(fs::read(dir.join(file)).unwrap(), b"x");
            assert!(fs::write(dir.join(file), "y").is_err(), "ro");
            assert!(env.command(&["unmount"]).arg(&dir).status().unwrap().success());
        }
    });
}

#[test]
fn a_killed_daemons_mountpoint_is_cleared_by_the_next_mount() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"x");
        let mut mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["f"]);
        mount.kill();
        assert_eq!(
            fs::read_dir(env.dir.path().join("mnt")).unwrap_err().raw_os_error(),
            Some(libc::ENOTCONN)
        );
        let dir = env.dir.path().join("mnt");
        let output = env.command(&["mount"]).arg(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read(dir.join("c/f")).unwrap(), b"x");
        assert!(env.command(&["unmount"]).arg(&dir).status().unwrap().success());
        assert!(!is_mounted(&dir));
        std::mem::drop(mount);
    });
}

#[test]
fn an_unmount_from_outside_loses_nothing() {
    on_openai(|env| {
        let id = env.container("c");
        let mut mount = env.mount(&[]);
        env.emulator.set_latency(Duration::from_millis(200));
        mount.sh("c", "touch a b; (echo late; sleep 0.1) > d");
        assert!(std::process::Command::new("umount").arg(&mount.dir).status().unwrap().success());
        assert_eq!(mount.wait(), 0);
        let mut names: Vec<String> = env.store().files(&id).into_iter().map(|file| file.path).collect();
        names.sort_by_key(|path| path.chars().next_back());
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(env.bytes_on_server(&id, "d"), b"late\n");
    });
}

#[test]
fn sigterm_drains_what_is_open() {
    on_openai(|env| {
        let id = env.container("c");
        let mut mount = env.mount(&[]);
        let mut file = fs::File::create(mount.path("c/f")).unwrap();
        std::io::Write::write_all(&mut file, &noise(100_000)).unwrap();
        kill(Pid::from_raw(mount.pid()), Signal::SIGTERM).unwrap();
        assert_eq!(mount.wait(), 0);
        drop(file);
        assert_eq!(sha256(&env.bytes_on_server(&id, "f")), sha256(&noise(100_000)));
        wait_until("the mount goes", || !is_mounted(&mount.dir));
        drop(mount);
        assert_eq!(env.mount(&[]).unmount(env), (0, 0), "it is not taken for unfinished");
    });
}

#[test]
fn what_could_not_be_sent_is_kept_and_sent_by_the_next_mount() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--timeout", "1s", "--drain-timeout", "2s"]);
        env.inject(Kind::Upload, Fault::Status { code: 500, body: None, headers: Default::default() });
        assert!(crate::env::save(&mount.path("c/f"), b"precious").is_err());
        assert_eq!(mount.unmount(env), (3, 3));
        assert!(env.store().files(&id).is_empty());
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"precious", "shown at once");
        wait_until("it is sent", || env.versions(&id, "f").len() == 1);
        assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn systemd_is_told_when_the_mount_answers_and_when_it_ends() {
    on_openai(|env| {
        let path = env.dir.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(crate::env::PATIENCE)).unwrap();
        let mut message = [0; 64];
        let mut next = || {
            let got = socket.recv(&mut message).unwrap();
            String::from_utf8_lossy(&message[..got]).trim().to_owned()
        };
        let dir = env.mountpoint();
        let mut command = env.command(&["mount", "--foreground"]);
        let mut child = command.arg(&dir).env("NOTIFY_SOCKET", &path).spawn().unwrap();
        assert_eq!(next(), "READY=1");
        assert_eq!(next(), format!("STATUS=serving {}", env.emulator.base_url()));
        assert!(is_mounted(&dir));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(next(), "STOPPING=1");
        assert_eq!(next(), "EXTEND_TIMEOUT_USEC=65000000", "as long as it drains, and a little more");
        assert!(next().starts_with("STATUS=uploading"));
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn the_demo_needs_nothing() {
    on_openai(|env| {
        let dir = env.dir.path().join("made/by/demo");
        let mut command = env.command(&["mount", "--demo"]);
        let command = command.arg(&dir).env_remove("OPENAI_API_KEY").env_remove("OPENAI_BASE_URL");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.len() >= 2 && names.iter().any(|name| name == "auto"), "{names:?}");
        let chart = fs::read(dir.join("quarterly-report/chart.png")).unwrap();
        assert!(chart.starts_with(b"\x89PNG"));
        fs::write(dir.join("auto/note.txt"), "hi").unwrap();
        assert_eq!(fs::read(dir.join("auto/note.txt")).unwrap(), b"hi");
        assert!(env.command(&["unmount"]).arg(&dir).status().unwrap().success());
        for kept in ["state", "cache"] {
            assert!(!env.dir.path().join(kept).exists(), "a demo keeps nothing, no log either");
        }
    });
}

#[test]
fn completions_and_the_manual_page_are_printed() {
    let run = |args: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_containerfs")).args(args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("content-ttl"));
    }
    assert!(run(&["man"]).contains(".TH"));
}

#[test]
fn a_start_that_is_interrupted_ends_and_mounts_nothing() {
    on_openai(|env| {
        env.container("c");
        let dir = env.mountpoint();
        for flags in [&["mount", "--foreground"][..], &["mount"]] {
            for signal in [Signal::SIGINT, Signal::SIGTERM] {
                env.emulator.forget_requests();
                env.inject(Kind::ListContainers, Fault::HangBefore);
                let mut command = env.command(flags);
                let child = command.arg(&dir).stderr(Stdio::piped()).spawn().unwrap();
                wait_until("it waits for the server", || env.count(Kind::ListContainers) > 0);
                let begun = Instant::now();
                kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
                // The pipe ends with the last process that has it, the one in the background too.
                let output = child.wait_with_output().unwrap();
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "{flags:?} {signal}: {:?}",
                    begun.elapsed()
                );
                refused(env, &output, &["interrupted"]);
                env.emulator.faults().clear();
            }
        }
        assert_eq!(env.mount(&[]).unmount(env), (0, 0), "nothing is in its way");
    });
}

#[test]
fn a_mount_waits_for_one_that_still_uploads_and_says_so() {
    on_openai(|env| {
        let id = env.container("c");
        let mut old = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        fs::write(old.path("c/f"), "precious").unwrap();
        env.emulator.set_latency(Duration::from_millis(700));
        assert!(std::process::Command::new("umount").arg(&old.dir).status().unwrap().success());
        let other = env.dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let output = env.command(&["mount"]).arg(&other).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("still uploading"), "{said}");
        assert_eq!(old.wait(), 0, "it has ended by now");
        assert_eq!(fs::read(other.join("c/f")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(other.join("c")).unwrap().count(), 1);
        assert!(env.command(&["unmount"]).arg(&other).status().unwrap().success());
        assert_eq!(env.versions(&id, "f").len(), 1);
    });
}

#[test]
fn a_mountpoint_whose_mount_is_ending_is_waited_for() {
    on_openai(|env| {
        env.container("c");
        let mut old = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        fs::write(old.path("c/f"), "precious").unwrap();
        env.emulator.set_latency(Duration::from_millis(700));
        let mut unmount = env.command(&["unmount"]).arg(&old.dir).spawn().unwrap();
        wait_until("it is ending", || {
            let status = env.command(&["status", "--json"]).arg(&old.dir).output().unwrap();
            String::from_utf8_lossy(&status.stdout).contains("\"ending\": true")
        });
        let output = env.command(&["mount"]).arg(&old.dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("still uploading"), "{said}");
        assert!(unmount.wait().unwrap().success());
        assert_eq!(old.wait(), 0);
        assert_eq!(fs::read(old.path("c/f")).unwrap(), b"precious");
        assert!(env.command(&["unmount"]).arg(&old.dir).status().unwrap().success());
    });
}
