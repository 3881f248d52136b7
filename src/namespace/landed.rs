//! Files that mounts before this one have uploaded, which a list that lags may not show yet.

use std::collections::HashMap;

use crate::api::{File, FileId};
use crate::namespace::inode;

/// A list shows what was uploaded here within as many seconds, or it is asked for no more.
const LAGS_AT_MOST: i64 = 3600;

/// The ids, and when they were uploaded, in seconds since the epoch.
#[derive(Debug, Default)]
pub struct Landed(HashMap<FileId, i64>);

impl Landed {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&FileId, i64)> {
        self.0.iter().map(|(id, at)| (id, *at))
    }

    pub(super) fn insert(&mut self, id: FileId, at: i64) {
        if may_lag(at) {
            self.0.insert(id, at);
        }
    }

    pub(super) fn remove(&mut self, id: &FileId) {
        self.0.remove(id);
    }

    /// Takes out those that may be missing from the list `listed`, the latest, at most as many; what is listed
    /// is never asked about again.
    pub(super) fn take_unlisted(&mut self, listed: &[File], most: usize) -> Vec<(FileId, i64)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        listed.iter().for_each(|file| _ = self.0.remove(&file.id));
        self.0.retain(|_, at| may_lag(*at));
        let mut latest: Vec<_> = self.0.iter().map(|(id, at)| (id.clone(), *at)).collect();
        latest.sort_unstable_by_key(|(_, at)| std::cmp::Reverse(*at));
        latest.truncate(most);
        latest.iter().for_each(|(id, _)| _ = self.0.remove(id));
        latest
    }
}

/// Seconds since the epoch.
pub(super) fn now() -> i64 {
    inode::now() / 1_000_000_000
}

fn may_lag(at: i64) -> bool {
    now().saturating_sub(at) < LAGS_AT_MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_that_no_list_has_shown_are_asked_for_once() {
        let mut landed = Landed::default();
        let id = |id: &str| FileId::from(id);
        for (name, ago) in [("listed", 1), ("latest", 2), ("earlier", 3), ("old", LAGS_AT_MOST + 1)] {
            landed.insert(id(name), now() - ago);
        }
        let listed: File = serde_json::from_str(r#"{"id": "listed", "path": "/mnt/data/f"}"#).unwrap();
        let mut take = |listed: &[File]| {
            landed.take_unlisted(listed, 1).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(take(&[listed]), [id("latest")]);
        assert_eq!(take(&[]), [id("earlier")]);
        assert_eq!(take(&[]), []);
    }
}
