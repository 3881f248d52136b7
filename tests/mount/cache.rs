//! The cache on disk: it keeps to its size, is never believed blindly, and is never needed.

use std::fs;
use std::path::PathBuf;
use std::thread;

use containerfs::emulator::{Config, Fault, Kind, Profile};

use crate::env::{
    Env, errno, fuse_is_missing, is_missing, noise, on_both_profiles, on_openai, on_plain, sha256, wait_until,
};
use crate::tools::Tmpfs;

/// The files of the cache, whatever account or mount they belong to.
fn cached(env: &Env) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![env.dir.path().join("cache")]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files
}

fn bytes_cached(env: &Env) -> u64 {
    cached(env).iter().filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum()
}

#[test]
fn the_cache_keeps_to_its_size() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for number in 0..6 {
            env.store().put_upload(&id, &format!("{number}.bin"), &noise((1 << 20) - number));
        }
        let mount = env.mount(&["--cache-size", "2MiB"]);
        for number in 0..6 {
            let read = fs::read(mount.path(&format!("c/{number}.bin"))).unwrap();
            assert_eq!(sha256(&read), sha256(&noise((1 << 20) - number)));
        }
        wait_until("the cache shrinks", || bytes_cached(env) <= 2 << 20);
        assert!(bytes_cached(env) > 0, "nothing is cached at all");
        mount.unmount(env);
        let mount = env.mount(&["--cache-size", "1KiB"]);
        assert_eq!(mount.names("c").len(), 6);
        assert!(bytes_cached(env) <= 1 << 10, "a smaller size is obeyed at the next mount");
    });
}

#[test]
fn a_torn_cache_file_is_fetched_again() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for name in ["cut.bin", "altered.bin"] {
            env.store().put_upload(&id, name, &[name.as_bytes(), &noise(300_000)].concat());
        }
        let mount = env.mount(&[]);
        fs::read(mount.path("c/cut.bin")).unwrap();
        fs::read(mount.path("c/altered.bin")).unwrap();
        mount.unmount(env);
        let mut spoiled = 0;
        for path in cached(env).into_iter().filter(|path| fs::metadata(path).unwrap().len() > 300_000) {
            let mut bytes = fs::read(&path).unwrap();
            if bytes.starts_with(b"cut.bin") {
                bytes.truncate(100_000);
            } else {
                bytes[200_000] ^= 1;
            }
            fs::write(&path, bytes).unwrap();
            spoiled += 1;
        }
        assert_eq!(spoiled, 2, "the cache holds the two files");
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        for name in ["cut.bin", "altered.bin"] {
            let expected = [name.as_bytes(), &noise(300_000)].concat();
            assert_eq!(sha256(&fs::read(mount.path("c").join(name)).unwrap()), sha256(&expected), "{name}");
        }
        assert_eq!(env.count(Kind::Content), 2);
    });
}

#[test]
fn a_cache_that_goes_under_a_mount_fails_no_read() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for name in ["a.bin", "b.bin"] {
            env.store().put_upload(&id, name, &noise(300_000));
        }
        let mount = env.mount(&[]);
        assert_eq!(sha256(&fs::read(mount.path("c/a.bin")).unwrap()), sha256(&noise(300_000)));
        let cache = env.dir.path().join("cache");
        fs::remove_dir_all(&cache).unwrap();
        // Not even root can make directories below a file.
        fs::write(&cache, "in the way").unwrap();
        for name in ["a.bin", "b.bin"] {
            let read = fs::read(mount.path("c").join(name)).unwrap();
            assert_eq!(sha256(&read), sha256(&noise(300_000)), "{name}");
        }
        assert_eq!(crate::env::save(&mount.path("c/new"), b"x"), Ok(()));
        assert_eq!(env.bytes_on_server(&id, "new"), b"x");
    });
}

#[test]
fn a_models_bytes_are_not_believed_by_the_next_mount() {
    on_openai(|env| {
        let id = env.container("c");
        let file = env.store().put_model_file(&id, "/mnt/data/f", b"one");
        let mount = env.mount(&["--content-ttl", "1h"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"one");
        mount.unmount(env);
        assert_eq!(env.store().rewrite_model_file(&id, &file, b"two"), file, "the same id and length");
        let mount = env.mount(&["--content-ttl", "1h"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"two");
    });
}

#[test]
fn a_full_disk_under_the_cache_garbles_no_byte() {
    if is_missing("root, who alone can mount a small disk", !nix::unistd::geteuid().is_root()) {
        return;
    }
    on_plain(|env| {
        let id = env.container("c");
        let bytes = |number: usize| [format!("{number:06}").as_bytes(), &noise((1 << 20) + number)].concat();
        let files = (0..24).map(|number| (format!("/mnt/data/f{number:02}"), bytes(number)));
        env.store().put_many(&id, files);
        let cache = env.dir.path().join("cache");
        let _disk = Tmpfs::mount(&cache, "2500k");
        let mount = env.mount(&[]);
        for _ in 0..2 {
            for number in 0..24 {
                let read = fs::read(mount.path(&format!("c/f{number:02}"))).unwrap();
                assert!(read == bytes(number), "f{number:02} is another");
            }
        }
        mount.sh("c", "mv f00 g00 && mv f23 g23");
        assert!(env.bytes_on_server(&id, "g00") == bytes(0) && env.bytes_on_server(&id, "g23") == bytes(23));
    });
}

#[test]
fn a_body_without_an_end_is_given_up() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::of(Config::new(Profile::Openai));
    let id = env.container("c");
    env.store().put_model_file(&id, "/mnt/data/endless", b"x");
    env.store().put_upload(&id, "other", b"bytes");
    env.inject(Kind::Content, Fault::HugeJson { bytes: 200 << 20 });
    let mount = env.mount(&["--cache-size", "1MiB"]);
    assert_eq!(errno(fs::metadata(mount.path("c/endless"))), libc::EFBIG);
    wait_until("what came is gone", || bytes_cached(&env) <= 1 << 20);
    env.emulator.faults().clear();
    assert_eq!(fs::read(mount.path("c/other")).unwrap(), b"bytes");
}

#[test]
fn downloads_of_killed_mounts_take_up_no_room() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.bin", &noise(3 << 20));
        env.inject(Kind::Content, Fault::HangMidBody { after: 2 << 20 });
        for _ in 0..3 {
            let mut mount = env.mount(&["--cache-size", "4MiB"]);
            thread::scope(|scope| {
                let reader = scope.spawn(|| fs::read(mount.path("c/f.bin")));
                wait_until("the download is under way", || bytes_cached(env) >= 2 << 20);
                let pid = nix::unistd::Pid::from_raw(mount.pid());
                nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
                assert!(reader.join().unwrap().is_err());
            });
            mount.kill();
            drop(mount);
            assert!(bytes_cached(env) < 3 << 20, "those before are gone: {:?}", cached(env));
        }
        let mount = env.mount(&["--cache-size", "4MiB"]);
        assert_eq!(bytes_cached(env), 0);
        env.emulator.faults().clear();
        assert_eq!(sha256(&fs::read(mount.path("c/f.bin")).unwrap()), sha256(&noise(3 << 20)));
        mount.unmount(env);
        assert_eq!(bytes_cached(env), 3 << 20, "{:?}", cached(env));
    });
}
