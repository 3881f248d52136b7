//! A deadline that can be brought forward while something is being waited for.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The end of somebody's patience. It comes earlier if somebody has less, and never later.
#[derive(Debug)]
pub struct Deadline(watch::Sender<Instant>);

impl Deadline {
    /// One that comes after `within`.
    pub fn after(within: Duration) -> Self {
        Self(watch::Sender::new(Instant::now() + within))
    }

    /// Has it come after `within` at the latest.
    pub fn bring_forward(&self, within: Duration) {
        let earlier = Instant::now() + within;
        self.0.send_if_modified(|at| {
            let is_earlier = earlier < *at;
            *at = earlier.min(*at);
            is_earlier
        });
    }

    /// Whether it has come.
    pub fn is_over(&self) -> bool {
        *self.0.borrow() <= Instant::now()
    }

    /// What `work` comes to, if it does so in time; asked at least once, however late it is.
    pub async fn keep<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut watched = self.0.subscribe();
        tokio::pin!(work);
        loop {
            let at = *watched.borrow_and_update();
            tokio::select! {
                biased;
                outcome = &mut work => return Some(outcome),
                () = tokio::time::sleep_until(at) => return None,
                // It has been brought forward; its sender lives as long as `self`.
                _ = watched.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_comes_earlier_and_never_later() {
        let (begun, deadline) = (Instant::now(), Deadline::after(Duration::from_secs(60)));
        let waits = deadline.keep(std::future::pending::<()>());
        let hurries = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            deadline.bring_forward(Duration::from_secs(2));
            deadline.bring_forward(Duration::from_secs(9));
            assert!(!deadline.is_over());
        };
        assert_eq!(tokio::join!(waits, hurries).0, None);
        assert_eq!(begun.elapsed().as_secs(), 3);
        assert!(deadline.is_over());
        assert_eq!(deadline.keep(async { "done" }).await, Some("done"), "what is done is not late");
    }
}
