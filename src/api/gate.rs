//! How many transfers go on at once, and who is next.
//!
//! The number adapts: a 429, or answers that take far longer than they did, make it smaller by a part, every
//! answer makes it a little larger again, up to `--max-connections`. One connection is kept for programs that
//! wait; what waits long becomes more urgent, so that nobody waits for ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::api::priority::{Priority, Urgency};

/// Waiting so long makes a request one step more urgent.
const AGES_IN: Duration = Duration::from_secs(2);

/// For so long after a program had to wait, uploads behind its back leave it a connection.
const KEPT_FREE: Duration = Duration::from_secs(5);

/// The number shrinks once in this time: what is under way was sent before it shrank.
const SHRINKS_EVERY: Duration = Duration::from_secs(1);

/// What is left of the number after a 429, and after an answer that took far too long.
const AFTER_429: f64 = 0.6;
const AFTER_DELAY: f64 = 0.8;

/// An answer is late if it takes this many times as long as the fastest ones of the last while, and [`LATE`]
/// more.
const SLOWDOWN: u32 = 4;
const LATE: Duration = Duration::from_millis(500);

/// The fastest answers are remembered for this long, and once more.
const WHILE: Duration = Duration::from_secs(30);

/// Admits transfers.
#[derive(Debug)]
pub(super) struct Gate {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    used: usize,
    queue: Vec<Waiting>,
    urgent_at: Option<Instant>,
    limited_at: Option<Instant>,
    shrunk_at: Option<Instant>,
    fastest: Fastest,
}

#[derive(Debug)]
struct Waiting {
    priority: Priority,
    since: Instant,
    admit: oneshot::Sender<Permit>,
}

/// The shortest latency of this while and of the one before.
#[derive(Debug, Default)]
struct Fastest {
    begun: Option<Instant>,
    now: Option<Duration>,
    before: Option<Duration>,
}

/// The right to use a connection.
#[derive(Debug)]
pub(super) struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().used -= 1;
        self.0.admit();
    }
}

impl Gate {
    pub(super) fn new(most: usize) -> Arc<Self> {
        let most = most.max(1);
        Arc::new(Self {
            most,
            state: Mutex::new(State {
                limit: most as f64,
                used: 0,
                queue: Vec::new(),
                urgent_at: None,
                limited_at: None,
                shrunk_at: None,
                fastest: Fastest::default(),
            }),
        })
    }

    /// Waits for a turn.
    pub(super) async fn acquire(self: &Arc<Self>, priority: &Priority) -> Permit {
        let mut rises = priority.subscribe();
        let (admit, mut admitted) = oneshot::channel();
        let waiting = Waiting { priority: priority.clone(), since: Instant::now(), admit };
        self.lock().queue.push(waiting);
        loop {
            self.admit();
            tokio::select! {
                biased;
                permit = &mut admitted => return permit.expect("who is taken from the queue is admitted"),
                // Its owner holds the other end, so that it never ends.
                _ = rises.changed() => {}
            }
        }
    }

    /// An answer came, `took` after its request if that says something of the server.
    pub(super) fn answered(self: &Arc<Self>, took: Option<Duration>) {
        {
            let mut state = self.lock();
            let now = Instant::now();
            if took.is_some_and(|took| state.fastest.is_late(took, now)) {
                state.shrink(AFTER_DELAY, now);
            } else {
                state.limit = (state.limit + 1.0 / state.limit).min(self.most as f64);
            }
        }
        self.admit();
    }

    /// The server has had enough.
    pub(super) fn rate_limited(&self) {
        let (mut state, now) = (self.lock(), Instant::now());
        state.limited_at = Some(now);
        state.shrink(AFTER_429, now);
    }

    /// When the server had enough, the last time.
    pub(super) fn limited_at(&self) -> Option<Instant> {
        self.lock().limited_at
    }

    /// How many may be under way, and how many are.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.whole_limit(), state.used)
    }

    fn admit(self: &Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.lock();
                let Some(next) = state.next(Instant::now()) else { return };
                state.used += 1;
                state.queue.swap_remove(next)
            };
            // Who has gone away gives it back at once.
            let _ = waiting.admit.send(Permit(self.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The most urgent of those that may go now; of equals the one that has waited longest.
    fn next(&mut self, now: Instant) -> Option<usize> {
        if self.used >= self.whole_limit() {
            return None;
        }
        self.queue.retain(|waiting| !waiting.admit.is_closed());
        if self.queue.iter().any(|waiting| waiting.priority.urgency() == Urgency::Now) {
            self.urgent_at = Some(now);
        }
        let ranked = self.queue.iter().enumerate().map(|(place, waiting)| (waiting.rank(now), place));
        let (_, place) = ranked
            .filter(|(_, place)| self.admits(self.queue[*place].priority.urgency(), now))
            .min_by_key(|((steps, since), _)| (*steps, *since))?;
        Some(place)
    }

    fn admits(&self, urgency: Urgency, now: Instant) -> bool {
        let kept = match urgency {
            Urgency::Now => false,
            Urgency::Ahead => true,
            Urgency::Behind => self.urgent_at.is_some_and(|at| now.duration_since(at) < KEPT_FREE),
        };
        let limit = self.whole_limit();
        self.used < if kept { limit.saturating_sub(1).max(1) } else { limit }
    }

    fn shrink(&mut self, to: f64, now: Instant) {
        if self.shrunk_at.is_some_and(|at| now.duration_since(at) < SHRINKS_EVERY) {
            return;
        }
        self.shrunk_at = Some(now);
        self.limit = (self.limit.min(self.used as f64) * to).max(1.0);
    }

    fn whole_limit(&self) -> usize {
        self.limit as usize
    }
}

impl Waiting {
    /// Steps from the most urgent, and since when.
    fn rank(&self, now: Instant) -> (u64, Instant) {
        let aged = now.duration_since(self.since).as_secs() / AGES_IN.as_secs();
        ((self.priority.urgency() as u64).saturating_sub(aged), self.since)
    }
}

impl Fastest {
    /// Takes a latency in; tells whether it is far above the shortest.
    fn is_late(&mut self, took: Duration, now: Instant) -> bool {
        if self.begun.is_none_or(|begun| now.duration_since(begun) >= WHILE) {
            (self.begun, self.before) = (Some(now), self.now.take());
        }
        self.now = Some(self.now.map_or(took, |fastest| fastest.min(took)));
        let fastest = self.before.into_iter().chain(self.now).min().unwrap_or(took);
        took > fastest * SLOWDOWN + LATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(urgency: Urgency) -> Priority {
        Priority::new(urgency)
    }

    /// Who is admitted, in turn, of those that wait for the only connection.
    async fn order(waiting: Vec<(&'static str, Priority)>, then: impl AsyncFnOnce()) -> Vec<&'static str> {
        let gate = Gate::new(1);
        let held = gate.acquire(&of(Urgency::Now)).await;
        let (told, mut names) = tokio::sync::mpsc::unbounded_channel();
        for (name, priority) in waiting {
            let (gate, told) = (gate.clone(), told.clone());
            tokio::spawn(async move {
                let _permit = gate.acquire(&priority).await;
                told.send(name).unwrap();
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(told);
        then().await;
        drop(held);
        let mut order = Vec::new();
        while let Some(name) = names.recv().await {
            order.push(name);
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_comes_before_what_is_fetched_ahead_and_that_before_what_nobody_waits_for() {
        let waiting = || {
            vec![
                ("upload", of(Urgency::Behind)),
                ("ahead", of(Urgency::Ahead)),
                ("read", of(Urgency::Now)),
                ("second read", of(Urgency::Now)),
            ]
        };
        assert_eq!(order(waiting(), async || {}).await, ["read", "second read", "ahead", "upload"]);
        let late = order(waiting(), async || tokio::time::sleep(AGES_IN * 3).await).await;
        assert_eq!(late, ["upload", "ahead", "read", "second read"], "nobody waits for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_fetched_ahead_is_urgent_once_somebody_waits_for_it() {
        let (one, two) = (of(Urgency::Ahead), of(Urgency::Ahead));
        let raised = two.clone();
        let order = order(vec![("one", one), ("two", two)], async || raised.raise(Urgency::Now)).await;
        assert_eq!(order, ["two", "one"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_is_kept_for_who_waits() {
        let gate = Gate::new(3);
        let ahead = of(Urgency::Ahead);
        let _two = (gate.acquire(&ahead).await, gate.acquire(&ahead).await);
        let third = {
            let (gate, ahead) = (gate.clone(), ahead.clone());
            tokio::spawn(async move { gate.acquire(&ahead).await })
        };
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!third.is_finished());
        drop(gate.acquire(&of(Urgency::Now)).await);
        // Uploads behind take the last one when nobody reads.
        let behind = of(Urgency::Behind);
        let early = tokio::time::timeout(Duration::from_secs(1), gate.acquire(&behind)).await;
        assert!(early.is_err());
        tokio::time::sleep(KEPT_FREE).await;
        gate.acquire(&behind).await;
        // Somebody has come who waits.
        ahead.raise(Urgency::Now);
        third.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_takes_nothing_along() {
        let gate = Gate::new(1);
        let now = of(Urgency::Now);
        let held = gate.acquire(&now).await;
        assert!(tokio::time::timeout(Duration::from_secs(1), gate.acquire(&now)).await.is_err());
        drop(held);
        drop(gate.acquire(&now).await);
        assert_eq!(gate.load(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_shrinks_at_a_429_once_for_all_that_was_under_way_and_grows_again() {
        let gate = Gate::new(10);
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(gate.acquire(&of(Urgency::Now)).await);
        }
        for _ in 0..10 {
            gate.rate_limited();
        }
        assert_eq!(gate.load(), (6, 10));
        for _ in 0..40 {
            gate.answered(None);
        }
        assert_eq!(gate.load().0, 10);
        for _ in 0..100 {
            tokio::time::sleep(SHRINKS_EVERY).await;
            gate.rate_limited();
        }
        assert_eq!(gate.load().0, 1, "never none at all");
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_shrinks_when_answers_take_far_longer_than_they_did() {
        let gate = Gate::new(10);
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(gate.acquire(&of(Urgency::Now)).await);
        }
        let usual = Duration::from_millis(500);
        for _ in 0..10 {
            gate.answered(Some(usual));
            gate.answered(Some(usual * SLOWDOWN));
        }
        assert_eq!(gate.load().0, 10);
        gate.answered(Some(usual * SLOWDOWN * 2));
        assert_eq!(gate.load().0, 8);
        // What is slow for a minute is what the server takes now.
        for _ in 0..130 {
            tokio::time::sleep(SHRINKS_EVERY).await;
            gate.answered(Some(usual * SLOWDOWN * 2));
        }
        assert_eq!(gate.load().0, 10);
    }
}
