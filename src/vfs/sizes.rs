//! Lengths that the list does not tell (API.md "Objects": `bytes` is null for files that the model wrote).
//!
//! The content endpoint tells them. A small body that comes with the answer is kept; a large one is let go.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;

use crate::api::priority::{self, Urgency};
use crate::namespace::inode::Ino;
use crate::vfs::{Error, Result, State, Vfs};

/// How far the lengths of a directory are being learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizing {
    /// Files are being asked for.
    UnderWay,
    /// The server has had enough.
    Stopped,
}

impl Vfs {
    /// Sees to it that the length of a file is known.
    ///
    /// # Errors
    /// The server's; a phantom disappears and is `ENOENT`.
    pub(super) async fn ensure_size(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let (container, server) = {
            let mut state = self.state();
            if state.local_len(ino).is_some() {
                return Ok(());
            }
            let Some(file) = state.tree.file(ino) else { return Ok(()) };
            if self.size_of(file).is_some() {
                return Ok(());
            }
            let (container, Some(server)) = (file.container, file.server.clone()) else { return Ok(()) };
            let container = state.tree.container(container).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let container = container.container.id.clone();
            self.distrust_old_content(&mut state, ino);
            (container, server)
        };
        let body = self.downloads.fetch(&container, &server);
        match body.total().await.map_err(Error::from) {
            Ok(len) => {
                self.learnt_again(ino, (&container, &server), &body, len).await;
                self.learn_on(ino);
                Ok(())
            }
            Err(error) => {
                if error.is_gone() && !error.is_container_gone() {
                    self.hide_phantom(ino, &server);
                }
                Err(self.noticed(&container, error))
            }
        }
    }

    /// Goes on with the directory of a file whose length was told, if it was left at a 429.
    fn learn_on(self: &Arc<Self>, ino: Ino) {
        let directory = {
            let mut state = self.state();
            let Some(directory) = state.tree.get(ino).map(|node| node.parent) else { return };
            if state.sizing.get(&directory) != Some(&Sizing::Stopped) {
                return;
            }
            state.sizing.remove(&directory);
            directory
        };
        self.learn_sizes_behind(directory);
    }

    /// Learns the lengths of a whole directory, behind whoever reads it. Stops at 429, until the server tells
    /// somebody a length again.
    pub(super) fn learn_sizes_behind(self: &Arc<Self>, directory: Ino) {
        let wanted: Vec<Ino> = {
            let mut state = self.state();
            if state.sizing.contains_key(&directory) {
                return;
            }
            state.sizing.insert(directory, Sizing::UnderWay);
            let children = state.tree.get(directory).and_then(|node| node.children());
            let files = children.into_iter().flat_map(|children| children.values().copied());
            let files: Vec<Ino> = files
                .filter(|ino| {
                    let unsized_file = state.tree.file(*ino).is_some_and(|file| self.size_of(file).is_none());
                    unsized_file && state.local_len(*ino).is_none()
                })
                .collect();
            files
        };
        let vfs = self.clone();
        let begun = Instant::now();
        tokio::spawn(priority::with(Urgency::Ahead, async move {
            let mut answers = futures_util::stream::iter(wanted)
                .map(|ino| vfs.ensure_size(ino))
                .buffer_unordered(vfs.config.max_connections);
            let mut stopped = false;
            while !stopped && answers.next().await.is_some() {
                stopped = vfs.client.limited_at().is_some_and(|at| at >= begun);
            }
            drop(answers);
            let mut state = vfs.state();
            let State { sizing, tree, .. } = &mut *state;
            sizing.remove(&directory);
            if stopped {
                sizing.retain(|directory, _| tree.get(*directory).is_some());
                sizing.insert(directory, Sizing::Stopped);
            }
        }));
    }
}
