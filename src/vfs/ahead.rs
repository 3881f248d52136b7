//! Fetches the files that will probably be read next; [`crate::content::prefetch`] decides how many.

use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use lru::LruCache;
use serde::Serialize;

use crate::api::priority::{self, Urgency};
use crate::api::{self, ContainerId};
use crate::content::Key;
use crate::content::prefetch::{NEAR, SMALL};
use crate::namespace::inode::Ino;
use crate::vfs::{State, Vfs};

/// Files fetched ahead that nobody has read yet are remembered up to this number.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// What was fetched before it was read. What `fetched` has more than `read` was waste, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Files that were fetched ahead.
    pub fetched: u64,
    /// Those of them that were opened afterwards.
    pub read: u64,
}

/// The account of a mount.
#[derive(Debug)]
pub(super) struct LookedAhead {
    pub(super) usage: Usage,
    unread: LruCache<Ino, ()>,
}

impl LookedAhead {
    pub(super) fn new() -> Self {
        Self { usage: Usage::default(), unread: LruCache::new(REMEMBERED) }
    }

    fn fetched(&mut self, ino: Ino) {
        self.usage.fetched += 1;
        self.unread.put(ino, ());
    }

    /// It came to nothing, and may be tried again.
    fn missed(&mut self, ino: Ino) {
        self.unread.pop(&ino);
    }

    fn opened(&mut self, ino: Ino) {
        self.usage.read += u64::from(self.unread.pop(&ino).is_some());
    }
}

/// A small file that is not here.
struct Worth {
    container: ContainerId,
    file: Arc<api::File>,
    /// Bytes; those of the largest of its kind while they are not known.
    len: u64,
}

impl Vfs {
    /// A file was opened for reading: what comes after it may be wanted soon.
    pub(super) fn look_ahead(self: &Arc<Self>, state: &mut State, ino: Ino) {
        if !self.config.prefetch {
            return;
        }
        state.looked_ahead.opened(ino);
        let Some(node) = state.tree.get(ino) else { return };
        let (directory, name) = (node.parent, node.name.clone());
        let Some(children) = state.tree.get(directory).and_then(|node| node.children()) else { return };
        let after = |name: &str| children.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        let step = state.prefetch.last(directory.0).and_then(|last| {
            let last = state.tree.get(Ino(last))?.name.clone();
            after(&last).take(NEAR).position(|(_, next)| *next == ino).map(|place| place + 1)
        });
        if let Some(limited) = self.client.limited_at() {
            state.prefetch.pause(limited);
        }
        let leads = children.values().take(NEAR).any(|first| *first == ino);
        let Some(ahead) = state.prefetch.opened(directory.0, ino.0, step, leads, Instant::now()) else {
            return;
        };
        let front = state.tree.get(Ino(ahead.after)).filter(|node| node.linked && node.parent == directory);
        let front = front.map_or(name, |node| node.name.clone());
        let (mut room, mut looked) = (ahead.bytes, None);
        let (mut wanted, mut fetched) = (Vec::new(), Vec::new());
        for (count, (_, next)) in after(&front).take(ahead.files).enumerate() {
            if let Some(found) = self.worth_fetching(state, *next) {
                let Some(left) = room.checked_sub(found.len) else { break };
                room = left;
                fetched.push((next.0, count, found.len));
                wanted.push((*next, found));
            }
            looked = Some((next.0, count + 1));
        }
        if let Some((front, files)) = looked {
            state.prefetch.looked(directory.0, front, files, &fetched);
        }
        for (ino, worth) in wanted {
            if let Some(file) = state.tree.file_mut(ino) {
                file.trust.asked.get_or_insert_with(Instant::now);
            }
            state.looked_ahead.fetched(ino);
            self.fetch_ahead(directory, ino, worth);
        }
        self.renew_lists(state, directory);
    }

    /// `None` of what is large, here already, or has been fetched ahead once: what the cache has lost since
    /// it would lose again.
    fn worth_fetching(&self, state: &State, ino: Ino) -> Option<Worth> {
        let file = state.tree.file(ino)?;
        let server = file.server.clone()?;
        let len = file.size.map(|(size, _)| size).or(server.bytes);
        let container = state.tree.container(file.container)?.container.id.clone();
        let known = state.looked_ahead.unread.contains(&ino)
            || state.local_len(ino).is_some()
            || self.downloads.has(&Key::new(&container, &server));
        let len = len.unwrap_or(SMALL);
        (len <= SMALL && !known).then_some(Worth { container, file: server, len })
    }

    fn fetch_ahead(self: &Arc<Self>, directory: Ino, ino: Ino, worth: Worth) {
        let vfs = self.clone();
        tokio::spawn(priority::with(Urgency::Ahead, async move {
            let body = vfs.downloads.fetch(&worth.container, &worth.file);
            // Whoever waits for it learns what became of it. One that turns out large is let go.
            let total = body.total().await;
            if let Ok(len) = total {
                vfs.learnt_again(ino, (&worth.container, &worth.file), &body, len).await;
            }
            let fetched = match total {
                Ok(len) if len <= SMALL => body.whole().await.ok(),
                _ => None,
            };
            let mut state = vfs.state();
            state.prefetch.turned_out(directory.0, ino.0, fetched.unwrap_or(0));
            if fetched.is_none() {
                state.looked_ahead.missed(ino);
            }
        }));
    }
}
