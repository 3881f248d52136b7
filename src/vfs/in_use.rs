//! The writer of a file is there for as long as it has something to say, or somebody works with it.

use std::ops::Deref;
use std::sync::Arc;

use crate::namespace::inode::Ino;
use crate::vfs::writer::{Unneeded, Writer};
use crate::vfs::{Error, Result, State, Vfs};

/// A writer that a call works with, which may have no handle of the file. Until it has changed something nothing else
/// keeps the writer: a reader that closes the file meanwhile would take it away, and the change with it.
pub(super) struct InUse(Arc<Writer>);

impl InUse {
    fn of(writer: &Arc<Writer>) -> Self {
        writer.inner().used_by += 1;
        Self(writer.clone())
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl Deref for InUse {
    type Target = Arc<Writer>;

    fn deref(&self) -> &Arc<Writer> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.inner().used_by -= 1;
    }
}

impl Vfs {
    /// A call is done with a writer, or has failed: unless it or another one has changed something, nobody needs it.
    pub(super) fn let_go(&self, ino: Ino, writer: InUse) {
        drop(writer);
        drop(self.state().retire_writer(ino));
    }
}

impl State {
    /// The writer of a file, made if there is none.
    pub(super) fn writer(&mut self, ino: Ino) -> Result<InUse> {
        if let Some(writer) = self.writers.get(&ino) {
            return Ok(InUse::of(writer));
        }
        let file = self.tree.file_mut(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        file.held = true;
        let writer = Writer::new(file.server.clone());
        let in_use = InUse::of(&writer);
        self.writers.insert(ino, writer);
        Ok(in_use)
    }

    /// Drops a writer that has nothing to say: clean, open for writing nowhere, and used by no call.
    pub(super) fn retire_writer(&mut self, ino: Ino) -> Unneeded {
        if self.open_for_writing(ino) {
            return Unneeded::default();
        }
        let mut unneeded = Unneeded::default();
        if let Some(writer) = self.writers.get(&ino) {
            let mut inner = writer.inner();
            // What a save could not delete is the next one's to replace.
            let is_needed = inner.is_dirty() || !inner.replaces.is_empty();
            if is_needed || inner.frozen || inner.used_by > 0 {
                return unneeded;
            }
            unneeded = inner.take_stagings().collect();
        }
        self.writers.remove(&ino);
        if let Some(file) = self.tree.file_mut(ino) {
            file.held = false;
        }
        unneeded
    }
}
