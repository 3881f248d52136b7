//! What `stat` shows.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::namespace::inode::{FileNode, Ino, Kind, Node};
use crate::namespace::records::Attributes;
use crate::vfs::{Error, Result, State, Vfs};

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
    /// Modification time in nanoseconds since the epoch.
    pub mtime: Option<i64>,
    /// The open handle, if the change came through one.
    pub handle: Option<u64>,
}

const NANOS: i64 = 1_000_000_000;

/// Now, in nanoseconds since the epoch.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
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
        self.ensure_size(ino).await?;
        let state = self.state();
        let node = state.tree.get(ino).filter(|node| node.linked || node.handles > 0);
        let node = node.ok_or_else(|| Error::quiet(libc::ENOENT))?;
        Ok(self.entry_of(&state, ino, node))
    }

    /// Attributes of an inode if memory has them.
    pub fn getattr_now(&self, ino: Ino) -> Option<Result<Entry>> {
        let state = self.state();
        let Some(node) = state.tree.get(ino) else { return Some(Err(Error::quiet(libc::ESTALE))) };
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
    /// `EPERM` on containers, or what the save meets.
    pub async fn setattr(self: &Arc<Self>, ino: Ino, change: SetAttr) -> Result<Entry> {
        self.check_writable()?;
        if let Some(size) = change.size {
            self.truncate(ino, size, change.handle).await?;
        }
        self.change_attributes(ino, change);
        self.getattr(ino).await
    }

    fn change_attributes(&self, ino: Ino, change: SetAttr) {
        if change.mode.is_none() && change.uid.is_none() && change.gid.is_none() && change.mtime.is_none() {
            return;
        }
        let mut state = self.state();
        let Some(file) = state.tree.file_mut(ino) else { return };
        let attributes = &mut file.attributes;
        attributes.mode = change.mode.map(|mode| mode & 0o7777).or(attributes.mode);
        attributes.uid = change.uid.or(attributes.uid);
        attributes.gid = change.gid.or(attributes.gid);
        attributes.mtime = change.mtime.or(attributes.mtime);
        attributes.ctime = Some(now());
        state.remember(ino);
    }

    /// The length in bytes, if it is known and still trusted.
    pub(super) fn size_of(&self, file: &FileNode) -> Option<u64> {
        let (size, learnt) = file.size?;
        let told = file.size_is_ours || file.server.as_ref().is_some_and(|server| server.bytes.is_some());
        (told || learnt.elapsed() < self.config.content_ttl).then_some(size)
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
        let directory = |seconds: i64, nlink| Attr {
            ino,
            kind: FileKind::Directory,
            size: 4096,
            mtime: seconds.saturating_mul(NANOS),
            ctime: seconds.saturating_mul(NANOS),
            mode: 0o777 & !self.config.umask,
            nlink,
            uid: self.config.uid,
            gid: self.config.gid,
        };
        match &node.kind {
            Kind::Root(_) => directory(0, 2),
            Kind::Container(container) => directory(container.container.created_at, 2),
            Kind::Directory(inside) => {
                let created = state.tree.container(inside.container).map_or(0, |c| c.container.created_at);
                directory(created, 2)
            }
            Kind::Link(target) => {
                let mut attr = directory(0, 1);
                (attr.kind, attr.size, attr.mode) = (FileKind::Symlink, target.len() as u64, 0o777);
                attr
            }
            Kind::File(file) => {
                let local = state.local_len(ino);
                let created =
                    file.server.as_ref().map_or(0, |server| server.created_at.saturating_mul(NANOS));
                let Attributes { mtime, ctime, mode, uid, gid } = file.attributes;
                Attr {
                    ino,
                    kind: FileKind::File,
                    size: local.or(file.size.map(|(size, _)| size)).unwrap_or(0),
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
        let listed = self.listed_at(state, ino);
        let age = listed.map_or(Duration::MAX, |listed: Instant| listed.elapsed());
        self.config.ttl.saturating_sub(age)
    }
}

impl State {
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
