//! The descriptor through which the kernel asks, and how one comes by it: mounting.
//!
//! `fuser` could mount by itself. But what it mounts as root has no type that anybody knows it by, and at the
//! end it unmounts whatever lies at the path by then, which may be somebody else's.

use std::io;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use nix::unistd::{getgid, getuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::mount::Options;
use super::mounts;

/// Where `fusermount3` is told which of its descriptors leads to us.
const COMM_FD: &str = "_FUSE_COMMFD";

/// A second descriptor of a connection, to ask about it while a session reads from the first.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

impl Connection {
    /// Another descriptor of the one that `fd` belongs to.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self(fd.as_fd().try_clone_to_owned()?))
    }

    /// Whether the kernel asks no more: somebody has unmounted it, or cut it off.
    ///
    /// This is so at once, when the readers of a session may not have noticed yet.
    pub(super) fn has_ended(&self) -> bool {
        let mut asked = [PollFd::new(&self.0, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)).is_ok_and(|_| asked[0].revents().contains(PollFlags::ERR))
    }
}

/// Mounts, by the means that this process has.
///
/// # Errors
/// The kernel's, or what `fusermount3` says.
pub(super) fn connect(mountpoint: &Path, options: &Options) -> io::Result<OwnedFd> {
    match by_kernel(mountpoint, options) {
        Err(Errno::EPERM) => by_fusermount(mountpoint, options),
        connection => Ok(connection?),
    }
}

/// Mounts without help, which takes root.
fn by_kernel(mountpoint: &Path, options: &Options) -> nix::Result<OwnedFd> {
    let connection = open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        connection.as_raw_fd(),
        getuid(),
        getgid()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    if options.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    nix::mount::mount(
        Some(options.source.as_str()),
        mountpoint,
        Some(mounts::FSTYPE),
        flags,
        Some(data.as_str()),
    )?;
    Ok(connection)
}

/// Mounts through `fusermount3`, which hands the descriptor over through a socket.
fn by_fusermount(mountpoint: &Path, options: &Options) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(for_fusermount(options)).arg("--").arg(mountpoint);
    // The one descriptor that a child is given without clearing flags between fork and exec.
    command.stdin(OwnedFd::from(theirs)).env(COMM_FD, "0").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // With it goes our end of the other side: the socket ends with the child.
    drop(command);
    let received = receive(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    child.wait()?;
    received?.ok_or_else(|| io::Error::other(said.trim().to_owned()))
}

fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn for_fusermount(options: &Options) -> String {
    let source = options.source.replace('\\', r"\\").replace(',', r"\,");
    let mut told = format!("fsname={source},subtype=containerfs,nosuid,nodev,noatime,default_permissions");
    if options.read_only {
        told.push_str(",ro");
    }
    if options.allow_other {
        told.push_str(",allow_other");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_commas_is_one_option() {
        let options = Options { source: r"a,suid\".to_owned(), read_only: true, ..Options::default() };
        assert_eq!(
            for_fusermount(&options),
            r"fsname=a\,suid\\,subtype=containerfs,nosuid,nodev,noatime,default_permissions,ro"
        );
    }
}
