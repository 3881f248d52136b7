//! The end of a mount: everything that was handed over goes to the server, or is named.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use crate::api::priority::{self, Urgency};
use crate::api::{ContainerId, FileId};
use crate::journal::scratch::Class;
use crate::namespace::inode::Ino;
use crate::vfs::Vfs;
use crate::vfs::deadline::Deadline;
use crate::vfs::promise::When;

/// For how long the end of a mount waits for lists that may show what lost POSTs have made; the next mount sees it too.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Something that is not on the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The path below the mountpoint, or where the bytes lie.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// An adopted staging file that is named and not shown.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its number in the journal.
    pub(super) serial: u64,
    pub(super) left: Left,
    /// It has a scratch name, under which it is never sent: nobody waits for it.
    pub(super) stays_here: bool,
}

impl Vfs {
    /// Refuses new changes and sends everything that is not on the server yet, until `deadline`. What is
    /// open, dirty or unreleased counts as closed: the kernel drops releases at an unmount. Returns what
    /// is left; its bytes are durable in the journal.
    pub async fn drain(self: &Arc<Self>, deadline: &Deadline) -> Vec<Left> {
        self.stop();
        // A save that fails for a moment has another chance, and a write may still have been under way.
        for _ in 0..2 {
            deadline.keep(priority::with(Urgency::Behind, self.send_everything())).await;
        }
        deadline.keep(tokio::time::timeout(LAST_LOOK, self.look_for_lost())).await;
        self.behind.close();
        deadline.keep(self.behind.wait()).await;
        deadline.keep(self.delete_everything()).await;
        // A save that a program waits for may be about to strike its note out.
        deadline.keep(self.everything_has_arrived()).await;
        self.keep_what_is_left();
        self.state().remember_directories();
        self.left()
    }

    /// What is left when nobody can change anything any more: what was closed after [`Vfs::drain`] may be on its way.
    pub async fn left_at_last(&self, deadline: &Deadline) -> Vec<Left> {
        deadline.keep(self.behind.wait()).await;
        deadline.keep(self.everything_has_arrived()).await;
        self.left()
    }

    /// Sends again what failed, refusals included: what `pending` calls by one of `ids`, or everything if
    /// there are none. Returns what is left.
    pub async fn retry(self: &Arc<Self>, ids: &[String]) -> Vec<Left> {
        let serials: Vec<u64> = ids.iter().filter_map(|id| self.journal.serial_of(id)).collect();
        self.take_up(&serials);
        let mut chosen = self.unsent();
        {
            let state = self.state();
            let writer = |ino: &Ino| state.writers.get(ino);
            let is_meant = |ino: &Ino| {
                writer(ino).is_some_and(|writer| {
                    let inner = writer.inner();
                    ids.is_empty() || serials.iter().any(|serial| inner.holds(*serial))
                })
            };
            chosen.retain(is_meant);
            chosen.iter().filter_map(writer).for_each(|writer| writer.inner().failed = None);
        }
        self.send_all(chosen).await;
        self.left()
    }

    /// Whether new changes are refused.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// What is not on the server, and why.
    pub fn left(&self) -> Vec<Left> {
        let unsent = self.unsent();
        let state = self.state();
        let mut left: Vec<Left> = unsent
            .into_iter()
            .map(|ino| {
                let waiting = || Left { name: state.shown_at(ino), reason: "not uploaded yet".to_owned() };
                state.failures.get(&ino).cloned().unwrap_or_else(waiting)
            })
            .collect();
        let waiting = state.unfinished.iter().filter(|waiting| !waiting.stays_here);
        left.extend(waiting.map(|waiting| waiting.left.clone()));
        for unwanted in &state.undeleted {
            let is_buried = |id: &FileId| state.records.is_buried(&unwanted.container, id);
            left.extend(unwanted.ids().into_iter().filter(is_buried).map(|id| Left {
                name: state.shown_in(&unwanted.container, id.as_str()),
                reason: "a version that was deleted or replaced here is still on the server".to_owned(),
            }));
        }
        left
    }

    /// Files with bytes that the server doesn't have.
    pub(super) fn unsent(&self) -> Vec<Ino> {
        let state = self.state();
        let mut unsent: Vec<Ino> = state
            .writers
            .iter()
            .filter(|(ino, writer)| {
                let linked = state.tree.is_linked(**ino);
                let local = self.scratch_class(&state, **ino) == Some(Class::Local);
                linked && !local && writer.inner().is_dirty()
            })
            .map(|(ino, _)| *ino)
            .collect();
        unsent.sort_unstable();
        unsent
    }

    async fn send_everything(self: &Arc<Self>) {
        self.send_all(self.unsent()).await;
    }

    async fn send_all(self: &Arc<Self>, files: Vec<Ino>) {
        futures_util::stream::iter(files)
            .for_each_concurrent(self.config.max_connections, |ino| async move {
                if let Err(error) = self.commit(ino, When::Ended).await {
                    tracing::warn!(%error, "a file could not be uploaded; its bytes are kept");
                }
            })
            .await;
    }

    /// Has lists fetched that may show what lost POSTs have made beside newer saves, which is deleted behind them.
    async fn look_for_lost(self: &Arc<Self>) {
        if self.config.no_delete {
            return;
        }
        let containers: HashSet<ContainerId> = {
            let state = self.state();
            let containers = state.lost.iter().map(|lost| lost.container.clone());
            containers.filter(|container| state.tree.containers.contains_key(container)).collect()
        };
        futures_util::stream::iter(containers)
            .for_each_concurrent(self.config.max_connections, |container| async move {
                if let Err(error) = self.ensure_listed_since(&container, Instant::now()).await {
                    tracing::debug!(%error, "what lost uploads have made is left to the next mount");
                }
            })
            .await;
    }

    async fn delete_everything(self: &Arc<Self>) {
        let unwanted = {
            let mut guard = self.state();
            let state = &mut *guard;
            for (_, unwanted) in state.deferred.drain() {
                if !state.undeleted.iter().any(|other| Arc::ptr_eq(other, &unwanted)) {
                    state.undeleted.push(unwanted);
                }
            }
            // They stay there until they are gone: what is left when the time is up is named.
            state.undeleted.clone()
        };
        futures_util::stream::iter(unwanted)
            .for_each_concurrent(self.config.max_connections, |unwanted| self.delete(unwanted))
            .await;
    }

    async fn everything_has_arrived(&self) {
        let writers: Vec<_> = self.state().writers.values().cloned().collect();
        for writer in writers {
            drop(writer.travelling.lock().await);
        }
    }

    fn keep_what_is_left(&self) {
        let writers: Vec<_> =
            self.state().writers.iter().map(|(ino, writer)| (*ino, writer.clone())).collect();
        for (ino, writer) in writers {
            if writer.take_what_has_arrived().is_some() {
                continue;
            }
            if writer.inner().has_failed() {
                // Durable since it failed, with its reason.
                continue;
            }
            writer.stays_aside();
            if let Err(error) = self.promise(ino, &writer) {
                tracing::error!(%error, "unsent bytes could not be made durable");
            }
        }
    }
}
