//! Lengths that the content endpoint has told, of files of which no list does.
//!
//! A model may write its file again under the same id, so a length that has been learnt is no promise. It is evidence
//! against a reply of another length that has the type of something else as well.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::content::cache::Key;

/// Files of which it is remembered; some 200 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 << 10).expect("16 Ki is not 0");

/// The lengths of those that were asked for last.
#[derive(Debug)]
pub(super) struct Lengths(Mutex<LruCache<Key, u64>>);

impl Default for Lengths {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Lengths {
    pub(super) fn learnt(&self, key: &Key) -> Option<u64> {
        self.lock().get(key).copied()
    }

    pub(super) fn learn(&self, key: &Key, len: u64) {
        self.lock().put(key.clone(), len);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Key, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
