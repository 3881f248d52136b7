//! Directories: reading them, making them, removing them.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Instant;

use crate::namespace::inode::{Ino, Kind, ROOT};
use crate::namespace::names;
use crate::vfs::{Entry, Error, FileKind, Maker, Reading, Result, Vfs, heartbeat, shown};

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Where reading goes on after it.
    pub next: u64,
    /// Its name.
    pub name: Arc<str>,
    /// Its attributes. Without a TTL where a size has yet to be asked for.
    pub entry: Entry,
}

impl Vfs {
    /// Opens a directory; its handle, and how the kernel is to read it. Within the runtime.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub fn opendir(self: &Arc<Self>, ino: Ino) -> Result<(u64, Reading)> {
        let mut state = self.state();
        heartbeat::with_the_lock();
        let node = state.tree.get_mut(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        if node.children().is_none() {
            return Err(Error::quiet(libc::ENOTDIR));
        }
        node.handles += 1;
        let handle = state.next_handle;
        state.next_handle += 1;
        let reading = self.show(&mut state, ino, handle);
        Ok((handle, reading))
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        let mut state = self.state();
        let Some(ino) = state.no_longer_shown(handle) else { return };
        if let Some(node) = state.tree.get_mut(ino) {
            node.handles = node.handles.saturating_sub(1);
        }
        state.tree.reap(ino);
        state.forget_shown(ino);
    }

    /// Entries of an open directory from `offset` on, each handed to `take` until it says that it is full.
    /// With `plus`, the kernel keeps a reference to each.
    ///
    /// # Errors
    /// The server's, if a list must be fetched.
    pub async fn readdir(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        plus: bool,
        mut take: impl FnMut(&DirEntry) -> bool + Send,
    ) -> Result<()> {
        if let Some(result) = self.readdir_now(handle, offset, plus, &mut take) {
            return result;
        }
        let ino = self.state().directories.get(&handle).map(|open| open.ino);
        self.ensure_entries(ino.ok_or_else(|| Error::quiet(libc::EBADF))?).await?;
        self.begin_listing(&mut self.state(), handle);
        self.list(handle, offset, plus, &mut take)
    }

    /// The same from memory; `None` if the server must be asked.
    pub fn readdir_now(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        plus: bool,
        take: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Option<Result<()>> {
        if offset == 0 {
            let mut state = self.state();
            let open = state.directories.get(&handle);
            if !open.is_some_and(|open| self.entries_fresh(&state, open.ino)) {
                return None;
            }
            self.begin_listing(&mut state, handle);
        }
        Some(self.list(handle, offset, plus, take))
    }

    /// A new directory inside a container, which lives here, or a new container, which the server makes.
    ///
    /// # Errors
    /// `EEXIST`, `EINVAL` for a name that the service cannot hold, `ENAMETOOLONG`, or the server's.
    pub async fn mkdir(self: &Arc<Self>, parent: Ino, name: &OsStr, maker: Maker) -> Result<Entry> {
        self.check_writable()?;
        let name = names::creatable(name)?;
        self.ensure_entries(parent).await?;
        if self.state().tree.child(parent, name).is_some() {
            return Err(Error::quiet(libc::EEXIST));
        }
        let ino = if parent == ROOT && self.config.container.is_none() {
            self.make_container(name).await?
        } else {
            let mut state = self.state();
            let container = state.tree.container_of(parent).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let path = state.place_in(parent, name)?;
            state.keep_directory(container, &path, true);
            state.tree.directory(container, &path)
        };
        let mut state = self.state();
        state.directory_made(ino, self.attributes_of_new(maker, 0o777));
        if let Some(node) = state.tree.get_mut(ino) {
            node.lookups += 1;
        }
        let node = state.tree.get(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        Ok(self.entry_of(&state, ino, node))
    }

    /// Removes a directory that is empty, or deletes a container that is, by a list fetched for it.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOENT`, `EPERM` with `--no-delete`, or the server's.
    pub async fn rmdir(self: &Arc<Self>, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_deletable()?;
        self.ensure_entries(parent).await?;
        let name = name.to_str().ok_or_else(|| Error::quiet(libc::ENOENT))?;
        let (ino, container) = {
            let state = self.state();
            let ino = state.tree.child(parent, name).ok_or_else(|| Error::quiet(libc::ENOENT))?;
            let node = state.tree.get(ino).ok_or_else(|| Error::quiet(libc::ENOENT))?;
            match &node.kind {
                Kind::Container(container) => (ino, Some(container.container.id.clone())),
                Kind::Directory(directory) => {
                    if !directory.children.is_empty() {
                        return Err(Error::quiet(libc::ENOTEMPTY));
                    }
                    (ino, None)
                }
                _ => return Err(Error::quiet(libc::ENOTDIR)),
            }
        };
        if let Some(id) = container {
            match self.ensure_listed_since(&id, Instant::now()).await {
                // Somebody else has deleted it, or it has expired: it is as gone as was asked for.
                Err(error) if error.is_container_gone() => return Ok(()),
                listed => listed?,
            }
            match self.state().tree.container(ino) {
                Some(container) if container.has_unread => {
                    let message = "the container holds files that cannot be read from its list";
                    return Err(Error::told(libc::ENOTEMPTY, message));
                }
                Some(container) if container.children.is_empty() => {}
                _ => return Err(Error::quiet(libc::ENOTEMPTY)),
            }
            match self.client.delete_container(&id).await.map_err(Error::from) {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
            let mut state = self.state();
            state.records.forget(&id);
            state.dead_containers.insert(id);
            state.tree.unlink(ino);
            return Ok(());
        }
        let place = {
            let state = self.state();
            state.tree.container_of(ino).map(|container| (container, state.tree.path(ino)))
        };
        place.map_or(Ok(()), |(container, path)| self.settle_aside_from(container, &path))?;
        let mut state = self.state();
        let still_empty = state.tree.get(ino).and_then(|node| node.children()).is_some_and(|c| c.is_empty());
        if !still_empty {
            return Err(Error::quiet(libc::ENOTEMPTY));
        }
        let path = state.tree.path(ino);
        if let Some(container) = state.tree.container_of(ino) {
            state.keep_directory(container, &path, false);
            // The parent was used here: it stays when its last entry goes.
            if let Some((above, _)) = path.rsplit_once('/') {
                state.keep_directory(container, above, true);
            }
        }
        state.tree.unlink(ino);
        Ok(())
    }

    fn list(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        plus: bool,
        take: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let mut state = self.state();
        let open = state.directories.get(&handle).ok_or_else(|| Error::quiet(libc::EBADF))?;
        let directory = open.ino;
        if state.listing_at(handle, offset).is_none() {
            self.begin_listing(&mut state, handle);
        }
        // None is of a directory that is gone meanwhile.
        let Some(listing) = state.listing_at(handle, offset) else { return Ok(()) };
        let parent = state.tree.get(directory).map_or(ROOT, |node| node.parent);
        let mut unsized_files = false;
        for place in shown::place(offset).. {
            let (name, ino): (Arc<str>, Ino) = match place {
                0 => (Arc::from("."), directory),
                1 => (Arc::from(".."), parent),
                _ => match usize::try_from(place - 2).ok().and_then(|at| listing.names.get(at)) {
                    // The kernel believes what it is told of a name: it has to be what the name stands for now.
                    Some(name) => match state.tree.child(directory, name) {
                        Some(ino) => (name.clone(), ino),
                        None => continue,
                    },
                    None => break,
                },
            };
            let Some(node) = state.tree.get(ino) else { continue };
            let entry = self.entry_of(&state, ino, node);
            unsized_files |= entry.attr.kind == FileKind::File && entry.ttl.is_zero();
            if !take(&DirEntry { next: listing.offset(place + 1), name, entry }) {
                break;
            }
            if plus
                && place >= 2
                && let Some(node) = state.tree.get_mut(ino)
            {
                node.lookups += 1;
            }
        }
        drop(state);
        if unsized_files {
            self.learn_sizes_behind(directory);
        }
        Ok(())
    }
}

impl crate::vfs::State {
    /// The path below the container at which something can be made.
    pub(super) fn place_in(&self, parent: Ino, name: &str) -> Result<String> {
        let path = self.tree.path_in(parent, name);
        names::check_place(&path)?;
        Ok(path)
    }

    /// Writes down that a directory of a container exists here, or no longer does.
    pub(super) fn keep_directory(&mut self, container: Ino, path: &str, exists: bool) {
        if path.is_empty() {
            return;
        }
        if let Some(container) = self.tree.container(container) {
            let id = container.container.id.clone();
            self.records.set_directory(&id, path, exists);
        }
    }
}
