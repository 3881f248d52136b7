//! A mounted session: from `mount(2)` to the end of the connection.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use fuser::{Config, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::connection::{self, Connection};
use super::watchdog::{Watchdog, Watched};
use super::{mounts, notify};
use crate::vfs::Vfs;

/// Threads that read requests and answer from memory.
const READER_THREADS: usize = 3;

/// Read-ahead of a file that is read in order, in KiB: some of the largest requests, so that the next is on
/// its way while one is being answered.
const READ_AHEAD_KIB: u32 = 4096;

/// How it is mounted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Let other users in.
    pub allow_other: bool,
    /// Refuse changes in the kernel already.
    pub read_only: bool,
    /// What `mount` shows as the source.
    pub source: String,
}

/// A mounted filesystem.
#[derive(Clone, Debug)]
pub struct Session {
    mountpoint: PathBuf,
    device: (u32, u32),
    connection: Arc<Connection>,
    ended: watch::Receiver<bool>,
}

/// Mounts `vfs` on `mountpoint`, a canonical path. Requests are answered on `runtime`.
///
/// # Errors
/// The kernel's: no `/dev/fuse`, no permission, a kernel that is too old.
pub fn mount(vfs: &Arc<Vfs>, mountpoint: &Path, options: &Options, runtime: Handle) -> io::Result<Session> {
    let fd = connection::connect(mountpoint, options)?;
    // What nobody will answer for does not stay.
    serve(fd, vfs, mountpoint, options, runtime).inspect_err(|_| drop(mounts::unmount(mountpoint, true)))
}

fn serve(
    fd: OwnedFd,
    vfs: &Arc<Vfs>,
    mountpoint: &Path,
    options: &Options,
    runtime: Handle,
) -> io::Result<Session> {
    let connection = Arc::new(Connection::of(&fd)?);
    let watchdog = Arc::<Watchdog>::default();
    let adapter = Adapter::new(vfs.clone(), runtime.clone(), watchdog.clone());
    let session = fuser::Session::from_fd(adapter, fd, acl(options), config())?;
    // Read from the kernel's table: a stat would ask the filesystem that nobody answers for yet.
    let entry = mounts::topmost_at(mountpoint)?.filter(mounts::Entry::is_ours);
    let entry = entry.ok_or_else(|| io::Error::other("the mount is gone already"))?;
    vfs.set_mount_id(entry.mount_id);
    if let Some(invalidations) = vfs.take_invalidations() {
        notify::spawn(session.notifier(), invalidations)?;
    }
    watchdog.watch(Watched {
        mountpoint: mountpoint.to_owned(),
        device: entry.device,
        connection: connection.clone(),
        vfs: vfs.clone(),
        runtime,
    })?;
    read_ahead(entry.device);
    let (tell, ended) = watch::channel(false);
    thread::Builder::new().name("fuse".to_owned()).spawn(move || {
        if let Err(error) = session.run() {
            tracing::debug!(%error, "the connection to the kernel ended");
        }
        let _ = tell.send(true);
    })?;
    Ok(Session { mountpoint: mountpoint.to_owned(), device: entry.device, connection, ended })
}

/// Raises what the kernel reads ahead of a program, which it grants to root alone, and to nobody in the
/// handshake: with its 128 KiB a large file comes in many small requests, each of which somebody waits for.
fn read_ahead((major, minor): (u32, u32)) {
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%error, setting, "the kernel's read-ahead stays as it is");
    }
}

fn acl(options: &Options) -> SessionACL {
    if options.allow_other { SessionACL::All } else { SessionACL::Owner }
}

fn config() -> Config {
    let mut config = Config::default();
    config.n_threads = Some(READER_THREADS);
    config.clone_fd = true;
    config
}

impl Session {
    /// Major and minor device number of the filesystem.
    pub fn device(&self) -> (u32, u32) {
        self.device
    }

    /// Waits for the end of the connection, whoever unmounted it.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // The sender going away is an end too.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Unmounts, if it is still our filesystem that is mounted there; lazily if it is in use.
    ///
    /// # Errors
    /// What the kernel or `fusermount3` says.
    pub fn unmount(&self) -> io::Result<()> {
        if self.connection.has_ended() {
            // Who unmounted us may have mounted something else since, which may even have our number: the
            // kernel gives the lowest that is free. If we were cut off and not unmounted, it is dead, and ours.
            return mounts::unmount_dead(&self.mountpoint, self.device);
        }
        match mounts::unmount_ours(&self.mountpoint, self.device, false) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                mounts::unmount_ours(&self.mountpoint, self.device, true)
            }
            outcome => outcome,
        }
    }
}
