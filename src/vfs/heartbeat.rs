//! Whether the filesystem still lives, for the watchdog, and how a test stops it.

use crate::vfs::Vfs;

/// Failpoint: whoever syncs a file, on a thread of the runtime.
pub const STUCK_THREAD: &str = "stuck-thread";

/// Failpoint: whoever opens a directory, with the lock of the tree in hand.
pub const STUCK_LOCK: &str = "stuck-lock";

impl Vfs {
    /// Comes back when nobody holds the lock of the tree, which is never held for longer than moments.
    pub fn beat(&self) {
        drop(self.state());
    }
}

/// A place where a test can stop a thread of the runtime. In builds without the failpoints of the crate
/// `fail` there is nothing here.
pub(super) fn on_a_thread() {
    fail::fail_point!(STUCK_THREAD);
}

/// The same with the lock in hand.
pub(super) fn with_the_lock() {
    fail::fail_point!(STUCK_LOCK);
}
