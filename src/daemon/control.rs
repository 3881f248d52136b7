//! The socket through which `unmount` and `status` speak with a mount: one JSON object a line.
//!
//! It lies in a directory that only its user can enter, under a name made of the mount's device number, so
//! that whoever sees the mount can find it. Both sides ask the kernel who the other one is: its user and root
//! are heard and believed, nobody else.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::private;
use crate::vfs::{Left, Progress, Status, Vfs};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// The longest question, in bytes.
const QUESTION_MAX: usize = 32 << 10;

/// Who has not asked, or not read a line of the answer, after this time is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer that have to be read within that time.
const PIECE: usize = 64 << 10;

/// How long nobody is heard for want of descriptors.
const DEAF_FOR: Duration = Duration::from_millis(200);

/// An unmount that waits longer than this waits for ever; no clock has a place for more.
const UNMOUNT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// [`crate::vfs::Status`], once.
    Status,
    /// Where a file is shown: [`crate::vfs::Located`], an array.
    Locate {
        /// The path that the model sees.
        path: String,
    },
    /// Send again what failed; answered with what is left.
    Retry {
        /// What `pending` calls it; everything if there are none.
        #[serde(default)]
        ids: Vec<String>,
    },
    /// Throw away bytes that are not on the server; answered with those that stay.
    Discard {
        /// What `pending` calls them.
        ids: Vec<String>,
    },
    /// Progress until the end, then what is left.
    Unmount {
        /// Seconds to wait for uploads; the mount's own limit if there is none.
        timeout_seconds: Option<f64>,
        /// Not to wait at all.
        force: bool,
    },
}

/// The state of a mount, with what the filesystem itself does not know.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    status: Status,
    /// Where metrics are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
}

/// What an unmount answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How much is still to be sent.
    Progress(Progress),
    /// The end: what is not on the server.
    Done(Vec<Left>),
}

/// An unmount that was asked for; its sender waits for what is left.
#[derive(Debug)]
pub struct UnmountRequest {
    /// How long uploads may take.
    pub within: Option<Duration>,
    /// Answered when the mount has drained.
    pub left: oneshot::Sender<Vec<Left>>,
}

/// The socket; removed when this value goes, which should be before the mount does: its device number may be
/// another mount's at once.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    ino: u64,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Another mount may have been given the number, and have bound a socket of its own.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.ino) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens for questions about the mount with the device number `device`.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(
    device: (u32, u32),
    vfs: Arc<Vfs>,
    metrics: Option<SocketAddr>,
    unmounts: mpsc::UnboundedSender<UnmountRequest>,
) -> io::Result<Socket> {
    let path = directories()
        .into_iter()
        .find(|dir| private::directory(dir).is_ok())
        .ok_or_else(|| io::Error::other("there is no directory for the control socket"))?
        .join(name_of(device));
    // Device numbers are used again; no live mount has this one.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let ino = fs::symlink_metadata(&path)?.ino();
    tokio::spawn(async move {
        let mut deaf = false;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if !deaf {
                        tracing::warn!(%error, "nobody is heard at the control socket for now");
                    }
                    deaf = true;
                    tokio::time::sleep(DEAF_FOR).await;
                    continue;
                }
            };
            deaf = false;
            match stream.peer_cred() {
                Ok(peer) if private::may_speak(peer.uid()) => {}
                peer => {
                    tracing::warn!(?peer, "somebody else knocked at the control socket");
                    continue;
                }
            }
            let (vfs, unmounts) = (vfs.clone(), unmounts.clone());
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &vfs, metrics, &unmounts).await {
                    tracing::debug!(%error, "a control connection ended early");
                }
            });
        }
    });
    Ok(Socket { path, ino })
}

async fn answer(
    stream: tokio::net::UnixStream,
    vfs: &Arc<Vfs>,
    metrics: Option<SocketAddr>,
    unmounts: &mpsc::UnboundedSender<UnmountRequest>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    match question(&mut reader).await? {
        Question::Status => tell(&mut writer, &Told { status: vfs.status(), metrics }).await,
        Question::Locate { path } => tell(&mut writer, &vfs.locate(&path)).await,
        Question::Retry { ids } => tell(&mut writer, &Answer::Done(vfs.retry(&ids).await)).await,
        Question::Discard { ids } => tell(&mut writer, &Answer::Done(vfs.discard(&ids).await)).await,
        Question::Unmount { timeout_seconds, force } => {
            let asked = timeout_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let within = if force { Some(Duration::ZERO) } else { asked.map(|asked| asked.min(UNMOUNT_MAX)) };
            // All of it, before the first byte goes.
            tell(&mut writer, &Answer::Progress(vfs.progress())).await?;
            let (left, ended) = oneshot::channel();
            unmounts.send(UnmountRequest { within, left }).map_err(io::Error::other)?;
            tell_until_the_end(&mut writer, ended, || vfs.progress()).await?;
            // The connection stays open until the process is gone: that is what the other side waits for, if
            // it does.
            tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.map(|_| ())
        }
    }
}

/// Tells progress, and at the end what is left. Where nobody knows what is, nothing is said of it: that would
/// be taken for all is well.
async fn tell_until_the_end(
    writer: &mut (impl AsyncWrite + Unpin),
    mut ended: oneshot::Receiver<Vec<Left>>,
    progress: impl Fn() -> Progress,
) -> io::Result<()> {
    loop {
        match tokio::time::timeout(PROGRESS_EVERY, &mut ended).await {
            Ok(left) => return tell(writer, &Answer::Done(left.map_err(io::Error::other)?)).await,
            Err(_) => tell(writer, &Answer::Progress(progress())).await?,
        }
    }
}

async fn question(reader: impl AsyncRead + Unpin) -> io::Result<Question> {
    let mut question = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(QUESTION_MAX as u64));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut question)).await??;
    Ok(serde_json::from_str(&question)?)
}

async fn tell(writer: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    // A long answer may take longer, as long as somebody reads it.
    for piece in line.chunks(PIECE) {
        tokio::time::timeout(PATIENCE, writer.write_all(piece)).await??;
    }
    Ok(())
}

pub(super) fn name_of((major, minor): (u32, u32)) -> String {
    format!("{major}-{minor}.sock")
}

/// Where the socket may be, the best place first.
pub(super) fn directories() -> Vec<PathBuf> {
    let uid = nix::unistd::geteuid();
    let mut directories = Vec::new();
    if uid.is_root() {
        directories.push(PathBuf::from("/run/containerfs"));
    }
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        directories.push(PathBuf::from(runtime).join("containerfs"));
    }
    directories.push(std::env::temp_dir().join(format!("containerfs-{uid}")));
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_reads_nothing_is_hung_up_on() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        theirs.write_all(b"{\"ask\"").await.unwrap();
        assert_eq!(question(ours).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut ours, theirs) = tokio::io::duplex(8);
        assert_eq!(tell(&mut ours, &"x".repeat(9)).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_has_seen_is_not_told_as_one_with_nothing_left() {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 10);
        let (left, ended) = oneshot::channel();
        let dies = async {
            tokio::time::sleep(PROGRESS_EVERY * 3 / 2).await;
            drop(left);
        };
        let (told, ()) = tokio::join!(tell_until_the_end(&mut ours, ended, Progress::default), dies);
        assert!(told.is_err());
        drop(ours);
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "{\"progress\":{\"files_left\":0,\"bytes_left\":0}}\n");
    }

    #[test]
    fn questions_and_answers_are_lines_of_json() {
        let question = Question::Unmount { timeout_seconds: Some(1.5), force: false };
        let text = serde_json::to_string(&question).unwrap();
        assert_eq!(text, r#"{"ask":"unmount","timeout_seconds":1.5,"force":false}"#);
        assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), question);
        let answer = Answer::Progress(Progress { files_left: 2, bytes_left: 9 });
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"progress":{"files_left":2,"bytes_left":9}}"#
        );
    }
}
