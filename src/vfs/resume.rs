//! Intents of earlier mounts, taken up again behind this one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{self, ContainerId, FileId};
use crate::journal::intent::{Move, Rename};
use crate::journal::{Intent, Meta, Noted};
use crate::namespace::inode::Ino;
use crate::namespace::names;
use crate::vfs::lost;
use crate::vfs::relocate::Begun;
use crate::vfs::{Result, State, Vfs};

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
            return;
        }
        let vfs = self.clone();
        self.behind.spawn(async move {
            match intent {
                Intent::Delete { container, ids } => vfs.resume_deletion(container, ids, noted).await,
                Intent::Rename(rename) if rename.posted => {
                    // Kept for the next mount if the disk takes no note of where it has taken unsent bytes.
                    if vfs.note_places(&rename).await {
                        let gone = rename.gone().cloned().collect();
                        vfs.resume_deletion(rename.container, gone, noted).await;
                    }
                }
                Intent::Rename(rename) => vfs.resume_rename(rename, noted).await,
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

    async fn resume_rename(self: &Arc<Self>, rename: Rename, noted: Noted) {
        if !self.state().tree.containers.contains_key(&rename.container) {
            noted.done();
            return;
        }
        if let Err(error) = self.rename_again(rename, noted).await {
            tracing::warn!(%error, "a rename of an earlier mount was not finished; the old names stay");
        }
    }

    /// A rename that died among its POSTs: what had been sent is found, the rest is sent.
    async fn rename_again(self: &Arc<Self>, rename: Rename, noted: Noted) -> Result<()> {
        self.ensure_listed_since(&rename.container, Instant::now()).await?;
        let mut sent = HashMap::new();
        for step in &rename.moves {
            if let Some((ino, file)) = self.sent_before(&rename.container, step).await? {
                self.state().tree.unlink(ino);
                sent.insert(step.id.clone(), file);
            }
        }
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
            // A list may have shown what was sent once more.
            let is_sent = |ino: &Ino| {
                let id = state.tree.file(*ino).and_then(|file| file.id());
                id.is_some_and(|id| sent.values().any(|sent| sent.id == *id))
            };
            let target = stood.or_else(|| state.tree.child(parent, name).filter(|stands| !is_sent(stands)));
            let is_ours = |ino: Ino| match state.tree.get(ino).map(|node| node.children()) {
                Some(Some(children)) => children.is_empty(),
                _ => state
                    .tree
                    .file(ino)
                    .and_then(|file| file.id())
                    .is_some_and(|id| rename.replaces.contains(id)),
            };
            let free = target.is_none_or(is_ours);
            source.filter(|_| free).map(|source| (source, target, parent, name.to_owned()))
        };
        let Some((source, target, parent, name)) = place else {
            // The old name means something else by now, or the new one does: both stay.
            {
                let mut state = self.state();
                let container = state.tree.containers.get(&rename.container).copied();
                if let Some(container) = container.and_then(|ino| state.tree.container_mut(ino)) {
                    container.listed = None;
                }
            }
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
        self.delete_sent(&begun.rename, sent).await;
        begun.noted.done();
    }

    /// The version that a rename has made before it died: an unknown one under the new name, with the bytes
    /// of the old one.
    async fn sent_before(
        self: &Arc<Self>,
        container: &ContainerId,
        step: &Move,
    ) -> Result<Option<(Ino, Arc<api::File>)>> {
        let (old, candidates) = {
            let state = self.state();
            let Some(&of) = state.tree.containers.get(container) else { return Ok(None) };
            let files = || state.tree.files().filter(|(_, file)| file.container == of);
            let old = files().find(|(_, file)| file.id() == Some(&step.id));
            let Some(old) = old.and_then(|(_, file)| file.server.clone()) else { return Ok(None) };
            let versions = files().filter_map(|(ino, file)| Some((ino, file.server.clone()?)));
            let candidates: Vec<_> = versions
                .filter(|(_, file)| {
                    file.source == "user"
                        && file.id != step.id
                        && !step.known.contains(&file.id)
                        && names::shown_path(file).join("/") == step.to
                })
                .collect();
            (old, candidates)
        };
        for (ino, file) in candidates {
            let ours = lost::sha256_of(&self.downloads.fetch(container, &old)).await?;
            if lost::sha256_of(&self.downloads.fetch(container, &file)).await? == ours {
                return Ok(Some((ino, file)));
            }
        }
        Ok(None)
    }
}

impl State {
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
        let is_dirty = |ino: Ino| self.writers.get(&ino).is_some_and(|writer| writer.inner().is_dirty());
        let is_source = self.tree.is_linked(source)
            && self.tree.path(source) == rename.from
            && match self.tree.file(source) {
                Some(file) => file.id() == rename.moves.first().map(|step| &step.id) && !is_dirty(source),
                None => true,
            };
        let stands = self.tree.find(container, &rename.to);
        let is_free =
            stands.into_iter().chain(target.filter(|target| self.tree.is_linked(*target))).all(|stands| {
                match self.tree.get(stands).and_then(|node| node.children()) {
                    Some(children) => children.is_empty(),
                    None => {
                        let id = self.tree.file(stands).and_then(|file| file.id());
                        !is_dirty(stands)
                            && id.is_some_and(|id| rename.replaces.contains(id) || sent.contains(id))
                    }
                }
            });
        is_source && is_free
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
