//! The time that one call of the kernel may spend on requests that come to nothing.
//!
//! A call may need several requests; if each waited for its own deadline in vain, the caller would wait for
//! the sum. What gets somewhere gives its time back: a directory of a thousand files is renamed however long
//! it takes, and a server that hangs is noticed once. So does waiting for a connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

tokio::task_local! {
    static BUDGET: Budget;
}

struct Budget {
    begun: Instant,
    /// Nanoseconds from `begun` to the end.
    limit: AtomicU64,
}

/// Does `work` within `limit`; requests outside of such a scope have each their own.
pub async fn within<F: Future>(limit: Duration, work: F) -> F::Output {
    BUDGET.scope(Budget { begun: Instant::now(), limit: AtomicU64::new(nanos(limit)) }, work).await
}

/// Does what the caller has to wait for and is not to blame for: a turn, or something that others have begun.
pub async fn free<F: Future>(work: F) -> F::Output {
    let begun = Instant::now();
    let outcome = work.await;
    give_back(begun.elapsed());
    outcome
}

/// The same for work that others may have begun, if it gets somewhere.
///
/// # Errors
/// The work's.
pub async fn free_if_ok<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let begun = Instant::now();
    let outcome = work.await;
    if outcome.is_ok() {
        give_back(begun.elapsed());
    }
    outcome
}

/// What `work` comes to, unless the time of the call is over before: what others do on time of their own is waited
/// for no longer than that.
pub async fn in_time<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    let end = deadline(limit);
    if end <= Instant::now() {
        return None;
    }
    timeout_at(end, work).await.ok()
}

/// When a request that begins now must have ended.
pub(super) fn deadline(limit: Duration) -> Instant {
    let own = Instant::now() + limit;
    let end =
        BUDGET.try_with(|budget| budget.begun + Duration::from_nanos(budget.limit.load(Ordering::Relaxed)));
    end.map_or(own, |end| end.min(own))
}

/// Time that was well spent.
pub(super) fn give_back(time: Duration) {
    let _ = BUDGET.try_with(|budget| budget.limit.fetch_add(nanos(time), Ordering::Relaxed));
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn what_is_wasted_is_gone_and_what_is_well_spent_comes_back() {
        within(LIMIT, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(deadline(LIMIT) - Instant::now(), Duration::from_secs(1));
            free(tokio::time::sleep(Duration::from_secs(5))).await;
            assert_eq!(deadline(LIMIT) - Instant::now(), Duration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(deadline(LIMIT) < Instant::now());
            assert_eq!(in_time(LIMIT, async { "done" }).await, None, "nothing is begun any more");
        })
        .await;
        assert_eq!(deadline(LIMIT) - Instant::now(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_do_is_waited_for_until_the_end() {
        within(LIMIT, async {
            let begun = Instant::now();
            assert_eq!(in_time(LIMIT, async { "done" }).await, Some("done"));
            assert_eq!(in_time(LIMIT, std::future::pending::<()>()).await, None);
            assert_eq!(begun.elapsed(), LIMIT);
        })
        .await;
    }
}
