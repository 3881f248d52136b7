//! The filesystem itself, async and free of FUSE.
//!
//! What can be answered from memory has a synchronous function whose name ends in `_now` or which returns at
//! once; everything else is async and may ask the server. One mutex guards the tree and what hangs on it, for
//! moments only and never across an await. A `writer` holds the bytes of a file that are newer than the
//! server's, and `in_use` keeps it while somebody needs it; `promise` makes them durable, `commit` brings them
//! there; `freshness` keeps listings young, `shown` knows what the kernel may keep of them, `unlisted` asks for
//! what they miss, and `versions` tells a file from what stood under its id before. `evict` takes bytes of what
//! is gone out of the cache.

mod ahead;
pub mod attr;
mod commit;
mod creation;
mod deadline;
mod deletions;
mod descriptors;
mod directory;
mod discard;
mod drain;
mod emptied;
pub mod error;
mod evict;
mod file;
mod freshness;
pub mod heartbeat;
mod in_use;
mod keep_alive;
mod locate;
mod lookup;
mod lost;
mod moves;
mod phantoms;
mod placing;
mod prepare;
mod probe;
mod promise;
mod recover;
mod relocate;
mod remove;
mod rename;
mod repeated;
mod resume;
mod sending;
mod shelve;
mod shown;
mod sizes;
mod status;
mod truncate;
mod unlisted;
mod versions;
mod writer;
mod xattr;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub use attr::{Attr, Entry, FileKind, Maker, SetAttr};
pub use deadline::Deadline;
pub use directory::DirEntry;
pub use drain::Left;
pub use error::{Error, Result};
pub use file::Opened;
pub use locate::Located;
pub use lookup::Found;
pub use shown::Reading;
pub use status::{Capacity, Progress, Status};

use crate::api::{Client, Container, ContainerId, Cursors, List, NetworkPolicy};
use crate::content::Cache;
use crate::content::download::Downloads;
use crate::content::prefetch::Prefetch;
use crate::journal::Journal;
use crate::journal::scratch::Scratch;
use crate::namespace::inode::{Ino, Tree};
use crate::namespace::records::Records;

/// How a mount behaves; DESIGN §1 names the flags.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a listing answers without being asked for again.
    pub ttl: Duration,
    /// How long bytes and sizes of what a model wrote are trusted.
    pub content_ttl: Duration,
    /// The longest that the kernel waits for an answer.
    pub timeout: Duration,
    /// With `--write-back`: how long after the last close an upload begins.
    pub write_back: Option<Duration>,
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// What a user makes belongs to that user; otherwise to `uid` and `gid` as well.
    pub makers_own: bool,
    /// Permission bits that are taken away.
    pub umask: u32,
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
    /// Refuse to delete with `EPERM`; an overwritten version stays beside the new one.
    pub no_delete: bool,
    /// Refuse to open existing files for writing with `EPERM`.
    pub no_overwrite: bool,
    /// The container, by name or id, that is the root.
    pub container: Option<String>,
    /// Where whole files are kept; of this account alone.
    pub cache_dir: PathBuf,
    /// Bytes on disk.
    pub cache_size: u64,
    /// Bytes in memory.
    pub memory_cache: u64,
    /// Where unsent bytes and records are kept; of this account alone.
    pub state_dir: PathBuf,
    /// Whether to fetch ahead.
    pub prefetch: bool,
    /// Whether containers that are used here are kept from expiring.
    pub keep_alive: bool,
    /// Further scratch names.
    pub scratch: Vec<String>,
    /// Transfers at once.
    pub max_connections: usize,
    /// What `mkdir` asks for.
    pub new_container: NewContainer,
}

impl Config {
    /// Everything is root's and nothing forbidden; what is asked for is fetched, and nothing else. Lists and
    /// lengths hold for an hour, and the server has 30 s to answer.
    pub fn new(cache_dir: PathBuf, state_dir: PathBuf) -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            ttl: hour,
            content_ttl: hour,
            timeout: Duration::from_secs(30),
            write_back: None,
            uid: 0,
            gid: 0,
            makers_own: true,
            umask: 0o022,
            read_only: false,
            no_delete: false,
            no_overwrite: false,
            container: None,
            cache_dir,
            cache_size: 1 << 30,
            memory_cache: 1 << 20,
            state_dir,
            prefetch: false,
            keep_alive: false,
            scratch: Vec::new(),
            max_connections: 8,
            new_container: NewContainer::default(),
        }
    }
}

/// Parameters of containers that `mkdir` makes.
#[derive(Clone, Debug, Default)]
pub struct NewContainer {
    /// `1g`, `4g`, `16g` or `64g`.
    pub memory_limit: Option<String>,
    /// 1..20.
    pub expires_after_minutes: Option<i64>,
    /// As the API takes it.
    pub network_policy: Option<NetworkPolicy>,
}

/// What the kernel must ask for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The attributes of an inode: they have changed, or its name is no more.
    Attributes(Ino),
    /// The entries of a directory that stays open: they are too old.
    Entries(Ino),
}

/// An invalidation on its way to the kernel.
#[derive(Debug)]
pub struct Notice {
    /// What it is about.
    pub what: Invalidation,
    /// Somebody waits until the kernel has it.
    pub passed_on: Option<oneshot::Sender<()>>,
}

/// The kernel takes note of attributes at once; whoever waits for that waits no longer.
const NOTICE_MAX: Duration = Duration::from_secs(1);

/// A mounted filesystem.
pub struct Vfs {
    client: Client,
    config: Config,
    state: Mutex<State>,
    downloads: Arc<Downloads>,
    journal: Journal,
    scratch: Scratch,
    refreshes: freshness::Refreshes,
    /// Uploads and deletions that run behind their caller.
    behind: TaskTracker,
    stopping: AtomicBool,
    invalidations: mpsc::UnboundedSender<Notice>,
    invalidations_out: Mutex<Option<mpsc::UnboundedReceiver<Notice>>>,
    /// Held while it is found out whether the server keeps directories.
    probing: tokio::sync::Mutex<()>,
    /// Who may send something under a name.
    names: sending::NameTurns,
    moves: moves::Moves,
    started: Instant,
    since: jiff::Timestamp,
    mount_id: std::sync::OnceLock<u64>,
    errors: status::Errors,
    /// Lookups that may fail twice.
    looked_up: repeated::Repeated<(Ino, std::ffi::OsString)>,
    /// Reads that may fail twice, by handle and offset.
    was_read: repeated::Repeated<(u64, u64)>,
}

/// Everything that the mutex guards.
struct State {
    tree: Tree,
    records: Records,
    handles: HashMap<u64, Arc<file::Handle>>,
    directories: HashMap<u64, shown::OpenDirectory>,
    /// What the kernel was shown of directories that it knows.
    shown: HashMap<Ino, shown::Shown>,
    /// When the first copy of the kernel's is too old that somebody has open.
    copies_hold_until: Option<Instant>,
    next_handle: u64,
    writers: HashMap<Ino, Arc<writer::Writer>>,
    /// Server files whose deletion waits for the last close of an inode.
    deferred: HashMap<Ino, Arc<deletions::Unwanted>>,
    /// Deletions of earlier mounts that this one may not carry out.
    left_to_others: Vec<Arc<deletions::Unwanted>>,
    /// All deletions that somebody knows of.
    going: Vec<std::sync::Weak<deletions::Unwanted>>,
    /// Containers deleted here; a list may lag.
    dead_containers: std::collections::HashSet<ContainerId>,
    /// Deletions under way, and those that failed and are tried again when the mount ends.
    undeleted: Vec<Arc<deletions::Unwanted>>,
    /// What could not be sent, by path, for `status`.
    failures: HashMap<Ino, drain::Left>,
    /// Real files that were moved aside under scratch names: container and path that each has left.
    shelved: HashMap<Ino, (Ino, String)>,
    /// Which files are probably read next.
    prefetch: Prefetch,
    /// Where files are made, one after the other.
    making: freshness::Making,
    /// Lists that are being fetched before their time.
    renewing: std::collections::HashSet<freshness::Which>,
    looked_ahead: ahead::LookedAhead,
    /// Directories whose lengths are being asked for, or were until a 429.
    sizing: HashMap<Ino, sizes::Sizing>,
    /// Base names of probes, which nobody is shown, and what is not known of them yet.
    probes: HashMap<String, Option<probe::Probe>>,
    /// POSTs under way.
    sending: sending::Sending,
    /// POSTs whose answer was lost.
    lost: Vec<lost::Lost>,
    /// New paths of renames that earlier mounts have left half done, or that had no answer: what lost POSTs have made
    /// under them may be wanted.
    resuming: HashSet<(ContainerId, String)>,
    /// Renames that earlier mounts have left half done and this one finishes.
    renamed_behind: resume::RenamedBehind,
    /// Listed versions that lost POSTs may have made, and that nobody is shown.
    withheld: HashMap<ContainerId, Vec<Arc<crate::api::File>>>,
    /// Adopted staging files that are neither shown nor sent.
    unfinished: Vec<drain::Waiting>,
}

impl Vfs {
    /// Opens the filesystem, with a first call to the server.
    ///
    /// # Errors
    /// The server's refusal (a wrong key, say), an unknown `--container`, or a state or cache directory that
    /// cannot be used.
    pub async fn open(client: Client, config: Config) -> Result<Arc<Self>> {
        let state_dir = &config.state_dir;
        crate::private::directory(state_dir).map_err(|error| unusable(state_dir, "--state-dir", &error))?;
        let mut records = Records::open(&config.state_dir)?;
        let scratch = Scratch::new(&config.scratch)
            .map_err(|error| Error::told(libc::EINVAL, format!("--scratch: {error}")))?;
        let journal = Journal::open(&config.state_dir)?;
        let cache = Cache::open(&config.cache_dir, config.cache_size, config.memory_cache);
        let cache = Arc::new(cache.map_err(|error| unusable(&config.cache_dir, "--cache-dir", &error))?);
        let started = Instant::now();
        let mut tree = match &config.container {
            None => {
                let mut tree = Tree::new();
                let List { items: containers, has_unread } =
                    client.live_containers(&mut Cursors::default()).await?;
                records.forget_departed(&containers, !has_unread);
                crate::namespace::listing::apply_containers(&mut tree, &containers, started);
                tree
            }
            Some(wanted) => Tree::of_container(find_container(&client, wanted).await?),
        };
        let downloads = Downloads::new(client.clone(), cache);
        tokio::spawn(evict::evict(downloads.clone(), tree.tell_what_goes()));
        let (invalidations, invalidations_out) = mpsc::unbounded_channel();
        let state = State {
            tree,
            records,
            handles: HashMap::new(),
            directories: HashMap::new(),
            shown: HashMap::new(),
            copies_hold_until: None,
            next_handle: 1,
            writers: HashMap::new(),
            deferred: HashMap::new(),
            left_to_others: Vec::new(),
            going: Vec::new(),
            dead_containers: std::collections::HashSet::new(),
            undeleted: Vec::new(),
            failures: HashMap::new(),
            shelved: HashMap::new(),
            prefetch: Prefetch::new(config.cache_size),
            making: freshness::Making::default(),
            renewing: std::collections::HashSet::new(),
            looked_ahead: ahead::LookedAhead::new(),
            sizing: HashMap::new(),
            probes: HashMap::new(),
            sending: sending::Sending::default(),
            lost: Vec::new(),
            resuming: HashSet::new(),
            renamed_behind: resume::RenamedBehind::default(),
            withheld: HashMap::new(),
            unfinished: Vec::new(),
        };
        let vfs = Arc::new(Self {
            downloads,
            client,
            config,
            state: Mutex::new(state),
            journal,
            scratch,
            refreshes: freshness::Refreshes::new(),
            behind: TaskTracker::new(),
            stopping: AtomicBool::new(false),
            invalidations,
            invalidations_out: Mutex::new(Some(invalidations_out)),
            probing: tokio::sync::Mutex::new(()),
            names: sending::NameTurns::default(),
            moves: moves::Moves::default(),
            started,
            since: jiff::Timestamp::now(),
            mount_id: std::sync::OnceLock::new(),
            errors: status::Errors::default(),
            looked_up: repeated::Repeated::default(),
            was_read: repeated::Repeated::default(),
        });
        vfs.recover();
        if vfs.config.keep_alive {
            vfs.keep_alive();
        }
        Ok(vfs)
    }

    /// How this mount behaves.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the kernel must forget, from now on. The first caller gets it.
    pub fn take_invalidations(&self) -> Option<mpsc::UnboundedReceiver<Notice>> {
        self.invalidations_out.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tells the id that `/proc/self/mountinfo` has for this mount, which `/proc/PID/fdinfo` names too.
    pub fn set_mount_id(&self, id: u64) {
        let _ = self.mount_id.set(id);
    }

    /// Refuses new changes from now on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.journal.begin_draining();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_writable(&self) -> Result<()> {
        if self.config.read_only {
            return Err(Error::quiet(libc::EROFS));
        }
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::told(libc::EROFS, "the mount is being unmounted"));
        }
        Ok(())
    }

    fn check_deletable(&self) -> Result<()> {
        self.check_writable()?;
        if self.config.no_delete { Err(Error::quiet(libc::EPERM)) } else { Ok(()) }
    }

    fn invalidate(&self, what: Invalidation) {
        let _ = self.invalidations.send(Notice { what, passed_on: None });
    }

    /// The same, and waits until the kernel knows, if there is one.
    async fn invalidate_now(&self, what: Invalidation) {
        if self.invalidations_out.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let (passed_on, known) = oneshot::channel();
        if self.invalidations.send(Notice { what, passed_on: Some(passed_on) }).is_ok() {
            let _ = tokio::time::timeout(NOTICE_MAX, known).await;
        }
    }

    /// Takes a container that is gone from the server out of the root, and passes the error on.
    fn noticed(&self, container: &ContainerId, error: Error) -> Error {
        if error.is_container_gone() {
            self.gone(container);
        }
        error
    }

    /// The directory of a container that is gone goes.
    fn gone(&self, container: &ContainerId) {
        let mut state = self.state();
        if let Some(&ino) = state.tree.containers.get(container) {
            self.invalidate(Invalidation::Attributes(ino));
            state.tree.unlink(ino);
        }
    }
}

/// A directory with which nothing can begin, and what to do about it.
fn unusable(directory: &Path, flag: &str, error: &std::io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    Error::told(errno, format!("cannot use {} ({error}): name another with {flag}", directory.display()))
}

async fn find_container(client: &Client, wanted: &str) -> Result<Container> {
    match client.retrieve_container(&ContainerId::from(wanted)).await {
        Ok(container) if container.is_live() => return Ok(container),
        Ok(_) => return Err(Error::told(libc::ESTALE, format!("the container {wanted:?} has expired"))),
        Err(error) => {
            let error = Error::from(error);
            if !error.is_gone() && error.errno != libc::EINVAL && error.errno != libc::EPROTO {
                return Err(error);
            }
        }
    }
    let mut named: Vec<Container> = client.all_containers().await?;
    named.retain(|container| container.is_live() && container.name == wanted);
    // The list is newest first, within a second too: of equal times the last is the oldest, which has the bare name.
    named.into_iter().rev().min_by_key(|container| container.created_at).ok_or_else(|| {
        Error::told(
            libc::ENOENT,
            format!("there is no live container {wanted:?}: `containerfs containers list` shows them"),
        )
    })
}
