//! What is going to be done to the server, written down before it begins and struck out when it is done.
//!
//! An upload and the replacement of a version have their intent beside the bytes, in `meta.json`; everything
//! else is here. An intent that is still there when a mount starts belongs to one that died on the way, and
//! is taken up again.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::api::{ContainerId, FileId};
use crate::journal::copied::{Copied, CopyNote};
use crate::journal::stage::{Meta, Sent, Staging};
use crate::journal::{note, steps};
use crate::namespace::names;
use crate::namespace::records::Attributes;

/// What [`Intent`] is written into.
pub(super) const NOTE: &str = "intent.json";

/// Something that is going to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "snake_case")]
pub enum Intent {
    /// Versions that are not wanted any more.
    Delete {
        /// Where they are.
        container: ContainerId,
        /// Which.
        ids: Vec<FileId>,
    },
    /// A rename on the server, which is an upload under another name.
    Rename(Rename),
    /// A container that is going to be made.
    CreateContainer {
        /// Its name.
        name: String,
        /// Containers that had the name before.
        known: Vec<ContainerId>,
    },
    /// A file that finds out what the server does to directories; it goes again.
    Probe {
        /// Where it is.
        container: ContainerId,
        /// Its base name, which is random.
        #[serde(deserialize_with = "random_name")]
        base: String,
        /// When it was sent, in nanoseconds since the epoch.
        #[serde(default)]
        at: i64,
    },
    /// A POST whose answer was lost: what it made is deleted once a list shows it, unless it is wanted then.
    Forget {
        /// Where it went.
        container: ContainerId,
        /// What was sent.
        sent: Sent,
    },
}

impl Intent {
    /// The rename, if it is one.
    pub fn as_rename(&self) -> Option<&Rename> {
        if let Self::Rename(rename) = self { Some(rename) } else { None }
    }
}

/// Reads the name of a probe. What bears it is deleted, so that no other is believed: a short one is the end
/// of many names, and an empty one of all.
fn random_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_random = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_random { Ok(name) } else { Err(D::Error::custom("a probe has another name")) }
}

/// A rename of a file, or of all files of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// Where.
    pub container: ContainerId,
    /// The old path below the container.
    #[serde(deserialize_with = "names::remembered")]
    pub from: String,
    /// The new one.
    #[serde(deserialize_with = "names::remembered")]
    pub to: String,
    /// What has to be sent under a new name.
    pub moves: Vec<Move>,
    /// Versions that stood where the renamed file goes.
    pub replaces: Vec<FileId>,
    /// Whether every POST has succeeded: from then on there are only versions to be deleted.
    pub posted: bool,
    /// When they had, in nanoseconds since the epoch.
    #[serde(default)]
    pub posted_at: i64,
}

impl Rename {
    /// The versions that are not wanted once every POST has succeeded.
    pub fn gone(&self) -> impl Iterator<Item = &FileId> {
        let is_new = |id: &FileId| self.moves.iter().any(|step| step.new.as_ref() == Some(id));
        self.moves.iter().map(|step| &step.id).chain(&self.replaces).filter(move |id| !is_new(id))
    }

    /// What is left to be done once every POST has succeeded and the new names are written down.
    pub fn into_deletion(self) -> Intent {
        let ids = self.gone().cloned().collect();
        Intent::Delete { container: self.container, ids }
    }

    /// The new paths of its files.
    pub fn destinations(&self) -> impl Iterator<Item = (ContainerId, String)> {
        self.moves.iter().map(|step| (self.container.clone(), step.to.clone()))
    }

    /// Whether bytes stood where the renamed file is by now, and are nobody's any more.
    pub fn supersedes(&self, meta: &Meta) -> bool {
        let stood = meta.container == self.container && meta.path == self.to;
        self.posted && stood && meta.noted_at < self.posted_at
    }

    /// Whether one of its files gets the name that a file which was moved aside has left.
    pub fn takes_the_place_of(&self, aside: &Meta) -> bool {
        let left = aside.shelved.as_ref().map(|shelved| &shelved.from);
        self.container == aside.container && self.moves.iter().any(|step| Some(&step.to) == left)
    }

    /// Whether it is of one file, and of no directory.
    pub fn is_of_a_file(&self) -> bool {
        matches!(self.moves.as_slice(), [step] if step.to == self.to)
    }

    /// The old path of one of its files.
    pub fn from_of(&self, step: &Move) -> String {
        format!("{}{}", self.from, step.to.strip_prefix(&self.to).unwrap_or_default())
    }
}

/// One file of a rename.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The version under the old name.
    pub id: FileId,
    /// The new path below the container.
    #[serde(deserialize_with = "names::remembered")]
    pub to: String,
    /// What was set here and goes along.
    #[serde(default)]
    pub attributes: Attributes,
    /// The version under the new name, once it is there.
    pub new: Option<FileId>,
}

/// An intent on disk. It outlives this value until [`Noted::done`].
#[derive(Debug)]
pub struct Noted {
    dir: PathBuf,
    next: AtomicU64,
}

impl Noted {
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir, next: AtomicU64::new(0) }
    }

    /// Writes what is intended now, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, intent: &Intent) -> io::Result<()> {
        steps::step();
        note::write(&self.dir, NOTE, intent, true)
    }

    pub(super) fn read(&self) -> io::Result<Intent> {
        note::read(&self.dir, NOTE)
    }

    /// A staging file for bytes that the server has anyway; it goes with the intent.
    ///
    /// # Errors
    /// The disk's.
    pub fn stage(&self) -> io::Result<Staging> {
        loop {
            let dir = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
            match Staging::create(dir) {
                // Left by the mount that wrote the intent.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created,
            }
        }
    }

    /// The note of a POST that belongs to the intent and is sent `at`, in nanoseconds since the epoch.
    pub fn copy_note(&self, at: i64) -> CopyNote {
        CopyNote::at(self.dir.clone(), at)
    }

    /// What was written down of POSTs that belong to the intent, the oldest first.
    pub fn copies(&self) -> Vec<(CopyNote, Copied)> {
        CopyNote::all(&self.dir)
    }

    /// It is done, or given up.
    pub fn done(&self) {
        steps::step();
        // The note first: what is left of the rest says nothing.
        let struck = match fs::remove_file(self.dir.join(NOTE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::remove_dir_all(&self.dir),
        };
        if let Err(error) = struck
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot strike out an intent");
        }
    }
}
