//! Directories, containers and renames.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use containerfs::emulator::Kind::{
    CreateContainer, DeleteContainer, DeleteFile, ListContainers, ListFiles, Upload,
};
use containerfs::emulator::{Fault, FaultRule};

use crate::env::{errno, on_both_profiles, on_openai, program_is_missing, wait_until};

#[test]
fn mkdir_makes_a_container_and_rmdir_deletes_an_empty_one() {
    on_both_profiles(|env| {
        let mount = env.mount(&[]);
        assert_eq!(env.changes_of(|| fs::create_dir(mount.path("new")).unwrap()), [CreateContainer]);
        assert_eq!(env.store().containers()[0].name, "new");
        assert_eq!(errno(fs::create_dir(mount.path("new"))), libc::EEXIST);
        fs::write(mount.path("new/f"), "x").unwrap();
        assert_eq!(errno(fs::remove_dir(mount.path("new"))), libc::ENOTEMPTY);
        fs::remove_file(mount.path("new/f")).unwrap();
        assert_eq!(env.changes_of(|| fs::remove_dir(mount.path("new")).unwrap()), [DeleteContainer]);
        assert!(mount.names("").is_empty());
    });
}

#[test]
fn what_mkdir_makes_stays_when_a_list_from_before_comes_in() {
    on_openai(|env| {
        env.container("other");
        let mount = env.mount(&["--ttl", "300ms"]);
        thread::sleep(Duration::from_millis(350));
        assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 1);
        env.emulator.forget_requests();
        env.emulator.faults().inject(FaultRule::once(CreateContainer, Fault::Delay { millis: 700 }));
        env.emulator.faults().inject(FaultRule::once(ListContainers, Fault::DelayAfter { millis: 900 }));
        thread::scope(|scope| {
            let made = scope.spawn(|| fs::create_dir(mount.path("made")));
            wait_until("it is being made", || env.count(CreateContainer) == 1);
            thread::sleep(Duration::from_millis(350));
            let listed = scope.spawn(|| fs::read_dir(&mount.dir).unwrap().count());
            wait_until("a list is on its way", || env.count(ListContainers) == 1);
            made.join().unwrap().unwrap();
            listed.join().unwrap();
        });
        fs::write(mount.path("made/f"), "x").unwrap();
        fs::remove_file(mount.path("made/f")).unwrap();
        fs::remove_dir(mount.path("made")).unwrap();
        wait_until("what rmdir removes goes", || !mount.path("made").exists());
    });
}

#[test]
fn a_container_that_someone_else_filled_is_not_deleted() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "1h"]);
        assert!(mount.names("c").is_empty());
        env.store().put_model_file(&id, "/mnt/data/f", b"theirs");
        let changes = env.changes_of(|| assert_eq!(errno(fs::remove_dir(mount.path("c"))), libc::ENOTEMPTY));
        assert_eq!(changes, []);
    });
}

#[test]
fn a_list_with_an_item_that_cannot_be_read_shows_the_others_and_is_not_empty() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/gone", b"x");
        let gone = env.store().files(&id)[0].id.clone();
        let mount = env.mount(&["--ttl", "0s"]);
        fs::remove_file(mount.path("c/gone")).unwrap();
        let list = |data: serde_json::Value| {
            env.emulator.faults().clear();
            let body = Some(serde_json::json!({"object": "list", "data": data}).to_string());
            env.inject(ListFiles, Fault::Status { code: 200, body, headers: Default::default() });
        };
        let file =
            |id: &str, path: serde_json::Value| serde_json::json!({"id": id, "path": path, "bytes": 1});
        let no_id = serde_json::json!({"path": "/mnt/data/x"});
        let good = file("cfile_1", "/mnt/data/good".into());
        list(serde_json::json!([good, no_id, file("cfile_2", 7.into())]));
        for _ in 0..3 {
            let names = mount.names("c");
            assert!(names.len() == 2 && names.contains(&"good".to_owned()), "{names:?}");
        }
        let told = mount.log().matches("holds items without an id").count();
        assert_eq!(told, 1, "told once, not with every list");
        list(serde_json::json!([no_id, file(&gone, "/mnt/data/gone".into())]));
        // What the list misses may be what could not be read of it: it goes once its id is not found.
        wait_until("both are gone", || mount.names("c").is_empty());
        let changes = env.changes_of(|| assert_eq!(errno(fs::remove_dir(mount.path("c"))), libc::ENOTEMPTY));
        assert_eq!(changes, []);
        list(serde_json::json!([no_id]));
        let listing =
            fs::read_dir(mount.path("c")).and_then(|mut entries| entries.try_for_each(|e| e.map(drop)));
        assert_eq!(errno(listing), libc::EPROTO);
    });
}

#[test]
fn the_root_holds_containers_only() {
    on_openai(|env| {
        env.container("c");
        env.container("d");
        let mount = env.mount(&[]);
        assert_eq!(errno(fs::write(mount.path("f"), "x")), libc::EPERM);
        assert_eq!(errno(fs::rename(mount.path("c"), mount.path("e"))), libc::EPERM);
        assert_eq!(errno(symlink("x", mount.path("c/link"))), libc::EPERM);
        fs::write(mount.path("c/f"), "x").unwrap();
        assert_eq!(errno(fs::hard_link(mount.path("c/f"), mount.path("c/g"))), libc::EPERM);
        let fifo = nix::unistd::mkfifo(&mount.path("c/fifo"), nix::sys::stat::Mode::S_IRWXU);
        assert_eq!(fifo, Err(nix::errno::Errno::EPERM));
        assert_eq!(errno(fs::rename(mount.path("c/f"), mount.path("d/f"))), libc::EXDEV);
        mount.sh("", "mv c/f d/f");
        assert_eq!(fs::read(mount.path("d/f")).unwrap(), b"x");
        assert!(!mount.path("c/f").exists());
    });
}

#[test]
fn a_rename_is_a_post_and_a_delete() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "old.txt", b"bytes");
        let mount = env.mount(&[]);
        let before = crate::env::ino(&mount.path("c/old.txt"));
        let changes =
            env.changes_of(|| fs::rename(mount.path("c/old.txt"), mount.path("c/new.txt")).unwrap());
        assert_eq!(changes, [Upload, DeleteFile]);
        assert_eq!(mount.names("c"), ["new.txt"]);
        assert_eq!(env.store().files(&id).len(), 1);
        assert_eq!(env.bytes_on_server(&id, "new.txt"), b"bytes");
        assert_eq!(crate::env::ino(&mount.path("c/new.txt")), before);
    });
}

#[test]
fn a_rename_over_a_file_leaves_one_version() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "a", b"aaa");
        env.store().put_upload(&id, "b", b"bbb");
        let mount = env.mount(&[]);
        let changes = env.changes_of(|| fs::rename(mount.path("c/a"), mount.path("c/b")).unwrap());
        assert_eq!(changes, [Upload, DeleteFile, DeleteFile]);
        assert_eq!(mount.names("c"), ["b"]);
        assert_eq!(env.store().files(&id).len(), 1);
        assert_eq!(env.bytes_on_server(&id, "b"), b"aaa");
        assert_eq!(fs::read(mount.path("c/b")).unwrap(), b"aaa");
    });
}

#[test]
fn write_a_temporary_file_and_rename_it_leaves_one_right_version() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&[]);
        let changes = env.changes_of(|| _ = mount.sh("c", "echo new > f.tmp && mv f.tmp f"));
        assert_eq!(changes, [Upload, Upload, DeleteFile, DeleteFile]);
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 1);
        assert_eq!(env.bytes_on_server(&id, "f"), b"new\n");
    });
}

#[test]
fn the_flags_of_rename_are_kept() {
    if program_is_missing("python3") {
        return;
    }
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "a", b"a");
        env.store().put_upload(&id, "b", b"b");
        let mount = env.mount(&[]);
        let script = "python3 -c \"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(flags):
    result = libc.renameat2(-100, b'a', -100, b'b', flags)
    return ctypes.get_errno() if result else 0
print(rename(1), rename(2))\"";
        let changes = env.changes_of(|| {
            let expected = format!("{} {}\n", libc::EEXIST, libc::EINVAL);
            assert_eq!(mount.sh("c", script), expected);
        });
        assert_eq!(changes, []);
        assert_eq!(mount.names("c"), ["a", "b"]);
    });
}

#[test]
fn directories_hold_files_on_every_server_and_survive_a_remount() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "mkdir -p a/b empty && echo one > a/b/f && echo two > a/g");
        assert_eq!(
            mount.sh("c", "find . -mindepth 1 | sort | tr '\\n' ' '"),
            "./a ./a/b ./a/b/f ./a/g ./empty "
        );
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 2, "{:?}: the probe is deleted", env.store().files(&id));
        let mount = env.mount(&[]);
        assert_eq!(
            mount.sh("c", "find . -mindepth 1 | sort | tr '\\n' ' '"),
            "./a ./a/b ./a/b/f ./a/g ./empty "
        );
        assert_eq!(mount.sh("c", "cat a/b/f a/g"), "one\ntwo\n");
        mount.sh("c", "rm a/b/f && test -d a/b && rmdir a/b empty");
        assert_eq!(mount.sh("c", "find . -mindepth 1 | sort | tr '\\n' ' '"), "./a ./a/g ");
    });
}

#[test]
fn a_directory_is_renamed_with_all_that_it_holds() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "mkdir -p old/sub void && echo 1 > old/f && echo 2 > old/sub/g");
        mount.sh("c", "mv -T old new");
        assert_eq!(mount.sh("c", "cat new/f new/sub/g"), "1\n2\n");
        assert!(!mount.path("c/old").exists());
        assert_eq!(mount.sh("c", "mv -T new void && cat void/f"), "1\n");
        mount.sh("c", "mkdir full && echo x > full/x");
        assert_eq!(errno(fs::rename(mount.path("c/void"), mount.path("c/full"))), libc::ENOTEMPTY);
        assert_eq!(errno(fs::rename(mount.path("c/void"), mount.path("c/void/sub/below"))), libc::EINVAL);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 3);
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat void/f void/sub/g full/x"), "1\n2\nx\n");
    });
}

#[test]
fn rm_r_and_cp_r_work_on_trees() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        let local = env.dir.path().join("tree");
        fs::create_dir_all(local.join("a/b")).unwrap();
        for number in 0..20 {
            fs::write(local.join(format!("a/b/{number}")), format!("{number}")).unwrap();
        }
        mount.sh("c", &format!("cp -r {0} . && diff -r {0} tree", local.display()));
        mount.sh("c", "rm -r tree");
        assert!(mount.names("c").is_empty());
        assert_eq!(mount.unmount(env), (0, 0));
        assert!(env.store().files(&id).is_empty(), "{:?}", env.store().files(&id));
    });
}
