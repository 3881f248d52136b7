//! Reads far from the start of a large file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use containerfs::emulator::{Config, Fault, FaultRule, Kind, Profile};

use crate::env::{Env, Mount, fuse_is_missing, noise, on_openai, sha256, wait_until};

const LEN: usize = 48 << 20;

fn on_a_server_with_ranges(test: impl Fn(&Env)) {
    if !fuse_is_missing() {
        test(&Env::of(Config::new(Profile::Plain)));
    }
}

fn large(env: &Env, flags: &[&str]) -> (Mount, Vec<u8>) {
    let (id, bytes) = (env.container("c"), noise(LEN));
    env.store().put_upload(&id, "large", &bytes);
    let mount = env.mount(flags);
    mount.sh("c", "ls -l large > /dev/null");
    (mount, bytes)
}

fn read(file: &File, offset: usize, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset as u64).unwrap();
    buffer
}

/// The replies to requests for content, by status.
fn replies(env: &Env) -> Vec<u16> {
    let requests = env.emulator.requests();
    requests.iter().filter(|request| request.kind == Kind::Content).map(|request| request.status).collect()
}

/// Downloads that have not ended.
fn under_way(env: &Env, mount: &Mount) -> u64 {
    let output = env.command(&["status", "--json"]).arg(&mount.dir).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status[0]["downloads"].as_u64().unwrap()
}

fn slow() -> FaultRule {
    FaultRule::always(Kind::Content, Fault::Throttle { bytes_per_second: 1 << 20 })
}

#[test]
fn a_seek_far_ahead_does_not_wait_for_what_lies_before() {
    on_a_server_with_ranges(|env| {
        let (mount, bytes) = large(env, &[]);
        env.emulator.faults().inject(slow());
        let file = File::open(mount.path("c/large")).unwrap();
        assert_eq!(read(&file, 0, 10), bytes[..10]);
        assert_eq!(read(&file, LEN - 100, 100), bytes[LEN - 100..], "the footer of a table");
        assert_eq!(read(&file, 20 << 20, 5000), bytes[20 << 20..][..5000]);
        assert_eq!(under_way(env, &mount), 1, "neither waited for the whole file");
        env.emulator.faults().clear();
        let partial = replies(env).iter().filter(|status| **status == 206).count();
        assert!((2..=6).contains(&partial), "{:?}", replies(env));
    });
}

#[test]
fn pieces_and_the_stream_make_the_same_file() {
    on_a_server_with_ranges(|env| {
        let (mount, bytes) = large(env, &[]);
        env.emulator.set_latency(Duration::from_millis(20));
        let file = File::open(mount.path("c/large")).unwrap();
        for place in [47, 5, 33, 34, 35, 12, 46, 20, 21, 0, 40] {
            let offset = (place << 20) + 4090;
            assert_eq!(read(&file, offset, 300_000), bytes[offset..][..300_000], "{place}");
        }
        wait_until("the whole file is here", || under_way(env, &mount) == 0);
        drop(file);
        env.emulator.forget_requests();
        let copied = mount.sh("c", "sha256sum < large");
        assert_eq!(copied.split_whitespace().next().unwrap(), sha256(&bytes));
        assert_eq!(replies(env), Vec::<u16>::new(), "and it is in the cache");
    });
}

#[test]
fn reading_from_the_start_is_one_request() {
    on_a_server_with_ranges(|env| {
        let (mount, bytes) = large(env, &[]);
        let copied = mount.sh("c", "sha256sum < large");
        assert_eq!(copied.split_whitespace().next().unwrap(), sha256(&bytes));
        assert_eq!(replies(env), [200]);
    });
}

#[test]
fn a_piece_that_fails_is_waited_for() {
    on_a_server_with_ranges(|env| {
        let (mount, bytes) = large(env, &["--timeout", "2s"]);
        env.emulator
            .faults()
            .inject(FaultRule { skip: 1, ..FaultRule::always(Kind::Content, Fault::CutBody { after: 10 }) });
        env.emulator
            .faults()
            .inject(FaultRule::once(Kind::Content, Fault::Throttle { bytes_per_second: 24 << 20 }));
        let file = File::open(mount.path("c/large")).unwrap();
        assert_eq!(read(&file, LEN - 100, 100), bytes[LEN - 100..]);
    });
}

#[test]
fn a_server_without_ranges_is_asked_once() {
    on_openai(|env| {
        let (mount, bytes) = large(env, &[]);
        let file = File::open(mount.path("c/large")).unwrap();
        assert_eq!(read(&file, LEN - 100, 100), bytes[LEN - 100..]);
        assert_eq!(read(&file, 20 << 20, 5000), bytes[20 << 20..][..5000]);
        assert_eq!(replies(env), [200]);
    });
}
