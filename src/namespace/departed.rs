//! What is remembered of containers goes with them: they live for minutes, and `records.jsonl` for years.

use std::collections::HashMap;

use crate::api::{Container, ContainerId};
use crate::namespace::landed;
use crate::namespace::records::{Fact, Records};

/// Seconds for which a container that no list shows, and that none has told to have expired, may come back: a server
/// or a list that is wrong for a moment takes away no names and times.
const ABSENT_AT_MOST: i64 = 24 * 3600;

impl Records {
    /// Forgets the containers that a list tells to have expired. If it is the whole list, also those that it does not
    /// show, and that an earlier one, a day ago or more, did not show either.
    pub fn forget_departed(&mut self, listed: &[Container], is_whole: bool) {
        self.forget_departed_by(listed, is_whole, landed::now());
    }

    /// Forgets a container that was deleted here.
    pub fn forget(&mut self, container: &ContainerId) {
        if self.container(container).is_some() {
            self.note(Fact::Departed { container: container.clone() });
        }
    }

    fn forget_departed_by(&mut self, listed: &[Container], is_whole: bool, now: i64) {
        let live: HashMap<&ContainerId, bool> = listed.iter().map(|c| (&c.id, c.is_live())).collect();
        let about = |(id, missed): (&ContainerId, Option<i64>)| {
            let container = id.clone();
            match (live.get(id), missed) {
                (Some(false), _) => Some(Fact::Departed { container }),
                (Some(true), Some(_)) => Some(Fact::Missed { container, since: None }),
                (None, None) if is_whole => Some(Fact::Missed { container, since: Some(now) }),
                (None, Some(since)) if is_whole && now.saturating_sub(since) >= ABSENT_AT_MOST => {
                    Some(Fact::Departed { container })
                }
                _ => None,
            }
        };
        let facts: Vec<Fact> = self.missed().filter_map(about).collect();
        self.at_once(|records| facts.into_iter().for_each(|fact| records.note(fact)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, status: &str) -> Container {
        serde_json::from_value(serde_json::json!({"id": id, "name": id, "status": status})).unwrap()
    }

    fn known(records: &Records) -> Vec<&str> {
        let mut known: Vec<_> = ["lives", "expired", "absent"]
            .into_iter()
            .filter(|id| records.container(&(*id).into()).is_some())
            .collect();
        known.sort_unstable();
        known
    }

    #[test]
    fn what_has_expired_is_forgotten_at_once_and_what_is_absent_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::open(dir.path()).unwrap();
        for id in ["lives", "expired", "absent"] {
            records.set_directory(&id.into(), "d", true);
        }
        let listed =
            [container("lives", "running"), container("expired", "expired"), container("new", "running")];
        records.forget_departed_by(&listed, false, 1000);
        assert_eq!(known(&records), ["absent", "lives"], "part of a list");
        records.forget_departed_by(&listed, true, 1000);
        drop(records);
        let mut records = Records::open(dir.path()).unwrap();
        records.forget_departed_by(&listed, true, 1000 + ABSENT_AT_MOST - 1);
        assert_eq!(known(&records), ["absent", "lives"]);
        // It is seen again.
        records.forget_departed_by(&[&listed[..], &[container("absent", "running")]].concat(), true, 2000);
        records.forget_departed_by(&listed, true, 3000);
        records.forget_departed_by(&listed, true, 1000 + ABSENT_AT_MOST);
        assert_eq!(known(&records), ["absent", "lives"]);
        records.forget_departed_by(&listed, true, 3000 + ABSENT_AT_MOST);
        assert_eq!(known(&records), ["lives"]);
        assert_eq!(known(&Records::open(dir.path()).unwrap()), ["lives"]);
    }
}
