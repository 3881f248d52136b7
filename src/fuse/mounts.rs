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

/// Links that are followed, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// One line of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// The user whose daemon it is, which the kernel tells of every mount of FUSE.
    pub user: Option<u32>,
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

/// Whether `path` is a mountpoint whose filesystem has died. One that says nothing for a second is not dead:
/// its daemon is stopped or stuck.
pub fn is_stale(path: &Path) -> bool {
    let (tell, told) = mpsc::channel();
    let asked = path.to_owned();
    // It waits in the kernel for as long as the daemon lets it, and ends with this process at the latest.
    let asking = thread::Builder::new().spawn(move || tell.send(asks_in_vain(&asked)));
    match (asking, told.recv_timeout(DEAD_WAIT)) {
        (Ok(asking), Ok(is_dead)) => {
            // Who forks next has one thread.
            let _ = asking.join();
            is_dead
        }
        _ => false,
    }
}

fn asks_in_vain(path: &Path) -> bool {
    // For a while the kernel still has the attributes of a root that is dead; what statfs(2) tells it asks
    // each time.
    let is_dead = |error: io::Error| error.raw_os_error() == Some(libc::ENOTCONN);
    fs::symlink_metadata(path).is_err_and(is_dead)
        || nix::sys::statfs::statfs(path).is_err_and(|errno| is_dead(errno.into()))
}

/// Takes dead containerfs mounts away from `at`, a path that [`absolute`] has given. Returns whether there was
/// one.
///
/// # Errors
/// It cannot be unmounted.
pub fn clear_stale(at: &Path) -> io::Result<bool> {
    let mut cleared = false;
    while topmost_at(at)?.is_some_and(|entry| entry.is_ours()) && is_stale(at) {
        unmount(at, true)?;
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
    let is_dead = is_at(mountpoint, device)? && is_stale(mountpoint);
    if is_dead { unmount(mountpoint, true) } else { Ok(()) }
}

/// Whether what is seen at `mountpoint` is the containerfs mount with the number `device`.
fn is_at(mountpoint: &Path, device: (u32, u32)) -> io::Result<bool> {
    Ok(topmost_at(mountpoint)?.is_some_and(|entry| entry.is_ours() && entry.device == device))
}

/// The canonical form of `path` without a call to what may be mounted there, which may be dead, or its daemon
/// stopped.
///
/// # Errors
/// The parent does not exist.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..LINKS_MAX {
        if topmost_at(&path)?.is_some() {
            return Ok(path);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.canonicalize();
        };
        let parent = parent.canonicalize()?;
        let whole = parent.join(name);
        // The kernel tells of what is no link, the root of a mount for one, without asking anybody.
        let Ok(target) = fs::read_link(&whole) else { return Ok(whole) };
        path = parent.join(target);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
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
    let options = text(after.next().unwrap_or_default());
    let user = options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
    Some(Entry { mount_id, device, mountpoint, fstype, source, user })
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
            97 22 0:55 / /mnt/my\\040con\\012tainers rw,nosuid,nodev - fuse.containerfs containerfs rw,user_id=7,group_id=8\n\
            nonsense\n";
        let entries = parse(table);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].mountpoint, Path::new("/mnt/my con\ntainers"));
        assert_eq!((entries[1].mount_id, entries[1].device), (97, (0, 55)));
        assert!(entries[1].is_ours() && !entries[0].is_ours());
        assert_eq!((entries[0].user, entries[1].user), (None, Some(7)));
    }

    #[test]
    fn a_path_is_made_canonical_up_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().canonicalize().unwrap();
        fs::create_dir_all(whole.join("real/deep")).unwrap();
        std::os::unix::fs::symlink("real", whole.join("link")).unwrap();
        std::os::unix::fs::symlink("link/deep", whole.join("end")).unwrap();
        std::os::unix::fs::symlink("round", whole.join("round")).unwrap();
        let of = |path: &str| absolute(&whole.join(path)).unwrap();
        for path in ["end", "link/deep", "link/deep/", "real/./deep", "end/../deep"] {
            assert_eq!(of(path), whole.join("real/deep"), "{path}");
        }
        assert_eq!((of("link"), of("real/deep/..")), (whole.join("real"), whole.join("real")));
        assert_eq!(of("real/absent"), whole.join("real/absent"));
        assert_eq!(absolute(&whole.join("absent/x")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(absolute(&whole.join("round")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(absolute(Path::new("/proc")).unwrap(), Path::new("/proc"));
    }

    #[test]
    fn another_filesystem_is_left_alone() {
        assert!(unmount_ours(Path::new("/proc"), (u32::MAX, 1), false).is_ok());
        assert!(Path::new("/proc/self").exists());
    }
}
