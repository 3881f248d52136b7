//! The age of a list.

use std::time::{Duration, Instant};

/// When a list was asked for, which decides what it can know, and when it came, from which on it ages: one
/// that takes longer than it may be old would be too old for everybody.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// When it was asked for.
    pub asked: Instant,
    came: Instant,
}

impl Listed {
    /// A list that was asked for then and comes now.
    pub fn now(asked: Instant) -> Self {
        Self { asked, came: Instant::now() }
    }

    /// What needed no asking, because it was known then.
    pub fn at(known: Instant) -> Self {
        Self { asked: known, came: known }
    }

    /// How long ago it came.
    pub fn age(&self) -> Duration {
        self.came.elapsed()
    }
}
