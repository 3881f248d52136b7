//! What is gone takes no room: neither memory nor the cache.

use std::fs::{self, File};
use std::io::Read;
use std::thread;

use containerfs::emulator::Kind::{Content, DeleteFile, Upload};
use containerfs::emulator::{Fault, FaultRule};
use serde_json::Value;

use crate::env::{Env, Mount, errno, is_missing, noise, on_both_profiles, on_openai, save, wait_until};

fn status(env: &Env, mount: &Mount) -> Value {
    let told = env.command(&["status", "--json"]).arg(&mount.dir).output().unwrap();
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    told.get(0).unwrap_or(&told).clone()
}

/// Waits until the cache holds so many files of so many bytes, on disk and in memory.
fn has_cached(env: &Env, mount: &Mount, files: usize, bytes: usize) {
    let cached = |what: &str| status(env, mount)["cache"][what].as_u64().unwrap();
    let mut seen = (0, 0, 0);
    let whole = (files as u64, bytes as u64, bytes as u64);
    for _ in 0..300 {
        mount.names("c");
        seen = (cached("files"), cached("disk_bytes"), cached("memory_bytes"));
        if seen == whole {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the cache holds {seen:?} and not {whole:?}: {}", mount.log());
}

#[test]
fn bytes_of_what_is_gone_leave_the_cache_at_once() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        for round in 0..4 {
            assert_eq!(save(&mount.path("c/again"), &noise(1000 + round)), Ok(()));
            assert_eq!(save(&mount.path("c/kept~"), &noise(10)), Ok(()));
            mount.sh("c", "mv again again~; cp again~ again; rm again~");
        }
        assert_eq!(save(&mount.path("c/moved"), &noise(2000)), Ok(()));
        mount.sh("c", "mv moved there");
        has_cached(env, &mount, 2, 1003 + 2000);
        let of_model = env.store().put_model_file(&id, "/mnt/data/model", &noise(500));
        wait_until("the model's file is shown", || mount.names("c").contains(&"model".to_owned()));
        assert_eq!(fs::read(mount.path("c/model")).unwrap(), noise(500));
        has_cached(env, &mount, 3, 1003 + 2000 + 500);
        env.store().delete_file(&id, &of_model);
        assert_eq!(save(&mount.path("c/open"), &noise(3000)), Ok(()));
        let mut open = File::open(mount.path("c/open")).unwrap();
        mount.sh("c", "rm open there");
        has_cached(env, &mount, 2, 1003 + 3000);
        let mut read = Vec::new();
        open.read_to_end(&mut read).unwrap();
        assert!(read == noise(3000), "who has it open goes on reading");
        drop(open);
        has_cached(env, &mount, 1, 1003);
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        assert!(fs::read(mount.path("c/again")).unwrap() == noise(1003));
        assert_eq!(env.count(Content), 0, "what is there stays");
    });
}

#[test]
fn bytes_of_what_is_unlinked_on_its_way_leave_the_cache_too() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "read", &noise(500));
        let mount = env.mount(&["--ttl", "100ms", "--write-back", "--write-back-delay", "0s"]);
        env.emulator.faults().inject(FaultRule::once(Upload, Fault::Delay { millis: 500 }));
        env.emulator.faults().inject(FaultRule::once(Content, Fault::Delay { millis: 500 }));
        thread::scope(|scope| {
            let reader = scope.spawn(|| fs::read(mount.path("c/read")));
            assert_eq!(save(&mount.path("c/saved"), &noise(1000)), Ok(()));
            wait_until("both are on their way", || env.count(Upload) + env.count(Content) == 2);
            mount.sh("c", "rm read saved");
            assert!(reader.join().unwrap().unwrap() == noise(500));
        });
        wait_until("both are deleted", || env.store().files(&id).is_empty() && env.count(DeleteFile) == 2);
        has_cached(env, &mount, 0, 0);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn a_container_that_is_gone_leaves_no_inode() {
    if is_missing("root, who alone can have the kernel forget", !nix::unistd::geteuid().is_root()) {
        return;
    }
    on_openai(|env| {
        env.container("stays");
        let mount = env.mount(&["--ttl", "100ms"]);
        let before = status(env, &mount)["inodes"].clone();
        for _ in 0..3 {
            let id = env.container("c");
            for name in ["f", "d/g", "d/deep/h"] {
                env.store().put_model_file(&id, &format!("/mnt/data/{name}"), name.as_bytes());
            }
            wait_until("it is shown", || mount.path("c").exists());
            assert_eq!(mount.sh("c", "cat f d/g d/deep/h; ls -lR > /dev/null"), "fd/gd/deep/h");
            let mut open = File::open(mount.path("c/d/g")).unwrap();
            env.store().delete_container(&id);
            wait_until("the directory goes", || !mount.path("c").exists());
            let mut read = String::new();
            open.read_to_string(&mut read).unwrap();
            assert_eq!(read, "d/g", "its bytes are here");
            drop(open);
            wait_until("nothing of it is left", || {
                fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
                status(env, &mount)["inodes"] == before
            });
        }
    });
}

#[test]
fn what_is_unsent_in_a_container_that_is_gone_is_named_by_its_path() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms", "--write-back", "--write-back-delay", "1h"]);
        let before = status(env, &mount)["inodes"].as_u64().unwrap();
        mount.sh("c", "mkdir -p d/deep; echo precious > d/deep/f; echo other > d/g");
        env.store().delete_container(&id);
        wait_until("the directory goes", || !mount.path("c").exists());
        let open = File::open(mount.path("c/d/g"));
        assert_eq!(errno(open), libc::ENOENT);
        // The container, two directories, two files.
        wait_until("the rest is forgotten", || status(env, &mount)["inodes"].as_u64().unwrap() <= before + 4);
        assert_eq!(mount.unmount(env), (3, 3));
        let told = env.command(&["pending", "list"]).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(told.contains("d/deep/f") && told.contains("d/g"), "{told}");
        let saved = env.dir.path().join("saved");
        assert!(env.command(&["pending", "save"]).arg(&saved).output().unwrap().status.success());
        assert_eq!(fs::read(saved.join(id).join("d/deep/f")).unwrap(), b"precious\n");
    });
}

#[test]
fn what_is_remembered_of_a_container_goes_with_it() {
    on_both_profiles(|env| {
        let stays = env.container("stays");
        let expires = env.container("expires");
        let mount = env.mount(&["--ttl", "100ms"]);
        mount.sh("", "mkdir made && rmdir made");
        mount.sh("", "for c in stays expires; do mkdir $c/d && echo x > $c/f && chmod 600 $c/f; done");
        let remembered = || env.notes("records.jsonl").concat();
        let departed =
            |id: &str| remembered().contains(&format!("{{\"fact\":\"departed\",\"container\":\"{id}\"}}"));
        assert!(!departed(&expires) && !departed(&stays));
        assert_eq!(mount.unmount(env), (0, 0));
        env.store().expire_container(&expires);
        let mount = env.mount(&["--ttl", "100ms"]);
        assert!(departed(&expires) && !departed(&stays));
        assert_eq!(mount.sh("stays", "stat -c %a f; ls"), "600\nd\nf\n");
        env.store().expire_container(&stays);
        wait_until("it is forgotten", || mount.names("").is_empty() && departed(&stays));
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn a_truncation_that_fails_keeps_nothing_of_the_file() {
    on_openai(|env| {
        let id = env.container("c");
        let earlier = env.store().put_upload(&id, "f", b"earlier");
        let mount = env.mount(&["--ttl", "100ms"]);
        let path = std::ffi::CString::new(mount.path("c/f").to_str().unwrap()).unwrap();
        let truncated = nix::unistd::truncate(path.as_c_str(), i64::MAX - 1);
        assert_eq!(truncated, Err(nix::errno::Errno::EFBIG), "no disk takes that");
        env.store().delete_file(&id, &earlier);
        wait_until("what others delete goes", || mount.names("c").is_empty());
        assert_eq!(mount.unmount(env), (0, 0));
    });
}
