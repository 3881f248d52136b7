//! What a list misses: it may lag behind an upload.

use std::sync::Arc;

use futures_util::StreamExt;

use crate::api::{ContainerId, File, FileId};
use crate::namespace::inode::Ino;
use crate::vfs::{Error, Invalidation, State, Vfs};

/// Files of earlier mounts that a list waits for, each asked for by its id. The rest wait for the next list.
const MOST: usize = 32;

/// So many of them at once.
const AT_ONCE: usize = 8;

impl Vfs {
    /// What `listed` misses of the uploads of earlier mounts.
    pub(super) async fn unlisted(&self, container: &ContainerId, listed: &[File]) -> Vec<File> {
        let unlisted = self.state().records.take_unlisted(container, listed, MOST);
        let asked = futures_util::stream::iter(unlisted).map(|(id, at)| async move {
            match self.client.retrieve_file(container, &id).await {
                Ok(file) => Some(file).filter(|file| file.id == id),
                Err(error) => {
                    if !Error::from(error).is_gone() {
                        self.state().records.put_back_unlisted(container, id, at);
                    }
                    None
                }
            }
        });
        asked.buffered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// Looks for versions that a list does not show. It hardly lags behind what is older than it may get here: whoever
    /// asked for the list waits until it is known of these, and is not shown what others have deleted.
    pub(super) async fn check_all_missing(
        self: &Arc<Self>,
        container: &ContainerId,
        missing: Vec<(Ino, FileId)>,
    ) {
        let (mut old, mut rest): (Vec<_>, Vec<_>) = {
            let state = self.state();
            let is_old = |ino: Ino| {
                let landed = state.tree.file(ino).and_then(|file| file.size);
                landed.is_none_or(|(_, landed)| landed.elapsed() >= self.config.ttl)
            };
            missing.into_iter().partition(|(ino, _)| is_old(*ino))
        };
        rest.extend(old.drain(old.len().min(MOST)..));
        for (ino, id) in rest {
            let (vfs, container) = (self.clone(), container.clone());
            tokio::spawn(async move { vfs.check_missing(ino, &container, &id).await });
        }
        let checked = futures_util::stream::iter(old);
        let checked = checked.map(|(ino, id)| async move { self.check_missing(ino, container, &id).await });
        checked.buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// A version that a list does not show and that may be there all the same: gone only if its id answers
    /// 404.
    async fn check_missing(&self, ino: Ino, container: &ContainerId, id: &FileId) {
        let Err(error) = self.client.retrieve_file(container, id).await else { return };
        if !Error::from(error).is_gone() {
            return;
        }
        let mut state = self.state();
        let state = &mut *state;
        let unchanged = state.tree.file(ino).is_some_and(|file| file.id() == Some(id) && !file.held);
        if unchanged {
            self.invalidate(Invalidation::Attributes(ino));
            let of_container = state.tree.container_of(ino);
            let named = of_container.map(|container| state.versions_of(container, &state.tree.path(ino)));
            state.tree.unlink(ino);
            // Another version of the name gets it from the next list, which is fetched at the next look.
            if named.is_some_and(|named| named.iter().any(|other| other != id))
                && let Some(container) = of_container.and_then(|ino| state.tree.container_mut(ino))
            {
                container.listed = None;
            }
        }
    }
}

impl State {
    /// Tells later mounts of an upload that no list may have shown by then.
    pub(super) fn remember_landed(&mut self, ino: Ino) {
        let Some(file) = self.tree.file(ino) else { return };
        let (Some(id), Some(container)) = (file.id(), self.tree.container(file.container)) else { return };
        self.records.remember_landed(&container.container.id, id);
    }
}
