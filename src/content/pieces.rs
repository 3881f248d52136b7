//! Parts of a large file that are read before their turn: fetched by range where the server offers ranges.
//!
//! A program that seeks far ahead in a file (a table's footer, an archive's directory) doesn't wait for
//! everything before. Pieces go into the same file as the download from the start, which goes on and ends
//! with every byte. Whatever fails here is no failure: the download gets there in the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::client::Part;
use crate::api::priority::Priority;
use crate::api::{Client, ContainerId, FileId};

/// Bytes of a piece.
const PIECE: u64 = 1 << 20;

/// A read that begins this far behind what has been asked for is a seek; nearer ones are the kernel's reading
/// ahead, whose windows of 4 MiB come two at a time and not always in order.
const FAR: u64 = 12 << 20;

/// Pieces under way at once.
const AT_ONCE: usize = 8;

/// Pieces fetched behind one that is read right after the one before it.
const ON: u64 = 2;

/// Where the bytes of a file come from.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) client: Client,
    pub(super) container: ContainerId,
    pub(super) file: FileId,
}

/// The pieces of one file.
#[derive(Debug, Default)]
pub(super) struct Pieces(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The server takes ranges and has sent what it was asked for.
    offered: bool,
    /// The end of what has been asked for from the start on.
    asked: u64,
    pieces: BTreeMap<u64, Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Bytes of it that are here.
    here: u64,
    coming: bool,
}

impl Pieces {
    /// The server offers ranges.
    pub(super) fn offer(&self) {
        self.lock().offered = true;
    }

    /// Whether all of `range` is here.
    pub(super) fn have(&self, range: &Range<u64>) -> bool {
        let state = self.lock();
        let mut at = range.start;
        while at < range.end {
            let index = at / PIECE;
            match state.pieces.get(&index) {
                Some(piece) if index * PIECE + piece.here > at => at = index * PIECE + piece.here,
                _ => return false,
            }
        }
        true
    }

    /// A program waits for `range` of a file of `total` bytes, of which `written` are here. Returns the
    /// pieces to be fetched, which count as coming from now on.
    pub(super) fn wanted(&self, range: &Range<u64>, written: u64, total: u64) -> Vec<u64> {
        let mut state = self.lock();
        if !state.offered || range.start <= state.asked.max(written).saturating_add(FAR) {
            state.asked = state.asked.max(range.end);
            return Vec::new();
        }
        let first = range.start / PIECE;
        let goes_on = first.checked_sub(1).is_some_and(|before| state.pieces.contains_key(&before));
        let last = range.end.saturating_sub(1) / PIECE + if goes_on { ON } else { 0 };
        let coming = state.pieces.values().filter(|piece| piece.coming).count();
        let missing = (first..=last)
            .filter(|index| index * PIECE < total && !state.pieces.contains_key(index))
            .take(AT_ONCE.saturating_sub(coming));
        let missing: Vec<u64> = missing.collect();
        for index in &missing {
            state.pieces.insert(*index, Piece { here: 0, coming: true });
        }
        missing
    }

    /// Fetches a piece of a file of `total` bytes into `to`; `told` is called whenever there is more of it.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        index: u64,
        total: u64,
        origin: Origin,
        to: File,
        told: impl Fn(),
    ) {
        let range = index * PIECE..total.min((index + 1) * PIECE);
        let outcome = self.receive(index, &range, &origin, &to, &told).await;
        {
            let mut state = self.lock();
            match outcome {
                Ok(()) => {
                    state.pieces.entry(index).and_modify(|piece| piece.coming = false);
                }
                Err(reason) => {
                    tracing::debug!(%reason, "a part of a file could not be had by itself");
                    state.pieces.remove(&index);
                    state.offered = false;
                }
            }
        }
        told();
    }

    async fn receive(
        &self,
        index: u64,
        range: &Range<u64>,
        origin: &Origin,
        to: &File,
        told: &impl Fn(),
    ) -> Result<(), String> {
        let (part, priority) = (Part::Range(range.clone()), Priority::new(crate::api::priority::current()));
        let content = origin.client.content_for(&origin.container, &origin.file, &part, &priority);
        let mut content = content.await.map_err(|error| error.to_string())?;
        if content.start != range.start {
            return Err("the server sent another part than it was asked for".to_owned());
        }
        let mut at = range.start;
        while at < range.end {
            let chunk = content.chunk().await.map_err(|error| error.to_string())?;
            let Some(chunk) = chunk else {
                return Err("the part is shorter than it was asked for".to_owned());
            };
            let more = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(chunk.len());
            to.write_all_at(&chunk[..more], at).map_err(|error| error.to_string())?;
            at += more as u64;
            self.lock().pieces.entry(index).and_modify(|piece| piece.here = at - range.start);
            told();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 100 << 20;

    fn of(start: u64, len: u64) -> Range<u64> {
        start..start + len
    }

    #[test]
    fn reading_on_is_no_seek_and_a_server_without_ranges_is_not_asked() {
        let pieces = Pieces::default();
        assert!(pieces.wanted(&of(TOTAL - 100, 100), 0, TOTAL).is_empty(), "nothing was offered");
        let pieces = Pieces::default();
        pieces.offer();
        // The kernel reads ahead, and not quite in order.
        for at in [0, 2, 1, 3, 5, 4, 7, 6, 9, 12] {
            assert!(pieces.wanted(&of(at << 20, 1 << 20), 0, TOTAL).is_empty(), "{at}");
        }
        assert_eq!(pieces.wanted(&of(30 << 20, 4096), 0, TOTAL), [30]);
        assert!(pieces.wanted(&of(30 << 20, 4096), 0, TOTAL).is_empty(), "it is coming");
        assert!(!pieces.have(&of(30 << 20, 4096)));
    }

    #[test]
    fn whoever_reads_on_after_a_seek_gets_more_and_never_too_much() {
        let pieces = Pieces::default();
        pieces.offer();
        assert_eq!(pieces.wanted(&of(50 << 20, 100), 0, TOTAL), [50]);
        assert_eq!(pieces.wanted(&of(51 << 20, 100), 0, TOTAL), [51, 52, 53]);
        assert_eq!(pieces.wanted(&of(60 << 20, 20 << 20), 0, TOTAL), [60, 61, 62, 63]);
        assert!(pieces.wanted(&of(90 << 20, 100), 0, TOTAL).is_empty());
        let pieces = Pieces::default();
        pieces.offer();
        assert_eq!(pieces.wanted(&of(TOTAL - 100, 4096), 0, TOTAL), [99], "nothing lies beyond the end");
    }

    #[test]
    fn a_range_is_here_when_each_piece_of_it_is() {
        let pieces = Pieces::default();
        let put = |index, here| pieces.lock().pieces.insert(index, Piece { here, coming: false });
        put(7, PIECE);
        put(8, 100);
        assert!(pieces.have(&of(7 * PIECE, PIECE + 100)));
        assert!(!pieces.have(&of(7 * PIECE, PIECE + 101)));
        assert!(!pieces.have(&of(6 * PIECE, 1)));
    }
}
