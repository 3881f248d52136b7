//! The data directory.
//!
//! ```text
//! containers/<container id>/container.json   snapshot: the container and its files, replaced by rename
//! containers/<container id>/changes.jsonl    what changed since, one line each; replayed at start
//! containers/<container id>/content/<file id>
//! tmp/                                       uploads on their way; emptied at start
//! ```
//!
//! A snapshot for each change would make ten thousand uploads quadratic; the log makes each of them one short
//! write. Replaying a log onto the snapshot that already contains it changes nothing, so a crash between the
//! two is harmless. Names on disk are ids, which are made here; a user's names never are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::{NamedTempFile, TempDir};

use super::Error;
use super::records::{Change, Entry, FileRecord, Snapshot};
use super::staged::Place;

pub(crate) struct Disk {
    root: PathBuf,
    /// Whether anything must outlive the process.
    pub(crate) persistent: bool,
    _temporary: Option<TempDir>,
}

impl Disk {
    pub(crate) fn open(data_dir: Option<&Path>) -> Result<Self, Error> {
        let disk = match data_dir {
            Some(dir) => Self { root: dir.to_owned(), persistent: true, _temporary: None },
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("containerfs-emulator-")
                    .tempdir()
                    .map_err(at(&std::env::temp_dir()))?;
                Self { root: dir.path().to_owned(), persistent: false, _temporary: Some(dir) }
            }
        };
        match fs::remove_dir_all(disk.tmp()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&disk.tmp())(error)),
            _ => {}
        }
        for dir in [disk.tmp(), disk.containers()] {
            fs::create_dir_all(&dir).map_err(at(&dir))?;
        }
        Ok(disk)
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    pub(crate) fn content(&self, container: &str, file: &str) -> PathBuf {
        self.container(container).join("content").join(file)
    }

    pub(crate) fn make_container(&self, entry: &Entry) -> Result<(), Error> {
        let dir = self.container(entry.id()).join("content");
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        self.snapshot(entry)
    }

    /// Puts bytes in their place; returns them where memory is their place.
    pub(crate) fn settle(&self, place: Place, container: &str, file: &str) -> Result<Option<Bytes>, Error> {
        let path = self.content(container, file);
        match place {
            Place::Held(bytes) if !self.persistent => return Ok(Some(bytes)),
            Place::Held(bytes) => self.replace(&path, &bytes)?,
            Place::Spilled(spilled) => spilled.persist(&path).map_err(|failed| at(&path)(failed.error))?,
        }
        Ok(None)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file = NamedTempFile::new_in(self.tmp()).map_err(at(path))?;
        file.write_all(bytes).map_err(at(path))?;
        file.persist(path).map_err(|failed| at(path)(failed.error))?;
        Ok(())
    }

    /// A content file may be missing: small files of a temporary store have none.
    pub(crate) fn remove_content(&self, container: &str, file: &str) {
        let _ = fs::remove_file(self.content(container, file));
    }

    /// Moves a container out of sight, in one step; the caller removes what it gets in its own time.
    pub(crate) fn discard(&self, container: &str) -> Result<PathBuf, Error> {
        let grave = self.tmp().join(format!("gone-{:016x}", rand::random::<u64>()));
        let dir = self.container(container);
        fs::rename(&dir, &grave).map_err(at(&dir))?;
        Ok(grave)
    }

    /// Moves only the contents out of sight.
    pub(crate) fn discard_contents(&self, container: &str) -> Result<PathBuf, Error> {
        let grave = self.tmp().join(format!("gone-{:016x}", rand::random::<u64>()));
        let dir = self.container(container).join("content");
        fs::rename(&dir, &grave).and_then(|()| fs::create_dir(&dir)).map_err(at(&dir))?;
        Ok(grave)
    }

    /// Notes a change, and now and then folds the log into a new snapshot.
    pub(crate) fn note(&self, entry: &mut Entry, change: &Change) -> Result<(), Error> {
        if !self.persistent {
            return Ok(());
        }
        let path = self.container(entry.id()).join("changes.jsonl");
        let mut line = serde_json::to_vec(change).expect("records are plain data");
        line.push(b'\n');
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut log| log.write_all(&line))
            .map_err(at(&path))?;
        entry.changes += 1;
        if entry.changes > 1000 + 2 * entry.files.len() {
            self.snapshot(entry)?;
            entry.changes = 0;
        }
        Ok(())
    }

    pub(crate) fn snapshot(&self, entry: &Entry) -> Result<(), Error> {
        if !self.persistent {
            return Ok(());
        }
        let dir = self.container(entry.id());
        let path = dir.join("container.json");
        let snapshot = Snapshot { container: entry.record.clone(), files: entry.living().cloned().collect() };
        let mut file = NamedTempFile::new_in(self.tmp()).map_err(at(&path))?;
        let mut writer = BufWriter::new(file.as_file_mut());
        serde_json::to_writer(&mut writer, &snapshot).map_err(io::Error::from).map_err(at(&path))?;
        writer.flush().map_err(at(&path))?;
        drop(writer);
        file.persist(&path).map_err(|failed| at(&path)(failed.error))?;
        let log = dir.join("changes.jsonl");
        match fs::remove_file(&log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&log)(error)),
            _ => Ok(()),
        }
    }

    /// Every container of an earlier run.
    pub(crate) fn load(&self) -> Result<Vec<Entry>, Error> {
        let dir = self.containers();
        let mut entries = Vec::new();
        for item in fs::read_dir(&dir).map_err(at(&dir))? {
            let path = item.map_err(at(&dir))?.path();
            if let Some(entry) = load_container(&path)? {
                remove_strays(&path.join("content"), &entry);
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// None where a crash left a directory without its first snapshot.
fn load_container(dir: &Path) -> Result<Option<Entry>, Error> {
    let path = dir.join("container.json");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    let snapshot: Snapshot =
        serde_json::from_reader(io::BufReader::new(file)).map_err(io::Error::from).map_err(at(&path))?;
    let mut entry = Entry::new(snapshot.container);
    snapshot.files.into_iter().for_each(|file| entry.put(file));
    let path = dir.join("changes.jsonl");
    let log = match fs::read(&path) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(at(&path)(error)),
    };
    for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // A torn line is the last one, of a request that never had its reply.
        let Ok(change) = serde_json::from_slice(line) else { break };
        entry.changes += 1;
        match change {
            Change::Container(record) => entry.record = record,
            Change::Put(file) => entry.put(file),
            Change::Remove(id) => entry.remove(&id, None),
        }
    }
    if entry.record.container.is_expired() {
        let ids: Vec<String> = entry.by_id.keys().cloned().collect();
        ids.iter().for_each(|id| entry.remove(id, None));
    }
    if !log.is_empty() {
        // Even a log of nothing but a torn line must be folded: the next append must not land behind it.
        entry.changes = entry.changes.max(1);
    }
    Ok(Some(entry))
}

/// Contents that a crash left without a record.
fn remove_strays(dir: &Path, entry: &Entry) {
    let Ok(items) = fs::read_dir(dir) else { return };
    for item in items.flatten() {
        let known = item.file_name().to_str().and_then(|id| entry.get(id)).is_some();
        if !known {
            let _ = fs::remove_file(item.path());
        }
    }
}

/// Whether the bytes of a record must be on disk.
pub(crate) fn is_on_disk(file: &FileRecord) -> bool {
    file.held.is_none() && !file.file.phantom
}

pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Disk { path: path.clone(), source }
}
