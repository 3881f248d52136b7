//! Staging files: where a file lives between its first write and its upload.
//!
//! A staging file has a directory of its own in the journal of its mount: the bytes in `data`, and beside
//! them `meta.json`, which a person who has lost everything else can read. A directory whose `meta.json`
//! doesn't say `closed` belongs to a writer that never closed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::{ContainerId, FileId};
use crate::journal::descriptor::Descriptor;
use crate::journal::{note, steps};
use crate::namespace::names;
use crate::namespace::records::Attributes;
use crate::private;

/// What [`Meta`] is written into.
pub(super) const NOTE: &str = "meta.json";

/// What a person, or the next mount, needs to know of a staging file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Where the bytes belong.
    pub container: ContainerId,
    /// The path below the container.
    #[serde(deserialize_with = "names::remembered")]
    pub path: String,
    /// The version that the writer saw and that these bytes replace.
    pub replaces: Option<FileId>,
    /// Further versions that these bytes replace, after a rename over them.
    #[serde(default)]
    pub also_replaces: Vec<FileId>,
    /// When this was written, in nanoseconds since the epoch: of two saves of a path the later one counts.
    #[serde(default)]
    pub noted_at: i64,
    /// What the service has no field for.
    #[serde(flatten)]
    pub attributes: Attributes,
    /// Whether the writer closed or fsynced it.
    pub closed: bool,
    /// Whether the server has these very bytes: they are here because a program still has the file open.
    #[serde(default)]
    pub arrived: bool,
    /// Why it is not on the server, if that was tried.
    pub reason: Option<String>,
    /// Whether the server refused it for good.
    pub refused: bool,
    /// Whether it has a scratch name, under which it is never sent.
    #[serde(default)]
    pub local: bool,
    /// A file on the server that was moved aside to the scratch name `path`.
    #[serde(default)]
    pub shelved: Option<Shelved>,
    /// POSTs under this name that may have happened without an answer.
    #[serde(default)]
    pub sent: Vec<Sent>,
}

impl Meta {
    /// Whether two notes differ in nothing but times and other attributes, which somebody who writes on
    /// changes faster than they can be noted.
    pub fn says_the_same(&self, other: &Self) -> bool {
        *self == Self { noted_at: self.noted_at, attributes: self.attributes, ..other.clone() }
    }

    /// The versions that these bytes replace.
    pub fn replaced(&self) -> impl Iterator<Item = &FileId> {
        self.replaces.iter().chain(&self.also_replaces)
    }

    /// Whether it is of a file that was moved aside, which a crash undoes.
    pub fn is_aside_just_now(&self) -> bool {
        self.shelved.as_ref().is_some_and(|shelved| shelved.just_now)
    }

    /// Whether these bytes get the name that a file which was moved aside has left, or replace its version.
    pub fn takes_the_place_of(&self, aside: &Self) -> bool {
        let gets_its_name = aside.shelved.as_ref().is_some_and(|shelved| shelved.from == self.path);
        let version = aside.replaces.as_ref();
        let replaces_it = version.is_some_and(|id| self.replaced().any(|own| own == id));
        self.container == aside.container && (gets_its_name || replaces_it)
    }
}

/// Where a file comes from that was moved aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelved {
    /// Its real path below the container, which the server still has.
    #[serde(deserialize_with = "names::remembered")]
    pub from: String,
    /// Whether it was moved just now: after a crash it has its real name back.
    pub just_now: bool,
}

/// A POST that was begun, and whose answer is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The path below the container.
    #[serde(deserialize_with = "names::remembered")]
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// Of the bytes, in hex; none means that they are those beside.
    pub sha256: Option<String>,
    /// Ids that the path had before.
    pub known: Vec<FileId>,
    /// When, in nanoseconds since the epoch; none if nobody wrote that down.
    #[serde(default)]
    pub at: Option<i64>,
}

/// A staging file. It outlives this value until [`Staging::discard`]: bytes are never dropped by accident.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    descriptor: Descriptor,
    noting: Mutex<Written>,
    /// Counts those who set out to write the note.
    turns: AtomicU64,
}

/// What is known of the note on disk; held while it is written.
#[derive(Debug, Default)]
struct Written {
    /// The turn of who wrote it.
    turn: u64,
    /// Whether the directory's own entry is durable.
    anchored: bool,
    /// The bytes are gone, and there is nothing to be noted.
    discarded: bool,
}

impl Staging {
    pub(super) fn create(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let data = dir.join("data");
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&data)?;
        Ok(Self::of(dir, Descriptor::of(data, file)))
    }

    pub(super) fn reopen(dir: PathBuf) -> io::Result<Self> {
        let descriptor = Descriptor::at_rest(dir.join("data"));
        // Whatever cannot be opened is told of now.
        descriptor.for_a_moment()?;
        Ok(Self::of(dir, descriptor))
    }

    fn of(dir: PathBuf, descriptor: Descriptor) -> Self {
        Self { dir, descriptor, noting: Mutex::default(), turns: AtomicU64::default() }
    }

    /// The open file.
    ///
    /// # Errors
    /// The system's, if it has to be opened again.
    pub fn file(&self) -> io::Result<Arc<File>> {
        self.descriptor.file()
    }

    /// Nobody has the file open: it waits without a descriptor, until somebody needs it.
    pub fn rest(&self) {
        self.descriptor.rest();
    }

    /// Counts the staging files of a mount: a newer one has a higher number.
    pub fn serial(&self) -> u64 {
        let name = self.dir.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.parse().ok()).unwrap_or(0)
    }

    /// Opens the bytes once more, also when they have been discarded.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn reopened(&self) -> io::Result<File> {
        let open = self.descriptor.for_a_moment()?;
        File::open(format!("/proc/self/fd/{}", open.as_raw_fd()))
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
        self.file()?.write_all_at(bytes, offset)
    }

    /// Reads up to `size` bytes at `offset`; fewer at the end only.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_at(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let file = self.file()?;
        let mut bytes = vec![0; size];
        let mut got = 0;
        while got < size {
            match file.read_at(&mut bytes[got..], offset + got as u64)? {
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
        self.file()?.set_len(len)
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.descriptor.for_a_moment()?.metadata()?.len())
    }

    /// Whether there is no byte.
    ///
    /// # Errors
    /// The disk's.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the bytes durable, and the entry of their directory unless it is.
    fn sync(&self, anchored: bool) -> io::Result<()> {
        self.descriptor.for_a_moment()?.sync_data()?;
        match self.dir.parent() {
            Some(journal) if !anchored => File::open(journal)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// Writes `meta.json`, whole or not at all. A durable one lies beside durable bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_meta(&self, meta: &Meta, durable: bool) -> io::Result<()> {
        self.note(durable, || Some(meta.clone())).map(|_| ())
    }

    /// Writes `meta.json`, whole or not at all, with what `says` knows, and the bytes before it if it is to
    /// be durable. Nothing that is known when this begins is taken back by a note of somebody else who
    /// began before; `says` is asked again if somebody who began later was faster. Returns what was
    /// written, or `None` if there was nothing to say or the bytes have been discarded.
    ///
    /// # Errors
    /// The disk's.
    pub fn note(&self, durable: bool, says: impl Fn() -> Option<Meta>) -> io::Result<Option<Meta>> {
        loop {
            let turn = self.turns.fetch_add(1, Ordering::SeqCst) + 1;
            let Some(meta) = says() else { return Ok(None) };
            let mut written = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
            if written.discarded {
                return Ok(None);
            }
            if written.turn > turn {
                continue;
            }
            written.turn = turn;
            steps::step();
            if durable {
                let anchored = written.anchored;
                note::write_after(&self.dir, NOTE, &meta, || self.sync(anchored))?;
                written.anchored = true;
            } else {
                note::write(&self.dir, NOTE, &meta, false)?;
            }
            return Ok(Some(meta));
        }
    }

    /// Writes `meta.json` again, if it is there, with what `are` knows; killed, a process has it, after a loss
    /// of power it may be the older one.
    ///
    /// # Errors
    /// The disk's.
    pub fn note_attributes(&self, are: impl Fn() -> Option<Attributes>) -> io::Result<()> {
        loop {
            let turn = self.turns.fetch_add(1, Ordering::SeqCst) + 1;
            let Some(attributes) = are() else { return Ok(()) };
            let mut written = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
            if written.turn > turn {
                continue;
            }
            let noted = self.meta().filter(|noted| !written.discarded && noted.attributes != attributes);
            let Some(noted) = noted else { return Ok(()) };
            // Who set out before with older ones asks again.
            written.turn = turn;
            steps::step();
            return note::write(&self.dir, NOTE, &Meta { attributes, ..noted }, false);
        }
    }

    /// Writes `meta.json` again, durably, if it says that the bytes replace the version `id`: they do no more.
    ///
    /// # Errors
    /// The disk's.
    pub fn replaces_no_more(&self, id: &FileId) -> io::Result<()> {
        let turn = self.turns.fetch_add(1, Ordering::SeqCst) + 1;
        let mut written = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        // Who set out before asks again.
        written.turn = written.turn.max(turn);
        let Some(mut meta) = self.meta().filter(|_| !written.discarded) else { return Ok(()) };
        if !meta.replaced().any(|replaced| replaced == id) {
            return Ok(());
        }
        meta.replaces.take_if(|replaced| replaced == id);
        meta.also_replaces.retain(|replaced| replaced != id);
        steps::step();
        note::write(&self.dir, NOTE, &meta, true)
    }

    /// What `meta.json` says, if it is there and whole.
    pub fn meta(&self) -> Option<Meta> {
        note::read(&self.dir, NOTE).ok()
    }

    /// SHA-256 of the bytes, in hex.
    ///
    /// # Errors
    /// The disk's.
    pub fn sha256(&self) -> io::Result<String> {
        let mut digest = Sha256::new();
        io::copy(&mut private::open(&self.data(), OpenOptions::new().read(true))?, &mut digest)?;
        Ok(hex::encode(digest.finalize()))
    }

    /// Takes the promise back: these bytes are on the server, and nobody waits for them. Before they are
    /// changed they need another note.
    pub fn retract(&self) {
        let Some(mut meta) = self.meta() else { return };
        (meta.closed, meta.arrived, meta.reason, meta.shelved) = (false, true, None, None);
        meta.sent.clear();
        if let Err(error) = self.write_meta(&meta, false) {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot change a note");
        }
    }

    /// Removes the bytes: they are on the server, or their owner removed the file.
    pub fn discard(&self) {
        self.noting.lock().unwrap_or_else(PoisonError::into_inner).discarded = true;
        self.descriptor.outlives_the_path();
        steps::step();
        if let Err(error) = remove(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot remove a staging directory");
        }
    }
}

/// Removes a staging directory, the bytes first: what is left without them says nothing.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join("data")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::remove_dir_all(dir),
    }
}
