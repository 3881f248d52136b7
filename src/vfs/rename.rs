//! Renaming by upload: the API has no rename.
//!
//! All POSTs come before the first DELETE, and one that is refused undoes the others. A file that is not on the
//! server yet is merely renamed.

use std::ffi::OsStr;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};

use crate::api::client::UploadBody;
use crate::api::{self, ContainerId, FileId};
use crate::content::Key;
use crate::journal::scratch::Class;
use crate::namespace::inode::{Ino, Kind, ROOT};
use crate::namespace::names;
use crate::vfs::{Error, Result, Vfs, commit};

/// Files of a renamed directory that travel at once.
const AT_ONCE: usize = 8;

/// A version that was sent under its new name.
struct Moved {
    ino: Ino,
    old: FileId,
    new: Arc<api::File>,
    len: u64,
}

impl Vfs {
    /// Renames a file or a directory inside a container. `flags` are those of `renameat2(2)`.
    ///
    /// # Errors
    /// `EXDEV` across containers, `EPERM` for containers, `EINVAL` for `RENAME_EXCHANGE`, `EEXIST` with
    /// `RENAME_NOREPLACE`, `ENOTEMPTY`, `ENOTDIR`, `EISDIR`, or the server's.
    pub async fn rename(
        self: &Arc<Self>,
        parent: Ino,
        name: &OsStr,
        to_parent: Ino,
        to_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        self.check_deletable()?;
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(Error::quiet(libc::EINVAL));
        }
        let to_name = names::creatable(to_name)?;
        self.ensure_entries(parent).await?;
        self.ensure_entries(to_parent).await?;
        let name = name.to_str().ok_or_else(|| Error::quiet(libc::ENOENT))?;
        let (ino, target, is_directory) = {
            let state = self.state();
            let ino = state.tree.child(parent, name).ok_or_else(|| Error::quiet(libc::ENOENT))?;
            let target = state.tree.child(to_parent, to_name);
            let in_root = |ino: Ino| ino == ROOT && self.config.container.is_none();
            if in_root(parent) || in_root(to_parent) {
                let across =
                    !in_root(parent) && matches!(state.tree.get(ino).map(|n| &n.kind), Some(Kind::File(_)));
                return Err(Error::quiet(if across { libc::EXDEV } else { libc::EPERM }));
            }
            if state.tree.container_of(parent) != state.tree.container_of(to_parent) {
                return Err(Error::quiet(libc::EXDEV));
            }
            let is_directory = state.tree.file(ino).is_none();
            if target == Some(ino) {
                return Ok(());
            }
            if let Some(target) = target {
                if flags & libc::RENAME_NOREPLACE != 0 {
                    return Err(Error::quiet(libc::EEXIST));
                }
                match (is_directory, state.tree.get(target).and_then(|node| node.children())) {
                    (true, None) => return Err(Error::quiet(libc::ENOTDIR)),
                    (false, Some(_)) => return Err(Error::quiet(libc::EISDIR)),
                    (true, Some(children)) if !children.is_empty() => {
                        return Err(Error::quiet(libc::ENOTEMPTY));
                    }
                    _ => {}
                }
            }
            (ino, target, is_directory)
        };
        if self.config.no_overwrite && target.is_some() && !is_directory {
            return Err(Error::quiet(libc::EPERM));
        }
        if is_directory {
            self.rename_directory(ino, target, to_parent, to_name).await
        } else {
            self.rename_file(ino, target, to_parent, to_name).await
        }
    }

    async fn rename_file(self: &Arc<Self>, ino: Ino, target: Option<Ino>, to: Ino, name: &str) -> Result<()> {
        let writer = self.state().writers.get(&ino).cloned();
        let turn = match &writer {
            Some(writer) => Some(writer.travelling.lock().await),
            None => None,
        };
        let (container, path) = {
            let state = self.state();
            let container = state.tree.file(ino).and_then(|file| state.tree.container(file.container));
            let container = container.ok_or_else(|| Error::quiet(libc::ESTALE))?;
            (container.container.id.clone(), state.tree.path_in(to, name))
        };
        let moves_aside = {
            let state = self.state();
            let on_server = state.tree.file(ino).is_some_and(|file| file.server.is_some());
            let container = state.tree.container_of(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            if let Some(writer) = &writer
                && state.is_shelved_from(container, &path, ino)
                && target.is_none()
            {
                return self.unshelve(state, ino, writer, to, name);
            }
            on_server && self.scratch.class(name) == Some(Class::Local)
        };
        if moves_aside {
            return self.shelve(ino, target, to, name).await;
        }
        let unsent = writer.as_ref().is_some_and(|writer| writer.inner().is_dirty());
        if unsent {
            let writer = writer.as_ref().ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let send_now = {
                let mut guard = self.state();
                let state = &mut *guard;
                if let Some(target) = target {
                    let id = state.tree.file(target).and_then(|file| file.id().cloned());
                    writer.inner().replaces.extend(id);
                    state.make_room(target);
                }
                let aside =
                    state.tree.container_of(ino).and_then(|container| state.take_shelved(container, &path));
                writer.inner().replaces.extend(aside);
                let mut inner = writer.inner();
                inner.renamed = true;
                inner.failed = None;
                drop(inner);
                state.leave_directory(ino);
                state.tree.rename(ino, to, name);
                state.remember(ino);
                !state.open_for_writing(ino)
            };
            drop(turn);
            if send_now {
                return self.save(ino, true).await;
            }
            if writer.is_promised() {
                self.promise(ino, writer)?;
            }
            return Ok(());
        }
        let moved = self.send_copy(&container, ino, &path).await?;
        let mut replaced = Vec::new();
        {
            let mut guard = self.state();
            let state = &mut *guard;
            if let Some(target) = target {
                replaced.extend(state.tree.file(target).and_then(|file| file.id().cloned()));
                if let Some(id) = replaced.first()
                    && self.is_read_from_the_server(state, target)
                {
                    state.deferred.insert(target, (container.clone(), id.clone()));
                    replaced.clear();
                }
                state.make_room(target);
            }
            replaced.extend(
                state.tree.container_of(ino).and_then(|container| state.take_shelved(container, &path)),
            );
            state.leave_directory(ino);
            state.tree.rename(ino, to, name);
            if let Some(moved) = &moved {
                state.landed(ino, &moved.new, moved.len);
                replaced.push(moved.old.clone());
                replaced.retain(|id| *id != moved.new.id);
            }
            for id in &replaced {
                state.records.bury(&container, id);
            }
        }
        if let (Some(writer), Some(moved)) = (&writer, &moved) {
            writer.inner().base = Some(moved.new.clone());
        }
        self.settle_shelved(&replaced)?;
        for id in replaced {
            self.delete_version(&container, &id).await;
        }
        Ok(())
    }

    /// A file that was moved aside comes back: nothing has changed, unless it was written meanwhile.
    fn unshelve(
        &self,
        mut state: std::sync::MutexGuard<'_, super::State>,
        ino: Ino,
        writer: &super::writer::Writer,
        to: Ino,
        name: &str,
    ) -> Result<()> {
        state.shelved.retain(|_, shelved| *shelved != ino);
        state.tree.rename(ino, to, name);
        if writer.unshelved() {
            state.retire_writer(ino);
            return Ok(());
        }
        drop(state);
        self.promise(ino, writer)
    }

    /// Whether a file is open here and its bytes are not: deleting it would break its readers.
    fn is_read_from_the_server(&self, state: &super::State, ino: Ino) -> bool {
        let Some(node) = state.tree.get(ino).filter(|node| node.handles > 0) else { return false };
        let Some(file) = node.file() else { return false };
        let (Some(server), Some(container)) = (&file.server, state.tree.container(file.container)) else {
            return false;
        };
        state.local_len(ino).is_none()
            && !self.downloads.cache().contains(&Key::new(&container.container.id, server))
    }

    /// Sends the bytes of a version again, under a new name.
    async fn send_copy(
        self: &Arc<Self>,
        container: &ContainerId,
        ino: Ino,
        path: &str,
    ) -> Result<Option<Moved>> {
        let server = self.state().tree.file(ino).and_then(|file| file.server.clone());
        let Some(server) = server else { return Ok(None) };
        let staging = self.journal.stage()?;
        let sent = async {
            let body = self.downloads.fetch(container, &server);
            let len = body.copy_to(staging.file()).await?;
            let filename = self.filename(container, path).await?;
            let body = UploadBody::File { path: staging.data(), len };
            let file = self.client.upload(container, &filename, body).await?;
            let new = Arc::new(commit::as_uploaded(file, len));
            let _ = self.downloads.cache().adopt_copy(&Key::new(container, &new), &staging.data());
            Ok(Moved { ino, old: server.id.clone(), new, len })
        }
        .await;
        staging.discard();
        sent.map(Some).map_err(|error: Error| self.noticed(container, error))
    }

    async fn rename_directory(
        self: &Arc<Self>,
        ino: Ino,
        target: Option<Ino>,
        to: Ino,
        name: &str,
    ) -> Result<()> {
        let (container, old_path, new_path, files) = {
            let state = self.state();
            let container_ino = state.tree.container_of(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let container = state.tree.container(container_ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let (old, new) = (state.tree.path(ino), state.tree.path_in(to, name));
            if new.starts_with(&format!("{old}/")) {
                return Err(Error::quiet(libc::EINVAL));
            }
            let inside = format!("{old}/");
            let files: Vec<(Ino, String)> = state
                .tree
                .files()
                .filter(|(_, file)| file.container == container_ino)
                .map(|(ino, _)| (ino, state.tree.path(ino)))
                .filter(|(_, path)| path.starts_with(&inside))
                .collect();
            (container.container.id.clone(), old, new, files)
        };
        let sent: std::sync::Mutex<Vec<Moved>> = std::sync::Mutex::default();
        let outcome: Result<()> = futures_util::stream::iter(files.iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, |(file, path)| {
                let (sent, container) = (&sent, &container);
                let path = format!("{new_path}{}", &path[old_path.len()..]);
                async move {
                    let dirty = {
                        let state = self.state();
                        state.writers.get(file).is_some_and(|writer| writer.inner().is_dirty())
                    };
                    if !dirty && let Some(moved) = self.send_copy(container, *file, &path).await? {
                        sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(moved);
                    }
                    Ok(())
                }
            })
            .await;
        let sent = sent.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = outcome {
            for moved in sent {
                self.state().records.bury(&container, &moved.new.id);
                self.delete_version(&container, &moved.new.id).await;
            }
            return Err(error);
        }
        let olds = {
            let mut guard = self.state();
            let state = &mut *guard;
            if let Some(target) = target {
                state.tree.unlink(target);
            }
            state.move_directory(ino, to, name, &old_path, &new_path);
            for (file, _) in &files {
                if let Some(writer) = state.writers.get(file) {
                    writer.inner().renamed = true;
                }
            }
            let mut olds = Vec::new();
            for moved in sent {
                state.landed(moved.ino, &moved.new, moved.len);
                if moved.old != moved.new.id {
                    state.records.bury(&container, &moved.old);
                    olds.push(moved.old);
                }
            }
            olds
        };
        futures_util::stream::iter(olds)
            .for_each_concurrent(AT_ONCE, |id| {
                let container = &container;
                async move { self.delete_version(container, &id).await }
            })
            .await;
        let unsent: Vec<Ino> = {
            let state = self.state();
            let ready = |ino: &Ino| state.writers.contains_key(ino) && !state.open_for_writing(*ino);
            files.iter().map(|(ino, _)| *ino).filter(ready).collect()
        };
        for ino in unsent {
            self.save(ino, true).await?;
        }
        Ok(())
    }
}

impl super::State {
    /// Takes away what stands where a renamed file goes; open handles keep it.
    pub(super) fn make_room(&mut self, target: Ino) {
        self.failures.remove(&target);
        self.tree.unlink(target);
        if self.tree.get(target).is_none_or(|node| node.handles == 0) {
            self.drop_writer(target);
        }
    }

    fn move_directory(&mut self, ino: Ino, to: Ino, name: &str, old_path: &str, new_path: &str) {
        let Some(container) = self.tree.container_of(ino) else { return };
        let Some(id) = self.tree.container(container).map(|container| container.container.id.clone()) else {
            return;
        };
        let inside = format!("{old_path}/");
        let known =
            self.records.container(&id).map(|records| records.directories.clone()).unwrap_or_default();
        for directory in known.iter().filter(|path| *path == old_path || path.starts_with(&inside)) {
            self.records.set_directory(&id, directory, false);
            self.records.set_directory(&id, &format!("{new_path}{}", &directory[old_path.len()..]), true);
        }
        self.records.set_directory(&id, new_path, true);
        for path in [old_path, new_path] {
            if let Some((above, _)) = path.rsplit_once('/') {
                self.records.set_directory(&id, above, true);
            }
        }
        self.tree.rename_directory(ino, to, name);
    }
}
