//! The callbacks: a span, one call into the filesystem, the reply.
//!
//! What memory can answer is answered on the reader thread; everything else goes to the runtime together with
//! its reply. RELEASE is answered at once: the kernel lets nobody wait for it, and would count it against the
//! background requests of the mount.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tracing::Instrument;

use super::call::{Call, Meters, Operation};
use super::convert::{self, attributes, errno, ino};
use super::watchdog::Watchdog;
use crate::api::budget;
use crate::vfs::{Entry, Found, Maker, Opened, Result, SetAttr, Vfs};

/// The largest write the kernel may send in one request, in bytes.
const MAX_WRITE: u32 = 1 << 20;

/// Read-ahead that is asked for, in bytes; the kernel grants what root has allowed.
const READ_AHEAD: u32 = 1 << 20;

/// Requests that the kernel may have under way behind its callers.
const BACKGROUND: u16 = 128;

/// Block size of `statfs`, in bytes.
const BLOCK: u64 = 4096;

/// Inode numbers are never used again within a mount.
const GENERATION: Generation = Generation(0);

/// Answers the kernel.
pub(super) struct Adapter {
    vfs: Arc<Vfs>,
    runtime: Handle,
    meters: Arc<Meters>,
    watchdog: Arc<Watchdog>,
}

/// Begins a call, in a span with the id of the kernel's request.
macro_rules! call {
    ($self:ident, $req:ident, $operation:ident $(, $($field:tt)+)?) => {
        Call::new(
            Operation::$operation,
            tracing::debug_span!(
                "fuse",
                operation = Operation::$operation.name(),
                request = $req.unique().0,
                pid = $req.pid(),
                $($($field)+)?
            ),
            $self.meters.clone(),
            $self.watchdog.open(),
        )
    };
}

/// Sends the outcome, and tells the error.
macro_rules! answer {
    ($vfs:expr, $call:ident, $reply:ident, $outcome:expr, $value:pat => $sent:expr) => {
        match $outcome {
            Ok($value) => $sent,
            Err(error) => {
                let mut call = $call;
                call.span().in_scope(|| $vfs.tell(call.name(), &error));
                call.failed(&error);
                $reply.error(errno(&error));
            }
        }
    };
}

/// Does the rest on the runtime, with the reply.
macro_rules! later {
    ($self:ident, $call:ident, $vfs:ident => $work:expr) => {{
        let $vfs = $self.vfs.clone();
        let (limit, span) = ($vfs.config().timeout, $call.span().clone());
        $self.runtime.spawn(budget::within(limit, async move { $work }).instrument(span));
    }};
}

impl Adapter {
    pub(super) fn new(vfs: Arc<Vfs>, runtime: Handle, watchdog: Arc<Watchdog>) -> Self {
        Self { vfs, runtime, meters: Meters::new(), watchdog }
    }
}

fn found(vfs: &Vfs, call: Call, outcome: Result<Found>, reply: ReplyEntry) {
    answer!(vfs, call, reply, outcome, found => match found {
        Found::Entry(entry) => shown(&entry, reply),
        Found::Nothing(ttl) if ttl.is_zero() => reply.error(Errno::ENOENT),
        Found::Nothing(ttl) => reply.entry(&ttl, &convert::no_entry(), GENERATION),
    });
}

fn maker(req: &Request, mode: u32) -> Maker {
    Maker { mode, uid: req.uid(), gid: req.gid(), thread: req.pid() }
}

fn shown(entry: &Entry, reply: ReplyEntry) {
    reply.entry(&entry.ttl, &attributes(&entry.attr), GENERATION);
}

fn created((entry, opened): (Entry, Opened), reply: ReplyCreate) {
    let flags = convert::open_flags(&opened);
    reply.created(&entry.ttl, &attributes(&entry.attr), GENERATION, FileHandle(opened.handle), flags);
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without ATOMIC_O_TRUNC an open with O_TRUNC sends a SETATTR that looks like truncate(2), a save of
        // its own.
        let required = InitFlags::FUSE_ATOMIC_O_TRUNC;
        if config.add_capabilities(required).is_err() {
            return Err(io::Error::other(
                "this kernel's FUSE is too old: it cannot open and truncate in one step",
            ));
        }
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(MAX_WRITE);
        if let Err(most) = config.set_max_readahead(READ_AHEAD) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_time_granularity(Duration::from_nanos(1));
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let call = call!(self, req, Lookup, parent = parent.0, entry = ?name);
        let parent = ino(parent);
        if let Some(outcome) = self.vfs.lookup_now(parent, name) {
            return found(&self.vfs, call, outcome, reply);
        }
        let name = name.to_owned();
        later!(self, call, vfs => found(&vfs, call, vfs.lookup(parent, &name).await, reply));
    }

    fn forget(&self, _req: &Request, of: INodeNo, count: u64) {
        let _open = self.watchdog.open();
        self.vfs.forget(ino(of), count);
    }

    fn getattr(&self, req: &Request, of: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let call = call!(self, req, Getattr, ino = of.0);
        let of = ino(of);
        if let Some(outcome) = self.vfs.getattr_now(of) {
            answer!(self.vfs, call, reply, outcome, entry => reply.attr(&entry.ttl, &attributes(&entry.attr)));
            return;
        }
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.getattr(of).await,
            entry => reply.attr(&entry.ttl, &attributes(&entry.attr))));
    }

    fn setattr(
        &self,
        req: &Request,
        of: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let call = call!(self, req, Setattr, ino = of.0, ?size, ?mode);
        let (atime, mtime) = (atime.map(convert::nanoseconds), mtime.map(convert::nanoseconds));
        let change = SetAttr { mode, uid, gid, size, atime, mtime, handle: handle.map(|handle| handle.0) };
        let of = ino(of);
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.setattr(of, change).await,
            entry => reply.attr(&entry.ttl, &attributes(&entry.attr))));
    }

    fn readlink(&self, req: &Request, of: INodeNo, reply: ReplyData) {
        let call = call!(self, req, Readlink, ino = of.0);
        answer!(self.vfs, call, reply, self.vfs.readlink(ino(of)), target => reply.data(target.as_bytes()));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG && mode & libc::S_IFMT != 0 {
            return reply.error(Errno::EPERM);
        }
        let call = call!(self, req, Mknod, parent = parent.0, entry = ?name, mode);
        let (parent, name, maker) = (ino(parent), name.to_owned(), maker(req, mode));
        later!(self, call, vfs => {
            let flags = libc::O_EXCL | libc::O_WRONLY;
            let made = vfs.create(parent, &name, flags, maker).await;
            answer!(vfs, call, reply, made, (entry, opened) => {
                vfs.release(opened.handle);
                shown(&entry, reply);
            });
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let call = call!(self, req, Mkdir, parent = parent.0, entry = ?name);
        let (parent, name, maker) = (ino(parent), name.to_owned(), maker(req, mode));
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.mkdir(parent, &name, maker).await, entry => shown(&entry, reply)));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let call = call!(self, req, Unlink, parent = parent.0, entry = ?name);
        let (parent, name) = (ino(parent), name.to_owned());
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.unlink(parent, &name).await, () => reply.ok()));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let call = call!(self, req, Rmdir, parent = parent.0, entry = ?name);
        let (parent, name) = (ino(parent), name.to_owned());
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.rmdir(parent, &name).await, () => reply.ok()));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let call = call!(self, req, Rename, parent = parent.0, entry = ?name, to = to.0, ?to_name);
        let (parent, name, to, to_name) = (ino(parent), name.to_owned(), ino(to), to_name.to_owned());
        later!(self, call, vfs => {
            let outcome = vfs.rename(parent, &name, to, &to_name, flags.bits()).await;
            answer!(vfs, call, reply, outcome, () => reply.ok());
        });
    }

    fn open(&self, req: &Request, of: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let call = call!(self, req, Open, ino = of.0, flags = flags.0);
        let (of, thread) = (ino(of), req.pid());
        let told = move |opened: Opened, reply: ReplyOpen| {
            let kernel_flags = convert::open_flags(&opened) | convert::close_flags(flags);
            reply.opened(FileHandle(opened.handle), kernel_flags);
        };
        if self.vfs.is_looked_at_first(of, flags.0) {
            later!(self, call, vfs => {
                let outcome = vfs.open_looked_at(of, flags.0, thread).await;
                answer!(vfs, call, reply, outcome, opened => told(opened, reply));
            });
            return;
        }
        let _entered = self.runtime.enter();
        let outcome = self.vfs.open_file(of, flags.0, thread);
        answer!(self.vfs, call, reply, outcome, opened => told(opened, reply));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let call = call!(self, req, Create, parent = parent.0, entry = ?name);
        let (parent, name, maker) = (ino(parent), name.to_owned(), maker(req, mode));
        later!(self, call, vfs => {
            let outcome = vfs.create(parent, &name, flags, maker).await;
            answer!(vfs, call, reply, outcome, file => created(file, reply));
        });
    }

    fn read(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let call = call!(self, req, Read, ino = of.0, offset, size);
        let size = size as usize;
        if let Some(outcome) = self.vfs.read_now(handle.0, offset, size) {
            answer!(self.vfs, call, reply, outcome, bytes => reply.data(&bytes));
            return;
        }
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.read(handle.0, offset, size).await,
            bytes => reply.data(&bytes)));
    }

    fn write(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let call = call!(self, req, Write, ino = of.0, offset, size = data.len());
        // Pages that the kernel writes back for mmap carry nobody's thread.
        let thread = if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) { 0 } else { req.pid() };
        if let Some(outcome) = self.vfs.write_now(handle.0, offset, data, thread) {
            answer!(self.vfs, call, reply, outcome, written => reply.written(written));
            return;
        }
        let data = data.to_vec();
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.write(handle.0, offset, &data, thread).await,
            written => reply.written(written)));
    }

    fn flush(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let call = call!(self, req, Close, ino = of.0);
        if self.vfs.has_nothing_to_flush(handle.0) {
            return reply.ok();
        }
        let thread = req.pid();
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.flush(handle.0, thread).await, () => reply.ok()));
    }

    fn release(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _call = call!(self, req, Release, ino = of.0);
        reply.ok();
        let _entered = self.runtime.enter();
        self.vfs.release(handle.0);
    }

    fn fsync(&self, req: &Request, of: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let call = call!(self, req, Fsync, ino = of.0);
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.fsync(handle.0).await, () => reply.ok()));
    }

    fn opendir(&self, req: &Request, of: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let call = call!(self, req, Opendir, ino = of.0);
        let _entered = self.runtime.enter();
        answer!(self.vfs, call, reply, self.vfs.opendir(ino(of)),
            (handle, reading) => reply.opened(FileHandle(handle), convert::reading_flags(reading)));
    }

    fn readdir(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        fn add(reply: &mut ReplyDirectory, entry: &crate::vfs::DirEntry) -> bool {
            let attr = &entry.entry.attr;
            !reply.add(INodeNo(attr.ino.0), entry.next, convert::kind(attr.kind), &*entry.name)
        }
        let call = call!(self, req, Readdir, ino = of.0, offset);
        let _entered = self.runtime.enter();
        let now = self.vfs.readdir_now(handle.0, offset, false, &mut |entry| add(&mut reply, entry));
        if let Some(outcome) = now {
            answer!(self.vfs, call, reply, outcome, () => reply.ok());
            return;
        }
        later!(self, call, vfs => {
            let outcome = vfs.readdir(handle.0, offset, false, |entry| add(&mut reply, entry)).await;
            answer!(vfs, call, reply, outcome, () => reply.ok());
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        fn add(reply: &mut ReplyDirectoryPlus, entry: &crate::vfs::DirEntry) -> bool {
            let attr = attributes(&entry.entry.attr);
            !reply.add(attr.ino, entry.next, &*entry.name, &entry.entry.ttl, &attr, GENERATION)
        }
        let call = call!(self, req, Readdir, ino = of.0, offset);
        let _entered = self.runtime.enter();
        let now = self.vfs.readdir_now(handle.0, offset, true, &mut |entry| add(&mut reply, entry));
        if let Some(outcome) = now {
            answer!(self.vfs, call, reply, outcome, () => reply.ok());
            return;
        }
        later!(self, call, vfs => {
            let outcome = vfs.readdir(handle.0, offset, true, |entry| add(&mut reply, entry)).await;
            answer!(vfs, call, reply, outcome, () => reply.ok());
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _of: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _open = self.watchdog.open();
        self.vfs.releasedir(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _of: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _of: INodeNo, reply: ReplyStatfs) {
        let _open = self.watchdog.open();
        let capacity = self.vfs.capacity();
        let (blocks, free) = (capacity.total / BLOCK, capacity.free / BLOCK);
        let (longest, block) = (255, 4096);
        let free_inodes = u64::from(u32::MAX);
        let inodes = capacity.files + free_inodes;
        reply.statfs(blocks, free, free, inodes, free_inodes, block, longest, block);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _of: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn getxattr(&self, req: &Request, of: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let call = call!(self, req, Getxattr, ino = of.0, entry = ?name);
        let outcome = self.vfs.getxattr(ino(of), name.to_str().unwrap_or_default());
        answer!(self.vfs, call, reply, outcome, value => {
            match u32::try_from(value.len()) {
                Ok(len) if size == 0 => reply.size(len),
                Ok(len) if len <= size => reply.data(value.as_bytes()),
                _ => reply.error(Errno::ERANGE),
            }
        });
    }

    fn listxattr(&self, _req: &Request, _of: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }

    fn removexattr(&self, _req: &Request, _of: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn fallocate(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let call = call!(self, req, Fallocate, ino = of.0, offset, length);
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let of = ino(of);
        later!(self, call, vfs => {
            let outcome = vfs.extend(of, handle.0, offset.saturating_add(length)).await;
            answer!(vfs, call, reply, outcome, () => reply.ok());
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let call = call!(self, req, Symlink, parent = parent.0, entry = ?name);
        let (parent, name, target) = (ino(parent), name.to_owned(), target.to_owned());
        later!(self, call, vfs => answer!(vfs, call, reply, vfs.symlink(parent, &name, &target).await,
            entry => shown(&entry, reply)));
    }

    fn link(&self, _req: &Request, _of: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _of: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // The kernel does these two by itself once it has heard ENOSYS.

    fn lseek(
        &self,
        _req: &Request,
        _of: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _from: INodeNo,
        _from_handle: FileHandle,
        _from_offset: u64,
        _to: INodeNo,
        _to_handle: FileHandle,
        _to_offset: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
