//! What the system lets a process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Takes as many descriptors as the process may have. The usual limit is low for the sake of programs that use
/// `select(2)`, and each connection, open file and running upload takes some.
pub(super) fn take_all_descriptors() {
    let limit = Resource::RLIMIT_NOFILE;
    let taken = getrlimit(limit).and_then(|(_, hard)| setrlimit(limit, hard, hard));
    if let Err(error) = taken {
        tracing::debug!(%error, "the limit of descriptors stays as it is");
    }
}
