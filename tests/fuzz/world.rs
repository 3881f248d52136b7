//! A server in this process, and mounts of it with no kernel in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerfs::api::{Client, ClientConfig};
use containerfs::emulator::{Config as ServerConfig, Emulator, Profile};
use containerfs::namespace::inode::{Ino, ROOT};
use containerfs::vfs::{Config, DirEntry, FileKind, Vfs};
use tokio::runtime::Runtime;

use crate::shape;

pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) emulator: Emulator,
    client: Client,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let server = Emulator::start(ServerConfig::new(Profile::Openai), ([127, 0, 0, 1], 0).into());
        let emulator = runtime.block_on(server).unwrap();
        let client = Client::new(&ClientConfig {
            base_url: emulator.base_url(),
            api_key: Some("sk-test".to_owned().into()),
            timeout: Duration::from_secs(10),
            ..ClientConfig::default()
        });
        Self { runtime, emulator, client: client.unwrap() }
    }

    /// A mount whose state and cache lie in `state` and `cache`.
    pub(crate) fn mount(&self, state: &Path, cache: &Path) -> Arc<Vfs> {
        let config =
            Config { timeout: Duration::from_secs(10), ..Config::new(cache.to_owned(), state.to_owned()) };
        self.runtime.block_on(Vfs::open(self.client.clone(), config)).unwrap()
    }

    /// Every path that a mount shows, with its inode; each has a name that is safe.
    pub(crate) fn shown(&self, vfs: &Arc<Vfs>) -> BTreeMap<String, (Ino, FileKind)> {
        let mut paths = BTreeMap::new();
        let mut below = vec![(ROOT, String::new())];
        while let Some((directory, path)) = below.pop() {
            let _entered = self.runtime.enter();
            let (handle, _) = vfs.opendir(directory).unwrap();
            let mut entries = Vec::new();
            let take = |entry: &DirEntry| {
                entries.push((entry.name.to_string(), entry.entry.attr));
                true
            };
            let read = self.runtime.block_on(vfs.readdir(handle, 0, false, take));
            vfs.releasedir(handle);
            read.unwrap();
            for (name, attr) in entries.into_iter().filter(|(name, _)| name != "." && name != "..") {
                assert!(shape::is_shown(&name), "{name:?} is shown in {path:?}");
                let path = format!("{path}/{name}");
                if attr.kind == FileKind::Directory {
                    below.push((attr.ino, path.clone()));
                }
                assert!(
                    paths.insert(path.clone(), (attr.ino, attr.kind)).is_none(),
                    "{path:?} is shown twice"
                );
            }
        }
        paths
    }
}
