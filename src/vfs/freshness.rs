//! Keeps listings young: one request chain however many ask, answers until the TTL runs out.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, WeakShared};
use lru::LruCache;
use tracing::Instrument;

use crate::api::{ContainerId, Cursors, File, FileId, List, budget};
use crate::namespace::inode::{Ino, Kind, ROOT};
use crate::namespace::listed::Listed;
use crate::namespace::listing::{self, Changes};
use crate::namespace::names;
use crate::vfs::{Error, Invalidation, Result, State, Vfs};

/// Which list: of containers, or of the files of one.
pub(super) type Which = Option<ContainerId>;

/// The part of its TTL after which a list is renewed amid a run of reads, or of new files.
const RENEWED_AT: f64 = 0.6;

/// New files in one directory after which more are expected.
const A_RUN: u32 = 8;

/// Lists whose cursors are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");

/// Lists under way, and where the next walks of them can begin.
pub(super) struct Refreshes {
    /// Each belongs to its task, which ends with the runtime.
    flights: Mutex<HashMap<Which, WeakShared<BoxFuture<'static, Result<()>>>>>,
    cursors: Mutex<LruCache<Which, Cursors>>,
}

/// Files that are made in one directory, one soon after the other.
#[derive(Default)]
pub(super) struct Making {
    last: Option<(Ino, Instant)>,
    files: u32,
}

impl Making {
    /// One is made in `directory`, `soon` after the last if it belongs to the same run. Returns whether more
    /// are expected.
    fn goes_on(&mut self, directory: Ino, now: Instant, soon: Duration) -> bool {
        let last = self.last.replace((directory, now));
        let goes_on = last.is_some_and(|(of, at)| of == directory && now.duration_since(at) < soon);
        self.files = if goes_on { self.files.saturating_add(1) } else { 1 };
        self.files >= A_RUN
    }
}

impl Refreshes {
    pub(super) fn new() -> Self {
        Self { flights: Mutex::default(), cursors: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Which, WeakShared<BoxFuture<'static, Result<()>>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cursors(&self) -> MutexGuard<'_, LruCache<Which, Cursors>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vfs {
    /// When the list was asked for that `ino` comes from. A container comes from the list of containers.
    pub(super) fn listed_at(&self, state: &State, ino: Ino) -> Option<Listed> {
        match &state.tree.get(ino)?.kind {
            Kind::Root(_) | Kind::Link(_) => state.tree.listed,
            Kind::Container(container) if ino == ROOT => container.listed.or(Some(Listed::at(self.started))),
            Kind::Container(_) => state.tree.listed,
            Kind::Directory(_) | Kind::File(_) => state.tree.container(state.tree.container_of(ino)?)?.listed,
        }
    }

    pub(super) fn is_fresh(&self, state: &State, ino: Ino) -> bool {
        let is_link = matches!(state.tree.get(ino).map(|node| &node.kind), Some(Kind::Link(_)));
        if is_link || ino == ROOT && self.config.container.is_some() {
            return true;
        }
        self.listed_at(state, ino).is_some_and(|listed| listed.age() < self.config.ttl)
    }

    /// When the list was asked for that the entries of the directory `ino` come from.
    pub(super) fn entries_listed(&self, state: &State, ino: Ino) -> Option<Listed> {
        match state.tree.get(ino).map(|node| &node.kind) {
            Some(Kind::Container(container)) => container.listed,
            _ => self.listed_at(state, ino),
        }
    }

    /// Whether the entries of the directory `ino` can be answered from memory.
    pub(super) fn entries_fresh(&self, state: &State, ino: Ino) -> bool {
        self.entries_listed(state, ino).is_some_and(|listed| listed.age() < self.config.ttl)
    }

    /// Sees to it that what `ino` comes from is fresh.
    pub(super) async fn ensure_fresh_of(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let which = {
            let state = self.state();
            if self.is_fresh(&state, ino) {
                return Ok(());
            }
            match state.tree.get(ino).map(|node| &node.kind) {
                Some(Kind::File(_) | Kind::Directory(_)) => self.which(&state, ino)?,
                Some(_) => None,
                None => return Err(Error::quiet(libc::ESTALE)),
            }
        };
        self.refresh(which, None).await
    }

    /// Sees to it that the entries of the directory `ino` are fresh.
    pub(super) async fn ensure_entries(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let which = {
            let state = self.state();
            if self.entries_fresh(&state, ino) {
                return Ok(());
            }
            self.which(&state, ino)?
        };
        self.refresh(which, None).await
    }

    /// Fetches the list of a container anew if the last one was asked for before `since`.
    pub(super) async fn ensure_listed_since(
        self: &Arc<Self>,
        container: &ContainerId,
        since: Instant,
    ) -> Result<()> {
        self.refresh(Some(container.clone()), Some(since)).await
    }

    /// A file is made in `directory`: amid a run of them its lists are renewed in time.
    pub(super) fn makes_file(self: &Arc<Self>, state: &mut State, directory: Ino) {
        if state.making.goes_on(directory, Instant::now(), self.config.ttl) {
            self.renew_lists(state, directory);
        }
    }

    /// Files are being read or made one after the other: fetches their lists anew before they are too old, so
    /// that nobody has to wait for one amid the run.
    pub(super) fn renew_lists(self: &Arc<Self>, state: &mut State, ino: Ino) {
        let files = state.tree.container_of(ino).and_then(|ino| state.tree.container(ino));
        let files = files.map(|container| (Some(container.container.id.clone()), container.listed));
        let lists = files.into_iter().chain([(None, state.tree.listed)]).collect::<Vec<_>>();
        for (which, listed) in lists {
            let Some(listed) = listed else { continue };
            if listed.age() < self.config.ttl.mul_f64(RENEWED_AT) || !state.renewing.insert(which.clone()) {
                continue;
            }
            let vfs = self.clone();
            tokio::spawn(async move {
                if let Err(error) =
                    vfs.refresh(which.clone(), Some(listed.asked + Duration::from_nanos(1))).await
                {
                    tracing::debug!(%error, "a list was not renewed ahead of time");
                }
                vfs.state().renewing.remove(&which);
            });
        }
    }

    fn which(&self, state: &State, ino: Ino) -> Result<Which> {
        let node = state.tree.get(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        if matches!(node.kind, Kind::Root(_) | Kind::Link(_)) {
            return Ok(None);
        }
        let container = state.tree.container_of(ino).and_then(|ino| Some((ino, state.tree.container(ino)?)));
        match container {
            Some((ino, container)) if state.tree.is_linked(ino) => Ok(Some(container.container.id.clone())),
            _ => Err(Error::quiet(libc::ESTALE)),
        }
    }

    async fn refresh(self: &Arc<Self>, which: Which, since: Option<Instant>) -> Result<()> {
        let asked = Instant::now();
        loop {
            let flight = {
                let mut flights = self.refreshes.flights();
                // Looked at under this lock: a flight that just landed is seen as fresh, not flown again.
                if self.is_listed(&which, since, asked) {
                    return Ok(());
                }
                match flights.get(&which).and_then(WeakShared::upgrade) {
                    Some(flight) => flight,
                    None => {
                        let flight = self.take_off(which.clone()).boxed().shared();
                        flights.extend(flight.downgrade().map(|flight| (which.clone(), flight)));
                        // A caller that goes away takes nobody else's list with it.
                        tokio::spawn(flight.clone());
                        flight
                    }
                }
            };
            budget::free_if_ok(flight).await?;
        }
    }

    /// Whether a list is young enough for who has `asked` then: even a TTL of nothing is kept by a later
    /// list.
    fn is_listed(&self, which: &Which, since: Option<Instant>, asked: Instant) -> bool {
        let state = self.state();
        let listed = match which {
            None => state.tree.listed,
            Some(id) => match state.tree.containers.get(id) {
                Some(ino) => state.tree.container(*ino).and_then(|container| container.listed),
                None => return true,
            },
        };
        listed.is_some_and(|listed| match since {
            Some(since) => listed.asked >= since,
            None => listed.asked >= asked || listed.age() < self.config.ttl,
        })
    }

    /// Fetches a list in a task of its own, on time of its own: whoever waits for it is told of its end, and has not
    /// spent what its pages took.
    fn take_off(self: &Arc<Self>, which: Which) -> impl Future<Output = Result<()>> + use<> {
        let flight = budget::within(self.client.timeout(), self.clone().fly(which));
        let landed = tokio::spawn(flight.in_current_span());
        landed.map(|landed| landed.unwrap_or_else(|_| Err(Error::told(libc::EIO, "a list died on its way"))))
    }

    async fn fly(self: Arc<Self>, which: Which) -> Result<()> {
        let started = Instant::now();
        let mut cursors = self.refreshes.cursors().pop(&which).unwrap_or_default();
        let outcome = match &which {
            None => self.client.live_containers(&mut cursors).await.map_err(Error::from).map(|list| {
                let List { items: mut containers, has_unread } = list;
                let mut state = self.state();
                state.records.forget_departed(&containers, false);
                containers.retain(|container| !state.dead_containers.contains(&container.id));
                note_unread(&mut state.tree.has_unread, has_unread, "containers");
                listing::apply_containers(&mut state.tree, &containers, started)
            }),
            Some(id) => {
                let list = self
                    .client
                    .all_files(id, &mut cursors)
                    .await
                    .map_err(|error| self.noticed(id, error.into()));
                match list {
                    Ok(list) => {
                        let unlisted = self.unlisted(id, &list.items).await;
                        self.find_taken_places(id, &list.items).await;
                        Ok(self.lay_files(id, list, unlisted, started))
                    }
                    Err(error) => Err(error),
                }
            }
        };
        self.refreshes.cursors().put(which.clone(), cursors);
        self.refreshes.flights().remove(&which);
        let changes = outcome?;
        for ino in changes.displaced {
            self.invalidate(Invalidation::Attributes(ino));
        }
        if let Some(container) = which {
            self.look_for_phantoms(&container);
            self.delete_again(&container);
            if self.state().lost_posts(&container).next().is_some() {
                // The end of a mount waits for it.
                self.behind.spawn(self.clone().sweep_lost(container.clone(), started));
            }
            self.check_all_missing(&container, changes.missing).await;
        }
        Ok(())
    }

    fn lay_files(
        self: &Arc<Self>,
        id: &ContainerId,
        list: List<File>,
        unlisted: Vec<File>,
        started: Instant,
    ) -> Changes {
        let List { items: mut files, has_unread } = list;
        let unsettled: Vec<FileId> = unlisted.iter().map(|file| file.id.clone()).collect();
        // What is missing is the newest.
        files.splice(0..0, unlisted);
        let mut guard = self.state();
        let state = &mut *guard;
        self.delete_left_behind(state, id, &files);
        self.take_out_probes(state, id, &mut files, started);
        files.retain(|file| !state.is_arriving(id, file));
        let replaced = state.to_be_replaced();
        if !state.lost.is_empty() {
            state.withhold(id, &mut files, &replaced);
        }
        match state.tree.containers.get(id).copied() {
            Some(ino) => {
                if let Some(container) = state.tree.container_mut(ino) {
                    note_unread(&mut container.has_unread, has_unread, id.as_str());
                }
                let changes =
                    listing::apply_files(&mut state.tree, ino, files, started, &state.records, &replaced);
                for id in unsettled {
                    state.tree.unsettle(ino, &id);
                }
                changes
            }
            None => Changes::default(),
        }
    }
}

/// Notes whether a list holds items that cannot be shown, and logs it once, not with every list.
fn note_unread(known: &mut bool, has_unread: bool, list: &str) {
    if has_unread && !*known {
        let list = names::safe_component(list, list);
        tracing::warn!(list, "the list holds items without an id, which cannot be shown");
    }
    *known = has_unread;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_made_now_and_then_are_no_run() {
        let (mut making, begun, ttl) = (Making::default(), Instant::now(), Duration::from_secs(5));
        let mut at = |seconds: u32, directory| {
            making.goes_on(directory, begun + seconds * Duration::from_secs(1), ttl)
        };
        assert!((0..20).all(|time| !at(time * 6, ROOT)));
        assert!((200..207).all(|time| !at(time, ROOT)) && at(207, ROOT) && at(208, ROOT));
        assert!(!at(209, Ino(7)) && !at(210, ROOT), "in turn");
    }
}
