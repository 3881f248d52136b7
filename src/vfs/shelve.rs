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
use crate::vfs::deletions::Unwanted;
use crate::vfs::rename::standing;
use crate::vfs::writer::Writer;
use crate::vfs::{Entry, Error, Result, State, Vfs};

/// How long a file with a deferred name waits for its rename.
const GRACE: Duration = Duration::from_secs(10);

impl Vfs {
    /// What a file's name says, if it was made here and is on no server.
    pub(super) fn scratch_class(&self, state: &State, ino: Ino) -> Option<Class> {
        let node = state.tree.get(ino)?;
        let class = self.scratch.class(&node.name)?;
        let file = node.file()?;
        (file.server.is_none() || state.shelved.contains_key(&ino)).then_some(class)
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

    /// Moves a file aside that has a real name, under a scratch name of `class`.
    pub(super) async fn shelve(
        self: &Arc<Self>,
        ino: Ino,
        target: Option<Ino>,
        to: Ino,
        name: &str,
        class: Class,
    ) -> Result<()> {
        let writer = self.bring_here(ino).await?;
        let shelved = self.shelve_what_is_here(ino, &writer, target, to, name, class).await;
        if shelved.is_err() {
            self.let_go(ino, writer);
        }
        shelved
    }

    async fn shelve_what_is_here(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Arc<Writer>,
        target: Option<Ino>,
        to: Ino,
        name: &str,
        class: Class,
    ) -> Result<()> {
        let unwanted = self.intend_to_give_way(ino, target)?;
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
        let noted = move || note.map_or(Ok(()), |meta| staging.write_meta(&meta, true));
        let noted = tokio::task::spawn_blocking(noted).await;
        let noted = noted.map_err(|error| Error::told(libc::EIO, error.to_string()));
        noted.and_then(|noted| Ok(noted?)).inspect_err(|_| unwanted.give_up())?;
        let (gone, unneeded) = {
            let mut guard = self.state();
            let state = &mut *guard;
            let container = state.tree.container_of(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let real = (container, state.tree.path(ino));
            let gone = self.give_way(state, ino, writer, unwanted, standing(target, ino));
            let unneeded = state.put(ino, target, to, name);
            writer.shelved();
            writer.inner().failed = None;
            state.failures.remove(&ino);
            if class == Class::Deferred {
                writer.inner().renamed_from.get_or_insert_with(|| real.1.clone());
            }
            state.shelved.insert(ino, real);
            (gone, unneeded)
        };
        match class {
            Class::Local => self.settle_aside_later(ino),
            Class::Deferred => self.commit_later(ino, writer),
        }
        drop(unneeded);
        self.delete_given_up(gone).await
    }

    /// Writes down that what stands where a file goes that stays here, under a scratch name, goes with all that the
    /// server has of it. What was moved aside there stays so if that is all that happens.
    pub(super) fn intend_to_give_way(&self, ino: Ino, target: Option<Ino>) -> Result<Arc<Unwanted>> {
        let unwanted = {
            let mut state = self.state();
            let container =
                state.tree.container_of(ino).and_then(|container| state.tree.container(container));
            let container = container.ok_or_else(|| Error::quiet(libc::ESTALE))?.container.id.clone();
            let stands = standing(target, ino);
            let ids = stands.map(|stands| state.given_up_for(stands, ino)).unwrap_or_default();
            state.is_to_go(&container, ids, None)
        };
        if unwanted.is_empty() {
            return Ok(unwanted);
        }
        self.settle_aside(target)?;
        self.intend_deletion(&unwanted)?;
        Ok(unwanted)
    }

    /// Nobody is shown any more what stands there. Returns the deletion, if it does not wait for readers.
    pub(super) fn give_way(
        &self,
        state: &mut State,
        ino: Ino,
        writer: &Writer,
        unwanted: Arc<Unwanted>,
        standing: Option<Ino>,
    ) -> Option<Arc<Unwanted>> {
        unwanted.ids().iter().for_each(|id| state.bury(&unwanted.container, id));
        let mut waits = false;
        if let Some(stands) = standing {
            let passed_on = state.claims(stands);
            if state.leaves_to(stands, ino) {
                writer.inner().also_replaces(passed_on);
            }
            if let Some(stood) = state.writers.get(&stands) {
                stood.inner().replaces.clear();
            }
            if self.is_read_from_the_server(state, stands) {
                waits = true;
                state.deferred.insert(stands, unwanted.clone());
            }
        }
        Some(unwanted).filter(|unwanted| !waits && !unwanted.is_empty())
    }

    /// Deletes what has given way.
    pub(super) async fn delete_given_up(self: &Arc<Self>, unwanted: Option<Arc<Unwanted>>) -> Result<()> {
        let Some(unwanted) = unwanted else { return Ok(()) };
        // The rename has happened, and the deletion is written down.
        if let Err(error) = self.settle_shelved(None, &unwanted.ids()) {
            tracing::warn!(%error, "a file that was moved aside would stand for a version that is gone");
        }
        if self.config.write_back.is_some() {
            self.delete_behind(&mut self.state(), &unwanted);
        } else {
            self.delete(unwanted).await;
        }
        Ok(())
    }

    /// A file that was moved aside, if it is one, stays so, after a crash too.
    pub(super) fn settle_aside(&self, ino: Option<Ino>) -> Result<()> {
        let writer = {
            let state = self.state();
            let shelved = ino.filter(|ino| state.shelved.contains_key(ino));
            shelved.and_then(|ino| Some((ino, state.writers.get(&ino)?.clone())))
        };
        let Some((ino, writer)) = writer else { return Ok(()) };
        self.settle_writer(ino, &writer)
    }

    /// What was moved aside from a directory that goes, or has another name, stays so after a crash too: its old name
    /// is not to be had any more.
    pub(super) fn settle_aside_from(&self, container: Ino, directory: &str) -> Result<()> {
        let inside = format!("{directory}/");
        let is_from_there = |(of, left): &(Ino, String)| *of == container && left.starts_with(&inside);
        let shelved: Vec<Ino> = {
            let state = self.state();
            state.shelved.iter().filter(|(_, left)| is_from_there(left)).map(|(ino, _)| *ino).collect()
        };
        shelved.into_iter().try_for_each(|ino| self.settle_aside(Some(ino)))
    }

    /// The notes of a file say what it is by now, and if it was moved aside just now that it stays so.
    pub(super) fn settle_writer(&self, ino: Ino, writer: &Arc<Writer>) -> Result<()> {
        if writer.stays_aside() { self.promise(ino, writer) } else { self.renew_promise(ino, writer) }
    }

    /// A local scratch name is for good after the grace, or when the mount ends.
    fn settle_aside_later(self: &Arc<Self>, ino: Ino) {
        let vfs = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            let Some(vfs) = vfs.upgrade() else { return };
            if let Err(error) = vfs.settle_aside(Some(ino)) {
                tracing::warn!(%error, "a file moved aside would have its old name back after a crash");
            }
        });
    }

    /// Saves a file behind its caller, when its name says: after the grace under a deferred one, never under one that
    /// is local, and else with the delay of `--write-back`. Not if that is put off or the mount ends before.
    pub(super) fn commit_later(self: &Arc<Self>, ino: Ino, writer: &Arc<Writer>) {
        let scheduled = {
            // Held until the time is set, or a rename in between would have set its own already.
            let state = self.state();
            let delay = match self.scratch_class(&state, ino) {
                Some(Class::Local) => return,
                Some(Class::Deferred) => GRACE,
                None => self.config.write_back.unwrap_or_default(),
            };
            writer.inner().due.replace(Instant::now() + delay).is_some()
        };
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
                    state.shelved.remove(ino);
                }
                let mut inner = writer.inner();
                inner.base.take_if(|base| is_arrived(base));
                inner.replaces.retain(|id| id != arrived);
            }
            others
        };
        for (ino, writer) in others {
            // Those that travel too, which are not promised again.
            let stagings: Vec<_> = writer.inner().stagings().cloned().collect();
            let noted = stagings.iter().try_for_each(|staging| staging.replaces_no_more(arrived));
            if let Err(error) = self.settle_writer(ino, &writer).and(noted.map_err(Error::from)) {
                tracing::warn!(%error, "a file would replace the one that has its version now, after a crash");
            }
        }
    }

    /// A file has arrived at a path, or goes from it, and the versions `replaced` are about to be deleted: shelved
    /// files that have left the path, or stood for these versions, now stand for themselves. Else a crash would put
    /// them in its place.
    pub(super) fn settle_shelved(&self, arrived: Option<(Ino, &str)>, replaced: &[FileId]) -> Result<()> {
        let settled: Vec<(Ino, Arc<Writer>)> = {
            let mut guard = self.state();
            let state = &mut *guard;
            let left = arrived
                .map(|(ino, path)| state.shelved_by_now(ino, path).collect::<Vec<_>>())
                .unwrap_or_default();
            let stands_for_them = |ino: &Ino| state.claims(*ino).iter().any(|id| replaced.contains(id));
            let is_itself = |ino: &Ino| arrived.is_some_and(|(arrived, _)| arrived == *ino);
            let is_replaced = |ino: &Ino| !is_itself(ino) && (left.contains(ino) || stands_for_them(ino));
            let settled: Vec<Ino> = state.shelved.keys().copied().filter(is_replaced).collect();
            let with_writer = |ino: Ino| Some((ino, state.writers.get(&ino)?.clone()));
            let settled: Vec<_> = settled.into_iter().filter_map(with_writer).collect();
            for (ino, writer) in &settled {
                let mut inner = writer.inner();
                inner.replaces.retain(|id| !replaced.contains(id));
                inner.base.take_if(|base| replaced.contains(&base.id));
                let stands_for_itself = inner.base.is_none() && inner.replaces.is_empty();
                drop(inner);
                if state.tree.file(*ino).and_then(|file| file.id()).is_some_and(|id| replaced.contains(id)) {
                    state.tree.forget_server(*ino);
                }
                if stands_for_itself {
                    state.shelved.remove(ino);
                }
            }
            settled
        };
        settled.iter().try_for_each(|(ino, writer)| self.settle_writer(*ino, writer))
    }
}

impl State {
    /// What a file stands for on the server, and what its next save would replace.
    pub(super) fn claims(&self, ino: Ino) -> Vec<FileId> {
        let mut claims: Vec<FileId> =
            self.tree.file(ino).and_then(|file| file.id().cloned()).into_iter().collect();
        if let Some(writer) = self.writers.get(&ino) {
            for id in &writer.inner().replaces {
                if !claims.contains(id) {
                    claims.push(id.clone());
                }
            }
        }
        claims
    }

    /// The versions whose shelved files left `path` free, in the container of `ino`, which takes it: it replaces
    /// them.
    pub(super) fn taken_from(&self, ino: Ino, path: &str) -> Vec<FileId> {
        self.shelved_by_now(ino, path).flat_map(|other| self.claims(other)).collect()
    }

    /// The files but for `ino` that have left `path`, in its container.
    fn shelved_by_now(&self, ino: Ino, path: &str) -> impl Iterator<Item = Ino> {
        let container = self.tree.container_of(ino);
        let is_left = move |(other, (of, left)): &(&Ino, &(Ino, String))| {
            **other != ino && Some(*of) == container && left == path
        };
        self.shelved.iter().filter(is_left).map(|(other, _)| *other)
    }

    /// The versions that nobody needs when a file goes: a save under way replaces what it claims too once it has
    /// arrived, and until then the server keeps a whole version.
    pub(super) fn claimed_by_nobody_but(&self, ino: Ino) -> Vec<FileId> {
        let others = self.to_be_replaced_but_for(ino);
        self.claims(ino).into_iter().filter(|id| !others.contains(id)).collect()
    }

    /// Whether both have left one path: who takes that replaces what either has of it.
    fn leaves_to(&self, stands: Ino, ino: Ino) -> bool {
        let from = self.shelved_from(ino).unwrap_or_else(|| self.tree.path(ino));
        self.shelved_from(stands) == Some(from)
    }

    /// What nobody needs of a file when `ino` takes its place under a scratch name.
    fn given_up_for(&self, stands: Ino, ino: Ino) -> Vec<FileId> {
        if self.leaves_to(stands, ino) {
            return Vec::new();
        }
        let own = self.claims(ino);
        self.claimed_by_nobody_but(stands).into_iter().filter(|id| !own.contains(id)).collect()
    }

    /// The real path of a shelved file.
    pub(super) fn shelved_from(&self, ino: Ino) -> Option<String> {
        self.shelved.get(&ino).map(|(_, path)| path.clone())
    }

    /// Versions that saves under way will replace; nobody is shown them.
    pub(super) fn to_be_replaced(&self) -> HashSet<FileId> {
        self.writers.values().flat_map(|writer| writer.inner().replaces.clone()).collect()
    }

    /// The same without what saves of `ino` itself will replace, and shelved files, of which there are none.
    fn to_be_replaced_but_for(&self, ino: Ino) -> HashSet<FileId> {
        let is_saved = |other: &Ino| *other != ino && !self.shelved.contains_key(other);
        let others = self.writers.iter().filter(|(other, _)| is_saved(other));
        others.flat_map(|(_, writer)| writer.inner().replaces.clone()).collect()
    }
}
