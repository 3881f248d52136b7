//! What happens to a file, or in a directory, while it is being renamed.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use containerfs::emulator::{Fault, FaultRule, Kind::Upload, Profile, ReplaceByName};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::env::{Env, Mount, fuse_is_missing, on_both_profiles, on_openai, save, wait_until};

/// Renames while `work` is done after the first upload has set out, which takes a while.
fn amid_a_rename(env: &Env, mount: &Mount, from: &str, to: &str, work: impl FnOnce()) -> io::Result<()> {
    env.emulator.forget_requests();
    let slow = FaultRule { times: Some(2), ..FaultRule::always(Upload, Fault::DelayAfter { millis: 1500 }) };
    env.emulator.faults().inject(slow);
    let renamed = thread::scope(|scope| {
        let renamed = scope.spawn(|| fs::rename(mount.path(from), mount.path(to)));
        wait_until("it is on its way", || env.count(Upload) > 0);
        thread::sleep(Duration::from_millis(300));
        work();
        renamed.join().unwrap()
    });
    env.emulator.faults().clear();
    renamed
}

/// Every file of the server, by the path that mounts show.
fn on_server(env: &Env, id: &str) -> Vec<(String, Vec<u8>)> {
    let mount = env.mount(&[]);
    let shown = mount.sh("c", "find . -type f | sort");
    let read = |path: &str| (path[2..].to_owned(), fs::read(mount.path("c").join(path)).unwrap());
    let files: Vec<_> = shown.lines().map(read).collect();
    assert_eq!(files.len(), env.store().files(id).len(), "{files:?}");
    assert_eq!(mount.unmount(env), (0, 0));
    files
}

#[test]
fn what_is_removed_in_a_directory_that_is_being_renamed_is_gone() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--timeout", "5s"]);
        mount.sh("c", "mkdir d; echo -n 1 > d/x; echo -n 2 > d/y");
        let renamed = amid_a_rename(env, &mount, "c/d", "c/e", || {
            fs::remove_file(mount.path("c/d/x")).unwrap();
        });
        renamed.unwrap();
        assert_eq!(mount.sh("c", "find . -type f"), "./e/y\n");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(on_server(env, &id), [("e/y".to_owned(), b"2".to_vec())]);
    });
}

#[test]
fn what_is_saved_or_made_in_a_directory_that_is_being_renamed_stands_under_its_new_name() {
    if fuse_is_missing() {
        return;
    }
    for replace in [ReplaceByName::Second, ReplaceByName::Replace, ReplaceByName::SameId] {
        let env = Env::that_replaces(Profile::Openai, replace);
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "mkdir -p d/s; echo -n 1 > d/s/x; echo -n 2 > d/s/y");
        let renamed = amid_a_rename(&env, &mount, "c/d", "c/e", || {
            thread::scope(|scope| {
                scope.spawn(|| assert_eq!(save(&mount.path("c/d/s/x"), b"saved"), Ok(())));
                scope.spawn(|| assert_eq!(save(&mount.path("c/d/s/new"), b"made"), Ok(())));
            });
        });
        renamed.unwrap();
        let expected = [("e/s/new", &b"made"[..]), ("e/s/x", b"saved"), ("e/s/y", b"2")];
        let expected = expected.map(|(path, bytes)| (path.to_owned(), bytes.to_vec()));
        assert_eq!(mount.sh("c", "find . -type f | sort"), "./e/s/new\n./e/s/x\n./e/s/y\n");
        assert_eq!(mount.unmount(&env), (0, 0));
        assert_eq!(on_server(&env, &id), expected, "{replace:?}");
    }
}

#[test]
fn a_file_that_others_remove_while_it_is_being_renamed_stands_under_its_new_name() {
    on_openai(|env| {
        let id = env.container("c");
        let a = env.store().put_upload(&id, "a", b"a");
        env.store().put_upload(&id, "b", b"b");
        let mount = env.mount(&["--ttl", "100ms"]);
        assert_eq!(mount.sh("c", "mkdir s; cat a b"), "ab");
        let renamed = amid_a_rename(env, &mount, "c/a", "c/b", || {
            env.store().delete_file(&id, &a);
            thread::sleep(Duration::from_millis(150));
            assert_eq!(mount.names("c/s"), [""; 0], "a list has come");
        });
        renamed.unwrap();
        assert_eq!(mount.sh("c", "ls; cat b; echo -n c > b; cat b"), "b\ns\nac");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(on_server(env, &id), [("b".to_owned(), b"c".to_vec())]);
    });
}

#[test]
fn what_others_make_under_a_name_that_is_being_taken_stays_beside_it() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        mount.sh("c", "mkdir s");
        for (from, stood, flags) in [
            ("a", true, RenameFlags::empty()),
            (".goutputstream-1", true, RenameFlags::empty()),
            ("a", false, RenameFlags::NOREPLACE),
        ] {
            assert_eq!(save(&mount.path("c").join(from), b"ours"), Ok(()));
            if stood {
                assert_eq!(save(&mount.path("c/b"), b"old"), Ok(()));
            }
            env.emulator.forget_requests();
            env.emulator.faults().inject(FaultRule::once(Upload, Fault::DelayAfter { millis: 900 }));
            thread::scope(|scope| {
                let rename = || renameat_with(CWD, mount.path("c").join(from), CWD, mount.path("c/b"), flags);
                let renamed = scope.spawn(rename);
                wait_until("it is on its way", || env.count(Upload) == 1);
                env.store().put_model_file(&id, "/mnt/data/b", b"a stranger's");
                thread::sleep(Duration::from_millis(150));
                assert_eq!(mount.names("c/s"), [""; 0], "a list has come");
                renamed.join().unwrap().unwrap();
            });
            assert_eq!(fs::read(mount.path("c/b")).unwrap(), b"ours", "{from} {flags:?}");
            assert_eq!(mount.sh("c", "cat b~*"), "a stranger's");
            thread::sleep(Duration::from_millis(150));
            assert_eq!(fs::read(mount.path("c/b")).unwrap(), b"ours", "{from} {flags:?}");
            assert_eq!(mount.sh("c", "cat b~*; rm b*"), "a stranger's");
            wait_until("all is gone", || env.store().files(&id).is_empty());
        }
        assert_eq!(mount.unmount(env), (0, 0));
    });
}
