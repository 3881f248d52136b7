//! What comes first: a read that somebody waits for, then what is fetched ahead, then uploads behind their
//! closes.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use containerfs::emulator::{Fault, FaultRule, Kind};

use crate::env::{Env, errno, noise, on_openai, on_plain, save, wait_until};

const ROUND_TRIP: Duration = Duration::from_millis(500);

/// Too many requests; a second later it may be otherwise.
fn limited() -> Fault {
    let headers = BTreeMap::from([("retry-after".to_owned(), "1".to_owned())]);
    Fault::Status { code: 429, body: None, headers }
}

/// The requests for content, the first first, as the names of the files.
fn fetched(env: &Env, ids: &BTreeMap<String, String>) -> Vec<String> {
    let requests = env.emulator.requests();
    let contents = requests.iter().filter(|request| request.kind == Kind::Content);
    let name = |path: &str| ids.iter().find(|(id, _)| path.contains(id.as_str())).unwrap().1.clone();
    contents.map(|request| name(&request.path)).collect()
}

fn files(env: &Env, count: usize) -> BTreeMap<String, String> {
    let id = env.container("c");
    let files = (0..count).map(|number| (format!("/mnt/data/f{number:03}"), noise(1000)));
    env.store().put_many(&id, files);
    env.store().files(&id).into_iter().map(|file| (file.id, file.path.replace("/mnt/data/", ""))).collect()
}

#[test]
fn a_read_overtakes_what_is_fetched_ahead() {
    on_openai(|env| {
        let ids = files(env, 400);
        for (flags, at_once) in [
            (&["--max-connections", "4"][..], 4),
            (&["--max-connections", "1"][..], 1),
            // One after the other, and ten at once when it begins.
            (&["--max-requests-per-minute", "100"][..], 10),
        ] {
            // From the first list on, after which all lengths are asked for.
            env.emulator.set_latency(ROUND_TRIP);
            let mount = env.mount(flags);
            mount.sh("c", "ls > /dev/null");
            env.emulator.forget_requests();
            mount.sh("c", "cat f000 f001 f002 > /dev/null");
            let before = fetched(env, &ids).len();
            mount.sh("c", "cat f390 > /dev/null");
            let order = fetched(env, &ids);
            assert!(
                env.count(Kind::Content) < 360,
                "{flags:?}: it was not fetched with all the others: {order:?}"
            );
            let place = order.iter().position(|name| name == "f390").unwrap();
            assert!(place <= before + at_once, "{flags:?}: {place} of {before} and then {order:?}");
            env.emulator.set_latency(Duration::ZERO);
        }
    });
}

#[test]
fn what_is_fetched_ahead_is_urgent_once_it_is_read() {
    on_openai(|env| {
        let ids = files(env, 100);
        env.emulator.set_latency(ROUND_TRIP);
        let mount = env.mount(&["--max-connections", "2"]);
        mount.sh("c", "ls > /dev/null");
        env.emulator.forget_requests();
        mount.sh("c", "cat f000 f001 > /dev/null");
        let before = fetched(env, &ids).len();
        // The last one of the window that has opened.
        mount.sh("c", "cat f017 > /dev/null");
        let order = fetched(env, &ids);
        let place = order.iter().position(|name| name == "f017").unwrap();
        assert!(place <= before + 2, "{place} of {before} and then {order:?}");
    });
}

#[test]
fn a_read_does_not_wait_for_uploads_that_nobody_waits_for() {
    on_openai(|env| {
        let ids = files(env, 1);
        let mount = env.mount(&["--write-back", "--write-back-delay", "0s", "--max-connections", "2"]);
        mount.sh("c", "ls > /dev/null");
        env.emulator.set_latency(Duration::from_millis(300));
        for number in 0..12 {
            assert_eq!(save(&mount.path(&format!("c/new{number}")), b"new"), Ok(()));
        }
        wait_until("the first are on their way", || env.count(Kind::Upload) >= 2);
        mount.sh("c", "cat f000 > /dev/null");
        assert!(env.count(Kind::Upload) <= 6, "{} went first", env.count(Kind::Upload));
        assert_eq!(fetched(env, &ids), ["f000"]);
        env.emulator.set_latency(Duration::ZERO);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.count(Kind::Upload), 12);
    });
}

#[test]
fn a_429_stops_what_nobody_waits_for_and_slows_the_rest() {
    // Where lengths have to be found out, files are fetched for these.
    on_plain(|env| {
        let ids = files(env, 100);
        let mount = env.mount(&[]);
        mount.sh("c", "ls > /dev/null; cat f000 > /dev/null");
        env.emulator.set_latency(Duration::from_millis(50));
        env.emulator.faults().inject(FaultRule::once(Kind::Content, limited()));
        env.emulator.forget_requests();
        mount.sh("c", "cat f001 f002 > /dev/null");
        thread::sleep(Duration::from_secs(2));
        let after = fetched(env, &ids).len();
        assert!(after <= 40, "{after}");
        mount.sh("c", "cat f060 f061 f062 f063 > /dev/null");
        assert_eq!(fetched(env, &ids).len(), after + 4, "nothing is fetched ahead for a while");
        // A program that waits is served all the same.
        for number in 0..100 {
            assert_eq!(fs::read(mount.path(&format!("c/f{number:03}"))).unwrap().len(), 1000);
        }
    });
}

#[test]
fn lengths_that_nobody_waits_for_are_not_asked_for_after_a_429_until_one_is_told_again() {
    on_openai(|env| {
        let ids = files(env, 60);
        env.inject(Kind::Content, limited());
        let (timeout, at_once) = (Duration::from_secs(5), 8);
        let mount = env.mount(&["--timeout", "5s", "--max-connections", "8"]);
        mount.sh("c", "ls > /dev/null");
        wait_until("lengths are asked for", || env.count(Kind::Content) > 0);
        thread::sleep(Duration::from_secs(4));
        let asked = fetched(env, &ids);
        assert!(asked.len() <= at_once, "{asked:?}");

        env.emulator.forget_requests();
        let begun = Instant::now();
        assert_eq!(errno(fs::metadata(mount.path("c/f050"))), libc::EBUSY);
        assert!(begun.elapsed() < timeout * 2, "it has waited for others: {:?}", begun.elapsed());
        assert_eq!(fetched(env, &ids), ["f050"; 3], "it alone, and with its repetitions");
        mount.sh("c", "ls > /dev/null");
        assert_eq!(env.count(Kind::Content), 3);

        env.emulator.faults().clear();
        assert_eq!(fs::metadata(mount.path("c/f050")).unwrap().len(), 1000);
        wait_until("the others are asked for again", || {
            let asked = fetched(env, &ids);
            ids.values().all(|name| asked.contains(name))
        });
    });
}
