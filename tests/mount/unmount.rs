//! What a person sees of an unmount: how far it is, and what is left.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use containerfs::emulator::{Fault, Kind};
use containerfs::fuse::mounts;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{
    Env, Mount, PATIENCE, is_missing, is_mounted, noise, on_openai, program_is_missing, save, wait_until,
};

/// Three files of 12 MiB, more than sockets hold, that wait, and a server that takes its time with each.
fn waiting(env: &Env, bytes_per_second: u64) -> Mount {
    let mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
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
        let mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
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
fn who_has_less_patience_ends_the_wait_of_all_and_they_are_told_the_same() {
    for flags in [&["--force"][..], &["--timeout", "500ms"]] {
        for by_signal in [false, true] {
            on_openai(|env| {
                env.container("box");
                // For minutes, if nobody were in a hurry.
                let mut mount = waiting(env, 64 << 10);
                let mut patient = env.command(&["unmount", "--timeout", "1h"]);
                let patient = patient.arg(&mount.dir).stderr(Stdio::piped());
                let patient = if by_signal {
                    kill(Pid::from_raw(mount.pid()), Signal::SIGTERM).unwrap();
                    None
                } else {
                    Some(patient.spawn().unwrap())
                };
                wait_until("it is ending", || {
                    let status = env.command(&["status", "--json"]).arg(&mount.dir).output().unwrap();
                    String::from_utf8_lossy(&status.stdout).contains("\"ending\": true")
                });
                let begun = Instant::now();
                let hasty = env.command(&["unmount"]).args(flags).arg(&mount.dir).output().unwrap();
                assert!(begun.elapsed() < Duration::from_secs(8), "{flags:?}: {:?}", begun.elapsed());
                assert_eq!(mount.wait(), 3);
                let outputs = [Some(hasty), patient.map(|child| child.wait_with_output().unwrap())];
                for output in outputs.into_iter().flatten() {
                    let told = told(&output);
                    assert_eq!(output.status.code(), Some(3), "{told}");
                    assert!(["box/a", "box/b", "box/c"].iter().all(|name| told.contains(name)), "{told}");
                }
            });
        }
    }
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

/// Mounts a tmpfs on `dir` that has the number which `device` had; returns whether there was one to be had.
fn mount_with_its_number(env: &Env, dir: &Path, device: (u32, u32)) -> bool {
    let umount = |at: &Path| nix::mount::umount(at).unwrap_or_default();
    // The kernel gives the lowest that is free; others run beside this test and let go of some.
    for n in 0..16 {
        let at = env.dir.path().join(format!("tmpfs{n}"));
        std::fs::create_dir_all(&at).unwrap();
        mount(Some("t"), &at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let found = mounts::topmost_at(&at).unwrap().unwrap().device == device;
        if found {
            mount(Some(&at), dir, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        if found || n == 15 {
            (0..=n).for_each(|n| umount(&env.dir.path().join(format!("tmpfs{n}"))));
            return found;
        }
    }
    false
}

#[test]
fn what_has_taken_the_place_of_a_mount_stays_when_its_daemon_ends() {
    if is_missing("root, to mount", !nix::unistd::geteuid().is_root()) {
        return;
    }
    on_openai(|env| {
        env.container("box");
        let mut has_been_seen = false;
        for _ in 0..10 {
            let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h", "--drain-timeout", "1s"]);
            assert_eq!(save(&mount.path("box/f"), b"x"), Ok(()));
            env.inject(Kind::Upload, Fault::HangBefore);
            let device = mounts::topmost_at(&mount.dir).unwrap().unwrap().device;
            nix::mount::umount(&mount.dir).unwrap();
            let has_its_number = mount_with_its_number(env, &mount.dir, device);
            assert_eq!(mount.wait(), 3);
            env.emulator.faults().clear();
            if has_its_number {
                let there = mounts::topmost_at(&mount.dir).unwrap();
                assert!(there.is_some(), "it has been taken away");
                nix::mount::umount(&mount.dir).unwrap();
                has_been_seen = true;
                break;
            }
        }
        assert!(has_been_seen, "nothing has had the number of the mount");
    });
}

#[test]
fn a_mount_that_was_cut_off_is_taken_away() {
    if is_missing("root, to cut it off", !nix::unistd::geteuid().is_root()) {
        return;
    }
    on_openai(|env| {
        let id = env.container("box");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        assert_eq!(save(&mount.path("box/f"), b"x"), Ok(()));
        let (_, minor) = mounts::topmost_at(&mount.dir).unwrap().unwrap().device;
        let control = env.dir.path().join("fusectl");
        std::fs::create_dir(&control).unwrap();
        nix::mount::mount(Some("f"), &control, Some("fusectl"), MsFlags::empty(), None::<&str>).unwrap();
        let aborted = std::fs::write(control.join(format!("{minor}/abort")), "1");
        nix::mount::umount(&control).unwrap();
        aborted.unwrap();
        assert_eq!((mount.wait(), is_mounted(&mount.dir)), (0, false));
        assert_eq!(env.bytes_on_server(&id, "f"), b"x");
    });
}

/// Runs a command on a mount whose daemon is stopped; it must end soon.
fn ends_soon(env: &Env, args: &[&str], mount: &Mount) -> (Option<i32>, String) {
    let mut command = env.command(args);
    let command = command.arg(&mount.dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, begun) = (command.spawn().unwrap(), Instant::now());
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            // Its end lets everybody go who waits for it.
            kill(Pid::from_raw(mount.pid()), Signal::SIGKILL).unwrap();
            panic!("it hangs: {args:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &told(&output))
}

#[test]
fn a_daemon_that_is_stopped_holds_nobody_who_has_no_patience() {
    for flags in [&["unmount", "--force"][..], &["unmount", "--timeout", "1s"]] {
        on_openai(|env| {
            let id = env.container("box");
            let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
            assert_eq!(save(&mount.path("box/f"), b"x"), Ok(()));
            kill(Pid::from_raw(mount.pid()), Signal::SIGSTOP).unwrap();
            // What the kernel still knows of it would hide that it is asked.
            std::thread::sleep(Duration::from_secs(2));
            for (args, says) in
                [(&["status"][..], "does not answer"), (&["mount"], "is a containerfs mount already")]
            {
                let (code, told) = ends_soon(env, args, &mount);
                assert!(code == Some(1) && told.contains(says), "{args:?}: {told}");
            }
            let (code, told) = ends_soon(env, flags, &mount);
            assert!(code == Some(1) && told.contains("the daemon does not answer"), "{told}");
            assert!(!is_mounted(&mount.dir));
            kill(Pid::from_raw(mount.pid()), Signal::SIGCONT).unwrap();
            assert_eq!(mount.wait(), 0);
            assert_eq!(env.bytes_on_server(&id, "f"), b"x");
        });
    }
}

#[test]
fn who_has_patience_is_told_that_the_daemon_is_stopped_and_waits() {
    on_openai(|env| {
        let id = env.container("box");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        assert_eq!(save(&mount.path("box/f"), b"x"), Ok(()));
        kill(Pid::from_raw(mount.pid()), Signal::SIGSTOP).unwrap();
        let waits = env.command(&["unmount"]).arg(&mount.dir).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(6));
        kill(Pid::from_raw(mount.pid()), Signal::SIGCONT).unwrap();
        let output = waits.wait_with_output().unwrap();
        let told = told(&output);
        assert!(told.contains("does not answer; --force takes"), "{told}");
        assert_eq!((output.status.code(), mount.wait()), (Some(0), 0), "{told}");
        assert_eq!(env.bytes_on_server(&id, "f"), b"x");
    });
}
