//! Files that were deleted here, which a list that lags may still show.

use lru::LruCache;

use crate::api::FileId;

/// So many are remembered of a container, the latest: a list does not lag for as many deletions, which take
/// minutes.
const REMEMBERED: usize = 10_000;

/// The ids, in the order of their deletion.
#[derive(Debug)]
pub struct Tombstones(LruCache<FileId, ()>);

impl Default for Tombstones {
    fn default() -> Self {
        Self(LruCache::unbounded())
    }
}

impl Tombstones {
    /// Whether a file was deleted here.
    pub fn contains(&self, id: &FileId) -> bool {
        self.0.contains(id)
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &FileId> {
        self.0.iter().rev().map(|(id, ())| id)
    }

    pub(super) fn insert(&mut self, id: FileId) {
        self.0.put(id, ());
        if self.0.len() > REMEMBERED {
            self.0.pop_lru();
        }
    }

    pub(super) fn remove(&mut self, id: &FileId) {
        self.0.pop(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let mut tombstones = Tombstones::default();
        let id = |number: usize| FileId::from(format!("cfile_{number}").as_str());
        (0..=REMEMBERED).for_each(|number| tombstones.insert(id(number)));
        assert!(!tombstones.contains(&id(0)) && tombstones.contains(&id(1)));
        assert_eq!(tombstones.iter().next(), Some(&id(1)));
        tombstones.remove(&id(REMEMBERED));
        assert_eq!(tombstones.iter().count(), REMEMBERED - 1);
    }
}
