//! One download a file, however many read it; a reader gets its bytes as they arrive.
//!
//! A flight writes into a temporary file of the cache and tells how far it is; readers wait for their range
//! only. A body that is cut is taken up again where it broke, by range where the server offers ranges, else
//! from the start with the known part discarded. When the last reader goes away, a flight that is long to go
//! is cancelled. If the disk is full the rest is kept in memory: a read never fails because the cache cannot
//! be written.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tracing::Instrument;

use crate::api::client::Part;
use crate::api::priority::{self, Priority};
use crate::api::{self, Client, ContainerId, budget};
use crate::content::cache::{Cache, Cached, Checksum, Key, read_exact_at};
use crate::content::lengths::Lengths;
use crate::content::pieces::{Origin, Pieces};

/// A flight that nobody waits for is finished all the same if this many bytes or fewer are left.
const WORTH_FINISHING: u64 = 256 << 10;

/// Bytes of a file up to which a body without a length is not shown before its end.
const HELD_BACK: u64 = 1 << 20;

/// Bytes of one body that are kept in memory where the disk has no room.
const SPILL_MAX: usize = 256 << 20;

/// Bytes of a body whose length nobody tells are taken up to the size of the cache, or up to this number.
const UNTOLD_MAX: u64 = 64 << 20;

/// How often a cut body is taken up again.
const RESUMPTIONS: u32 = 2;

/// Why bytes cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server's answer.
    #[error(transparent)]
    Api(Arc<api::Error>),
    /// The local file that holds the bytes cannot be read.
    #[error("reading the cache: {0}")]
    Local(Arc<io::Error>),
    /// A cut body was taken up again, and what came is another version.
    #[error("the file changed on the server while it was fetched")]
    Changed,
    /// A body without an end.
    #[error("the server sent more than {0} bytes of a file whose length it does not tell")]
    Endless(u64),
}

#[derive(Clone, Debug, Default)]
struct Progress {
    written: u64,
    total: Option<u64>,
    ended: Option<Result<(), Error>>,
}

struct Flight {
    file: Option<File>,
    /// What the disk had no room for, and the offset at which it begins.
    spill: Mutex<(u64, Vec<u8>)>,
    progress: watch::Sender<Progress>,
    /// The nearest offset that somebody waits for: nobody is woken before it is reached.
    wanted: AtomicU64,
    readers: AtomicUsize,
    /// Nobody will ask for these bytes again.
    forgotten: AtomicBool,
    /// That of the most urgent reader.
    priority: Priority,
    /// What is read before its turn.
    pieces: Arc<Pieces>,
    origin: Origin,
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("file", &self.origin.file)
            .field("pieces", &self.pieces)
            .finish_non_exhaustive()
    }
}

/// The bytes of one version, here or on their way.
#[derive(Debug)]
pub struct Body(Source);

#[derive(Debug)]
enum Source {
    Memory(Bytes),
    Disk(File, u64),
    Flight(Arc<Flight>),
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Source::Flight(flight) = &self.0 {
            flight.readers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Body {
    /// The length in bytes, once it is known.
    pub fn known_len(&self) -> Option<u64> {
        match &self.0 {
            Source::Memory(bytes) => Some(bytes.len() as u64),
            Source::Disk(_, len) => Some(*len),
            Source::Flight(flight) => flight.progress.borrow().total,
        }
    }

    /// Whether every byte is here.
    pub fn is_local(&self) -> bool {
        match &self.0 {
            Source::Memory(_) | Source::Disk(..) => true,
            Source::Flight(flight) => matches!(flight.progress.borrow().ended, Some(Ok(()))),
        }
    }

    /// Whether the rest of it will not come.
    pub fn has_failed(&self) -> bool {
        match &self.0 {
            Source::Memory(_) | Source::Disk(..) => false,
            Source::Flight(flight) => matches!(flight.progress.borrow().ended, Some(Err(_))),
        }
    }

    /// Reads without waiting; `None` if bytes of the range are still on their way.
    pub fn try_read(&self, offset: u64, size: usize) -> Option<Result<Bytes, Error>> {
        match &self.0 {
            Source::Memory(bytes) => Some(Ok(slice(bytes, offset, size))),
            Source::Disk(file, len) => Some(read_at(file, offset, clip(offset, size, *len))),
            Source::Flight(flight) => {
                let progress = flight.progress.borrow().clone();
                let end =
                    progress.total.map_or(offset + size as u64, |total| total.min(offset + size as u64));
                if progress.written >= end || matches!(progress.ended, Some(Ok(()))) {
                    return Some(flight.read(offset, clip(offset, size, progress.written)));
                }
                if let Some(file) = &flight.file
                    && flight.pieces.have(&(offset..end))
                {
                    return Some(read_at(file, offset, clip(offset, size, end)));
                }
                match progress.ended {
                    Some(Err(error)) => Some(Err(error)),
                    _ => None,
                }
            }
        }
    }

    /// Reads up to `size` bytes at `offset`; fewer at the end of the file only.
    ///
    /// # Errors
    /// The download failed before the range was whole.
    pub async fn read(&self, offset: u64, size: usize) -> Result<Bytes, Error> {
        loop {
            // Said and subscribed before the look, so that nothing is missed between the two.
            let mut changes = match &self.0 {
                Source::Flight(flight) => {
                    flight.wanted.fetch_min(offset.saturating_add(size as u64), Ordering::AcqRel);
                    Some(flight.progress.subscribe())
                }
                _ => None,
            };
            if let Some(result) = self.try_read(offset, size) {
                return result;
            }
            if let Some(changes) = &mut changes {
                if let Source::Flight(flight) = &self.0 {
                    flight.reach(offset, size);
                }
                let _ = changes.changed().await;
            }
        }
    }

    /// Waits for the length alone.
    ///
    /// # Errors
    /// The download failed before its length was known.
    pub async fn total(&self) -> Result<u64, Error> {
        let Source::Flight(flight) = &self.0 else { return Ok(self.known_len().unwrap_or(0)) };
        let mut changes = flight.progress.subscribe();
        let known = changes.wait_for(|progress| progress.total.is_some() || progress.ended.is_some()).await;
        let progress = known.map(|progress| progress.clone()).unwrap_or_default();
        match (progress.total, progress.ended) {
            (Some(total), _) => Ok(total),
            (None, Some(Err(error))) => Err(error),
            (None, _) => Ok(progress.written),
        }
    }

    /// Waits until every byte is here; returns the length.
    ///
    /// # Errors
    /// The download failed.
    pub async fn whole(&self) -> Result<u64, Error> {
        let Source::Flight(flight) = &self.0 else { return Ok(self.known_len().unwrap_or(0)) };
        let mut changes = flight.progress.subscribe();
        let ended = changes.wait_for(|progress| progress.ended.is_some()).await;
        let progress = ended.map(|progress| progress.clone()).unwrap_or_default();
        progress.ended.unwrap_or(Ok(())).map(|()| progress.written)
    }

    /// Writes every byte to `to`.
    ///
    /// # Errors
    /// The download failed, or `to` cannot be written.
    pub async fn copy_to(&self, to: &File) -> Result<u64, Error> {
        const STEP: usize = 1 << 20;
        let mut offset = 0;
        loop {
            let bytes = self.read(offset, STEP).await?;
            if bytes.is_empty() {
                return Ok(offset);
            }
            to.write_all_at(&bytes, offset).map_err(local)?;
            offset += bytes.len() as u64;
        }
    }
}

impl Flight {
    /// A reader waits for bytes at `offset`, perhaps far from those that arrive.
    fn reach(self: &Arc<Self>, offset: u64, size: usize) {
        let (written, total) = {
            let progress = self.progress.borrow();
            (progress.written, progress.total)
        };
        let (Some(total), Some(file)) = (total, &self.file) else { return };
        let range = offset..total.min(offset.saturating_add(size as u64));
        for index in self.pieces.wanted(&range, written, total) {
            let Ok(to) = file.try_clone() else { return };
            let flight = self.clone();
            tokio::spawn(async move {
                let told = || flight.progress.send_modify(|_| ());
                flight.pieces.fetch(index, total, flight.origin.clone(), to, told).await;
            });
        }
    }

    fn read(&self, offset: u64, size: usize) -> Result<Bytes, Error> {
        let spill = lock(&self.spill);
        let on_disk = spill.0;
        let mut bytes = Vec::with_capacity(size);
        if offset < on_disk
            && let Some(file) = &self.file
        {
            bytes = read_at(file, offset, clip(offset, size, on_disk))?.to_vec();
        }
        let from = (offset + bytes.len() as u64).saturating_sub(on_disk);
        if bytes.len() < size
            && let Some(rest) = usize::try_from(from).ok().and_then(|from| spill.1.get(from..))
        {
            bytes.extend_from_slice(&rest[..rest.len().min(size - bytes.len())]);
        }
        Ok(bytes.into())
    }
}

/// Downloads of a mount.
#[derive(Debug)]
pub struct Downloads {
    client: Client,
    cache: Arc<Cache>,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    lengths: Lengths,
}

impl Downloads {
    /// Downloads into `cache`.
    pub fn new(client: Client, cache: Arc<Cache>) -> Arc<Self> {
        Arc::new(Self { client, cache, flights: Mutex::default(), lengths: Lengths::default() })
    }

    /// The cache behind the downloads.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The bytes of a version if they are here or on their way.
    pub fn present(&self, container: &ContainerId, file: &api::File) -> Option<Body> {
        let key = Key::new(container, file);
        self.cached(&key).or_else(|| self.join(&key))
    }

    /// The bytes of a version, asked for if need be. Needs a runtime.
    pub fn fetch(self: &Arc<Self>, container: &ContainerId, file: &api::File) -> Body {
        let key = Key::new(container, file);
        if let Some(body) = self.cached(&key) {
            return body;
        }
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&key) {
            return Self::board(flight);
        }
        // A flight that has just landed left the board after the cache had it.
        if let Some(body) = self.cached(&key) {
            return body;
        }
        self.cache.missed();
        let temporary =
            self.cache.temporary().inspect_err(|error| tracing::warn!(%error, "cache unwritable")).ok();
        let reader = temporary.as_ref().and_then(|file| file.as_file().try_clone().ok());
        let temporary = temporary.filter(|_| reader.is_some());
        let flight = Arc::new(Flight {
            spill: Mutex::new((if reader.is_some() { u64::MAX } else { 0 }, Vec::new())),
            file: reader,
            progress: watch::Sender::new(Progress::default()),
            wanted: AtomicU64::new(u64::MAX),
            readers: AtomicUsize::new(0),
            forgotten: AtomicBool::new(false),
            priority: Priority::new(priority::current()),
            pieces: Arc::default(),
            origin: Origin {
                client: self.client.clone(),
                container: container.clone(),
                file: file.id.clone(),
            },
        });
        let body = Self::board(&flight);
        flights.insert(key.clone(), flight.clone());
        let task = Task {
            downloads: self.clone(),
            checksum: Checksum::of(&key),
            key,
            container: container.clone(),
            file: file.clone(),
            flight,
            temporary,
            written: 0,
            ranges: false,
        };
        // What fails again and again fails once for who waits for it.
        let limit = self.client.timeout();
        // In the span of whoever asked first, so that the log tells for whom it is.
        tokio::spawn(budget::within(limit, task.run().in_current_span()));
        body
    }

    /// Nobody will ask for the bytes of a version any more. Who reads them goes on.
    pub fn forget(&self, container: &ContainerId, file: &api::File) {
        let key = Key::new(container, file);
        if let Some(flight) = lock(&self.flights).get(&key) {
            flight.forgotten.store(true, Ordering::Release);
        }
        self.cache.remove(&key);
    }

    /// Whether the bytes of a version are here or on their way.
    pub fn has(&self, key: &Key) -> bool {
        self.cache.contains(key) || lock(&self.flights).contains_key(key)
    }

    /// How many downloads are under way.
    pub fn under_way(&self) -> usize {
        lock(&self.flights).len()
    }

    fn cached(&self, key: &Key) -> Option<Body> {
        Some(Body(match self.cache.get(key)? {
            Cached::Memory(bytes) => Source::Memory(bytes),
            Cached::Disk(file, len) => Source::Disk(file, len),
        }))
    }

    fn join(&self, key: &Key) -> Option<Body> {
        lock(&self.flights).get(key).map(Self::board)
    }

    fn board(flight: &Arc<Flight>) -> Body {
        flight.readers.fetch_add(1, Ordering::AcqRel);
        flight.priority.raise(priority::current());
        Body(Source::Flight(flight.clone()))
    }

    /// Takes a flight that nobody waits for off the board; false if somebody came.
    fn abandon(&self, key: &Key, flight: &Flight) -> bool {
        let mut flights = lock(&self.flights);
        let abandoned = flight.readers.load(Ordering::Acquire) == 0;
        if abandoned {
            flights.remove(key);
        }
        abandoned
    }
}

/// What one flight does.
struct Task {
    downloads: Arc<Downloads>,
    key: Key,
    container: ContainerId,
    file: api::File,
    flight: Arc<Flight>,
    temporary: Option<tempfile::NamedTempFile>,
    checksum: Checksum,
    written: u64,
    /// The server has said that it takes ranges.
    ranges: bool,
}

impl Drop for Task {
    /// Whoever waits for a flight is told of its end, whatever has ended it.
    fn drop(&mut self) {
        if self.flight.progress.borrow().ended.is_some() {
            return;
        }
        lock(&self.downloads.flights).retain(|_, flight| !Arc::ptr_eq(flight, &self.flight));
        let died = local(io::Error::other("the download has died"));
        self.flight.progress.send_modify(|progress| progress.ended = Some(Err(died)));
    }
}

impl Task {
    async fn run(mut self) {
        let mut resumptions = 0;
        let outcome = loop {
            match self.receive().await {
                Ok(true) => break Ok(()),
                Ok(false) => return,
                Err(Error::Api(error))
                    if error.kind == api::ErrorKind::CutBody && resumptions < RESUMPTIONS =>
                {
                    resumptions += 1;
                    tracing::debug!(%error, resumptions, "taking up a cut body again");
                }
                Err(error) => break Err(error),
            }
        };
        if outcome.is_ok()
            && let Some(temporary) = self.temporary.take()
            && let Err(error) = self.downloads.cache.adopt(&self.key, temporary, self.written, &self.checksum)
        {
            tracing::warn!(%error, "a download was not kept in the cache");
        }
        // Off the board only now: until the cache has it, a newcomer joins this flight.
        lock(&self.downloads.flights).remove(&self.key);
        if self.flight.forgotten.load(Ordering::Acquire) {
            self.downloads.cache.remove(&self.key);
        }
        let written = self.written;
        self.flight.progress.send_modify(|progress| {
            if outcome.is_ok() {
                (progress.total, progress.written) = (Some(written), written);
            }
            progress.ended = Some(outcome);
        });
    }

    /// Receives what is missing; false if nobody wants it any longer.
    async fn receive(&mut self) -> Result<bool, Error> {
        let part = if self.written > 0 && self.ranges { Part::From(self.written) } else { Part::Whole };
        let client = &self.downloads.client;
        let content = client.content_for(&self.container, &self.file.id, &part, &self.flight.priority);
        let mut content = content.await.map_err(api_error)?;
        self.ranges = content.accepts_ranges;
        if self.ranges {
            self.flight.pieces.offer();
        }
        let (mut at, known) = (content.start, self.written);
        let learnt = self.downloads.lengths.learnt(&self.key);
        let expected = content.expected_len(&self.file, learnt);
        content.check(&self.file, learnt).await.map_err(api_error)?;
        let is_suspect = content.is_suspect(&self.file.path);
        // A small body whose length nobody tells is shown when it has turned out to be the right one.
        let hold_back = content.length.is_none() && expected.is_some_and(|expected| expected <= HELD_BACK);
        if let Some(length) = content.length {
            let total = content.start + length;
            if self.flight.progress.borrow().total.is_some_and(|before| before != total) {
                return Err(Error::Changed);
            }
            self.learn(total, is_suspect);
            self.flight.progress.send_modify(|progress| progress.total = Some(total));
        }
        let untold = content.length.is_none() && expected.is_none();
        let most = if untold { UNTOLD_MAX.max(self.downloads.cache.disk_limit()) } else { u64::MAX };
        while let Some(chunk) = content.chunk().await.map_err(api_error)? {
            let again = clip(at, chunk.len(), known);
            if again > 0 && self.flight.read(at, again)? != chunk[..again] {
                return Err(Error::Changed);
            }
            at += chunk.len() as u64;
            if let Some(expected) = expected.filter(|expected| *expected < at) {
                return Err(api_error(content.wrong_length(expected, at, &self.file.path)));
            }
            if at > most {
                return Err(Error::Endless(most));
            }
            self.keep(&chunk[again..], hold_back)?;
            let left = content
                .length
                .map_or(u64::MAX, |length| (content.start + length).saturating_sub(self.written));
            if self.flight.readers.load(Ordering::Acquire) == 0
                && left > WORTH_FINISHING
                && self.downloads.abandon(&self.key, &self.flight)
            {
                return Ok(false);
            }
        }
        if at < known {
            return Err(Error::Changed);
        }
        match expected.filter(|expected| *expected != at) {
            Some(expected) => Err(api_error(content.wrong_length(expected, at, &self.file.path))),
            None => {
                self.learn(at, is_suspect);
                Ok(true)
            }
        }
    }

    /// The content is `len` bytes long. What may be something else teaches nothing.
    fn learn(&self, len: u64, is_suspect: bool) {
        if self.file.bytes.is_none() && !is_suspect {
            self.downloads.lengths.learn(&self.key, len);
        }
    }

    fn keep(&mut self, bytes: &[u8], hold_back: bool) -> Result<(), Error> {
        self.checksum.update(bytes);
        let stored = match &self.temporary {
            // A write that failed may have left its beginning: the next one begins where this one did.
            Some(file) => file.as_file().write_all_at(bytes, self.written).or_else(|_| {
                self.downloads.cache.clear();
                file.as_file().write_all_at(bytes, self.written)
            }),
            None => Err(io::ErrorKind::StorageFull.into()),
        };
        if let Err(error) = stored {
            self.temporary = None;
            let mut spill = lock(&self.flight.spill);
            if spill.1.len() + bytes.len() > SPILL_MAX {
                return Err(local(error));
            }
            if spill.0 == u64::MAX {
                spill.0 = self.written;
            }
            spill.1.extend_from_slice(bytes);
        }
        self.written += bytes.len() as u64;
        if !hold_back {
            let (written, wanted) = (self.written, &self.flight.wanted);
            self.flight.progress.send_if_modified(|progress| {
                progress.written = written;
                // Whoever wants something after this look looks at the progress itself, under the lock that
                // is held here.
                let nearest = wanted.load(Ordering::Acquire);
                let due = written >= nearest || progress.total == Some(written);
                if due {
                    let _ = wanted.compare_exchange(nearest, u64::MAX, Ordering::AcqRel, Ordering::Relaxed);
                }
                due
            });
        }
        Ok(())
    }
}

fn api_error(error: api::Error) -> Error {
    Error::Api(Arc::new(error))
}

fn clip(offset: u64, size: usize, end: u64) -> usize {
    usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(size)
}

fn slice(bytes: &Bytes, offset: u64, size: usize) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(size).min(bytes.len());
    bytes.slice(start..end)
}

fn read_at(file: &File, offset: u64, size: usize) -> Result<Bytes, Error> {
    read_exact_at(file, offset, size).map_err(local)
}

fn local(error: io::Error) -> Error {
    Error::Local(Arc::new(error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
