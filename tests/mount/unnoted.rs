//! A disk that takes no note of what has happened to bytes: what has happened is finished all the same.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use containerfs::emulator::{Fault, Kind};

use crate::env::{Env, is_missing, on_openai, save, wait_until};

/// Bytes beside which nothing can be noted for as long as this value lives.
struct Unwritable(PathBuf);

impl Unwritable {
    /// Those of the file that the journal knows by this path.
    fn bytes_of(env: &Env, path: &str) -> Self {
        let says_so = |note: &PathBuf| {
            let note = fs::read_to_string(note).ok();
            let note: Option<serde_json::Value> = note.and_then(|note| serde_json::from_str(&note).ok());
            note.is_some_and(|note| note["path"] == path)
        };
        let mut notes = env.kept_files().into_iter().filter(|file| file.ends_with("meta.json"));
        let dir = notes.find(says_so).unwrap().parent().unwrap().to_owned();
        for options in ["bind", "remount,bind,ro"] {
            let mounted = Command::new("mount").args(["-o", options]).arg(&dir).arg(&dir).status().unwrap();
            assert!(mounted.success());
        }
        Self(dir)
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn as_root(test: impl Fn(&Env)) {
    if !is_missing(
        "root, who alone can make a directory unwritable for root",
        !nix::unistd::geteuid().is_root(),
    ) {
        on_openai(test);
    }
}

#[test]
fn a_rename_that_has_happened_is_finished_though_what_was_moved_aside_has_no_note_of_it() {
    as_root(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        env.store().put_upload(&id, "g", b"new");
        let mut mount = env.mount(&[]);
        mount.sh("c", "mv f f~");
        let unwritable = Unwritable::bytes_of(env, "f~");
        mount.sh("c", "mv g f");
        assert_eq!(mount.sh("c", "cat f f~"), "newold");
        assert_eq!(env.store().files(&id).len(), 1, "the old versions are gone");
        assert_eq!(env.notes("intent.json"), [""; 0], "nothing is left to be done");
        mount.kill();
        drop((unwritable, mount));
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat f f~"), "newold", "nobody else has what was moved aside");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"new");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_renamed_directory_is_finished_though_what_is_unsent_in_it_has_no_note_of_it() {
    as_root(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "mkdir d && printf sent > d/sent");
        env.inject(Kind::Upload, Fault::Status { code: 400, body: None, headers: Default::default() });
        assert!(save(&mount.path("c/d/unsent"), b"unsent").is_err());
        env.emulator.faults().clear();
        let unwritable = Unwritable::bytes_of(env, "d/unsent");
        mount.sh("c", "mv d e");
        assert_eq!(env.notes("intent.json"), [""; 0], "nothing is left to be done");
        assert_eq!(env.store().files(&id).len(), 1, "{:?}", env.store().files(&id));
        drop(unwritable);
        assert_eq!(mount.sh("c", "cat e/*"), "sentunsent");
        assert!(env.command(&["pending", "retry"]).status().unwrap().success());
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "find . -type f | sort | xargs cat"), "sentunsent");
        assert_eq!(mount.names("c"), ["e"]);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_gives_way_to_unsent_bytes_is_deleted_though_they_have_no_note_of_it() {
    as_root(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "g~", b"goes");
        let mount = env.mount(&[]);
        assert_eq!(save(&mount.path("c/f~"), b"new"), Ok(()));
        // After its last close, which nobody waits for.
        let is_promised = |note: &String| note.contains("\"closed\": true");
        wait_until("it is promised", || env.notes("meta.json").iter().any(is_promised));
        let unwritable = Unwritable::bytes_of(env, "f~");
        let _ = fs::rename(mount.path("c/f~"), mount.path("c/g~"));
        assert_eq!(mount.names("c"), ["g~"]);
        wait_until("it is deleted", || env.store().files(&id).is_empty());
        wait_until("nothing is left to be done", || env.notes("intent.json").is_empty());
        drop(unwritable);
        assert_eq!(mount.sh("c", "cat g~"), "new");
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat g~"), "new");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_a_save_could_not_delete_for_want_of_a_note_goes_with_the_next_one() {
    as_root(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&["--ttl", "50ms"]);
        mount.sh("c", "mv f f~");
        let unwritable = Unwritable::bytes_of(env, "f~");
        assert_eq!(save(&mount.path("c/f"), b"new"), Ok(()));
        assert_eq!(env.store().files(&id).len(), 2, "what could not be noted is not deleted");
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(mount.names("c"), ["f", "f~"]);
        drop(unwritable);
        assert_eq!(save(&mount.path("c/f"), b"newest"), Ok(()));
        assert_eq!(mount.sh("c", "cat f f~"), "newestold");
        assert_eq!(env.bytes_on_server(&id, "f"), b"newest");
        assert_eq!(env.store().files(&id).len(), 1);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}
