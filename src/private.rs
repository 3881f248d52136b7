//! Directories and files that belong to one user alone: state, cache, log and control socket; and the locks
//! of mounts on them.
//!
//! What lies there is believed by the next mount and written by this one, so whoever could plant something in
//! it could make us write elsewhere, or read a file to a server. Nothing is opened through a symbolic link,
//! nothing that somebody else owns is used, and what is ours but open to others is closed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::geteuid;

/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Those that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// Who may write in a directory with this bit may not rename or remove what others have there.
const STICKY: u32 = 0o1000;

/// A directory that a person named, in which ours lie; made, private, if it is missing.
///
/// It may be reached through a symbolic link and others may read in it, but none of them may move what we
/// make there.
///
/// # Errors
/// It cannot be made, or others have a say in it; the message tells what to do.
pub fn base(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = fs::metadata(dir)?;
    let (shown, us) = (dir.display(), geteuid());
    if found.uid() != us.as_raw() && found.uid() != 0 {
        return Err(refused(format!("{shown} belongs to uid {}, and this process to uid {us}", found.uid())));
    }
    if found.mode() & OTHERS_WRITE != 0 && found.mode() & STICKY == 0 {
        return Err(refused(format!("others can write in {shown}: `chmod go-w {shown}`")));
    }
    Ok(())
}

/// A directory of our own; made if it is missing, closed to others if they could enter it.
///
/// # Errors
/// It cannot be made, is a symbolic link, or is somebody else's; the message tells what to do.
pub fn directory(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).or_else(|error| {
        // A link that leads nowhere is in the way, too, and is told of below.
        if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
    })?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
    let opened = options.open(dir).map_err(|error| explained(error, dir))?;
    settle(&opened, dir)
}

/// Opens a file of ours as `options` say; what is made is private.
///
/// # Errors
/// The disk's; or it is no file, a symbolic link, somebody else's, or has a second name elsewhere.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Nobody waits for the other end of a pipe that was planted.
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| explained(error, path))?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(refused(format!("{} is no file: remove it", path.display())));
    }
    if found.nlink() > 1 {
        return Err(refused(format!("{} is also known by another name: remove one of them", path.display())));
    }
    settle(&file, path)?;
    Ok(file)
}

/// Locks `file` against everybody else, if nobody has locked it; the lock falls when the last descriptor of
/// this opening of it is closed. Returns whether it is ours.
///
/// # Errors
/// The disk's.
pub fn lock(file: &File) -> io::Result<bool> {
    let mut lock = fd_lock::RwLock::new(file);
    match lock.try_write() {
        // What the guard would unlock stays locked: the lock belongs to the open file description.
        Ok(guard) => {
            let _held = ManuallyDrop::new(guard);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks `file` against [`lock`], beside others who do the same; waits while it is locked.
///
/// # Errors
/// The disk's.
pub fn share(file: &File) -> io::Result<()> {
    let lock = fd_lock::RwLock::new(file);
    let _held = ManuallyDrop::new(lock.read()?);
    Ok(())
}

/// Whether a process with the user id `uid` may speak with this one: its own user and root.
pub fn may_speak(uid: u32) -> bool {
    uid == geteuid().as_raw() || uid == 0
}

/// Keeps the memory of this process, which may hold a key, out of core dumps and away from the debuggers of
/// other processes of its user. Called before anything else; what is forked from here on inherits it, what is
/// executed does not.
pub fn keep_out_of_dumps() {
    // A kernel that pipes dumps to a program heeds this one alone.
    let _ = set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// Checks the owner of what was opened, and takes it from others.
fn settle(opened: &File, path: &Path) -> io::Result<()> {
    let (found, us) = (opened.metadata()?, geteuid());
    if found.uid() != us.as_raw() {
        return Err(refused(format!(
            "{} belongs to uid {}, and this process to uid {us}",
            path.display(),
            found.uid()
        )));
    }
    if found.mode() & OTHERS != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", found.mode() & 0o777), "was open to others");
        opened.set_permissions(Permissions::from_mode(found.mode() & 0o700))?;
    }
    Ok(())
}

fn explained(error: io::Error, path: &Path) -> io::Error {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link && matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) {
        return refused(format!("{} is a symbolic link, which is not followed: remove it", path.display()));
    }
    error
}

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_ours_is_made_private_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("a/b");
        directory(&ours).unwrap();
        assert_eq!((mode(&ours), mode(&dir.path().join("a"))), (0o700, 0o700));
        set_mode(&ours, 0o777);
        directory(&ours).unwrap();
        assert_eq!(mode(&ours), 0o700);
        let file = ours.join("f");
        fs::write(&file, "x").unwrap();
        set_mode(&file, 0o666);
        open(&file, OpenOptions::new().append(true)).unwrap();
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn no_link_of_either_kind_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link, dangling) =
            (dir.path().join("target"), dir.path().join("link"), dir.path().join("dangling"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();
        symlink(dir.path().join("nowhere"), &dangling).unwrap();
        for planted in [&link, &dangling] {
            let error = directory(planted).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
            let error = open(planted, OpenOptions::new().append(true).create(true)).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
        }
        assert!(!dir.path().join("nowhere").exists());
        let (file, name) = (dir.path().join("file"), dir.path().join("name"));
        fs::write(&file, "x").unwrap();
        fs::hard_link(&file, &name).unwrap();
        assert!(open(&name, OpenOptions::new().append(true)).is_err());
    }

    #[test]
    fn a_pipe_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&pipe, OpenOptions::new().read(true)).unwrap_err().to_string().contains("no file"));
        assert!(open(&pipe, OpenOptions::new().append(true)).is_err());
    }

    #[test]
    fn a_named_directory_may_be_a_link_and_must_not_be_for_others_to_write_in() {
        let dir = tempfile::tempdir().unwrap();
        let (named, link) = (dir.path().join("named"), dir.path().join("link"));
        fs::create_dir(&named).unwrap();
        symlink(&named, &link).unwrap();
        for (bits, fine) in [(0o755, true), (0o1777, true), (0o777, false), (0o775, false)] {
            set_mode(&named, bits);
            assert_eq!(base(&link).is_ok(), fine, "{bits:o}");
        }
        set_mode(&named, 0o777);
        assert!(base(&named).unwrap_err().to_string().contains("chmod go-w"));
    }
}
