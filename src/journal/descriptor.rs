//! The descriptor of a staging file, open only while somebody works with the bytes.
//!
//! Files that wait for their upload may be many and wait for long, and a process has so many descriptors.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::private;

/// A descriptor of the bytes at a path, opened when it is needed.
#[derive(Debug)]
pub(super) struct Descriptor {
    path: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    file: Option<Arc<File>>,
    /// The path leads to the bytes no more.
    removed: bool,
}

impl Descriptor {
    pub(super) fn of(path: PathBuf, file: File) -> Self {
        Self { path, held: Mutex::new(Held { file: Some(Arc::new(file)), removed: false }) }
    }

    /// The same of a file that nobody works with.
    pub(super) fn at_rest(path: PathBuf) -> Self {
        Self { path, held: Mutex::new(Held { file: None, removed: false }) }
    }

    /// The open file. It stays open until it is put to rest.
    pub(super) fn file(&self) -> io::Result<Arc<File>> {
        let mut held = self.held();
        let file = self.open(&held)?;
        held.file = Some(file.clone());
        Ok(file)
    }

    /// The same for a moment: what is at rest stays so.
    pub(super) fn for_a_moment(&self) -> io::Result<Arc<File>> {
        self.open(&self.held())
    }

    /// Nobody works with the bytes for now.
    pub(super) fn rest(&self) {
        let mut held = self.held();
        if !held.removed {
            held.file = None;
        }
    }

    /// The bytes are about to be removed: who may work with them still goes on with the descriptor.
    pub(super) fn outlives_the_path(&self) {
        let mut held = self.held();
        if !held.removed {
            held.file = self.open(&held).ok();
            held.removed = true;
        }
    }

    fn open(&self, held: &Held) -> io::Result<Arc<File>> {
        match &held.file {
            Some(file) => Ok(file.clone()),
            None => private::open(&self.path, OpenOptions::new().read(true).write(true)).map(Arc::new),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn read(file: &File) -> Vec<u8> {
        let mut bytes = [0; 9];
        let got = file.read_at(&mut bytes, 0).unwrap();
        bytes[..got].to_vec()
    }

    #[test]
    fn what_rests_is_opened_again_and_what_is_removed_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "bytes").unwrap();
        let descriptor = Descriptor::at_rest(path.clone());
        assert_eq!(read(&descriptor.for_a_moment().unwrap()), b"bytes");
        assert!(descriptor.held().file.is_none());
        descriptor.file().unwrap().write_all_at(b"B", 0).unwrap();
        assert!(descriptor.held().file.is_some());
        descriptor.rest();
        assert!(descriptor.held().file.is_none());
        descriptor.outlives_the_path();
        fs::remove_file(&path).unwrap();
        descriptor.rest();
        assert_eq!(read(&descriptor.file().unwrap()), b"Bytes");
    }
}
