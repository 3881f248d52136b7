//! Who may send, or rename, what: a file on its way is left alone, and what lies in a directory that is being renamed
//! waits until that has its new name. Sent before, it would stand under the old one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedMutexGuard};

use crate::api::budget;
use crate::namespace::inode::Ino;
use crate::vfs::writer::Writer;
use crate::vfs::{State, Vfs};

/// Directories that are being renamed.
#[derive(Clone, Default)]
pub(super) struct Moves(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Innermost of all locks.
    directories: Mutex<Vec<Ino>>,
    one_has_ended: Notify,
}

/// A directory is being renamed for as long as this value lives.
pub(super) struct Moving {
    moves: Moves,
    directory: Ino,
}

impl Moves {
    fn lock(&self) -> MutexGuard<'_, Vec<Ino>> {
        self.0.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.moves.lock().retain(|directory| *directory != self.directory);
        self.moves.0.one_has_ended.notify_waiters();
    }
}

impl Vfs {
    /// Begins to rename a directory into `to`, once nothing around or inside of either is being renamed.
    pub(super) async fn begin_to_move(&self, directory: Ino, to: Ino) -> Moving {
        let begin = || {
            let state = self.state();
            let mut moving = self.moves.lock();
            let is_in_the_way = |other: &Ino| {
                state.is_within(directory, *other)
                    || state.is_within(to, *other)
                    || state.is_within(*other, directory)
            };
            if moving.iter().any(is_in_the_way) {
                return None;
            }
            moving.push(directory);
            Some(Moving { moves: self.moves.clone(), directory })
        };
        self.when_moves_allow(begin).await
    }

    /// Waits until no directory is being renamed that holds any of `inside`.
    async fn are_at_rest(&self, inside: &[Ino]) {
        self.when_moves_allow(|| (!self.are_moving(inside)).then_some(())).await;
    }

    fn are_moving(&self, inside: &[Ino]) -> bool {
        let state = self.state();
        let moving = self.moves.lock();
        moving.iter().any(|directory| inside.iter().any(|ino| state.is_within(*ino, *directory)))
    }

    async fn when_moves_allow<T>(&self, begin: impl Fn() -> Option<T>) -> T {
        budget::free(async {
            loop {
                let mut ended = std::pin::pin!(self.moves.0.one_has_ended.notified());
                // Before the look, so that no end is missed.
                ended.as_mut().enable();
                if let Some(begun) = begin() {
                    return begun;
                }
                ended.await;
            }
        })
        .await
    }

    /// Waits for what is on its way of a file; nothing of it sets out until the guard goes.
    pub(super) async fn turn(&self, ino: Ino, writer: &Writer) -> OwnedMutexGuard<()> {
        loop {
            self.are_at_rest(&[ino]).await;
            let turn = budget::free(writer.travelling.clone().lock_owned()).await;
            if !self.are_moving(&[ino]) {
                return turn;
            }
        }
    }

    /// The same of `files`, which are renamed into `to`.
    pub(super) async fn turns(&self, files: &[Ino], to: Ino) -> Vec<OwnedMutexGuard<()>> {
        let concerned: Vec<Ino> = files.iter().copied().chain([to]).collect();
        loop {
            self.are_at_rest(&concerned).await;
            let turns = self.turns_inside(files.to_vec()).await;
            if !self.are_moving(&concerned) {
                return turns;
            }
        }
    }

    /// The same of files in a directory that is being renamed by the caller.
    pub(super) async fn turns_inside(&self, mut files: Vec<Ino>) -> Vec<OwnedMutexGuard<()>> {
        // In one order, whoever waits.
        files.sort_unstable();
        files.dedup();
        let mut turns = Vec::new();
        for ino in files {
            let writer = self.state().writers.get(&ino).cloned();
            if let Some(writer) = writer {
                turns.push(budget::free(writer.travelling.clone().lock_owned()).await);
            }
        }
        turns
    }
}

impl State {
    /// Whether `ino` is `directory` or lies below it.
    fn is_within(&self, ino: Ino, directory: Ino) -> bool {
        let mut at = ino;
        loop {
            if at == directory {
                return true;
            }
            match self.tree.get(at) {
                // The root is its own parent.
                Some(node) if node.parent != at => at = node.parent,
                _ => return false,
            }
        }
    }
}
