//! Random operations, remote changes, faults, remounts and crashes, against a reference of a few lines. No
//! kernel is in the loop: the filesystem itself is driven.
#![allow(clippy::unwrap_used, missing_docs)]

mod held;
mod reference;
mod regressions;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use containerfs::emulator::{Fault, FaultRule, Kind, Profile, ReplaceByName};
use containerfs::vfs::Left;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

use crate::reference::{Bytes, Expected, Reference};
use crate::world::World;

/// Names that only this mount writes.
const PATHS: [&str; 6] = ["a", "b.txt", "d/a", "d/b", "e/a", "d/f/a"];
const DIRECTORIES: [&str; 4] = ["d", "e", "d/f", "g"];
/// Names of what tools write beside a file: two that stay here, and one that is sent if it stays.
const SCRATCH: [&str; 3] = ["a~", "d/b~", DEFERRED];
const DEFERRED: &str = "sedAbCdEf";
/// Longer than all steps take.
const LAGS_TO_THE_END: Duration = Duration::from_secs(600);
/// Names that somebody else writes, and that are renamed and removed here.
const REMOTE: [&str; 2] = ["r1.csv", "r2.csv"];

#[derive(Clone, Debug)]
enum Step {
    Save(&'static str, Bytes),
    Append(&'static str, Bytes),
    Truncate(&'static str, usize),
    Unlink(&'static str),
    Rename(&'static str, &'static str),
    Mkdir(&'static str),
    Rmdir(&'static str),
    RemoteWrite(&'static str, Bytes),
    RemoteDelete(&'static str),
    /// Opens a file, empties it and writes; it stays open.
    Hold(&'static str, Bytes),
    WriteHeld(Bytes),
    SyncHeld,
    CloseHeld,
    Look,
    Fault(Kind, Fault),
    Remount,
    Crash,
}

#[derive(Clone, Debug)]
struct Setting {
    profile: Profile,
    replace: ReplaceByName,
    write_back: Option<Duration>,
    lag: Lag,
}

/// How long lists miss what was uploaded, and show what was deleted.
#[derive(Clone, Copy, Debug, Default)]
struct Lag {
    uploads: Duration,
    deletes: Duration,
}

fn bytes() -> impl Strategy<Value = Bytes> {
    let bytes = prop_oneof![
        1 => Just(Vec::new()),
        6 => prop::collection::vec(any::<u8>(), 1..24),
        1 => (any::<u8>(), 4000..9000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    bytes.prop_map(Bytes)
}

fn faults() -> impl Strategy<Value = Step> {
    let status = |code| Fault::Status { code, body: None, headers: BTreeMap::new() };
    let fault = prop_oneof![
        Just(Fault::ResetBefore),
        Just(Fault::ResetAfter),
        Just(status(500)),
        Just(status(400)),
        Just(status(429)),
    ];
    let kind = prop_oneof![3 => Just(Kind::Upload), 1 => Just(Kind::DeleteFile), 1 => Just(Kind::Content)];
    (kind, fault).prop_map(|(kind, fault)| Step::Fault(kind, fault))
}

fn step() -> impl Strategy<Value = Step> {
    let path = || {
        let of = |paths: &[&'static str]| prop::sample::select(paths.to_vec());
        prop_oneof![5 => of(&PATHS), 1 => of(&SCRATCH)]
    };
    let any_path = || prop_oneof![4 => path(), 1 => prop::sample::select(REMOTE.to_vec())];
    let directory = || prop::sample::select(DIRECTORIES.to_vec());
    let remote = || prop::sample::select(REMOTE.to_vec());
    prop_oneof![
        8 => (path(), bytes()).prop_map(|(path, bytes)| Step::Save(path, bytes)),
        3 => (path(), bytes()).prop_map(|(path, bytes)| Step::Append(path, bytes)),
        2 => (path(), 0..30_usize).prop_map(|(path, len)| Step::Truncate(path, len)),
        3 => any_path().prop_map(Step::Unlink),
        4 => (any_path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (directory(), directory()).prop_map(|(from, to)| Step::Rename(from, to)),
        5 => directory().prop_map(Step::Mkdir),
        1 => directory().prop_map(Step::Rmdir),
        2 => (remote(), bytes()).prop_map(|(path, bytes)| Step::RemoteWrite(path, bytes)),
        1 => remote().prop_map(Step::RemoteDelete),
        2 => (path(), bytes()).prop_map(|(path, bytes)| Step::Hold(path, bytes)),
        1 => bytes().prop_map(Step::WriteHeld),
        1 => Just(Step::SyncHeld),
        2 => Just(Step::CloseHeld),
        4 => Just(Step::Look),
        2 => faults(),
        1 => Just(Step::Remount),
        2 => Just(Step::Crash),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    let profile = prop_oneof![Just(Profile::Openai), Just(Profile::Plain)];
    let replace =
        prop_oneof![Just(ReplaceByName::Second), Just(ReplaceByName::Replace), Just(ReplaceByName::SameId)];
    let write_back =
        prop_oneof![Just(None), Just(Some(Duration::ZERO)), Just(Some(Duration::from_secs(3600)))];
    (profile, replace, write_back).prop_map(|(profile, replace, write_back)| Setting {
        profile,
        replace,
        write_back,
        lag: Lag::default(),
    })
}

/// No lag, one that ends between two steps, and one that ends with the steps.
fn lag() -> impl Strategy<Value = Lag> {
    let lag = || prop_oneof![3 => Just(Duration::ZERO), 1 => Just(Duration::from_millis(30)), 1 => Just(LAGS_TO_THE_END)];
    (lag(), lag()).prop_map(|(uploads, deletes)| Lag { uploads, deletes })
}

/// A call said what it should; with a fault about, it may fail.
fn check(step: &Step, expected: Expected, outcome: &Result<(), containerfs::vfs::Error>, faulty: bool) {
    match (expected, outcome) {
        (Expected::Success, Err(error)) => assert!(faulty, "{step:?} failed: {error}"),
        (Expected::Failure, Ok(())) => panic!("{step:?} succeeded"),
        _ => {}
    }
}

struct Run {
    world: World,
    lag: Lag,
    reference: Reference,
    /// Whether a fault may still wait for a request.
    faulty: bool,
    /// Whether an upload may be refused: one that runs behind its close, as that of an empty file, is told
    /// to nobody.
    refusing: bool,
    /// Whether a crash has left bytes that were never closed, which every later mount names.
    unfinished: bool,
}

impl Run {
    /// Nothing is left at the end of a mount but what has to be.
    fn check_left(&self, left: &[Left], when: &str) {
        let has_to_be = |left: &Left| self.unfinished && left.reason.contains("never closed");
        assert!(self.faulty || left.iter().all(has_to_be), "left {when}: {left:?}");
    }

    fn look(&mut self, when: &str) {
        self.world.expire();
        let seen = self.world.tree();
        let seen = match seen {
            Err(_) if self.faulty => return,
            seen => seen.unwrap_or_else(|error| panic!("{when}: {error}")),
        };
        if let Some(difference) = self.reference.differs_from(&seen) {
            panic!("{when}: {difference}\nseen {seen:?}\nexpected {:?}", self.reference);
        }
    }

    /// The version on the server that somebody else wrote under a name.
    fn remote_id(&self, name: &str) -> Option<String> {
        let path = format!("/mnt/data/{name}");
        let files = self.world.emulator.store().files(&self.world.container);
        files.into_iter().find(|file| file.path == path).map(|file| file.id)
    }

    fn step(&mut self, step: &Step) {
        if let Step::RemoteWrite(name, _) | Step::RemoteDelete(name) = step
            && !self.lag.deletes.is_zero()
            && self.remote_id(name).is_some()
        {
            // What somebody else has deleted is shown until a list says so.
            return;
        }
        let (world, reference) = (&mut self.world, &mut self.reference);
        let (faulty, refusing) = (self.faulty, self.refusing);
        match step {
            Step::Save(path, bytes) => {
                let (expected, outcome) = (reference.may_save(path), world.save(path, bytes));
                check(step, expected, &outcome, faulty);
                if expected != Expected::Failure {
                    reference.saved(
                        path,
                        bytes,
                        outcome.is_ok() && !(refusing && (bytes.0.is_empty() || *path == DEFERRED)),
                    );
                    reference.held_is_saved(path, outcome.is_ok());
                }
            }
            Step::Append(path, bytes) => {
                let (expected, outcome) = (reference.may_change(path), world.append(path, bytes));
                check(step, expected, &outcome, faulty);
                reference.appended(path, bytes, outcome.is_ok() && !(refusing && *path == DEFERRED));
                reference.held_is_saved(path, outcome.is_ok());
            }
            Step::Truncate(path, len) => {
                let (expected, outcome) = (reference.may_change(path), world.truncate(path, *len as u64));
                check(step, expected, &outcome, faulty);
                reference.truncated(
                    path,
                    *len,
                    outcome.is_ok() && !(refusing && (*len == 0 || *path == DEFERRED)),
                );
                reference.held_is_changed(path);
            }
            Step::Unlink(path) => {
                world.expire();
                let (expected, outcome) = (reference.may_change(path), world.unlink(path));
                check(step, expected, &outcome, faulty);
                reference.unlinked(path, outcome.is_ok());
                if expected != Expected::Failure {
                    reference.held_is_gone(path, outcome.is_ok());
                }
            }
            Step::Rename(directory, _) | Step::Rmdir(directory)
                if reference.held_may_return_to(directory) => {}
            Step::Rename(from, to) => {
                world.expire();
                // One that is on no server is merely renamed: its upload may be refused all the same.
                let refusing = refusing && reference.may_change(from) != Expected::Failure;
                let (expected, outcome) = (reference.may_rename(from, to), world.rename(from, to));
                check(step, expected, &outcome, faulty);
                if expected != Expected::Failure {
                    if SCRATCH.contains(to) && !SCRATCH.contains(from) {
                        reference.moves_aside(from, to);
                    }
                    reference.renamed(from, to, outcome.is_ok() && !refusing);
                    if from != to {
                        reference.held_is_gone(to, outcome.is_ok());
                        reference.held_is_moved(from, to, outcome.is_ok());
                    }
                }
            }
            Step::Mkdir(path) => {
                let (expected, outcome) = (reference.may_mkdir(path), world.mkdir(path));
                check(step, expected, &outcome, faulty);
                if outcome.is_ok() {
                    reference.made(path);
                }
            }
            Step::Rmdir(path) => {
                let (expected, outcome) = (reference.may_rmdir(path), world.rmdir(path));
                check(step, expected, &outcome, faulty);
                if outcome.is_ok() {
                    reference.removed(path);
                }
            }
            Step::RemoteWrite(name, bytes) => {
                if let Some(id) = self.remote_id(name) {
                    self.world.emulator.store().delete_file(&self.world.container, &id);
                }
                let path = format!("/mnt/data/{name}");
                self.world.emulator.store().put_model_file(&self.world.container, &path, &bytes.0);
                self.reference.saved(name, bytes, true);
            }
            Step::RemoteDelete(name) => {
                if let Some(id) = self.remote_id(name) {
                    self.world.emulator.store().delete_file(&self.world.container, &id);
                    self.reference.unlinked(name, true);
                }
            }
            // What is refused is told to whoever closes; with two who do, to one of them.
            Step::Hold(..) if reference.held.is_some() || refusing => {}
            Step::Hold(path, bytes) => {
                let (expected, outcome) = (reference.may_save(path), world.hold(path, bytes));
                check(step, expected, &outcome, faulty);
                if outcome.is_ok() {
                    reference.hold(path, bytes);
                }
            }
            Step::WriteHeld(_) | Step::SyncHeld | Step::CloseHeld if reference.held.is_none() => {}
            Step::WriteHeld(bytes) => {
                let outcome = world.write_held(bytes);
                check(step, Expected::Success, &outcome, faulty);
                if outcome.is_ok() {
                    reference.written(bytes);
                }
            }
            Step::SyncHeld => {
                let outcome = world.sync_held();
                check(step, Expected::Success, &outcome, faulty);
                reference.synced(outcome.is_ok());
            }
            Step::CloseHeld => {
                let outcome = world.close_held();
                check(step, Expected::Success, &outcome, faulty);
                reference.closed(outcome.is_ok());
            }
            Step::Look => self.look("a look"),
            // What is refused behind a close is told to nobody.
            Step::Fault(Kind::Upload, Fault::Status { code: 400, .. }) if reference.held.is_some() => {}
            Step::Fault(kind, fault) => {
                if matches!(fault, Fault::Status { code: 400, .. }) && *kind == Kind::Upload {
                    world.settle();
                    self.refusing = true;
                }
                world.inject(FaultRule::once(*kind, fault.clone()));
                self.faulty = true;
            }
            Step::Remount => {
                let left = world.unmount();
                // What is open counts as closed.
                reference.closed(!faulty);
                self.check_left(&left, "at an unmount");
                self.world.mount();
                self.look("after a remount");
            }
            Step::Crash => {
                world.crash();
                self.unfinished |= reference.held.is_some();
                reference.crashed();
                world.mount();
                self.look("after a crash");
            }
        }
    }

    /// With no fault about, everything comes to rest: one version of each file, and nothing else.
    fn end(mut self) {
        self.world.emulator.faults().clear();
        self.look("at the end");
        self.world.emulator.store().advance_clock(LAGS_TO_THE_END);
        // What stays here is no business of the server; renamed directories have taken some of it along.
        for path in self.reference.paths().into_iter().filter(|path| path.ends_with('~')) {
            let outcome = self.world.unlink(&path);
            self.reference.unlinked(&path, outcome.is_ok());
        }
        let left = self.world.unmount();
        self.check_left(&left, "at the end");
        self.reference.closed(!self.faulty);
        // What was refused is shown and waits for a person; everything else is on the server by now.
        self.world.mount();
        self.look("before what was refused is sent");
        self.world.retry();
        self.look("after the last remount");
        let left = self.world.unmount();
        self.check_left(&left, "after the last remount");
        self.world.mount();
        let seen = self.world.tree().unwrap();
        if let Some(difference) = self.reference.differs_from(&seen) {
            panic!("at rest: {difference}\nseen {seen:?}\nexpected {:?}", self.reference);
        }
        let files = seen.values().filter(|held| held.is_some()).count();
        let on_server = self.world.emulator.store().files(&self.world.container);
        let paths: Vec<&str> = on_server.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths.len(), files, "on the server {paths:?}, seen {:?}", seen.keys());
    }
}

fn run(setting: &Setting, steps: &[Step]) {
    let quirks = |quirks: &mut containerfs::emulator::Quirks| {
        quirks.replace_by_name = setting.replace;
        (quirks.upload_list_lag, quirks.delete_list_lag) = (setting.lag.uploads, setting.lag.deletes);
    };
    let world = World::new(setting.profile, quirks, setting.write_back);
    let mut run = Run {
        world,
        lag: setting.lag,
        reference: Reference::default(),
        faulty: false,
        refusing: false,
        unfinished: false,
    };
    for step in steps {
        run.step(step);
    }
    run.end();
}

/// The same cases each time, so that a change is judged by what it changes; others when their number is asked
/// for.
fn seed() -> RngSeed {
    if std::env::var_os("CONTAINERFS_MODEL_CASES").is_some() {
        RngSeed::Random
    } else {
        RngSeed::Fixed(20_261_125)
    }
}

fn cases() -> u32 {
    std::env::var("CONTAINERFS_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 300,
        rng_seed: seed(),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model/regressions.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_filesystem_does_what_the_reference_does(
        setting in setting(),
        steps in prop::collection::vec(step(), 1..40),
        // Last, so that what was found before it was thought of is found still.
        lag in lag(),
    ) {
        run(&Setting { lag, ..setting }, &steps);
    }
}
