//! What a person sees of an unmount: how far it is, and what is left.

use std::fs::File;
use std::io::Write;
use std::process::Output;
use std::time::{Duration, Instant};

use containerfs::emulator::{Fault, Kind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{
    Env, Mount, is_mounted, noise, on_both_profiles, on_openai, program_is_missing, save, wait_until,
};

const LONG: &[&str] = &["--write-back", "--write-back-delay", "1h"];

/// Three files of 12 MiB, more than sockets hold, that wait, and a server that takes its time with each.
fn waiting(env: &Env, bytes_per_second: u64) -> Mount {
    let mount = env.mount(LONG);
    for name in ["a", "b", "c"] {
        assert_eq!(save(&mount.path(&format!("box/{name}")), &noise(12 << 20)), Ok(()));
    }
    env.inject(Kind::Upload, Fault::Throttle { bytes_per_second });
    mount
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_terminal_sees_a_bar_with_files_bytes_and_the_time_that_is_left() {
    if program_is_missing("script") {
        return;
    }
    on_openai(|env| {
        let id = env.container("box");
        let mut mount = waiting(env, 8 << 20);
        let (seen, code) = env.on_a_terminal_with_code(&["unmount", mount.dir.to_str().unwrap()]);
        assert_eq!((code, mount.wait()), (0, 0));
        for word in ["uploading", "/3 files", "of 36.00 MiB", "░"] {
            assert!(seen.contains(word), "{word}: {seen:?}");
        }
        assert!(seen.contains("s left"), "{seen:?}");
        assert_eq!(env.store().files(&id).len(), 3);
    });
}

#[test]
fn a_file_sees_lines_and_no_control_characters() {
    on_openai(|env| {
        env.container("box");
        let mut mount = waiting(env, 8 << 20);
        let output = env.command(&["unmount"]).arg(&mount.dir).output().unwrap();
        assert_eq!((output.status.code(), mount.wait()), (Some(0), 0));
        let told = told(&output);
        assert!(told.starts_with("uploading: 0/3 files, ") && told.contains(" of 36.00 MiB"), "{told:?}");
        assert!(!told.contains('\u{1b}') && !told.contains('\r'), "{told:?}");
    });
}

#[test]
fn what_is_left_is_named_by_its_place_in_the_mount() {
    on_openai(|env| {
        let (one, other) = (env.container("one"), env.container("other"));
        let mount = env.mount(LONG);
        mount.sh("", "mkdir one/sub && echo 1 > one/sub/f && echo 2 > other/f");
        env.inject(Kind::Upload, Fault::HangBefore);
        let output = env.command(&["unmount", "--timeout", "500ms"]).arg(&mount.dir).output().unwrap();
        let told = told(&output);
        assert_eq!(output.status.code(), Some(3), "{told}");
        for line in ["kept for the next mount", "containerfs pending", "  one/sub/f: ", "  other/f: "] {
            assert!(told.contains(line), "{line}: {told}");
        }
        let listed = env.command(&["pending", "list"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.contains(&one) && listed.contains(&other), "{listed}");
    });
}

#[test]
fn force_waits_for_nothing() {
    on_openai(|env| {
        env.container("box");
        let mut mount = waiting(env, 64 << 10);
        let output = env.command(&["unmount", "--force"]).arg(&mount.dir).output().unwrap();
        let told = told(&output);
        // 12 MiB at 64 KiB/s would take minutes, and the mount waits as long by itself.
        assert_eq!((output.status.code(), mount.wait()), (Some(3), 3), "{told}");
        assert!(["box/a", "box/b", "box/c"].iter().all(|name| told.contains(name)), "{told}");
        assert!(!is_mounted(&mount.dir));
    });
}

#[test]
fn force_and_a_timeout_do_not_wait_for_who_waits_for_an_upload() {
    on_openai(|env| {
        let id = env.container("box");
        for flags in [&["--force"][..], &["--timeout", "500ms"]] {
            let mut mount = env.mount(&[]);
            env.emulator.forget_requests();
            env.inject(Kind::Upload, Fault::HangBefore);
            let file = mount.path("box/f");
            let saved = std::thread::spawn(move || save(&file, b"precious"));
            wait_until("the POST is under way", || env.count(Kind::Upload) == 1);
            let begun = Instant::now();
            let output = env.command(&["unmount"]).args(flags).arg(&mount.dir).output().unwrap();
            // The kernel is given five seconds for a mount that nobody waits in.
            assert!(begun.elapsed() < Duration::from_secs(4), "{flags:?}: {:?}", begun.elapsed());
            let told = told(&output);
            assert_eq!((output.status.code(), mount.wait()), (Some(3), 3), "{told}");
            assert!(told.contains("box/f"), "{told}");
            assert!(saved.join().unwrap().is_err(), "who waits is told");

            env.emulator.faults().clear();
            let mount = env.mount(&[]);
            assert_eq!(mount.sh("box", "cat f"), "precious");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
            env.store().delete_file(&id, &env.versions(&id, "f")[0].id);
        }
    });
}

#[test]
fn a_mount_in_the_foreground_says_why_it_does_not_end_and_a_second_signal_ends_it() {
    on_openai(|env| {
        env.container("box");
        let mut mount = waiting(env, 64 << 10);
        let pid = Pid::from_raw(mount.pid());
        kill(pid, Signal::SIGINT).unwrap();
        wait_until("it says so", || mount.log().contains("a second signal"));
        kill(pid, Signal::SIGINT).unwrap();
        assert_eq!(mount.wait(), 3);
        assert!(mount.log().contains("kept for the next mount"), "{}", mount.log());
    });
}

#[test]
fn a_demo_keeps_nothing_and_does_not_say_that_it_does() {
    on_openai(|env| {
        let dir = env.mountpoint();
        let flags = ["mount", "--foreground", "--demo", "--write-back", "--write-back-delay", "1h"];
        let mut mount = env.start(env.command(&[&flags[..], &[dir.to_str().unwrap()]].concat()), dir.clone());
        assert_eq!(save(&mount.path("auto/f"), b"x"), Ok(()));
        let output = env.command(&["unmount", "--force"]).arg(&dir).output().unwrap();
        assert_eq!((output.status.code(), mount.wait()), (Some(0), 0), "{}", told(&output));
        let told = told(&output) + &mount.log();
        assert!(!told.contains("kept") && !told.contains("not on the server"), "{told}");
    });
}

/// What was open makes the unmount a lazy one, and the daemon serves who has it for some seconds more.
#[test]
fn what_is_saved_through_a_descriptor_that_the_end_of_the_mount_has_left_open_is_not_lost() {
    on_both_profiles(|env| {
        for flags in [LONG, &[]] {
            let id = env.container("box");
            let mut mount = env.mount(flags);
            let mut log = File::options().create(true).append(true).open(mount.path("box/log")).unwrap();
            log.write_all(b"one\n").unwrap();
            log.sync_all().unwrap();
            let mut asked = env.command(&["unmount"]).arg(&mount.dir).spawn().unwrap();
            wait_until("it is unmounted", || !is_mounted(&mount.dir));
            log.write_all(b"two\n").unwrap();
            log.sync_all().unwrap();
            drop(log);
            mount.wait();
            asked.wait().unwrap();

            let mount = env.mount(&[]);
            assert_eq!(mount.sh("box", "cat log"), "one\ntwo\n", "{flags:?}");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "log"), b"one\ntwo\n");
            env.store().delete_container(&id);
        }
    });
}

#[test]
fn a_deletion_that_the_end_of_a_mount_does_not_wait_for_is_named_and_left_to_the_next() {
    let is_left = |env: &Env, mut mount: Mount, flags: &[&str], old: &str| {
        let output = env.command(&["unmount"]).args(flags).arg(&mount.dir).output().unwrap();
        let told = told(&output);
        assert_eq!((output.status.code(), mount.wait()), (Some(3), 3), "{flags:?}: {told}");
        assert!(told.contains(&format!("box/{old}")), "{told}");
        env.emulator.faults().clear();
        env.emulator.forget_requests();
    };
    on_openai(|env| {
        let id = env.container("box");
        let old = || env.versions(&id, "f").first().unwrap().id.clone();
        let next_has_newer = |text: &str| {
            let mount = env.mount(&[]);
            assert_eq!(
                (mount.names("box"), mount.sh("box", "cat f")),
                (vec!["f".to_owned()], text.to_owned())
            );
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "f"), text.as_bytes());
            assert_eq!(env.count(Kind::Upload), 0, "it has arrived already");
            assert_eq!(env.command(&["pending", "list"]).status().unwrap().code(), Some(0));
        };
        env.store().put_upload(&id, "f", b"old");
        for (number, flags) in [&["--force"][..], &["--timeout", "500ms"]].into_iter().enumerate() {
            // A program waits for the save.
            let text = format!("newer {number}");
            let mount = env.mount(&[]);
            env.emulator.forget_requests();
            env.inject(Kind::DeleteFile, Fault::HangBefore);
            let (replaced, file, bytes) = (old(), mount.path("box/f"), text.clone());
            let saved = std::thread::spawn(move || save(&file, bytes.as_bytes()));
            wait_until("the DELETE is under way", || env.count(Kind::DeleteFile) == 1);
            is_left(env, mount, flags, &replaced);
            assert!(saved.join().unwrap().is_err(), "who waits is told");
            next_has_newer(&text);
        }

        // The end of the mount itself saves.
        let mount = env.mount(LONG);
        assert_eq!(save(&mount.path("box/f"), b"newest"), Ok(()));
        env.inject(Kind::DeleteFile, Fault::HangBefore);
        is_left(env, mount, &["--timeout", "1s"], &old());
        next_has_newer("newest");

        // An unlink has its DELETE behind it.
        for flags in [&["--force"][..], &["--timeout", "500ms"]] {
            let mount = env.mount(LONG);
            env.inject(Kind::DeleteFile, Fault::HangBefore);
            std::fs::remove_file(mount.path("box/f")).unwrap();
            is_left(env, mount, flags, &old());
            let mount = env.mount(&[]);
            assert_eq!(mount.names("box"), [""; 0]);
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.versions(&id, "f").len(), 0);
            env.store().put_upload(&id, "f", b"another");
        }
    });
}
