//! Versions under other names: the API has no rename, so each is sent again under its new name.
//!
//! It is one intent: all POSTs come before the first DELETE, and one that is refused undoes the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;

use crate::api::client::UploadBody;
use crate::api::{self, ContainerId, FileId, budget};
use crate::content::Key;
use crate::journal::copied::CopyNote;
use crate::journal::intent::{Move, Rename};
use crate::journal::stage::Staging;
use crate::journal::{Copied, Intent, Noted, steps};
use crate::namespace::inode::Ino;
use crate::vfs::lost::{FoundVersion, Lost};
use crate::vfs::sending::{Announced, NameTurn};
use crate::vfs::{Error, Result, State, Vfs, attr, commit};

/// Files of a rename that travel at once.
const AT_ONCE: usize = 8;

/// A version that has to be sent under another name.
#[derive(Clone, Debug)]
pub(super) struct Leg {
    pub(super) ino: Ino,
    pub(super) old: Arc<api::File>,
    /// The new path below the container.
    pub(super) to: String,
}

/// What is renamed.
pub(super) struct Journey {
    pub(super) container: ContainerId,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) legs: Vec<Leg>,
    /// Versions that stand where the renamed file goes.
    pub(super) replaces: Vec<FileId>,
    /// What an earlier mount has begun of it.
    pub(super) begun: Option<Begun>,
}

/// A rename that an earlier mount has begun.
pub(super) struct Begun {
    pub(super) noted: Noted,
    pub(super) rename: Rename,
    /// What it has sent, by the version under the old name.
    pub(super) sent: HashMap<FileId, Arc<api::File>>,
}

impl Begun {
    pub(super) fn sent_ids(&self) -> HashSet<FileId> {
        self.sent.values().map(|file| file.id.clone()).collect()
    }
}

/// A version that was sent under its new name.
struct Moved {
    ino: Ino,
    old: FileId,
    new: Arc<api::File>,
    len: u64,
    /// Lists don't show it yet.
    announced: Option<Announced>,
}

/// A rename whose versions have all arrived; the old ones are still there.
pub(super) struct Arrived {
    noted: Noted,
    rename: Rename,
    moved: Vec<Moved>,
    /// Nobody sends anything under the new names before the rename is done with or undone.
    _turns: Vec<NameTurn>,
}

impl Vfs {
    /// Sends every leg, or none.
    ///
    /// # Errors
    /// The first one's; what had been sent is deleted again.
    pub(super) async fn relocate(self: &Arc<Self>, journey: Journey) -> Result<Arrived> {
        let mut rename = self.rename_intent(&journey);
        let (noted, found) = match journey.begun {
            Some(begun) => {
                let newer: Vec<Move> = rename
                    .moves
                    .into_iter()
                    .filter(|step| begun.rename.moves.iter().all(|old| old.id != step.id))
                    .collect();
                rename = begun.rename;
                rename.moves.extend(newer);
                (begun.noted, begun.sent)
            }
            None => (self.journal.intend(&Intent::Rename(rename.clone()))?, HashMap::new()),
        };
        let mut names: Vec<&str> = journey.legs.iter().map(|leg| leg.to.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut turns = Vec::new();
        for name in names {
            turns.push(budget::free(self.names.take(&journey.container, name)).await);
        }
        let failed = AtomicBool::new(false);
        let outcomes: Vec<Result<Moved>> = futures_util::stream::iter(journey.legs.clone())
            .map(|leg| {
                let (failed, noted, container, found) = (&failed, &noted, &journey.container, &found);
                let replaces = journey.replaces.as_slice();
                async move {
                    if failed.load(Ordering::Acquire) {
                        return None;
                    }
                    let is_another = self.state().renamed_behind.is_another(container, &leg.old.id);
                    let moved = match found.get(&leg.old.id).filter(|_| !is_another) {
                        Some(file) => Ok(Moved::of(&leg, file.clone(), file.bytes.unwrap_or(0))),
                        None => self.send_copy(container, &leg, replaces, noted).await,
                    };
                    failed.fetch_or(moved.is_err(), Ordering::AcqRel);
                    Some(moved)
                }
            })
            // What has set out arrives, or it would not be known what there is to undo.
            .buffer_unordered(AT_ONCE)
            .filter_map(|outcome| async { outcome })
            .collect()
            .await;
        let (mut moved, mut outcome) = (Vec::new(), Ok(()));
        for leg in outcomes {
            match leg {
                Ok(leg) => moved.push(leg),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        (rename.posted, rename.posted_at) = (true, attr::now());
        for step in &mut rename.moves {
            let arrived = moved.iter().find(|moved| moved.old == step.id);
            step.new = arrived.map(|moved| moved.new.id.clone());
        }
        let noted_down = outcome.and_then(|()| Ok(noted.write(&Intent::Rename(rename.clone()))?));
        let arrived = Arrived { noted, rename, moved, _turns: turns };
        if let Err(error) = noted_down {
            self.undo(arrived).await;
            return Err(error);
        }
        Ok(arrived)
    }

    /// Deletes what a rename has sent, and strikes it out.
    pub(super) async fn undo(&self, arrived: Arrived) {
        let sent = arrived.moved.iter().map(|moved| &moved.new.id).collect();
        self.delete_sent(&arrived.rename, sent, |state| arrived.have_landed(state)).await;
        arrived.noted.done();
    }

    /// Deletes versions that a rename has sent, unless that would leave nothing under the name: a server that keeps ids
    /// has given them those of what they replaced.
    /// `first` is done when it is clear that they go, and no list comes before they are buried.
    pub(super) async fn delete_sent(
        &self,
        rename: &Rename,
        mut sent: Vec<&FileId>,
        first: impl FnOnce(&mut State),
    ) {
        let all = sent.len();
        sent.retain(|id| !rename.replaces.contains(id));
        if sent.len() < all {
            self.state().is_out_of_date(&rename.container);
        }
        // Where nobody says, they stay.
        let have_taken_a_place = self.have_taken_their_place(&rename.container, &rename.replaces);
        if sent.is_empty() || have_taken_a_place.await.unwrap_or(true) {
            return;
        }
        {
            let mut state = self.state();
            first(&mut state);
            for id in &sent {
                state.bury(&rename.container, id);
                if state.is_shown_no_more(&rename.container, id) {
                    // With the directory that it lay in.
                    state.is_out_of_date(&rename.container);
                }
            }
        }
        for id in sent {
            self.delete_version(&rename.container, id).await;
        }
    }

    fn rename_intent(&self, journey: &Journey) -> Rename {
        let state = self.state();
        let step = |leg: &Leg| Move {
            id: leg.old.id.clone(),
            to: leg.to.clone(),
            attributes: state.tree.file(leg.ino).map(|file| file.attributes).unwrap_or_default(),
            new: None,
        };
        Rename {
            container: journey.container.clone(),
            from: journey.from.clone(),
            to: journey.to.clone(),
            moves: journey.legs.iter().map(step).collect(),
            replaces: journey.replaces.clone(),
            posted: false,
            posted_at: 0,
        }
    }

    /// Sends the bytes of a version again, under a new name, after a durable note of it.
    async fn send_copy(
        self: &Arc<Self>,
        container: &ContainerId,
        leg: &Leg,
        replaces: &[FileId],
        noted: &Noted,
    ) -> Result<Moved> {
        let staging = noted.stage()?;
        let sent = async {
            let body = self.downloads.fetch(container, &leg.old);
            let len = budget::free_if_ok(body.copy_to(&*staging.file()?)).await?;
            for found in self.find_lost(container, &leg.to).await? {
                self.is_nobodys(found).await?;
            }
            let (new, announced) = self.post_copy(container, leg, (&staging, len), replaces, noted).await?;
            let new = Arc::new(commit::as_uploaded(new, len));
            self.take_over(&new.id, leg.ino);
            let mut state = self.state();
            state.not_lost(container, &leg.to, &new.id);
            drop(state);
            if let Err(error) = self.downloads.cache().adopt_copy(&Key::new(container, &new), &staging.data())
            {
                tracing::warn!(%error, "an upload was not kept in the cache");
            }
            Ok(Moved { announced, ..Moved::of(leg, new, len) })
        }
        .await;
        staging.discard();
        sent.map_err(|error: Error| self.noticed(container, error))
    }

    /// What the POST of a copy has made. One that is in doubt is looked for, and sent once more if it is not there.
    async fn post_copy(
        self: &Arc<Self>,
        container: &ContainerId,
        leg: &Leg,
        (staging, len): (&Staging, u64),
        replaces: &[FileId],
        noted: &Noted,
    ) -> Result<(api::File, Option<Announced>)> {
        let filename = self.filename(container, &leg.to).await?;
        let mut is_first_post = true;
        loop {
            let known = {
                let state = self.state();
                let ino = state.tree.containers.get(container).copied();
                let versions = ino.map(|ino| state.versions_of(ino, &leg.to));
                versions.into_iter().flatten().chain(replaces.iter().cloned()).collect()
            };
            let lost = Lost::new(container, &leg.to, len, staging.sha256()?, known, attr::now());
            let (note, mut copied) = lost.copied(&leg.old.id, noted);
            let (write, copy) = (note.clone(), copied.clone());
            let written = tokio::task::spawn_blocking(move || write.write(&copy, true)).await;
            written.map_err(|error| Error::told(libc::EIO, error.to_string()))??;
            let announced = self.announce(container, &leg.to, len, &lost.known);
            let body = UploadBody::File { path: staging.data(), len };
            steps::step();
            let sent = self.upload_to_stay(container, &filename, body, &announced).await;
            let (sent, is_lost) = announced.outcome(sent, |id| *id == leg.old.id || replaces.contains(id));
            let error = match sent {
                Ok(new) => {
                    copied.made = Some(new.id.clone());
                    if let Err(error) = note.write(&copied, false) {
                        tracing::warn!(%error, "what an upload has made is looked for again after a crash");
                    }
                    return Ok((new, Some(announced)));
                }
                Err(error) if !is_lost => return Err(error),
                Err(error) => error,
            };
            // From now on what a list shows of it is withheld, and can be found, by nobody but this rename.
            let destination = (container.clone(), leg.to.clone());
            let is_first = self.state().resuming.insert(destination.clone());
            self.note_lost(lost);
            drop(announced);
            let again = is_first_post && self.wait_to_repeat(&error).await;
            let made = if error.is_in_doubt() {
                self.found_in_time(container, &note, copied).await
            } else {
                Ok(self.has_replaced(container, replaces, &note, &copied).await)
            };
            if is_first {
                self.state().resuming.remove(&destination);
            }
            match made {
                Ok(Some(made)) => {
                    self.state().is_shown_no_more(container, &made.id);
                    return Ok(((*made).clone(), None));
                }
                Ok(None) if again => {}
                Ok(None) | Err(_) => {
                    let (vfs, container, path) = (self.clone(), container.clone(), leg.to.clone());
                    let replaces = replaces.to_vec();
                    self.behind
                        .spawn(async move { vfs.look_for_another(&container, &path, &replaces).await });
                    return Err(error);
                }
            }
            self.client.count_repetition();
            is_first_post = false;
        }
    }

    /// What a POST that is in doubt has made, by a list that is waited for no longer than the call has time.
    async fn found_in_time(
        self: &Arc<Self>,
        container: &ContainerId,
        note: &CopyNote,
        copied: Copied,
    ) -> Result<Option<Arc<api::File>>> {
        let look = self.find_lost(container, &copied.sent.path);
        let late =
            || Error::told(libc::ETIMEDOUT, "the list that was to tell what a POST has made did not come");
        let found = budget::in_time(self.client.timeout(), look).await.ok_or_else(late)??;
        self.settle_found(found, note, copied).await
    }

    /// What an earlier try of a rename has left goes.
    ///
    /// # Errors
    /// The server's: it is not known whether it is all that there is under the name.
    pub(super) async fn is_nobodys(&self, mut found: FoundVersion) -> Result<()> {
        let has_taken_a_place = self.has_taken_a_place(&found.lost).await?;
        {
            let mut state = self.state();
            if has_taken_a_place {
                state.is_a_strangers(&found.lost, &found.file.id);
                return Ok(());
            }
            if !state.found(&mut found) {
                return Ok(());
            }
            state.bury(&found.lost.container, &found.file.id);
            found.ino.iter().for_each(|ino| state.tree.unlink(*ino));
        }
        self.delete_version(&found.lost.container, &found.file.id).await;
        found.strike_out();
        Ok(())
    }

    /// Whether the server has put something in the place of versions that stood under a name: there are some, and all
    /// of them are gone.
    ///
    /// # Errors
    /// The server's: it is not known.
    pub(super) async fn have_taken_their_place(
        &self,
        container: &ContainerId,
        replaced: &[FileId],
    ) -> Result<bool> {
        for id in replaced {
            match self.client.retrieve_file(container, id).await.map_err(Error::from) {
                Ok(_) => return Ok(false),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(!replaced.is_empty())
    }

    /// What a POST without an answer has made, if the server has put it in the place of what stood there: undone, the
    /// rename would leave nothing under the name.
    async fn has_replaced(
        self: &Arc<Self>,
        container: &ContainerId,
        replaces: &[FileId],
        note: &CopyNote,
        copied: &Copied,
    ) -> Option<Arc<api::File>> {
        if !self.have_taken_their_place(container, replaces).await.ok()? {
            return None;
        }
        self.found_again(container, note, copied.clone()).await.ok()?
    }

    /// Deletes what a rename has left behind, and strikes it out. `noted` tells whether the notes of what has gone along,
    /// or made way, say so: the rename has happened in any case.
    pub(super) async fn finish(&self, arrived: Arrived, gone: Vec<FileId>, noted: Result<()>) {
        let noted = noted.and_then(|()| {
            // What gets the old path from now on has not been renamed, and what gets the new one is newer.
            let left = Intent::Delete { container: arrived.rename.container.clone(), ids: gone.clone() };
            Ok(arrived.noted.write(&left)?)
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "a rename that is done still stands in the journal");
        }
        self.delete_noted(arrived.rename.container, gone, arrived.noted).await;
    }
}

impl Arrived {
    /// What was sent is like any other version from now on.
    fn have_landed(&self, state: &mut State) {
        let announced = self.moved.iter().filter_map(|moved| moved.announced.as_ref());
        announced.for_each(|announced| announced.has_landed(state));
    }

    pub(super) fn sent_ids(&self) -> HashSet<FileId> {
        self.moved.iter().map(|moved| moved.new.id.clone()).collect()
    }
}

impl Moved {
    fn of(leg: &Leg, new: Arc<api::File>, len: u64) -> Self {
        Self { ino: leg.ino, old: leg.old.id.clone(), new, len, announced: None }
    }
}

impl State {
    /// Takes what shows a version out of the tree. Returns whether anything did.
    fn is_shown_no_more(&mut self, container: &ContainerId, id: &FileId) -> bool {
        let container = self.tree.containers.get(container).and_then(|ino| self.tree.container(*ino));
        let shown = container.and_then(|container| container.files.get(id)).copied();
        shown.into_iter().for_each(|ino| self.tree.unlink(ino));
        shown.is_some()
    }

    /// The versions of a rename stand for their files from now on. Called when these have their new names.
    /// Returns the versions that nobody wants any more, those in `replaced` among them: a list that comes now
    /// shows none of them.
    pub(super) fn arrived(&mut self, arrived: &mut Arrived, replaced: Vec<FileId>) -> Vec<FileId> {
        arrived.have_landed(self);
        let mut unwanted = replaced;
        unwanted.extend(arrived.rename.moves.iter().map(|step| step.id.clone()));
        arrived.moved.retain(|moved| {
            let node = self.tree.get(moved.ino).filter(|node| node.linked);
            let still_there = node.and_then(|node| node.file()?.id()) == Some(&moved.old);
            if !still_there {
                // Removed while it travelled.
                unwanted.push(moved.new.id.clone());
                return false;
            }
            self.landed(moved.ino, &moved.new, moved.len);
            if let Some(writer) = self.writers.get(&moved.ino) {
                writer.inner().base = Some(moved.new.clone());
            }
            true
        });
        unwanted.retain(|id| arrived.moved.iter().all(|moved| moved.new.id != *id));
        unwanted.iter().for_each(|id| self.bury(&arrived.rename.container, id));
        unwanted
    }
}
