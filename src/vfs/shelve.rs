//! Files with scratch names, and real files that an editor moves aside under one.
//!
//! A real file that becomes a scratch file is *shelved*: its bytes come here, the server keeps its copy until
//! a successor under the old name has arrived, and what the list says of it is shown under the scratch name.
//! With no successor the copy goes when the scratch file does. A crash within [`GRACE`] undoes the move;
//! later the scratch name is for good, or if it is one that is merely deferred, the move is a rename like any
//! other.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::priority::{self, Urgency};
use crate::api::{self, FileId};
use crate::journal::Shelved;
use crate::journal::scratch::Class;
use crate::namespace::inode::{Ino, Kind, ROOT};
use crate::namespace::names;
use crate::vfs::writer::Writer;
use crate::vfs::{Entry, Error, Result, State, Vfs};

/// How long a file with a deferred name waits for its rename.
pub(super) const GRACE: Duration = Duration::from_secs(10);

impl Vfs {
    /// What a file's name says, if it was made here and is on no server.
    pub(super) fn scratch_class(&self, state: &State, ino: Ino) -> Option<Class> {
        let node = state.tree.get(ino)?;
        let class = self.scratch.class(&node.name)?;
        let file = node.file()?;
        let shelved = state.shelved.values().any(|shelved| *shelved == ino);
        (file.server.is_none() || shelved).then_some(class)
    }

    /// A symbolic link, as editors make them for locks.
    ///
    /// # Errors
    /// `EPERM` unless the name is a scratch name.
    pub async fn symlink(self: &Arc<Self>, parent: Ino, name: &OsStr, target: &Path) -> Result<Entry> {
        self.check_writable()?;
        let name = names::creatable(name)?;
        let in_root = parent == ROOT && self.config.container.is_none();
        if in_root || self.scratch.class(name) != Some(Class::Local) {
            return Err(Error::quiet(libc::EPERM));
        }
        self.ensure_entries(parent).await?;
        let mut state = self.state();
        if state.tree.child(parent, name).is_some() {
            return Err(Error::quiet(libc::EEXIST));
        }
        state.place_in(parent, name)?;
        let target = target.to_str().ok_or_else(|| Error::quiet(libc::EINVAL))?.to_owned();
        let ino = state.tree.insert(parent, name, Kind::Link(target));
        if let Some(node) = state.tree.get_mut(ino) {
            node.lookups += 1;
        }
        let node = state.tree.get(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        Ok(self.entry_of(&state, ino, node))
    }

    /// Moves a file that is on the server aside, under a scratch name of `class`.
    pub(super) async fn shelve(
        self: &Arc<Self>,
        ino: Ino,
        target: Option<Ino>,
        to: Ino,
        name: &str,
        class: Class,
    ) -> Result<()> {
        let writer = self.bring_here(ino).await?;
        let (staging, dirty) = {
            let inner = writer.inner();
            (inner.staging.clone().ok_or_else(|| Error::quiet(libc::ESTALE))?, inner.is_dirty())
        };
        // Bytes that the server doesn't have keep their note: after a crash they are sent under the real
        // name.
        let note = self.meta(ino, None).filter(|_| !dirty).map(|mut meta| {
            let from = std::mem::replace(&mut meta.path, self.state().tree.path_in(to, name));
            meta.shelved = Some(Shelved { from, just_now: true });
            meta
        });
        tokio::task::spawn_blocking(move || note.map_or(Ok(()), |meta| staging.write_meta(&meta, true)))
            .await
            .map_err(|error| Error::told(libc::EIO, error.to_string()))??;
        let (replaced, unneeded) = {
            let mut guard = self.state();
            let state = &mut *guard;
            let container = state.tree.container_of(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let real = (container, state.tree.path(ino));
            let replaced = target.and_then(|target| state.tree.file(target)?.id().cloned());
            let unneeded = target.map(|target| state.make_room(target));
            writer.shelved();
            if class == Class::Deferred {
                writer.inner().renamed_from.get_or_insert_with(|| real.1.clone());
            }
            state.tree.rename(ino, to, name);
            state.shelved.insert(real, ino);
            let id = state.tree.container(container).map(|container| container.container.id.clone());
            let replaced = replaced.and_then(|replaced| Some((id?, vec![replaced])));
            replaced.iter().for_each(|(container, ids)| self.bury_replaced(state, container, ids));
            (replaced, unneeded)
        };
        drop(unneeded);
        match class {
            Class::Local => self.settle_aside_later(ino),
            Class::Deferred => self.commit_in(GRACE, ino, &writer),
        }
        if let Some((container, ids)) = replaced {
            self.delete_replaced(&container, ids).await;
        }
        Ok(())
    }

    /// A local scratch name is for good after the grace, or when the mount ends.
    fn settle_aside_later(self: &Arc<Self>, ino: Ino) {
        let vfs = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            let Some(vfs) = vfs.upgrade() else { return };
            let writer = {
                let state = vfs.state();
                state.shelved_from(ino).and_then(|_| state.writers.get(&ino).cloned())
            };
            let settled = writer.map_or(Ok(()), |writer| {
                writer.stays_aside();
                vfs.promise(ino, &writer)
            });
            if let Err(error) = settled {
                tracing::warn!(%error, "a file moved aside would have its old name back after a crash");
            }
        });
    }

    /// Saves a file `delay` from now, unless that is put off or the mount ends before.
    pub(super) fn commit_in(self: &Arc<Self>, delay: Duration, ino: Ino, writer: &Arc<Writer>) {
        let scheduled = writer.inner().due.replace(Instant::now() + delay).is_some();
        if !scheduled {
            let (vfs, writer) = (self.clone(), writer.clone());
            let work = async move { vfs.commit_when_due(ino, &writer).await };
            self.behind.spawn(priority::with(Urgency::Behind, work));
        }
    }

    /// A version of `by` has arrived, perhaps under the id of one that another file stood for, or was to replace: a
    /// server that replaces by name may keep the id. That file, whose bytes are here, stands for itself.
    pub(super) fn take_over(&self, arrived: &FileId, by: Ino) {
        let is_arrived = |version: &api::File| version.id == *arrived;
        let others: Vec<(Ino, Arc<Writer>)> = {
            let mut guard = self.state();
            let state = &mut *guard;
            let names = |writer: &Writer| {
                let inner = writer.inner();
                inner.base.as_deref().is_some_and(is_arrived) || inner.replaces.contains(arrived)
            };
            let others = state.writers.iter().filter(|(ino, writer)| **ino != by && names(writer));
            let others: Vec<_> = others.map(|(ino, writer)| (*ino, writer.clone())).collect();
            for (ino, writer) in &others {
                if state.tree.file(*ino).and_then(|file| file.id()) == Some(arrived) {
                    state.tree.forget_server(*ino);
                    state.shelved.retain(|_, shelved| shelved != ino);
                }
                let mut inner = writer.inner();
                inner.base.take_if(|base| is_arrived(base));
                inner.replaces.retain(|id| id != arrived);
            }
            others
        };
        for (ino, writer) in others {
            let is_written_still = self.state().is_written_still(ino, &writer);
            if !is_written_still && let Err(error) = self.promise(ino, &writer) {
                tracing::warn!(%error, "a file would replace the one that has its version now, after a crash");
            }
        }
    }

    /// The versions `replaced` are about to be deleted: shelved files that stood for them now stand for
    /// themselves.
    pub(super) fn settle_shelved(&self, replaced: &[FileId]) -> Result<()> {
        let settled: Vec<Ino> = {
            let mut guard = self.state();
            let state = &mut *guard;
            let is_replaced = |ino: &Ino| {
                let id = state.tree.file(*ino).and_then(|file| file.id().cloned());
                state.writers.contains_key(ino) && id.is_some_and(|id| replaced.contains(&id))
            };
            let settled: Vec<Ino> = state.shelved.values().copied().filter(is_replaced).collect();
            state.shelved.retain(|_, ino| !settled.contains(ino));
            settled
        };
        for ino in settled {
            let writer = {
                let mut state = self.state();
                state.tree.forget_server(ino);
                state.writers.get(&ino).cloned()
            };
            if let Some(writer) = writer {
                writer.inner().base = None;
                self.promise(ino, &writer)?;
            }
        }
        Ok(())
    }
}

impl State {
    /// The version whose shelved file left `path` free: whoever takes the path replaces it.
    pub(super) fn take_shelved(&self, container: Ino, path: &str) -> Option<FileId> {
        let ino = *self.shelved.get(&(container, path.to_owned()))?;
        self.tree.file(ino).and_then(|file| file.id().cloned())
    }

    /// The real path of a shelved file.
    pub(super) fn shelved_from(&self, ino: Ino) -> Option<String> {
        let mut shelved = self.shelved.iter();
        shelved.find(|(_, shelved)| **shelved == ino).map(|((_, path), _)| path.clone())
    }

    /// Whether `ino` is shelved from the path `path`, to which it may simply return.
    pub(super) fn is_shelved_from(&self, container: Ino, path: &str, ino: Ino) -> bool {
        self.shelved.get(&(container, path.to_owned())) == Some(&ino)
    }

    /// Versions that saves under way will replace; nobody is shown them.
    pub(super) fn to_be_replaced(&self) -> HashSet<FileId> {
        self.writers.values().flat_map(|writer| writer.inner().replaces.clone()).collect()
    }

    /// The same without what saves of `ino` itself will replace.
    pub(super) fn to_be_replaced_but_for(&self, ino: Ino) -> HashSet<FileId> {
        let others = self.writers.iter().filter(|(other, _)| **other != ino);
        others.flat_map(|(_, writer)| writer.inner().replaces.clone()).collect()
    }
}
