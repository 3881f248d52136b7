//! What `stat` shows.

use std::sync::Arc;
use std::time::Duration;

use crate::api::ContainerId;
pub use crate::namespace::inode::now;
use crate::namespace::inode::{FileNode, Ino, Kind, Node};
use crate::namespace::records::Attributes;
use crate::vfs::{Error, Invalidation, Result, State, Vfs};

/// What kind of thing an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A container or a directory in one.
    Directory,
    /// A file.
    File,
    /// A container's id.
    Symlink,
}

/// Attributes of an inode. Times are nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Access time; reading does not change it.
    pub atime: i64,
    /// Modification time.
    pub mtime: i64,
    /// Change time.
    pub ctime: i64,
    /// Permission bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Attributes, and how long they may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The attributes.
    pub attr: Attr,
    /// How long the kernel may keep the name and the attributes.
    pub ttl: Duration,
}

/// What `setattr` changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time in nanoseconds since the epoch.
    pub atime: Option<i64>,
    /// Modification time in nanoseconds since the epoch.
    pub mtime: Option<i64>,
    /// The open handle, if the change came through one.
    pub handle: Option<u64>,
}

/// Who makes something, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Maker {
    /// Permission bits of what is made.
    pub mode: u32,
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The thread; 0 if none is known.
    pub thread: u32,
}

const NANOS: i64 = 1_000_000_000;

impl SetAttr {
    fn is_kept_here(&self) -> bool {
        self.mode.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.atime.is_some()
            || self.mtime.is_some()
    }

    fn apply(&self, attributes: &mut Attributes) {
        attributes.mode = self.mode.map(|mode| mode & 0o7777).or(attributes.mode);
        attributes.uid = self.uid.or(attributes.uid);
        attributes.gid = self.gid.or(attributes.gid);
        attributes.atime = self.atime.or(attributes.atime);
        attributes.mtime = self.mtime.or(attributes.mtime);
        attributes.ctime = Some(now());
    }
}

impl Vfs {
    /// Attributes of an inode.
    ///
    /// # Errors
    /// `ESTALE` or `ENOENT` if it is gone, or the server's when a size must be asked for.
    pub async fn getattr(self: &Arc<Self>, ino: Ino) -> Result<Entry> {
        if let Some(result) = self.getattr_now(ino) {
            return result;
        }
        self.ensure_fresh_of(ino).await?;
        let place = self.state().tree.get(ino).map(|node| (node.parent, node.name.clone()));
        self.ensure_size(ino).await?;
        let state = self.state();
        let is_there = |node: &&Node| node.linked || node.handles > 0 || matches!(node.kind, Kind::Link(_));
        let node = state.tree.get(ino).filter(is_there);
        // Another version may stand in its place.
        let is_replaced = || place.is_some_and(|(parent, name)| state.tree.child(parent, &name).is_some());
        let gone = || Error::quiet(if is_replaced() { libc::ESTALE } else { libc::ENOENT });
        let node = node.ok_or_else(gone)?;
        Ok(self.entry_of(&state, ino, node))
    }

    /// Attributes of an inode if memory has them.
    pub fn getattr_now(&self, ino: Ino) -> Option<Result<Entry>> {
        let state = self.state();
        let is_there = |node: &&Node| node.linked || node.handles > 0 || matches!(node.kind, Kind::Link(_));
        let node = state.tree.get(ino).filter(is_there);
        // Whoever came by a name that is no more looks it up again.
        let Some(node) = node else { return Some(Err(Error::quiet(libc::ESTALE))) };
        if node.handles == 0 && state.local_len(ino).is_none() && !self.is_fresh(&state, ino) {
            return None;
        }
        if let Kind::File(file) = &node.kind
            && state.local_len(ino).is_none()
            && self.size_of(file).is_none()
        {
            return None;
        }
        Some(Ok(self.entry_of(&state, ino, node)))
    }

    /// Changes attributes. Times, modes and owners are kept in the local state; a size by path is a save.
    ///
    /// # Errors
    /// What the save meets.
    pub async fn setattr(self: &Arc<Self>, ino: Ino, change: SetAttr) -> Result<Entry> {
        self.check_writable()?;
        if let Some(size) = change.size
            && let Err(error) = self.truncate(ino, size, change.handle).await
        {
            // The bytes are as they were asked for, though they were not saved, and the kernel has the old length.
            self.invalidate_now(Invalidation::Attributes(ino)).await;
            return Err(error);
        }
        self.change_attributes(ino, change);
        self.getattr(ino).await
    }

    fn change_attributes(self: &Arc<Self>, ino: Ino, change: SetAttr) {
        if !change.is_kept_here() {
            return;
        }
        let mut state = self.state();
        if let Some(file) = state.tree.file_mut(ino) {
            change.apply(&mut file.attributes);
            state.remember(ino);
            self.note_attributes(&state, ino);
        } else if let Some((container, path)) = state.directory_key(ino) {
            let mut attributes = state.directory_attributes(ino);
            change.apply(&mut attributes);
            state.records.set_directory_attributes(&container, &path, attributes);
            if let Some(node) = state.tree.get_mut(ino) {
                node.changed = None;
            }
        }
    }

    /// Attributes of a file have changed that may have a note beside bytes that are not on the server.
    fn note_attributes(self: &Arc<Self>, state: &State, ino: Ino) {
        let writer = state.writers.get(&ino).filter(|writer| writer.inner().begins_to_note_attributes());
        let Some(writer) = writer.cloned() else { return };
        let vfs = self.clone();
        self.behind.spawn_blocking(move || {
            let Some(staging) = writer.inner().notes_attributes() else { return };
            let are = || vfs.state().tree.file(ino).map(|file| file.attributes);
            if let Err(error) = staging.note_attributes(are) {
                tracing::warn!(%error, "times and mode of an unsent file would be older after a crash");
            }
        });
    }

    /// What differs from what `stat` would show anyway of something that was made just now.
    pub(super) fn attributes_of_new(&self, maker: Maker, usual_mode: u32) -> Attributes {
        let differs = |given: u32, usual: u32| (given != usual).then_some(given);
        let theirs = self.config.makers_own;
        let now = now();
        Attributes {
            atime: None,
            mtime: Some(now),
            ctime: Some(now),
            mode: differs(maker.mode & 0o7777, usual_mode & !self.config.umask),
            uid: differs(maker.uid, self.config.uid).filter(|_| theirs),
            gid: differs(maker.gid, self.config.gid).filter(|_| theirs),
        }
    }

    /// The length in bytes, if it is known and still trusted.
    pub(super) fn size_of(&self, file: &FileNode) -> Option<u64> {
        let (size, learnt) = file.size?;
        (file.length_is_told() || learnt.elapsed() < self.config.content_ttl).then_some(size)
    }

    pub(super) fn entry_of(&self, state: &State, ino: Ino, node: &Node) -> Entry {
        let ttl = self.remaining(state, ino);
        let ttl = match &node.kind {
            Kind::File(file) if state.local_len(ino).is_none() && self.size_of(file).is_none() => {
                Duration::ZERO
            }
            _ => ttl,
        };
        Entry { attr: self.attr_of(state, ino, node), ttl }
    }

    fn attr_of(&self, state: &State, ino: Ino, node: &Node) -> Attr {
        let directory = |created_at: i64| {
            let created = created_at.saturating_mul(NANOS);
            let Attributes { atime, mtime, ctime, mode, uid, gid } = state.directory_attributes(ino);
            let mtime = mtime.unwrap_or(created);
            Attr {
                ino,
                kind: FileKind::Directory,
                size: 4096,
                atime: atime.unwrap_or(mtime),
                mtime,
                ctime: ctime.unwrap_or(mtime),
                mode: mode.unwrap_or(0o777 & !self.config.umask),
                nlink: if node.linked { 2 + node.subdirectories } else { 0 },
                uid: uid.unwrap_or(self.config.uid),
                gid: gid.unwrap_or(self.config.gid),
            }
        };
        match &node.kind {
            Kind::Root(_) => directory(self.since.as_second()),
            Kind::Container(container) => directory(container.container.created_at),
            Kind::Directory(inside) => {
                directory(state.tree.container(inside.container).map_or(0, |c| c.container.created_at))
            }
            Kind::Link(target) => Attr {
                ino,
                kind: FileKind::Symlink,
                size: target.len() as u64,
                atime: 0,
                mtime: 0,
                ctime: 0,
                mode: 0o777,
                nlink: 1,
                uid: self.config.uid,
                gid: self.config.gid,
            },
            Kind::File(file) => {
                let local = state.local_len(ino);
                let created =
                    file.server.as_ref().map_or(0, |server| server.created_at.saturating_mul(NANOS));
                let Attributes { atime, mtime, ctime, mode, uid, gid } = file.attributes;
                Attr {
                    ino,
                    kind: FileKind::File,
                    size: local.or(file.size.map(|(size, _)| size)).unwrap_or(0),
                    atime: atime.or(mtime).unwrap_or(created),
                    mtime: mtime.unwrap_or(created),
                    ctime: ctime.or(mtime).unwrap_or(created),
                    mode: mode.unwrap_or(0o666 & !self.config.umask),
                    nlink: u32::from(node.linked),
                    uid: uid.unwrap_or(self.config.uid),
                    gid: gid.unwrap_or(self.config.gid),
                }
            }
        }
    }

    /// Entries of containers and of their files age with the list that they come from.
    fn remaining(&self, state: &State, ino: Ino) -> Duration {
        if state.is_being_renamed_behind(ino) {
            return Duration::ZERO;
        }
        let listed = self.listed_at(state, ino);
        let age = listed.map_or(Duration::MAX, |listed| listed.age());
        self.config.ttl.saturating_sub(age)
    }
}

impl State {
    /// Under what the attributes of a directory are remembered: the root belongs to no container.
    fn directory_key(&self, ino: Ino) -> Option<(ContainerId, String)> {
        match &self.tree.get(ino)?.kind {
            Kind::Root(_) => Some((ContainerId::from(""), String::new())),
            Kind::Container(container) => Some((container.container.id.clone(), String::new())),
            Kind::Directory(directory) => {
                let container = self.tree.container(directory.container)?.container.id.clone();
                Some((container, directory.path.clone()))
            }
            Kind::File(_) | Kind::Link(_) => None,
        }
    }

    /// What was set on a directory, with the times of the last change of its entries.
    fn directory_attributes(&self, ino: Ino) -> Attributes {
        let Some((container, path)) = self.directory_key(ino) else { return Attributes::default() };
        let mut attributes = self.records.directory_attributes(&container, &path);
        if let Some(changed) = self.tree.get(ino).and_then(|node| node.changed) {
            attributes.mtime = Some(changed);
            attributes.ctime = Some(changed);
        }
        attributes
    }

    /// Remembers what a directory was made with.
    pub(super) fn directory_made(&mut self, ino: Ino, attributes: Attributes) {
        if let Some((container, path)) = self.directory_key(ino) {
            self.records.set_directory_attributes(&container, &path, attributes);
        }
    }

    /// Writes down when the entries of directories last changed.
    pub(super) fn remember_directories(&mut self) {
        for (ino, _) in self.tree.changed_directories() {
            if let Some((container, path)) = self.directory_key(ino) {
                let attributes = self.directory_attributes(ino);
                self.records.set_directory_attributes(&container, &path, attributes);
            }
        }
    }

    /// Writes down the name and attributes of a file that is on the server.
    pub(super) fn remember(&mut self, ino: Ino) {
        let Some(file) = self.tree.file(ino) else { return };
        let Some(id) = file.id().cloned() else { return };
        let attributes = file.attributes;
        let ours = file.size_is_ours;
        let Some(container) = self.tree.container(file.container) else { return };
        let container = container.container.id.clone();
        // Where it goes is not where its version on the server is.
        let moved = self.writers.get(&ino).is_some_and(|writer| writer.inner().renamed_from.is_some());
        let path = (ours && !moved && self.shelved_from(ino).is_none()).then(|| self.tree.path(ino));
        self.records.remember_file(&container, &id, path, attributes);
    }
}
