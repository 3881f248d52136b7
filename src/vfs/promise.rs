//! What `close` and `fsync` promise: bytes are on the server, or durable here with a note beside them.
//!
//! Closed bytes are kept from changes until the note is written: whoever opens the file meanwhile changes a
//! copy, and what nobody has closed is never taken for what somebody has.

use std::sync::Arc;

use crate::journal::{Meta, Staging, steps};
use crate::namespace::inode::Ino;
use crate::vfs::writer::Writer;
use crate::vfs::{Error, Result, State, Vfs, attr};

/// Why bytes are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// A program waits that closes or syncs them. An empty file waits for its last close all the same.
    Asked,
    /// After the last close: not if the file is open again and what it holds was not closed by anybody.
    Closed,
    /// Whatever there is counts as closed.
    Ended,
}

/// Bytes that a program has closed and that are about to be promised. A change meanwhile goes to a copy.
pub(super) struct Closed {
    writer: Arc<Writer>,
    /// None if they are not here, and so not changed.
    pub(super) staging: Option<Arc<Staging>>,
    pub(super) len: u64,
    /// The change that they are.
    pub(super) generation: u64,
    /// When they were closed, in nanoseconds since the epoch.
    pub(super) at: i64,
}

impl Drop for Closed {
    fn drop(&mut self) {
        let Some(staging) = &self.staging else { return };
        let mut inner = self.writer.inner();
        if let Some(at) = inner.closing.iter().position(|serial| *serial == staging.serial()) {
            inner.closing.swap_remove(at);
        }
    }
}

impl Vfs {
    /// Saves a file: at once, or with `--write-back` once its bytes are durable here.
    ///
    /// # Errors
    /// The outcome of the upload; `EIO` and the like leave the bytes pending.
    pub(super) async fn save(self: &Arc<Self>, ino: Ino, when: When) -> Result<()> {
        let (writer, closed) = {
            let state = self.state();
            let Some(writer) = state.writers.get(&ino).cloned() else { return Ok(()) };
            let goes_at_once = self.scratch_class(&state, ino).is_none() && self.config.write_back.is_none();
            let closed = match when {
                When::Asked if writer.len() == Some(0) => Some(writer.close()),
                When::Closed if state.is_written_still(ino, &writer) => return Ok(()),
                _ if goes_at_once => None,
                _ => Some(writer.close()),
            };
            (writer, closed)
        };
        let Some(closed) = closed else { return self.commit(ino, when).await };
        let is_empty = closed.len == 0;
        let promised = self.promise_closed(ino, &closed);
        // The upload of an empty one waits for the last close; after a crash it is an empty file all the same.
        if !is_empty || when != When::Asked {
            self.commit_later(ino, &writer);
        }
        promised
    }

    /// Writes down whose bytes these will be, for whoever finds them after a crash. Those of a file that was
    /// removed are nobody's, and those that cannot be written down are removed.
    pub(super) fn note_unfinished(&self, ino: Ino, staging: &Staging) -> Result<()> {
        if self.state().writers.get(&ino).is_some_and(|writer| writer.inner().removed) {
            staging.discard();
            return Ok(());
        }
        let says = || {
            let mut meta = Meta { closed: false, reason: None, refused: false, ..self.meta(ino, None)? };
            // A POST that is under way is of other bytes, which have a note of their own. Found with these, what it
            // makes would be nobody's.
            meta.sent.retain(|sent| sent.sha256.is_some());
            Some(meta)
        };
        staging.note(false, says).inspect_err(|_| staging.discard())?;
        Ok(())
    }

    /// Makes the bytes of a closed file durable here.
    pub(super) fn promise(&self, ino: Ino, writer: &Arc<Writer>) -> Result<()> {
        self.promise_closed(ino, &writer.close())
    }

    /// What was promised belongs elsewhere by now, or replaces something else: its note says so. Bytes that a program
    /// is writing meanwhile are promised as little as before.
    pub(super) fn renew_promise(&self, ino: Ino, writer: &Arc<Writer>) -> Result<()> {
        // What is being promised is noted again: the note may have been thought of before, and say what was true then.
        let is_written = self.state().open_for_writing(ino) && !writer.is_promised_or_closing();
        if !is_written { self.promise(ino, writer) } else { self.renew_older(ino, writer, 0) }
    }

    /// The notes of older bytes that were promised and are not on their way, with serial numbers from `since` on. They
    /// make these no younger, unless they belong elsewhere by now.
    pub(super) fn renew_older(&self, ino: Ino, writer: &Writer, since: u64) -> Result<()> {
        let older = writer.inner().older_at_rest();
        for older in older.iter().filter(|older| older.serial() >= since) {
            let says = || {
                let mut meta = self.meta(ino, None)?;
                meta.sent.retain(|sent| sent.sha256.is_some());
                let before = older.meta().filter(|before| before.path == meta.path);
                meta.noted_at = before.map_or(meta.noted_at, |before| before.noted_at);
                Some(meta)
            };
            older.note(true, says)?;
        }
        Ok(())
    }

    /// The same, of bytes that are kept from changes until then.
    fn promise_closed(&self, ino: Ino, closed: &Closed) -> Result<()> {
        let (writer, Some(staging)) = (&closed.writer, &closed.staging) else { return Ok(()) };
        steps::closed();
        if writer.inner().is_written_aside() {
            self.renew_older(ino, writer, 0)?;
        }
        let says = || {
            let state = self.state();
            if writer.is_done_with(closed) {
                // Their note says what they replace, which is about to be deleted; nothing else may say so.
                return None;
            }
            let mut meta = self.meta_now(&state, ino, None)?;
            drop(state);
            if !writer.has_present(staging) {
                // Opened and emptied meanwhile.
                meta.sent.retain(|sent| sent.sha256.is_some());
                meta.sent.extend(writer.inner().sending_of(staging));
            }
            // However late the note is written, what was closed later is newer.
            let before = staging.meta().filter(|before| before.closed);
            meta.noted_at = before.map_or(closed.at, |before| before.noted_at.max(closed.at));
            Some(meta)
        };
        // With all who had it open.
        let has_gone = || self.state().tree.file(ino).is_none();
        loop {
            if self.state().shelved_from(ino).is_some() && writer.inner().is_aside_just_now() {
                return Ok(());
            }
            match staging.note(true, says) {
                Ok(None) if writer.is_done_with(closed) || has_gone() => return Ok(()),
                Ok(None) => return Err(Error::told(libc::ESTALE, "there is no place left for the bytes")),
                Ok(Some(noted)) => {
                    let state = self.state();
                    // An upload of older bytes that landed meanwhile has changed what these will replace, or
                    // a rename where they belong and what they have inherited.
                    let stands = |now: Meta| now.says_the_same(&noted);
                    if !writer.has_present(staging) || self.meta_now(&state, ino, None).is_some_and(stands) {
                        let unneeded = writer.promised(staging);
                        let is_open = state.tree.get(ino).is_some_and(|node| node.handles > 0);
                        drop(state);
                        if !is_open {
                            writer.rest();
                        }
                        drop(unneeded);
                        return Ok(());
                    }
                }
                // Uploaded meanwhile: there is nothing to promise.
                Err(_) if !writer.inner().is_dirty() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Writer {
    /// Whether these are the present bytes.
    pub(super) fn has_present(&self, staging: &Arc<Staging>) -> bool {
        self.inner().is_present(staging)
    }

    /// Closes the present bytes.
    pub(super) fn close(self: &Arc<Self>) -> Closed {
        let mut inner = self.inner();
        let (staging, len, generation) = (inner.staging.clone(), inner.len, inner.generation);
        inner.closing.extend(staging.as_ref().map(|staging| staging.serial()));
        Closed { writer: self.clone(), staging, len, generation, at: attr::now() }
    }
}

impl State {
    /// Whether somebody who has the file open has changed it since it was closed or synced, or may be about to
    /// write what belongs in an empty one.
    pub(super) fn is_written_still(&self, ino: Ino, writer: &Writer) -> bool {
        self.open_for_writing(ino) && (!writer.is_promised() || writer.len() == Some(0))
    }
}
