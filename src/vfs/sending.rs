//! POSTs under way: what a list already shows of them belongs to a file that is shown anyway.

use std::collections::HashSet;
use std::sync::Arc;

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
        let post = Post { container: container.clone(), path: path.to_owned(), len, known: known.clone() };
        let mut state = self.state();
        let number = state.sending.next;
        state.sending.next += 1;
        state.sending.posts.insert(number, post);
        Announced { vfs: self.clone(), number }
    }
}

impl State {
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
