//! The bytes of a file that are newer than the server's, from the first change to the upload.
//!
//! A writer counts its changes. What the server has is a count too, so "dirty" is a comparison and not a flag
//! that two threads could clear. While a generation travels its staging file is frozen; a change meanwhile
//! goes to a copy. So does a change of bytes that were promised: closed, with a durable note beside them.
//! They stay until newer ones are promised, on the server, or the file is removed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::api::{self, FileId};
use crate::journal::Staging;
use crate::journal::stage::Sent;
use crate::namespace::inode::Ino;
use crate::vfs::emptied::Emptied;
use crate::vfs::placing::Place;
use crate::vfs::promise::Closed;
use crate::vfs::{Error, State, attr};

/// A file that is being written, or whose bytes are on their way.
pub(super) struct Writer {
    inner: Mutex<Inner>,
    /// Held while the bytes of the version underneath are fetched.
    pub(super) prepare: tokio::sync::Mutex<()>,
    /// Held while a generation travels: uploads of one file keep their order.
    pub(super) travelling: Arc<tokio::sync::Mutex<()>>,
    /// When the version underneath was seen.
    pub(super) opened: Instant,
}

/// What the mutex of a writer guards.
pub(super) struct Inner {
    /// `None` until the bytes of the version underneath are here.
    pub(super) staging: Option<Arc<Staging>>,
    pub(super) len: u64,
    /// Counts changes.
    pub(super) generation: u64,
    /// The change that the server has.
    pub(super) sent: u64,
    /// A program has removed the file, or put another in its place: what is written to it is nobody's.
    pub(super) removed: bool,
    /// The change that could not be sent, and why.
    pub(super) failed: Option<(u64, Error)>,
    /// Calls that work with it and have changed nothing yet.
    pub(super) used_by: usize,
    pub(super) frozen: bool,
    /// The name that the file gets when what travels has arrived.
    pub(super) placing: Option<Place>,
    /// The present bytes are closed, and a note beside them says so.
    promised: bool,
    /// The serial numbers of bytes that are closed, beside which a note is being written that says so.
    pub(super) closing: Vec<u64>,
    /// The note beside the present bytes says that the server has them.
    noted_as_arrived: bool,
    /// The attributes beside promised bytes are going to be noted again.
    noting_attributes: bool,
    /// Older bytes that were promised, or travel: they stay until newer ones are promised or have arrived.
    kept: Vec<Arc<Staging>>,
    /// Promised bytes of a file that this one took the place of: they stay just as long.
    inherited: Vec<Arc<Staging>>,
    /// The present bytes are among those that another file has inherited: when they go is its business.
    passed_on: bool,
    /// The serial number of the bytes that travel.
    travels: Option<u64>,
    /// The POST under way, for the note beside the bytes that travel.
    sending: Option<Sent>,
    /// The change that a shelved file was at, if that is what the server has.
    clean_at: Option<u64>,
    /// The change that a shelved file was at, while its note says what a crash gives it back: its real name.
    aside_at: Option<u64>,
    /// The version that the writer saw.
    pub(super) base: Option<Arc<api::File>>,
    /// Further versions that these bytes replace, after a rename over them.
    pub(super) replaces: Vec<FileId>,
    /// The path of the version underneath, if the file was renamed since: under another one equal bytes are
    /// still another file.
    pub(super) renamed_from: Option<String>,
    /// With `--write-back`: when the upload begins.
    pub(super) due: Option<Instant>,
    /// What was there before a call that may not have come back.
    pub(super) emptied: Option<Emptied>,
}

impl Inner {
    /// The next save replaces these versions too.
    pub(super) fn also_replaces(&mut self, ids: impl IntoIterator<Item = FileId>) {
        for id in ids {
            let is_known =
                self.replaces.contains(&id) || self.base.as_ref().is_some_and(|base| base.id == id);
            if !is_known {
                self.replaces.push(id);
            }
        }
    }

    /// Whether there are changes that the server doesn't have and is to have.
    pub(super) fn is_dirty(&self) -> bool {
        self.generation > self.sent && !self.removed
    }

    /// The POST under way, if it is of the present bytes.
    pub(super) fn sending_present(&self) -> Option<Sent> {
        self.sending_of(self.staging.as_ref()?)
    }

    /// The POST under way, if it is of these bytes.
    pub(super) fn sending_of(&self, staging: &Staging) -> Option<Sent> {
        self.sending.clone().filter(|_| self.travels == Some(staging.serial()))
    }

    /// Whether the staging file with this number is among those of the file.
    pub(super) fn holds(&self, serial: u64) -> bool {
        self.stagings().any(|staging| staging.serial() == serial)
    }

    /// Everything that lies in the journal for this file: the present bytes, older ones, also those that travel, and
    /// those of files that it took the place of.
    pub(super) fn stagings(&self) -> impl Iterator<Item = &Arc<Staging>> {
        self.staging.iter().chain(&self.kept).chain(&self.inherited)
    }

    /// Takes out older bytes; none if those with this number are the present ones, or others'.
    pub(super) fn take_one_older(&mut self, serial: u64) -> Option<Arc<Staging>> {
        let is_meant = |staging: &mut Arc<Staging>| staging.serial() == serial;
        self.kept.extract_if(.., is_meant).chain(self.inherited.extract_if(.., is_meant)).next()
    }

    /// These bytes, if newer ones are in their place and they are kept.
    fn older(&self, staging: &Arc<Staging>) -> Option<Arc<Staging>> {
        self.kept.iter().find(|kept| Arc::ptr_eq(kept, staging)).cloned()
    }

    pub(super) fn is_present(&self, staging: &Arc<Staging>) -> bool {
        self.staging.as_ref().is_some_and(|present| Arc::ptr_eq(present, staging))
    }

    /// Whether the present bytes may not be changed where they are: they travel, are promised or about to be,
    /// or have to be because the file was renamed.
    pub(super) fn is_fixed(&self) -> bool {
        self.frozen || self.promised || self.is_closing() || (self.noted_as_arrived && self.is_dirty())
    }

    fn is_closing(&self) -> bool {
        self.staging.as_ref().is_some_and(|present| self.closing.contains(&present.serial()))
    }

    /// Whether the present bytes may be changed once their note no longer says that the server has them.
    pub(super) fn is_to_be_noted(&self) -> bool {
        self.noted_as_arrived && !self.is_fixed()
    }

    /// A note that says so lies beside them.
    pub(super) fn was_noted(&mut self) {
        self.noted_as_arrived &= self.is_fixed();
    }

    /// The first bytes are here, and perhaps are noted as what the server has.
    pub(super) fn bring(&mut self, staging: Arc<Staging>, len: u64, noted_as_arrived: bool) {
        (self.staging, self.len, self.noted_as_arrived) = (Some(staging), len, noted_as_arrived);
    }

    /// Puts a staging file in the place of the present one. Returns that one if nobody needs it.
    pub(super) fn put(&mut self, staging: Arc<Staging>) -> Option<Arc<Staging>> {
        let (fixed, passed_on) = (self.is_fixed(), self.passed_on);
        (self.frozen, self.promised, self.noted_as_arrived, self.passed_on) = (false, false, false, false);
        let old = self.staging.replace(staging)?;
        if passed_on {
            return None;
        }
        if fixed {
            self.kept.push(old);
            return None;
        }
        Some(old)
    }

    /// Everything that lies in the journal for this file, for it to be removed, the oldest first: what is left of it
    /// after a crash is the newest.
    pub(super) fn take_stagings(&mut self) -> impl Iterator<Item = Arc<Staging>> {
        let present = self.staging.take().filter(|_| !self.passed_on);
        self.take_older().chain(present)
    }

    /// The same, while programs go on with the bytes.
    pub(super) fn share_stagings(&mut self) -> impl Iterator<Item = Arc<Staging>> {
        let present = self.staging.clone().filter(|_| !self.passed_on);
        self.take_older().chain(present)
    }

    /// Everything that is promised, for another file to inherit, while programs go on with the bytes.
    pub(super) fn pass_on(&mut self) -> impl Iterator<Item = Arc<Staging>> {
        self.passed_on = self.promised;
        let present = self.staging.clone().filter(|_| self.promised);
        present.into_iter().chain(self.take_older())
    }

    fn take_older(&mut self) -> impl Iterator<Item = Arc<Staging>> + use<> {
        std::mem::take(&mut self.inherited).into_iter().chain(std::mem::take(&mut self.kept))
    }

    /// Keeps the promised bytes of a file that this one takes the place of.
    pub(super) fn inherit(&mut self, stagings: impl Iterator<Item = Arc<Staging>>) {
        self.inherited.extend(stagings);
    }

    /// Whether the file was moved aside just now, and not written since.
    pub(super) fn is_aside_just_now(&self) -> bool {
        self.aside_at == Some(self.generation)
    }

    /// Whether the file was written since it was moved aside: what was promised then would have its real name after a
    /// crash, beside what is newer.
    pub(super) fn is_written_aside(&self) -> bool {
        self.aside_at.is_some_and(|at| at != self.generation)
    }

    /// Older bytes, but for those that travel.
    pub(super) fn older_at_rest(&self) -> Vec<Arc<Staging>> {
        let rests = |older: &&Arc<Staging>| Some(older.serial()) != self.travels;
        self.kept.iter().filter(rests).cloned().collect()
    }

    /// Whether somebody has to see to it that changed attributes are noted beside promised bytes.
    pub(super) fn begins_to_note_attributes(&mut self) -> bool {
        let begins = self.promised && !self.noting_attributes;
        self.noting_attributes |= begins;
        begins
    }

    /// The bytes beside which they are noted, from now on.
    pub(super) fn notes_attributes(&mut self) -> Option<Arc<Staging>> {
        self.noting_attributes = false;
        self.staging.clone().filter(|_| self.promised)
    }

    /// Whether the present bytes were tried already and failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.as_ref().is_some_and(|(generation, _)| *generation == self.generation)
    }
}

/// Staging files that nobody needs. They are removed when this goes, which takes the disk a while: after the
/// lock of the state.
#[derive(Default)]
#[must_use = "it is dropped after the lock of the state"]
pub(super) struct Unneeded(Vec<Arc<Staging>>);

impl FromIterator<Arc<Staging>> for Unneeded {
    fn from_iter<I: IntoIterator<Item = Arc<Staging>>>(stagings: I) -> Self {
        Self(stagings.into_iter().collect())
    }
}

impl Drop for Unneeded {
    fn drop(&mut self) {
        self.0.iter().for_each(|staging| staging.discard());
    }
}

/// What is sent: bytes that nobody changes any more.
pub(super) struct Frozen {
    pub(super) staging: Arc<Staging>,
    pub(super) generation: u64,
    pub(super) len: u64,
    /// When they were closed or frozen, in nanoseconds since the epoch.
    at: i64,
}

impl Frozen {
    /// When these bytes were closed, in nanoseconds since the epoch: a note about their upload makes them no
    /// younger.
    pub(super) fn noted_at(&self) -> i64 {
        let closed = self.staging.meta().filter(|meta| meta.closed);
        closed.map_or(self.at, |meta| meta.noted_at)
    }
}

impl Writer {
    pub(super) fn new(base: Option<Arc<api::File>>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                staging: None,
                len: 0,
                generation: 0,
                sent: 0,
                removed: false,
                failed: None,
                frozen: false,
                placing: None,
                promised: false,
                closing: Vec::new(),
                noted_as_arrived: false,
                noting_attributes: false,
                kept: Vec::new(),
                inherited: Vec::new(),
                passed_on: false,
                travels: None,
                sending: None,
                clean_at: None,
                aside_at: None,
                base,
                replaces: Vec::new(),
                renamed_from: None,
                due: None,
                emptied: None,
                used_by: 0,
            }),
            prepare: tokio::sync::Mutex::new(()),
            travelling: Arc::default(),
            opened: Instant::now(),
        })
    }

    /// A writer whose bytes are all in `staging`, and on no server. `promised` tells whether a note is beside
    /// them.
    pub(super) fn holding(
        staging: Arc<Staging>,
        len: u64,
        base: Option<Arc<api::File>>,
        promised: bool,
    ) -> Arc<Self> {
        let writer = Self::new(base);
        {
            let mut inner = writer.inner();
            inner.staging = Some(staging);
            inner.len = len;
            inner.generation = 1;
            inner.promised = promised;
        }
        writer
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length in bytes, once the bytes are here.
    pub(super) fn len(&self) -> Option<u64> {
        let inner = self.inner();
        inner.staging.as_ref().map(|_| inner.len)
    }

    /// Writes; `None` if the bytes are not here yet or are frozen.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Option<std::io::Result<()>> {
        let mut inner = self.inner();
        if inner.is_fixed() || inner.noted_as_arrived {
            return None;
        }
        let staging = inner.staging.clone()?;
        inner.emptied = None;
        let written = staging.write_at(bytes, offset);
        if written.is_ok() {
            inner.len = inner.len.max(offset + bytes.len() as u64);
            inner.generation += 1;
        }
        Some(written)
    }

    /// Begins anew with an empty file, which is a change unless the server's is empty too. Returns the
    /// staging file that is no longer needed.
    pub(super) fn start_empty(
        &self,
        staging: Arc<Staging>,
        was_empty: bool,
        by: Option<u64>,
    ) -> Option<Arc<Staging>> {
        let mut inner = self.inner();
        let clean_and_empty = was_empty && !inner.is_dirty();
        inner.emptied = Some(Emptied::new(by, inner.staging.clone(), inner.emptied.take()));
        let old = inner.put(staging);
        inner.len = 0;
        if !clean_and_empty {
            inner.generation += 1;
        }
        old
    }

    /// Truncates or extends; `None` if the bytes are not here yet or may not be changed where they are.
    pub(super) fn set_len(&self, len: u64) -> Option<std::io::Result<()>> {
        let mut inner = self.inner();
        if inner.is_fixed() || inner.noted_as_arrived {
            return None;
        }
        let staging = inner.staging.clone()?;
        inner.emptied = None;
        let done = staging.set_len(len);
        if done.is_ok() {
            inner.len = len;
            inner.generation += 1;
        }
        Some(done)
    }

    /// Freezes the present bytes, or those that were closed, if they are here still.
    pub(super) fn freeze(&self, closed: Option<&Closed>) -> Option<Frozen> {
        let mut inner = self.inner();
        let present = inner.staging.clone()?;
        let older = closed.and_then(|closed| Some((closed, inner.older(closed.staging.as_ref()?)?)));
        let frozen = match older {
            Some((Closed { generation, len, at, .. }, staging)) => {
                Frozen { staging, generation: *generation, len: *len, at: *at }
            }
            None => {
                inner.frozen = true;
                let (generation, len) = (inner.generation, inner.len);
                Frozen { staging: present, generation, len, at: attr::now() }
            }
        };
        inner.travels = Some(frozen.staging.serial());
        Some(frozen)
    }

    /// Unfreezes bytes that were not sent after all.
    pub(super) fn unfreeze(&self, frozen: &Frozen) {
        let mut inner = self.inner();
        (inner.travels, inner.sending) = (None, None);
        if inner.is_present(&frozen.staging) {
            inner.frozen = false;
        }
    }

    /// A POST of the frozen bytes begins.
    pub(super) fn sending(&self, sent: Sent) {
        self.inner().sending = Some(sent);
    }

    /// The POST has been told of, if it may have happened.
    pub(super) fn sending_ended(&self) {
        self.inner().sending = None;
    }

    /// Ends [`Writer::freeze`]. What has arrived is no longer promised, nor is anything older; what has not,
    /// is.
    pub(super) fn thaw(&self, frozen: &Frozen, arrived: bool) {
        let mut inner = self.inner();
        (inner.travels, inner.sending) = (None, None);
        let in_place = inner.is_present(&frozen.staging);
        if in_place {
            inner.frozen = false;
            (inner.promised, inner.noted_as_arrived) = (!arrived, arrived);
        }
        if !arrived {
            return;
        }
        // The older ones first: once nothing says that these are newer they would be sent again.
        inner.inherited.drain(..).for_each(|staging| staging.discard());
        let serial = frozen.staging.serial();
        inner.kept.retain(|older| {
            let newer = older.serial() > serial;
            if !newer {
                older.discard();
            }
            newer
        });
        if in_place {
            frozen.staging.retract();
        }
    }

    /// The present bytes are promised: a durable note lies beside them, which names what older bytes may have
    /// left on the server. So these are not needed any longer, unless they travel.
    pub(super) fn promised(&self, staging: &Arc<Staging>) -> Unneeded {
        let mut inner = self.inner();
        if !inner.is_present(staging) {
            return Unneeded::default();
        }
        (inner.promised, inner.noted_as_arrived) = (true, false);
        let travels = inner.travels;
        let older = inner.kept.extract_if(.., |older| Some(older.serial()) != travels).collect();
        let mut unneeded = Unneeded(older);
        unneeded.0.append(&mut inner.inherited);
        unneeded
    }

    /// The file has been moved aside: what is here stays here, though the server still has it.
    pub(super) fn shelved(&self) {
        let mut inner = self.inner();
        let clean = !inner.is_dirty();
        inner.generation += 1;
        inner.clean_at = clean.then_some(inner.generation);
        inner.aside_at = (clean || inner.promised).then_some(inner.generation);
    }

    /// The file that was moved aside stays so, after a crash too. Returns whether it is as it was then, to be promised
    /// once more.
    pub(super) fn stays_aside(&self) -> bool {
        let mut inner = self.inner();
        let is_as_moved = inner.is_aside_just_now();
        inner.aside_at = None;
        is_as_moved
    }

    /// The file has come back to its own name. Returns whether it is what the server has.
    pub(super) fn unshelved(&self) -> bool {
        let mut inner = self.inner();
        let clean = inner.clean_at.take() == Some(inner.generation);
        if clean {
            inner.sent = inner.generation;
            if let Some(staging) = &inner.staging {
                staging.retract();
                inner.noted_as_arrived = true;
            }
        }
        clean
    }

    /// Takes out what lies here of a file that the server has, at the end of a mount: whoever has it open still and
    /// changes it gets other bytes, with a note of their own. None if it is to be sent, and is left here.
    pub(super) fn take_what_has_arrived(&self) -> Option<Unneeded> {
        let mut inner = self.inner();
        if inner.is_dirty() {
            return None;
        }
        // The note beside bytes whose save is not done says what they replace, and perhaps nothing else does.
        if inner.removed || inner.frozen || inner.travels.is_some() {
            return Some(Unneeded::default());
        }
        let unneeded = inner.take_stagings().collect();
        (inner.promised, inner.noted_as_arrived, inner.passed_on) = (false, false, false);
        Some(unneeded)
    }

    /// Nobody has the file open: what lies here waits without descriptors.
    pub(super) fn rest(&self) {
        let inner = self.inner();
        let older = inner.kept.iter().chain(&inner.inherited);
        inner.staging.iter().chain(older).for_each(|staging| staging.rest());
    }

    /// Whether nobody waits for these bytes: their file is removed, the server has them, or newer ones stand for them.
    pub(super) fn is_done_with(&self, closed: &Closed) -> bool {
        let inner = self.inner();
        let is_present = closed.staging.as_ref().is_some_and(|staging| inner.is_present(staging));
        inner.removed || closed.generation <= inner.sent || !is_present
    }

    /// Whether the present bytes are promised, or about to be, and others than those in `frozen`.
    pub(super) fn is_promised_beside(&self, frozen: &Arc<Staging>) -> bool {
        let inner = self.inner();
        (inner.promised || inner.is_closing()) && !inner.is_present(frozen)
    }

    /// Whether the present bytes are promised.
    pub(super) fn is_promised(&self) -> bool {
        self.inner().promised
    }

    /// Whether they are, or are about to be.
    pub(super) fn is_promised_or_closing(&self) -> bool {
        self.is_promised() || self.inner().is_closing()
    }
}

impl State {
    /// The length of bytes that are here and may be newer than the server's.
    pub(super) fn local_len(&self, ino: Ino) -> Option<u64> {
        self.writers.get(&ino).and_then(|writer| writer.len())
    }

    /// Whether a handle that may write has the file open.
    pub(super) fn open_for_writing(&self, ino: Ino) -> bool {
        self.handles.values().any(|handle| handle.ino == ino && handle.writable)
    }

    /// Whether the file has bytes that the server doesn't have and is to have.
    pub(super) fn has_unsent_bytes(&self, ino: Ino) -> bool {
        self.writers.get(&ino).is_some_and(|writer| writer.inner().is_dirty())
    }

    /// A change was made just now.
    pub(super) fn touched(&mut self, ino: Ino) {
        if let Some(file) = self.tree.file_mut(ino) {
            let now = attr::now();
            file.held = true;
            file.attributes.mtime = Some(now);
            file.attributes.ctime = Some(now);
        }
    }
}
