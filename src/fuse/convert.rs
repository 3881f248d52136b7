//! The filesystem's types to the kernel's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, OpenFlags, TimeOrNow};

use crate::namespace::inode::Ino;
use crate::vfs::{Attr, Error, FileKind, Opened, Reading, attr};

/// Bytes of a block in `st_blocks`.
const SECTOR: u64 = 512;

/// What `stat` proposes for reads and writes; large, because a request to the service is dear.
const PREFERRED_IO: u32 = 128 << 10;

/// An errno that may be returned: EAGAIN and EINTR make Python's `read()` return short data without an error.
pub(super) fn errno(error: &Error) -> Errno {
    match error.errno {
        libc::EAGAIN | libc::EINTR => Errno::EIO,
        errno => Errno::from_i32(errno),
    }
}

pub(super) fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub(super) fn attributes(attr: &Attr) -> FileAttr {
    let mtime = time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(SECTOR),
        atime: time(attr.atime),
        mtime,
        ctime: time(attr.ctime),
        crtime: mtime,
        kind: kind(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

/// An entry that says that there is none, which the kernel may remember: an inode number of 0.
pub(super) fn no_entry() -> FileAttr {
    attributes(&Attr {
        ino: Ino(0),
        kind: FileKind::File,
        size: 0,
        atime: 0,
        mtime: 0,
        ctime: 0,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
    })
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    if opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

/// Without `FOPEN_KEEP_CACHE` the kernel drops its copy, if it has one.
pub(super) fn reading_flags(reading: Reading) -> FopenFlags {
    match reading {
        Reading::Copy => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        Reading::Anew => FopenFlags::FOPEN_CACHE_DIR,
        Reading::Past => FopenFlags::empty(),
    }
}

/// Nobody asks about the close of a file that was opened for reading alone, which saves nothing.
pub(super) fn close_flags(open: OpenFlags) -> FopenFlags {
    let reads = open.0 & libc::O_ACCMODE == libc::O_RDONLY && open.0 & libc::O_TRUNC == 0;
    if reads { FopenFlags::FOPEN_NOFLUSH } else { FopenFlags::empty() }
}

/// Nanoseconds since the epoch.
pub(super) fn nanoseconds(time: TimeOrNow) -> i64 {
    let time = match time {
        TimeOrNow::Now => return attr::now(),
        TimeOrNow::SpecificTime(time) => time,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    if nanoseconds >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back_before_the_epoch_too() {
        for nanos in [0, 1, -1, 1_700_000_000_123_456_789, -5_000_000_001] {
            assert_eq!(nanoseconds(TimeOrNow::SpecificTime(time(nanos))), nanos);
        }
    }

    #[test]
    fn a_close_that_may_save_is_asked_about() {
        for reads in [libc::O_RDONLY, libc::O_RDONLY | libc::O_CLOEXEC] {
            assert_eq!(close_flags(OpenFlags(reads)), FopenFlags::FOPEN_NOFLUSH);
        }
        for saves in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
            assert_eq!(close_flags(OpenFlags(saves)), FopenFlags::empty());
        }
    }

    #[test]
    fn nobody_is_told_to_try_again() {
        for errno_given in [libc::EAGAIN, libc::EINTR] {
            assert_eq!(i32::from(errno(&Error::quiet(errno_given))), libc::EIO);
        }
        assert_eq!(i32::from(errno(&Error::quiet(libc::ESTALE))), libc::ESTALE);
    }
}
