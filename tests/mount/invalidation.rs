//! What the kernel is told to ask for again, and that nobody is caught in it.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use containerfs::emulator::{Fault, Kind};

use crate::env::{errno, on_both_profiles, wait_until};

#[test]
fn a_killed_daemon_lets_everybody_go_whatever_it_was_telling_the_kernel() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let gone = env.store().put_upload(&id, "gone", b"x");
        for name in ["from", "kept"] {
            env.store().put_upload(&id, name, b"y");
        }
        let mut mount = env.mount(&["--ttl", "300ms"]);
        mount.sh("c", "ls -l && cat gone from");
        env.inject(Kind::Upload, Fault::HangBefore);
        // Holds the lock of the directory until the server answers.
        let mut rename = Command::new("mv")
            .args(["from", "to"])
            .current_dir(mount.path("c"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the rename waits for the server", || env.count(Kind::Upload) == 1);
        env.store().delete_file(&id, &gone);
        thread::sleep(Duration::from_millis(400));
        // Needs a new list, out of which an entry of that directory has vanished, but not the lock.
        let lists = env.count(Kind::ListFiles);
        fs::metadata(mount.path("c/kept")).unwrap();
        assert!(env.count(Kind::ListFiles) > lists);
        thread::sleep(Duration::from_millis(200));
        mount.kill();
        wait_until("the rename has ended", || rename.try_wait().unwrap().is_some());
    });
}

#[test]
fn what_a_list_no_longer_shows_is_gone_at_once_whatever_the_kernel_remembers() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let gone = env.store().put_upload(&id, "gone", b"x");
        env.store().put_upload(&id, "kept", b"y");
        let mount = env.mount(&["--ttl", "1h"]);
        mount.sh("c", "cat gone kept && mkdir d");
        env.store().delete_file(&id, &gone);
        assert!(fs::metadata(mount.path("c/gone")).is_ok(), "nobody has looked");
        // A save fetches a list.
        fs::write(mount.path("c/kept"), b"z").unwrap();
        wait_until("it is gone", || fs::metadata(mount.path("c/gone")).is_err());
        assert_eq!(errno(fs::metadata(mount.path("c/gone"))), libc::ENOENT);
        assert_eq!(errno(fs::read(mount.path("c/gone"))), libc::ENOENT);
        assert_eq!(mount.names("c"), ["d", "kept"]);
    });
}
