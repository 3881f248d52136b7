//! Throwing away bytes that are not on the server, because a person says so.

use std::sync::Arc;

use crate::api::{ContainerId, FileId};
use crate::journal::Staging;
use crate::namespace::inode::Ino;
use crate::vfs::drain::Left;
use crate::vfs::lost::Lost;
use crate::vfs::writer::Writer;
use crate::vfs::{Error, Invalidation, Result, State, Vfs};

impl Vfs {
    /// Throws away what `pending` calls by `ids`; ids of other mounts are passed over. What the server has
    /// stays, and is shown again. Returns what is still here, and why.
    pub async fn discard(&self, ids: &[String]) -> Vec<Left> {
        let mut left = Vec::new();
        for id in ids {
            if let Some(serial) = self.journal.serial_of(id)
                && let Err(error) = self.discard_one(serial).await
            {
                left.push(Left { name: id.clone(), reason: error.message });
            }
        }
        left
    }

    async fn discard_one(&self, serial: u64) -> Result<()> {
        if self.state().unfinished.iter().any(|waiting| waiting.serial == serial) {
            let meta = self.journal.reopen(serial).ok().as_ref().and_then(Staging::meta);
            if let Some(meta) = meta {
                let replaces: Vec<FileId> = meta.replaced().cloned().collect();
                let answered = self.state().take_answered(&meta.container, &replaces);
                answered.iter().for_each(Lost::strike_out);
            }
            self.journal.discard(serial)?;
            self.state().unfinished.retain(|waiting| waiting.serial != serial);
            return Ok(());
        }
        let writer = {
            let state = self.state();
            let mut writers = state.writers.iter();
            writers
                .find(|(_, writer)| writer.inner().holds(serial))
                .map(|(ino, writer)| (*ino, writer.clone()))
        };
        match writer {
            Some((ino, writer)) => self.discard_unsent(ino, &writer, serial).await,
            None => Ok(()),
        }
    }

    async fn discard_unsent(&self, ino: Ino, writer: &Arc<Writer>, serial: u64) -> Result<()> {
        // What travels may land.
        let _turn = writer.travelling.lock().await;
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(older) = writer.inner().take_one_older(serial) {
            drop(guard);
            older.discard();
            return Ok(());
        }
        let is_unsent = {
            let inner = writer.inner();
            inner.is_dirty() && inner.holds(serial)
        };
        if !is_unsent {
            return Ok(());
        }
        if state.open_for_writing(ino) {
            return Err(Error::told(libc::EBUSY, "a program has it open for writing"));
        }
        let answered = state.take_answered_of(ino, writer);
        state.failures.remove(&ino);
        state.shelved.remove(&ino);
        state.leave_directory(ino);
        let container = state.tree.container_of(ino);
        state.tree.unlink(ino);
        let unneeded = state.drop_writer(ino);
        // The next list shows what the server has under the name, as another file.
        if let Some(container) = container.and_then(|container| state.tree.container_mut(container)) {
            container.listed = None;
        }
        drop(guard);
        // First: as long as the bytes are here their note says as much.
        answered.iter().for_each(Lost::strike_out);
        drop(unneeded);
        self.invalidate(Invalidation::Attributes(ino));
        Ok(())
    }
}

impl State {
    /// Takes out POSTs that were answered before their mount died, as what they replace is not wanted any more: what
    /// they have made is all that there is under the name, and shown by the next list.
    fn take_answered(&mut self, container: &ContainerId, replaces: &[FileId]) -> Vec<Lost> {
        let is_buried = |id: &&FileId| self.records.is_buried(container, id);
        let buried: Vec<&FileId> = replaces.iter().filter(is_buried).collect();
        let is_answered = |lost: &mut Lost| {
            lost.container == *container && buried.iter().any(|id| lost.known.contains(*id))
        };
        self.lost.extract_if(.., is_answered).collect()
    }

    /// The same for the unsent bytes of a file.
    fn take_answered_of(&mut self, ino: Ino, writer: &Writer) -> Vec<Lost> {
        let container = self.tree.file(ino).and_then(|file| self.tree.container(file.container));
        let Some(container) = container.map(|container| container.container.id.clone()) else {
            return Vec::new();
        };
        let mut replaces = self.claims(ino);
        replaces.extend(writer.inner().base.as_ref().map(|base| base.id.clone()));
        self.take_answered(&container, &replaces)
    }
}
