//! The file system exerciser, on a server that behaves and on one that does not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use containerfs::emulator::{Fault, FaultRule, Kind};

use crate::env::{Env, Mount, failure, lost_answer, on_openai, tool, wait_until};
use crate::tools::{WRITE_BACK, again};

/// The file system exerciser, 10,000 operations in each mode; `CONTAINERFS_FSX=100000` for more.
#[test]
fn fsx_finds_nothing_amiss() {
    let Some(fsx) = tool("fsx") else { return };
    let operations = std::env::var("CONTAINERFS_FSX").unwrap_or_else(|_| "10000".to_owned());
    on_openai(|env| {
        let id = env.container("c");
        for (seed, flags) in ["7", "11"].iter().zip([&[], WRITE_BACK]) {
            let mount = env.mount(flags);
            let run = exercise(&fsx, env, &mount, "", &operations, seed);
            assert!(run.status.success(), "{flags:?}: {}", said(&run));
            let bytes = fs::read(mount.path("c/f")).unwrap();
            let mount = again(env, mount, flags);
            assert!(fs::read(mount.path("c/f")).unwrap() == bytes, "after a remount with a cold cache");
            assert!(env.bytes_on_server(&id, "f") == bytes);
            fs::remove_file(mount.path("c/f")).unwrap();
            assert_eq!(mount.unmount(env), (0, 0));
        }
    });
}

fn exercise(fsx: &Path, env: &Env, mount: &Mount, settings: &str, operations: &str, seed: &str) -> Output {
    let config = env.dir.path().join("fsx.toml");
    fs::write(&config, settings).unwrap();
    Command::new(fsx)
        .args(["-q", "-N", operations, "-S", seed, "-P"])
        .arg(env.dir.path())
        .arg("-f")
        .arg(config)
        .arg("f")
        .current_dir(mount.path("c"))
        .output()
        .unwrap()
}

fn said(run: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&run.stdout))
}

/// A request of a kind meets one of `faults`, two pass, and so on.
fn spoil_every_third(env: &Env, kind: Kind, faults: &[Fault]) {
    for (number, fault) in (0_u32..500).zip(faults.iter().cycle()) {
        let rule = FaultRule { skip: 2 * number, ..FaultRule::once(kind, fault.clone()) };
        env.emulator.faults().inject(rule);
    }
}

/// Every third request fails. `uploads_fail`: also POSTs that may have happened and are not sent again.
fn spoil_everything(env: &Env, uploads_fail: bool) {
    let status = |code, wait: &[(&str, &str)]| {
        let headers: BTreeMap<_, _> = wait.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Fault::Status { code, body: None, headers }
    };
    let soon = [("retry-after-ms", "20")];
    let (busy, broken) = (status(429, &soon), status(500, &soon));
    let cut = Fault::CutBody { after: 1000 };
    let (before, after) = (Fault::ResetBefore, Fault::ResetAfter);
    spoil_every_third(env, Kind::Content, &[broken.clone(), cut, before.clone(), busy.clone()]);
    let requests = [broken, before, busy.clone(), after];
    spoil_every_third(env, Kind::DeleteFile, &requests);
    spoil_every_third(env, Kind::ListFiles, &requests);
    // A POST is repeated if the server says that it did nothing, or a list does.
    let headers = soon.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let uploads = match uploads_fail {
        true => vec![failure(), lost_answer(), busy],
        false => vec![busy, status(503, &soon), Fault::StatusAfter { code: 500, headers }],
    };
    spoil_every_third(env, Kind::Upload, &uploads);
}

/// A run of `fsx` while every third request fails. The bytes that it leaves are right here, after a remount,
/// and on the server.
fn exercise_amid_faults(settings: &str, uploads_fail: bool, check: impl Fn(&Output)) {
    let Some(fsx) = tool("fsx") else { return };
    let operations = std::env::var("CONTAINERFS_FSX_FAULTS").unwrap_or_else(|_| "2000".to_owned());
    for (seed, mode) in ["3", "5"].iter().zip([&[], WRITE_BACK]) {
        on_openai(|env| {
            let id = env.container("c");
            // Nothing stays in the cache, so that every open that reads asks the server.
            let flags = [&["--cache-size", "1KiB", "--memory-cache", "0B"], mode].concat();
            let mount = env.mount(&flags);
            spoil_everything(env, uploads_fail);
            let run = exercise(&fsx, env, &mount, settings, &operations, seed);
            check(&run);
            wait_until("a request fails", || {
                env.emulator.requests().iter().any(|request| request.status >= 429)
            });
            env.emulator.faults().clear();
            let bytes = fs::read(mount.path("c/f")).unwrap();
            let mount = again(env, mount, &flags);
            assert!(fs::read(mount.path("c/f")).unwrap() == bytes, "after a remount");
            wait_until("one version is left", || env.versions(&id, "f").len() == 1);
            assert!(env.bytes_on_server(&id, "f") == bytes);
            assert_eq!(mount.unmount(env), (0, 0));
        });
    }
}

fn succeeds(run: &Output) {
    assert!(run.status.success(), "{}", said(run));
}

/// `fsx` does not look at what `close` says; what failed is sent by a later close.
/// `CONTAINERFS_FSX_FAULTS=20000` for more operations.
#[test]
fn fsx_finds_no_wrong_byte_when_every_third_request_fails() {
    exercise_amid_faults("nomsyncafterwrite = true\n[weights]\nclose_open = 3", true, succeeds);
}

#[test]
fn fsx_sees_no_fault_that_can_be_repaired() {
    exercise_amid_faults("[weights]\nclose_open = 1\nmapwrite = 1\nfsync = 1", false, succeeds);
}

#[test]
fn a_sync_that_failed_says_so_and_loses_nothing() {
    exercise_amid_faults("[weights]\nfsync = 1", true, |run| {
        // Its own words for wrong bytes are others, and its own exit code is 1.
        let is_told = said(run).contains("EIO") || said(run).contains("os error 5");
        assert!(run.status.success() || is_told && run.status.code() == Some(101), "{}", said(run));
    });
}
