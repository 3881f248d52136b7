//! POSTs under way: what a list already shows of them belongs to a file that is shown anyway, and what a reply
//! says is looked at before it is believed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::OwnedMutexGuard;

use crate::api::{self, ContainerId, FileId};
use crate::namespace::inode::Ino;
use crate::namespace::names;
use crate::vfs::{Error, Result, State, Vfs};

/// A POST under way.
#[derive(Debug)]
struct Post {
    container: ContainerId,
    /// The path below the container.
    path: String,
    len: u64,
    /// Ids that the path had before.
    known: HashSet<FileId>,
    /// The id in the reply.
    answered: Option<FileId>,
    /// Inodes that there were before have smaller numbers.
    before: Ino,
    begun: Instant,
    /// Bytes that have gone out.
    sent: Arc<AtomicU64>,
}

/// An upload under way, for `status`.
#[derive(Clone, Debug, Serialize)]
pub struct UnderWay {
    /// The path below the mountpoint.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// How many of them have gone out.
    pub sent: u64,
    /// For how long.
    pub seconds: u64,
}

/// The POSTs of a mount that are under way. They have a lock of their own, the innermost: whoever drops an
/// [`Announced`] may hold that of the state.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending(Arc<Mutex<Posts>>);

#[derive(Debug, Default)]
struct Posts {
    next: u64,
    under_way: HashMap<u64, Post>,
}

impl Sending {
    fn lock(&self) -> MutexGuard<'_, Posts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// POSTs under one name follow each other, whatever files they are of: on a server that replaces by name the later
/// one takes the place of the earlier.
#[derive(Debug, Default)]
pub(super) struct NameTurns(Mutex<HashMap<(ContainerId, String), Turn>>);

type Turn = Weak<tokio::sync::Mutex<()>>;

/// The name is somebody's for as long as this value lives.
pub(super) type NameTurn = OwnedMutexGuard<()>;

impl NameTurns {
    /// Waits for a name. Who takes several takes them in order.
    pub(super) async fn take(&self, container: &ContainerId, path: &str) -> NameTurn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() == turns.capacity() {
                turns.retain(|_, turn| turn.strong_count() > 0);
            }
            let turn = turns.entry((container.clone(), path.to_owned())).or_default();
            turn.upgrade().unwrap_or_else(|| {
                let new = Arc::default();
                *turn = Arc::downgrade(&new);
                new
            })
        };
        turn.lock_owned().await
    }
}

/// A POST is under way for as long as this value lives.
pub(super) struct Announced {
    vfs: Arc<Vfs>,
    sending: Sending,
    number: u64,
    sent: Arc<AtomicU64>,
}

impl Announced {
    /// Where the client counts the bytes that go out.
    pub(super) fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }

    /// The reply has this id, which may have been that of another version until now. Said under the lock under
    /// which that one loses it.
    pub(super) fn answered(&self, state: &mut State, id: &FileId) {
        if let Some(post) = self.sending.lock().under_way.get_mut(&self.number) {
            post.answered = Some(id.clone());
            state.renamed_behind.is_answered(&post.container, id);
        }
    }

    /// What the POST has made stands for its file from now on: said under the lock under which it does.
    pub(super) fn has_landed(&self, _: &mut State) {
        self.sending.lock().under_way.remove(&self.number);
    }

    /// What became of the POST, which replaces versions that `replaces` knows, and whether it may have
    /// happened without an answer.
    pub(super) fn outcome(
        &self,
        reply: api::error::Result<api::File>,
        replaces: impl Fn(&FileId) -> bool,
    ) -> (Result<api::File>, bool) {
        match reply {
            Ok(file) => match self.check(&file.id, replaces) {
                Ok(()) => (Ok(file), false),
                Err(error) => (Err(error), true),
            },
            Err(error) => {
                let may_have_happened = error.may_have_happened;
                (Err(error.into()), may_have_happened)
            }
        }
    }

    /// Looks whether the reply names a file that was there before, under another name: whatever has become of
    /// the bytes, what is done to their name from now on is not to be done to that file.
    fn check(&self, id: &FileId, replaces: impl Fn(&FileId) -> bool) -> Result<()> {
        let state = self.vfs.state();
        let posts = self.sending.lock();
        let Some(post) = posts.under_way.get(&self.number) else { return Ok(()) };
        if post.known.contains(id) || replaces(id) {
            return Ok(());
        }
        let container = state.tree.containers.get(&post.container);
        let container = container.and_then(|ino| state.tree.container(*ino));
        let other = container.and_then(|container| container.files.get(id)).copied();
        let Some(other) = other.filter(|other| *other < post.before) else { return Ok(()) };
        let other = state.tree.path(other);
        if other == post.path {
            return Ok(());
        }
        let told = format!("the server answered the upload of {:?} with the id of {other:?}", post.path);
        Err(Error::told(libc::EPROTO, told))
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.sending.lock().under_way.remove(&self.number);
    }
}

impl Vfs {
    /// A POST of `len` bytes under the name `path` begins.
    pub(super) fn announce(
        self: &Arc<Self>,
        container: &ContainerId,
        path: &str,
        len: u64,
        known: &HashSet<FileId>,
    ) -> Announced {
        let sent = Arc::new(AtomicU64::new(0));
        let state = self.state();
        let post = Post {
            container: container.clone(),
            path: path.to_owned(),
            len,
            known: known.clone(),
            answered: None,
            before: state.tree.next(),
            begun: Instant::now(),
            sent: sent.clone(),
        };
        let sending = state.sending.clone();
        let mut posts = sending.lock();
        let number = posts.next;
        posts.next += 1;
        posts.under_way.insert(number, post);
        drop(posts);
        Announced { vfs: self.clone(), sending, number, sent }
    }
}

impl State {
    /// Whether a version is one that a file is shown by.
    pub(super) fn shows(&self, container: &ContainerId, id: &FileId) -> bool {
        let container = self.tree.containers.get(container).and_then(|ino| self.tree.container(*ino));
        container.is_some_and(|container| container.files.contains_key(id))
    }

    /// Whether a POST under way has been answered with this id: whatever it stood for before, it is the new file's.
    pub(super) fn is_answer(&self, container: &ContainerId, id: &FileId) -> bool {
        let posts = self.sending.lock();
        let mut of_container = posts.under_way.values().filter(|post| post.container == *container);
        of_container.any(|post| post.answered.as_ref() == Some(id))
    }

    /// The uploads under way, the oldest first.
    pub(super) fn under_way(&self) -> Vec<UnderWay> {
        let known = self.sending.lock();
        let mut posts: Vec<&Post> = known.under_way.values().collect();
        posts.sort_by_key(|post| post.begun);
        let told = |post: &Post| UnderWay {
            name: self.shown_in(&post.container, &post.path),
            bytes: post.len,
            // The form around the file is counted too.
            sent: post.sent.load(Ordering::Relaxed).min(post.len),
            seconds: post.begun.elapsed().as_secs(),
        };
        posts.into_iter().map(told).collect()
    }

    /// Whether a listed file is what a POST under way has made: nobody is shown it twice.
    pub(super) fn is_arriving(&self, container: &ContainerId, file: &api::File) -> bool {
        let is_reply =
            |post: &Post| post.answered.as_ref() == Some(&file.id) && !self.shows(container, &file.id);
        let is_unanswered = |post: &Post| {
            file.source == "user"
                && file.bytes.is_none_or(|bytes| bytes == post.len)
                && !post.known.contains(&file.id)
                && names::shown_path(file).join("/") == post.path
        };
        let posts = self.sending.lock();
        let mut of_container = posts.under_way.values().filter(|post| post.container == *container);
        of_container.any(|post| is_reply(post) || is_unanswered(post))
    }
}
