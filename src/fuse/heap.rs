//! Memory that is given back when nobody asks.
//!
//! Hours of requests leave the heap with free pages between those that are in use; the allocator of glibc keeps
//! them for the next request.

use std::time::{Duration, Instant};

/// A mount that nobody has asked anything for so long is at rest.
const AT_REST: Duration = Duration::from_secs(5);

/// When the heap is to be looked through.
#[derive(Debug, Default)]
pub(super) struct Heap {
    due: Option<Instant>,
}

impl Heap {
    /// Requests are answered.
    pub(super) fn is_used(&mut self, now: Instant) {
        self.due = Some(now + AT_REST);
    }

    /// How long there is to wait, if anything has been done since it was looked through.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Gives back to the system what is free, if it is time.
    pub(super) fn rests(&mut self, now: Instant) {
        if self.due.take_if(|due| *due <= now).is_some() {
            trim();
        }
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: the allocator looks after itself, whatever other threads do; nothing that is in use moves.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_through_once_after_a_while_without_requests() {
        let (mut heap, begun) = (Heap::default(), Instant::now());
        assert_eq!(heap.due_in(begun), None);
        heap.is_used(begun);
        heap.is_used(begun + AT_REST / 2);
        heap.rests(begun + AT_REST);
        assert_eq!(heap.due_in(begun + AT_REST), Some(AT_REST / 2));
        heap.rests(begun + AT_REST * 2);
        assert_eq!(heap.due_in(begun + AT_REST * 2), None);
    }
}
