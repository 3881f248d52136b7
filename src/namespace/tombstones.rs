//! Files that were deleted here, which a list that lags may still show.

use std::collections::HashMap;

use lru::LruCache;

use crate::api::FileId;

/// So many are remembered of a container whose deletion the server has answered, the latest: a list does not
/// lag for as many deletions, which take minutes.
const REMEMBERED: usize = 10_000;

/// The ids, and since when they were not wanted, in nanoseconds since the epoch.
#[derive(Debug)]
pub struct Tombstones {
    /// Deletions that may yet have to be carried out.
    open: HashMap<FileId, i64>,
    /// In the order of their deletion.
    done: LruCache<FileId, i64>,
}

impl Default for Tombstones {
    fn default() -> Self {
        Self { open: HashMap::new(), done: LruCache::unbounded() }
    }
}

impl Tombstones {
    /// Whether a file was deleted here.
    pub fn contains(&self, id: &FileId) -> bool {
        self.since(id).is_some()
    }

    /// Whether its deletion may yet have to be carried out.
    pub fn is_open(&self, id: &FileId) -> bool {
        self.open.contains_key(id)
    }

    /// Since when a file is not wanted.
    pub fn since(&self, id: &FileId) -> Option<i64> {
        self.open.get(id).or_else(|| self.done.peek(id)).copied()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&FileId, i64)> {
        self.done.iter().chain(&self.open).map(|(id, at)| (id, *at))
    }

    /// Said again it is no later.
    pub(super) fn insert(&mut self, id: FileId, at: i64) {
        if !self.contains(&id) {
            self.open.insert(id, at);
        }
    }

    /// The server has answered the deletion.
    pub(super) fn settle(&mut self, id: &FileId) {
        let Some((id, at)) = self.open.remove_entry(id) else { return };
        self.done.put(id, at);
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
        tombstones.insert(id(usize::MAX), 5);
        for number in 0..=REMEMBERED {
            tombstones.insert(id(number), 6);
            tombstones.settle(&id(number));
        }
        assert!(!tombstones.contains(&id(0)) && tombstones.contains(&id(1)));
        assert!(tombstones.contains(&id(usize::MAX)));
        assert_eq!(tombstones.iter().count(), REMEMBERED + 1);
        tombstones.insert(id(usize::MAX), 7);
        tombstones.insert(id(1), 7);
        assert_eq!((tombstones.since(&id(usize::MAX)), tombstones.since(&id(1))), (Some(5), Some(6)));
        tombstones.remove(&id(1));
        assert!(!tombstones.contains(&id(1)));
    }
}
