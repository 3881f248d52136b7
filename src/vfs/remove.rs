//! Unlinking.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::api::{ContainerId, budget};
use crate::content::Key;
use crate::journal::steps;
use crate::namespace::inode::{Ino, Kind};
use crate::vfs::writer::Unneeded;
use crate::vfs::{Error, Result, State, Vfs};

impl Vfs {
    /// Deletes the file that `name` shows.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EPERM` with `--no-delete`, or the server's.
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_deletable()?;
        self.ensure_entries(parent).await?;
        let name = name.to_str().ok_or_else(|| Error::quiet(libc::ENOENT))?;
        let ino = {
            let state = self.state();
            let ino = state.tree.child(parent, name).ok_or_else(|| Error::quiet(libc::ENOENT))?;
            match state.tree.get(ino).map(|node| &node.kind) {
                Some(Kind::File(_)) => {}
                Some(Kind::Link(_)) => {
                    let mut state = state;
                    state.tree.unlink(ino);
                    return Ok(());
                }
                _ => return Err(Error::quiet(libc::EISDIR)),
            }
            ino
        };
        self.remove_file(ino).await
    }

    /// Takes a file away here and on the server.
    pub(super) async fn remove_file(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let writer = self.state().writers.get(&ino).cloned();
        // What travels lands first, so that it is known what there is to delete.
        let _turn = match &writer {
            Some(writer) => Some(budget::free(writer.travelling.lock()).await),
            None => None,
        };
        // Until the deletion is known here nothing is sent under the path that it has left: a server that keeps ids may
        // answer that with one of those that go.
        let left = self.state().path_left(ino);
        let _name = match &left {
            Some((container, path)) => Some(budget::free(self.names.take(container, path)).await),
            None => None,
        };
        let (container, versions, waits) = {
            let state = self.state();
            let file = state.tree.file(ino).ok_or_else(|| Error::quiet(libc::ENOENT))?;
            let container = state.tree.container(file.container).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let container = container.container.id.clone();
            let mut versions = state.claimed_by_nobody_but(ino);
            versions.retain(|id| !state.is_answer(&container, id));
            let open = state.tree.get(ino).is_some_and(|node| node.handles > 0);
            let local = file
                .server
                .as_ref()
                .is_none_or(|s| self.downloads.cache().contains(&Key::new(&container, s)));
            (container, versions, open && !local && state.local_len(ino).is_none())
        };
        let path = self.state().tree.path(ino);
        // What was moved aside from there has nothing on the server any more.
        self.settle_shelved(Some((ino, &path)), &versions)?;
        let unwanted = self.state().is_to_go(&container, versions, Some(path));
        self.intend_deletion(&unwanted)?;
        let behind = self.config.write_back.is_some();
        if !waits && !behind {
            for id in unwanted.ids() {
                if !unwanted.is_of(&id) {
                    continue;
                }
                steps::step();
                let deleted = self.client.delete_file(&container, &id).await.map_err(Error::from);
                if let Err(error) = deleted
                    && (!error.is_gone() || error.is_container_gone())
                {
                    unwanted.give_up();
                    return Err(self.noticed(&container, error));
                }
                let mut state = self.state();
                state.bury(&container, &id);
                state.records.settle_deletion(&container, &id);
            }
            unwanted.give_up();
        }
        let mut guard = self.state();
        let state = &mut *guard;
        unwanted.ids().iter().for_each(|id| state.bury(&container, id));
        state.failures.remove(&ino);
        state.shelved.remove(&ino);
        state.leave_directory(ino);
        state.tree.unlink(ino);
        let unneeded = state.drop_writer(ino);
        if waits {
            state.deferred.insert(ino, unwanted);
        } else if behind {
            self.delete_behind(state, &unwanted);
        }
        drop(guard);
        drop(unneeded);
        Ok(())
    }
}

impl State {
    /// The container, and the path in it, that the version of a file stands under which was renamed or moved aside since.
    fn path_left(&self, ino: Ino) -> Option<(ContainerId, String)> {
        let file = self.tree.file(ino)?;
        let renamed_from = || self.writers.get(&ino)?.inner().renamed_from.clone();
        let left = self.shelved_from(ino).or_else(renamed_from)?;
        Some((self.tree.container(file.container)?.container.id.clone(), left))
    }

    /// A directory that was used here stays when its last file goes.
    pub(super) fn leave_directory(&mut self, ino: Ino) {
        let Some(node) = self.tree.get(ino) else { return };
        let Kind::File(file) = &node.kind else { return };
        let (parent, container) = (node.parent, file.container);
        let path = self.tree.path(parent);
        self.keep_directory(container, &path, true);
    }

    /// Drops unsent bytes whose file is no more. Who has it open goes on with bytes that have no name.
    pub(super) fn drop_writer(&mut self, ino: Ino) -> Unneeded {
        let is_open = self.tree.get(ino).is_some_and(|node| node.handles > 0);
        let Some(writer) = self.writers.get(&ino).cloned() else { return Unneeded::default() };
        let mut inner = writer.inner();
        inner.removed = true;
        // It takes nobody's place any more.
        inner.replaces.clear();
        if is_open {
            inner.share_stagings().collect()
        } else {
            self.writers.remove(&ino);
            inner.take_stagings().collect()
        }
    }
}
