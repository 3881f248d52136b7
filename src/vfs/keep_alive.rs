//! With `--keep-alive`: the containers that are used here do not expire while they are mounted.
//!
//! A container dies when nothing has been asked of it for as long as its `expires_after` says, at most 20
//! minutes (API.md "Time and money"). Any request counts as use, so one cheap GET at half of that time is
//! enough. It is the user's choice, because a container is billed while it lives; one that was merely shown
//! is left to die.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::api::{Container, ContainerId};
use crate::vfs::{State, Vfs};

/// How often it is looked, on this machine, whether a GET is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The life of a container that does not tell it, which is also the longest.
const LIFE_MAX: Duration = Duration::from_secs(20 * 60);

/// When each container was last asked something for its own sake.
#[derive(Debug, Default)]
struct Asked(HashMap<ContainerId, Instant>);

impl Asked {
    /// When a container that was used at `used` must be asked something.
    fn due(&self, container: &Container, used: Instant) -> Instant {
        let last = self.0.get(&container.id).map_or(used, |asked| used.max(*asked));
        last + life(container) / 2
    }

    /// The GET came to nothing: the next one is due after an eighth of the life, so that there are several
    /// more.
    fn failed(&mut self, container: &Container, now: Instant) {
        let life = life(container);
        let earlier = now.checked_sub(life / 2 - life / 8).unwrap_or(now);
        self.0.insert(container.id.clone(), earlier);
    }
}

fn life(container: &Container) -> Duration {
    let minutes = container.expires_after.as_ref().and_then(|expiry| expiry.minutes);
    let told = minutes.and_then(|minutes| u64::try_from(minutes).ok()).filter(|minutes| *minutes > 0);
    told.map_or(LIFE_MAX, |minutes| Duration::from_secs(minutes.saturating_mul(60))).min(LIFE_MAX)
}

impl Vfs {
    /// Begins to keep containers alive, until the mount ends.
    pub(super) fn keep_alive(self: &Arc<Self>) {
        tokio::spawn(watch(Arc::downgrade(self)));
    }
}

async fn watch(vfs: Weak<Vfs>) {
    let mut asked = Asked::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(vfs) = vfs.upgrade().filter(|vfs| !vfs.is_stopping()) else { return };
        let now = Instant::now();
        let used = vfs.state().used();
        asked.0.retain(|id, _| used.iter().any(|(container, _)| container.id == *id));
        for (container, used) in used {
            if asked.due(&container, used) > now {
                continue;
            }
            asked.0.insert(container.id.clone(), now);
            match vfs.client.retrieve_container(&container.id).await {
                // Nothing brings it back, and asking on would cost a request each time.
                Ok(found) if !found.is_live() => vfs.gone(&container.id),
                Ok(_) => tracing::debug!(container = ?container.id, "kept alive"),
                Err(error) => {
                    let error = vfs.noticed(&container.id, error.into());
                    tracing::warn!(container = ?container.id, %error, "a container could not be kept alive");
                    asked.failed(&container, now);
                }
            }
        }
    }
}

impl State {
    /// Containers whose files somebody has looked at here, with the time of the last look.
    fn used(&self) -> Vec<(Container, Instant)> {
        let containers = self.tree.containers.values().filter_map(|ino| self.tree.container(*ino));
        containers.filter_map(|node| Some((node.container.clone(), node.listed?.asked))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(minutes: i64) -> Container {
        let told = serde_json::json!({ "id": "c", "expires_after": { "minutes": minutes } });
        serde_json::from_value(told).unwrap()
    }

    #[test]
    fn a_get_is_due_at_half_of_the_life() {
        let (asked, now) = (Asked::default(), Instant::now());
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(asked.due(&container(10), now), now + minutes(5));
        assert_eq!(asked.due(&container(0), now), now + minutes(10), "no life is the longest");
        assert_eq!(asked.due(&container(600), now), now + minutes(10), "nobody lives longer than 20 minutes");
        assert_eq!(asked.due(&container(1 << 62), now), now + minutes(10), "nor than clocks tell");
    }

    #[test]
    fn one_that_failed_is_tried_again_soon() {
        let (mut asked, now) = (Asked::default(), Instant::now() + Duration::from_secs(3600));
        asked.failed(&container(16), now);
        let used = now - Duration::from_secs(60 * 8);
        assert_eq!(asked.due(&container(16), used), now + Duration::from_secs(60 * 2));
    }
}
