//! The API as a server.
//!
//! For users without a key, for tests, and for other people's clients: the nine operations with strict
//! parameters, the real service's errors, ids, order and quirks. What is unknown of the real service is a
//! switch of [`Quirks`], because a client must be right both ways. A test plays the model through [`Store`],
//! spoils requests through [`Faults`], and counts them in [`Emulator::requests`].
//!
//! | file | what it is for |
//! |---|---|
//! | `profiles`, `switches` | which server to be |
//! | `connection`, `router` | from a socket to one of nine operations |
//! | `containers`, `files`, `upload`, `content` | the operations |
//! | `paging`, `objects`, `error`, `body` | what they share: lists, replies, refusals, request bodies |
//! | `store` | containers, files, bytes, the data directory |
//! | `faults`, `mischief` | which request fails and how; failing it |
//! | `requests`, `admin` | what was asked; all of this over HTTP |
//! | `demo` | sample containers |

mod admin;
mod body;
mod connection;
mod containers;
mod content;
pub mod demo;
mod error;
pub mod faults;
mod files;
mod mischief;
mod objects;
mod paging;
pub mod profiles;
mod requests;
mod router;
pub mod store;
pub mod switches;
#[cfg(test)]
mod tests;
mod upload;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use faults::{Fault, FaultRule, Faults};
pub use profiles::{Profile, Quirks, ReplaceByName};
pub use requests::{Kind, Logged};
pub use store::{Store, StoredContainer, StoredFile};

use requests::RequestLog;
use router::App;

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The profile that the quirks were taken from.
    pub profile: Profile,
    /// What the server does where servers differ.
    pub quirks: Quirks,
    /// Where data outlives the server; none is a temporary directory, removed at the end. Two servers must
    /// not share one.
    pub data_dir: Option<PathBuf>,
    /// The one good key; with none any bearer is good, and still none at all is 401.
    pub api_key: Option<SecretString>,
    /// Whether `/_admin/` exists.
    pub admin: bool,
    /// So long every request waits before it is carried out.
    pub latency: Duration,
}

impl Config {
    /// A temporary server of a profile: any key, no admin route, no latency.
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            quirks: Quirks::for_profile(profile),
            data_dir: None,
            api_key: None,
            admin: false,
            latency: Duration::ZERO,
        }
    }
}

/// The server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be read or written.
    #[error("cannot use the data directory: {0}")]
    Store(#[from] store::Error),
}

/// A running server. Dropped, it stops: replies in progress get a second to end.
pub struct Emulator {
    app: Arc<App>,
    addr: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Emulator {
    /// Starts a server on an address; port 0 is any that is free.
    ///
    /// # Errors
    /// If the address cannot be listened on or the data directory does not obey.
    pub async fn start(config: Config, listen: SocketAddr) -> Result<Self, Error> {
        let listener_error = |source| Error::Listen { addr: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(listener_error)?;
        let addr = listener.local_addr().map_err(listener_error)?;
        let store = Store::open(config.data_dir.as_deref(), config.quirks.clone())?;
        let app = Arc::new(App {
            store,
            quirks: config.quirks,
            faults: Faults::default(),
            log: RequestLog::default(),
            api_key: config.api_key,
            admin: config.admin,
            latency: Mutex::new(config.latency),
            started: Instant::now(),
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(connection::accept(listener, Arc::clone(&app), stop.clone(), tasks.clone()));
        tracing::debug!(%addr, profile = %config.profile, "the emulator listens");
        Ok(Self { app, addr, stop, tasks })
    }

    /// The address that is listened on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL for clients, `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What the server holds.
    pub fn store(&self) -> &Store {
        &self.app.store
    }

    /// The API requests since the start, or since they were last forgotten, in the order of arrival.
    pub fn requests(&self) -> Vec<Logged> {
        self.app.log.all()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.app.log.forget();
    }

    /// The rules by which requests fail.
    pub fn faults(&self) -> &Faults {
        &self.app.faults
    }

    /// Lets every later request wait so long before it is carried out.
    pub fn set_latency(&self, latency: Duration) {
        *self.app.latency.lock().unwrap_or_else(PoisonError::into_inner) = latency;
    }

    /// Stops, and waits until the last connection is closed.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
