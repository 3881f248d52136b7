//! How fast an upload goes, and how much longer it may take once its last byte has been handed over.
//!
//! Buffers on the way (the kernel's, the server's) take the first bytes of a body at once, and the rest as
//! fast as the slowest part of the way. Once everything has been handed over nobody sees it move, and what
//! the buffers hold still has to go at that pace.

use std::time::Duration;

/// Looks that are remembered; more of them are thinned out.
const LOOKS: usize = 128;

/// What is in buffers gets at most this many times the time that handing over took.
const MOST: u32 = 8;

/// The bytes that had been handed over at each look.
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

    #[test]
    fn nobody_waits_for_ever() {
        assert_eq!(rest_of(|_| 999_999, 20, 1_000_000), 16 * SECOND);
    }
}
