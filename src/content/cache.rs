//! The cache of whole files: all of it on disk, hot small files in memory too.
//!
//! An entry is a file whose name says everything: the hash of its key, its length and a checksum of its
//! bytes. It is written in the mount's own directory, which goes with the mount or is cleared by the next one,
//! and renamed when whole; its checksum, of its key too, is checked the first time that a mount finds it, so a
//! torn write or another's name is a miss and never a wrong byte. Least recently used entries go first; an
//! open one stays readable, because its descriptor outlives its name. What a model wrote is kept in the
//! mount's own directory, too, and never trusted across mounts (DESIGN §3).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use rustix::buffer::spare_capacity;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3;

use crate::{api, private};

/// Files up to this many bytes are also kept in memory.
const SMALL: u64 = 128 << 10;

/// How the name of a file begins that is not whole.
const PART: &str = ".part-";

/// What identifies one version of a file: container, file id, length and creation second.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    hash: String,
    /// Whether the bytes may outlive the mount.
    durable: bool,
}

impl Key {
    /// The key of a version.
    pub fn new(container: &api::ContainerId, file: &api::File) -> Self {
        let mut digest = Sha256::new();
        for part in [container.as_str(), file.id.as_str()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        digest.update(file.bytes.map_or(u64::MAX, |bytes| bytes).to_le_bytes());
        digest.update(file.created_at.to_le_bytes());
        Self { hash: hex::encode(&digest.finalize()[..16]), durable: file.source == "user" }
    }
}

/// Finds torn writes, faster than bytes arrive; nobody is kept from forging it, who could as well forge the
/// bytes.
#[derive(Clone)]
pub struct Checksum(Xxh3);

impl Checksum {
    /// Of what is going to be kept as `key`.
    pub fn of(key: &Key) -> Self {
        Self::under(&key.hash)
    }

    fn under(hash: &str) -> Self {
        let mut checksum = Self(Xxh3::default());
        checksum.update(hash.as_bytes());
        checksum
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all bytes so far, in hexadecimal digits.
    fn digits(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}

impl io::Write for Checksum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A cached file's bytes.
#[derive(Debug)]
pub enum Cached {
    /// A small file.
    Memory(Bytes),
    /// An open file and its length.
    Disk(File, u64),
}

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    len: u64,
    verified: bool,
}

impl Entry {
    fn sum(&self) -> Option<String> {
        let (_, _, sum) = parsed(self.path.file_name()?.to_str()?)?;
        Some(sum.to_owned())
    }
}

#[derive(Debug)]
struct Shelves {
    disk: LruCache<String, Entry>,
    disk_bytes: u64,
    memory: LruCache<String, Bytes>,
    memory_bytes: u64,
    hits: u64,
    misses: u64,
}

/// Sizes and hits, for `status`.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Usage {
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Files on disk.
    pub files: u64,
    /// Lookups that found their file, whole.
    pub hits: u64,
    /// Files that had to be fetched.
    pub misses: u64,
}

/// The cache of one account.
#[derive(Debug)]
pub struct Cache {
    durable: PathBuf,
    volatile: tempfile::TempDir,
    _volatile_lock: File,
    disk_limit: u64,
    memory_limit: u64,
    shelves: Mutex<Shelves>,
}

impl Cache {
    /// Opens the cache in `dir`, which is made, private, if it is missing. Limits are in bytes.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(dir: &Path, disk_limit: u64, memory_limit: u64) -> io::Result<Self> {
        private::directory(dir)?;
        let durable = dir.join("files");
        private::directory(&durable)?;
        clear_dead_mounts(dir);
        let private = fs::Permissions::from_mode(0o700);
        let volatile = tempfile::Builder::new().prefix("mount-").permissions(private).tempdir_in(dir)?;
        let lock =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(volatile.path().join("lock"))?;
        if !private::lock(&lock)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut shelves = Shelves {
            disk: LruCache::unbounded(),
            disk_bytes: 0,
            memory: LruCache::unbounded(),
            memory_bytes: 0,
            hits: 0,
            misses: 0,
        };
        for (hash, entry) in found_on_disk(&durable)? {
            shelves.disk_bytes += entry.len;
            if let Some(older) = shelves.disk.put(hash, entry) {
                shelves.disk_bytes -= older.len;
                let _ = fs::remove_file(older.path);
            }
        }
        let cache = Self {
            durable,
            volatile,
            _volatile_lock: lock,
            disk_limit,
            memory_limit,
            shelves: Mutex::new(shelves),
        };
        cache.shrink(&mut cache.shelves());
        Ok(cache)
    }

    /// The bytes of a version, if they are here.
    pub fn get(&self, key: &Key) -> Option<Cached> {
        let mut shelves = self.shelves();
        if let Some(bytes) = shelves.memory.get(&key.hash).cloned() {
            shelves.disk.promote(&key.hash);
            shelves.hits += 1;
            return Some(Cached::Memory(bytes));
        }
        let entry = shelves.disk.get(&key.hash)?;
        let (path, len, verified) = (entry.path.clone(), entry.len, entry.verified);
        drop(shelves);
        let whole = private::open(&path, OpenOptions::new().read(true)).and_then(|file| {
            if file.metadata()?.len() != len {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "length differs"));
            }
            if !verified {
                verify(&file, &path)?;
            }
            let small = (len <= SMALL).then(|| read_whole(&file, len)).transpose()?;
            Ok((file, small))
        });
        let mut shelves = self.shelves();
        match whole {
            Ok((file, small)) => {
                shelves.hits += 1;
                if let Some(entry) = shelves.disk.get_mut(&key.hash) {
                    entry.verified = true;
                }
                match small {
                    Some(bytes) => {
                        self.remember(&mut shelves, &key.hash, bytes.clone());
                        Some(Cached::Memory(bytes))
                    }
                    None => Some(Cached::Disk(file, len)),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a cached file is missing or torn");
                if let Some(entry) = shelves.disk.pop(&key.hash) {
                    shelves.disk_bytes -= entry.len;
                    let _ = fs::remove_file(entry.path);
                }
                None
            }
        }
    }

    /// Counts a version that had to be fetched. Looking is no miss: one fetch looks several times.
    pub fn missed(&self) {
        self.shelves().misses += 1;
    }

    /// Whether the bytes of a version are here, without touching their age.
    pub fn contains(&self, key: &Key) -> bool {
        let shelves = self.shelves();
        shelves.memory.contains(&key.hash) || shelves.disk.contains(&key.hash)
    }

    /// A temporary file for [`Cache::adopt`].
    ///
    /// # Errors
    /// The file cannot be made: the caller goes on without the cache.
    pub fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(PART).tempfile_in(self.volatile.path())
    }

    /// Takes in a whole file that [`Cache::temporary`] made.
    ///
    /// # Errors
    /// The file cannot be renamed; it stays readable through its descriptor.
    pub fn adopt(
        &self,
        key: &Key,
        file: tempfile::NamedTempFile,
        len: u64,
        checksum: &Checksum,
    ) -> io::Result<()> {
        let path = self.room(key).join(entry_name(&key.hash, len, checksum));
        let small = (len <= SMALL).then(|| read_whole(file.as_file(), len)).transpose()?;
        file.persist(&path).map_err(|failed| failed.error)?;
        self.shelve(key, &path, len, small);
        Ok(())
    }

    /// Takes in a copy of a whole file that lies elsewhere, such as a staging file that has been uploaded.
    ///
    /// # Errors
    /// The file cannot be read or the copy not written.
    pub fn adopt_copy(&self, key: &Key, from: &Path) -> io::Result<()> {
        let mut source = File::open(from)?;
        let mut copy = self.temporary()?;
        let mut checksum = Checksum::of(key);
        let mut len = 0;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let got = source.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            checksum.update(&buffer[..got]);
            io::Write::write_all(copy.as_file_mut(), &buffer[..got])?;
            len += got as u64;
        }
        self.adopt(key, copy, len, &checksum)
    }

    /// Drops a version that is gone or no longer trusted. Returns its checksum, if it was here.
    pub fn remove(&self, key: &Key) -> Option<String> {
        let mut shelves = self.shelves();
        if let Some(bytes) = shelves.memory.pop(&key.hash) {
            shelves.memory_bytes -= bytes.len() as u64;
        }
        let entry = shelves.disk.pop(&key.hash)?;
        shelves.disk_bytes -= entry.len;
        let _ = fs::remove_file(&entry.path);
        entry.sum()
    }

    /// The checksum of a version that is here.
    pub fn sum(&self, key: &Key) -> Option<String> {
        self.shelves().disk.peek(&key.hash)?.sum()
    }

    /// Frees what can be freed, after the disk was found full.
    pub fn clear(&self) {
        let mut shelves = self.shelves();
        while let Some((_, entry)) = shelves.disk.pop_lru() {
            let _ = fs::remove_file(entry.path);
        }
        shelves.disk_bytes = 0;
    }

    /// Bytes that the cache keeps to.
    pub fn disk_limit(&self) -> u64 {
        self.disk_limit
    }

    /// Sizes and hits.
    pub fn usage(&self) -> Usage {
        let shelves = self.shelves();
        Usage {
            disk_bytes: shelves.disk_bytes,
            memory_bytes: shelves.memory_bytes,
            files: shelves.disk.len() as u64,
            hits: shelves.hits,
            misses: shelves.misses,
        }
    }

    fn room(&self, key: &Key) -> &Path {
        if key.durable { &self.durable } else { self.volatile.path() }
    }

    fn shelve(&self, key: &Key, path: &Path, len: u64, small: Option<Bytes>) {
        let mut shelves = self.shelves();
        if let Some(old) =
            shelves.disk.put(key.hash.clone(), Entry { path: path.to_owned(), len, verified: true })
        {
            shelves.disk_bytes -= old.len;
            if old.path != path {
                let _ = fs::remove_file(old.path);
            }
        }
        shelves.disk_bytes += len;
        if let Some(bytes) = small {
            self.remember(&mut shelves, &key.hash, bytes);
        }
        self.shrink(&mut shelves);
    }

    fn remember(&self, shelves: &mut Shelves, hash: &str, bytes: Bytes) {
        shelves.memory_bytes += bytes.len() as u64;
        if let Some(old) = shelves.memory.put(hash.to_owned(), bytes) {
            shelves.memory_bytes -= old.len() as u64;
        }
        while shelves.memory_bytes > self.memory_limit {
            let Some((_, bytes)) = shelves.memory.pop_lru() else { break };
            shelves.memory_bytes -= bytes.len() as u64;
        }
    }

    fn shrink(&self, shelves: &mut Shelves) {
        while shelves.disk_bytes > self.disk_limit {
            let Some((_, entry)) = shelves.disk.pop_lru() else { break };
            shelves.disk_bytes -= entry.len;
            let _ = fs::remove_file(entry.path);
        }
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry_name(hash: &str, len: u64, checksum: &Checksum) -> String {
    format!("{hash}-{len}-{}", checksum.digits())
}

/// The hash of the key, the length and the checksum that an entry's name tells.
fn parsed(name: &str) -> Option<(&str, u64, &str)> {
    let (hash, rest) = name.split_once('-')?;
    let (len, sum) = rest.split_once('-')?;
    let is_hex = |digits: &str| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_hex(hash) && is_hex(sum)).then_some((hash, len.parse().ok()?, sum))
}

/// Entries that earlier mounts left, least recently used first; torn ones and broken temporary files are
/// removed.
fn found_on_disk(dir: &Path) -> io::Result<Vec<(String, Entry)>> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir)? {
        let item = item?;
        let name = item.file_name();
        let Some(name) = name.to_str() else { continue };
        let Ok(metadata) = item.metadata() else { continue };
        match parsed(name) {
            Some((hash, len, _)) if metadata.len() == len && metadata.is_file() => {
                let used = metadata.accessed().or_else(|_| metadata.modified()).ok();
                found.push((used, hash.to_owned(), Entry { path: item.path(), len, verified: false }));
            }
            Some(_) => _ = fs::remove_file(item.path()),
            // Of an earlier version, which wrote them here.
            None if name.starts_with(PART) => _ = fs::remove_file(item.path()),
            None => {}
        }
    }
    found.sort_by_key(|(used, _, _)| *used);
    Ok(found.into_iter().map(|(_, hash, entry)| (hash, entry)).collect())
}

/// Removes what mounts that were killed kept for themselves.
fn clear_dead_mounts(dir: &Path) {
    for item in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !item.file_name().to_string_lossy().starts_with("mount-") {
            continue;
        }
        let Ok(lock) =
            fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(item.path().join("lock"))
        else {
            continue;
        };
        if private::lock(&lock).is_ok_and(|ours| ours) {
            let _ = fs::remove_dir_all(item.path());
        }
    }
}

fn verify(file: &File, path: &Path) -> io::Result<()> {
    let differs = || io::Error::new(io::ErrorKind::InvalidData, "checksum differs");
    let name = path.file_name().and_then(|name| name.to_str());
    let (hash, len, sum) = name.and_then(parsed).ok_or_else(differs)?;
    let mut checksum = Checksum::under(hash);
    let mut reader = file;
    let copied = io::copy(&mut reader, &mut checksum)?;
    if copied == len && sum == checksum.digits() { Ok(()) } else { Err(differs()) }
}

fn read_whole(file: &File, len: u64) -> io::Result<Bytes> {
    read_exact_at(file, 0, usize::try_from(len).map_err(io::Error::other)?)
}

/// Reads `len` bytes at `offset`, into memory that is not cleared first.
///
/// # Errors
/// The file cannot be read, or ends before.
pub(super) fn read_exact_at(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // A vector may have got more room than was asked for, and a file more bytes.
    bytes.truncate(len);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn key(id: &str, source: &str) -> Key {
        let file = serde_json::json!({"id": id, "path": "/mnt/data/x", "source": source, "created_at": 1});
        Key::new(&"c".into(), &serde_json::from_value(file).unwrap())
    }

    fn put(cache: &Cache, key: &Key, bytes: &[u8]) {
        let mut file = cache.temporary().unwrap();
        file.write_all(bytes).unwrap();
        let mut checksum = Checksum::of(key);
        checksum.update(bytes);
        cache.adopt(key, file, bytes.len() as u64, &checksum).unwrap();
    }

    fn read(cache: &Cache, key: &Key) -> Option<Vec<u8>> {
        Some(match cache.get(key)? {
            Cached::Memory(bytes) => bytes.to_vec(),
            Cached::Disk(file, len) => read_whole(&file, len).unwrap().to_vec(),
        })
    }

    #[test]
    fn uploads_survive_a_remount_and_the_models_files_do_not() {
        let dir = tempfile::tempdir().unwrap();
        {
            let cache = Cache::open(dir.path(), 1 << 20, 1 << 20).unwrap();
            put(&cache, &key("a", "user"), b"mine");
            put(&cache, &key("b", "assistant"), b"the model's");
            assert_eq!(read(&cache, &key("b", "assistant")).unwrap(), b"the model's");
        }
        let cache = Cache::open(dir.path(), 1 << 20, 0).unwrap();
        assert_eq!(read(&cache, &key("a", "user")).unwrap(), b"mine");
        assert_eq!(read(&cache, &key("b", "assistant")), None);
        assert_eq!(
            (cache.usage().hits, cache.usage().misses),
            (1, 0),
            "looking in vain is no miss: a fetch is"
        );
        cache.missed();
        assert_eq!(cache.usage().misses, 1);
    }

    #[test]
    fn a_torn_file_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        put(&Cache::open(dir.path(), 1 << 20, 0).unwrap(), &key("a", "user"), b"right");
        let entry = fs::read_dir(dir.path().join("files")).unwrap().next().unwrap().unwrap().path();
        fs::write(&entry, b"wrong").unwrap();
        let cache = Cache::open(dir.path(), 1 << 20, 0).unwrap();
        assert_eq!(read(&cache, &key("a", "user")), None);
        assert!(!entry.exists());
    }

    #[test]
    fn the_least_recently_used_goes_first_and_stays_readable_while_open() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 600 << 10, 0).unwrap();
        let big = vec![7; 200 << 10];
        for id in ["a", "b", "c"] {
            put(&cache, &key(id, "user"), &big);
        }
        let Some(Cached::Disk(open, len)) = cache.get(&key("a", "user")) else { panic!("not on disk") };
        put(&cache, &key("d", "user"), &big);
        assert!(!cache.contains(&key("b", "user")) && cache.contains(&key("a", "user")));
        put(&cache, &key("e", "user"), &big);
        put(&cache, &key("f", "user"), &big);
        assert!(!cache.contains(&key("a", "user")));
        assert_eq!(read_whole(&open, len).unwrap(), big);
        assert!(cache.usage().disk_bytes <= 600 << 10);
    }

    #[test]
    fn private_to_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache"), 1 << 20, 0).unwrap();
        put(&cache, &key("a", "user"), b"secret");
        let entry = fs::read_dir(&cache.durable).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::metadata(entry).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&cache.durable).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
