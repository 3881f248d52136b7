//! The descriptor that a program holds: what it wrote is there at once, and after a crash only if it was closed or
//! synced.

use std::collections::BTreeSet;

use crate::reference::{Bytes, Outcomes, Reference};

/// A file that is open for writing, over other steps.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Where it is now; nowhere if it was removed or replaced.
    path: Option<String>,
    /// What the path held when it was promised the last time.
    promised: Outcomes,
    /// Whether that can't be told: a sync failed, or the file was renamed since.
    unsure: bool,
    /// Whether something was written since.
    dirty: bool,
    /// Paths that it had since.
    had: BTreeSet<String>,
}

impl Reference {
    /// A file is opened, emptied, and written.
    pub(crate) fn hold(&mut self, path: &str, bytes: &Bytes) {
        let promised = self.outcomes(path);
        self.saved(path, bytes, true);
        self.held = Some(Held {
            path: Some(path.to_owned()),
            promised,
            unsure: false,
            dirty: true,
            had: BTreeSet::from([path.to_owned()]),
        });
    }

    /// Its first bytes are written.
    pub(crate) fn written(&mut self, bytes: &Bytes) {
        let Some(path) = self.held.as_mut().and_then(|held| {
            held.dirty = true;
            held.path.clone()
        }) else {
            return;
        };
        let write = |old: &Option<Bytes>| {
            let mut old = old.clone()?;
            old.0.resize(old.0.len().max(bytes.0.len()), 0);
            old.0[..bytes.0.len()].copy_from_slice(&bytes.0);
            Some(old)
        };
        self.change(&path, true, write);
    }

    /// It was synced or closed.
    pub(crate) fn synced(&mut self, succeeded: bool) {
        let Some(mut held) = self.held.take() else { return };
        if let Some(path) = &held.path {
            if succeeded {
                let promised = self.outcomes(path);
                let had = BTreeSet::from([path.clone()]);
                held = Held { path: held.path, promised, unsure: false, dirty: false, had };
            } else {
                held.unsure = true;
            }
        }
        self.held = Some(held);
    }

    /// It was closed. What failed is sent again, and may not come to anything.
    pub(crate) fn closed(&mut self, succeeded: bool) {
        self.synced(succeeded);
        if let Some(held) = self.held.take().filter(|_| !succeeded) {
            self.may_be_as_promised(&held);
        }
    }

    /// The mount has died under it.
    pub(crate) fn dropped(&mut self) {
        let Some(held) = self.held.take().filter(|held| held.dirty) else { return };
        if held.unsure {
            self.may_be_as_promised(&held);
        } else {
            held.had.iter().for_each(|path| self.set(path, held.promised.clone()));
        }
    }

    fn may_be_as_promised(&mut self, held: &Held) {
        for path in &held.had {
            let gone = held.had.len() > 1;
            let now = self.outcomes(path);
            let outcomes = now.into_iter().chain(held.promised.iter().cloned()).chain(gone.then_some(None));
            self.set(path, outcomes.collect());
        }
    }

    /// Another program has saved or removed what stands at `path`; if it is the held file, with all of its bytes.
    pub(crate) fn held_is_saved(&mut self, path: &str, succeeded: bool) {
        if self.held.as_ref().is_some_and(|held| held.path.as_deref() == Some(path)) {
            self.synced(succeeded);
        } else {
            self.held_leaves(path);
        }
    }

    /// The length of what stands at `path` was changed: what is held is not promised by that.
    pub(crate) fn held_is_changed(&mut self, path: &str) {
        if let Some(held) = self.held.as_mut().filter(|held| held.path.as_deref() == Some(path)) {
            held.dirty = true;
        } else {
            self.held_leaves(path);
        }
    }

    /// Something else stands at `path` from now on, or nothing.
    pub(crate) fn held_is_gone(&mut self, path: &str, succeeded: bool) {
        self.held_leaves(path);
        let Some(held) = self.held.as_mut().filter(|held| held.path.as_deref() == Some(path)) else { return };
        if succeeded {
            held.path = None;
            held.had.clear();
        } else {
            held.unsure = true;
        }
    }

    /// Whether a crash could bring a file back in `directory`, and the directory with it.
    pub(crate) fn held_may_return_to(&self, directory: &str) -> bool {
        let inside = format!("{directory}/");
        self.held
            .as_ref()
            .is_some_and(|held| held.dirty && held.had.iter().any(|path| path.starts_with(&inside)))
    }

    fn held_leaves(&mut self, path: &str) {
        if let Some(held) = self.held.as_mut().filter(|held| held.path.as_deref() != Some(path)) {
            held.had.remove(path);
        }
    }

    /// What was at `from` is at `to`; a directory takes along what is in it.
    pub(crate) fn held_is_moved(&mut self, from: &str, to: &str, succeeded: bool) {
        let Some(held) = self.held.as_mut() else { return };
        let Some(rest) = held.path.as_deref().and_then(|path| path.strip_prefix(from)) else { return };
        if !rest.is_empty() && !rest.starts_with('/') {
            return;
        }
        let path = format!("{to}{rest}");
        held.had.insert(path.clone());
        // Bytes that are promised go along.
        held.unsure |= held.dirty || !succeeded;
        if succeeded {
            held.path = Some(path);
        }
    }
}
