//! Files that were deleted here, which a list that lags may still show.

use std::collections::HashSet;

use lru::LruCache;

use crate::api::FileId;

/// So many are remembered of a container whose deletion the server has answered, the latest: a list does not
/// lag for as many deletions, which take minutes.
const REMEMBERED: usize = 10_000;

/// The ids.
#[derive(Debug)]
pub struct Tombstones {
    /// Deletions that may yet have to be carried out.
    open: HashSet<FileId>,
    /// In the order of their deletion.
    done: LruCache<FileId, ()>,
}

impl Default for Tombstones {
    fn default() -> Self {
        Self { open: HashSet::new(), done: LruCache::unbounded() }
    }
}

impl Tombstones {
    /// Whether a file was deleted here.
    pub fn contains(&self, id: &FileId) -> bool {
        self.open.contains(id) || self.done.contains(id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &FileId> {
        self.done.iter().map(|(id, ())| id).chain(&self.open)
    }

    pub(super) fn insert(&mut self, id: FileId) {
        if !self.done.contains(&id) {
            self.open.insert(id);
        }
    }

    /// The server has answered the deletion.
    pub(super) fn settle(&mut self, id: &FileId) {
        let Some(id) = self.open.take(id) else { return };
        self.done.put(id, ());
        if self.done.len() > REMEMBERED {
            self.done.pop_lru();
        }
    }

    pub(super) fn remove(&mut self, id: &FileId) {
        self.open.remove(id);
        self.done.pop(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_those_that_are_to_be_deleted_yet() {
        let mut tombstones = Tombstones::default();
        let id = |number: usize| FileId::from(format!("cfile_{number}").as_str());
        tombstones.insert(id(usize::MAX));
        for number in 0..=REMEMBERED {
            tombstones.insert(id(number));
            tombstones.settle(&id(number));
        }
        assert!(!tombstones.contains(&id(0)) && tombstones.contains(&id(1)));
        assert!(tombstones.contains(&id(usize::MAX)));
        assert_eq!(tombstones.iter().count(), REMEMBERED + 1);
        tombstones.insert(id(1));
        tombstones.remove(&id(1));
        assert!(!tombstones.contains(&id(1)));
    }
}
