//! A server in this process and a mount of it with no kernel in between, warm.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use containerfs::api::{Client, ClientConfig};
use containerfs::emulator::{Config as ServerConfig, Emulator, Profile};
use containerfs::namespace::inode::{Ino, ROOT};
use containerfs::vfs::{Config, Found, Vfs};
use tokio::runtime::Runtime;

/// Files of the one directory.
pub(crate) const FILES: usize = 10_000;

/// Bytes of a small file, which the cache keeps in memory.
pub(crate) const SMALL: usize = 4 << 10;

/// Bytes of the large file, which the cache keeps on disk alone.
pub(crate) const LARGE: usize = 16 << 20;

pub(crate) struct World {
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) runtime: Runtime,
    /// The names of the small files, in their order.
    pub(crate) names: Vec<OsString>,
    _emulator: Emulator,
    _dir: tempfile::TempDir,
}

impl World {
    /// A mount that has listed its directory.
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let server = Emulator::start(ServerConfig::new(Profile::Plain), ([127, 0, 0, 1], 0).into());
        let emulator = runtime.block_on(server).unwrap();
        let container = emulator.store().create_container("c");
        let names: Vec<String> = (0..FILES).map(|number| format!("report-{number:05}.csv")).collect();
        let small = names.iter().map(|name| (format!("/mnt/data/{name}"), vec![b'x'; SMALL]));
        let large = [("/mnt/data/large".to_owned(), vec![b'x'; LARGE])];
        emulator.store().put_many(&container, small.chain(large));
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(&ClientConfig {
            base_url: emulator.base_url(),
            api_key: Some("sk-test".to_owned().into()),
            ..ClientConfig::default()
        });
        let config = Config {
            container: Some(container),
            memory_cache: 64 << 20,
            ..Config::new(dir.path().join("cache"), dir.path().join("state"))
        };
        let vfs = runtime.block_on(Vfs::open(client.unwrap(), config)).unwrap();
        let names = names.into_iter().map(OsString::from).collect();
        let world = Self { vfs, runtime, names, _emulator: emulator, _dir: dir };
        world.find("large");
        world
    }

    /// The inode of a name, asked of the server if need be.
    pub(crate) fn find(&self, name: impl AsRef<OsStr>) -> Ino {
        match self.runtime.block_on(self.vfs.lookup(ROOT, name.as_ref())).unwrap() {
            Found::Entry(entry) => entry.attr.ino,
            Found::Nothing(_) => panic!("no {}", name.as_ref().display()),
        }
    }

    /// A handle whose file is in the cache, whole.
    pub(crate) fn opened(&self, name: &str, len: usize) -> u64 {
        let opened = self.vfs.open_file(self.find(name), libc::O_RDONLY, 0).unwrap();
        let mut seen = 0;
        while seen < len {
            let read = self.vfs.read(opened.handle, seen as u64, 1 << 20);
            seen += self.runtime.block_on(read).unwrap().len();
        }
        opened.handle
    }
}
