//! What `status` tells of a mount.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use crate::namespace::inode::Ino;
use crate::vfs::drain::Left;
use crate::vfs::sending::UnderWay;
use crate::vfs::{Error, Vfs};

/// Errors that are remembered.
const ERRORS_REMEMBERED: usize = 20;

/// Space that `df` shows: nobody has told a limit of a container's disk.
const TOTAL_BYTES: u64 = 1 << 40;

/// How much is still to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files.
    pub files_left: u64,
    /// Bytes.
    pub bytes_left: u64,
}

/// An error that a person should know of.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// When, as RFC 3339.
    pub at: String,
    /// The system call.
    pub operation: &'static str,
    /// The number that the system call returned.
    pub errno: i32,
    /// What the server or the disk said.
    pub message: String,
}

/// What a process takes of the machine.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Process {
    /// Memory, in bytes, that is resident.
    pub resident_bytes: u64,
    /// Open descriptors, those of connections among them.
    pub descriptors: usize,
}

impl Process {
    /// This one, by proc(5); zeros where that tells nothing.
    fn this() -> Self {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|page| page.try_into().ok());
        // But for the one that counts them.
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, |all| all.count().saturating_sub(1));
        Self { resident_bytes: pages * page.unwrap_or(4096_u64), descriptors }
    }
}

/// The state of a mount.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The server's base URL.
    pub server: String,
    /// When it was mounted, as RFC 3339.
    pub since: String,
    /// Seconds since it was mounted.
    pub uptime_seconds: u64,
    /// Whether it is ending: new changes are refused, and uploads go on.
    pub ending: bool,
    /// Live containers that are shown.
    pub containers: usize,
    /// Inodes in memory.
    pub inodes: usize,
    /// Open file handles.
    pub open_files: usize,
    /// What the daemon takes of the machine.
    pub process: Process,
    /// The cache, in bytes.
    pub cache: crate::content::cache::Usage,
    /// Requests by operation.
    pub requests: crate::api::stats::Stats,
    /// Files fetched before they were read.
    pub prefetch: super::ahead::Usage,
    /// What is still to be sent.
    pub uploads: Progress,
    /// Uploads under way, the oldest first.
    pub under_way: Vec<UnderWay>,
    /// Downloads under way.
    pub downloads: usize,
    /// What is not on the server, and why.
    pub pending: Vec<Left>,
    /// The last errors, newest last.
    pub errors: Vec<Told>,
}

/// Capacity as `statfs(2)` shows it, in bytes and inodes.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Files that are shown.
    pub files: u64,
}

/// The last errors of a mount.
#[derive(Debug, Default)]
pub(super) struct Errors(Mutex<VecDeque<Told>>);

impl Vfs {
    /// Logs an error that a system call returned, and remembers it for `status`.
    pub fn tell(&self, operation: &'static str, error: &Error) {
        if error.level > tracing::Level::WARN {
            tracing::debug!(operation, errno = error.errno, %error);
            return;
        }
        tracing::warn!(operation, errno = error.errno, %error);
        let mut errors = self.errors.0.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() == ERRORS_REMEMBERED {
            errors.pop_front();
        }
        let at = jiff::Timestamp::now().to_string();
        errors.push_back(Told { at, operation, errno: error.errno, message: error.message.clone() });
    }

    /// The state of the mount.
    pub fn status(&self) -> Status {
        let uploads = self.progress();
        let pending = self.left();
        let errors = self.errors.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let process = Process::this();
        let state = self.state();
        Status {
            server: self.client.base_url().to_owned(),
            since: self.since.to_string(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ending: self.is_stopping(),
            containers: state.tree.containers.len(),
            inodes: state.tree.len(),
            open_files: state.handles.len(),
            process,
            cache: self.downloads.cache().usage(),
            requests: self.client.stats(),
            prefetch: state.looked_ahead.usage,
            uploads,
            under_way: state.under_way(),
            downloads: self.downloads.under_way(),
            pending,
            errors,
        }
    }

    /// How much is still to be sent.
    pub fn progress(&self) -> Progress {
        let unsent = self.unsent();
        let state = self.state();
        let under_way = state.under_way();
        let left = |ino: &Ino| {
            let path = state.shown_at(*ino);
            let sent = under_way.iter().find(|post| post.name == path).map_or(0, |post| post.sent);
            state.local_len(*ino).unwrap_or(0).saturating_sub(sent)
        };
        let bytes_left = unsent.iter().map(left).sum();
        Progress { files_left: unsent.len() as u64, bytes_left }
    }

    /// Space: what is used is the sum of the lengths that are known.
    pub fn capacity(&self) -> Capacity {
        let state = self.state();
        let (mut files, mut used) = (0, 0);
        for (ino, file) in state.tree.files() {
            files += 1;
            used += state.local_len(ino).or(file.size.map(|(size, _)| size)).unwrap_or(0);
        }
        Capacity { total: TOTAL_BYTES.max(used), free: TOTAL_BYTES.saturating_sub(used), files }
    }
}
