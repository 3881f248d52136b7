//! Intents of earlier mounts, taken up again behind this one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{self, ContainerId, ErrorKind, FileId};
use crate::journal::copied::CopyNote;
use crate::journal::intent::{Move, Rename};
use crate::journal::{Copied, Intent, Meta, Noted};
use crate::namespace::inode::Ino;
use crate::vfs::commit::as_uploaded;
use crate::vfs::lost::FoundVersion;
use crate::vfs::relocate::Begun;
use crate::vfs::{Error, Result, State, Vfs};

/// Renames that earlier mounts have left half done and this one finishes.
#[derive(Default)]
pub(super) struct RenamedBehind {
    /// The container of each.
    containers: Vec<ContainerId>,
    /// The ids that POSTs were answered with meanwhile: a server that keeps ids gives a new file that of the one that
    /// is to be renamed.
    answered: HashSet<(ContainerId, FileId)>,
}

impl RenamedBehind {
    fn begins(&mut self, container: &ContainerId) {
        self.containers.push(container.clone());
    }

    /// It is done, or will not be.
    fn ends(&mut self, container: &ContainerId) {
        if let Some(at) = self.containers.iter().position(|id| id == container) {
            self.containers.swap_remove(at);
        }
        if self.containers.is_empty() {
            self.answered.clear();
        }
    }

    /// A POST has been answered.
    pub(super) fn is_answered(&mut self, container: &ContainerId, id: &FileId) {
        if !self.containers.is_empty() {
            self.answered.insert((container.clone(), id.clone()));
        }
    }

    /// Whether a version has other bytes by now than the one that was to be renamed.
    pub(super) fn is_another(&self, container: &ContainerId, id: &FileId) -> bool {
        self.answered.contains(&(container.clone(), id.clone()))
    }
}

impl Vfs {
    /// What an intent says of names, before anything is shown.
    pub(super) fn take_note<'a>(&self, intent: &Intent, unsent: impl Iterator<Item = &'a mut Meta>) {
        let mut state = self.state();
        match intent {
            Intent::Delete { container, ids } => {
                ids.iter().for_each(|id| state.records.bury(container, id));
            }
            Intent::Probe { base, .. } => state.hide_probe(base),
            Intent::Rename(rename) if rename.posted => {
                state.take_note_of_rename(rename);
                let inside = format!("{}/", rename.from);
                for meta in unsent.filter(|meta| meta.container == rename.container) {
                    if let Some(rest) = meta.path.strip_prefix(&inside) {
                        meta.path = format!("{}/{rest}", rename.to);
                    }
                }
            }
            _ => {}
        }
    }

    /// Takes an intent up again, behind the mount.
    pub(super) fn resume(self: &Arc<Self>, noted: Noted, intent: Intent) {
        if self.check_deletable().is_err() {
            // Kept for a mount that may.
            if let Intent::Delete { container, ids } = intent {
                self.leave_noted(&container, ids, noted);
            }
            return;
        }
        if let Intent::Rename(rename) = &intent
            && !rename.posted
        {
            let mut state = self.state();
            state.resuming.extend(rename.destinations());
            state.renamed_behind.begins(&rename.container);
        }
        let vfs = self.clone();
        self.behind.spawn(async move {
            match intent {
                Intent::Delete { container, ids } => vfs.delete_noted(container, ids, noted).await,
                Intent::Rename(rename) if rename.posted => {
                    // Kept for the next mount if the disk takes no note of where it has taken unsent bytes.
                    if vfs.note_places(&rename).await {
                        let gone = rename.gone().cloned().collect();
                        vfs.delete_noted(rename.container, gone, noted).await;
                    }
                }
                Intent::Rename(rename) => {
                    let container = rename.container.clone();
                    vfs.resume_rename(rename, noted).await;
                    vfs.state().renamed_behind.ends(&container);
                }
                Intent::CreateContainer { name, known } => vfs.resume_creation(&name, known, noted).await,
                Intent::Probe { container, base, at } => vfs.resume_probe(container, base, at, noted).await,
                // Taken in with the bytes that are not sent yet: it has to be known before any of them is.
                Intent::Forget { .. } => {}
            }
        });
    }

    /// Has notes beside unsent bytes say where a rename has taken them, as soon as the disk takes that. Returns whether
    /// it has.
    async fn note_places(&self, rename: &Rename) -> bool {
        while let Err(error) = self.note_places_now(rename) {
            if self.is_stopping() {
                return false;
            }
            tracing::warn!(%error, "what a rename has taken along would have its old path after a crash");
            for _ in 0..50 {
                if !self.is_stopping() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        true
    }

    fn note_places_now(&self, rename: &Rename) -> Result<()> {
        let inside = format!("{}/", rename.to);
        let moved: Vec<_> = {
            let state = self.state();
            let container = state.tree.containers.get(&rename.container).copied();
            let is_moved = |ino: Ino| {
                state.tree.container_of(ino) == container && state.tree.path(ino).starts_with(&inside)
            };
            let writers = state.writers.iter().filter(|(ino, _)| is_moved(**ino));
            writers.map(|(ino, writer)| (*ino, writer.clone())).collect()
        };
        moved.iter().try_for_each(|(ino, writer)| self.renew_promise(*ino, writer))
    }

    /// Whether this mount shows the container that an intent is about. If that is gone there is nothing to be done any
    /// more; what a mount of another container, or a list, merely does not show waits for a mount that does.
    pub(super) async fn is_in_this_mount(&self, container: &ContainerId, noted: &Noted) -> bool {
        if self.state().tree.containers.contains_key(container) {
            return true;
        }
        let is_gone = match self.client.retrieve_container(container).await {
            Ok(container) => !container.is_live(),
            Err(error) => error.kind == ErrorKind::ContainerGone,
        };
        if is_gone {
            noted.done();
        }
        false
    }

    async fn resume_rename(self: &Arc<Self>, rename: Rename, noted: Noted) {
        if !self.is_in_this_mount(&rename.container, &noted).await {
            return;
        }
        let destinations: Vec<_> = rename.destinations().collect();
        match self.rename_again(rename, noted).await {
            Ok(()) => destinations.iter().for_each(|path| _ = self.state().resuming.remove(path)),
            Err(error) => {
                tracing::warn!(%error, "a rename of an earlier mount was not finished; the old names stay");
            }
        }
    }

    /// A rename that died among its POSTs: what had been sent is found, the rest is sent.
    async fn rename_again(self: &Arc<Self>, rename: Rename, noted: Noted) -> Result<()> {
        self.ensure_listed_since(&rename.container, Instant::now()).await?;
        let sent = self.sent_before(&rename.container, &noted).await?;
        let place = {
            let mut guard = self.state();
            let state = &mut *guard;
            let Some(&container) = state.tree.containers.get(&rename.container) else { return Ok(()) };
            let source = state.renamed_before(container, &rename);
            let (parent, name) = rename.to.rsplit_once('/').unwrap_or(("", &rename.to));
            let parent = state.tree.directory(container, parent);
            // What stood there has another name if the list shows the new version already.
            let files = state.tree.container(container).map(|container| &container.files);
            let stands = |id: &FileId| files?.get(id).filter(|ino| !state.shelved.contains_key(ino)).copied();
            let stood = rename.replaces.iter().find_map(stands);
            // What was sent is shown where a list has told of it, and stays so until the rename is done if it is all
            // that there is under the new name.
            let target = stood.or_else(|| state.tree.child(parent, name));
            let sent_ids: HashSet<FileId> = sent.values().map(|sent| sent.id.clone()).collect();
            let is_beside = |ino: &Ino| rename.is_of_a_file() && target != Some(*ino);
            let shown = sent_ids.iter().filter_map(|id| files.and_then(|files| files.get(id)));
            let beside: Vec<Ino> = shown.copied().filter(is_beside).collect();
            beside.into_iter().for_each(|ino| state.tree.unlink(ino));
            let is_ours = |ino: Ino| {
                let id = state.tree.file(ino).and_then(|file| file.id());
                state.holds_only(ino, &sent_ids) || id.is_some_and(|id| rename.replaces.contains(id))
            };
            let free = target.is_none_or(is_ours);
            source.filter(|_| free).map(|source| (source, target, parent, name.to_owned()))
        };
        let Some((source, target, parent, name)) = place else {
            // The old name means something else by now, or the new one does: both stay.
            self.state().is_out_of_date(&rename.container);
            self.call_off(&Begun { noted, rename, sent }).await;
            return Ok(());
        };
        let begun = Some(Begun { noted, rename, sent });
        if self.state().tree.file(source).is_some() {
            self.rename_file(source, target, parent, &name, begun).await
        } else {
            self.rename_directory(source, target, parent, &name, begun).await
        }
    }

    /// Calls a rename of an earlier mount off that cannot go on. Returns whether it did.
    pub(super) async fn is_called_off(
        &self,
        begun: Option<&Begun>,
        source: Ino,
        target: Option<Ino>,
    ) -> bool {
        let Some(begun) = begun else { return false };
        let goes_on = self.state().is_as_left(&begun.rename, &begun.sent_ids(), source, target);
        if !goes_on {
            self.call_off(begun).await;
        }
        !goes_on
    }

    /// Somebody has changed what a rename was about, which nobody was told had happened: what it has sent goes,
    /// unless it is all that there is.
    async fn call_off(&self, begun: &Begun) {
        let sent = {
            let state = self.state();
            let container = &begun.rename.container;
            let is_there = |step: &&Move| {
                let from = begun.rename.from_of(step);
                state.records.is_buried(container, &step.id) || state.is_there(container, &from)
            };
            let steps = begun.rename.moves.iter().filter(is_there);
            steps.filter_map(|step| begun.sent.get(&step.id).map(|file| &file.id)).collect()
        };
        self.delete_sent(&begun.rename, sent, |_| ()).await;
        begun.noted.done();
    }

    /// The versions that a rename has made before it died, by those under the old names.
    async fn sent_before(
        self: &Arc<Self>,
        container: &ContainerId,
        noted: &Noted,
    ) -> Result<HashMap<FileId, Arc<api::File>>> {
        let mut sent = HashMap::new();
        let (unanswered, answered): (Vec<_>, Vec<_>) =
            noted.copies().into_iter().partition(|(_, copied)| copied.made.is_none());
        for (_, copied) in answered {
            let Some(made) = &copied.made else { continue };
            let file = self.still_there(container, made).await?;
            // Nor has another POST made it that had no answer.
            self.state().not_lost(container, &copied.sent.path, made);
            sent.extend(file.map(|file| copied.is_made(&file)));
        }
        for (note, copied) in unanswered {
            if sent.contains_key(&copied.id) {
                // The other is looked for when the rename is done.
                continue;
            }
            let file = self.found_again(container, &note, copied.clone()).await?;
            sent.extend(file.map(|file| copied.is_made(&file)));
        }
        Ok(sent)
    }

    /// A version that a POST of an earlier mount was answered with, which a list may not show yet.
    async fn still_there(&self, container: &ContainerId, id: &FileId) -> Result<Option<Arc<api::File>>> {
        {
            let state = self.state();
            if state.records.is_buried(container, id) {
                return Ok(None);
            }
            let of = state.tree.containers.get(container).and_then(|ino| state.tree.container(*ino));
            if let Some(ino) = of.and_then(|container| container.files.get(id)).copied() {
                return Ok(state.tree.file(ino).and_then(|file| file.server.clone()));
            }
        }
        match self.client.retrieve_file(container, id).await.map_err(Error::from) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a POST has made that an earlier mount had no answer to.
    pub(super) async fn found_again(
        self: &Arc<Self>,
        container: &ContainerId,
        note: &CopyNote,
        copied: Copied,
    ) -> Result<Option<Arc<api::File>>> {
        let found = self.find_lost(container, &copied.sent.path).await?;
        self.settle_found(found, note, copied).await
    }

    /// The one of these that a POST has made; the others are nobody's.
    pub(super) async fn settle_found(
        self: &Arc<Self>,
        found: Vec<FoundVersion>,
        note: &CopyNote,
        copied: Copied,
    ) -> Result<Option<Arc<api::File>>> {
        let mut made = None;
        for mut found in found {
            if made.is_some() || Some(&found.lost.sha256) != copied.sent.sha256.as_ref() {
                match self.is_nobodys(found).await {
                    // A later list tells of it again.
                    Err(error) if made.is_some() => {
                        tracing::debug!(%error, "one of two uploads stays for now");
                    }
                    told => told?,
                }
                continue;
            }
            if !self.state().found(&mut found) {
                continue;
            }
            let answered = Copied { made: Some(found.file.id.clone()), ..copied.clone() };
            if let Err(error) = note.write(&answered, true) {
                self.state().lost_again(&[found]);
                return Err(error.into());
            }
            found.strike_out();
            made = Some(found.file.clone());
        }
        Ok(made)
    }
}

impl Copied {
    /// The version under the old name, and the one under the new, whose length is known.
    fn is_made(&self, file: &api::File) -> (FileId, Arc<api::File>) {
        (self.id.clone(), Arc::new(as_uploaded(file.clone(), self.sent.len)))
    }
}

impl State {
    /// Whether names around `ino` may change behind the mount, which the kernel is not told: it asks for each.
    pub(super) fn is_being_renamed_behind(&self, ino: Ino) -> bool {
        let id = |ino: Ino| self.tree.container(ino).map(|container| &container.container.id);
        let behind = &self.renamed_behind.containers;
        !behind.is_empty() && self.tree.container_of(ino).and_then(id).is_some_and(|id| behind.contains(id))
    }

    fn take_note_of_rename(&mut self, rename: &Rename) {
        // A server that replaces by name may have kept an id.
        for id in rename.gone() {
            self.records.bury(&rename.container, id);
        }
        for step in &rename.moves {
            if let Some(new) = &step.new {
                self.records.unbury(&rename.container, new);
                self.records.remember_file(&rename.container, new, Some(step.to.clone()), step.attributes);
            }
        }
        let was_directory = self
            .records
            .container(&rename.container)
            .is_some_and(|records| records.directories.contains(&rename.from))
            || rename.moves.iter().any(|step| step.to != rename.to);
        if was_directory {
            self.move_directory_records(&rename.container, &rename.from, &rename.to);
        }
    }

    /// Whether a rename of an earlier mount can go on: nobody has touched what was to be renamed, or put
    /// anything where it goes. A list may show there what was `sent`.
    pub(super) fn is_as_left(
        &self,
        rename: &Rename,
        sent: &HashSet<FileId>,
        source: Ino,
        target: Option<Ino>,
    ) -> bool {
        let Some(container) = self.tree.containers.get(&rename.container).copied() else { return false };
        let is_source = self.tree.is_linked(source)
            && self.tree.path(source) == rename.from
            && match self.tree.file(source) {
                Some(file) => {
                    let id = rename.moves.first().map(|step| &step.id);
                    let is_another = |id| self.renamed_behind.is_another(&rename.container, id);
                    file.id() == id && !id.is_some_and(is_another) && !self.is_dirty(source)
                }
                None => true,
            };
        let stands = self.tree.find(container, &rename.to);
        let is_free =
            stands.into_iter().chain(target.filter(|target| self.tree.is_linked(*target))).all(|stands| {
                let id = self.tree.file(stands).and_then(|file| file.id());
                let is_replaced = id.is_some_and(|id| rename.replaces.contains(id));
                self.holds_only(stands, sent) || (is_replaced && !self.is_dirty(stands))
            });
        is_source && is_free
    }

    /// Whether a file is one of these versions and nothing else, or a directory holds nothing but such files.
    fn holds_only(&self, ino: Ino, versions: &HashSet<FileId>) -> bool {
        let is_made_here = |ino: Ino| {
            self.tree.get(ino).and_then(|node| node.children()).is_none_or(|children| children.is_empty())
        };
        let holds_only = |ino: Ino| match self.tree.file(ino) {
            Some(file) => file.id().is_some_and(|id| versions.contains(id)) && !self.is_dirty(ino),
            None => !is_made_here(ino) && self.holds_only(ino, versions),
        };
        match self.tree.get(ino).and_then(|node| node.children()) {
            Some(children) => children.values().all(|child| holds_only(*child)),
            None => holds_only(ino),
        }
    }

    fn is_dirty(&self, ino: Ino) -> bool {
        self.writers.get(&ino).is_some_and(|writer| writer.inner().is_dirty())
    }

    /// The next who asks for what is in a container has a list fetched.
    pub(super) fn is_out_of_date(&mut self, container: &ContainerId) {
        let container = self.tree.containers.get(container).copied();
        if let Some(container) = container.and_then(|ino| self.tree.container_mut(ino)) {
            container.listed = None;
        }
    }

    fn is_there(&self, container: &ContainerId, path: &str) -> bool {
        let container = self.tree.containers.get(container);
        container.is_some_and(|container| self.tree.find(*container, path).is_some())
    }

    /// What a rename of an earlier mount was about, if it still has its old name.
    fn renamed_before(&self, container: Ino, rename: &Rename) -> Option<Ino> {
        if !rename.is_of_a_file() {
            return self.tree.container(container)?.directories.get(&rename.from).copied();
        }
        let id = &rename.moves.first()?.id;
        let ino = self.tree.container(container)?.files.get(id).copied()?;
        (self.tree.path(ino) == rename.from).then_some(ino)
    }
}
