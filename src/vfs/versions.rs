//! A file that a model wrote may be another one under the same id.
//!
//! Its bytes are trusted for `--content-ttl`, then asked for again. If they are found to be others, another
//! inode stands under the name, and whoever has the old one open goes on with what was opened. Where they
//! cannot be compared, because not all of them were here, nobody is shown a mixture all the same: the kernel
//! drops its pages at the next open, or, as long as somebody has the old inode open, is sent to a new one.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::api::{self, ContainerId, FileId};
use crate::content::{Body, Key};
use crate::namespace::inode::{FileNode, Ino, Kind};
use crate::namespace::trust::Doubt;
use crate::vfs::file::{Handle, Opened, Reading, is_writable};
use crate::vfs::{Error, Invalidation, Result, State, Vfs};

/// Bytes of a file up to which it is fetched whole to be compared with what it was.
const WORTH_COMPARING: u64 = 1 << 20;

impl Vfs {
    /// Bytes of what a model wrote are asked for again once they are older than the content TTL.
    pub(super) fn distrust_old_content(&self, state: &mut State, ino: Ino) {
        let Some(file) = state.tree.file_mut(ino).filter(|file| !file.is_for_good()) else { return };
        if file.trust.asked.is_some_and(|at| at.elapsed() < self.config.content_ttl) {
            return;
        }
        let is_first = file.trust.asked.replace(Instant::now()).is_none();
        if !is_first {
            self.doubt(state, ino);
        }
    }

    /// The bytes that were handed out may not be the server's any more. Who has them open keeps them.
    fn doubt(&self, state: &mut State, ino: Ino) {
        let Some((container, server)) = state.version(ino) else { return };
        for handle in state.handles.values().filter(|handle| handle.ino == ino && handle.reading().is_none())
        {
            if let Some(body) = self.downloads.present(&container, &server) {
                handle.reads(Reading { id: server.id.clone(), body: Arc::new(body), is_first: false });
            }
        }
        let sum = self.downloads.cache().remove(&Key::new(&container, &server));
        let Some(file) = state.tree.file_mut(ino) else { return };
        if file.trust.handed_out && !file.held {
            let len = file.size.map(|(len, _)| len);
            file.trust.doubt.get_or_insert(Doubt { len, sum });
        }
    }

    /// The length of a version is known again: `len`. Finds out whether its bytes are what they were.
    pub(super) async fn learnt_again(
        &self,
        ino: Ino,
        (container, server): (&ContainerId, &api::File),
        body: &Body,
        len: u64,
    ) {
        let doubt = self.state().tree.file(ino).and_then(|file| file.trust.doubt.clone());
        let is_open_question = |doubt: &Doubt| doubt.sum.is_some() && doubt.is_about(len, None).is_none();
        if len <= WORTH_COMPARING && doubt.as_ref().is_some_and(is_open_question) {
            // What cannot be compared stays in doubt.
            let _ = body.whole().await;
        }
        let sum = self.downloads.cache().sum(&Key::new(container, server));
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(file) = state.tree.file_mut(ino).filter(|file| file.id() == Some(&server.id)) else {
            return;
        };
        match file.trust.doubt.as_ref().and_then(|doubt| doubt.is_about(len, sum.as_deref())) {
            Some(false) => return self.renew(state, ino, Some(len)),
            Some(true) => file.trust.doubt = None,
            None => {}
        }
        let before = file.size.replace((len, Instant::now()));
        if before.is_some_and(|(before, _)| before != len) {
            self.invalidate(Invalidation::Attributes(ino));
        }
    }

    /// Somebody opens a file. Returns whether the kernel's pages of it are right.
    ///
    /// # Errors
    /// `ESTALE`: they are not, and somebody reads them, or they are of a version that cannot be had any more.
    /// The kernel looks again and finds another inode.
    pub(super) fn reopen(&self, state: &mut State, ino: Ino) -> Result<bool> {
        let asked = state.tree.file(ino).and_then(|file| file.trust.asked);
        self.distrust_old_content(state, ino);
        let Some((container, server)) = state.version(ino) else { return Ok(true) };
        let is_open = state.tree.get(ino).is_some_and(|node| node.handles > 0);
        let is_past = state.tree.file(ino).is_some_and(|file| file.trust.past);
        if is_past && state.read_by_others(ino, &server.id).is_none() {
            return Err(Error::quiet(libc::ESTALE));
        }
        let Some(file) = state.tree.file_mut(ino).filter(|file| !file.is_for_good()) else { return Ok(true) };
        if file.held {
            return Ok(asked.is_none() || asked == file.trust.asked);
        }
        let is_lost = || !is_open && !self.downloads.has(&Key::new(&container, &server));
        if !file.trust.handed_out || (file.trust.doubt.is_none() && !is_lost()) {
            return Ok(true);
        }
        if is_open {
            self.renew(state, ino, None);
            return Err(Error::quiet(libc::ESTALE));
        }
        (file.trust.doubt, file.trust.handed_out) = (None, false);
        Ok(false)
    }

    /// Whether a file has to be looked at before it is opened with `flags`: what a model wrote may be another by now,
    /// and a program that changes a part of it, or appends, goes by its length.
    pub fn is_looked_at_first(&self, ino: Ino, flags: i32) -> bool {
        if !is_writable(flags) || flags & libc::O_TRUNC != 0 {
            return false;
        }
        let state = self.state();
        let is_settled = |file: &FileNode| file.server.is_none() || file.is_for_good() || file.held;
        state.local_len(ino).is_none() && state.tree.file(ino).is_some_and(|file| !is_settled(file))
    }

    /// Opens such a file. What comes of it is what the changes are made to.
    ///
    /// # Errors
    /// Those of [`Vfs::open_file`]; `ESTALE` if it has another length: the kernel looks again and finds another
    /// inode.
    pub async fn open_looked_at(self: &Arc<Self>, ino: Ino, flags: i32, thread: u32) -> Result<Opened> {
        let looked_at = self.look_at(ino).await?;
        let opened = self.open_file(ino, flags, thread)?;
        let handle = self.state().handles.get(&opened.handle).cloned();
        if let (Some(handle), Some(reading)) = (handle, looked_at) {
            handle.reads(reading);
        }
        Ok(opened)
    }

    async fn look_at(self: &Arc<Self>, ino: Ino) -> Result<Option<Reading>> {
        let (container, server) = {
            let mut state = self.state();
            self.distrust_old_content(&mut state, ino);
            let Some(version) = state.version(ino) else { return Ok(None) };
            if let Some(file) = state.tree.file_mut(ino) {
                file.trust.asked.get_or_insert_with(Instant::now);
            }
            version
        };
        let body = Arc::new(self.downloads.fetch(&container, &server));
        // An error is told by the change.
        let Ok(len) = body.total().await else { return Ok(None) };
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(file) = state.tree.file_mut(ino).filter(|file| file.id() == Some(&server.id)) else {
            return Ok(None);
        };
        if file.size.replace((len, Instant::now())).is_some_and(|(before, _)| before != len) {
            self.renew(state, ino, Some(len));
            return Err(Error::quiet(libc::ESTALE));
        }
        Ok(Some(Reading { id: server.id.clone(), body, is_first: false }))
    }

    /// A POST under this path has no answer: a server that keeps ids may have given what stands there other bytes, of the
    /// same length and in the same second.
    pub(super) async fn look_for_another(&self, container: &ContainerId, path: &str, stood: &[FileId]) {
        if !self.have_taken_their_place(container, stood).await.is_ok_and(|taken| !taken) {
            // What stood there is gone, and its bytes are here alone; or nobody says.
            return;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(&container) = state.tree.containers.get(container) else { return };
        let Some(ino) = state.tree.find(container, path) else { return };
        if state.tree.file(ino).is_some_and(|file| !file.held) {
            self.doubt(state, ino);
            self.renew(state, ino, None);
            // If it has another length, the next list tells.
            if let Some(container) = state.tree.container_mut(container) {
                container.listed = None;
            }
        }
    }

    /// Another inode stands under the name of `ino`, for a version of `len` bytes if that is known.
    fn renew(&self, state: &mut State, ino: Ino, len: Option<u64>) {
        let Some(node) = state.tree.get(ino).filter(|node| node.linked) else { return };
        let (parent, name) = (node.parent, node.name.clone());
        let Some(file) = state.tree.file_mut(ino).filter(|file| !file.held) else { return };
        let Some(server) = file.server.clone() else { return };
        file.trust.past = true;
        let now = Instant::now();
        let mut fresh = FileNode::listed(file.container, server, file.attributes, now);
        (fresh.settled, fresh.seen, fresh.trust.asked) = (file.settled, file.seen, file.trust.asked);
        fresh.size = len.map(|len| (len, now)).or(fresh.size);
        state.tree.unlink(ino);
        state.tree.insert(parent, &name, Kind::File(Box::new(fresh)));
        self.invalidate(Invalidation::Attributes(ino));
    }

    /// The bytes that `handle` reads, asked for if need be: those that others read who have the same inode
    /// open.
    ///
    /// # Errors
    /// `ESTALE` if they are of a version that cannot be had any more.
    pub(super) fn begin_to_read(
        self: &Arc<Self>,
        handle: &Handle,
        container: &ContainerId,
        server: &api::File,
    ) -> Result<Reading> {
        let mut guard = self.state();
        let state = &mut *guard;
        let file = state.tree.file_mut(handle.ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        file.trust.asked.get_or_insert_with(Instant::now);
        let (is_past, is_for_good) = (file.trust.past, file.is_for_good() && !file.trust.past);
        let is_first = !std::mem::replace(&mut file.trust.handed_out, true);
        let shared = if is_for_good { None } else { state.read_by_others(handle.ino, &server.id) };
        drop(guard);
        let reading = match shared {
            Some(reading) => reading,
            None if is_past => return Err(Error::quiet(libc::ESTALE)),
            None => {
                let body = Arc::new(self.downloads.fetch(container, server));
                Reading { id: server.id.clone(), body, is_first }
            }
        };
        handle.reads(reading.clone());
        Ok(reading)
    }

    /// Bytes at `offset` have come, and with them the length. What the kernel thinks of it is put right before
    /// it has them.
    ///
    /// # Errors
    /// `ESTALE` if they are not what was handed out before, or if there were to be bytes at `offset`, and are
    /// none.
    pub(super) async fn check_length(&self, ino: Ino, reading: &Reading, offset: u64) -> Result<()> {
        let Some(len) = reading.body.known_len() else { return Ok(()) };
        let changed = || Error::told(libc::ESTALE, "the file changed on the server while it was read");
        {
            let mut state = self.state();
            let Some(file) = state.tree.file_mut(ino).filter(|file| file.id() == Some(&reading.id)) else {
                return Ok(());
            };
            let before = file.size.map(|(before, _)| before);
            if before != Some(len) && !file.trust.past {
                if before.is_some() && !reading.is_first && !file.is_for_good() {
                    file.trust.doubt.get_or_insert(Doubt { len: before, sum: None });
                    return Err(changed());
                }
                file.size = Some((len, Instant::now()));
                file.trust.promised = before.filter(|before| *before > len);
            }
            if file.is_missing(offset) {
                return Err(changed());
            }
            // What is missing at the end the kernel takes for the end; not so if it is invalidated meanwhile.
            if before == Some(len) || file.trust.past || file.trust.promised.is_some() {
                return Ok(());
            }
        }
        self.invalidate_now(Invalidation::Attributes(ino)).await;
        Ok(())
    }

    /// A read has failed: what is asked for next may be another version, or is known to be.
    pub(super) fn lost_track(&self, handle: &Handle, is_another: bool) {
        handle.forget_what_is_read();
        let mut state = self.state();
        let Some(file) = state.tree.file_mut(handle.ino).filter(|file| !file.is_for_good()) else { return };
        let len = file.size.map(|(len, _)| len);
        file.trust.doubt.get_or_insert(Doubt { len, sum: None });
        if is_another {
            self.renew(&mut state, handle.ino, None);
        }
    }
}

impl State {
    /// What those read who have `ino` open, if it is of version `id` and whole or on its way.
    fn read_by_others(&self, ino: Ino, id: &api::FileId) -> Option<Reading> {
        let handles = self.handles.values().filter(|handle| handle.ino == ino);
        handles.filter_map(|handle| handle.reading()).find(|read| read.id == *id && !read.body.has_failed())
    }

    /// The version on the server that a file shows.
    fn version(&self, ino: Ino) -> Option<(ContainerId, Arc<api::File>)> {
        let file = self.tree.file(ino)?;
        Some((self.tree.container(file.container)?.container.id.clone(), file.server.clone()?))
    }
}

impl Handle {
    fn reads(&self, reading: Reading) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    fn forget_what_is_read(&self) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
