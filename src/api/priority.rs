//! What comes first when not everything can be sent at once.
//!
//! A program that waits comes before what is fetched ahead for it, and both before uploads that nobody waits
//! for (DESIGN §7). Whoever spawns a request inherits the urgency of the scope that it stands in.

use std::sync::Arc;

use tokio::sync::watch;

tokio::task_local! {
    static CURRENT: Urgency;
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A program, now.
    Now,
    /// A program, probably, soon.
    Ahead,
    /// Nobody: the bytes are durable here.
    Behind,
}

/// Does `work` with this urgency; outside of such a scope everything is wanted now.
pub async fn with<F: Future>(urgency: Urgency, work: F) -> F::Output {
    CURRENT.scope(urgency, work).await
}

/// The urgency of the scope.
pub fn current() -> Urgency {
    CURRENT.try_with(|urgency| *urgency).unwrap_or(Urgency::Now)
}

/// An urgency that may rise while its request waits for its turn: somebody has come who waits.
#[derive(Clone, Debug)]
pub struct Priority(Arc<watch::Sender<Urgency>>);

impl Priority {
    /// Begins with this urgency.
    pub fn new(urgency: Urgency) -> Self {
        Self(Arc::new(watch::Sender::new(urgency)))
    }

    /// Raises it, if that is more urgent.
    pub fn raise(&self, urgency: Urgency) {
        self.0.send_if_modified(|current| {
            let rises = urgency < *current;
            if rises {
                *current = urgency;
            }
            rises
        });
    }

    /// The present one.
    pub fn urgency(&self) -> Urgency {
        *self.0.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Urgency> {
        self.0.subscribe()
    }
}
