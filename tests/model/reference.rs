//! What a filesystem would show, as simply as it can be said.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::held::Held;

/// Bytes that are printed in few characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.0.iter().fold(0_u16, |sum, byte| sum.rotate_left(3) ^ u16::from(*byte));
        write!(f, "{}:{sum:04x}", self.0.len())
    }
}

/// What a path may hold; several after a call that failed.
pub(crate) type Outcomes = BTreeSet<Option<Bytes>>;

/// Files and directories. A path that is in neither map is not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reference {
    files: BTreeMap<String, Outcomes>,
    directories: BTreeSet<String>,
    /// Scratch names that files of the server were moved to, where these come from, and what was there before:
    /// soon after, a crash undoes it.
    aside: Vec<(String, String, Outcomes)>,
    /// A file that is open over other steps.
    pub(crate) held: Option<Held>,
}

/// What a call is expected to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Success,
    Failure,
    /// It depends on what an earlier failure has left.
    Either,
}

impl Reference {
    pub(crate) fn outcomes(&self, path: &str) -> Outcomes {
        self.files.get(path).cloned().unwrap_or_else(|| Outcomes::from([None]))
    }

    /// Files that may be there.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    pub(crate) fn set(&mut self, path: &str, outcomes: Outcomes) {
        if outcomes.iter().all(Option::is_none) {
            self.files.remove(path);
        } else {
            self.files.insert(path.to_owned(), outcomes);
        }
    }

    fn has_parent(&self, path: &str) -> bool {
        path.rsplit_once('/').is_none_or(|(parent, _)| self.directories.contains(parent))
    }

    /// Whether a file is there.
    fn is_file(&self, path: &str) -> Expected {
        let outcomes = self.outcomes(path);
        match (outcomes.contains(&None), outcomes.iter().any(Option::is_some)) {
            (false, _) => Expected::Success,
            (true, false) => Expected::Failure,
            (true, true) => Expected::Either,
        }
    }

    fn inside<'a>(&'a self, directory: &str) -> impl Iterator<Item = &'a String> {
        let prefix = format!("{directory}/");
        self.files.keys().chain(&self.directories).filter(move |path| path.starts_with(&prefix))
    }

    /// A file takes on what `becomes` makes of what it held.
    pub(crate) fn change(
        &mut self,
        path: &str,
        succeeded: bool,
        becomes: impl Fn(&Option<Bytes>) -> Option<Bytes>,
    ) {
        let before = self.outcomes(path);
        let mut after: Outcomes = before.iter().map(becomes).collect();
        if !succeeded {
            after.extend(before);
        }
        self.set(path, after);
    }

    pub(crate) fn may_save(&self, path: &str) -> Expected {
        let possible = self.has_parent(path) && !self.directories.contains(path);
        if possible { Expected::Success } else { Expected::Failure }
    }

    pub(crate) fn saved(&mut self, path: &str, bytes: &Bytes, succeeded: bool) {
        self.change(path, succeeded, |_| Some(bytes.clone()));
    }

    pub(crate) fn may_change(&self, path: &str) -> Expected {
        self.is_file(path)
    }

    pub(crate) fn appended(&mut self, path: &str, bytes: &Bytes, succeeded: bool) {
        self.change(path, succeeded, |old| old.as_ref().map(|old| Bytes([&*old.0, &*bytes.0].concat())));
    }

    pub(crate) fn truncated(&mut self, path: &str, len: usize, succeeded: bool) {
        self.change(path, succeeded, |old| {
            old.clone().map(|mut old| {
                old.0.resize(len, 0);
                old
            })
        });
    }

    pub(crate) fn unlinked(&mut self, path: &str, succeeded: bool) {
        self.change(path, succeeded, |_| None);
    }

    /// A file is about to be moved aside.
    pub(crate) fn moves_aside(&mut self, from: &str, to: &str) {
        self.aside.push((to.to_owned(), from.to_owned(), self.outcomes(to)));
    }

    /// What was moved aside may have its name back, and what was not promised is not there.
    pub(crate) fn crashed(&mut self) {
        self.dropped();
        for (scratch, real, before) in std::mem::take(&mut self.aside).into_iter().rev() {
            let (moved, stands) = (self.outcomes(&scratch), self.outcomes(&real));
            self.set(&real, moved.iter().chain(&stands).cloned().collect());
            self.set(&scratch, moved.into_iter().chain(before).chain([None]).collect());
        }
    }

    pub(crate) fn may_mkdir(&self, path: &str) -> Expected {
        match self.is_file(path) {
            Expected::Success => Expected::Failure,
            Expected::Either => Expected::Either,
            Expected::Failure if self.has_parent(path) && !self.directories.contains(path) => {
                Expected::Success
            }
            Expected::Failure => Expected::Failure,
        }
    }

    pub(crate) fn made(&mut self, path: &str) {
        self.set(path, Outcomes::from([None]));
        self.directories.insert(path.to_owned());
    }

    pub(crate) fn may_rmdir(&self, path: &str) -> Expected {
        if !self.directories.contains(path) {
            return Expected::Failure;
        }
        let inside: Vec<Expected> = self
            .inside(path)
            .map(|path| if self.directories.contains(path) { Expected::Success } else { self.is_file(path) })
            .collect();
        match (inside.contains(&Expected::Success), inside.is_empty()) {
            (true, _) => Expected::Failure,
            (false, true) => Expected::Success,
            (false, false) => Expected::Either,
        }
    }

    pub(crate) fn removed(&mut self, path: &str) {
        self.directories.remove(path);
        let prefix = format!("{path}/");
        self.files.retain(|path, _| !path.starts_with(&prefix));
        self.stays_aside(|real| real.starts_with(&prefix));
    }

    /// What was moved aside from names that are gone stays so; if such a name was a scratch name itself, it has come from
    /// another, which it gets back.
    fn stays_aside(&mut self, is_gone: impl Fn(&str) -> bool) {
        let mut stays: Vec<(String, String, Outcomes)> = Vec::new();
        for (at, (scratch, real, before)) in self.aside.iter().enumerate() {
            let mut real = real;
            for (earlier, further, _) in self.aside[..at].iter().rev() {
                if is_gone(real) && earlier == real {
                    real = further;
                }
            }
            if !is_gone(real) {
                stays.push((scratch.clone(), real.clone(), before.clone()));
            }
        }
        self.aside = stays;
    }

    pub(crate) fn may_rename(&self, from: &str, to: &str) -> Expected {
        if self.directories.contains(from) {
            let below = to.starts_with(&format!("{from}/"));
            return match (self.has_parent(to) && !below, self.is_file(to)) {
                (false, _) | (_, Expected::Success) => Expected::Failure,
                (true, _) if from == to => Expected::Success,
                (true, Expected::Either) => Expected::Either,
                (true, Expected::Failure) if self.directories.contains(to) => self.may_rmdir(to),
                (true, Expected::Failure) => Expected::Success,
            };
        }
        let possible = self.has_parent(to) && !self.directories.contains(to);
        if possible { self.is_file(from) } else { Expected::Failure }
    }

    pub(crate) fn renamed(&mut self, from: &str, to: &str, succeeded: bool) {
        if from == to {
            return;
        }
        if !self.directories.contains(from) {
            let (source, stood) = (self.outcomes(from), self.outcomes(to));
            if succeeded {
                self.set(to, source.into_iter().filter(Option::is_some).collect());
                self.set(from, Outcomes::from([None]));
            } else {
                self.set(to, source.iter().filter(|held| held.is_some()).chain(&stood).cloned().collect());
                self.set(from, source.into_iter().chain([None]).collect());
            }
            return;
        }
        if !succeeded {
            return;
        }
        self.removed(to);
        let moved = |path: &str| format!("{to}{}", &path[from.len()..]);
        let prefix = format!("{from}/");
        let directories = std::mem::take(&mut self.directories);
        let is_moved = |path: &str| path == from || path.starts_with(&prefix);
        self.directories =
            directories.into_iter().map(|p| if is_moved(&p) { moved(&p) } else { p }).collect();
        let files = std::mem::take(&mut self.files);
        self.files =
            files.into_iter().map(|(p, held)| (if is_moved(&p) { moved(&p) } else { p }, held)).collect();
        self.stays_aside(is_moved);
        for (scratch, ..) in &mut self.aside {
            if is_moved(scratch) {
                *scratch = moved(scratch);
            }
        }
    }

    /// What is wrong with what is seen; nothing if all is well.
    pub(crate) fn differs_from(&self, seen: &BTreeMap<String, Option<Bytes>>) -> Option<String> {
        for (path, held) in seen {
            match held {
                None if !self.directories.contains(path) => {
                    return Some(format!("{path}/ should not be there"));
                }
                Some(bytes) if !self.outcomes(path).contains(&Some(bytes.clone())) => {
                    return Some(format!("{path} holds {bytes:?}"));
                }
                _ => {}
            }
        }
        let missing_file =
            self.files.iter().find(|(path, held)| !held.contains(&None) && !seen.contains_key(*path));
        let missing_directory = self.directories.iter().find(|path| !seen.contains_key(*path));
        let missing = missing_file.map(|(path, _)| path).or(missing_directory);
        missing.map(|path| format!("{path} is missing"))
    }
}
