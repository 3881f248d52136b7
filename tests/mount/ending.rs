//! What the end of a mount leaves undone is named, and neither lost nor forgotten.

use std::fs::File;
use std::io::Write;
use std::process::{Output, Stdio};

use containerfs::emulator::{Fault, Kind};

use crate::env::{Env, Mount, is_mounted, on_both_profiles, on_openai, save, wait_until};

const LONG: &[&str] = &["--write-back", "--write-back-delay", "1h"];

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What was open makes the unmount a lazy one, and the daemon serves who has it for some seconds more.
#[test]
fn what_is_saved_through_a_descriptor_that_the_end_of_the_mount_has_left_open_is_not_lost() {
    on_both_profiles(|env| {
        for (flags, is_refused, code) in [(LONG, false, 0), (LONG, true, 3), (&[], false, 0)] {
            let id = env.container("box");
            let mut mount = env.mount(flags);
            let mut log = File::options().create(true).append(true).open(mount.path("box/log")).unwrap();
            log.write_all(b"one\n").unwrap();
            log.sync_all().unwrap();
            let asked = env.command(&["unmount"]).arg(&mount.dir).stderr(Stdio::piped()).spawn().unwrap();
            wait_until("it is unmounted", || !is_mounted(&mount.dir));
            if is_refused {
                env.status_fault(Kind::Upload, 503);
            }
            log.write_all(b"two\n").unwrap();
            log.sync_all().unwrap();
            drop(log);
            let ended = mount.wait();
            env.emulator.faults().clear();
            let asked = asked.wait_with_output().unwrap();
            assert_eq!((asked.status.code(), ended), (Some(code), code), "{flags:?}: {}", told(&asked));
            assert_eq!(told(&asked).contains("box/log"), code == 3, "{}", told(&asked));

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
