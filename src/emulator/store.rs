//! What the server holds: containers, files and their bytes.
//!
//! Records are in memory, behind one mutex that is held for a map's work and one short write; bytes are on
//! disk, except small ones of a temporary store. The handlers use the operations of `store::operations`,
//! which fail as the API fails. What is public here are the hands of a test: it plays the model, looks at
//! what really is there, and moves the clock.

mod disk;
mod operations;
mod records;
mod staged;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::profiles::Quirks;
use disk::Disk;
use operations::NewFile;
pub(crate) use operations::{Content, NewContainer};
use records::{ApiFile, Change, ContainerRecord, Entry};
pub use records::{StoredContainer, StoredFile};
pub(crate) use staged::{Staged, Stager};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such container.
    #[error("no container {0}")]
    NoContainer(String),
    /// The container is expired and its data gone.
    #[error("container {0} is expired")]
    Expired(String),
    /// The container has no such file, or the file has no content.
    #[error("no file {file} in container {container}")]
    NoFile {
        /// The container's id.
        container: String,
        /// The file's id.
        file: String,
    },
    /// No such file was registered with [`Store::register_api_file`].
    #[error("no API file {0}")]
    NoApiFile(String),
    /// The list holds no such object.
    #[error("no object {0} to go on after")]
    UnknownCursor(String),
    /// The data directory does not obey.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file that was meant.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The server's data; a cheap handle, shared by its clones.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    quirks: Quirks,
    disk: Disk,
    /// Milliseconds since the epoch. Nothing expires for lack of use while there is no server to use it.
    opened: i64,
    /// Milliseconds by which the store's clock is ahead.
    ahead: AtomicI64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<u64, Entry>,
    by_id: HashMap<String, u64>,
    next_seq: u64,
    api_files: HashMap<String, ApiFile>,
}

impl State {
    fn take_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }
}

impl Store {
    /// Opens a data directory, or a temporary one that goes with the last handle.
    pub(crate) fn open(data_dir: Option<&Path>, quirks: Quirks) -> Result<Self, Error> {
        let disk = Disk::open(data_dir)?;
        let mut state = State::default();
        for entry in disk.load()? {
            let last = entry.files.keys().next_back().copied().unwrap_or_default();
            state.next_seq = state.next_seq.max(last).max(entry.record.seq);
            state.by_id.insert(entry.id().to_owned(), entry.record.seq);
            state.containers.insert(entry.record.seq, entry);
        }
        // Folds the logs of the last run, so that no line is ever appended to a torn one.
        for entry in state.containers.values_mut().filter(|entry| entry.changes > 0) {
            disk.snapshot(entry)?;
            entry.changes = 0;
        }
        let inner =
            Inner { quirks, disk, opened: real_time(), ahead: AtomicI64::new(0), state: Mutex::new(state) };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the epoch, by the store's own clock.
    fn now(&self) -> i64 {
        real_time() + self.inner.ahead.load(Ordering::Relaxed)
    }

    /// Moves the store's clock, by which containers expire and lags end.
    pub fn advance_clock(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.inner.ahead.fetch_add(by, Ordering::Relaxed);
    }

    /// Makes a container and returns its id.
    ///
    /// # Panics
    /// If the data directory does not obey, like every function here that writes.
    pub fn create_container(&self, name: &str) -> String {
        let new = NewContainer { name: name.to_owned(), ..NewContainer::default() };
        self.new_container(new).expect("the data directory takes a container").id
    }

    /// Lets a container expire now; its data is gone for good.
    pub fn expire_container(&self, id: &str) {
        self.expire(id).expect("the container exists and the data directory obeys");
    }

    /// Deletes a container with all it holds. One that is missing is fine.
    pub fn delete_container(&self, id: &str) {
        match self.remove_container(id, true) {
            Ok(()) | Err(Error::NoContainer(_)) => {}
            Err(error) => panic!("the data directory does not obey: {error}"),
        }
    }

    /// Writes a file as the model does, at any path, and returns its id. A path may be there twice.
    ///
    /// # Panics
    /// If the container is missing or expired.
    pub fn put_model_file(&self, container: &str, path: &str, bytes: &[u8]) -> String {
        let staged = self.stage("", bytes);
        self.add(container, NewFile::by_model(path), staged).expect("the container is live").id
    }

    /// Writes many files as the model does, with one write of the metadata, and returns their ids.
    pub fn put_many<P, B>(&self, container: &str, files: impl Iterator<Item = (P, B)>) -> Vec<String>
    where
        P: AsRef<str>,
        B: AsRef<[u8]>,
    {
        let files = files
            .map(|(path, bytes)| (NewFile::by_model(path.as_ref()), self.stage("", bytes.as_ref())))
            .collect();
        self.add_many(container, files).expect("the container is live")
    }

    /// Stores bytes as a multipart upload of this filename does, and returns the file's id.
    pub fn put_upload(&self, container: &str, name: &str, bytes: &[u8]) -> String {
        let name = self.upload_name(name);
        let staged = self.stage(&name, bytes);
        self.upload(container, &name, staged).expect("the container is live").id
    }

    /// A file that is listed, with null bytes, and has no content.
    pub fn put_phantom(&self, container: &str, path: &str) -> String {
        let staged = self.stage("", b"");
        let new = NewFile { phantom: true, ..NewFile::by_model(path) };
        self.add(container, new, staged).expect("the container is live").id
    }

    /// Lets the model write a file again; returns its id, which may be a new one.
    pub fn rewrite_model_file(&self, container: &str, id: &str, bytes: &[u8]) -> String {
        let staged = self.stage("", bytes);
        self.rewrite(container, id, staged).expect("the file exists").id
    }

    /// Deletes a file. One that is missing is fine.
    pub fn delete_file(&self, container: &str, id: &str) {
        if let Err(error @ Error::Disk { .. }) = self.remove_file(container, id) {
            panic!("the data directory does not obey: {error}");
        }
    }

    /// Makes the bytes of a `file-…` known, so that it can be attached.
    pub fn register_api_file(&self, id: &str, filename: &str, bytes: &[u8]) {
        let file = ApiFile { filename: filename.to_owned(), bytes: Bytes::copy_from_slice(bytes) };
        self.lock().api_files.insert(id.to_owned(), file);
    }

    /// The files that really are in a container, oldest first; lists may lag behind, sizes may be null there.
    pub fn files(&self, container: &str) -> Vec<StoredFile> {
        let state = self.lock();
        let entry = state.by_id.get(container).and_then(|seq| state.containers.get(seq));
        entry.map(|entry| entry.living().map(|file| file.file.clone()).collect()).unwrap_or_default()
    }

    /// A file's bytes.
    pub fn content(&self, container: &str, id: &str) -> Option<Vec<u8>> {
        match self.content_of(container, id).ok()? {
            Content::Held(bytes) => Some(bytes.to_vec()),
            Content::OnDisk(path) => std::fs::read(path).ok(),
        }
    }

    /// The containers that really are there, expired ones too, oldest first.
    pub fn containers(&self) -> Vec<StoredContainer> {
        let state = self.lock();
        let living = state.containers.values().filter(|entry| entry.deleted_until.is_none());
        living.map(|entry| entry.record.container.clone()).collect()
    }

    fn stage(&self, name: &str, bytes: &[u8]) -> Staged {
        Staged::of(&self.inner.disk.tmp(), name, bytes).expect("the data directory takes bytes")
    }
}

fn real_time() -> i64 {
    let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(real).unwrap_or(i64::MAX)
}

impl Drop for Inner {
    /// Times of last use are not worth a write for each request; an orderly end keeps them.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for entry in state.containers.values().filter(|entry| entry.deleted_until.is_none()) {
            if let Err(error) = self.disk.snapshot(entry) {
                tracing::warn!(%error, "a container's last times of use are lost");
            }
        }
    }
}
