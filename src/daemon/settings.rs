//! Everything that a mount was told, resolved and checked.

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
    /// Whether the server is inside the process.
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
