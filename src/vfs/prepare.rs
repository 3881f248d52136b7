//! Before a change: the bytes of the version underneath come here, and the note beside them says whose they
//! will be.

use std::sync::Arc;

use crate::journal::{Meta, Staging};
use crate::namespace::inode::Ino;
use crate::vfs::in_use::InUse;
use crate::vfs::writer::Writer;
use crate::vfs::{Error, Result, Vfs};

impl Vfs {
    /// Sees to it that the bytes of a file are here, as they are.
    pub(super) async fn bring_here(&self, ino: Ino) -> Result<InUse> {
        let writer = self.state().writer(ino)?;
        if writer.len().is_some() { Ok(writer) } else { self.prepare_as(ino, u64::MAX, true).await }
    }

    /// Sees to it that the bytes of a file are here and may be changed; at most the first `keep` bytes of the
    /// version underneath are needed.
    pub(super) async fn prepare(&self, ino: Ino, keep: u64) -> Result<InUse> {
        self.prepare_as(ino, keep, false).await
    }

    async fn prepare_as(&self, ino: Ino, keep: u64, as_they_are: bool) -> Result<InUse> {
        let writer = self.state().writer(ino)?;
        match self.prepare_bytes(ino, &writer, keep, as_they_are).await {
            Ok(()) => Ok(writer),
            Err(error) => {
                self.let_go(ino, writer);
                Err(error)
            }
        }
    }

    async fn prepare_bytes(&self, ino: Ino, writer: &Writer, keep: u64, as_they_are: bool) -> Result<()> {
        let container = {
            let state = self.state();
            let container = state.tree.file(ino).and_then(|file| state.tree.container(file.container));
            container.map(|container| container.container.id.clone())
        };
        let _turn = writer.prepare.lock().await;
        let (staging, fixed, to_be_noted, base) = {
            let inner = writer.inner();
            (inner.staging.clone(), inner.is_fixed(), inner.is_to_be_noted(), inner.base.clone())
        };
        if let Some(staging) = staging {
            if to_be_noted {
                self.note_unfinished_again(ino, writer, &staging)?;
            } else if fixed {
                let copy = Arc::new(self.journal.stage_copy(&staging)?);
                self.note_unfinished(ino, &copy)?;
                let mut inner = writer.inner();
                // Arrived meanwhile: the bytes may be changed where they are.
                let unneeded = if inner.is_fixed() { inner.put(copy) } else { Some(copy) };
                if let Some(unneeded) = unneeded {
                    unneeded.discard();
                }
            }
            return Ok(());
        }
        let staging = self.journal.stage()?;
        self.note_unfinished(ino, &staging)?;
        if as_they_are {
            // Nobody waits for them after a crash.
            staging.retract();
        }
        let mut len = 0;
        if keep > 0
            && let (Some(base), Some(container)) = (base, container)
        {
            let body = self.downloads.fetch(&container, &base);
            let copied =
                body.copy_to(&*staging.file()?).await.map_err(|e| self.noticed(&container, e.into()));
            len = copied.inspect_err(|_| staging.discard()).map_err(Error::on_open_handle)?;
        }
        let mut inner = writer.inner();
        if inner.staging.is_none() {
            inner.bring(Arc::new(staging), len, as_they_are);
            drop(inner);
        } else {
            // Emptied meanwhile.
            drop(inner);
            staging.discard();
        }
        Ok(())
    }

    /// Bytes that the server has are about to be changed: from now on they are unfinished.
    fn note_unfinished_again(&self, ino: Ino, writer: &Writer, staging: &Staging) -> Result<()> {
        // Renamed meanwhile, they have to be promised.
        let says = || {
            let is_to_be_noted = writer.inner().is_to_be_noted();
            let meta = self.meta(ino, None).filter(|_| is_to_be_noted);
            meta.map(|meta| Meta { closed: false, ..meta })
        };
        staging.note(false, says)?;
        writer.inner().was_noted();
        Ok(())
    }
}
