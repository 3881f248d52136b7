//! Open files: open, create, read, flush, fsync, release.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::api::FileId;
use crate::content::{Body, download};
use crate::namespace::inode::{FileNode, Ino, Kind, ROOT};
use crate::namespace::names;
use crate::vfs::promise::When;
use crate::vfs::{Entry, Error, Maker, Result, Vfs, descriptors, heartbeat};

/// Threads of other processes that are remembered as writers of one handle.
const WRITERS_REMEMBERED: usize = 64;

/// One open file description.
pub(super) struct Handle {
    pub(super) ino: Ino,
    pub(super) writable: bool,
    /// Reads past the kernel's pages.
    pub(super) is_direct: bool,
    /// The process that opened it.
    opener: u32,
    /// Threads that wrote through it.
    writers: Mutex<HashSet<u32>>,
    /// What is read through it.
    pub(super) reading: Mutex<Option<Reading>>,
}

/// A version that is being read.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) id: FileId,
    pub(super) body: Arc<Body>,
    /// No other bytes of the inode were handed out before.
    pub(super) is_first: bool,
}

impl Handle {
    /// Remembers who writes: a child that inherited the handle saves at the last close.
    pub(super) fn note_writer(&self, thread: u32) {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if thread != 0 && writers.len() < WRITERS_REMEMBERED {
            writers.insert(thread);
        }
    }

    /// Whoever opened it, and who wrote through it.
    fn processes(&self) -> Vec<u32> {
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let writers = writers.into_iter().map(descriptors::process_of);
        let mut processes: Vec<u32> = writers.chain([self.opener]).collect();
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    pub(super) fn reading(&self) -> Option<Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) fn is_writable(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The handle.
    pub handle: u64,
    /// Whether the kernel's pages of the inode are still right.
    pub keep_cache: bool,
}

impl Vfs {
    /// Opens a file. `flags` are those of `open(2)`; `thread` is the caller's. Needs a runtime.
    ///
    /// # Errors
    /// `EISDIR`, `EROFS`, `EPERM` with `--no-overwrite`, `ESTALE` if it is gone.
    pub fn open_file(self: &Arc<Self>, ino: Ino, flags: i32, thread: u32) -> Result<Opened> {
        let writable = is_writable(flags);
        let truncate = writable && flags & libc::O_TRUNC != 0;
        if writable {
            self.check_writable()?;
        }
        let empty = if truncate { Some(self.stage_empty(ino)?) } else { None };
        let mut guard = self.state();
        let state = &mut *guard;
        let node = state.tree.get(ino);
        // Taken away between the kernel's lookup and this: told so, the kernel looks the name up again. Who
        // had it open before may still read it, or open it once more through its descriptor.
        let is_gone = node.is_none_or(|node| {
            let is_written = state.writers.contains_key(&ino);
            !node.linked && if writable { !is_written } else { node.handles == 0 }
        });
        let refused = match node.map(|node| &node.kind) {
            Some(Kind::File(_)) if is_gone => Some(libc::ESTALE),
            Some(Kind::File(file)) if writable && self.config.no_overwrite && file.server.is_some() => {
                Some(libc::EPERM)
            }
            Some(Kind::File(_)) => None,
            Some(_) => Some(libc::EISDIR),
            None => Some(libc::ESTALE),
        };
        if let Some(errno) = refused {
            if let Some(staging) = empty {
                staging.discard();
            }
            return Err(Error::quiet(errno));
        }
        // Whoever empties it reads none of its bytes.
        let keep_cache = if truncate { Ok(false) } else { self.reopen(state, ino) }?;
        if writable {
            let writer = state.writer(ino)?;
            if let Some(file) = state.tree.file_mut(ino) {
                file.held = true;
            }
            if let Some(staging) = empty {
                let was_empty = state
                    .tree
                    .file(ino)
                    .is_some_and(|f| f.server.is_some() && f.size.is_some_and(|s| s.0 == 0));
                let replaced = writer.start_empty(staging, was_empty, Some(state.next_handle));
                if let Some(old) = replaced {
                    old.discard();
                }
                if !was_empty {
                    state.touched(ino);
                }
            }
        }
        if !writable {
            self.look_ahead(state, ino);
        }
        let handle = self.add_handle(state, ino, flags, thread);
        if truncate {
            state.writers.get(&ino).iter().for_each(|writer| writer.inner().is_answered());
        }
        Ok(Opened { handle, keep_cache })
    }

    /// Creates and opens a file; it is on the server after its last close.
    ///
    /// # Errors
    /// `EPERM` in the root, `EINVAL` for a name that the service cannot hold, `ENAMETOOLONG`, `EEXIST` with
    /// `O_EXCL`.
    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &OsStr,
        flags: i32,
        maker: Maker,
    ) -> Result<(Entry, Opened)> {
        self.check_writable()?;
        if parent == ROOT && self.config.container.is_none() {
            return Err(Error::told(libc::EPERM, "files live in containers: `mkdir` makes one"));
        }
        let name = names::creatable(name)?;
        self.ensure_entries(parent).await?;
        let existing = self.state().tree.child(parent, name);
        let (ino, opened) = match existing {
            Some(_) if flags & libc::O_EXCL != 0 => return Err(Error::quiet(libc::EEXIST)),
            Some(ino) if self.is_looked_at_first(ino, flags) => {
                (ino, self.open_looked_at(ino, flags, maker.thread).await?)
            }
            Some(ino) => (ino, self.open_file(ino, flags, maker.thread)?),
            None => self.create_new(parent, name, flags, maker)?,
        };
        let mut state = self.state();
        if let Some(node) = state.tree.get_mut(ino) {
            node.lookups += 1;
        }
        let node = state.tree.get(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        Ok((self.entry_of(&state, ino, node), opened))
    }

    fn create_new(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        flags: i32,
        maker: Maker,
    ) -> Result<(Ino, Opened)> {
        self.state().place_in(parent, name)?;
        let staging = Arc::new(self.journal.stage()?);
        let unfinished = staging.clone();
        let mut guard = self.state();
        let state = &mut *guard;
        let container = state.tree.container_of(parent).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        let attributes = self.attributes_of_new(maker, 0o666);
        let ino =
            state.tree.insert(parent, name, Kind::File(Box::new(FileNode::new_here(container, attributes))));
        let used = state.tree.path(parent);
        state.keep_directory(container, &used, true);
        let writer = super::writer::Writer::holding(staging, 0, None, false);
        let path = state.tree.path(ino);
        writer.inner().also_replaces(state.taken_from(ino, &path));
        state.writers.insert(ino, writer);
        // Made, it is saved, whatever it was opened for.
        let handle = self.add_handle(state, ino, flags & !libc::O_ACCMODE | libc::O_RDWR, maker.thread);
        self.makes_file(state, parent);
        drop(guard);
        self.note_unfinished(ino, &unfinished).inspect_err(|_| self.unmake(ino, handle))?;
        Ok((ino, Opened { handle, keep_cache: true }))
    }

    /// A file that nobody was told of is not there.
    fn unmake(&self, ino: Ino, handle: u64) {
        let mut state = self.state();
        state.handles.remove(&handle);
        if let Some(node) = state.tree.get_mut(ino) {
            node.handles = node.handles.saturating_sub(1);
        }
        state.tree.unlink(ino);
        let unneeded = state.drop_writer(ino);
        state.tree.reap(ino);
        drop(state);
        drop(unneeded);
    }

    fn add_handle(&self, state: &mut super::State, ino: Ino, flags: i32, thread: u32) -> u64 {
        let number = state.next_handle;
        state.next_handle += 1;
        let writable = is_writable(flags);
        // Only a writer's close has to know whose it is.
        let opener = if writable { descriptors::process_of(thread) } else { 0 };
        let (writers, reading) = Default::default();
        let is_direct = flags & libc::O_DIRECT != 0;
        let handle = Handle { ino, writable, is_direct, opener, writers, reading };
        state.handles.insert(number, Arc::new(handle));
        if let Some(node) = state.tree.get_mut(ino) {
            node.handles += 1;
        }
        number
    }

    /// Reads up to `size` bytes at `offset`; fewer at the end only.
    ///
    /// # Errors
    /// The server's; `ESTALE` if the file is gone.
    pub async fn read(self: &Arc<Self>, handle: u64, offset: u64, size: usize) -> Result<Bytes> {
        if let Some(result) = self.read_now(handle, offset, size) {
            return result;
        }
        let (number, handle) = (handle, self.state().handles.get(&handle).cloned());
        let handle = handle.ok_or_else(|| Error::quiet(libc::EBADF))?;
        // Past its cache the kernel reads once.
        let may_be_repeated = !handle.is_direct;
        let work = self.read_from_server(handle, offset, size);
        self.was_read.attempt((number, offset), may_be_repeated, work).await
    }

    async fn read_from_server(
        self: &Arc<Self>,
        handle: Arc<Handle>,
        offset: u64,
        size: usize,
    ) -> Result<Bytes> {
        let (container, server) = {
            let state = self.state();
            let file = state.tree.file(handle.ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
            let (container, server) = (file.container, file.server.clone());
            let container = state.tree.container(container).map(|container| container.container.id.clone());
            let container = container.ok_or_else(|| Error::quiet(libc::ESTALE))?;
            (container, server)
        };
        // Neither here nor there: that is no empty file.
        let server = server.ok_or_else(|| Error::quiet(libc::ESTALE))?;
        let reading = match handle.reading() {
            Some(reading) if reading.id == server.id => reading,
            _ => self.begin_to_read(&handle, &container, &server)?,
        };
        let read = reading.body.read(offset, size).await;
        if let Err(error) = &read {
            // The next read asks again.
            self.lost_track(&handle, matches!(error, download::Error::Changed));
        }
        let bytes = read.map_err(|error| self.noticed(&container, error.into()).on_open_handle())?;
        self.check_length(handle.ino, &reading, offset).await?;
        Ok(bytes)
    }

    /// The same from memory or the local disk; `None` if bytes are still on their way.
    pub fn read_now(&self, handle: u64, offset: u64, size: usize) -> Option<Result<Bytes>> {
        let number = handle;
        let (handle, writer, current, is_missing) = {
            let state = self.state();
            let Some(handle) = state.handles.get(&handle).cloned() else {
                return Some(Err(Error::quiet(libc::EBADF)));
            };
            let writer = state.writers.get(&handle.ino).cloned();
            let current = state.tree.get(handle.ino).filter(|node| node.linked);
            let current = current.and_then(|node| node.file()?.id().cloned());
            let is_missing = state.tree.file(handle.ino).is_some_and(|file| file.is_missing(offset));
            (handle, writer, current, is_missing)
        };
        if let Some(result) = writer.and_then(|writer| writer.read((number, &handle), offset, size)) {
            return Some(result.map(Bytes::from).map_err(Error::from));
        }
        let reading = handle.reading()?;
        if is_missing || current.is_some_and(|current| current != reading.id) {
            return None;
        }
        match reading.body.try_read(offset, size)? {
            Ok(bytes) => Some(Ok(bytes)),
            // Told by the path that may try again.
            Err(_) => None,
        }
    }

    /// Writes from memory; `None` if bytes must be fetched or copied first.
    pub fn write_now(&self, handle: u64, offset: u64, bytes: &[u8], thread: u32) -> Option<Result<u32>> {
        let (ino, writer) = {
            let state = self.state();
            let Some(handle) = state.handles.get(&handle) else {
                return Some(Err(Error::quiet(libc::EBADF)));
            };
            handle.note_writer(thread);
            (handle.ino, state.writers.get(&handle.ino)?.clone())
        };
        match writer.write(bytes, offset)? {
            Ok(()) => {
                self.state().touched(ino);
                Some(u32::try_from(bytes.len()).map_err(|_| Error::quiet(libc::EINVAL)))
            }
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Writes `bytes` at `offset`; returns how many, which is all.
    ///
    /// # Errors
    /// `ENOSPC` of the local disk, or the server's if the version underneath must be fetched.
    pub async fn write(&self, handle: u64, offset: u64, bytes: &[u8], thread: u32) -> Result<u32> {
        loop {
            if let Some(result) = self.write_now(handle, offset, bytes, thread) {
                return result;
            }
            let ino = self.state().handles.get(&handle).map(|handle| handle.ino);
            let ino = ino.ok_or_else(|| Error::quiet(libc::EBADF))?;
            self.prepare(ino, u64::MAX).await?;
        }
    }

    /// A descriptor was closed. Uploads if this is the close that a program waits for (DESIGN §4).
    ///
    /// # Errors
    /// The outcome of the upload.
    pub async fn flush(self: &Arc<Self>, handle: u64, thread: u32) -> Result<()> {
        let Some((ino, handle)) = self.dirty_handle(handle)? else { return Ok(()) };
        if !self.is_the_save(ino, &handle, thread) || self.is_handed_on_empty(ino, &handle) {
            return Ok(());
        }
        self.save(ino, When::Asked).await
    }

    /// Whether closing a descriptor of `handle` saves nothing.
    pub fn has_nothing_to_flush(&self, handle: u64) -> bool {
        matches!(self.dirty_handle(handle), Ok(None))
    }

    /// Whether a close by `thread` ends the writing: it is the opener's process, which has no other
    /// descriptor of the file, and no other process that wrote has one either.
    fn is_the_save(&self, ino: Ino, handle: &Handle, thread: u32) -> bool {
        let process = descriptors::process_of(thread);
        if process != handle.opener {
            return false;
        }
        let Some(&mount) = self.mount_id.get() else { return true };
        if descriptors::holds(process, mount, ino.0) {
            return false;
        }
        !handle
            .processes()
            .into_iter()
            .any(|other| other != process && descriptors::holds(other, mount, ino.0))
    }

    /// Whether a program has a descriptor of the file that it may write through. What it has closed the kernel
    /// may not have released yet.
    pub(super) fn is_held_for_writing(&self, ino: Ino) -> bool {
        let handles: Vec<Arc<Handle>> = {
            let state = self.state();
            let of_file = state.handles.values().filter(|handle| handle.ino == ino && handle.writable);
            of_file.cloned().collect()
        };
        let Some(&mount) = self.mount_id.get() else { return !handles.is_empty() };
        let mut processes = handles.iter().flat_map(|handle| handle.processes());
        processes.any(|process| descriptors::holds(process, mount, ino.0))
    }

    /// Whether a file in which nothing is yet was handed to a child: `open` and `fork` and `close`, as a
    /// shell does for `command > file`.
    fn is_handed_on_empty(&self, ino: Ino, handle: &Handle) -> bool {
        let empty = self.state().local_len(ino) == Some(0);
        let Some(&mount) = self.mount_id.get().filter(|_| empty) else { return false };
        descriptors::descendants_hold(handle.opener, mount, ino.0)
    }

    /// Saves what was written so far.
    ///
    /// # Errors
    /// The outcome of the upload.
    pub async fn fsync(self: &Arc<Self>, handle: u64) -> Result<()> {
        heartbeat::on_a_thread();
        match self.dirty_handle(handle)? {
            Some((ino, _)) => self.save(ino, When::Asked).await,
            None => Ok(()),
        }
    }

    fn dirty_handle(&self, number: u64) -> Result<Option<(Ino, Arc<Handle>)>> {
        let state = self.state();
        let handle = state.handles.get(&number).cloned().ok_or_else(|| Error::quiet(libc::EBADF))?;
        let dirty = handle.writable
            && state.writers.get(&handle.ino).is_some_and(|writer| {
                let mut inner = writer.inner();
                inner.is_called_through(number);
                inner.is_dirty()
            });
        Ok(dirty.then_some((handle.ino, handle)))
    }

    /// The last descriptor of a handle is closed. Answered at once; what is left to send goes behind.
    pub fn release(self: &Arc<Self>, handle: u64) {
        let mut state = self.state();
        let Some(handle) = state.handles.remove(&handle) else { return };
        let ino = handle.ino;
        let Some(node) = state.tree.get_mut(ino) else { return };
        node.handles = node.handles.saturating_sub(1);
        let (last, linked) = (node.handles == 0, node.linked);
        let removed = (!linked && last).then(|| state.drop_writer(ino));
        let dirty = state.writers.get(&ino).is_some_and(|writer| {
            let inner = writer.inner();
            inner.is_dirty() && !inner.has_failed()
        });
        let save = linked && dirty && handle.writable && !state.open_for_writing(ino);
        let unneeded = state.retire_writer(ino);
        let deferred = if last { state.deferred.remove(&ino) } else { None };
        let resting = if last { state.writers.get(&ino).cloned() } else { None };
        state.tree.reap(ino);
        drop(state);
        drop((removed, unneeded));
        resting.iter().for_each(|writer| writer.rest());
        let vfs = self.clone();
        if save {
            self.behind.spawn(async move {
                if let Err(error) = vfs.save(ino, When::Closed).await {
                    tracing::warn!(%error, "a file could not be uploaded after its last close; its bytes are kept");
                }
            });
        } else if let Some(unwanted) = deferred {
            self.behind.spawn(async move { vfs.delete(unwanted).await });
        }
    }
}
