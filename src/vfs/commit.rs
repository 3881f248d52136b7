//! Brings written bytes to the server: POST, then DELETE of exactly the version that the writer saw.
//!
//! At every instant the server has a whole version. What fails stays here, with its reason beside it.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use crate::api::client::UploadBody;
use crate::api::{self, ContainerId, FileId, budget};
use crate::content::Key;
use crate::journal::Shelved;
use crate::journal::scratch::Class;
use crate::journal::stage::{Meta, Sent};
use crate::journal::steps;
use crate::namespace::inode::Ino;
use crate::vfs::drain::Left;
use crate::vfs::lost::{FoundVersion, Lost};
use crate::vfs::promise::{Closed, When};
use crate::vfs::sending::{Announced, NameTurn};
use crate::vfs::writer::{Frozen, Writer};
use crate::vfs::{Error, Result, Vfs, attr};

/// Files up to this many bytes are compared with the server's version even if that must be fetched: a
/// download that saves an upload and a second version.
const WORTH_COMPARING: u64 = 16 << 20;

/// Where a save goes.
#[derive(Clone)]
pub(super) struct Destination {
    container: ContainerId,
    path: String,
    base: Option<Arc<api::File>>,
    renamed: bool,
}

impl Destination {
    /// The same under another name.
    pub(super) fn renamed(self, path: String) -> Self {
        Self { path, renamed: true, ..self }
    }
}

impl Vfs {
    pub(super) async fn commit_when_due(self: Arc<Self>, ino: Ino, writer: &Arc<Writer>) {
        loop {
            let due =
                writer.inner().due.filter(|_| !self.stopping.load(std::sync::atomic::Ordering::Acquire));
            match due {
                Some(due) if due > Instant::now() => {
                    let soon = Instant::now() + std::time::Duration::from_millis(100);
                    tokio::time::sleep_until(due.min(soon).into()).await;
                }
                _ => break,
            }
        }
        writer.inner().due = None;
        let (open, class) = {
            let state = self.state();
            (state.open_for_writing(ino), self.scratch_class(&state, ino))
        };
        if open && class == Some(Class::Deferred) {
            // Opened again: its time begins anew with the last close.
            return;
        }
        if let Err(error) = self.commit(ino, When::Closed).await {
            tracing::warn!(%error, "a file could not be uploaded behind its close; its bytes are kept");
        }
    }

    /// Uploads the present bytes of a file, if the server doesn't have them.
    ///
    /// # Errors
    /// The outcome of the upload.
    pub(super) async fn commit(self: &Arc<Self>, ino: Ino, when: When) -> Result<()> {
        let writer = self.state().writers.get(&ino).cloned();
        let Some(writer) = writer else { return Ok(()) };
        // Kept as they are now, whoever opens the file meanwhile.
        let closed = (when == When::Asked).then(|| writer.close());
        let _turn = self.turn(ino, &writer).await;
        if self.scratch_class(&self.state(), ino) == Some(Class::Local) {
            return Ok(());
        }
        {
            let inner = writer.inner();
            if !inner.is_dirty() || closed.as_ref().is_some_and(|closed| closed.generation <= inner.sent) {
                return Ok(());
            }
            if let Some((_, error)) = inner.failed.clone().filter(|_| inner.has_failed())
                && error.is_refusal()
            {
                return Err(error);
            }
        }
        let Some(destination) = self.destination(ino, &writer) else { return Ok(()) };
        self.commit_to(ino, &writer, &destination, when, closed.as_ref()).await
    }

    /// Uploads the present bytes of a file, or those that were closed, to `destination`. The caller holds the
    /// turn of the file.
    ///
    /// # Errors
    /// The outcome of the upload.
    pub(super) async fn commit_to(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Arc<Writer>,
        destination: &Destination,
        when: When,
        closed: Option<&Closed>,
    ) -> Result<()> {
        let frozen = {
            let mut state = self.state();
            if when == When::Closed && state.is_written_still(ino, writer) {
                return Ok(());
            }
            let Some(frozen) = writer.freeze(closed) else { return Ok(()) };
            if when == When::Asked && frozen.len == 0 {
                // It waits for the last close.
                writer.unfreeze(&frozen);
                return Ok(());
            }
            // Under its deferred name it is a file like any other by now.
            if writer.inner().placing.is_none() {
                state.shelved.remove(&ino);
            }
            frozen
        };
        let mut strays = Vec::new();
        let outcome = self.send(ino, writer, destination, &frozen, &mut strays).await;
        let told = self.sent(ino, writer, destination, &frozen, outcome);
        // They are deleted, or named in notes.
        strays.iter().for_each(FoundVersion::strike_out);
        told
    }

    /// What became of frozen bytes is told to the file, its notes and its user.
    fn sent(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Arc<Writer>,
        destination: &Destination,
        frozen: &Frozen,
        outcome: Result<()>,
    ) -> Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        match outcome {
            Ok(()) => {
                writer.thaw(frozen, true);
                state.failures.remove(&ino);
                writer.inner().failed = None;
                let unneeded = state.retire_writer(ino);
                drop(guard);
                drop(unneeded);
                Ok(())
            }
            Err(error) => {
                let error = limit_named(error, frozen.len);
                if writer.inner().placing.is_some() {
                    drop(guard);
                    self.stays_unplaced(ino, writer, frozen)?;
                    return Err(self.noticed(&destination.container, error));
                }
                let refused = error.is_refusal();
                writer.inner().failed = Some((frozen.generation, error.clone()));
                let reason = error.to_string();
                let name = state.shown_in(&destination.container, &destination.path);
                state.failures.insert(ino, Left { name, reason: reason.clone() });
                drop(guard);
                let says = || {
                    let meta = self.meta(ino, Some(destination))?;
                    Some(Meta { reason: Some(reason.clone()), refused, noted_at: frozen.noted_at(), ..meta })
                };
                if let Err(error) = frozen.staging.note(true, says) {
                    tracing::error!(%error, "unsent bytes could not be made durable");
                }
                writer.thaw(frozen, false);
                if writer.is_promised_beside(&frozen.staging) {
                    self.promise(ino, writer)?;
                }
                Err(self.noticed(&destination.container, error))
            }
        }
    }

    async fn send(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Arc<Writer>,
        to: &Destination,
        frozen: &Frozen,
        strays: &mut Vec<FoundVersion>,
    ) -> Result<()> {
        if self.is_what_the_server_has(ino, writer, to, frozen).await {
            // It may have stood in another's place meanwhile.
            let replaced = {
                let mut state = self.state();
                let mut inner = writer.inner();
                inner.sent = frozen.generation;
                let mut replaced = std::mem::take(&mut inner.replaces);
                replaced.retain(|id| inner.base.as_ref().is_none_or(|base| base.id != *id));
                self.bury_replaced(&mut state, &to.container, &mut replaced);
                replaced
            };
            self.delete_after(ino, writer, to, frozen, replaced).await;
            return Ok(());
        }
        let Some((uploaded, announced, name)) = self.look_or_post(ino, writer, to, frozen, strays).await?
        else {
            // What others have left under the name is still to be found.
            self.state().lost_again(strays);
            strays.clear();
            writer.inner().replaces.clear();
            return Ok(());
        };
        let uploaded = Arc::new(as_uploaded(uploaded, frozen.len));
        let key = Key::new(&to.container, &uploaded);
        if let Err(error) = self.downloads.cache().adopt_copy(&key, &frozen.staging.data()) {
            tracing::warn!(%error, "an upload was not kept in the cache");
        }
        self.take_over(&uploaded.id, ino);
        let (replaced, removed, unneeded) = {
            let mut guard = self.state();
            let state = &mut *guard;
            state.is_wanted_again(&to.container, &uploaded.id);
            announced.has_landed(state);
            let removed = writer.inner().removed;
            let place = writer.inner().placing.take().filter(|_| !removed);
            let unneeded = place.map(|place| state.place(ino, writer, &place));
            state.landed(ino, &uploaded, frozen.len);
            let mut inner = writer.inner();
            inner.sent = frozen.generation;
            inner.renamed_from = None;
            state.not_lost(&to.container, &to.path, &uploaded.id);
            let mut replaced: Vec<FileId> =
                inner.base.replace(uploaded.clone()).map(|base| base.id.clone()).into_iter().collect();
            replaced.append(&mut inner.replaces);
            replaced.retain(|id| *id != uploaded.id);
            self.bury_replaced(state, &to.container, &mut replaced);
            if removed {
                state.records.bury(&to.container, &uploaded.id);
            }
            (replaced, removed, unneeded)
        };
        drop((name, unneeded));
        self.delete_after(ino, writer, to, frozen, replaced).await;
        if removed {
            // Removed while it travelled.
            self.downloads.forget(&to.container, &uploaded);
            self.delete_version(&to.container, &uploaded.id).await;
        }
        Ok(())
    }

    /// What has arrived of frozen bytes: what a lost POST has left, or else what one makes now. One that is in doubt
    /// is looked for, and sent once more if it is not there. Nothing if another file has taken their name.
    async fn look_or_post(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Writer,
        to: &Destination,
        frozen: &Frozen,
        strays: &mut Vec<FoundVersion>,
    ) -> Result<Option<(api::File, Announced, Option<NameTurn>)>> {
        if let Some((there, announced)) = self.already_there(ino, writer, to, frozen, strays).await? {
            return Ok(Some((there, announced, None)));
        }
        let filename = self.filename(&to.container, &to.path).await?;
        let mut is_first = true;
        loop {
            let error = match self.post(ino, writer, to, frozen, &filename).await {
                Ok(posted) => return Ok(posted.map(|(file, announced, name)| (file, announced, Some(name)))),
                Err(error) => error,
            };
            let again = is_first && self.wait_to_repeat(&error).await;
            let look = self.already_there(ino, writer, to, frozen, strays);
            // Undone, a rename that has happened would leave nothing under the real name, where a server replaces
            // by name.
            let found = if writer.inner().placing.is_some() {
                Some(look.await)
            } else if error.is_in_doubt() {
                budget::in_time(self.client.timeout(), look).await
            } else {
                None
            };
            match found {
                Some(Ok(Some((there, announced)))) => return Ok(Some((there, announced, None))),
                Some(Ok(None)) if again => {}
                _ => return Err(error),
            }
            self.client.count_repetition();
            is_first = false;
        }
    }

    /// Deletes what a save has replaced whose bytes are on the server.
    async fn delete_after(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Arc<Writer>,
        to: &Destination,
        frozen: &Frozen,
        replaced: Vec<FileId>,
    ) {
        // A newer save waits already, or has been opened again: its note has to name the version that it will
        // replace.
        let beside = writer.is_promised_beside(&frozen.staging);
        let noted = if beside {
            self.promise(ino, writer)
        } else {
            self.renew_older(ino, writer, frozen.staging.serial())
        };
        match noted.and_then(|()| self.settle_shelved(Some((ino, &to.path)), &replaced)) {
            Ok(()) => self.delete_replaced(&to.container, replaced).await,
            Err(error) => {
                tracing::warn!(%error, "what an upload replaces stays until the next save: a note could not be written");
                // They are shown again.
                let mut state = self.state();
                replaced.iter().for_each(|id| _ = state.is_wanted_again(&to.container, id));
                writer.inner().also_replaces(replaced);
            }
        }
    }

    /// Sends frozen bytes, after a durable note of what is about to be sent. The name is theirs until what they have
    /// become stands there; nothing is sent if another file has taken it while they waited for it.
    async fn post(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Writer,
        to: &Destination,
        frozen: &Frozen,
        filename: &str,
    ) -> Result<Option<(api::File, Announced, NameTurn)>> {
        let name = budget::free(self.names.take(&to.container, &to.path)).await;
        budget::free(self.deleted_before(&to.container, &to.path)).await;
        if writer.inner().removed {
            return Ok(None);
        }
        let known = {
            let state = self.state();
            let container = state.tree.containers.get(&to.container).copied();
            let versions = container.map(|container| state.versions_of(container, &to.path));
            // What stood there and is shown no more is one of those that this save replaces.
            let inner = writer.inner();
            let replaced = inner.base.iter().map(|base| &base.id).chain(&inner.replaces);
            versions.into_iter().flatten().chain(replaced.cloned()).collect::<HashSet<_>>()
        };
        let at = attr::now();
        let sending = Sent {
            path: to.path.clone(),
            len: frozen.len,
            sha256: None,
            known: known.iter().cloned().collect(),
            at: Some(at),
        };
        writer.sending(sending.clone());
        // A rename makes them younger than what it replaces.
        let noted_at = writer.inner().placing.is_none().then(|| frozen.noted_at());
        let noted = {
            let (vfs, to, staging, noted_at) = (self.clone(), to.clone(), frozen.staging.clone(), noted_at);
            let says = move || {
                let mut meta = vfs.meta(ino, Some(&to))?;
                if !meta.sent.contains(&sending) {
                    meta.sent.push(sending.clone());
                }
                Some(Meta { noted_at: noted_at.unwrap_or(meta.noted_at), ..meta })
            };
            tokio::task::spawn_blocking(move || staging.note(true, says))
        };
        noted.await.map_err(|error| Error::told(libc::EIO, error.to_string()))??;
        let body = UploadBody::File { path: frozen.staging.data(), len: frozen.len };
        let announced = self.announce(&to.container, &to.path, frozen.len, &known);
        steps::step();
        let sent = self.upload_to_stay(&to.container, filename, body, &announced).await;
        let (sent, is_lost) = announced.outcome(sent, |id| {
            let inner = writer.inner();
            inner.base.as_ref().is_some_and(|base| base.id == *id) || inner.replaces.contains(id)
        });
        if is_lost {
            let sha256 = frozen.staging.sha256()?;
            self.note_lost(Lost::new(&to.container, &to.path, frozen.len, sha256, known, at));
        }
        Ok(Some((sent?, announced, name)))
    }

    /// What a lost POST has left of these very bytes under this very name, as if it had been answered now. What
    /// others have left is replaced.
    async fn already_there(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Writer,
        to: &Destination,
        frozen: &Frozen,
        strays: &mut Vec<FoundVersion>,
    ) -> Result<Option<(api::File, Announced)>> {
        let found = self.find_lost(&to.container, &to.path).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let sha256 = frozen.staging.sha256()?;
        let known = {
            let state = self.state();
            let container = state.tree.containers.get(&to.container).copied();
            container.map(|container| state.versions_of(container, &to.path)).unwrap_or_default()
        };
        let announced = self.announce(&to.container, &to.path, frozen.len, &known);
        let mut ours = None;
        let mut state = self.state();
        for mut version in found {
            if !state.found(&mut version) {
                continue;
            }
            if let Some(shown) = version.ino.filter(|shown| *shown != ino) {
                state.tree.unlink(shown);
            }
            // What is about to be deleted, as an earlier mount had it, is nobody's.
            let is_going = state.records.is_buried(&to.container, &version.file.id);
            if ours.is_none() && version.lost.sha256 == sha256 && !is_going {
                announced.answered(&mut state, &version.file.id);
                ours = Some((*version.file).clone());
                version.strike_out();
            } else {
                writer.inner().also_replaces([version.file.id.clone()]);
                strays.push(version);
            }
        }
        drop(state);
        Ok(ours.map(|ours| (ours, announced)))
    }

    /// Whether the version that the writer saw is still there and has these very bytes, by a list fetched
    /// after the open.
    async fn is_what_the_server_has(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Writer,
        to: &Destination,
        frozen: &Frozen,
    ) -> bool {
        let Some(base) = to.base.clone().filter(|_| !to.renamed) else { return false };
        let size = self.state().tree.file(ino).and_then(|file| self.size_of(file));
        if size != Some(frozen.len) && base.bytes != Some(frozen.len) {
            return false;
        }
        let local = self.downloads.present(&to.container, &base);
        if local.is_none() && frozen.len > WORTH_COMPARING {
            return false;
        }
        if self.ensure_listed_since(&to.container, writer.opened).await.is_err() {
            return false;
        }
        let seen = {
            let state = self.state();
            // A POST without an answer may have given the id other bytes.
            let is_in_doubt = state.lost_posts(&to.container).any(|lost| lost.path == to.path);
            let is_seen = state.tree.file(ino).is_some_and(|file| {
                let has_len = |server: &Arc<api::File>| server.bytes.is_none_or(|bytes| bytes == frozen.len);
                file.server.as_ref().is_some_and(|server| server.id == base.id && has_len(server))
                    && file.seen.is_some_and(|seen| seen >= writer.opened)
            });
            is_seen && !is_in_doubt
        };
        if !seen {
            return false;
        }
        let body = local.unwrap_or_else(|| self.downloads.fetch(&to.container, &base));
        let Ok(mut ours) = std::fs::File::open(frozen.staging.data()) else { return false };
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        loop {
            let Ok(got) = ours.read(&mut buffer) else { return false };
            let Ok(theirs) = body.read(offset, got.max(1)).await else { return false };
            if theirs != buffer[..got] {
                return false;
            }
            if got == 0 {
                return true;
            }
            offset += got as u64;
        }
    }

    pub(super) fn destination(&self, ino: Ino, writer: &Writer) -> Option<Destination> {
        let state = self.state();
        let container = state.tree.container(state.tree.file(ino)?.container)?;
        let container = container.container.id.clone();
        let (inner, path) = (writer.inner(), state.tree.path(ino));
        let renamed = inner.renamed_from.as_ref().is_some_and(|from| *from != path);
        Some(Destination { container, path, base: inner.base.clone(), renamed })
    }

    pub(super) fn meta(&self, ino: Ino, destination: Option<&Destination>) -> Option<Meta> {
        self.meta_now(&self.state(), ino, destination)
    }

    pub(super) fn meta_now(
        &self,
        state: &super::State,
        ino: Ino,
        destination: Option<&Destination>,
    ) -> Option<Meta> {
        let local = self.scratch_class(state, ino) == Some(Class::Local);
        Some(Meta { local, ..state.meta(ino, destination)? })
    }
}

impl super::State {
    /// What the next mount needs to know of bytes that were closed just now.
    fn meta(&self, ino: Ino, destination: Option<&Destination>) -> Option<Meta> {
        let file = self.tree.file(ino)?;
        let container = match destination {
            Some(destination) => destination.container.clone(),
            None => self.tree.container(file.container)?.container.id.clone(),
        };
        let placing = self.writers.get(&ino).and_then(|writer| writer.inner().placing.clone());
        let path = match (destination, &placing) {
            (Some(destination), _) => destination.path.clone(),
            (None, Some(place)) => self.tree.path_in(place.to, &place.name),
            (None, None) => self.tree.path(ino),
        };
        let under_way = self.writers.get(&ino).and_then(|writer| writer.inner().sending_present());
        let lost = self.lost_posts(&container).filter(|lost| lost.path == path).flat_map(Lost::to_sents);
        let sent = lost.chain(under_way).collect();
        let writer = self.writers.get(&ino);
        let refused = writer.and_then(|writer| {
            let inner = writer.inner();
            let (_, error) = inner.failed.as_ref().filter(|_| inner.has_failed())?;
            error.is_refusal().then(|| error.to_string())
        });
        // Of what may be tried again, too: a mount that ends amid the next attempt has nothing else to leave behind.
        let failed = || self.failures.get(&ino).map(|left| left.reason.clone());
        let also_replaces = writer.map(|writer| writer.inner().replaces.clone());
        let shelved = self.shelved_from(ino).filter(|_| placing.is_none());
        let taken = placing.map(|place| self.taken_by(ino, &place)).unwrap_or_default();
        Some(Meta {
            container,
            path,
            replaces: file.id().cloned(),
            also_replaces: also_replaces.into_iter().flatten().chain(taken).collect(),
            noted_at: attr::now(),
            attributes: file.attributes,
            closed: true,
            arrived: false,
            refused: refused.is_some(),
            reason: refused.or_else(failed),
            local: false,
            shelved: shelved.map(|from| Shelved { from, just_now: false }),
            sent,
        })
    }

    /// A version of a file is on the server.
    pub(super) fn landed(&mut self, ino: Ino, uploaded: &Arc<api::File>, len: u64) {
        let linked = self.tree.is_linked(ino);
        self.tree.set_server(ino, uploaded.clone());
        if let Some(file) = self.tree.file_mut(ino) {
            file.size = Some((len, Instant::now()));
            file.size_is_ours = true;
        }
        if linked {
            self.remember(ino);
            self.remember_landed(ino);
        }
    }
}

/// The reply to an upload, with what we know better: its length, and whose it is.
pub(super) fn as_uploaded(mut file: api::File, len: u64) -> api::File {
    file.bytes = Some(len);
    if file.source.is_empty() {
        "user".clone_into(&mut file.source);
    }
    file
}

fn limit_named(mut error: Error, len: u64) -> Error {
    if error.errno == libc::EFBIG {
        error.message =
            format!("{} (the file has {len} bytes; the service takes about 50 MB)", error.message);
    }
    error
}
