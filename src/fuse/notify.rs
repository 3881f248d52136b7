//! Tells the kernel what to forget, from a thread of its own: a callback that waited for the kernel here could
//! deadlock with it.

use std::ffi::OsStr;
use std::thread;

use fuser::{INodeNo, Notifier};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::vfs::Invalidation;

/// Passes invalidations on until the filesystem ends.
pub(super) fn spawn(
    notifier: Notifier,
    mut invalidations: UnboundedReceiver<Invalidation>,
) -> std::io::Result<()> {
    thread::Builder::new()
        .name("invalidation".to_owned())
        .spawn(move || {
            while let Some(invalidation) = invalidations.blocking_recv() {
                // What the kernel doesn't know it need not forget: ENOENT is the usual answer.
                let _ = match &invalidation {
                    Invalidation::Entry(parent, name) => {
                        notifier.inval_entry(INodeNo(parent.0), OsStr::new(&**name))
                    }
                    Invalidation::Inode(ino) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
                };
            }
        })
        .map(drop)
}
