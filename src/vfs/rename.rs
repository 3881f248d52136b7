//! Renaming, of what is on the server and of what is not yet.
//!
//! A file that is not on the server yet is merely renamed, and so are directories; versions on the server
//! travel (`relocate`). Whatever is on its way when a rename begins lands first.

use std::ffi::OsStr;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::api::{ContainerId, FileId};
use crate::content::Key;
use crate::journal::scratch::Class;
use crate::namespace::inode::{Ino, Kind, ROOT};
use crate::namespace::{listing, names};
use crate::vfs::placing::Place;
use crate::vfs::promise::When;
use crate::vfs::relocate::{Begun, Journey, Leg};
use crate::vfs::writer::{Unneeded, Writer};
use crate::vfs::{Error, Result, State, Vfs};

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
            let mut state = self.state();
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
            let is_link = state.tree.get(ino).is_some_and(|node| matches!(node.kind, Kind::Link(_)));
            let is_directory = state.tree.file(ino).is_none() && !is_link;
            if target == Some(ino) {
                return Ok(());
            }
            state.check_move(ino, to_parent, to_name)?;
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
            if is_link && self.scratch.class(to_name) != Some(Class::Local) {
                return Err(Error::quiet(libc::EPERM));
            }
            if is_link && target.is_none_or(|target| state.tree.file(target).is_none()) {
                let unneeded = state.put(ino, target, to_parent, to_name);
                drop(state);
                drop(unneeded);
                return Ok(());
            }
            (ino, target, is_directory)
        };
        if self.config.no_overwrite && target.is_some() && !is_directory {
            return Err(Error::quiet(libc::EPERM));
        }
        let is_file = self.state().tree.file(ino).is_some();
        if let Some(target) = target.filter(|_| !is_file && !is_directory) {
            // A link in the place of a file.
            self.remove_file(target).await?;
            let unneeded = self.state().put(ino, None, to_parent, to_name);
            drop(unneeded);
            return Ok(());
        }
        if is_directory {
            self.rename_directory(ino, target, to_parent, to_name, None).await
        } else {
            self.rename_file(ino, target, to_parent, to_name, None).await
        }
    }

    /// Brings the bytes of a file here that the server has, and counts them as changed. They do not set out
    /// before the turns go, which are those of the file and of what stands where it goes: an upload that is due
    /// would send them under the old name.
    async fn to_be_sent_anew(
        &self,
        ino: Ino,
        target: Option<Ino>,
        to: Ino,
    ) -> Result<(Arc<Writer>, Vec<OwnedMutexGuard<()>>)> {
        let files: Vec<Ino> = [ino].into_iter().chain(target).collect();
        loop {
            let writer = self.bring_here(ino).await?;
            let turns = self.turns(&files, to).await;
            let state = self.state();
            if state.writers.get(&ino).is_some_and(|present| Arc::ptr_eq(present, &writer)) {
                writer.inner().generation += 1;
                drop(state);
                return Ok((Arc::clone(&writer), turns));
            }
        }
    }

    pub(super) async fn rename_file(
        self: &Arc<Self>,
        ino: Ino,
        target: Option<Ino>,
        to: Ino,
        name: &str,
        begun: Option<Begun>,
    ) -> Result<()> {
        // What a list tells meanwhile does not take it away, and what is saved waits.
        let held = {
            let mut state = self.state();
            let is_there = state.tree.file(ino).is_some_and(|file| file.server.is_some());
            if is_there { Some(state.writer(ino)?) } else { None }
        };
        let renamed = self.rename_held(ino, target, to, name, begun).await;
        if let Some(held) = held {
            self.let_go(ino, held);
        }
        renamed
    }

    async fn rename_held(
        self: &Arc<Self>,
        ino: Ino,
        target: Option<Ino>,
        to: Ino,
        name: &str,
        begun: Option<Begun>,
    ) -> Result<()> {
        let files: Vec<Ino> = [ino].into_iter().chain(target).collect();
        let turns = self.turns(&files, to).await;
        if self.is_called_off(begun.as_ref(), ino, target).await {
            return Ok(());
        }
        let resumed = begun.as_ref().map(|begun| begun.rename.clone());
        let writer = self.state().writers.get(&ino).cloned();
        let (container, from, path, server, returns) = {
            let state = self.state();
            let file = state.tree.file(ino).ok_or_else(|| Error::quiet(libc::ENOENT))?;
            let container = state.tree.container(file.container).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let (from, path) = (state.tree.path(ino), state.tree.path_in(to, name));
            let left = state.shelved_from(ino);
            let returns = target.is_none() && left.as_ref() == Some(&path);
            (container.container.id.clone(), from, path, file.server.clone(), returns)
        };
        if let Some(writer) = writer.as_ref().filter(|_| returns) {
            let send_now = self.unshelve(ino, writer, to, name)?;
            drop(turns);
            return if send_now { self.save(ino, When::Closed).await } else { Ok(()) };
        }
        let is_scratch = self.scratch_class(&self.state(), ino).is_some();
        let is_real = !is_scratch && (server.is_some() || writer.is_some());
        if is_real && let Some(class) = self.scratch.class(name) {
            return self.shelve(ino, target, to, name, class).await;
        }
        if let Some(writer) = writer.filter(|writer| writer.inner().is_dirty()) {
            if self.is_placed(ino, &writer, name) {
                let place = Place { target, to, name: name.to_owned() };
                return self.place(ino, &writer, place).await;
            }
            let send_now = self.rename_unsent(ino, &writer, target, to, name).await?;
            drop(turns);
            let saved = if send_now { self.save(ino, When::Closed).await } else { Ok(()) };
            let is_tried = self.config.write_back.is_none() && self.scratch.class(name).is_none();
            return match saved {
                Err(error) if is_tried => {
                    // It is merely renamed: whoever closed it was told, and its bytes are in `pending`.
                    tracing::warn!(%error, "a renamed file could not be uploaded; its bytes are kept");
                    Ok(())
                }
                saved => saved,
            };
        }
        let Some(old) = server else {
            let unneeded = self.state().put(ino, target, to, name);
            drop(unneeded);
            return Ok(());
        };
        if self.config.write_back.is_some() && begun.is_none() && !self.state().open_for_writing(ino) {
            // The bytes come here and wait under the new name: what happens to it next may make a POST
            // needless.
            drop(turns);
            let (writer, turns) = self.to_be_sent_anew(ino, target, to).await?;
            self.rename_unsent(ino, &writer, target, to, name).await?;
            drop(turns);
            return self.save(ino, When::Closed).await;
        }
        let replaces = {
            let state = self.state();
            let stands = target.map(|target| state.claims(target)).unwrap_or_default();
            stands.into_iter().chain(state.taken_from(ino, &path)).collect()
        };
        let legs = vec![Leg { ino, old, to: path.clone() }];
        let journey = Journey { container: container.clone(), from, to: path.clone(), legs, replaces, begun };
        let mut arrived = self.relocate(journey).await?;
        let sent = arrived.sent_ids();
        if resumed.is_some_and(|rename| !self.state().is_as_left(&rename, &sent, ino, target)) {
            self.undo(arrived).await;
            return Ok(());
        }
        let placed = {
            let mut guard = self.state();
            let state = &mut *guard;
            state.tree.is_linked(ino).then(|| {
                let mut replaced = state.taken_from(ino, &path);
                if let Some(stands) = standing(target, ino) {
                    let mut claims = state.claims(stands);
                    claims.retain(|id| !sent.contains(id));
                    if self.is_read_from_the_server(state, stands) {
                        self.delete_when_read(state, &container, stands, claims);
                    } else {
                        replaced.append(&mut claims);
                    }
                }
                state.leave_directory(ino);
                let unneeded = state.put(ino, target, to, name);
                (state.arrived(&mut arrived, replaced), unneeded)
            })
        };
        let Some((replaced, unneeded)) = placed else {
            // Gone with its container.
            self.undo(arrived).await;
            return Err(Error::quiet(libc::ESTALE));
        };
        drop(unneeded);
        let noted = self.settle_shelved(Some((ino, &path)), &replaced);
        self.finish(arrived, replaced, noted).await;
        Ok(())
    }

    /// Renames a file whose bytes are here alone. Returns whether they are to be saved now.
    async fn rename_unsent(
        self: &Arc<Self>,
        ino: Ino,
        writer: &Arc<Writer>,
        target: Option<Ino>,
        to: Ino,
        name: &str,
    ) -> Result<bool> {
        let stays_here = self.scratch.class(name) == Some(Class::Local);
        let unwanted = match stays_here {
            true => Some(self.intend_to_give_way(ino, target)?),
            false => None,
        };
        let (closed, gone, unneeded) = {
            let mut guard = self.state();
            let state = &mut *guard;
            let path = state.tree.path_in(to, name);
            let from = state.shelved_from(ino).unwrap_or_else(|| state.tree.path(ino));
            let standing = standing(target, ino);
            let gone = match unwanted {
                Some(unwanted) => self.give_way(state, ino, writer, unwanted, standing),
                None => {
                    let stood = standing.iter().flat_map(|stands| state.claims(*stands));
                    let replaces: Vec<FileId> =
                        state.taken_from(ino, &path).into_iter().chain(stood).collect();
                    writer.inner().also_replaces(replaces);
                    None
                }
            };
            standing.into_iter().for_each(|stands| state.inherit(stands, writer));
            {
                let mut inner = writer.inner();
                inner.renamed_from.get_or_insert(from);
                inner.failed = None;
            }
            state.leave_directory(ino);
            let unneeded = state.put(ino, target, to, name);
            if self.scratch.class(name).is_none() {
                // It takes its version on the server along.
                state.shelved.remove(&ino);
            }
            state.remember(ino);
            (!state.open_for_writing(ino), gone, unneeded)
        };
        drop(unneeded);
        let noted = self.renew_promise(ino, writer);
        self.delete_given_up(gone).await?;
        noted.map(|()| closed)
    }

    /// A file that was moved aside comes back: nothing has changed, unless it was written meanwhile. Returns
    /// whether it is to be saved now.
    fn unshelve(&self, ino: Ino, writer: &Arc<Writer>, to: Ino, name: &str) -> Result<bool> {
        let mut state = self.state();
        let claims = state.claims(ino);
        state.shelved.remove(&ino);
        state.tree.rename(ino, to, name);
        let unchanged = writer.unshelved();
        let unneeded = if unchanged { Some(state.retire_writer(ino)) } else { None };
        let closed = !state.open_for_writing(ino);
        drop(state);
        drop(unneeded);
        // What was moved aside from there since has no claim to them any more.
        claims.iter().for_each(|id| self.take_over(id, ino));
        if unchanged {
            return Ok(false);
        }
        self.renew_promise(ino, writer)?;
        Ok(closed)
    }

    /// Deletes versions of a file that is not shown any more when the last of its readers has closed it.
    fn delete_when_read(&self, state: &mut State, container: &ContainerId, ino: Ino, ids: Vec<FileId>) {
        ids.iter().for_each(|id| state.bury(container, id));
        let unwanted = state.is_to_go(container, ids, None);
        match self.intend_deletion(&unwanted) {
            Ok(()) => _ = state.deferred.insert(ino, unwanted),
            Err(error) => tracing::warn!(%error, "a deletion was not written down"),
        }
    }

    /// Whether a file is open here and its bytes are not: deleting it would break its readers.
    pub(super) fn is_read_from_the_server(&self, state: &State, ino: Ino) -> bool {
        let Some(node) = state.tree.get(ino).filter(|node| node.handles > 0) else { return false };
        let Some(file) = node.file() else { return false };
        let (Some(server), Some(container)) = (&file.server, state.tree.container(file.container)) else {
            return false;
        };
        state.local_len(ino).is_none()
            && !self.downloads.cache().contains(&Key::new(&container.container.id, server))
    }

    pub(super) async fn rename_directory(
        self: &Arc<Self>,
        ino: Ino,
        target: Option<Ino>,
        to: Ino,
        name: &str,
        begun: Option<Begun>,
    ) -> Result<()> {
        let moving = self.begin_to_move(ino, to).await;
        let inside = self.state().files_below(ino);
        let turns = self.turns_inside(inside).await;
        if self.is_called_off(begun.as_ref(), ino, target).await {
            return Ok(());
        }
        let resumed = begun.as_ref().map(|begun| begun.rename.clone());
        let journey = {
            let state = self.state();
            let container = state.tree.container_of(ino).and_then(|ino| state.tree.container(ino));
            let container = container.ok_or_else(|| Error::quiet(libc::ESTALE))?.container.id.clone();
            let (from, to) = (state.tree.path(ino), state.tree.path_in(to, name));
            if to.starts_with(&format!("{from}/")) {
                return Err(Error::quiet(libc::EINVAL));
            }
            let leg = |ino: Ino| {
                let unsent = state.writers.get(&ino).is_some_and(|writer| writer.inner().is_dirty());
                let old = state.tree.file(ino)?.server.clone().filter(|_| !unsent)?;
                let path = format!("{to}{}", &state.tree.path(ino)[from.len()..]);
                Some(Leg { ino, old, to: path })
            };
            let legs = state.files_below(ino).into_iter().filter_map(leg).collect();
            Journey { container, from, to, legs, replaces: Vec::new(), begun }
        };
        let (old_path, new_path) = (journey.from.clone(), journey.to.clone());
        let container = self.state().tree.container_of(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        // First, so that a crash finds either all as it was or all moved.
        [&old_path, &new_path].into_iter().try_for_each(|path| self.settle_aside_from(container, path))?;
        let mut arrived = self.relocate(journey).await?;
        if resumed.is_some_and(|rename| !self.state().is_as_left(&rename, &arrived.sent_ids(), ino, target)) {
            self.undo(arrived).await;
            return Ok(());
        }
        let (unwanted, unsent) = {
            let mut guard = self.state();
            let state = &mut *guard;
            if let Some(stands) = target.into_iter().chain(state.tree.child(to, name)).next() {
                state.clear(stands);
            }
            state.move_directory(ino, to, name, &old_path, &new_path);
            let unwanted = state.arrived(&mut arrived, Vec::new());
            let mut unsent = Vec::new();
            for file in state.files_below(ino) {
                if let Some(writer) = state.writers.get(&file) {
                    let inside = &state.tree.path(file)[new_path.len()..];
                    writer.inner().renamed_from.get_or_insert_with(|| format!("{old_path}{inside}"));
                    unsent.push((file, writer.clone()));
                }
            }
            (unwanted, unsent)
        };
        let noted = unsent.iter().map(|(file, writer)| self.settle_writer(*file, writer));
        let noted = noted.fold(Ok(()), Result::and);
        // By now they have left another path.
        let noted = noted.and(self.settle_aside_from(container, &new_path));
        self.finish(arrived, unwanted, noted).await;
        drop((turns, moving));
        for (file, _) in unsent {
            let closed = !self.state().open_for_writing(file);
            // The rename has happened; what became of older bytes was told to whoever closed them, or is in
            // `pending`.
            if closed && let Err(error) = self.save(file, When::Closed).await {
                tracing::warn!(%error, "a file in a renamed directory could not be uploaded; its bytes are kept");
            }
        }
        Ok(())
    }
}

/// What a rename of `ino` replaces.
pub(super) fn standing(target: Option<Ino>, ino: Ino) -> Option<Ino> {
    target.filter(|stands| *stands != ino)
}

impl State {
    /// Whether `ino` and all that it holds can be shown where it goes.
    fn check_move(&self, ino: Ino, to: Ino, name: &str) -> Result<()> {
        let mut below = vec![(ino, self.place_in(to, name)?)];
        while let Some((ino, path)) = below.pop() {
            for (name, child) in self.tree.get(ino).and_then(|node| node.children()).into_iter().flatten() {
                let path = format!("{path}/{name}");
                names::check_place(&path)?;
                below.push((*child, path));
            }
        }
        Ok(())
    }

    /// Puts a file under a name; what stood there when the rename began goes, but for its open handles.
    pub(super) fn put(&mut self, ino: Ino, target: Option<Ino>, to: Ino, name: &str) -> Unneeded {
        let unneeded = standing(target, ino).map(|stands| self.make_room(stands)).unwrap_or_default();
        self.step_aside(to, name, ino);
        self.tree.rename(ino, to, name);
        unneeded
    }

    /// What a list has shown under a name since a rename to it began is not what that replaces: it stays beside it.
    fn step_aside(&mut self, to: Ino, name: &str, ino: Ino) {
        let Some(stands) = self.tree.child(to, name).filter(|stands| *stands != ino) else { return };
        let Some(file) = self.tree.file(stands) else {
            // The next list shows it again.
            self.clear(stands);
            return;
        };
        let (container, id) = (file.container, file.id().cloned());
        let free = |name: &str| self.tree.child(to, name).is_none();
        let made_up = listing::made_up(name, id.as_ref().map_or(name, FileId::as_str), free);
        self.tree.rename(stands, to, &made_up);
        if let Some(container) = self.tree.container_mut(container) {
            container.suffixed.extend(id);
        }
    }

    /// Takes away what stands where a renamed file goes; open handles keep it.
    pub(super) fn make_room(&mut self, target: Ino) -> Unneeded {
        self.failures.remove(&target);
        self.shelved.remove(&target);
        self.tree.unlink(target);
        self.drop_writer(target)
    }

    /// What was promised of `target` stays until `writer`, which takes its place, is.
    pub(super) fn inherit(&mut self, target: Ino, writer: &Writer) {
        if let Some(replaced) = self.writers.get(&target) {
            let mut replaced = replaced.inner();
            replaced.replaces.clear();
            if self.tree.get(target).is_some_and(|node| node.handles == 0) {
                writer.inner().inherit(replaced.take_stagings());
            } else {
                writer.inner().inherit(replaced.pass_on());
            }
        }
    }

    /// Files below a directory.
    fn files_below(&self, directory: Ino) -> Vec<Ino> {
        let mut below = vec![directory];
        let mut files = Vec::new();
        while let Some(ino) = below.pop() {
            match self.tree.get(ino).map(|node| &node.kind) {
                Some(Kind::Directory(directory)) => below.extend(directory.children.values()),
                Some(Kind::File(_)) => files.push(ino),
                _ => {}
            }
        }
        files.sort_unstable();
        files
    }

    /// Takes a directory that was empty out of the tree, with what a list has put into it meanwhile: the next
    /// list shows that again.
    pub(super) fn clear(&mut self, directory: Ino) {
        let inside: Vec<Ino> = self
            .tree
            .get(directory)
            .and_then(|node| node.children())
            .into_iter()
            .flatten()
            .map(|(_, ino)| *ino)
            .collect();
        if let Some(container) = self.tree.container_of(directory).filter(|_| !inside.is_empty())
            && let Some(container) = self.tree.container_mut(container)
        {
            container.listed = None;
        }
        for ino in inside {
            self.clear(ino);
        }
        self.tree.unlink(directory);
    }

    fn move_directory(&mut self, ino: Ino, to: Ino, name: &str, old_path: &str, new_path: &str) {
        let Some(container) = self.tree.container_of(ino) else { return };
        let Some(id) = self.tree.container(container).map(|container| container.container.id.clone()) else {
            return;
        };
        self.move_directory_records(&id, old_path, new_path);
        let inside = format!("{old_path}/");
        let left_inside =
            self.shelved.values_mut().filter(|(of, path)| *of == container && path.starts_with(&inside));
        left_inside.for_each(|(_, path)| *path = format!("{new_path}{}", &path[old_path.len()..]));
        self.tree.rename_directory(ino, to, name);
    }

    /// The directories that are remembered below one that is renamed.
    pub(super) fn move_directory_records(&mut self, id: &ContainerId, old_path: &str, new_path: &str) {
        let inside = format!("{old_path}/");
        let moves = |path: &String| *path == old_path || path.starts_with(&inside);
        let moved = |path: &str| format!("{new_path}{}", &path[old_path.len()..]);
        let (mut known, mut attributes) = (Vec::new(), Vec::new());
        if let Some(records) = self.records.container(id) {
            known.extend(records.directories.iter().filter(|path| moves(path)).cloned());
            let set = records.directory_attributes.iter().filter(|(path, _)| moves(path));
            attributes.extend(set.map(|(path, attributes)| (path.clone(), *attributes)));
        }
        // Killed amid that, a directory would have neither name.
        self.records.at_once(|records| {
            for directory in &known {
                records.set_directory(id, directory, false);
                records.set_directory(id, &moved(directory), true);
            }
            for (directory, attributes) in attributes {
                records.set_directory(id, &directory, false);
                records.set_directory_attributes(id, &moved(&directory), attributes);
            }
            records.set_directory(id, new_path, true);
            for path in [old_path, new_path] {
                if let Some((above, _)) = path.rsplit_once('/') {
                    records.set_directory(id, above, true);
                }
            }
        });
    }
}
