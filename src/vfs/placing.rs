//! A file with a scratch name gets its real one when its bytes have arrived under it: a rename that the server
//! refuses leaves everything where it was.

use std::sync::Arc;

use crate::api::FileId;
use crate::namespace::inode::Ino;
use crate::vfs::promise::When;
use crate::vfs::rename::standing;
use crate::vfs::writer::{Frozen, Unneeded, Writer};
use crate::vfs::{Result, State, Vfs};

/// The name that a file gets once its bytes have arrived. Notes about them say so from the start.
#[derive(Clone)]
pub(super) struct Place {
    /// What stood there when the rename began.
    pub(super) target: Option<Ino>,
    /// The directory.
    pub(super) to: Ino,
    pub(super) name: String,
}

impl Vfs {
    /// Whether a rename to `name` waits for the upload of a file whose bytes are here alone, or were moved aside.
    pub(super) fn is_placed(&self, ino: Ino, writer: &Writer, name: &str) -> bool {
        let state = self.state();
        self.config.write_back.is_none()
            && self.scratch.class(name).is_none()
            && self.scratch_class(&state, ino).is_some()
            // Closed by its program, though the kernel may be about to release it, or synced.
            && (writer.is_promised() || !state.open_for_writing(ino))
    }

    /// Uploads a file with a scratch name under a real one, and puts it there. The caller holds the turns of
    /// the file and of what stands there.
    ///
    /// # Errors
    /// The outcome of the upload; then nothing has changed.
    pub(super) async fn place(self: &Arc<Self>, ino: Ino, writer: &Arc<Writer>, place: Place) -> Result<()> {
        let Some(destination) = self.destination(ino, writer) else { return Ok(()) };
        let path = self.state().tree.path_in(place.to, &place.name);
        writer.inner().placing = Some(place);
        let outcome = self.commit_to(ino, writer, &destination.renamed(path), When::Ended, None).await;
        writer.inner().placing = None;
        outcome
    }

    /// The bytes have not arrived: they are promised under the scratch name, as they were before.
    pub(super) fn stays_unplaced(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Arc<Writer>,
        frozen: &Frozen,
    ) -> Result<()> {
        writer.inner().placing = None;
        writer.sending_ended();
        if let Err(error) = frozen.staging.note(true, || self.meta(ino, None)) {
            tracing::error!(%error, "unsent bytes could not be made durable");
        }
        writer.thaw(frozen, false);
        self.commit_later(ino, writer);
        if writer.is_promised_beside(&frozen.staging) { self.promise(ino, writer) } else { Ok(()) }
    }
}

impl State {
    /// The versions that a file replaces which is about to be placed.
    pub(super) fn taken_by(&self, ino: Ino, place: &Place) -> Vec<FileId> {
        let mut taken = self.taken_aside(ino, place);
        taken.extend(standing(place.target, ino).into_iter().flat_map(|stands| self.claims(stands)));
        taken
    }

    /// Puts a file whose bytes have arrived where it belongs, in the place of what stands there.
    pub(super) fn place(&mut self, ino: Ino, writer: &Writer, place: &Place) -> Unneeded {
        let aside = self.taken_aside(ino, place);
        {
            let mut inner = writer.inner();
            inner.also_replaces(aside);
            inner.renamed_from = None;
        }
        if let Some(stands) = standing(place.target, ino) {
            let claims = self.claims(stands);
            writer.inner().also_replaces(claims);
            self.inherit(stands, writer);
        }
        // It takes its version on the server along.
        self.shelved.remove(&ino);
        self.leave_directory(ino);
        self.put(ino, place.target, place.to, &place.name)
    }

    fn taken_aside(&self, ino: Ino, place: &Place) -> Vec<FileId> {
        self.taken_from(ino, &self.tree.path_in(place.to, &place.name))
    }
}
