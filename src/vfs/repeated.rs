//! Failures that the kernel asks for twice.
//!
//! It looks a name up again whose cached entry could not be confirmed, and reads a page again whose reading
//! ahead has failed. The program waits for both; it must not wait for two deadlines. So a failure that took its
//! time is told a second time at once, once, to who asks directly after it. Where the kernel asks once, that would
//! be the program, for which the server may work again: what is asked once is nothing for here.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::vfs::{Error, Result};

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
    /// Does `work`, of which the kernel asks again if it fails and `may_be_repeated`.
    ///
    /// # Errors
    /// Those of `work`, or what it failed with just now.
    pub(super) async fn attempt<T>(
        &self,
        key: K,
        may_be_repeated: bool,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if let Some(error) = self.take(&key) {
            return Err(error);
        }
        let asked = Instant::now();
        let outcome = work.await;
        if let Err(error) = &outcome
            && may_be_repeated
            && asked.elapsed() >= SLOW
        {
            self.remember(key, error);
        }
        outcome
    }

    /// The failure that was told just now, and that nobody will be told again.
    fn take(&self, key: &K) -> Option<Error> {
        let (at, error) = self.lock().remove(key)?;
        (at.elapsed() < AT_ONCE).then_some(error)
    }

    fn remember(&self, key: K, error: &Error) {
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

    #[tokio::test(start_paused = true)]
    async fn a_slow_failure_is_told_twice_to_who_asks_twice() {
        let failures = Repeated::default();
        let attempt = async |key, may_be_repeated, time, outcome: Result<()>| {
            let work = async {
                tokio::time::sleep(time).await;
                outcome
            };
            failures.attempt(key, may_be_repeated, work).await.map_err(|error| error.errno)
        };
        let failure = || Err(Error::quiet(libc::EIO));
        let works = async |key| attempt(key, true, SLOW, Ok(())).await.is_ok();

        assert!(attempt(1, true, SLOW, failure()).await.is_err());
        assert!(works(2).await, "something else");
        assert!(attempt(1, true, SLOW, failure()).await.is_err());
        assert_eq!(attempt(1, true, SLOW, Ok(())).await, Err(libc::EIO));
        assert!(works(1).await, "a third time");
        assert!(attempt(1, false, SLOW, failure()).await.is_err());
        assert!(works(1).await, "nobody asks twice");
        assert!(attempt(1, true, SLOW / 2, failure()).await.is_err());
        assert!(works(1).await, "it was quick");
        assert!(attempt(1, true, SLOW, failure()).await.is_err());
        tokio::time::sleep(AT_ONCE).await;
        assert!(works(1).await, "it was long ago");
    }
}
