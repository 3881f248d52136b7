//! What mounts before this one left behind: bytes that were closed and never arrived are shown at once and
//! sent behind the mount, unless the server has refused them; the rest is named and kept.

use std::sync::Arc;

use crate::api::priority::{self, Urgency};
use crate::api::{self, FileId};
use crate::journal::intent::Rename;
use crate::journal::pending::UNFINISHED;
use crate::journal::{Adopted, Intent, Meta, Noted, Staging};
use crate::namespace::inode::{FileNode, Ino, Kind};
use crate::namespace::listing;
use crate::vfs::drain::{Left, Waiting};
use crate::vfs::lost::Lost;
use crate::vfs::promise::When;
use crate::vfs::writer::Writer;
use crate::vfs::{Error, Invalidation, State, Vfs, attr};

impl Vfs {
    /// Takes over the journals of mounts that are no more. One bad item never blocks another.
    pub(super) fn recover(self: &Arc<Self>) {
        if self.config.read_only {
            return;
        }
        let (mut stagings, mut intents) = (Vec::new(), Vec::new());
        for adopted in self.journal.adopt() {
            match adopted {
                Adopted::Staging(staging) => stagings.push((staging.meta(), staging)),
                Adopted::Intent(noted, Intent::Forget { container, sent }) => {
                    // Known before anything is looked for or sent.
                    if let Some(lost) = Lost::of_intent(&container, sent, noted) {
                        self.state().add_lost(lost);
                    }
                }
                Adopted::Intent(noted, intent) => intents.push((noted, intent)),
            }
        }
        for (noted, intent) in &intents {
            self.remember_copies(noted, intent);
            self.take_note(intent, stagings.iter_mut().filter_map(|(meta, _)| meta.as_mut()));
        }
        self.discard_superseded(&mut stagings, &intents);
        self.stay_aside_where_taken(&mut stagings, &intents);
        let intents = self.take_paths(&stagings, intents);
        // All of them before the first sets out, and of one file the newest save last: it takes the place of
        // others.
        stagings.sort_by_key(|(meta, _)| meta.as_ref().map(|meta| meta.noted_at));
        let adopted: Vec<Ino> =
            stagings.into_iter().filter_map(|(meta, staging)| self.adopt(meta, staging)).collect();
        for (noted, intent) in intents {
            self.resume(noted, intent);
        }
        for ino in adopted {
            let vfs = self.clone();
            self.behind.spawn(priority::with(Urgency::Behind, async move {
                if let Err(error) = vfs.commit(ino, When::Closed).await {
                    tracing::warn!(%error, "a file of an earlier mount could not be uploaded; its bytes are kept");
                }
            }));
        }
    }

    /// Removes bytes that stood where a renamed file is by now.
    fn discard_superseded(&self, stagings: &mut Vec<(Option<Meta>, Staging)>, intents: &[(Noted, Intent)]) {
        let is_superseded = |meta: &Meta| {
            intents.iter().filter_map(|(_, intent)| intent.as_rename()).any(|rename| rename.supersedes(meta))
        };
        stagings.retain(|(meta, staging)| {
            let superseded = meta.as_ref().filter(|meta| is_superseded(meta));
            if let Some(meta) = superseded {
                self.remember_lost(meta, staging);
                staging.discard();
            }
            superseded.is_none()
        });
    }

    /// A file that was moved aside just now has its old name back, unless that is somebody else's by now, or about to
    /// be: its successor replaces what the server has of it.
    fn stay_aside_where_taken(&self, stagings: &mut [(Option<Meta>, Staging)], intents: &[(Noted, Intent)]) {
        let waiting = stagings.iter().filter_map(|(meta, _)| meta.as_ref());
        let successors: Vec<Meta> =
            waiting.filter(|meta| meta.closed && !meta.is_aside_just_now()).cloned().collect();
        let is_gone = |meta: &Meta| {
            let state = self.state();
            meta.replaces.as_ref().is_some_and(|id| state.records.is_buried(&meta.container, id))
        };
        for (meta, staging) in stagings {
            let Some(meta) = meta.as_mut().filter(|meta| meta.is_aside_just_now()) else { continue };
            let mut renames = intents.iter().filter_map(|(noted, intent)| Some((noted, intent.as_rename()?)));
            let renamed = renames.find(|(_, rename)| rename.takes_the_place_of(meta));
            let is_taken = successors.iter().any(|successor| successor.takes_the_place_of(meta));
            if renamed.is_none() && !is_taken && !is_gone(meta) {
                continue;
            }
            if let Some((noted, rename)) = renamed {
                // A server that replaces by name may have kept the id.
                let made = noted.copies().into_iter().filter_map(|(_, copied)| copied.made);
                let made: Vec<_> =
                    made.chain(rename.moves.iter().filter_map(|step| step.new.clone())).collect();
                meta.replaces.take_if(|id| made.contains(id));
                meta.also_replaces.retain(|id| !made.contains(id));
            }
            if let Some(shelved) = &mut meta.shelved {
                shelved.just_now = false;
            }
            if let Err(error) = staging.write_meta(meta, true) {
                tracing::warn!(%error, "a file moved aside would be gone after a crash");
            }
        }
    }

    /// Writes down where renames have taken what is in `stagings`: what gets the old path from now on is not
    /// theirs. Only versions are left to be deleted of them.
    fn take_paths(
        &self,
        stagings: &[(Option<Meta>, Staging)],
        intents: Vec<(Noted, Intent)>,
    ) -> Vec<(Noted, Intent)> {
        let is_moved =
            |meta: &&Meta, staging: &Staging| staging.meta().is_some_and(|noted| noted.path != meta.path);
        for (meta, staging) in stagings {
            let moved = meta.as_ref().filter(|meta| is_moved(meta, staging));
            if let Some(Err(error)) = moved.map(|meta| staging.write_meta(meta, true)) {
                tracing::warn!(%error, "what is in a renamed directory would have its old path after a crash");
                return intents;
            }
        }
        let taken = intents.into_iter().map(|(noted, intent)| match intent {
            Intent::Rename(rename) if rename.posted => {
                let intent = rename.into_deletion();
                if let Err(error) = noted.write(&intent) {
                    tracing::warn!(%error, "a rename that is done still stands in the journal");
                }
                (noted, intent)
            }
            other => (noted, other),
        });
        taken.collect()
    }

    fn adopt(&self, meta: Option<Meta>, staging: Staging) -> Option<Ino> {
        if let Some(meta) = &meta {
            self.remember_lost(meta, &staging);
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(meta) = meta else {
            state.unfinished(&staging, staging.data().display().to_string(), None);
            return None;
        };
        if meta.arrived || meta.is_aside_just_now() {
            // The server has it, and shows it under its real name.
            staging.discard();
            return None;
        }
        if !meta.closed {
            let name = state.shown_in(&meta.container, &meta.path);
            state.unfinished(&staging, name, Some(meta));
            return None;
        }
        let refused = meta.refused.then(|| {
            Error::refused_before(meta.reason.clone().unwrap_or_else(|| "refused by the server".to_owned()))
        });
        let Some(container) = state.tree.containers.get(&meta.container).copied() else {
            let reason = match &refused {
                Some(refused) => refused.message.clone(),
                None => format!("its container {} is gone, or not in this mount", meta.container),
            };
            // For `pending`; a mount that has the container sends it all the same.
            let told = Meta { reason: Some(reason.clone()), ..meta.clone() };
            if let Err(error) = staging.write_meta(&told, true) {
                tracing::warn!(%error, "the reason was not written down");
            }
            let name = state.shown_in(&meta.container, &meta.path);
            state.waits(&staging, name, reason, meta.local);
            return None;
        };
        let older = state.supersede(container, &meta);
        match staging.len() {
            Ok(len) => {
                let ino = state.show_unsent(container, &meta, staging, len);
                if let (Some((id, older)), Some(writer)) = (older, state.writers.get(&ino)) {
                    // What the older save was about to replace: its note stays until the newer one says so.
                    let (mut inner, mut older) = (writer.inner(), older.inner());
                    let replaces = id.into_iter().chain(older.replaces.drain(..));
                    inner.also_replaces(replaces);
                    inner.inherit(older.take_stagings());
                }
                if let Some(shelved) = meta.shelved {
                    state.shelved.insert(ino, (container, shelved.from));
                }
                if let (Some(refused), Some(writer)) = (&refused, state.writers.get(&ino)) {
                    let mut inner = writer.inner();
                    inner.failed = Some((inner.generation, refused.clone()));
                    let name = state.shown_in(&meta.container, &meta.path);
                    state.failures.insert(ino, Left { name, reason: refused.message.clone() });
                }
                refused.is_none().then_some(ino)
            }
            Err(error) => {
                let name = state.shown_in(&meta.container, &meta.path);
                state.waits(&staging, name, error.to_string(), meta.local);
                None
            }
        }
    }

    /// Takes up what waits for a person under these numbers: it counts as closed. What has been saved under
    /// its name since and is not on the server yet is newer; then it waits on.
    pub(super) fn take_up(&self, serials: &[u64]) {
        let is_meant = |waiting: &mut Waiting| serials.contains(&waiting.serial);
        let waiting: Vec<Waiting> = self.state().unfinished.extract_if(.., is_meant).collect();
        for waiting in waiting {
            if self.take_up_one(waiting.serial).is_none() {
                self.state().unfinished.push(waiting);
            }
        }
    }

    fn take_up_one(&self, serial: u64) -> Option<()> {
        let staging = self.journal.reopen(serial).ok()?;
        let meta = Meta { closed: true, refused: false, reason: None, ..staging.meta()? };
        let shown = self.state().shown_for(&meta);
        let is_in_the_way = |ino: Ino| {
            let state = self.state();
            state.tree.file(ino).is_none() || state.writers.contains_key(&ino)
        };
        if shown.is_some_and(is_in_the_way) {
            return None;
        }
        staging.write_meta(&meta, true).ok()?;
        if let Some(ino) = shown {
            self.state().tree.unlink(ino);
            self.invalidate(Invalidation::Attributes(ino));
        }
        self.adopt(Some(meta), staging);
        Some(())
    }

    /// The same of the POSTs of renames.
    fn remember_copies(&self, noted: &Noted, intent: &Intent) {
        let Intent::Rename(Rename { container, posted: false, .. }) = intent else { return };
        for (_, copied) in noted.copies().into_iter().filter(|(_, copied)| copied.made.is_none()) {
            if let Some(lost) = Lost::of_sent(container, copied.sent, attr::now(), || None) {
                self.note_lost(lost);
            }
        }
    }

    /// POSTs that were begun before the crash may have happened, whatever becomes of the bytes.
    fn remember_lost(&self, meta: &Meta, staging: &Staging) {
        for sent in &meta.sent {
            let beside = || staging.sha256().ok();
            if let Some(lost) = Lost::of_sent(&meta.container, sent.clone(), meta.noted_at, beside) {
                self.note_lost(lost);
            }
        }
    }
}

impl State {
    /// Bytes that were never closed wait for a person; none are nothing to wait for.
    fn unfinished(&mut self, staging: &Staging, name: String, meta: Option<Meta>) {
        if staging.is_empty().unwrap_or(false) {
            staging.discard();
            return;
        }
        let reason = UNFINISHED.to_owned();
        let stays_here = meta.as_ref().is_some_and(|meta| meta.local);
        // For `pending`, which cannot tell it from what a program is writing otherwise.
        // The POSTs have notes of their own by now, which are struck out once their outcome is known.
        let told = meta.map(|meta| Meta { reason: Some(reason.clone()), sent: Vec::new(), ..meta });
        if let Some(Err(error)) = told.map(|told| staging.write_meta(&told, true)) {
            tracing::warn!(%error, "the reason was not written down");
        }
        self.waits(staging, name, reason, stays_here);
    }

    /// Bytes that are named and not shown.
    fn waits(&mut self, staging: &Staging, name: String, reason: String, stays_here: bool) {
        self.unfinished.push(Waiting { serial: staging.serial(), left: Left { name, reason }, stays_here });
    }

    /// What is shown where bytes belong.
    fn shown_for(&mut self, meta: &Meta) -> Option<Ino> {
        let container = *self.tree.containers.get(&meta.container)?;
        let (directory, name) = meta.path.rsplit_once('/').unwrap_or(("", &meta.path));
        let parent = self.tree.directory(container, directory);
        self.tree.child(parent, name)
    }

    /// Takes an older save of the same path out of the tree.
    fn supersede(&mut self, container: Ino, meta: &Meta) -> Option<(Option<FileId>, Arc<Writer>)> {
        let same = |ino: &Ino| {
            self.tree.file(*ino).is_some_and(|file| file.container == container)
                && self.tree.path(*ino) == meta.path
        };
        let ino = self.writers.keys().copied().find(same)?;
        let writer = self.writers.remove(&ino)?;
        let id = self.tree.file(ino).and_then(|file| file.id().cloned());
        self.failures.remove(&ino);
        self.tree.unlink(ino);
        Some((id, writer))
    }

    fn show_unsent(&mut self, container: Ino, meta: &Meta, staging: Staging, len: u64) -> Ino {
        let (directory, name) = meta.path.rsplit_once('/').unwrap_or(("", &meta.path));
        let parent = self.tree.directory(container, directory);
        let free = |name: &str| self.tree.child(parent, name).is_none();
        let name = if free(name) {
            name.to_owned()
        } else {
            listing::made_up(name, &staging.data().to_string_lossy(), free)
        };
        let mut node = FileNode::new_here(container, meta.attributes);
        let base = meta.replaces.as_ref().map(|id| Arc::new(version_known_by_id(id)));
        node.server.clone_from(&base);
        let ino = self.tree.insert(parent, &name, Kind::File(Box::new(node)));
        let writer = Writer::holding(Arc::new(staging), len, base, true);
        writer.inner().replaces.clone_from(&meta.also_replaces);
        self.writers.insert(ino, writer);
        ino
    }
}

/// The version that a lost writer saw; the next list tells the rest of it.
fn version_known_by_id(id: &FileId) -> api::File {
    api::File { id: id.clone(), path: String::new(), bytes: None, source: "user".to_owned(), created_at: 0 }
}
