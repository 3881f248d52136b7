//! Staging files: where a file lives between its first write and its upload.
//!
//! Each mount has a directory of its own in the state directory, held by a lock, and in it a directory for each
//! staging file: the bytes in `data`, and beside them `meta.json`, which a person who has lost everything else can
//! read. A directory whose `meta.json` doesn't say `closed` belongs to a writer that never closed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::{ContainerId, FileId};

/// What a person, or the next mount, needs to know of a staging file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Where the bytes belong.
    pub container: ContainerId,
    /// The path below the container.
    pub path: String,
    /// The version that the writer saw and that these bytes replace.
    pub replaces: Option<FileId>,
    /// Modification time in nanoseconds since the epoch.
    pub mtime: Option<i64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Whether the writer closed or fsynced it.
    pub closed: bool,
    /// Why it is not on the server, if that was tried.
    pub reason: Option<String>,
    /// Whether the server refused it for good.
    pub refused: bool,
    /// A file on the server that an editor has moved aside; after a crash it has its real name back.
    #[serde(default)]
    pub shelved: bool,
    /// POSTs under this name that may have happened without an answer.
    #[serde(default)]
    pub sent: Vec<Sent>,
}

/// A POST that was begun, and whose answer is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The path below the container.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// Of the bytes, in hex; none means that they are those beside.
    pub sha256: Option<String>,
    /// Ids that the path had before.
    pub known: Vec<FileId>,
}

/// A staging file. It outlives this value until [`Staging::discard`]: bytes are never dropped by accident.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    file: File,
    /// Held while the note is written.
    noting: Mutex<()>,
}

impl Staging {
    fn create(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(dir.join("data"))?;
        Ok(Self { dir, file, noting: Mutex::default() })
    }

    fn reopen(dir: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(dir.join("data"))?;
        Ok(Self { dir, file, noting: Mutex::default() })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Counts the staging files of a mount: a newer one has a higher number.
    pub fn serial(&self) -> u64 {
        let name = self.dir.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.parse().ok()).unwrap_or(0)
    }

    /// The path of the bytes.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The disk's, `ENOSPC` among them.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Reads up to `size` bytes at `offset`; fewer at the end only.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_at(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        let mut got = 0;
        while got < size {
            match self.file.read_at(&mut bytes[got..], offset + got as u64)? {
                0 => break,
                more => got += more,
            }
        }
        bytes.truncate(got);
        Ok(bytes)
    }

    /// Truncates or extends with zeros.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether there is no byte.
    ///
    /// # Errors
    /// The disk's.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the bytes durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes `meta.json`, whole or not at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_meta(&self, meta: &Meta, durable: bool) -> io::Result<()> {
        let _noting = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let text = serde_json::to_vec_pretty(meta)?;
        let temporary = self.dir.join(".meta.json");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all_at(&text, 0)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(temporary, self.dir.join("meta.json"))?;
        if durable {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }

    /// What `meta.json` says, if it is there and whole.
    pub fn meta(&self) -> Option<Meta> {
        serde_json::from_slice(&fs::read(self.dir.join("meta.json")).ok()?).ok()
    }

    /// SHA-256 of the bytes, in hex.
    ///
    /// # Errors
    /// The disk's.
    pub fn sha256(&self) -> io::Result<String> {
        let mut digest = Sha256::new();
        io::copy(&mut File::open(self.data())?, &mut digest)?;
        Ok(hex::encode(digest.finalize()))
    }

    /// Takes the promise back: these bytes are on the server, and changes of them are nobody's until the next close.
    pub fn retract(&self) {
        let Some(mut meta) = self.meta() else { return };
        (meta.closed, meta.reason) = (false, None);
        meta.sent.clear();
        if let Err(error) = self.write_meta(&meta, false) {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot change a note");
        }
    }

    /// Removes the bytes: they are on the server, or their owner removed the file.
    pub fn discard(&self) {
        if let Err(error) = fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot remove a staging directory");
        }
    }
}

/// The staging directory of one mount, locked for as long as this value lives.
#[derive(Debug)]
pub struct Journal {
    root: PathBuf,
    own: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl Journal {
    /// Makes a directory for this mount in `state_dir`, which must exist.
    ///
    /// # Errors
    /// It cannot be made or locked.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join("journal");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        // Made under a hidden name and locked before it is shown: no other mount can adopt it half made.
        let private = fs::Permissions::from_mode(0o700);
        let hidden = tempfile::Builder::new().prefix(".new-").permissions(private).tempdir_in(&root)?.keep();
        let lock = locked(&hidden)?.ok_or(io::ErrorKind::WouldBlock)?;
        let name = hidden.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let own = root.join(name.trim_start_matches(".new-"));
        fs::rename(&hidden, &own)?;
        Ok(Self { root, own, next: AtomicU64::new(1), _lock: lock })
    }

    /// A new, empty staging file.
    ///
    /// # Errors
    /// The disk's.
    pub fn stage(&self) -> io::Result<Staging> {
        Staging::create(self.slot())
    }

    /// A staging file with the bytes of `other`, which is frozen.
    ///
    /// # Errors
    /// The disk's.
    pub fn stage_copy(&self, other: &Staging) -> io::Result<Staging> {
        let copy = self.stage()?;
        io::copy(&mut File::open(other.data())?, &mut &copy.file)?;
        Ok(copy)
    }

    /// Takes over the staging files of mounts that are no more.
    pub fn adopt(&self) -> Vec<Staging> {
        let mut adopted = Vec::new();
        for mount in subdirectories(&self.root) {
            if mount == self.own {
                continue;
            }
            let Ok(Some(_lock)) = locked(&mount) else { continue };
            for entry in subdirectories(&mount) {
                let slot = self.slot();
                match fs::rename(&entry, &slot).and_then(|()| Staging::reopen(slot)) {
                    Ok(staging) => adopted.push(staging),
                    Err(error) => {
                        tracing::warn!(%error, entry = %entry.display(), "cannot adopt a staging file");
                    }
                }
            }
            let _ = fs::remove_file(mount.join("lock"));
            let _ = fs::remove_dir(&mount);
        }
        adopted
    }

    fn slot(&self) -> PathBuf {
        self.own.join(format!("{:08}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let empty = subdirectories(&self.own).is_empty();
        if empty {
            let _ = fs::remove_dir_all(&self.own);
        }
    }
}

/// Locks a mount's directory; `None` if its mount lives.
pub(super) fn locked(dir: &Path) -> io::Result<Option<File>> {
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"))?;
    let mut lock = fd_lock::RwLock::new(file.try_clone()?);
    match lock.try_write() {
        // The lock belongs to the open file description, which `file` shares, and falls when `file` is closed.
        Ok(guard) => {
            let _held = ManuallyDrop::new(guard);
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Some(file))
}

pub(super) fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(path: &str) -> Meta {
        Meta {
            container: "cntr_1".into(),
            path: path.to_owned(),
            replaces: None,
            mtime: None,
            mode: None,
            closed: true,
            reason: None,
            refused: false,
            shelved: false,
            sent: Vec::new(),
        }
    }

    #[test]
    fn a_dead_mounts_files_are_adopted_and_a_live_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let dead = Journal::open(dir.path()).unwrap();
        let staging = dead.stage().unwrap();
        staging.write_at(b"precious", 0).unwrap();
        staging.write_meta(&meta("a.txt"), true).unwrap();
        drop(dead);
        let live = Journal::open(dir.path()).unwrap();
        live.stage().unwrap();

        let next = Journal::open(dir.path()).unwrap();
        let adopted = next.adopt();
        assert_eq!(adopted.len(), 1);
        assert_eq!(adopted[0].meta().unwrap(), meta("a.txt"));
        assert_eq!(adopted[0].read_at(0, 100).unwrap(), b"precious");
        adopted[0].discard();
        assert!(next.adopt().is_empty());
    }

    #[test]
    fn a_copy_does_not_follow_its_original() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let frozen = journal.stage().unwrap();
        frozen.write_at(b"one", 0).unwrap();
        let copy = journal.stage_copy(&frozen).unwrap();
        copy.write_at(b"two", 0).unwrap();
        assert_eq!(frozen.read_at(0, 9).unwrap(), b"one");
        assert_eq!(copy.read_at(1, 9).unwrap(), b"wo");
    }

    #[test]
    fn an_unused_journal_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Journal::open(dir.path()).unwrap());
        assert!(subdirectories(&dir.path().join("journal")).is_empty());
    }
}
