//! Everything that a mount was told, resolved and checked.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::ClientConfig;
use crate::fuse::Options;
use crate::vfs;

/// How to mount.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory, canonical.
    pub mountpoint: PathBuf,
    /// Whether the server is inside the process, and nothing is kept.
    pub demo: bool,
    /// The server.
    pub client: ClientConfig,
    /// How the filesystem behaves. Its directories are those of all accounts.
    pub vfs: vfs::Config,
    /// How it is mounted.
    pub fuse: Options,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// How long the end may take.
    pub drain_timeout: Duration,
}

impl Settings {
    /// A demo's cache, state and log go into a directory of its own, which goes when what is returned does.
    /// Not to be called before the fork: both sides would remove it.
    ///
    /// # Errors
    /// There is no place for temporary directories.
    pub fn keep_nothing(&mut self) -> io::Result<Option<tempfile::TempDir>> {
        if !self.demo {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("containerfs-demo-").tempdir()?;
        self.vfs.cache_dir = dir.path().join("cache");
        self.vfs.state_dir = dir.path().join("state");
        Ok(Some(dir))
    }
}
