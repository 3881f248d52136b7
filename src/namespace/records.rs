//! What this machine remembers of files, because the service has no field for it.
//!
//! The name that an upload was asked for under, times and modes that were set here, directories that hold
//! nothing, what was deleted here, and whether the server keeps directories. One JSON line a fact is appended
//! to `records.jsonl` in the state directory of the account; the last line about a thing wins. Appending is
//! what lets several mounts of one account share the file; each holds a shared lock, so that who is alone can
//! tell it and write the file anew with what still counts (`compact.rs`). What is known of a container goes when
//! the container has gone (`departed.rs`).

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::api::{self, ContainerId, FileId};
use crate::namespace::landed::{self, Landed};
use crate::namespace::tombstones::Tombstones;
use crate::namespace::{compact, inode, names};

/// Below the state directory.
const NAME: &str = "records.jsonl";

/// Attributes that were set here and that the service does not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Access time, nanoseconds since the epoch; reading does not change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub atime: Option<i64>,
    /// Modification time, nanoseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime: Option<i64>,
    /// Change time, nanoseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ctime: Option<i64>,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(super) enum Fact {
    File {
        container: ContainerId,
        id: FileId,
        path: Option<String>,
        attributes: Attributes,
    },
    Landed {
        container: ContainerId,
        id: FileId,
        /// Seconds since the epoch.
        at: i64,
    },
    Deleted {
        container: ContainerId,
        id: FileId,
        /// Nanoseconds since the epoch.
        #[serde(default)]
        at: i64,
    },
    Returned {
        container: ContainerId,
        id: FileId,
    },
    Directory {
        container: ContainerId,
        #[serde(deserialize_with = "names::remembered")]
        path: String,
        exists: bool,
    },
    DirectoryAttributes {
        container: ContainerId,
        #[serde(deserialize_with = "names::remembered_or_root")]
        path: String,
        attributes: Attributes,
    },
    Directories {
        kept: bool,
    },
    Missed {
        container: ContainerId,
        /// Seconds since the epoch; none if it is there again.
        since: Option<i64>,
    },
    Departed {
        container: ContainerId,
    },
}

/// The facts about one container.
#[derive(Debug, Default)]
pub struct ContainerRecords {
    /// The shown path that a file was uploaded or renamed under, by its id.
    pub paths: HashMap<FileId, String>,
    /// Attributes set here, by file id.
    pub attributes: HashMap<FileId, Attributes>,
    /// Files deleted here; a list may lag.
    pub tombstones: Tombstones,
    /// Files uploaded by mounts before this one; a list may lag.
    pub landed: Landed,
    /// Directories made or used here, as paths below the container.
    pub directories: BTreeSet<String>,
    /// Attributes of directories that were set here, by path below the container; the container's own path
    /// is empty.
    pub directory_attributes: HashMap<String, Attributes>,
    /// Since when no list has shown the container, in seconds since the epoch.
    missed: Option<i64>,
}

impl ContainerRecords {
    fn facts(&self, container: &ContainerId) -> impl Iterator<Item = Fact> {
        let named = self.paths.keys().filter(|id| !self.attributes.contains_key(*id));
        let files = self.attributes.keys().chain(named).map(|id| Fact::File {
            container: container.clone(),
            id: id.clone(),
            path: self.paths.get(id).cloned(),
            attributes: self.attributes.get(id).copied().unwrap_or_default(),
        });
        let landed = self.landed.iter();
        let landed = landed.map(|(id, at)| Fact::Landed { container: container.clone(), id: id.clone(), at });
        let deleted = self.tombstones.iter();
        let deleted =
            deleted.map(|(id, at)| Fact::Deleted { container: container.clone(), id: id.clone(), at });
        let directories = self.directories.iter().map(|path| Fact::Directory {
            container: container.clone(),
            path: path.clone(),
            exists: true,
        });
        let attributes =
            self.directory_attributes.iter().map(|(path, attributes)| Fact::DirectoryAttributes {
                container: container.clone(),
                path: path.clone(),
                attributes: *attributes,
            });
        let missed = self.missed.map(|at| Fact::Missed { container: container.clone(), since: Some(at) });
        files.chain(landed).chain(deleted).chain(directories).chain(attributes).chain(missed)
    }
}

/// The records of one account.
#[derive(Debug)]
pub struct Records {
    log: File,
    containers: HashMap<ContainerId, ContainerRecords>,
    directories_kept: Option<bool>,
    /// The last line may have no end: the next fact begins a new one.
    torn: bool,
    /// Facts that are to be written at once with what follows.
    gathered: Option<Vec<u8>>,
    /// When it was opened, in nanoseconds since the epoch, if no other mount had it open then.
    alone_at: Option<i64>,
}

impl Records {
    /// Reads the records below `state_dir`, which must exist.
    ///
    /// # Errors
    /// The file cannot be opened or read. A torn last line is skipped.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(NAME);
        let alone = compact::if_alone(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "records.jsonl was not written anew; it goes on growing");
            false
        });
        let log = compact::share(&path)?;
        let records = Self::of(log, |_| ())?;
        Ok(Self { alone_at: alone.then(inode::now), ..records })
    }

    /// Of an open file, from its beginning; `each` sees every fact.
    pub(super) fn of(log: File, each: impl FnMut(&Fact)) -> io::Result<Self> {
        let mut records = Self {
            log,
            containers: HashMap::new(),
            directories_kept: None,
            torn: false,
            gathered: None,
            alone_at: None,
        };
        records.read(each)?;
        Ok(records)
    }

    fn read(&mut self, mut each: impl FnMut(&Fact)) -> io::Result<()> {
        let mut lines = BufReader::new(self.log.try_clone()?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            self.torn = line.last() != Some(&b'\n');
            if let Ok(fact) = serde_json::from_slice(&line) {
                each(&fact);
                self.apply(fact);
            }
            line.clear();
        }
        Ok(())
    }

    /// What it takes to tell all of this again.
    pub(super) fn facts(&self) -> impl Iterator<Item = Fact> {
        let of_all = self.directories_kept.map(|kept| Fact::Directories { kept });
        let of_each = self.containers.iter().flat_map(|(container, records)| records.facts(container));
        of_all.into_iter().chain(of_each)
    }

    /// The facts about `container`, if there are any.
    pub fn container(&self, container: &ContainerId) -> Option<&ContainerRecords> {
        self.containers.get(container)
    }

    /// Every container that something is known about, and since when no list has shown it.
    pub(super) fn missed(&self) -> impl Iterator<Item = (&ContainerId, Option<i64>)> {
        self.containers.iter().map(|(id, records)| (id, records.missed))
    }

    /// Every file that was deleted here.
    pub fn tombstones(&self) -> impl Iterator<Item = &FileId> {
        self.containers.values().flat_map(|records| records.tombstones.iter()).map(|(id, _)| id)
    }

    /// Whether the server keeps directories in upload names; `None` until a probe has told.
    pub fn directories_kept(&self) -> Option<bool> {
        self.directories_kept
    }

    /// Remembers the name and the attributes of a file.
    pub fn remember_file(
        &mut self,
        container: &ContainerId,
        id: &FileId,
        path: Option<String>,
        attributes: Attributes,
    ) {
        self.note(Fact::File { container: container.clone(), id: id.clone(), path, attributes });
    }

    /// Remembers for later mounts that a file was uploaded here just now. This one shows it anyway.
    pub fn remember_landed(&mut self, container: &ContainerId, id: &FileId) {
        self.append(&Fact::Landed { container: container.clone(), id: id.clone(), at: landed::now() });
    }

    /// Takes out the latest files that mounts before this one have uploaded a while ago, at most as many, and
    /// that none of `listed` is. Each comes with when that was, in seconds since the epoch.
    pub fn take_unlisted(
        &mut self,
        container: &ContainerId,
        listed: &[api::File],
        most: usize,
    ) -> Vec<(FileId, i64)> {
        let records = self.containers.get_mut(container);
        records.map(|records| records.landed.take_unlisted(listed, most)).unwrap_or_default()
    }

    /// What became of a file that was taken out could not be told.
    pub fn put_back_unlisted(&mut self, container: &ContainerId, id: FileId, at: i64) {
        if let Some(records) = self.containers.get_mut(container) {
            records.landed.insert(id, at);
        }
    }

    /// Remembers that a file was deleted here.
    pub fn bury(&mut self, container: &ContainerId, id: &FileId) {
        let at = self.buried_since(container, id).unwrap_or_else(inode::now);
        self.note(Fact::Deleted { container: container.clone(), id: id.clone(), at });
    }

    /// The server has answered the deletion of a file. Only the latest of these are remembered.
    pub fn settle_deletion(&mut self, container: &ContainerId, id: &FileId) {
        if let Some(records) = self.containers.get_mut(container) {
            records.tombstones.settle(id);
        }
    }

    /// Remembers that a server gave the id of a file that was deleted here to a new one. Returns whether it
    /// did.
    pub fn unbury(&mut self, container: &ContainerId, id: &FileId) -> bool {
        let buried = self.is_buried(container, id);
        if buried {
            self.note(Fact::Returned { container: container.clone(), id: id.clone() });
        }
        buried
    }

    /// Whether a file was deleted here.
    pub fn is_buried(&self, container: &ContainerId, id: &FileId) -> bool {
        self.buried_since(container, id).is_some()
    }

    /// Whether a file was deleted here and the server has not answered that yet.
    pub fn is_to_be_deleted(&self, container: &ContainerId, id: &FileId) -> bool {
        self.containers.get(container).is_some_and(|records| records.tombstones.is_open(id))
    }

    /// Whether a mount that is no more was to delete a file that a list shows, and there is none that still may be at
    /// it. What has been made since is none of that, whatever id it has.
    pub fn is_left_behind(&self, container: &ContainerId, file: &api::File) -> bool {
        let since =
            self.buried_since(container, &file.id).filter(|_| self.is_to_be_deleted(container, &file.id));
        let made = file.created_at.saturating_mul(1_000_000_000);
        since.is_some_and(|since| made <= since && self.alone_at.is_some_and(|opened| since < opened))
    }

    /// When a file was deleted here, in nanoseconds since the epoch.
    pub fn buried_since(&self, container: &ContainerId, id: &FileId) -> Option<i64> {
        self.containers.get(container)?.tombstones.since(id)
    }

    /// Remembers that a directory exists here, or no longer does.
    pub fn set_directory(&mut self, container: &ContainerId, path: &str, exists: bool) {
        let records = self.containers.get(container);
        let known = records.is_some_and(|c| c.directories.contains(path));
        let is_left = !exists && records.is_some_and(|c| c.directory_attributes.contains_key(path));
        if known != exists || is_left {
            self.note(Fact::Directory { container: container.clone(), path: path.to_owned(), exists });
        }
    }

    /// Remembers the attributes of a directory below `container`.
    pub fn set_directory_attributes(&mut self, container: &ContainerId, path: &str, attributes: Attributes) {
        if self.directory_attributes(container, path) != attributes {
            let (container, path) = (container.clone(), path.to_owned());
            self.note(Fact::DirectoryAttributes { container, path, attributes });
        }
    }

    /// The attributes of a directory that were set here.
    pub fn directory_attributes(&self, container: &ContainerId, path: &str) -> Attributes {
        let records = self.containers.get(container);
        records.and_then(|records| records.directory_attributes.get(path)).copied().unwrap_or_default()
    }

    /// Remembers what the probe of the server told.
    pub fn set_directories_kept(&mut self, kept: bool) {
        self.note(Fact::Directories { kept });
    }

    pub(super) fn note(&mut self, fact: Fact) {
        self.append(&fact);
        self.apply(fact);
    }

    /// Writes what `work` remembers in one piece: a process that is killed has all of it, or nothing.
    pub fn at_once(&mut self, work: impl FnOnce(&mut Self)) {
        self.gathered = Some(Vec::new());
        work(self);
        let lines = self.gathered.take().unwrap_or_default();
        self.write(&lines);
    }

    fn append(&mut self, fact: &Fact) {
        let mut line = serde_json::to_vec(fact).expect("facts have string keys only");
        line.push(b'\n');
        match &mut self.gathered {
            Some(gathered) => gathered.append(&mut line),
            None => self.write(&line),
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let begin: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = self.log.write_all(&[begin, lines].concat());
        self.torn = written.is_err();
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write records.jsonl; names and times of this mount will not outlive it");
        }
    }

    fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::File { container, id, path, attributes } => {
                let records = self.containers.entry(container).or_default();
                if let Some(path) = path {
                    records.paths.insert(id.clone(), path);
                }
                records.attributes.insert(id, attributes);
            }
            Fact::Landed { container, id, at } => {
                self.containers.entry(container).or_default().landed.insert(id, at);
            }
            Fact::Deleted { container, id, at } => {
                let records = self.containers.entry(container).or_default();
                records.landed.remove(&id);
                records.paths.remove(&id);
                records.attributes.remove(&id);
                records.tombstones.insert(id, at);
            }
            Fact::Returned { container, id } => {
                self.containers.entry(container).or_default().tombstones.remove(&id);
            }
            Fact::Directory { container, path, exists } => {
                let records = self.containers.entry(container).or_default();
                if exists {
                    records.directories.insert(path);
                } else {
                    records.directories.remove(&path);
                    records.directory_attributes.remove(&path);
                }
            }
            Fact::DirectoryAttributes { container, path, attributes } => {
                let records = self.containers.entry(container).or_default();
                records.directory_attributes.insert(path, attributes);
            }
            Fact::Directories { kept } => self.directories_kept = Some(kept),
            Fact::Missed { container, since } => {
                self.containers.entry(container).or_default().missed = since;
            }
            Fact::Departed { container } => _ = self.containers.remove(&container),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_belong_together_are_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let container = ContainerId::from("c");
        let mut records = Records::open(dir.path()).unwrap();
        records.set_directory(&container, "old", true);
        records.at_once(|records| {
            records.set_directory(&container, "old", false);
            // Killed here, the process has the old one.
            let killed = Records::open(dir.path()).unwrap();
            assert!(killed.container(&container).unwrap().directories.contains("old"));
            records.set_directory(&container, "new", true);
        });
        let after = Records::open(dir.path()).unwrap();
        let directories: Vec<_> = after.container(&container).unwrap().directories.iter().collect();
        assert_eq!(directories, ["new"]);
    }

    #[test]
    fn facts_outlive_the_process_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let (container, id) = (ContainerId::from("c"), FileId::from("f"));
        let attributes = Attributes { mtime: Some(5), ..Attributes::default() };
        {
            let mut records = Records::open(dir.path()).unwrap();
            records.remember_file(&container, &id, Some("a/b".to_owned()), attributes);
            records.set_directory(&container, "empty", true);
            records.set_directory(&container, "gone", true);
            records.set_directory(&container, "gone", false);
            records.set_directories_kept(false);
            records.log.write_all(b"{\"fact\":\"dele").unwrap();
        }
        let mut records = Records::open(dir.path()).unwrap();
        records.bury(&container, &FileId::from("dead"));
        // A line of which all but its end was written counts, and so does the next.
        let path = dir.path().join("records.jsonl");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        Records::open(dir.path()).unwrap().bury(&container, &FileId::from("dead too"));
        let records = Records::open(dir.path()).unwrap();
        let known = records.container(&container).unwrap();
        assert_eq!(known.paths[&id], "a/b");
        assert_eq!(known.attributes[&id], attributes);
        assert_eq!(known.directories.iter().collect::<Vec<_>>(), ["empty"]);
        assert!(["dead", "dead too"].iter().all(|id| known.tombstones.contains(&FileId::from(*id))));
        assert_eq!(records.directories_kept(), Some(false));
    }
}
