//! The store's side of the nine operations.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};

use super::disk::is_on_disk;
use super::records::FileRecord;
use super::{
    Change, ContainerRecord, Entry, Error, Staged, Stager, State, Store, StoredContainer, StoredFile,
};
use crate::emulator::paging::{self, ListQuery};
use crate::emulator::profiles::ReplaceByName;

/// A container lives so long without use, at most (API.md, "Time and money").
const MAX_MINUTES: i64 = 20;

/// The time of a container's last use is noted on disk so often, in seconds: a server that is killed is off
/// by no more.
const NOTE_USE: i64 = 30;

/// What a new container is asked to be.
pub(crate) struct NewContainer {
    pub(crate) name: String,
    pub(crate) minutes: i64,
    pub(crate) memory_limit: String,
    pub(crate) network_policy: Value,
    pub(crate) file_ids: Vec<String>,
}

impl Default for NewContainer {
    fn default() -> Self {
        Self {
            name: String::new(),
            minutes: MAX_MINUTES,
            memory_limit: "1g".to_owned(),
            network_policy: json!({ "type": "disabled" }),
            file_ids: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Source {
    User,
    Assistant,
}

pub(super) struct NewFile {
    pub(super) path: String,
    pub(super) upload_name: Option<String>,
    pub(super) source: Source,
    pub(super) phantom: bool,
}

impl NewFile {
    pub(super) fn by_model(path: &str) -> Self {
        Self { path: path.to_owned(), upload_name: None, source: Source::Assistant, phantom: false }
    }
}

/// A file's bytes, or where they are.
pub(crate) enum Content {
    Held(Bytes),
    OnDisk(PathBuf),
}

impl Store {
    pub(crate) fn new_container(&self, new: NewContainer) -> Result<StoredContainer, Error> {
        let now = self.now();
        let container = StoredContainer {
            id: self.new_id("cntr_", 48),
            name: new.name,
            status: "running".to_owned(),
            created_at: now / 1000,
            last_active_at: now / 1000,
            minutes: new.minutes,
            memory_limit: new.memory_limit,
            network_policy: new.network_policy,
        };
        {
            let mut state = self.lock();
            if let Some(missing) = new.file_ids.iter().find(|id| !state.api_files.contains_key(*id)) {
                return Err(Error::NoApiFile(missing.clone()));
            }
            let seq = state.take_seq();
            let entry = Entry::new(ContainerRecord { seq, container: container.clone() });
            self.inner.disk.make_container(&entry)?;
            state.by_id.insert(container.id.clone(), seq);
            state.containers.insert(seq, entry);
        }
        for id in &new.file_ids {
            self.attach(&container.id, id)?;
        }
        Ok(container)
    }

    /// A container, used by being asked for.
    pub(crate) fn retrieve_container(&self, id: &str) -> Result<StoredContainer, Error> {
        self.live(&mut self.lock(), id).map(|entry| entry.record.container.clone())
    }

    pub(crate) fn list_containers(&self, query: &ListQuery) -> Result<(Vec<StoredContainer>, bool), Error> {
        let now = self.now();
        let mut state = self.lock();
        let over = |entry: &Entry| entry.deleted_until.is_some_and(|until| now >= until);
        state.containers.retain(|_, entry| !over(entry));
        if self.inner.quirks.expire_after_use {
            for entry in state.containers.values_mut() {
                self.expire_if_unused(entry, now)?;
            }
        }
        let after = match &query.after {
            Some(after) => {
                let seq = state.by_id.get(after).filter(|seq| state.containers.contains_key(seq));
                Some(*seq.ok_or_else(|| Error::UnknownCursor(after.clone()))?)
            }
            None => None,
        };
        let wanted =
            |entry: &Entry| query.name.as_ref().is_none_or(|name| *name == entry.record.container.name);
        if self.inner.quirks.listing_is_use {
            let used = |entry: &&mut Entry| !entry.record.container.is_expired();
            for entry in state.containers.values_mut().filter(used) {
                entry.record.container.last_active_at = now / 1000;
            }
        }
        let (page, more) = paging::page(&state.containers, after, query, wanted);
        Ok((page.into_iter().map(|entry| entry.record.container.clone()).collect(), more))
    }

    /// Removes a container; an expired one only if `even_expired`.
    pub(crate) fn remove_container(&self, id: &str, even_expired: bool) -> Result<(), Error> {
        let grave = {
            let mut state = self.lock();
            match self.live(&mut state, id) {
                Ok(_) => {}
                Err(Error::Expired(_)) if even_expired => {}
                Err(error) => return Err(error),
            }
            let seq = state.by_id[id];
            let grave = self.inner.disk.discard(id)?;
            let until = self.ghost_until();
            if until.is_none() {
                state.containers.remove(&seq);
                state.by_id.remove(id);
            } else if let Some(entry) = state.containers.get_mut(&seq) {
                entry.deleted_until = until;
                entry.files.clear();
                entry.by_id.clear();
            }
            grave
        };
        let _ = std::fs::remove_dir_all(grave);
        Ok(())
    }

    pub(super) fn expire(&self, id: &str) -> Result<(), Error> {
        let mut state = self.lock();
        match self.live(&mut state, id) {
            Ok(entry) => self.make_expired(entry),
            Err(Error::Expired(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn list_files(
        &self,
        container: &str,
        query: &ListQuery,
    ) -> Result<(Vec<StoredFile>, bool), Error> {
        let now = self.now();
        let mut state = self.lock();
        let entry = self.live(&mut state, container)?;
        entry.lay_ghosts(now);
        let after = match &query.after {
            Some(after) => Some(*entry.by_id.get(after).ok_or_else(|| Error::UnknownCursor(after.clone()))?),
            None => None,
        };
        let (page, more) = paging::page(&entry.files, after, query, |file| file.is_listed(now));
        Ok((page.into_iter().map(|file| file.file.clone()).collect(), more))
    }

    pub(crate) fn file(&self, container: &str, id: &str) -> Result<StoredFile, Error> {
        let mut state = self.lock();
        let entry = self.live(&mut state, container)?;
        entry.get(id).map(|file| file.file.clone()).ok_or_else(|| no_file(container, id))
    }

    /// The bytes of a file; for a phantom the error of a missing file.
    pub(crate) fn content_of(&self, container: &str, id: &str) -> Result<Content, Error> {
        let mut state = self.lock();
        let entry = self.live(&mut state, container)?;
        let file = entry.get(id).filter(|file| !file.file.phantom);
        let file = file.ok_or_else(|| no_file(container, id))?;
        Ok(match &file.held {
            Some(bytes) => Content::Held(bytes.clone()),
            None => Content::OnDisk(self.inner.disk.content(container, id)),
        })
    }

    pub(crate) fn remove_file(&self, container: &str, id: &str) -> Result<(), Error> {
        let mut state = self.lock();
        let entry = self.live(&mut state, container)?;
        self.remove_from(entry, id)
    }

    /// A stager for an upload of this name.
    pub(crate) fn stager(&self, name: &str) -> Stager {
        Stager::new(self.inner.disk.tmp(), name)
    }

    /// What the server takes of a filename.
    pub(crate) fn upload_name(&self, sent: &str) -> String {
        match sent.rsplit_once('/') {
            Some((_, base)) if !self.inner.quirks.keep_slashes => base.to_owned(),
            _ => sent.to_owned(),
        }
    }

    /// Keeps an upload; `name` is what [`Store::upload_name`] made of it, and what was staged under.
    pub(crate) fn upload(&self, container: &str, name: &str, staged: Staged) -> Result<StoredFile, Error> {
        let path = if self.inner.quirks.upload_prefix {
            format!("/mnt/data/{}-{name}", staged.prefix)
        } else {
            format!("/mnt/data/{name}")
        };
        let new = NewFile { path, upload_name: Some(name.to_owned()), source: Source::User, phantom: false };
        self.add(container, new, staged)
    }

    /// Copies a file of the Files API into a container.
    pub(crate) fn attach(&self, container: &str, id: &str) -> Result<StoredFile, Error> {
        let file = self.lock().api_files.get(id).cloned();
        let file = file.ok_or_else(|| Error::NoApiFile(id.to_owned()))?;
        let path = format!("/mnt/data/{id}-{}", file.filename);
        let new = NewFile { path, upload_name: None, source: Source::User, phantom: false };
        self.add(container, new, self.stage("", &file.bytes))
    }

    pub(super) fn add(&self, container: &str, new: NewFile, staged: Staged) -> Result<StoredFile, Error> {
        let mut state = self.lock();
        let seq = state.take_seq();
        let entry = self.live(&mut state, container)?;
        let mut record = self.record(container, seq, new, staged.len);
        let quirks = &self.inner.quirks;
        if let Some(earlier) = self.replaced(entry, &record) {
            if quirks.replace_by_name == ReplaceByName::SameId {
                record.seq = earlier.seq;
                record.file.id.clone_from(&earlier.file.id);
                record.file.created_at = earlier.file.created_at;
            } else {
                self.remove_from(entry, &earlier.file.id)?;
            }
        }
        self.keep(entry, record, staged)
    }

    pub(super) fn add_many(
        &self,
        container: &str,
        files: Vec<(NewFile, Staged)>,
    ) -> Result<Vec<String>, Error> {
        let mut state = self.lock();
        let mut ids = Vec::with_capacity(files.len());
        let first = state.next_seq + 1;
        state.next_seq += files.len() as u64;
        let entry = self.live(&mut state, container)?;
        for ((new, staged), seq) in files.into_iter().zip(first..) {
            let mut record = self.record(container, seq, new, staged.len);
            record.held = self.inner.disk.settle(staged.place, container, &record.file.id)?;
            ids.push(record.file.id.clone());
            entry.put(record);
        }
        self.inner.disk.snapshot(entry)?;
        entry.changes = 0;
        Ok(ids)
    }

    pub(super) fn rewrite(&self, container: &str, id: &str, staged: Staged) -> Result<StoredFile, Error> {
        let mut state = self.lock();
        let seq = state.take_seq();
        let entry = self.live(&mut state, container)?;
        let mut record = entry.get(id).cloned().ok_or_else(|| no_file(container, id))?;
        record.file.bytes = staged.len;
        record.file.phantom = false;
        if !self.inner.quirks.rewritten_keeps_id {
            self.remove_from(entry, id)?;
            let path = record.file.path;
            record = self.record(container, seq, NewFile::by_model(&path), staged.len);
        }
        self.keep(entry, record, staged)
    }

    fn record(&self, container: &str, seq: u64, new: NewFile, len: u64) -> FileRecord {
        let now = self.now();
        let source = if new.source == Source::User { "user" } else { "assistant" };
        let lag =
            if new.source == Source::User { self.inner.quirks.upload_list_lag } else { Default::default() };
        FileRecord {
            seq,
            upload_name: new.upload_name,
            file: StoredFile {
                id: self.new_id("cfile_", 32),
                container_id: container.to_owned(),
                path: new.path,
                bytes: len,
                source: source.to_owned(),
                created_at: now / 1000,
                phantom: new.phantom,
            },
            held: None,
            listed_from: if lag.is_zero() { 0 } else { now + millis(lag) },
            deleted_until: None,
        }
    }

    /// The earlier file in whose place an upload comes.
    fn replaced(&self, entry: &Entry, new: &FileRecord) -> Option<FileRecord> {
        if new.upload_name.is_none() || self.inner.quirks.replace_by_name == ReplaceByName::Second {
            return None;
        }
        let same =
            |file: &&FileRecord| file.file.path == new.file.path || file.upload_name == new.upload_name;
        entry.living().filter(same).last().cloned()
    }

    fn keep(&self, entry: &mut Entry, mut record: FileRecord, staged: Staged) -> Result<StoredFile, Error> {
        let file = record.file.clone();
        record.held = self.inner.disk.settle(staged.place, entry.id(), &file.id)?;
        let change = Change::Put(record.clone());
        entry.put(record);
        self.inner.disk.note(entry, &change)?;
        Ok(file)
    }

    fn remove_from(&self, entry: &mut Entry, id: &str) -> Result<(), Error> {
        let file = entry.get(id).ok_or_else(|| no_file(entry.id(), id))?;
        if is_on_disk(file) {
            self.inner.disk.remove_content(entry.id(), id);
        }
        entry.remove(id, self.ghost_until());
        self.inner.disk.note(entry, &Change::Remove(id.to_owned()))
    }

    /// The container if it lives, and the time of its last use moved.
    fn live<'a>(&self, state: &'a mut State, id: &str) -> Result<&'a mut Entry, Error> {
        let missing = || Error::NoContainer(id.to_owned());
        let seq = state.by_id.get(id).ok_or_else(missing)?;
        let entry = state.containers.get_mut(seq).filter(|entry| entry.deleted_until.is_none());
        let entry = entry.ok_or_else(missing)?;
        let now = self.now();
        self.expire_if_unused(entry, now)?;
        if entry.record.container.is_expired() {
            return Err(Error::Expired(id.to_owned()));
        }
        entry.record.container.last_active_at = now / 1000;
        if now / 1000 - entry.noted_use >= NOTE_USE {
            entry.noted_use = now / 1000;
            let change = Change::Container(entry.record.clone());
            self.inner.disk.note(entry, &change)?;
        }
        Ok(entry)
    }

    fn expire_if_unused(&self, entry: &mut Entry, now: i64) -> Result<(), Error> {
        let container = &entry.record.container;
        let unused = now / 1000 - container.last_active_at.max(self.inner.opened / 1000);
        let due = self.inner.quirks.expire_after_use && unused > container.minutes * 60;
        if due && !container.is_expired() && entry.deleted_until.is_none() {
            self.make_expired(entry)?;
        }
        Ok(())
    }

    fn make_expired(&self, entry: &mut Entry) -> Result<(), Error> {
        "expired".clone_into(&mut entry.record.container.status);
        entry.files.clear();
        entry.by_id.clear();
        let grave = self.inner.disk.discard_contents(entry.id())?;
        let _ = std::fs::remove_dir_all(grave);
        self.inner.disk.snapshot(entry)?;
        entry.changes = 0;
        Ok(())
    }

    /// Until when lists show what is deleted now.
    fn ghost_until(&self) -> Option<i64> {
        let lag = self.inner.quirks.delete_list_lag;
        (!lag.is_zero()).then(|| self.now() + millis(lag))
    }

    fn new_id(&self, prefix: &str, digits: usize) -> String {
        let digits = if self.inner.quirks.long_ids { 240 - prefix.len() } else { digits };
        let mut bytes = [0_u8; 120];
        rand::fill(&mut bytes[..]);
        let mut id = hex::encode(bytes);
        id.truncate(digits);
        format!("{prefix}{id}")
    }
}

fn no_file(container: &str, file: &str) -> Error {
    Error::NoFile { container: container.to_owned(), file: file.to_owned() }
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}
