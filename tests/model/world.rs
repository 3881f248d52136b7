//! The filesystem under test: a server, and a mount of it with no kernel in between.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use containerfs::api::{Client, ClientConfig};
use containerfs::emulator::{Config as ServerConfig, Emulator, FaultRule, Profile, Quirks};
use containerfs::namespace::inode::{Ino, ROOT};
use containerfs::vfs::{Config, Deadline, Entry, FileKind, Found, Left, Maker, Result, SetAttr, Vfs};
use tokio::runtime::{Builder, Runtime};

use crate::reference::Bytes;

/// How long a listing answers. Short, so that remote changes are seen soon.
const TTL: Duration = Duration::from_millis(5);

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct World {
    server: Runtime,
    pub(crate) emulator: Emulator,
    pub(crate) container: String,
    dir: tempfile::TempDir,
    write_back: Option<Duration>,
    mount: Option<Mount>,
}

struct Mount {
    runtime: Runtime,
    vfs: Arc<Vfs>,
    /// The handle that is open over other steps.
    held: Option<u64>,
}

impl World {
    pub(crate) fn new(
        profile: Profile,
        alter: impl FnOnce(&mut Quirks),
        write_back: Option<Duration>,
    ) -> Self {
        let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = ServerConfig::new(profile);
        alter(&mut config.quirks);
        let emulator = server.block_on(Emulator::start(config, ([127, 0, 0, 1], 0).into())).unwrap();
        let container = emulator.store().create_container("c");
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self { server, emulator, container, dir, write_back, mount: None };
        world.mount();
        world
    }

    /// Mounts.
    pub(crate) fn mount(&mut self) {
        let client = Client::new(&ClientConfig {
            base_url: self.emulator.base_url(),
            api_key: Some("sk-test".to_owned().into()),
            timeout: TIMEOUT,
            ..ClientConfig::default()
        });
        let config = Config {
            ttl: TTL,
            content_ttl: Duration::from_secs(60),
            timeout: TIMEOUT,
            write_back: self.write_back,
            container: Some(self.container.clone()),
            cache_size: 64 << 20,
            prefetch: true,
            ..Config::new(self.dir.path().join("cache"), self.dir.path().join("state"))
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let vfs = runtime.block_on(Vfs::open(client.unwrap(), config)).unwrap();
        self.mount = Some(Mount { runtime, vfs, held: None });
    }

    /// Ends the mount as `unmount` does. Returns what is left.
    pub(crate) fn unmount(&mut self) -> Vec<Left> {
        let Mount { runtime, vfs, .. } = self.mount.take().unwrap();
        let left = runtime.block_on(vfs.drain(&Deadline::after(TIMEOUT * 4)));
        drop(vfs);
        runtime.shutdown_timeout(TIMEOUT);
        left
    }

    /// Ends the mount as a crash does: whatever was under way stops where it is.
    pub(crate) fn crash(&mut self) {
        let Mount { runtime, vfs, .. } = self.mount.take().unwrap();
        let gone = Arc::downgrade(&vfs);
        drop(vfs);
        runtime.shutdown_timeout(TIMEOUT);
        assert!(gone.upgrade().is_none(), "the lock of its journal goes with the filesystem");
    }

    /// Waits for uploads that run behind, if they get on.
    pub(crate) fn settle(&self) {
        let unsent = || self.mount.as_ref().unwrap().vfs.progress().files_left;
        (0..200).take_while(|_| unsent() > 0).for_each(|_| std::thread::sleep(TTL));
    }

    /// Lets every listing grow old.
    pub(crate) fn expire(&self) {
        std::thread::sleep(TTL * 2);
    }

    pub(crate) fn inject(&self, rule: FaultRule) {
        self.emulator.faults().inject(rule);
    }

    fn run<T>(&self, work: impl AsyncFnOnce(&Arc<Vfs>) -> T) -> T {
        let mount = self.mount.as_ref().unwrap();
        mount.runtime.block_on(work(&mount.vfs))
    }

    /// Writes a whole file and closes it. The outcome is that of the close.
    pub(crate) fn save(&self, path: &str, bytes: &Bytes) -> Result<()> {
        self.write(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, bytes)
    }

    /// Writes behind the end of a file that exists.
    pub(crate) fn append(&self, path: &str, bytes: &Bytes) -> Result<()> {
        self.write(path, libc::O_WRONLY | libc::O_APPEND, bytes)
    }

    fn write(&self, path: &str, flags: i32, bytes: &Bytes) -> Result<()> {
        self.run(async |vfs| {
            let (parent, name) = self.parent(vfs, path).await?;
            let (entry, opened) = if flags & libc::O_CREAT != 0 {
                vfs.create(parent, OsStr::new(name), flags, Maker { mode: 0o644, ..Maker::default() }).await?
            } else {
                let entry = self.find(vfs, path).await?;
                (entry, vfs.open_file(entry.attr.ino, flags, 0)?)
            };
            let offset = if flags & libc::O_APPEND != 0 { entry.attr.size } else { 0 };
            let written = vfs.write(opened.handle, offset, &bytes.0, 0).await;
            let flushed = vfs.flush(opened.handle, 0).await;
            vfs.release(opened.handle);
            written.and(flushed)
        })
    }

    /// Opens a file for reading; what it is opened by once more, and a handle.
    pub(crate) fn open(&self, path: &str) -> Result<(Ino, u64)> {
        self.run(async |vfs| {
            let ino = self.find(vfs, path).await?.attr.ino;
            Ok((ino, vfs.open_file(ino, libc::O_RDONLY, 0)?.handle))
        })
    }

    /// The first bytes that a handle has to offer.
    pub(crate) fn read_through(&self, handle: u64) -> Result<Vec<u8>> {
        self.run(async |vfs| Ok(vfs.read(handle, 0, 1 << 16).await?.to_vec()))
    }

    pub(crate) fn close(&self, handle: u64) -> Result<()> {
        self.run(async |vfs| {
            let flushed = vfs.flush(handle, 0).await;
            vfs.release(handle);
            flushed
        })
    }

    /// Opens a file as a kernel does that still has its name.
    pub(crate) fn open_by(&self, ino: Ino, flags: i32) -> Result<u64> {
        self.run(async |vfs| Ok(vfs.open_file(ino, flags, 0)?.handle))
    }

    /// Writes a whole file and keeps it open.
    pub(crate) fn hold(&mut self, path: &str, bytes: &Bytes) -> Result<()> {
        let opened = self.run(async |vfs| {
            let (parent, name) = self.parent(vfs, path).await?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
            let maker = Maker { mode: 0o644, ..Maker::default() };
            let (_, opened) = vfs.create(parent, OsStr::new(name), flags, maker).await?;
            let written = vfs.write(opened.handle, 0, &bytes.0, 0).await;
            written.inspect_err(|_| vfs.release(opened.handle)).map(|_| opened.handle)
        })?;
        self.mount.as_mut().unwrap().held = Some(opened);
        Ok(())
    }

    fn held(&self) -> u64 {
        self.mount.as_ref().unwrap().held.unwrap()
    }

    /// Writes at the start of the file that is held open.
    pub(crate) fn write_held(&self, bytes: &Bytes) -> Result<()> {
        self.run(async |vfs| vfs.write(self.held(), 0, &bytes.0, 0).await.map(drop))
    }

    pub(crate) fn sync_held(&self) -> Result<()> {
        self.run(async |vfs| vfs.fsync(self.held()).await)
    }

    pub(crate) fn close_held(&mut self) -> Result<()> {
        let flushed = self.run(async |vfs| {
            let flushed = vfs.flush(self.held(), 0).await;
            vfs.release(self.held());
            flushed
        });
        self.mount.as_mut().unwrap().held = None;
        flushed
    }

    pub(crate) fn truncate(&self, path: &str, len: u64) -> Result<()> {
        self.run(async |vfs| {
            let ino = self.find(vfs, path).await?.attr.ino;
            vfs.setattr(ino, SetAttr { size: Some(len), ..SetAttr::default() }).await.map(drop)
        })
    }

    pub(crate) fn unlink(&self, path: &str) -> Result<()> {
        self.run(async |vfs| {
            let (parent, name) = self.parent(vfs, path).await?;
            vfs.unlink(parent, OsStr::new(name)).await
        })
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.run(async |vfs| {
            let (parent, name) = self.parent(vfs, from).await?;
            let (to_parent, to_name) = self.parent(vfs, to).await?;
            vfs.rename(parent, OsStr::new(name), to_parent, OsStr::new(to_name), 0).await
        })
    }

    pub(crate) fn mkdir(&self, path: &str) -> Result<()> {
        self.run(async |vfs| {
            let (parent, name) = self.parent(vfs, path).await?;
            vfs.mkdir(parent, OsStr::new(name), Maker { mode: 0o755, ..Maker::default() }).await.map(drop)
        })
    }

    pub(crate) fn rmdir(&self, path: &str) -> Result<()> {
        self.run(async |vfs| {
            let (parent, name) = self.parent(vfs, path).await?;
            vfs.rmdir(parent, OsStr::new(name)).await
        })
    }

    /// What was refused is sent once more.
    pub(crate) fn retry(&self) {
        self.run(async |vfs| vfs.retry(&[]).await);
    }

    /// Everything that is seen: bytes of files, nothing for directories.
    pub(crate) fn tree(&self) -> Result<BTreeMap<String, Option<Bytes>>> {
        self.run(async |vfs| {
            let mut seen = BTreeMap::new();
            let mut directories = vec![(ROOT, String::new())];
            while let Some((ino, path)) = directories.pop() {
                let (handle, _) = vfs.opendir(ino)?;
                let mut entries = Vec::new();
                vfs.readdir(handle, 0, false, |entry| {
                    entries.push((entry.name.to_string(), entry.entry));
                    true
                })
                .await?;
                vfs.releasedir(handle);
                for (name, entry) in entries.into_iter().filter(|(name, _)| name != "." && name != "..") {
                    let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                    if entry.attr.kind == FileKind::Directory {
                        directories.push((entry.attr.ino, path.clone()));
                        seen.insert(path, None);
                    } else {
                        let size = vfs.getattr(entry.attr.ino).await?.attr.size;
                        // The kernel asks for no byte of an empty file; what it has asked for while a truncation was
                        // on its way is answered with what was there.
                        let is_empty = size == 0;
                        let bytes =
                            if is_empty { Vec::new() } else { self.read(vfs, entry.attr.ino).await? };
                        let size = vfs.getattr(entry.attr.ino).await?.attr.size;
                        assert_eq!(size, bytes.len() as u64, "stat of {path}");
                        seen.insert(path, Some(Bytes(bytes)));
                    }
                }
            }
            Ok(seen)
        })
    }

    async fn read(&self, vfs: &Arc<Vfs>, ino: Ino) -> Result<Vec<u8>> {
        let opened = vfs.open_file(ino, libc::O_RDONLY, 0)?;
        let mut bytes = Vec::new();
        let read = loop {
            match vfs.read(opened.handle, bytes.len() as u64, 1 << 16).await {
                Ok(more) if more.is_empty() => break Ok(()),
                Ok(more) => bytes.extend_from_slice(&more),
                Err(error) => break Err(error),
            }
        };
        vfs.release(opened.handle);
        read.map(|()| bytes)
    }

    async fn parent<'a>(&self, vfs: &Arc<Vfs>, path: &'a str) -> Result<(Ino, &'a str)> {
        match path.rsplit_once('/') {
            None => Ok((ROOT, path)),
            Some((parent, name)) => Ok((Box::pin(self.find(vfs, parent)).await?.attr.ino, name)),
        }
    }

    async fn find(&self, vfs: &Arc<Vfs>, path: &str) -> Result<Entry> {
        let (parent, name) = self.parent(vfs, path).await?;
        match vfs.lookup(parent, OsStr::new(name)).await? {
            Found::Entry(entry) => Ok(entry),
            Found::Nothing(_) => Err(containerfs::vfs::Error::quiet(libc::ENOENT)),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.mount.is_some() {
            self.crash();
        }
        let _guard = self.server.enter();
    }
}
