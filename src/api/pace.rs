//! How fast an upload goes, and how much longer it may take once its last byte has been handed over.
//!
//! Buffers on the way (the kernel's, the server's) take the first bytes of a body at once, and the rest as
//! fast as the slowest part of the way. Once everything has been handed over nobody sees it move, and what
//! the buffers hold still has to go at that pace.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::queues::{Leaving, Queues};
use crate::api::upload::CHUNK;

/// Bytes a second below which a transfer counts as stuck (DESIGN §6).
const SLOWEST: u64 = 1 << 10;

/// Looks at the kernel's queues in the time in which something must move.
const LOOKS_AT_QUEUES: u32 = 8;

/// They are not further apart than this, nor nearer, for tables are read.
const BETWEEN_LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// Looks that are remembered; more of them are thinned out.
const LOOKS: usize = 128;

/// What is in buffers gets at most this many times the time that handing over took.
const MOST: u32 = 8;

/// Bytes that must move within `time`.
pub(super) fn enough(time: Duration) -> u64 {
    let bytes = (time.as_secs_f64() * SLOWEST as f64).ceil();
    // Far below 2⁵³: times are minutes.
    (bytes as u64).max(1)
}

/// An upload under way.
pub(super) struct Progress {
    begun: Instant,
    window: Duration,
    length: u64,
    deadline: Instant,
    /// Bytes handed over, and when something moved last.
    sent: u64,
    last: Instant,
    /// Bytes that have left since.
    left: u64,
    leaving: Leaving,
    looked: Instant,
    pace: Pace,
}

impl Progress {
    /// An upload of `length` bytes of which something must have moved by the `deadline`.
    pub(super) fn new(begun: Instant, deadline: Instant, length: u64) -> Self {
        let window = deadline.saturating_duration_since(begun);
        let (leaving, pace) = (Leaving::default(), Pace::default());
        Self { begun, window, length, deadline, sent: 0, last: begun, left: 0, leaving, looked: begun, pace }
    }

    /// When it has failed unless something more moves.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// When something moved last.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// Whether everything has been handed over.
    fn all(&self) -> bool {
        self.sent >= self.length || self.length <= CHUNK as u64
    }

    /// Takes in how much has been handed over by `now`; false if it is time to look at the queues.
    pub(super) fn handed_over(&mut self, now: Instant, sent: u64) -> bool {
        if sent - self.sent >= enough(now - self.last) {
            let elapsed = now - self.begun;
            let rest =
                if sent >= self.length { self.pace.rest(elapsed, self.length) } else { Duration::ZERO };
            self.pace.looked(elapsed, sent);
            (self.sent, self.last, self.left) = (sent, now, 0);
            self.leaving = Leaving::default();
            self.deadline = now + self.window + rest;
            return true;
        }
        let (nearest, furthest) = BETWEEN_LOOKS;
        let pause = (self.window / LOOKS_AT_QUEUES).clamp(nearest, furthest);
        now < self.deadline && now - self.looked < pause
    }

    /// Takes in what the kernel holds, with so many transfers `under_way`.
    pub(super) fn left(&mut self, now: Instant, queues: &Queues, under_way: usize) {
        self.looked = now;
        self.left += self.leaving.looked(queues, under_way);
        if self.left < enough(now - self.last) {
            return;
        }
        let elapsed = now - self.begun;
        let held = self.leaving.held();
        // A stall is seen as long as there is a queue; what has left it may be in buffers further on.
        let gone = self.all().then(|| self.length.saturating_sub(held));
        let rest =
            if gone == Some(self.length) { self.pace.rest(elapsed, self.length) } else { Duration::ZERO };
        gone.into_iter().for_each(|gone| self.pace.looked(elapsed, gone));
        (self.last, self.left) = (now, 0);
        self.deadline = self.deadline.max(now + self.window + rest);
    }
}

/// The bytes that had been handed over at each look, or had left.
#[derive(Debug, Default)]
pub(super) struct Pace(Vec<(Duration, u64)>);

impl Pace {
    /// After `elapsed`, `sent` bytes have been handed over.
    pub(super) fn looked(&mut self, elapsed: Duration, sent: u64) {
        if self.0.len() >= LOOKS {
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.0.push((elapsed, sent));
    }

    /// How long the buffers may take for the rest, when all of `length` bytes had been handed over after
    /// `elapsed`: as long again as that took, and longer if the second half of that time was slower than
    /// the first.
    pub(super) fn rest(&self, elapsed: Duration, length: u64) -> Duration {
        let halfway = self.0.iter().rev().find(|(at, _)| *at <= elapsed / 2);
        let (at, sent) = halfway.copied().unwrap_or_default();
        let late = (elapsed - at).as_secs_f64() / length.saturating_sub(sent).max(1) as f64;
        let whole = Duration::try_from_secs_f64(late * length as f64).unwrap_or(Duration::MAX);
        whole.saturating_sub(elapsed).clamp(elapsed, elapsed * MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rest_of(handed_over: impl Fn(u32) -> u64, tenths: u32, length: u64) -> Duration {
        let mut pace = Pace::default();
        for tenth in 1..tenths {
            pace.looked(SECOND / 10 * tenth, handed_over(tenth));
        }
        pace.rest(SECOND / 10 * tenths, length)
    }

    #[test]
    fn what_goes_steadily_gets_as_long_again() {
        assert_eq!(rest_of(|tenth| u64::from(tenth) * 1000, 40, 40_000), 4 * SECOND);
        assert_eq!(rest_of(|_| 0, 1, 100), SECOND / 10);
    }

    #[test]
    fn buffers_that_took_the_beginning_at_once_need_as_long_for_it_as_the_rest_took() {
        // 60,000 bytes at once, then 10,000 a second for four seconds: six more.
        let rest = rest_of(|tenth| 60_000 + u64::from(tenth) * 1000, 40, 100_000);
        assert!((5 * SECOND..7 * SECOND).contains(&rest), "{rest:?}");
        // The same for two minutes.
        let rest = rest_of(|tenth| 600_000 + u64::from(tenth) * 100, 1200, 720_000);
        assert!((550 * SECOND..650 * SECOND).contains(&rest), "{rest:?}");
    }

    /// An upload of a megabyte with a second's window that was handed over whole at once.
    fn swallowed() -> (Instant, Progress) {
        let begun = Instant::now();
        let mut progress = Progress::new(begun, begun + SECOND, 1 << 20);
        assert!(progress.handed_over(begun + SECOND / 10, 1 << 20));
        (begun, progress)
    }

    #[test]
    fn what_leaves_the_kernel_moves_and_what_stays_in_it_does_not() {
        let (begun, mut progress) = swallowed();
        for tenth in (2..60).step_by(2) {
            let now = begun + SECOND / 10 * tenth;
            assert!(now < progress.deadline(), "{tenth}");
            let held = (1 << 20) - u64::from(tenth.min(50)) * 4096;
            assert!(!progress.handed_over(now, 1 << 20));
            progress.left(now, &Queues::from([(1, held)]), 1);
        }
        assert_eq!(progress.last(), begun + 5 * SECOND);
        assert_eq!(progress.deadline(), begun + 6 * SECOND);
    }

    #[test]
    fn a_queue_that_is_empty_leaves_time_for_what_is_in_buffers_further_on() {
        let (begun, mut progress) = swallowed();
        for half in 1..=8 {
            let held = (1 << 19) - u64::from(half) * (1 << 16);
            progress.left(begun + SECOND / 2 * half, &Queues::from([(1, held)]), 1);
        }
        assert!(progress.deadline() >= begun + 4 * SECOND + 5 * SECOND, "{:?}", progress.deadline() - begun);
    }

    #[test]
    fn nobody_waits_for_ever() {
        assert_eq!(rest_of(|_| 999_999, 20, 1_000_000), 16 * SECOND);
    }
}
