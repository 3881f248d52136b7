//! A container in the tree, with what a listing of it needs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::api::{Container, File, FileId};
use crate::namespace::inode::{Children, Ino};
use crate::namespace::listed::Listed;

/// A container.
#[derive(Debug)]
pub struct ContainerNode {
    /// What the last list of containers said.
    pub container: Container,
    /// Its entries.
    pub children: Children,
    /// Files by id.
    pub files: HashMap<FileId, Ino>,
    /// Directories by path below the container.
    pub directories: HashMap<String, Ino>,
    /// Files that were shown by a made-up name keep it for the life of the mount.
    pub suffixed: HashSet<FileId>,
    /// Files that a list shows and that have no content; they are shown no more.
    pub phantoms: HashMap<FileId, Phantom>,
    /// Whether the list holds files without a readable id, which may be any of those that it misses.
    pub has_unread: bool,
    /// When the list was asked for that the entries come from.
    pub listed: Option<Listed>,
    /// A list of containers has told of it. One that was asked for before it was made, or lags, doesn't.
    pub settled: bool,
}

/// A version that had no content when it was asked for.
#[derive(Clone, Debug)]
pub struct Phantom {
    /// What the list says of it. As soon as it says something else it is another version.
    pub file: Arc<File>,
    /// When its content was asked for.
    pub asked: Instant,
}

impl Phantom {
    /// Whether a list still tells this version.
    pub fn is(&self, file: &File) -> bool {
        (self.file.bytes, self.file.created_at) == (file.bytes, file.created_at)
    }
}

impl ContainerNode {
    /// A container that a list has told of, whose own list has not been seen.
    pub fn new(container: Container) -> Self {
        Self {
            container,
            children: Children::new(),
            files: HashMap::new(),
            directories: HashMap::new(),
            suffixed: HashSet::new(),
            phantoms: HashMap::new(),
            has_unread: false,
            listed: None,
            settled: true,
        }
    }

    /// A container that no list has told of yet.
    pub fn unlisted(container: Container) -> Self {
        Self { settled: false, ..Self::new(container) }
    }
}
