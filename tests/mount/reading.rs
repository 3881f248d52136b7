//! What is fetched, and how often.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use containerfs::emulator::{Config, Fault, FaultRule, Kind, Profile};
use nix::sys::stat::{major, minor};

use crate::env::{
    Env, errno, fuse_is_missing, ino, is_missing, noise, on_both_profiles, on_openai, save, sha256,
    wait_until,
};

#[test]
fn a_length_that_the_service_does_not_tell_is_right() {
    on_openai(|env| {
        let id = env.container("c");
        for len in [0, 1, 4096, 300_000] {
            env.store().put_model_file(&id, &format!("/mnt/data/{len}.bin"), &noise(len));
        }
        let mount = env.mount(&[]);
        for entry in fs::read_dir(mount.path("c")).unwrap() {
            let path = entry.unwrap().path();
            let expected: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), expected, "{path:?}");
        }
        let listed = mount.sh("c", "ls -l | awk 'NR>1{print $5}' | sort -n | tr '\\n' ' '");
        assert_eq!(listed, "0 1 4096 300000 ");
    });
}

#[test]
fn a_second_read_makes_no_request() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f.bin", &noise(200_000));
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f.bin")).unwrap(), noise(200_000));
        env.emulator.forget_requests();
        for _ in 0..3 {
            assert_eq!(fs::read(mount.path("c/f.bin")).unwrap(), noise(200_000));
        }
        assert!(env.emulator.requests().is_empty(), "{:?}", env.emulator.requests());
    });
}

#[test]
fn many_readers_are_one_download() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.bin", &noise(4 << 20));
        let mount = env.mount(&[]);
        env.emulator.set_latency(Duration::from_millis(50));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    assert_eq!(sha256(&fs::read(mount.path("c/f.bin")).unwrap()), sha256(&noise(4 << 20)));
                });
            }
        });
        assert_eq!(env.count(Kind::Content), 1);
    });
}

#[test]
fn one_listing_answers_everybody() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for number in 0..50 {
            env.store().put_upload(&id, &format!("{number}"), b"x");
        }
        let mount = env.mount(&[]);
        env.emulator.set_latency(Duration::from_millis(50));
        env.emulator.forget_requests();
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    assert_eq!(mount.names("c").len(), 50);
                    assert!(!mount.path("c/absent").exists());
                    assert_eq!(fs::metadata(mount.path("c/7")).unwrap().len(), 1);
                });
            }
        });
        assert_eq!(env.count(Kind::ListFiles), 1);
        assert_eq!(env.count(Kind::RetrieveFile), 0);
        assert_eq!(env.count(Kind::Content), 0);
    });
}

#[test]
fn what_others_do_to_a_file_that_was_just_saved_is_seen_by_who_looks_first_after_the_ttl() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "300ms"]);
        for theirs in [Some(&b"theirs"[..]), None] {
            assert_eq!(save(&mount.path("c/f"), b"ours"), Ok(()));
            let ours = env.store().files(&id)[0].id.clone();
            env.store().delete_file(&id, &ours);
            theirs.map(|bytes| env.store().put_model_file(&id, "/mnt/data/f", bytes));
            thread::sleep(Duration::from_millis(350));
            assert_eq!(fs::read(mount.path("c/f")).ok().as_deref(), theirs);
            for file in env.store().files(&id) {
                env.store().delete_file(&id, &file.id);
            }
        }
    });
}

#[test]
fn a_file_made_by_someone_else_is_seen_within_the_ttl() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "300ms"]);
        assert!(mount.names("c").is_empty());
        assert!(!mount.path("c/f").exists());
        env.store().put_model_file(&id, "/mnt/data/f", b"new");
        wait_until("the file is seen", || mount.path("c/f").exists());
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"new");
        let file = env.store().files(&id)[0].id.clone();
        env.store().delete_file(&id, &file);
        wait_until("it is seen to go", || !mount.path("c/f").exists());
        env.container("later");
        wait_until("a container is seen", || mount.path("later").exists());
    });
}

#[test]
fn a_new_version_from_elsewhere_is_another_inode_with_its_own_bytes() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let old = env.store().put_upload(&id, "f", b"the old bytes");
        let mount = env.mount(&["--ttl", "300ms"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"the old bytes");
        let before = ino(&mount.path("c/f"));
        env.store().delete_file(&id, &old);
        env.store().put_upload(&id, "f", b"new ones");
        wait_until("the new version is read", || {
            fs::read(mount.path("c/f")).is_ok_and(|bytes| bytes == b"new ones")
        });
        assert_ne!(ino(&mount.path("c/f")), before);
    });
}

#[test]
fn a_file_rewritten_under_the_same_id_is_trusted_for_the_content_ttl_only() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f", b"one");
        let mount = env.mount(&["--ttl", "200ms", "--content-ttl", "200ms"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"one");
        let file = env.store().files(&id)[0].id.clone();
        env.store().rewrite_model_file(&id, &file, b"and longer");
        wait_until("the new bytes are read", || {
            fs::read(mount.path("c/f")).is_ok_and(|bytes| bytes == b"and longer")
        });
        assert_eq!(fs::metadata(mount.path("c/f")).unwrap().len(), 10);
    });
}

#[test]
fn a_phantom_disappears() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_phantom(&id, "/mnt/data/ghost.txt");
        env.store().put_model_file(&id, "/mnt/data/real.txt", b"x");
        let mount = env.mount(&[]);
        assert!(fs::metadata(mount.path("c/ghost.txt")).is_err());
        wait_until("it is gone", || mount.names("c") == ["real.txt"]);
        assert_eq!(fs::read(mount.path("c/real.txt")).unwrap(), b"x");
    });
}

#[test]
fn a_phantom_that_turns_out_to_be_there_is_shown_again() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f", b"bytes");
        let mount = env.mount(&["--ttl", "100ms", "--content-ttl", "500ms"]);
        let missing = Fault::Status { code: 404, body: None, headers: BTreeMap::new() };
        env.emulator.faults().inject(FaultRule::once(Kind::Content, missing));
        assert_eq!(errno(fs::metadata(mount.path("c/f"))), libc::ENOENT);
        wait_until("it is shown again", || mount.names("c") == ["f"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes");
        assert_eq!(env.count(Kind::Content), 2);
    });
}

#[test]
fn a_phantom_is_asked_for_once_in_a_content_ttl_and_behind_lists_only() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_phantom(&id, "/mnt/data/ghost.txt");
        let begun = Instant::now();
        let content_ttl = Duration::from_millis(400);
        let mount = env.mount(&["--ttl", "50ms", "--content-ttl", "400ms"]);
        wait_until("it is gone", || mount.names("c").is_empty());
        wait_until("it is asked for again", || {
            assert!(mount.names("c").is_empty(), "nobody is shown it meanwhile");
            env.count(Kind::Content) > 2
        });
        let most = begun.elapsed().as_millis() / content_ttl.as_millis() + 1;
        assert!(env.count(Kind::Content) as u128 <= most, "{} of {most}", env.count(Kind::Content));
        thread::sleep(2 * content_ttl);
        env.emulator.forget_requests();
        thread::sleep(3 * content_ttl);
        assert!(env.emulator.requests().is_empty(), "nobody asks");
    });
}

#[test]
fn a_cut_body_is_taken_up_again() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.bin", &noise(3 << 20));
        let mount = env.mount(&[]);
        env.emulator.faults().inject(FaultRule::once(Kind::Content, Fault::CutBody { after: 1 << 20 }));
        assert_eq!(sha256(&fs::read(mount.path("c/f.bin")).unwrap()), sha256(&noise(3 << 20)));
        assert_eq!(env.count(Kind::Content), 2);
    });
}

#[test]
fn a_cut_body_is_not_taken_up_with_the_bytes_of_another_version() {
    // What comes by range and is as long as before cannot be told apart.
    for (ranges, len) in
        [(true, 2 << 20), (true, 4 << 20), (false, 2 << 20), (false, 3 << 20), (false, 4 << 20)]
    {
        let mut config = Config::new(Profile::Plain);
        config.quirks.ranges = ranges;
        if fuse_is_missing() {
            return;
        }
        let env = Env::of(config);
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f", &vec![b'1'; 3 << 20]);
        let file = env.store().files(&id)[0].id.clone();
        let mount = env.mount(&["--no-prefetch"]);
        let faults = env.emulator.faults();
        faults.inject(FaultRule::once(Kind::Content, Fault::CutBody { after: 1 << 20 }));
        faults.inject(FaultRule::once(Kind::Content, Fault::Delay { millis: 700 }));
        let read = thread::scope(|scope| {
            let reader = scope.spawn(|| fs::read(mount.path("c/f")));
            wait_until("the rest is asked for", || env.count(Kind::Content) == 2);
            env.store().rewrite_model_file(&id, &file, &vec![b'2'; len]);
            reader.join().unwrap()
        });
        let read = read.map(|bytes| bytes.len()).map_err(|error| error.raw_os_error());
        assert_eq!(read, Err(Some(libc::ESTALE)), "ranges {ranges}, {len} bytes");
        let again = fs::read(mount.path("c/f")).unwrap();
        let (is_new, got) = (again == vec![b'2'; len], again.len());
        assert!(is_new, "opened again: {got} bytes of {len}, ranges {ranges}");
    }
}

#[test]
fn a_reader_gets_bytes_before_the_last_one_has_arrived() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.bin", &noise(2 << 20));
        let mount = env.mount(&["--timeout", "2s"]);
        env.inject(Kind::Content, Fault::HangMidBody { after: 1 << 20 });
        let file = fs::File::open(mount.path("c/f.bin")).unwrap();
        let mut start = vec![0; 64 << 10];
        file.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(start, noise(64 << 10));
    });
}

#[test]
fn any_part_of_a_file_is_right_in_any_order() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let bytes = noise(1_234_567);
        env.store().put_upload(&id, "f.bin", &bytes);
        let mount = env.mount(&[]);
        let file = fs::File::open(mount.path("c/f.bin")).unwrap();
        for (offset, len) in
            [(1_234_000, 567), (0, 10), (600_000, 100_000), (1_234_566, 1), (99, 1), (4095, 2)]
        {
            let mut part = vec![0; len];
            file.read_exact_at(&mut part, offset).unwrap();
            let start = usize::try_from(offset).unwrap();
            assert_eq!(part, bytes[start..start + len], "{offset}");
        }
        assert_eq!(file.read_at(&mut [0; 9], 1_234_567).unwrap(), 0, "the end is the end");
    });
}

#[test]
fn content_survives_a_remount_in_the_cache() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.bin", &noise(500_000));
        let mount = env.mount(&[]);
        fs::read(mount.path("c/f.bin")).unwrap();
        mount.unmount(env);
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        assert_eq!(fs::read(mount.path("c/f.bin")).unwrap(), noise(500_000));
        assert_eq!(env.count(Kind::Content), 0);
    });
}

#[test]
fn an_idle_mount_makes_no_request() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f", b"x");
        let mount = env.mount(&["--ttl", "100ms"]);
        mount.sh("", "ls -lR . && cat c/f");
        thread::sleep(Duration::from_millis(500));
        env.emulator.forget_requests();
        thread::sleep(Duration::from_secs(3));
        assert!(env.emulator.requests().is_empty(), "{:?}", env.emulator.requests());
    });
}

#[test]
fn ten_thousand_files_are_listed_and_walked() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let files = (0..10_000).map(|number| (format!("/mnt/data/d{}/f{number:05}.txt", number % 10), b"x"));
        env.store().put_many(&id, files);
        let mount = env.mount(&["--ttl", "1h", "--content-ttl", "1h"]);
        let found = mount.sh("c", "find . -type f | wc -l");
        assert_eq!(found.trim(), "10000");
        assert_eq!(mount.names("c").len(), 10);
        assert_eq!(mount.names("c/d3").len(), 1000);
        let mut bytes = String::new();
        fs::File::open(mount.path("c/d3/f00003.txt")).unwrap().read_to_string(&mut bytes).unwrap();
        assert_eq!(bytes, "x");
        assert!(env.count(Kind::ListFiles) <= 102, "{}", env.count(Kind::ListFiles));
    });
}

#[test]
fn the_tools_that_people_use_work() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/a.txt", b"needle\n");
        env.store().put_model_file(&id, "/mnt/data/sub/b.txt", b"hay\nneedle\n");
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("", "grep -rl needle . | sort"), "./c/a.txt\n./c/sub/b.txt\n");
        assert_eq!(mount.sh("c", "find . -name '*.txt' -size -2k | sort"), "./a.txt\n./sub/b.txt\n");
        assert_eq!(mount.sh("c", "du -b a.txt sub/b.txt | cut -f1 | tr '\\n' ' '"), "7 11 ");
        assert!(mount.sh("", "df . | tail -1").contains("containerfs"));
        let copy = env.dir.path().join("copy");
        mount.sh("", &format!("cp -r c {0} && diff -r c {0}", copy.display()));
        mount.sh("c", "cp a.txt copy.txt && cmp a.txt copy.txt");
        mount.sh("c", "tail -c 4 a.txt && head -1 sub/b.txt && wc -l sub/b.txt");
    });
}

#[test]
fn a_shell_stays_in_its_directory_when_the_listing_is_refreshed() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/sub/f", b"x");
        let mount = env.mount(&["--ttl", "200ms"]);
        let script = "cd c/sub && for i in 1 2 3 4; do sleep 0.15; /bin/pwd; ls; done";
        let expected = format!("{}\nf\n", mount.path("c/sub").display()).repeat(4);
        assert_eq!(mount.sh("", script), expected);
    });
}

#[test]
fn a_file_that_was_only_read_is_closed_without_a_call() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--log-level", "debug", "--log-format", "json"]);
        let called = |operation: &str| {
            let operation = format!("\"operation\":\"{operation}\"");
            mount.log().lines().any(|line| line.contains("\"us\":") && line.contains(&operation))
        };
        assert_eq!(mount.sh("c", "cat f"), "bytes");
        wait_until("it is released", || called("release"));
        assert!(!called("close"), "{}", mount.log());
        mount.sh("c", "echo more >> f");
        wait_until("the writer is asked about", || called("close"));
    });
}

#[test]
fn the_kernel_reads_far_ahead_for_root() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let device = fs::metadata(&mount.dir).unwrap().dev();
        let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
        let granted =
            nix::unistd::geteuid().is_root() && fs::OpenOptions::new().write(true).open(&setting).is_ok();
        if is_missing("root, or a /sys that it may write to", !granted) {
            return;
        }
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "4096");
    });
}
