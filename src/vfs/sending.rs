//! POSTs under way: what a list already shows of them belongs to a file that is shown anyway.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::api::{self, ContainerId, FileId};
use crate::namespace::names;
use crate::vfs::{State, Vfs};

/// A POST under way.
#[derive(Debug)]
struct Post {
    container: ContainerId,
    /// The path below the container.
    path: String,
    len: u64,
    /// Ids that the path had before.
    known: HashSet<FileId>,
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

/// The POSTs of a mount that are under way.
#[derive(Debug, Default)]
pub(super) struct Sending {
    next: u64,
    posts: std::collections::HashMap<u64, Post>,
}

/// A POST is under way for as long as this value lives.
pub(super) struct Announced {
    vfs: Arc<Vfs>,
    number: u64,
    sent: Arc<AtomicU64>,
}

impl Announced {
    /// Where the client counts the bytes that go out.
    pub(super) fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.vfs.state().sending.posts.remove(&self.number);
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
        let post = Post {
            container: container.clone(),
            path: path.to_owned(),
            len,
            known: known.clone(),
            begun: Instant::now(),
            sent: sent.clone(),
        };
        let mut state = self.state();
        let number = state.sending.next;
        state.sending.next += 1;
        state.sending.posts.insert(number, post);
        Announced { vfs: self.clone(), number, sent }
    }
}

impl State {
    /// The uploads under way, the oldest first.
    pub(super) fn under_way(&self) -> Vec<UnderWay> {
        let mut posts: Vec<&Post> = self.sending.posts.values().collect();
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
        let of_container = self.sending.posts.values().filter(|post| post.container == *container);
        let mut candidates = of_container.filter(|post| {
            file.source == "user"
                && file.bytes.is_none_or(|bytes| bytes == post.len)
                && !post.known.contains(&file.id)
        });
        candidates.any(|post| names::shown_path(file).join("/") == post.path)
    }
}
