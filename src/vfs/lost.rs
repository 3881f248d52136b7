//! POSTs whose answer was lost. There is no idempotency key (API.md "Wire"), so the list is asked before the
//! same bytes are sent again; what is found later is a version that the newer save replaces. Each is written
//! down by itself, and known to later mounts until its outcome is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::api::{self, ContainerId, FileId};
use crate::content::Body;
use crate::journal::copied::CopyNote;
use crate::journal::stage::Sent;
use crate::journal::{Copied, Intent, Noted};
use crate::namespace::inode::Ino;
use crate::namespace::names;
use crate::vfs::{Error, Result, State, Vfs, attr};

/// Bytes that are read at once when contents are compared.
const PIECE: usize = 256 << 10;

/// What a POST makes is made within this time, in seconds, or never. Proxies and servers end a request after
/// minutes; the rest is for clocks that differ. What is younger is somebody else's, and a list that was asked
/// for later tells the outcome.
pub(super) const MADE_WITHIN: i64 = 3600;

/// POSTs of the same bytes under the same name that may have happened.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub(super) container: ContainerId,
    /// The path below the container.
    pub(super) path: String,
    pub(super) len: u64,
    pub(super) sha256: String,
    /// Ids that the path had before, or that are known to come from elsewhere.
    pub(super) known: HashSet<FileId>,
    /// One for each time that they were sent in vain: each may have made a version.
    posts: Vec<Post>,
}

#[derive(Clone, Debug)]
struct Post {
    /// When it was sent, in nanoseconds since the epoch.
    at: i64,
    /// Says so after a crash, and to the next mount, whatever becomes of the bytes.
    noted: Option<Arc<Noted>>,
}

impl Post {
    /// When what it makes is made at the latest, in seconds since the epoch.
    fn until(&self) -> i64 {
        (self.at / NANOS).saturating_add(MADE_WITHIN)
    }

    fn strike_out(&self) {
        if let Some(noted) = &self.noted {
            noted.done();
        }
    }
}

pub(super) const NANOS: i64 = 1_000_000_000;

/// When that was, in seconds since the epoch.
pub(super) fn seconds_at(then: Instant) -> i64 {
    attr::now() / NANOS - i64::try_from(then.elapsed().as_secs()).unwrap_or(i64::MAX)
}

/// A version that a lost POST has made.
pub(super) struct FoundVersion {
    /// What shows it, if anything does.
    pub(super) ino: Option<Ino>,
    pub(super) file: Arc<api::File>,
    pub(super) lost: Lost,
    /// The POST that counts as its own, once it is found.
    post: Option<Post>,
}

impl FoundVersion {
    /// Another note says what is to become of it, or it is gone.
    pub(super) fn strike_out(&self) {
        self.post.iter().for_each(Post::strike_out);
    }
}

impl Vfs {
    /// Versions of `path` that lost POSTs have made, by a list fetched for it. Asks nothing if no POST was
    /// lost. No list shows them before the caller says what becomes of each, under the lock under which it takes
    /// them as found; then it strikes them out.
    ///
    /// # Errors
    /// The server's: as long as it is not known what is there, nothing may be sent again.
    pub(super) async fn find_lost(
        self: &Arc<Self>,
        container: &ContainerId,
        path: &str,
    ) -> Result<Vec<FoundVersion>> {
        let lost: Vec<Lost> =
            self.state().lost_posts(container).filter(|lost| lost.path == path).cloned().collect();
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        self.ensure_listed_since(container, Instant::now()).await?;
        let mut found: Vec<FoundVersion> = Vec::new();
        for mut lost in lost {
            for _ in 0..lost.posts.len() {
                lost.known.extend(found.iter().map(|other| other.file.id.clone()));
                let Some(version) = self.version_of(lost.clone()).await? else { break };
                found.push(version);
            }
        }
        Ok(found)
    }

    /// Deletes what lost POSTs have made and newer saves have replaced; called behind a fresh list. What has
    /// not been saved since waits, unseen, for the next try to find it. The list was asked for at `asked`:
    /// what it should show by then and doesn't has never been made.
    pub(super) async fn sweep_lost(self: Arc<Self>, container: ContainerId, asked: Instant) {
        if self.config.no_delete {
            // A mount that may delete does.
            return;
        }
        let asked = seconds_at(asked);
        let lost: Vec<Lost> = self.state().lost_posts(&container).cloned().collect();
        for lost in lost {
            let mut found = match self.version_of(lost.clone()).await {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.state().never_made(&lost, asked);
                    continue;
                }
                Err(_) => continue,
            };
            let Ok(has_taken_a_place) = self.has_taken_a_place(&found.lost).await else { continue };
            let unwanted = {
                let mut guard = self.state();
                let state = &mut *guard;
                if state.is_unsent(&container, &found.lost.path) {
                    continue;
                }
                if has_taken_a_place {
                    state.is_a_strangers(&found.lost, &found.file.id);
                    continue;
                }
                if !state.found(&mut found) {
                    continue;
                }
                state.bury(&container, &found.file.id);
                found.ino.iter().for_each(|ino| state.tree.unlink(*ino));
                state.is_to_go(&container, vec![found.file.id.clone()], None)
            };
            match self.intend_deletion(&unwanted) {
                Ok(()) => {
                    found.strike_out();
                    self.delete(unwanted).await;
                }
                Err(_) => {
                    self.delete(unwanted).await;
                    found.strike_out();
                }
            }
        }
    }

    /// Whether the server has put what lost POSTs have made in the place of what stood there: deleted, it would leave
    /// nothing under the name.
    ///
    /// # Errors
    /// The server's: as long as it is not known, nothing may go.
    pub(super) async fn has_taken_a_place(&self, lost: &Lost) -> Result<bool> {
        let stood: Vec<FileId> = self.state().stood(lost).cloned().collect();
        self.have_taken_their_place(&lost.container, &stood).await
    }

    /// What lost POSTs have put in the place of all that stood there is what there is: it is shown, unless its file is
    /// anyway. Asks for the ids that `listed` misses, as a list may lag.
    pub(super) async fn find_taken_places(&self, container: &ContainerId, listed: &[api::File]) {
        let candidates: Vec<(FileId, Vec<Lost>)> = {
            let state = self.state();
            if state.lost_posts(container).next().is_none() {
                return;
            }
            let replaced = state.to_be_replaced();
            let is_missing = |id: &FileId| listed.iter().all(|file| file.id != *id);
            let may_have_taken = |lost: &&Lost| {
                !state.is_unsent(container, &lost.path)
                    && state.stood(lost).next().is_some()
                    && state.stood(lost).all(is_missing)
            };
            let made_by = |file: &api::File| -> Vec<&Lost> {
                state
                    .lost_posts(container)
                    .filter(|lost| state.may_have_made(lost, file, &replaced))
                    .collect()
            };
            let candidates = listed.iter().map(|file| (file, made_by(file)));
            let candidates =
                candidates.filter(|(_, lost)| !lost.is_empty() && lost.iter().all(may_have_taken));
            candidates.map(|(file, lost)| (file.id.clone(), lost.into_iter().cloned().collect())).collect()
        };
        for (id, lost) in candidates {
            let mut has_taken_a_place = true;
            for lost in &lost {
                has_taken_a_place &= self.has_taken_a_place(lost).await.unwrap_or(false);
            }
            let mut state = self.state();
            for lost in lost.iter().filter(|_| has_taken_a_place) {
                if !state.is_unsent(container, &lost.path) {
                    state.not_lost(container, &lost.path, &id);
                }
            }
        }
    }

    /// The version that a lost POST has made, if a list has shown it: same path, same length, same bytes, and
    /// an id that was not known before.
    pub(super) async fn version_of(self: &Arc<Self>, lost: Lost) -> Result<Option<FoundVersion>> {
        let candidates: Vec<(Option<Ino>, Arc<api::File>)> = {
            let state = self.state();
            let Some(&container) = state.tree.containers.get(&lost.container) else { return Ok(None) };
            let of_container = state.tree.files().filter(|(_, file)| file.container == container);
            let shown = of_container.filter_map(|(ino, file)| Some((Some(ino), file.server.clone()?)));
            let withheld = state.withheld.get(&lost.container).into_iter().flatten();
            let versions = shown.chain(withheld.map(|file| (None, file.clone())));
            let replaced = state.to_be_replaced();
            versions.filter(|(_, file)| state.may_have_made(&lost, file, &replaced)).collect()
        };
        for (ino, file) in candidates {
            let body = self.downloads.fetch(&lost.container, &file);
            let sha256 = match sha256_of(&body).await {
                // An earlier list told of it.
                Err(error) if error.is_gone() && !error.is_container_gone() => {
                    self.state().is_withheld_no_more(&lost.container, &file.id);
                    continue;
                }
                told => told?,
            };
            if sha256 == lost.sha256 {
                return Ok(Some(FoundVersion { ino, file, lost, post: None }));
            }
            if ino.is_none() {
                self.state().is_a_strangers(&lost, &file.id);
            }
        }
        Ok(None)
    }
}

impl Lost {
    /// A POST that was sent `at`, in nanoseconds since the epoch.
    pub(super) fn new(
        container: &ContainerId,
        path: &str,
        len: u64,
        sha256: String,
        known: HashSet<FileId>,
        at: i64,
    ) -> Self {
        let posts = vec![Post { at, noted: None }];
        Self { container: container.clone(), path: path.to_owned(), len, sha256, known, posts }
    }

    /// What an intent of an earlier mount says; `None` if it says too little.
    pub(super) fn of_intent(container: &ContainerId, sent: Sent, noted: Noted) -> Option<Self> {
        let mut lost = Self::of_sent(container, sent, attr::now(), || None)?;
        lost.posts[0].noted = Some(Arc::new(noted));
        Some(lost)
    }

    /// What a note from `noted_at` says beside bytes, whose SHA-256 `beside` tells; `None` if it says too
    /// little.
    pub(super) fn of_sent(
        container: &ContainerId,
        sent: Sent,
        noted_at: i64,
        beside: impl FnOnce() -> Option<String>,
    ) -> Option<Self> {
        let sha256 = sent.sha256.or_else(beside)?;
        // Clocks are set back, and notes are written by others.
        let at = sent.at.unwrap_or(noted_at).min(attr::now());
        Some(Self::new(container, &sent.path, sent.len, sha256, sent.known.into_iter().collect(), at))
    }

    /// The note of a POST that belongs to a rename of the version `id`, before it is known whether it is lost.
    pub(super) fn copied(&self, id: &FileId, rename: &Noted) -> (CopyNote, Copied) {
        let post = &self.posts[0];
        let copied = Copied { id: id.clone(), sent: self.to_sent(post), made: None };
        (rename.copy_note(post.at), copied)
    }

    /// Nothing has to be done about it any more.
    pub(super) fn strike_out(&self) {
        self.posts.iter().for_each(Post::strike_out);
    }

    fn is_same(&self, other: &Self) -> bool {
        self.sha256 == other.sha256 && other.is_of(&self.container, &self.path)
    }

    fn intent(&self, post: &Post) -> Intent {
        Intent::Forget { container: self.container.clone(), sent: self.to_sent(post) }
    }

    /// Writes down of each what is known of it.
    fn note(&self) {
        for post in &self.posts {
            if let Some(Err(error)) = post.noted.as_ref().map(|noted| noted.write(&self.intent(post))) {
                tracing::warn!(%error, "a lost answer was not written down");
            }
        }
    }

    pub(super) fn is_of(&self, container: &ContainerId, path: &str) -> bool {
        self.container == *container && self.path == path
    }

    fn may_be(&self, file: &api::File) -> bool {
        !self.known.contains(&file.id)
            && file.source == "user"
            && file.bytes.is_none_or(|bytes| bytes == self.len)
            && self.posts.iter().any(|post| file.created_at <= post.until())
            && names::shown_path(file).join("/") == self.path
    }

    /// What the journal keeps of it, of each POST.
    pub(super) fn to_sents(&self) -> impl Iterator<Item = Sent> {
        self.posts.iter().map(|post| self.to_sent(post))
    }

    fn to_sent(&self, post: &Post) -> Sent {
        let mut known: Vec<FileId> = self.known.iter().cloned().collect();
        known.sort();
        Sent {
            path: self.path.clone(),
            len: self.len,
            sha256: Some(self.sha256.clone()),
            known,
            at: Some(post.at),
        }
    }
}

impl Vfs {
    /// Waits until a POST that is in doubt may be looked for and sent once more. False if it may not be sent, or not
    /// in time.
    pub(super) async fn wait_to_repeat(&self, error: &Error) -> bool {
        match error.api() {
            Some(error) => self.client.wait_to_repeat(error).await,
            None => false,
        }
    }

    /// The answer of a POST was lost. Written down by itself, because its bytes may be removed.
    pub(super) fn note_lost(&self, mut lost: Lost) {
        if self.state().knows_of(&lost) {
            return;
        }
        for at in 0..lost.posts.len() {
            let noted = self.journal.intend(&lost.intent(&lost.posts[at]));
            let noted =
                noted.inspect_err(|error| tracing::warn!(%error, "a lost answer was not written down"));
            lost.posts[at].noted = noted.ok().map(Arc::new);
        }
        self.state().add_lost(lost);
    }
}

impl State {
    /// Remembers a POST that may have happened. What one has not made another of the same bytes may have.
    pub(super) fn add_lost(&mut self, lost: Lost) {
        match self.lost.iter_mut().find(|other| other.is_same(&lost) && other.known == lost.known) {
            Some(other) => other.posts.extend(lost.posts),
            None => self.lost.push(lost),
        }
    }

    /// Whether these very POSTs are remembered. Takes in what else is known of them.
    fn knows_of(&mut self, lost: &Lost) -> bool {
        let are_its =
            |other: &Lost| lost.posts.iter().all(|post| other.posts.iter().any(|other| other.at == post.at));
        let Some(other) = self.lost.iter_mut().find(|other| other.is_same(lost) && are_its(other)) else {
            return false;
        };
        if !lost.known.is_subset(&other.known) {
            other.known.extend(lost.known.iter().cloned());
            other.note();
        }
        true
    }

    /// What a lost POST has made is known: it is lost no longer, but for the note that says so. False if somebody else
    /// has found it meanwhile, or it has turned out to be another upload's.
    pub(super) fn found(&mut self, version: &mut FoundVersion) -> bool {
        let FoundVersion { file, lost, .. } = version;
        let replaced = self.to_be_replaced();
        let still_lost = |other: &Lost| other.is_same(lost) && self.may_have_made(other, file, &replaced);
        let Some(at) = self.lost.iter().position(still_lost) else { return false };
        // Which of several it was is not known; the oldest is the first to be forgotten.
        let posts = &mut self.lost[at].posts;
        let oldest = (0..posts.len()).min_by_key(|post| posts[*post].at);
        version.post = oldest.map(|post| posts.swap_remove(post));
        self.lost.retain(|lost| !lost.posts.is_empty());
        // Nor has another POST made it.
        self.not_lost(&version.lost.container, &version.lost.path, &version.file.id);
        self.is_withheld_no_more(&version.lost.container, &version.file.id);
        true
    }

    /// Nothing has become of versions that were found.
    pub(super) fn lost_again(&mut self, found: &[FoundVersion]) {
        for version in found {
            let posts = version.post.iter().cloned().collect();
            self.add_lost(Lost { posts, ..version.lost.clone() });
        }
    }

    fn is_withheld_no_more(&mut self, container: &ContainerId, id: &FileId) {
        if let Some(withheld) = self.withheld.get_mut(container) {
            withheld.retain(|file| file.id != *id);
        }
    }

    /// A list that was asked for then, in seconds since the epoch, shows nothing of it.
    fn never_made(&mut self, lost: &Lost, asked: i64) {
        let container = self.tree.containers.get(&lost.container);
        if container.and_then(|ino| self.tree.container(*ino)).is_none_or(|container| container.has_unread) {
            return;
        }
        for lost in self.lost.iter_mut().filter(|other| other.is_same(lost)) {
            lost.posts.extract_if(.., |post| post.until() < asked).for_each(|post| post.strike_out());
        }
        self.lost.retain(|lost| !lost.posts.is_empty());
    }

    /// What stood under the path when POSTs were sent that are lost, but for what was deleted here since, and what goes
    /// once a save has arrived.
    fn stood<'a>(&'a self, lost: &'a Lost) -> impl Iterator<Item = &'a FileId> {
        let is_replaced = |id: &FileId| {
            self.writers.values().any(|writer| {
                let inner = writer.inner();
                let is_base = inner.base.as_ref().is_some_and(|base| base.id == *id);
                inner.is_dirty() && (is_base || inner.replaces.contains(id))
            })
        };
        let is_there = move |id: &&FileId| !self.records.is_buried(&lost.container, id) && !is_replaced(id);
        lost.known.iter().filter(is_there)
    }

    /// A version that was withheld is somebody else's after all: the next list shows it.
    pub(super) fn is_a_strangers(&mut self, lost: &Lost, id: &FileId) {
        for other in self.lost.iter_mut().filter(|other| other.is_same(lost)) {
            other.known.insert(id.clone());
        }
        self.is_out_of_date(&lost.container);
    }

    /// Takes out of a list what lost POSTs may have made: it belongs to files that are shown anyway.
    pub(super) fn withhold(
        &mut self,
        container: &ContainerId,
        files: &mut Vec<api::File>,
        replaced: &HashSet<FileId>,
    ) {
        let earlier = self.withheld.remove(container).unwrap_or_default();
        let may_be_ours = |file: &api::File| {
            self.lost_posts(container).any(|lost| self.may_have_made(lost, file, replaced))
        };
        let listed: HashSet<FileId> = files.iter().map(|file| file.id.clone()).collect();
        // Until a rename of an earlier mount is taken up it is all that there is, where a server replaces by name.
        let is_all_there_is = |file: &api::File| {
            let mut made_by =
                self.lost_posts(container).filter(|lost| self.may_have_made(lost, file, replaced));
            made_by.all(|lost| {
                self.is_to_be_resumed(container, &lost.path)
                    && !self.has_unsent_bytes_for(container, &lost.path)
                    && self.stood(lost).next().is_some()
                    && self.stood(lost).all(|id| !listed.contains(id))
            })
        };
        let is_withheld = |file: &mut api::File| may_be_ours(file) && !is_all_there_is(file);
        let mut withheld: Vec<_> = files.extract_if(.., is_withheld).map(Arc::new).collect();
        // What an earlier list told of, which knew of more than this one does.
        withheld.extend(earlier.into_iter().filter(|file| !listed.contains(&file.id) && may_be_ours(file)));
        self.withheld.insert(container.clone(), withheld);
    }

    /// Whether a version may be what a lost POST has made. Those in `replaced`, which saves will replace, are not: whose
    /// they are is known. Nor are those that were deleted here before it was sent.
    fn may_have_made(&self, lost: &Lost, file: &api::File, replaced: &HashSet<FileId>) -> bool {
        let was_there = || {
            let buried = self.records.buried_since(&lost.container, &file.id);
            buried.is_some_and(|since| lost.posts.iter().all(|post| since < post.at))
        };
        lost.may_be(file) && !replaced.contains(&file.id) && !was_there()
    }

    /// A version under this path was not made by any lost POST.
    pub(super) fn not_lost(&mut self, container: &ContainerId, path: &str, id: &FileId) {
        for lost in self.lost.iter_mut().filter(|lost| lost.is_of(container, path)) {
            lost.known.insert(id.clone());
            lost.note();
        }
    }

    pub(super) fn lost_posts<'a>(&'a self, container: &'a ContainerId) -> impl Iterator<Item = &'a Lost> {
        self.lost.iter().filter(move |lost| lost.container == *container)
    }

    /// Ids of the versions that a path of a container has.
    pub(super) fn versions_of(&self, container: Ino, path: &str) -> HashSet<FileId> {
        let of_container = self.tree.files().filter(|(_, file)| file.container == container);
        let servers = of_container.filter_map(|(_, file)| file.server.as_deref());
        servers.filter(|file| names::shown_path(file).join("/") == path).map(|file| file.id.clone()).collect()
    }

    /// Whether a path has bytes here that the server doesn't have, or is about to get them, maybe those that a lost
    /// POST has sent.
    fn is_unsent(&self, container: &ContainerId, path: &str) -> bool {
        self.is_to_be_resumed(container, path) || self.has_unsent_bytes_for(container, path)
    }

    fn is_to_be_resumed(&self, container: &ContainerId, path: &str) -> bool {
        self.resuming.contains(&(container.clone(), path.to_owned()))
    }

    fn has_unsent_bytes_for(&self, container: &ContainerId, path: &str) -> bool {
        let Some(&container) = self.tree.containers.get(container) else { return true };
        self.writers.iter().any(|(ino, writer)| {
            let inside = self.tree.file(*ino).is_some_and(|file| file.container == container);
            let inner = writer.inner();
            let placed = || inner.placing.as_ref().map(|place| self.tree.path_in(place.to, &place.name));
            inside
                && inner.is_dirty()
                && (self.tree.path(*ino) == path || placed().is_some_and(|placed| placed == path))
        })
    }
}

/// SHA-256 of a version on the server, in hex.
pub(super) async fn sha256_of(body: &Body) -> Result<String> {
    let mut digest = Sha256::new();
    let mut offset = 0;
    loop {
        let piece = body.read(offset, PIECE).await.map_err(Error::from)?;
        if piece.is_empty() {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&piece);
        offset += piece.len() as u64;
    }
}
