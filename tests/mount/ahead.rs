//! Files that are read one after the other: fetched ahead, and their lists renewed in time; lists that take
//! long.

use std::fs;
use std::thread;
use std::time::Duration;

use containerfs::emulator::{Fault, Kind};

use crate::env::{Env, Mount, noise, on_both_profiles, on_openai, on_plain, wait_until};

#[test]
fn files_that_are_read_in_order_are_fetched_ahead_and_each_once() {
    let mounted = |env: &Env| {
        let id = env.container("c");
        let files =
            (0..100).map(|number| (format!("/mnt/data/d{}/f{number:03}", number / 50), noise(2000 + number)));
        env.store().put_many(&id, files);
        env.emulator.set_latency(Duration::from_millis(100));
        env.mount(&["--ttl", "1h"])
    };
    let copied = |env: &Env, mount: &Mount| {
        let copy = env.dir.path().join("copy");
        mount.sh("", &format!("cp -r c {0} && diff -r c {0}", copy.display()));
        assert_eq!(env.count(Kind::Content), 100, "each file once");
    };
    on_plain(|env| {
        let mount = mounted(env);
        mount.sh("c", "ls -R > /dev/null; cat d0/f000 > /dev/null");
        thread::sleep(Duration::from_millis(300));
        assert_eq!(env.count(Kind::Content), 1, "a single file costs nothing more");
        mount.sh("c", "cat d0/f001 d0/f002 d0/f003 > /dev/null");
        assert!(env.count(Kind::Content) > 10, "{}", env.count(Kind::Content));
        copied(env, &mount);
    });
    // Here each is fetched for its length, too.
    on_openai(|env| copied(env, &mounted(env)));
}

#[test]
fn nothing_is_fetched_ahead_out_of_order_or_when_it_is_forbidden() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for number in 0..40 {
            env.store().put_upload(&id, &format!("f{number:02}"), b"x");
        }
        let mount = env.mount(&["--no-prefetch"]);
        mount.sh("c", "cat f00 f01 f02 f03");
        assert_eq!(env.count(Kind::Content), 4);
        drop(mount);
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        mount.sh("c", "for f in f30 f10 f39 f05 f22; do cat $f; done");
        assert_eq!(env.count(Kind::Content), 5);
    });
}

#[test]
fn what_is_fetched_ahead_is_bounded_in_bytes_and_nothing_is_fetched_twice() {
    let read_in_order = |env: &Env, flags: &[&str], files: usize, read: usize, len: usize| {
        let id = env.container("c");
        let bytes = noise(len);
        env.store()
            .put_many(&id, (0..files).map(|number| (format!("/mnt/data/f{number:03}"), bytes.as_slice())));
        let mount = env.mount(flags);
        mount.sh("c", &format!("ls > /dev/null; cat $(ls | head -n {read}) > /dev/null"));
        // Whatever else was asked for.
        thread::sleep(Duration::from_millis(500));
        env.count(Kind::Content)
    };
    on_plain(|env| {
        let fetched = read_in_order(env, &[], 100, 12, 1 << 20);
        assert!((20..=12 + 32).contains(&fetched), "{fetched}");
    });
    on_plain(|env| assert_eq!(read_in_order(env, &["--cache-size", "8MiB"], 60, 60, 1 << 20), 60));
    on_plain(|env| assert_eq!(read_in_order(env, &["--cache-size", "16MiB"], 80, 80, 900 << 10), 80));
}

#[test]
fn lists_are_renewed_amid_a_run_before_anybody_has_to_wait_for_them() {
    on_openai(|env| {
        let id = env.container("c");
        for number in 0..80 {
            env.store().put_upload(&id, &format!("f{number:02}"), b"x");
        }
        let mount = env.mount(&["--ttl", "10s"]);
        mount.sh("c", "ls -l > /dev/null");
        let lists = || (env.count(Kind::ListContainers), env.count(Kind::ListFiles));
        thread::sleep(Duration::from_millis(6200));
        assert_eq!(lists(), (1, 1), "nobody asks");
        fs::read(mount.path("c/f70")).unwrap();
        assert_eq!(lists(), (1, 1), "a single file is no run");
        for number in 0..80 {
            fs::read(mount.path(&format!("c/f{number:02}"))).unwrap();
        }
        // Well before the ten seconds are over, after which somebody would have waited for them.
        wait_until("both lists are renewed", || lists() == (2, 2));
    });
}

#[test]
fn lists_are_renewed_amid_a_run_of_new_files() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&["--ttl", "10s"]);
        assert!(mount.names("c").is_empty());
        let lists = || (env.count(Kind::ListContainers), env.count(Kind::ListFiles));
        assert_eq!(lists(), (1, 1));
        thread::sleep(Duration::from_millis(6200));
        fs::write(mount.path("c/first"), "x").unwrap();
        assert_eq!(lists(), (1, 1), "a single file is no run");
        for number in 0..20 {
            fs::write(mount.path(&format!("c/f{number:02}")), "x").unwrap();
        }
        wait_until("both lists are renewed", || lists() == (2, 2));
        assert_eq!(mount.names("c").len(), 21);
        assert_eq!(lists(), (2, 2));
    });
}

#[test]
fn a_list_that_takes_longer_than_its_ttl_is_not_fetched_for_every_file() {
    on_openai(|env| {
        let id = env.container("c");
        for number in 0..40 {
            env.store().put_upload(&id, &format!("f{number:02}"), b"x");
        }
        let mount = env.mount(&["--ttl", "500ms"]);
        env.inject(Kind::ListFiles, Fault::Delay { millis: 800 });
        env.emulator.forget_requests();
        mount.sh("c", "ls -l > /dev/null; cat f*");
        assert!(env.count(Kind::ListFiles) < 10, "{} lists", env.count(Kind::ListFiles));
    });
}
