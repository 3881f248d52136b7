//! A file that an open or a truncation empties, until the program that empties it has come back from the call.
//!
//! The kernel learns that the file is empty by the answer, and cuts its pages when the program runs again. What
//! others have asked it to read until then it fills with zeros up to the old end, where a short answer is all
//! that comes. So they get what was there, as if they had read before: nobody has seen the call return. Once
//! it has, the kernel knows that there is nothing to be read, and asks only for who reads past its pages
//! (`O_DIRECT`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::journal::Staging;
use crate::namespace::inode::Ino;
use crate::vfs::file::Handle;
use crate::vfs::writer::{Inner, Writer};
use crate::vfs::{Result, Vfs};

/// A program comes back within this time after the answer.
const COMES_BACK: Duration = Duration::from_secs(10);

/// What was there when a file was emptied.
pub(super) struct Emptied {
    /// The handle that the open gets. A truncation has none: calls through its handle may come from a process
    /// that has the same one, before it is back.
    by: Option<u64>,
    /// When the call was answered.
    answered: Option<Instant>,
    /// The bytes that were here; `None` if it was the server's version.
    before: Option<Arc<Staging>>,
}

impl Emptied {
    /// A call empties a file whose bytes are in `present`, after another one did so that may be under way
    /// still.
    pub(super) fn new(by: Option<u64>, present: Option<Arc<Staging>>, earlier: Option<Self>) -> Self {
        let before = earlier.filter(Self::is_under_way).map_or(present, |earlier| earlier.before);
        Self { by, answered: None, before }
    }

    /// Whether the program may not have come back yet.
    fn is_under_way(&self) -> bool {
        self.answered.is_none_or(|at| at.elapsed() < COMES_BACK)
    }
}

impl Writer {
    /// Reads through the handle with this number; `None` if the bytes are not here.
    pub(super) fn read(
        &self,
        (number, handle): (u64, &Handle),
        offset: u64,
        size: usize,
    ) -> Option<io::Result<Vec<u8>>> {
        let staging = {
            let mut inner = self.inner();
            inner.is_called_through(number);
            let under_way = |emptied: &&Emptied| !handle.is_direct && emptied.is_under_way();
            match inner.emptied.as_ref().filter(under_way) {
                Some(emptied) => emptied.before.clone(),
                None => inner.staging.clone(),
            }
        };
        Some(staging?.read_at(offset, size))
    }
}

impl Inner {
    /// The call that has emptied the file is about to be answered.
    pub(super) fn is_answered(&mut self) {
        self.emptied.iter_mut().for_each(|emptied| emptied.answered = Some(Instant::now()));
    }

    /// A call has come through `handle`: the open that made it has come back.
    pub(super) fn is_called_through(&mut self, handle: u64) {
        self.emptied.take_if(|emptied| emptied.by == Some(handle));
    }
}

impl Vfs {
    /// Empties a file that is not empty.
    ///
    /// # Errors
    /// `ENOSPC` of the local disk.
    pub(super) fn empty(&self, ino: Ino) -> Result<()> {
        let staging = self.stage_empty(ino)?;
        let writer = self.state().writer(ino).inspect_err(|_| staging.discard())?;
        if let Some(old) = writer.start_empty(staging, false, None) {
            old.discard();
        }
        writer.inner().is_answered();
        Ok(())
    }

    /// An empty staging file whose note says what it is for: if the disk has no room for that, nothing is emptied.
    ///
    /// # Errors
    /// `ENOSPC` of the local disk.
    pub(super) fn stage_empty(&self, ino: Ino) -> Result<Arc<Staging>> {
        let staging = Arc::new(self.journal.stage()?);
        self.note_unfinished(ino, &staging)?;
        Ok(staging)
    }
}
