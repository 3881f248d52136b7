//! Files that a list shows and that have no content (API.md "Objects"): hidden once that is known.
//!
//! The answer that says so may be wrong, or too early for a file that is being written. Another version of
//! the file is shown at once; the same one is asked for again, behind a list that still tells it, as seldom
//! as other content that a model wrote.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;

use crate::api::priority::{self, Urgency};
use crate::api::{self, ContainerId, FileId};
use crate::namespace::container::Phantom;
use crate::namespace::inode::Ino;
use crate::vfs::{Error, Invalidation, Vfs};

impl Vfs {
    /// The content of a version was asked for, and there is none.
    pub(super) fn hide_phantom(&self, ino: Ino, version: &Arc<api::File>) {
        let mut state = self.state();
        let Some(file) = state.tree.file(ino) else { return };
        let phantom = Phantom { file: version.clone(), asked: Instant::now() };
        // Another version by now has other content.
        if !file.server.as_ref().is_some_and(|server| server.id == version.id && phantom.is(server)) {
            return;
        }
        let container = file.container;
        if let Some(container) = state.tree.container_mut(container) {
            container.phantoms.insert(version.id.clone(), phantom);
        }
        self.invalidate(Invalidation::Attributes(ino));
        state.tree.unlink(ino);
    }

    /// Asks once more for what was hidden long ago; called behind a fresh list.
    pub(super) fn look_for_phantoms(self: &Arc<Self>, container: &ContainerId) {
        let due = self.phantoms_due(container);
        if due.is_empty() {
            return;
        }
        let (vfs, container) = (self.clone(), container.clone());
        let begun = Instant::now();
        tokio::spawn(priority::with(Urgency::Ahead, async move {
            let mut answers = futures_util::stream::iter(due)
                .map(|file| vfs.look_for_phantom(&container, file))
                .buffer_unordered(vfs.config.max_connections);
            while answers.next().await.is_some() {
                if vfs.client.limited_at().is_some_and(|at| at >= begun) {
                    break;
                }
            }
        }));
    }

    /// Those that are to be asked for now. What comes to nothing is not tried again before the next time.
    fn phantoms_due(&self, container: &ContainerId) -> Vec<Arc<api::File>> {
        let mut state = self.state();
        let Some(&ino) = state.tree.containers.get(container) else { return Vec::new() };
        let Some(container) = state.tree.container_mut(ino) else { return Vec::new() };
        let old = |phantom: &&mut Phantom| phantom.asked.elapsed() >= self.config.content_ttl;
        let due = container.phantoms.values_mut().filter(old).map(|phantom| {
            phantom.asked = Instant::now();
            phantom.file.clone()
        });
        due.collect()
    }

    async fn look_for_phantom(self: &Arc<Self>, container: &ContainerId, file: Arc<api::File>) {
        match self.downloads.fetch(container, &file).total().await.map_err(Error::from) {
            Ok(_) => self.show_phantom(container, &file.id),
            Err(error) => _ = self.noticed(container, error),
        }
    }

    /// It has content: the next list shows it.
    fn show_phantom(&self, container: &ContainerId, id: &FileId) {
        let mut state = self.state();
        let Some(&ino) = state.tree.containers.get(container) else { return };
        let Some(container) = state.tree.container_mut(ino) else { return };
        container.phantoms.remove(id);
        container.listed = None;
    }
}
