//! Changing the length of a file.

use std::sync::Arc;

use crate::namespace::inode::Ino;
use crate::vfs::promise::When;
use crate::vfs::{Error, Result, Vfs};

impl Vfs {
    /// Changes the length of a file; by path, that is a save of its own, of what an earlier one could not send too.
    pub(super) async fn truncate(self: &Arc<Self>, ino: Ino, size: u64, handle: Option<u64>) -> Result<()> {
        if self.state().tree.file(ino).is_none() {
            return Err(Error::quiet(libc::EISDIR));
        }
        if self.config.no_overwrite && handle.is_none() {
            return Err(Error::quiet(libc::EPERM));
        }
        if self.state().local_len(ino).is_none() {
            self.ensure_size(ino).await?;
        }
        let present = {
            let state = self.state();
            state.local_len(ino).or_else(|| self.size_of(state.tree.file(ino)?))
        };
        if present != Some(size) {
            self.set_length(ino, size).await?;
        } else if !self.state().has_unsent_bytes(ino) {
            return Ok(());
        }
        if handle.is_some() || self.is_held_for_writing(ino) {
            return Ok(());
        }
        // The kernel may be about to release it.
        let when = if self.state().open_for_writing(ino) { When::Asked } else { When::Closed };
        self.save(ino, when).await
    }

    async fn set_length(&self, ino: Ino, size: u64) -> Result<()> {
        if size == 0 {
            self.empty(ino)?;
        } else {
            // Of a version that is not here only what stays is fetched, so its length tells nothing now.
            loop {
                let writer = self.prepare(ino, size).await?;
                match writer.set_len(size) {
                    Some(Ok(())) => break,
                    Some(Err(error)) => {
                        self.let_go(ino, writer);
                        return Err(error.into());
                    }
                    None => {}
                }
            }
        }
        self.state().touched(ino);
        Ok(())
    }

    /// Makes an open file at least `len` bytes long, as `fallocate(2)` does.
    ///
    /// # Errors
    /// `ENOSPC` of the local disk, or the server's if the version underneath must be fetched.
    pub async fn extend(self: &Arc<Self>, ino: Ino, handle: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        let writer = self.prepare(ino, u64::MAX).await?;
        if writer.len().is_some_and(|present| present < len) {
            self.truncate(ino, len, Some(handle)).await?;
        }
        Ok(())
    }
}
