//! Programs amid random operations while the daemon is killed under them, again and again: what each was told is
//! there afterwards, and what was under way has happened or has not. `CONTAINERFS_CHAOS=20` for as many kills,
//! on servers that lose answers and whose lists lag.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use containerfs::emulator::{Config, Fault, FaultRule, Kind, Profile, ReplaceByName};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::env::{Env, fuse_is_missing, wait_until};
use crate::reference::{Bytes, Expected, Reference};

/// Programs at once, each with files of its own in the one directory.
const PROGRAMS: usize = 6;

const PATHS: [&str; 9] = ["a", "b.txt", "d/a", "d/b", "e/a", "d/f/a", "a~", "d/b~", "b.tmp"];
const DIRECTORIES: [&str; 4] = ["d", "e", "d/f", "g"];

/// What a program does.
#[derive(Clone, Debug)]
enum Deed {
    Save(String, Bytes),
    Append(String, Bytes),
    Truncate(String, usize),
    Unlink(String),
    Rename(String, String),
    Mkdir(String),
    Rmdir(String),
    Look,
}

struct Program {
    number: usize,
    chance: StdRng,
    reference: Reference,
    /// What comes next, whatever chance says.
    next: Option<Deed>,
    /// What the kill has met.
    met: Option<Deed>,
    /// What it has saved last.
    saved: Option<Bytes>,
    /// What it did and was told, since the mount before last.
    history: Vec<String>,
    done: usize,
}

impl Program {
    fn new(number: usize, seed: u64) -> Self {
        let chance = StdRng::seed_from_u64(seed * 1000 + number as u64);
        Self {
            number,
            chance,
            reference: Reference::default(),
            next: None,
            met: None,
            saved: None,
            history: Vec::new(),
            done: 0,
        }
    }

    fn pick(&mut self, of: &[&str]) -> String {
        format!("{}{}", self.number, of.choose(&mut self.chance).unwrap())
    }

    fn bytes(&mut self) -> Bytes {
        if let Some(again) = self.saved.clone().filter(|_| self.chance.random_ratio(1, 4)) {
            return again;
        }
        // Of many lengths: a server that keeps ids tells two versions apart by nothing else within a second.
        let len = *[0, 1, 20, 700, 9000].choose(&mut self.chance).unwrap();
        let len = if len > 1 { len + self.chance.random_range(0..500) } else { len };
        let bytes = Bytes((0..len).map(|_| self.chance.random()).collect());
        self.saved = Some(bytes.clone());
        bytes
    }

    fn deed(&mut self) -> Deed {
        if let Some(next) = self.next.take() {
            return next;
        }
        match self.chance.random_range(0..34) {
            0..9 => Deed::Save(self.pick(&PATHS), self.bytes()),
            9..13 => {
                let beside = self.pick(&["b.tmp", "d/sedAbCdEf", "a.new"]);
                self.next = Some(Deed::Rename(beside.clone(), self.pick(&PATHS)));
                Deed::Save(beside, self.bytes())
            }
            13..16 => Deed::Append(self.pick(&PATHS), self.bytes()),
            16..18 => Deed::Truncate(self.pick(&PATHS), self.chance.random_range(0..30)),
            18..21 => Deed::Unlink(self.pick(&PATHS)),
            21..25 => Deed::Rename(self.pick(&PATHS), self.pick(&PATHS)),
            25..27 => Deed::Rename(self.pick(&DIRECTORIES), self.pick(&DIRECTORIES)),
            27..31 => Deed::Mkdir(self.pick(&DIRECTORIES)),
            31 => Deed::Rmdir(self.pick(&DIRECTORIES)),
            _ => Deed::Look,
        }
    }

    fn expected(&self, deed: &Deed) -> Expected {
        match deed {
            Deed::Save(path, _) => self.reference.may_save(path),
            Deed::Append(path, _) | Deed::Truncate(path, _) | Deed::Unlink(path) => {
                self.reference.may_change(path)
            }
            Deed::Rename(from, to) => self.reference.may_rename(from, to),
            Deed::Mkdir(path) => self.reference.may_mkdir(path),
            Deed::Rmdir(path) => self.reference.may_rmdir(path),
            Deed::Look => Expected::Success,
        }
    }

    fn note(&mut self, deed: &Deed, succeeded: bool) {
        let reference = &mut self.reference;
        match deed {
            Deed::Save(path, bytes) => reference.saved(path, bytes, succeeded),
            Deed::Append(path, bytes) => reference.appended(path, bytes, succeeded),
            Deed::Truncate(path, len) => reference.truncated(path, *len, succeeded),
            Deed::Unlink(path) => reference.unlinked(path, succeeded),
            Deed::Rename(from, to) => {
                if to.ends_with('~') {
                    reference.moves_aside(from, to);
                }
                reference.renamed(from, to, succeeded);
            }
            Deed::Mkdir(path) if succeeded => reference.made(path),
            Deed::Rmdir(path) if succeeded => reference.removed(path),
            Deed::Mkdir(_) | Deed::Rmdir(_) | Deed::Look => {}
        }
    }

    /// Works until the daemon is gone.
    fn work(&mut self, dir: &Path, killed: &AtomicBool) {
        loop {
            let deed = self.deed();
            let expected = self.expected(&deed);
            let outcome = match &deed {
                Deed::Look => match self.see(dir) {
                    Ok(seen) => {
                        let difference = self.reference.differs_from(&seen);
                        let told = || format!("{seen:?}\nexpected {:?}\n{:#?}", self.reference, self.history);
                        assert_eq!(difference, None, "{}", told());
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                deed => carry_out(dir, deed),
            };
            self.history.push(format!("{deed:?}: {outcome:?}"));
            match (&outcome, expected) {
                (Err(_), _) if killed.load(Ordering::Acquire) => {
                    self.met = (expected != Expected::Failure).then_some(deed);
                    return;
                }
                (Ok(()), Expected::Failure) => panic!("{deed:?} succeeded\n{:#?}", self.history),
                (Err(error), Expected::Success) => {
                    // An answer that was lost.
                    let errno = error.raw_os_error();
                    assert_eq!(errno, Some(libc::EIO), "{deed:?}: {error}\n{:#?}", self.history);
                }
                _ => {}
            }
            if expected != Expected::Failure {
                self.note(&deed, outcome.is_ok());
            }
            self.done += 1;
        }
    }

    /// Everything of this program.
    fn see(&self, dir: &Path) -> io::Result<BTreeMap<String, Option<Bytes>>> {
        let mut seen = BTreeMap::new();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(dir.join(&directory))? {
                let entry = entry?;
                let path = directory.join(entry.file_name());
                let shown = path.to_str().unwrap().to_owned();
                if !shown.starts_with(&self.number.to_string()) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    directories.push(path);
                    seen.insert(shown, None);
                } else {
                    let bytes = fs::read(entry.path())
                        .map_err(|error| io::Error::new(error.kind(), format!("{shown}: {error}")))?;
                    assert!(seen.insert(shown, Some(Bytes(bytes))).is_none());
                }
            }
        }
        Ok(seen)
    }

    /// After the kill: what was under way has happened, or has not. It `may_have_failed` before, for a lost answer, on
    /// a server that had put the bytes in the place of others by then.
    fn look_after_the_kill(&mut self, dir: &Path, may_have_failed: bool) {
        let mut possible = vec![self.reference.clone()];
        if let Some(met) = self.met.take() {
            for succeeded in [true, false].into_iter().take(1 + usize::from(may_have_failed)) {
                self.reference = possible[0].clone();
                self.note(&met, succeeded);
                possible.push(self.reference.clone());
            }
        }
        possible.iter_mut().for_each(Reference::crashed);
        let mut told = String::new();
        let found = || {
            // What an upload has left without an answer may go while it is read.
            let seen = self.see(dir).inspect_err(|error| told = error.to_string()).ok()?;
            let wrong: Vec<_> = possible.iter().map(|possible| possible.differs_from(&seen)).collect();
            let right = wrong.iter().position(Option::is_none);
            told = format!("{seen:?}: {wrong:?}");
            right.map(|right| possible[right].clone())
        };
        let found = eventually(found);
        let history = || format!("{:#?}", self.history);
        self.reference =
            found.unwrap_or_else(|| panic!("{told}\nexpected one of {possible:?}\n{}", history()));
        self.history.push("killed".to_owned());
    }
}

/// The first answer within a few seconds.
fn eventually<T>(mut asked: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..100 {
        if let Some(answer) = asked() {
            return Some(answer);
        }
        thread::sleep(Duration::from_millis(50));
    }
    None
}

/// `close` tells what became of it.
fn change(path: &Path, work: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let worked = work(&file);
    let closed = nix::unistd::close(file.into_raw_fd()).map_err(io::Error::from);
    worked.and(closed)
}

fn carry_out(dir: &Path, deed: &Deed) -> io::Result<()> {
    match deed {
        Deed::Save(path, bytes) if bytes.0.is_empty() => {
            // A child that another test starts holds the descriptor for a moment, as one of a shell does for
            // `> file`: then a close promises nothing of what is empty, and a sync does.
            let file = File::create(dir.join(path))?;
            file.sync_all()?;
            nix::unistd::close(file).map_err(io::Error::from)
        }
        Deed::Save(path, bytes) => {
            // Some are open for a while, empty and then whole.
            let pause = Duration::from_millis(bytes.0.len() as u64 % 3 * 6);
            let file = File::create(dir.join(path))?;
            thread::sleep(pause);
            let written = file.write_all_at(&bytes.0, 0);
            thread::sleep(pause);
            let closed = nix::unistd::close(file).map_err(io::Error::from);
            written.and(closed)
        }
        Deed::Append(path, bytes) => change(&dir.join(path), |file| {
            let end = file.metadata()?.len();
            file.write_all_at(&bytes.0, end)
        }),
        Deed::Truncate(path, len) => {
            nix::unistd::truncate(&dir.join(path), *len as i64).map_err(io::Error::from)
        }
        Deed::Unlink(path) => fs::remove_file(dir.join(path)),
        Deed::Rename(from, to) => fs::rename(dir.join(from), dir.join(to)),
        Deed::Mkdir(path) => fs::create_dir(dir.join(path)),
        Deed::Rmdir(path) => fs::remove_dir(dir.join(path)),
        Deed::Look => Ok(()),
    }
}

/// A rename that a kill has met is taken up behind the next mount.
fn renames_are_under_way(env: &Env) -> bool {
    env.notes("intent.json").iter().any(|note| note.contains("\"rename\""))
}

fn chaos(profile: Profile, replace: ReplaceByName, flags: &[&str], seed: u64) {
    if fuse_is_missing() {
        return;
    }
    let asked: Option<u64> = std::env::var("CONTAINERFS_CHAOS").ok().and_then(|n| n.parse().ok());
    let (kills, loses_answers) = (asked.unwrap_or(3), asked.is_some());
    let lag = Duration::from_secs(u64::from(loses_answers && seed % 2 == 1));
    let mut config = Config::new(profile);
    config.quirks.replace_by_name = replace;
    config.quirks.upload_list_lag = lag;
    let env = Env::of(config);
    let id = env.container("c");
    env.emulator.set_latency(Duration::from_millis(2));
    let may_have_failed = loses_answers && replace == ReplaceByName::SameId;
    let mut programs: Vec<_> = (0..PROGRAMS).map(|number| Program::new(number, seed)).collect();
    let met = AtomicUsize::new(0);
    for round in 0..kills {
        let mut mount = env.mount(flags);
        let dir = mount.path("c");
        wait_until("renames that were under way are done or not", || !renames_are_under_way(&env));
        programs.iter_mut().for_each(|program| program.look_after_the_kill(&dir, may_have_failed));
        for nth in (0..50).filter(|_| loses_answers) {
            for kind in [Kind::Upload, Kind::DeleteFile] {
                let rule = FaultRule { skip: 20 * nth + 10, ..FaultRule::once(kind, Fault::ResetAfter) };
                env.emulator.faults().inject(rule);
            }
        }
        let killed = AtomicBool::new(false);
        thread::scope(|scope| {
            for program in &mut programs {
                let (dir, killed, met) = (&dir, &killed, &met);
                scope.spawn(move || {
                    program.work(dir, killed);
                    met.fetch_add(usize::from(program.met.is_some()), Ordering::Relaxed);
                });
            }
            thread::sleep(Duration::from_millis(200 + 211 * (round % 5)));
            killed.store(true, Ordering::Release);
            mount.kill();
        });
        env.emulator.faults().clear();
        drop(mount);
        if round % 2 == 0 {
            let _ = fs::remove_dir_all(env.dir.path().join("cache"));
        }
    }
    let mount = env.mount(flags);
    let dir = mount.path("c");
    wait_until("renames that were under way are done or not", || !renames_are_under_way(&env));
    programs.iter_mut().for_each(|program| program.look_after_the_kill(&dir, may_have_failed));
    for path in programs.iter().flat_map(|program| program.reference.paths()) {
        if path.ends_with('~') {
            let _ = fs::remove_file(dir.join(&path));
        }
    }
    let done: usize = programs.iter().map(|program| program.done).sum();
    eprintln!("seed {seed}: {done} operations, {} met by a kill", met.load(Ordering::Relaxed));
    assert!(met.into_inner() > 0, "no kill met anything: the test shows nothing");
    let (asked, _) = mount.unmount(&env);
    assert!(asked == 0 || asked == 3, "3: what was never closed");
    thread::sleep(lag);
    let mount = env.mount(&["--ttl", "50ms"]);
    wait_until("each file is one version on the server", || {
        let seen = programs.iter().flat_map(|program| program.see(&mount.path("c")).unwrap());
        seen.filter(|(_, held)| held.is_some()).count() == env.store().files(&id).len()
    });
    for program in &mut programs {
        let scratch: Vec<_> =
            program.reference.paths().into_iter().filter(|path| path.ends_with('~')).collect();
        scratch.iter().for_each(|path| program.reference.unlinked(path, true));
        let seen = program.see(&mount.path("c")).unwrap();
        assert_eq!(program.reference.differs_from(&seen), None, "{seen:?}");
    }
}

#[test]
fn whatever_programs_do_when_the_daemon_is_killed_is_done_or_not() {
    chaos(Profile::Openai, ReplaceByName::Second, &[], 1);
    chaos(Profile::Plain, ReplaceByName::Replace, &[], 2);
    chaos(Profile::Openai, ReplaceByName::SameId, &[], 4);
}

#[test]
fn whatever_programs_do_with_write_back_when_the_daemon_is_killed_is_done_or_not() {
    for (delay, seed) in [("--write-back-delay=0s", 10), ("--write-back-delay=20ms", 20)] {
        let flags = ["--write-back", delay];
        chaos(Profile::Openai, ReplaceByName::Second, &flags, seed + 1);
        chaos(Profile::Plain, ReplaceByName::Replace, &flags, seed + 2);
        chaos(Profile::Openai, ReplaceByName::SameId, &flags, seed + 4);
    }
}
