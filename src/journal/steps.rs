//! The steps of an intent, at each of which a test can kill the process.
//!
//! Between two steps lies one thing that outlives the process: a note on disk, or a request to the server. In
//! builds without the failpoints of the crate `fail` there is nothing here.

/// The name of the failpoint, for `FAILPOINTS`.
pub const FAILPOINT: &str = "step";

/// A step begins.
pub(crate) fn step() {
    fail::fail_point!(FAILPOINT, |_| {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    });
}

/// The failpoint between the close of bytes and the first thought of what their note says.
pub const CLOSED: &str = "closed";

/// The failpoint between the note of a deletion and the state that knows of it.
pub const INTENDED: &str = "intended";

/// It is written down that versions are going to be deleted.
pub(crate) fn intended() {
    fail::fail_point!(INTENDED);
}

/// Bytes have been closed and are about to be promised.
pub(crate) fn closed() {
    fail::fail_point!(CLOSED);
}
