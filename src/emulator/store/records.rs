//! What the store keeps of containers and files.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A container as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredContainer {
    /// Its id.
    pub id: String,
    /// Its name; not unique.
    pub name: String,
    /// `running` or `expired`.
    pub status: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Seconds since the epoch.
    pub last_active_at: i64,
    /// It expires so many minutes after its last use.
    pub minutes: i64,
    /// `1g`, `4g`, `16g` or `64g`.
    pub memory_limit: String,
    /// As it was asked for, without secrets.
    pub network_policy: Value,
}

impl StoredContainer {
    /// Whether its files are gone for good.
    pub fn is_expired(&self) -> bool {
        self.status == "expired"
    }
}

/// A file as it is, whatever replies say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Its id.
    pub id: String,
    /// The container that holds it.
    pub container_id: String,
    /// The absolute path that the model sees.
    pub path: String,
    /// Its true length.
    pub bytes: u64,
    /// `user` or `assistant`.
    pub source: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Listed, but without content.
    pub phantom: bool,
}

/// A file's bytes, known to the Files API and not yet in a container.
#[derive(Clone)]
pub(crate) struct ApiFile {
    pub(crate) filename: String,
    pub(crate) bytes: Bytes,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) seq: u64,
    /// The filename of the upload, by which a second upload may replace it.
    pub(crate) upload_name: Option<String>,
    pub(crate) file: StoredFile,
    /// The bytes, where they are few and nothing must outlive the process.
    #[serde(skip)]
    pub(crate) held: Option<Bytes>,
    /// Milliseconds of the store's clock from which lists show it.
    #[serde(skip)]
    pub(crate) listed_from: i64,
    /// Milliseconds of the store's clock until which lists show it although it is deleted.
    #[serde(skip)]
    pub(crate) deleted_until: Option<i64>,
}

impl FileRecord {
    pub(crate) fn is_listed(&self, now: i64) -> bool {
        now >= self.listed_from && self.deleted_until.is_none_or(|until| now < until)
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) seq: u64,
    pub(crate) container: StoredContainer,
}

/// A container with its files.
pub(crate) struct Entry {
    pub(crate) record: ContainerRecord,
    pub(crate) files: BTreeMap<u64, FileRecord>,
    pub(crate) by_id: HashMap<String, u64>,
    /// Changes on disk since the last snapshot.
    pub(crate) changes: usize,
    /// The last use that is on disk, in seconds since the epoch.
    pub(crate) noted_use: i64,
    pub(crate) deleted_until: Option<i64>,
}

impl Entry {
    pub(crate) fn new(record: ContainerRecord) -> Self {
        let noted_use = record.container.last_active_at;
        let (files, by_id) = Default::default();
        Self { record, files, by_id, changes: 0, noted_use, deleted_until: None }
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.container.id
    }

    pub(crate) fn put(&mut self, file: FileRecord) {
        self.by_id.insert(file.file.id.clone(), file.seq);
        self.files.insert(file.seq, file);
    }

    /// The file, unless it is deleted.
    pub(crate) fn get(&self, id: &str) -> Option<&FileRecord> {
        self.files.get(self.by_id.get(id)?).filter(|file| file.deleted_until.is_none())
    }

    /// Forgets the file, or leaves its ghost to the lists.
    pub(crate) fn remove(&mut self, id: &str, ghost_until: Option<i64>) {
        let Some(seq) = self.by_id.get(id).copied() else { return };
        match ghost_until {
            Some(until) => {
                if let Some(file) = self.files.get_mut(&seq) {
                    file.deleted_until = Some(until);
                    file.held = None;
                }
            }
            None => {
                self.files.remove(&seq);
                self.by_id.remove(id);
            }
        }
    }

    /// Forgets ghosts whose time is over.
    pub(crate) fn lay_ghosts(&mut self, now: i64) {
        let over: Vec<String> = self
            .files
            .values()
            .filter(|file| file.deleted_until.is_some_and(|until| now >= until))
            .map(|file| file.file.id.clone())
            .collect();
        for id in over {
            self.remove(&id, None);
        }
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = &FileRecord> {
        self.files.values().filter(|file| file.deleted_until.is_none())
    }
}

/// One line of a container's change log.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    Container(ContainerRecord),
    Put(FileRecord),
    Remove(String),
}

/// A container's snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) container: ContainerRecord,
    pub(crate) files: Vec<FileRecord>,
}
