//! The other side of the control socket: `unmount`, `status` and others that ask a mount.
//!
//! A daemon may be stopped, or stuck. Then the kernel takes the question all the same, and nobody ever answers:
//! whoever asks is told so in time. No call here touches the mount itself, which would wait for the same daemon.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::control::{Question, directories, name_of};
use crate::fuse::mounts::Entry;
use crate::private;

/// A daemon that has said nothing for this time is stopped or stuck: while it works on an answer that takes
/// longer it tells progress several times a second.
pub const SILENCE: Duration = Duration::from_secs(5);

/// The longest line of an answer, in bytes.
const LINE_MAX: usize = 256 << 20;

/// A connection to a mount.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
    /// What has come of a line.
    begun: Vec<u8>,
}

impl Connection {
    /// Asks the daemon of `mount`.
    ///
    /// # Errors
    /// Nobody listens, or nobody listens any more (`TimedOut`).
    pub fn ask(mount: &Entry, question: &Question) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in places(mount.user) {
            match connected(&place.dir.join(name_of(mount.device))) {
                Ok(mut stream) => {
                    let peer = getsockopt(&stream, PeerCredentials)?;
                    if !place.believes(peer.uid()) {
                        last = io::Error::new(
                            io::ErrorKind::PermissionDenied,
                            "somebody else answers for the mount",
                        );
                        continue;
                    }
                    let mut line = serde_json::to_vec(question)?;
                    line.push(b'\n');
                    stream.write_all(&line).map_err(silent)?;
                    return Ok(Self { stream: BufReader::new(stream), begun: Vec::new() });
                }
                // Silence says more than that there is nothing elsewhere.
                Err(error) if last.kind() != io::ErrorKind::TimedOut => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    /// Asks what may take its time, and tells nothing meanwhile, of a daemon that has just given a sign of life.
    ///
    /// # Errors
    /// Those of [`Self::ask`] and [`Self::line`].
    pub fn ask_patiently(mount: &Entry, question: &Question) -> io::Result<Self> {
        Self::ask(mount, &Question::Status)?.line()?;
        let connection = Self::ask(mount, question)?;
        connection.stream.get_ref().set_read_timeout(None)?;
        Ok(connection)
    }

    /// The next line of the answer; `None` at its end, or when the process is gone.
    ///
    /// # Errors
    /// The connection breaks, or nothing has come for [`SILENCE`] (`TimedOut`), after which one may go on
    /// waiting.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let most = (LINE_MAX - self.begun.len()) as u64;
        match self.stream.by_ref().take(most).read_until(b'\n', &mut self.begun) {
            Ok(_) if self.begun.is_empty() => Ok(None),
            Ok(_) => String::from_utf8(std::mem::take(&mut self.begun)).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(silent(error)),
        }
    }
}

/// A directory in which the socket may be.
struct Place {
    dir: PathBuf,
    /// Who alone may answer there; where nobody is named, our user and root.
    of: Option<u32>,
}

impl Place {
    fn believes(&self, peer: u32) -> bool {
        self.of.map_or_else(|| private::may_speak(peer), |of| peer == of)
    }
}

/// Our own directories, and those that a daemon of `user` takes whose environment is not ours. Root looks
/// there for everybody. What lies there that user could put there, so nobody but his daemon is spoken with:
/// not what a link leads to, least of all as root.
fn places(user: Option<u32>) -> Vec<Place> {
    let own = directories().into_iter().map(|dir| Place { dir, of: None });
    let us = geteuid();
    let user = user.filter(|user| us.is_root() || *user == us.as_raw());
    let usual = user.into_iter().flat_map(|user| {
        let dirs = [format!("/run/user/{user}/containerfs"), format!("/tmp/containerfs-{user}")];
        dirs.into_iter().map(move |dir| (PathBuf::from(dir), user))
    });
    let usual = usual.filter(|(dir, user)| {
        fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == *user)
    });
    own.chain(usual.map(|(dir, user)| Place { dir, of: Some(user) })).collect()
}

/// Waits no longer than [`SILENCE`] for anything: a stopped daemon leaves its queue of connections full.
fn connected(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for timeout in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, timeout, Some(SILENCE))?;
    }
    connect(&socket, &SocketAddrUnix::new(path)?).map_err(|errno| silent(errno.into()))?;
    Ok(OwnedFd::into(socket))
}

fn silent(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "its daemon is stopped or stuck")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_which_the_rest_comes_late_is_whole() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut connection = Connection { stream: BufReader::new(ours), begun: Vec::new() };
        theirs.write_all(b"{\"so\":").unwrap();
        assert_eq!(connection.line().unwrap_err().kind(), io::ErrorKind::TimedOut);
        theirs.write_all(b" far}\nnext").unwrap();
        assert_eq!(connection.line().unwrap().unwrap(), "{\"so\": far}\n");
        drop(theirs);
        assert_eq!(connection.line().unwrap().unwrap(), "next");
        assert_eq!(connection.line().unwrap(), None);
    }
}
