//! The other side of the control socket: `unmount`, `status` and others that ask a mount.
//!
//! A daemon may be stopped, or stuck. Then the kernel takes the question all the same, and nobody ever answers:
//! whoever asks is told so in time. No call here touches the mount itself, which would wait for the same daemon.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::control::{Question, directories, name_of};
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
    /// Asks the mount with the device number `device`.
    ///
    /// # Errors
    /// Nobody listens, or nobody listens any more (`TimedOut`).
    pub fn ask(device: (u32, u32), question: &Question) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for dir in directories() {
            match connected(&dir.join(name_of(device))) {
                Ok(mut stream) => {
                    let peer = getsockopt(&stream, PeerCredentials)?;
                    if !private::may_speak(peer.uid()) {
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
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks what may take its time, and tells nothing meanwhile, of a daemon that has just given a sign of life.
    ///
    /// # Errors
    /// Those of [`Self::ask`] and [`Self::line`].
    pub fn ask_patiently(device: (u32, u32), question: &Question) -> io::Result<Self> {
        Self::ask(device, &Question::Status)?.line()?;
        let connection = Self::ask(device, question)?;
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
