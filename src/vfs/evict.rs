//! Bytes that nobody will ask for leave the cache at once, not when their turn comes.
//!
//! A directory whose files are written again and again would else fill memory and disk with versions that
//! have been deleted, and they would push out what is still read.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::content::download::Downloads;
use crate::namespace::gone::LetGo;

/// Versions whose bytes are removed in one go.
const AT_ONCE: usize = 256;

/// Removes the bytes of versions that no inode stands for any more, until the tree goes. Who has one of them open
/// goes on reading: an inode that is open has not let go.
pub(super) async fn evict(downloads: Arc<Downloads>, mut told: UnboundedReceiver<LetGo>) {
    let mut versions = Vec::new();
    while told.recv_many(&mut versions, AT_ONCE).await > 0 {
        let (downloads, gone) = (downloads.clone(), std::mem::take(&mut versions));
        let removed = tokio::task::spawn_blocking(move || {
            gone.iter().for_each(|(container, file)| downloads.forget(container, file));
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "bytes of versions that are gone stay in the cache");
        }
    }
}
