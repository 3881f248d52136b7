//! Tells the kernel what to ask for again.
//!
//! Only attributes, which takes no lock in the kernel, and the copied entries of directories. Their pages the
//! kernel locks while it hands an entry to a program, which waits for us only if it reads a directory into
//! memory that is mapped from a file of the same mount; then this thread waits too, and nobody waits for it.
//! The other notifications wait for the lock of a directory or for a page, and whoever holds it may be
//! waiting for us; a daemon that is killed while it waits there keeps its connection open, so that neither it
//! nor the others ever end. What has lost its name answers ESTALE when it is asked for its attributes, upon
//! which the kernel looks the name up again.

use std::thread;

use fuser::{INodeNo, Notifier};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::vfs::{Invalidation, Notice};

/// An offset that stands for no page at all.
const ATTRIBUTES_ALONE: i64 = -1;

/// Passes invalidations on until the filesystem ends.
pub(super) fn spawn(notifier: Notifier, mut notices: UnboundedReceiver<Notice>) -> std::io::Result<()> {
    thread::Builder::new()
        .name("invalidation".to_owned())
        .spawn(move || {
            while let Some(Notice { what, passed_on }) = notices.blocking_recv() {
                let (ino, from) = match what {
                    Invalidation::Attributes(ino) => (ino, ATTRIBUTES_ALONE),
                    Invalidation::Entries(ino) => (ino, 0),
                };
                // What the kernel doesn't know it need not forget: ENOENT is the usual answer.
                let _ = notifier.inval_inode(INodeNo(ino.0), from, 0);
                if let Some(passed_on) = passed_on {
                    let _ = passed_on.send(());
                }
            }
        })
        .map(drop)
}
