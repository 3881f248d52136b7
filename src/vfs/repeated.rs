//! Failures that the kernel asks for twice.
//!
//! It looks a name up again whose cached entry could not be confirmed, and reads a page again whose reading
//! ahead has failed. The program waits for both; it must not wait for two deadlines. So a failure that took
//! its time is told a second time at once, once, to who asks directly after it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::vfs::Error;

/// The kernel asks again within this time after its answer; programs that try again wait longer.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A failure that came faster may as well happen again.
const SLOW: Duration = Duration::from_millis(250);

/// More failures than these at a time are not remembered.
const MOST: usize = 256;

/// The last slow failures, by what was asked.
pub(super) struct Repeated<K>(Mutex<HashMap<K, (Instant, Error)>>);

impl<K> Default for Repeated<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Repeated<K> {
    /// The failure that was told just now, and that nobody will be told again.
    pub(super) fn take(&self, key: &K) -> Option<Error> {
        let (at, error) = self.lock().remove(key)?;
        (at.elapsed() < AT_ONCE).then_some(error)
    }

    /// Remembers a failure of what was `asked` then.
    pub(super) fn remember(&self, key: K, asked: Instant, error: &Error) {
        if asked.elapsed() < SLOW {
            return;
        }
        let mut failures = self.lock();
        failures.retain(|_, (at, _)| at.elapsed() < AT_ONCE);
        if failures.len() < MOST {
            failures.insert(key, (Instant::now(), error.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (Instant, Error)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_failure_is_told_twice_and_a_quick_one_once() {
        let repeated = Repeated::default();
        repeated.remember(1, Instant::now(), &Error::quiet(libc::EIO));
        assert!(repeated.take(&1).is_none());
        repeated.remember(1, Instant::now() - SLOW, &Error::quiet(libc::EIO));
        assert_eq!(repeated.take(&1).unwrap().errno, libc::EIO);
        assert!(repeated.take(&1).is_none());
    }
}
