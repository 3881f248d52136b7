//! What was asked: one entry for each API request, in the order of arrival.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The nine operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `GET /containers`
    ListContainers,
    /// `POST /containers`
    CreateContainer,
    /// `GET /containers/{id}`
    RetrieveContainer,
    /// `DELETE /containers/{id}`
    DeleteContainer,
    /// `GET /containers/{id}/files`
    ListFiles,
    /// `POST /containers/{id}/files`
    Upload,
    /// `GET /containers/{id}/files/{file_id}`
    RetrieveFile,
    /// `DELETE /containers/{id}/files/{file_id}`
    DeleteFile,
    /// `GET /containers/{id}/files/{file_id}/content`
    Content,
}

/// One API request.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The HTTP method.
    pub method: String,
    /// The path as it was sent, base path included.
    pub path: String,
    /// The query as it was sent, without the question mark; empty if there was none.
    pub query: String,
    /// The reply's status; 0 while there is none, and for good if the connection was reset or left hanging.
    pub status: u16,
    /// Which operation it was.
    pub kind: Kind,
    /// When it arrived.
    pub at: Instant,
}

/// A server that runs for months must not grow with its log.
const KEPT: usize = 100_000;

#[derive(Default)]
pub(crate) struct RequestLog {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// The number of the first entry still kept.
    first: u64,
    kept: VecDeque<Logged>,
}

impl RequestLog {
    /// Notes an arrival and returns its number, for [`RequestLog::answered`].
    pub(crate) fn arrived(&self, entry: Logged) -> u64 {
        let mut entries = self.lock();
        if entries.kept.len() == KEPT {
            entries.kept.pop_front();
            entries.first += 1;
        }
        entries.kept.push_back(entry);
        entries.first + entries.kept.len() as u64 - 1
    }

    pub(crate) fn answered(&self, number: u64, status: u16) {
        let mut entries = self.lock();
        let place = number.checked_sub(entries.first).and_then(|n| usize::try_from(n).ok());
        if let Some(entry) = place.and_then(|place| entries.kept.get_mut(place)) {
            entry.status = status;
        }
    }

    pub(crate) fn all(&self) -> Vec<Logged> {
        self.lock().kept.iter().cloned().collect()
    }

    pub(crate) fn forget(&self) {
        let mut entries = self.lock();
        entries.first += entries.kept.len() as u64;
        entries.kept.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
