//! What is mounted where, from `/proc/self/mountinfo`, and unmounting what is ours and nothing else.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// The type of our mounts in the kernel's table.
pub const FSTYPE: &str = "fuse.containerfs";

/// How long a filesystem may take to say that it is alive. The kernel tells at once of one that is dead.
const DEAD_WAIT: Duration = Duration::from_secs(1);

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The kernel's id of the mount, which `/proc/PID/fdinfo` names too.
    pub mount_id: u64,
    /// Major and minor device number of its filesystem.
    pub device: (u32, u32),
    /// Where it is.
    pub mountpoint: PathBuf,
    /// Its type.
    pub fstype: String,
    /// Where it comes from.
    pub source: String,
}

impl Entry {
    /// Whether it is a containerfs mount.
    pub fn is_ours(&self) -> bool {
        self.fstype == FSTYPE
    }
}

/// Every mount, in the order in which they lie over one another.
///
/// # Errors
/// `/proc` cannot be read.
pub fn all() -> io::Result<Vec<Entry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The mount that is seen at `mountpoint`, if it is the root of one.
///
/// # Errors
/// `/proc` cannot be read.
pub fn topmost_at(mountpoint: &Path) -> io::Result<Option<Entry>> {
    Ok(all()?.into_iter().rfind(|entry| entry.mountpoint == mountpoint))
}

/// The containerfs mount in which the absolute `path` lies, if it lies in one and is not its root.
///
/// # Errors
/// `/proc` cannot be read.
pub fn around(path: &Path) -> io::Result<Option<PathBuf>> {
    let holds = |entry: &Entry| entry.mountpoint != path && path.starts_with(&entry.mountpoint);
    let innermost =
        all()?.into_iter().filter(holds).max_by_key(|entry| entry.mountpoint.components().count());
    Ok(innermost.filter(Entry::is_ours).map(|entry| entry.mountpoint))
}

/// Whether `path` is a mountpoint whose filesystem has died.
pub fn is_stale(path: &Path) -> bool {
    // For a while the kernel still has the attributes of a root that is dead; what statfs(2) tells it asks
    // each time.
    let is_dead = |error: io::Error| error.raw_os_error() == Some(libc::ENOTCONN);
    fs::symlink_metadata(path).is_err_and(is_dead)
        || nix::sys::statfs::statfs(path).is_err_and(|errno| is_dead(errno.into()))
}

/// The same of a path that may lie in the mount of a daemon that does not answer; `None` if nobody has said
/// after [`DEAD_WAIT`].
pub fn is_stale_in_time(path: &Path) -> Option<bool> {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    // It waits in the kernel for as long as that daemon lets it, and ends with this process at the latest.
    thread::Builder::new().spawn(move || tell.send(is_stale(&path))).ok()?;
    told.recv_timeout(DEAD_WAIT).ok()
}

/// Takes dead containerfs mounts away from `path`, which need not be canonical. Returns whether there was
/// one.
///
/// # Errors
/// What is dead there is not ours, or cannot be unmounted.
pub fn clear_stale(path: &Path) -> io::Result<bool> {
    let mut cleared = false;
    while is_stale(path) {
        let at = absolute(path)?;
        match topmost_at(&at)? {
            Some(entry) if entry.is_ours() => unmount(&at, true)?,
            _ => return Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        }
        cleared = true;
    }
    Ok(cleared)
}

/// Unmounts the containerfs mount with the number `device` from `mountpoint`, if it is still what is seen
/// there. Its daemon must still hold it, or the number may be another's.
///
/// # Errors
/// `EBUSY` if it is in use and `lazy` is not set; anything else that the kernel or `fusermount3` says.
pub fn unmount_ours(mountpoint: &Path, device: (u32, u32), lazy: bool) -> io::Result<()> {
    if is_at(mountpoint, device)? { unmount(mountpoint, lazy) } else { Ok(()) }
}

/// The same of one whose connection has ended: only what is dead is taken away.
///
/// # Errors
/// What the kernel or `fusermount3` says.
pub fn unmount_dead(mountpoint: &Path, device: (u32, u32)) -> io::Result<()> {
    let is_dead = is_at(mountpoint, device)? && is_stale_in_time(mountpoint) == Some(true);
    if is_dead { unmount(mountpoint, true) } else { Ok(()) }
}

/// Whether what is seen at `mountpoint` is the containerfs mount with the number `device`.
fn is_at(mountpoint: &Path, device: (u32, u32)) -> io::Result<bool> {
    Ok(topmost_at(mountpoint)?.is_some_and(|entry| entry.is_ours() && entry.device == device))
}

/// An absolute path with the parent resolved: the last component may be dead.
///
/// # Errors
/// The parent does not exist.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    if let Ok(whole) = path.canonicalize() {
        return Ok(whole);
    }
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(path),
    }
}

/// Unmounts what is seen at `mountpoint`; without root through `fusermount3`.
///
/// # Errors
/// What the kernel or `fusermount3` says.
pub fn unmount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_fusermount(mountpoint, lazy),
        Err(errno) => Err(errno.into()),
    }
}

fn by_fusermount(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(mountpoint);
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(said.trim().to_owned()))
}

fn parse(mountinfo: &[u8]) -> Vec<Entry> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw`; see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mount_id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let (major, minor) = device.split_once(':')?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let fstype = text(after.next()?);
    let source = text(after.next()?);
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Entry { mount_id, device, mountpoint, fstype, source })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(&byte) = field.get(at) {
        let octal =
            field.get(at + 1..at + 4).filter(|digits| byte == b'\\' && digits.iter().all(u8::is_ascii_digit));
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(value.unwrap_or(byte));
        at += if value.is_some() { 4 } else { 1 };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_with_spaces_and_newlines_is_read_back() {
        let table = b"22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
            97 22 0:55 / /mnt/my\\040con\\012tainers rw,nosuid,nodev - fuse.containerfs containerfs rw,user_id=0\n\
            nonsense\n";
        let entries = parse(table);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].mountpoint, Path::new("/mnt/my con\ntainers"));
        assert_eq!((entries[1].mount_id, entries[1].device), (97, (0, 55)));
        assert!(entries[1].is_ours() && !entries[0].is_ours());
    }

    #[test]
    fn another_filesystem_is_left_alone() {
        assert!(unmount_ours(Path::new("/proc"), (u32::MAX, 1), false).is_ok());
        assert!(Path::new("/proc/self").exists());
    }
}
