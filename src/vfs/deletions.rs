//! Versions that are not wanted any more: deleted, or named in the journal until they are.

use std::sync::{Arc, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::api::client::UploadBody;
use crate::api::{self, ContainerId, ErrorKind, FileId, budget};
use crate::journal::{Intent, Noted, steps};
use crate::vfs::sending::Announced;
use crate::vfs::{Error, Result, State, Vfs};

/// A deletion that has failed is tried again behind the first list that comes when this time has passed.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Versions that are still on the server, though nobody is shown them, or soon will be.
#[derive(Debug)]
pub(super) struct Unwanted {
    pub(super) container: ContainerId,
    going: std::sync::Mutex<Going>,
    /// The path below the container that an unlink has freed: the next file of that name waits for the
    /// deletion.
    path: Option<String>,
    /// Held while it is tried.
    turn: Arc<Mutex<()>>,
    /// When it was tried last, in vain.
    failed: std::sync::Mutex<Option<Instant>>,
    /// They are gone, or stay.
    settled: OnceLock<()>,
}

#[derive(Debug)]
struct Going {
    /// Without those that a server has given to somebody else since.
    ids: Vec<FileId>,
    /// Says so after a crash; none if it follows from another note, or the disk did not take it.
    noted: Option<Noted>,
}

impl Vfs {
    /// Writes down that versions are going to be deleted.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn intend_deletion(&self, unwanted: &Unwanted) -> Result<()> {
        {
            // Who is told meanwhile that one of them is somebody else's waits, and writes that down.
            let mut going = unwanted.going();
            if going.ids.is_empty() {
                return Ok(());
            }
            let intent = Intent::Delete { container: unwanted.container.clone(), ids: going.ids.clone() };
            going.noted = Some(self.journal.intend(&intent)?);
        }
        steps::intended();
        Ok(())
    }

    /// Versions that a newer one has replaced are shown no more. Said under the lock under which they lose
    /// their place: a list that came in between would show them beside their successor. Takes out what has become
    /// another file's version.
    pub(super) fn bury_replaced(&self, state: &mut State, container: &ContainerId, ids: &mut Vec<FileId>) {
        ids.retain(|id| !state.is_answer(container, id));
        if !self.config.no_delete {
            ids.iter().for_each(|id| state.records.bury(container, id));
        }
    }

    /// Deletes buried versions that a newer one has replaced. Their failure is not the save's.
    pub(super) async fn delete_replaced(&self, container: &ContainerId, ids: Vec<FileId>) {
        if !self.config.no_delete && !ids.is_empty() {
            let unwanted = self.state().is_to_go(container, ids, None);
            self.delete(unwanted).await;
        }
    }

    /// Deletes a version whose deletion follows from another intent.
    pub(super) async fn delete_version(&self, container: &ContainerId, id: &FileId) {
        let unwanted = {
            let mut state = self.state();
            if !state.records.is_buried(container, id) {
                state.bury(container, id);
            }
            state.is_to_go(container, vec![id.clone()], None)
        };
        self.delete(unwanted).await;
    }

    /// Deletes buried versions. Those that cannot be deleted now are later: behind a list, when the mount ends,
    /// or when the next one begins.
    pub(super) async fn delete(&self, unwanted: Arc<Unwanted>) {
        let turn = unwanted.turn.clone().lock_owned().await;
        self.delete_in_turn(unwanted, turn).await;
    }

    /// The same behind its caller; whoever takes the name from now on waits for it.
    pub(super) fn delete_behind(self: &Arc<Self>, state: &mut State, unwanted: &Arc<Unwanted>) {
        let turn =
            unwanted.turn.clone().try_lock_owned().expect("nobody knows of it before it is in the state");
        state.undeleted.push(unwanted.clone());
        let (vfs, unwanted) = (self.clone(), unwanted.clone());
        self.behind.spawn(async move { vfs.delete_in_turn(unwanted, turn).await });
    }

    /// Tries again what has failed a while ago: a list has come, so the server answers.
    pub(super) fn delete_again(self: &Arc<Self>, container: &ContainerId) {
        let state = self.state();
        let of_container = state.undeleted.iter().filter(|unwanted| unwanted.container == *container);
        for unwanted in of_container.filter(|unwanted| unwanted.has_failed_a_while_ago()) {
            let Ok(turn) = unwanted.turn.clone().try_lock_owned() else { continue };
            let (vfs, unwanted) = (self.clone(), unwanted.clone());
            self.behind.spawn(async move { vfs.delete_in_turn(unwanted, turn).await });
        }
    }

    /// Deletes what a list shows that a mount before this one was to delete, if nothing else says so any more.
    pub(super) fn delete_left_behind(
        self: &Arc<Self>,
        state: &mut State,
        container: &ContainerId,
        listed: &[api::File],
    ) {
        if self.check_deletable().is_err() {
            return;
        }
        let left_behind = listed.iter().filter(|file| state.records.is_left_behind(container, file));
        let ids = left_behind.map(|file| &file.id).filter(|id| !state.is_going(container, id));
        let ids: Vec<FileId> = ids.cloned().collect();
        if !ids.is_empty() {
            tracing::info!(
                container = container.as_str(),
                files = ids.len(),
                "deleting what was left behind"
            );
            let unwanted = state.is_to_go(container, ids, None);
            self.delete_behind(state, &unwanted);
        }
    }

    async fn delete_in_turn(&self, unwanted: Arc<Unwanted>, _turn: OwnedMutexGuard<()>) {
        if unwanted.settled.get().is_some() {
            return;
        }
        {
            let mut state = self.state();
            if !state.undeleted.iter().any(|other| Arc::ptr_eq(other, &unwanted)) {
                state.undeleted.push(unwanted.clone());
            }
        }
        let container = &unwanted.container;
        let kept: Vec<FileId> = futures_util::stream::iter(unwanted.ids())
            .map(|id| async move {
                if !self.state().records.is_to_be_deleted(container, &id) {
                    // It is gone, or a server that replaces by name gave the id to a newer save.
                    return None;
                }
                steps::step();
                let deleted = self.client.delete_file(container, &id).await.map_err(Error::from);
                let Some(error) = deleted.err().filter(|error| !error.is_gone()) else {
                    self.state().records.settle_deletion(container, &id);
                    return None;
                };
                tracing::warn!(%error, "a version that is not wanted any more could not be deleted yet");
                Some(id)
            })
            .buffer_unordered(self.config.max_connections)
            // Given to a newer save while it was tried: it stays.
            .filter_map(|id| async { id.filter(|id| self.state().records.is_buried(container, id)) })
            .collect()
            .await;
        unwanted.fails_now();
        if kept.is_empty() {
            unwanted.settled.get_or_init(|| ());
            unwanted.give_up();
            self.state().undeleted.retain(|other| !Arc::ptr_eq(other, &unwanted));
        } else if unwanted.going().noted.is_none()
            && let Err(error) = self.intend_deletion(&unwanted)
        {
            tracing::warn!(%error, "a deletion was not written down");
        }
    }

    /// Waits for deletions under way of what was unlinked at `path`: a server that replaces by name may give
    /// the same id to what is sent now, and a deletion that is tried again would hit it.
    pub(super) async fn deleted_before(&self, container: &ContainerId, path: &str) {
        let of_path = |unwanted: &&Arc<Unwanted>| {
            unwanted.container == *container && unwanted.path.as_deref() == Some(path)
        };
        let under_way: Vec<_> = self.state().undeleted.iter().filter(of_path).cloned().collect();
        for unwanted in under_way {
            drop(unwanted.turn.lock().await);
        }
    }

    /// Whether a version that an upload was answered with is there. If it was about to be deleted it is not any
    /// more, or has been.
    async fn survives(
        &self,
        container: &ContainerId,
        id: &FileId,
        announced: &Announced,
    ) -> api::error::Result<bool> {
        let under_way: Vec<Arc<Unwanted>> = {
            let mut state = self.state();
            announced.answered(&mut state, id);
            let of_id = |unwanted: &&Arc<Unwanted>| unwanted.container == *container && unwanted.is_of(id);
            let under_way = state.undeleted.iter().filter(of_id).cloned().collect();
            if !state.is_wanted_again(container, id) {
                return Ok(true);
            }
            under_way
        };
        for unwanted in under_way {
            drop(budget::free(unwanted.turn.lock()).await);
        }
        match self.client.retrieve_file(container, id).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::FileNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads, and again if the server has given the id of a version to it that is deleted at that moment.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn upload_to_stay(
        &self,
        container: &ContainerId,
        filename: &str,
        body: UploadBody,
        announced: &Announced,
    ) -> api::error::Result<api::File> {
        loop {
            let sent = announced.sent();
            let file = self.client.upload_watched(container, filename, body.clone(), sent).await?;
            match self.survives(container, &file.id, announced).await {
                Ok(true) => return Ok(file),
                Ok(false) => {}
                Err(error) => return Err(api::Error { may_have_happened: true, retry: false, ..error }),
            }
        }
    }

    /// Deletes buried versions of which a note says already that they go.
    pub(super) async fn delete_noted(&self, container: ContainerId, ids: Vec<FileId>, noted: Noted) {
        let unwanted = self.state().is_noted_to_go(&container, ids, noted);
        self.delete(unwanted).await;
    }

    /// Leaves buried versions, of which a note says that they go, to a mount that may delete.
    pub(super) fn leave_noted(&self, container: &ContainerId, ids: Vec<FileId>, noted: Noted) {
        let mut state = self.state();
        let unwanted = state.is_noted_to_go(container, ids, noted);
        state.left_to_others.push(unwanted);
    }
}

impl State {
    /// A version is not wanted any more, unless a server that replaces by name has answered a POST under way with its
    /// id.
    pub(super) fn bury(&mut self, container: &ContainerId, id: &FileId) {
        if !self.is_answer(container, id) {
            self.records.bury(container, id);
        }
    }

    /// Versions are about to be deleted, which were unlinked at `path` if it says one. Whoever is answered with one
    /// of them from now on takes it out.
    pub(super) fn is_to_go(
        &mut self,
        container: &ContainerId,
        mut ids: Vec<FileId>,
        path: Option<String>,
    ) -> Arc<Unwanted> {
        ids.retain(|id| !self.is_answer(container, id));
        let going = std::sync::Mutex::new(Going { ids, noted: None });
        let (turn, failed, settled) = Default::default();
        let unwanted =
            Arc::new(Unwanted { container: container.clone(), going, path, turn, failed, settled });
        self.going.retain(|known| known.strong_count() > 0);
        self.going.push(Arc::downgrade(&unwanted));
        unwanted
    }

    /// The same of which a note says so already; what has become somebody else's since goes from that.
    fn is_noted_to_go(
        &mut self,
        container: &ContainerId,
        mut ids: Vec<FileId>,
        noted: Noted,
    ) -> Arc<Unwanted> {
        let all = ids.len();
        ids.retain(|id| self.records.is_buried(container, id));
        let has_all = ids.len() == all;
        let unwanted = self.is_to_go(container, ids, None);
        let mut going = unwanted.going();
        going.noted = Some(noted);
        if !has_all {
            going.renew_note(container);
        }
        drop(going);
        unwanted
    }

    /// Whether somebody is about to delete a version.
    fn is_going(&self, container: &ContainerId, id: &FileId) -> bool {
        let mut going = self.going.iter().filter_map(Weak::upgrade);
        going.any(|unwanted| unwanted.container == *container && unwanted.is_of(id))
    }

    /// A version that was not wanted any more, if it is one, is not deleted now. Returns whether nobody was shown it.
    pub(super) fn is_wanted_again(&mut self, container: &ContainerId, id: &FileId) -> bool {
        // Those too that wait for a reader, or whose note is being written.
        let going = self.going.iter().filter_map(Weak::upgrade);
        going
            .filter(|unwanted| unwanted.container == *container)
            .for_each(|unwanted| unwanted.give_up_one(id));
        self.records.unbury(container, id)
    }
}

impl Unwanted {
    fn going(&self) -> MutexGuard<'_, Going> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The versions, without those that have become somebody else's.
    pub(super) fn ids(&self) -> Vec<FileId> {
        self.going().ids.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.going().ids.is_empty()
    }

    /// Whether a version is still one of them.
    pub(super) fn is_of(&self, id: &FileId) -> bool {
        self.going().ids.contains(id)
    }

    fn fails_now(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn has_failed_a_while_ago(&self) -> bool {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|at| at.elapsed() >= AGAIN_AFTER)
    }

    /// One of the versions stays.
    fn give_up_one(&self, id: &FileId) {
        let mut going = self.going();
        let all = going.ids.len();
        going.ids.retain(|other| other != id);
        if going.ids.len() < all {
            going.renew_note(&self.container);
        }
    }

    /// The versions stay: strikes the intent out.
    pub(super) fn give_up(&self) {
        self.going().noted.iter().for_each(Noted::done);
    }
}

impl Going {
    /// Some of the versions stay.
    fn renew_note(&self, container: &ContainerId) {
        let Some(noted) = &self.noted else { return };
        if self.ids.is_empty() {
            noted.done();
            return;
        }
        let rest = Intent::Delete { container: container.clone(), ids: self.ids.clone() };
        if let Err(error) = noted.write(&rest) {
            tracing::warn!(%error, "a deletion that was taken back still stands in the journal");
        }
    }
}
