//! The POSTs of a rename, each written down beside the intent: a mount that finds it half done knows what may be
//! under the new names already.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::api::FileId;
use crate::journal::stage::Sent;
use crate::journal::{note, steps};

/// What the names of the notes begin with.
const PREFIX: &str = "copy-";

/// A version that is sent again under a new name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// The version under the old name.
    pub id: FileId,
    /// What is sent under the new one.
    pub sent: Sent,
    /// What that has made, once the server has told.
    pub made: Option<FileId>,
}

/// The note of one POST. It goes with the intent.
#[derive(Clone, Debug)]
pub struct CopyNote {
    dir: PathBuf,
    name: String,
}

impl CopyNote {
    /// Beside the intent in `dir`, of a POST that is sent `at`, in nanoseconds since the epoch.
    pub(super) fn at(dir: PathBuf, at: i64) -> Self {
        Self { dir, name: format!("{PREFIX}{at}.json") }
    }

    /// Says this from now on. What is durable survives the loss of power too.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, copied: &Copied, durable: bool) -> io::Result<()> {
        steps::step();
        note::write(&self.dir, &self.name, copied, durable)
    }

    /// All that lie in `dir`, the oldest first.
    pub(super) fn all(dir: &PathBuf) -> Vec<(Self, Copied)> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(PREFIX)).collect();
        names.sort();
        let read = |name: String| {
            let copied = note::read(dir, &name).ok()?;
            Some((Self { dir: dir.clone(), name }, copied))
        };
        names.into_iter().filter_map(read).collect()
    }
}
