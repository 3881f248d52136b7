//! A model's file that is written again under its id: nobody reads two versions in one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use containerfs::emulator::Kind;
use serde_json::Value;

use crate::env::{Env, Mount, noise, on_both_profiles, on_openai, wait_until};

const LARGE: usize = 4 << 20;

/// Trusts what a model wrote for a moment only.
const SHORT: [&str; 4] = ["--ttl", "200ms", "--content-ttl", "400ms"];

/// The only file of a container, and its id.
fn written(env: &Env, bytes: &[u8]) -> (String, String) {
    let id = env.container("c");
    env.store().put_model_file(&id, "/mnt/data/f", bytes);
    let file = env.store().files(&id)[0].id.clone();
    (id, file)
}

fn is_read(mount: &Mount, bytes: &[u8]) -> bool {
    fs::read(mount.path("c/f")).is_ok_and(|read| read == bytes)
}

fn read_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn idle(env: &Env, mount: &Mount) {
    wait_until("nothing is under way", || {
        let output = env.command(&["status", "--json", mount.dir.to_str().unwrap()]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status[0]["downloads"] == 0
    });
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn another_version_of_the_same_length_is_read_after_the_content_ttl() {
    on_both_profiles(|env| {
        let (id, file) = written(env, b"state: RUNNING");
        let mount = env.mount(&SHORT);
        assert!(is_read(&mount, b"state: RUNNING"));
        env.store().rewrite_model_file(&id, &file, b"state: STOPPED");
        wait_until("the new bytes are read", || is_read(&mount, b"state: STOPPED"));
        assert!(is_read(&mount, b"state: STOPPED"), "and they stay");
    });
}

#[test]
fn a_file_is_another_inode_when_its_bytes_are_others_and_only_then() {
    on_openai(|env| {
        let (id, file) = written(env, b"state: RUNNING");
        let mount = env.mount(&SHORT);
        let path = mount.path("c/f");
        assert!(is_read(&mount, b"state: RUNNING"));
        let before = inode(&path);
        let asked = env.count(Kind::Content);
        wait_until("it is asked for again", || {
            inode(&path) != before || env.count(Kind::Content) > asked + 1
        });
        assert_eq!(inode(&path), before, "nothing has changed");
        assert!(is_read(&mount, b"state: RUNNING"));
        env.store().rewrite_model_file(&id, &file, b"state: STOPPED");
        wait_until("it is another", || inode(&path) != before);
        assert!(is_read(&mount, b"state: STOPPED"));
    });
}

#[test]
fn a_large_file_that_was_read_in_part_is_never_a_mixture() {
    on_both_profiles(|env| {
        let (old, new) = (vec![b'1'; LARGE], vec![b'2'; LARGE]);
        let (id, file) = written(env, &old);
        let mount = env.mount(&SHORT);
        assert_eq!(read_at(&File::open(mount.path("c/f")).unwrap(), 0, 64 << 10), old[..64 << 10]);
        env.store().rewrite_model_file(&id, &file, &new);
        wait_until("the new version is read", || {
            let read = fs::read(mount.path("c/f")).unwrap();
            assert!(read == old || read == new, "two versions in one");
            read == new
        });
    });
}

#[test]
fn who_has_a_file_open_goes_on_with_the_version_that_was_opened() {
    for len in [14, LARGE] {
        on_both_profiles(|env| {
            let (old, new) = (vec![b'1'; len], vec![b'2'; len]);
            let (id, file) = written(env, &old);
            let mount = env.mount(&SHORT);
            let open = File::open(mount.path("c/f")).unwrap();
            assert_eq!(read_at(&open, 0, 14), old[..14]);
            idle(env, &mount);
            env.store().rewrite_model_file(&id, &file, &new);
            wait_until("others read the new version", || is_read(&mount, &new));
            assert!(read_at(&open, 0, len) == old, "{len} bytes");
            assert_eq!(open.metadata().unwrap().len(), len as u64);
            drop(open);
            assert!(is_read(&mount, &new));
        });
    }
}

#[test]
fn what_is_written_to_a_file_that_the_model_writes_again_is_saved() {
    on_both_profiles(|env| {
        let (id, file) = written(env, b"state: RUNNING");
        let mount = env.mount(&SHORT);
        assert!(is_read(&mount, b"state: RUNNING"));
        let mut open = File::options().read(true).write(true).open(mount.path("c/f")).unwrap();
        assert_eq!(read_at(&open, 0, 14), b"state: RUNNING");
        env.store().rewrite_model_file(&id, &file, b"state: STOPPED");
        // Whoever looks meanwhile, as often as there is something to be asked for.
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(300));
            let _ = (fs::read(mount.path("c/f")), fs::metadata(mount.path("c/f")));
        }
        open.write_all(b"mine").unwrap();
        open.set_len(4).unwrap();
        drop(open);
        assert!(is_read(&mount, b"mine"));
        assert_eq!(mount.unmount(env), (0, 0));
        let saved =
            env.store().files(&id).into_iter().map(|file| env.store().content(&id, &file.id).unwrap());
        assert!(saved.into_iter().any(|bytes| bytes == b"mine"));
    });
}

#[test]
fn what_has_grown_since_its_length_was_asked_for_is_read_to_its_end() {
    on_openai(|env| {
        let (id, file) = written(env, &noise(3 << 20));
        let mount = env.mount(&["--ttl", "1h", "--content-ttl", "1h"]);
        assert_eq!(fs::metadata(mount.path("c/f")).unwrap().len(), 3 << 20);
        idle(env, &mount);
        env.store().rewrite_model_file(&id, &file, &noise(LARGE));
        assert_eq!(mount.sh("c", "cat f | wc -c").trim(), LARGE.to_string());
        assert!(is_read(&mount, &noise(LARGE)));
    });
}

#[test]
fn what_has_shrunk_since_its_length_was_asked_for_is_read_without_a_zero_at_its_end() {
    on_openai(|env| {
        for (old, new) in [(3 << 20, 1000), (3 << 20, 2 << 20), (3 << 20, (2 << 20) + 5)] {
            let (id, file) = written(env, &noise(old));
            let mount = env.mount(&["--ttl", "1h", "--content-ttl", "1h", "--no-prefetch"]);
            assert_eq!(fs::metadata(mount.path("c/f")).unwrap().len(), old as u64);
            idle(env, &mount);
            env.store().rewrite_model_file(&id, &file, &noise(new));
            // The last bytes are asked for first, or the first, or those at the new end.
            let open = File::open(mount.path("c/f")).unwrap();
            for at in [old - 1, old - 100, new - 50, 0] {
                let mut read = vec![0xff; old - at];
                let Ok(len) = open.read_at(&mut read, at as u64) else { continue };
                let there = &noise(new)[at.min(new)..];
                assert!(there.starts_with(&read[..len]), "{old} are {new}: {len} bytes at {at}");
            }
            assert!(is_read(&mount, &noise(new)), "{old} bytes are {new}");
            assert_eq!(mount.sh("c", "cat f | wc -c").trim(), new.to_string());
            drop((open, mount));
            env.store().delete_container(&id);
        }
    });
}

#[test]
fn what_is_appended_stands_at_the_end_of_what_the_model_has_written_last() {
    for len in [LARGE + 500, 1000] {
        on_both_profiles(|env| {
            let (id, file) = written(env, &noise(LARGE));
            // What was fetched for its length is not kept, nor trusted.
            let mount = env.mount(&["--no-prefetch", "--cache-size", "1MiB", "--memory-cache", "1MiB"]);
            assert_eq!(fs::metadata(mount.path("c/f")).unwrap().len(), LARGE as u64);
            idle(env, &mount);
            env.store().rewrite_model_file(&id, &file, &noise(len));
            env.emulator.forget_requests();
            mount.sh("c", "echo -n end >> f");
            let expected = [noise(len), b"end".to_vec()].concat();
            assert!(env.bytes_on_server(&id, "f") == expected);
            assert!(fs::read(mount.path("c/f")).unwrap() == expected);
            assert_eq!((env.count(Kind::Upload), env.count(Kind::DeleteFile)), (1, 1));
        });
    }
}

#[test]
fn appending_to_what_a_model_wrote_fetches_it_once() {
    on_both_profiles(|env| {
        let (id, _) = written(env, &noise(LARGE));
        let mount = env.mount(&["--no-prefetch"]);
        assert_eq!(mount.names("c"), ["f"]);
        idle(env, &mount);
        env.emulator.forget_requests();
        let mut file = fs::OpenOptions::new().append(true).open(mount.path("c/f")).unwrap();
        file.write_all(b"end").unwrap();
        drop(file);
        assert!(env.bytes_on_server(&id, "f") == [noise(LARGE), b"end".to_vec()].concat());
        assert_eq!(env.count(Kind::Content), 1);
    });
}
