//! What a program may be doing when the server fails.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use containerfs::emulator::Kind;

use super::{BYTES, Rig};
use crate::env::{noise, wait_until};

/// What a save writes.
const PRECIOUS: &[u8] = b"precious";

/// What the next save writes.
const NEWER: &[u8] = b"newer than precious";

/// A column of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Lookup,
    Getattr,
    Readdir,
    Open,
    Read,
    Create,
    Write,
    Flush,
    Fsync,
    Rename,
    Unlink,
    Mkdir,
    Rmdir,
}

/// A program that has come up to the call.
pub(super) struct Ready {
    column: Column,
    container: String,
    /// The directory of the container.
    dir: PathBuf,
    root: PathBuf,
    file: Option<File>,
}

impl Column {
    pub(super) const ALL: [Self; 13] = [
        Self::Lookup,
        Self::Getattr,
        Self::Readdir,
        Self::Open,
        Self::Read,
        Self::Create,
        Self::Write,
        Self::Flush,
        Self::Fsync,
        Self::Rename,
        Self::Unlink,
        Self::Mkdir,
        Self::Rmdir,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Getattr => "getattr",
            Self::Readdir => "readdir",
            Self::Open => "open",
            Self::Read => "read",
            Self::Create => "create",
            Self::Write => "write",
            Self::Flush => "close",
            Self::Fsync => "fsync",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Mkdir => "mkdir",
            Self::Rmdir => "rmdir",
        }
    }

    /// Whether it asks for a listing, which must be old for that.
    pub(super) fn lists(self) -> bool {
        matches!(self, Self::Lookup | Self::Getattr | Self::Readdir)
    }

    /// The request that it is about; none where there should be none.
    pub(super) fn request(self) -> Option<Kind> {
        match self {
            Self::Lookup | Self::Getattr | Self::Readdir => Some(Kind::ListFiles),
            Self::Open | Self::Create => None,
            Self::Read | Self::Write => Some(Kind::Content),
            Self::Flush | Self::Fsync | Self::Rename => Some(Kind::Upload),
            Self::Unlink => Some(Kind::DeleteFile),
            Self::Mkdir => Some(Kind::CreateContainer),
            Self::Rmdir => Some(Kind::DeleteContainer),
        }
    }

    /// Comes up to the call.
    pub(super) fn prepare(self, rig: &Rig, cell: &str, container: &str) -> Ready {
        let dir = rig.mount.path(cell);
        assert!(fs::read_dir(&dir).unwrap().all(|entry| entry.is_ok()), "before the fault");
        let mut ready = Ready {
            column: self,
            container: container.to_owned(),
            dir,
            root: rig.mount.dir.clone(),
            file: None,
        };
        let at = |name: &str| ready.dir.join(name);
        let by_path = |path: PathBuf| {
            File::options().read(true).custom_flags(libc::O_PATH).open(path).expect("before the fault")
        };
        ready.file = match self {
            Self::Lookup => Some(by_path(ready.dir.clone())),
            Self::Getattr | Self::Open => Some(by_path(at("f"))),
            Self::Readdir => Some(File::open(&ready.dir).unwrap()),
            Self::Read => Some(File::open(at("f")).unwrap()),
            Self::Write => Some(File::options().write(true).open(at("f")).unwrap()),
            Self::Flush | Self::Fsync => {
                let mut file = File::create(ready.new_file()).unwrap();
                file.write_all(PRECIOUS).unwrap();
                Some(file)
            }
            Self::Create | Self::Rename | Self::Unlink | Self::Mkdir | Self::Rmdir => {
                fs::metadata(&ready.dir).unwrap();
                None
            }
        };
        ready
    }
}

impl Ready {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file that is not there yet.
    fn new_file(&self) -> PathBuf {
        self.at(&self.new_name())
    }

    fn new_name(&self) -> String {
        format!("new-{}", &self.container[self.container.len() - 12..])
    }

    /// A directory that is not there yet.
    fn new_directory(&self) -> PathBuf {
        self.root.join(format!("new-{}", self.container))
    }

    fn through_proc(&self, name: &str) -> PathBuf {
        let fd = self.file.as_ref().unwrap().as_raw_fd();
        PathBuf::from(format!("/proc/self/fd/{fd}{name}"))
    }

    /// The call. Only the time of this counts.
    pub(super) fn call(&mut self) -> io::Result<()> {
        match self.column {
            Column::Lookup => fs::symlink_metadata(self.through_proc("/f")).map(drop),
            Column::Getattr => self.file.as_ref().unwrap().metadata().map(drop),
            Column::Readdir => self.list().map(drop),
            Column::Open => File::open(self.through_proc("")).map(drop),
            Column::Read => self.file.as_ref().unwrap().read_at(&mut [0; 100], 0).map(drop),
            Column::Create => {
                File::options().write(true).create_new(true).open(self.new_file()).map(|file| {
                    self.file = Some(file);
                })
            }
            Column::Write => self.file.as_ref().unwrap().write_at(b"changed", 100).map(drop),
            Column::Flush => close(self.file.take().unwrap()),
            Column::Fsync => self.file.as_ref().unwrap().sync_all(),
            Column::Rename => fs::rename(self.at("f"), self.at("renamed")),
            Column::Unlink => fs::remove_file(self.at("f")),
            Column::Mkdir => fs::create_dir(self.new_directory()),
            Column::Rmdir => fs::remove_dir(&self.dir),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut again = self.file.as_ref().unwrap().try_clone()?;
        again.seek(SeekFrom::Start(0))?;
        let entries = nix::dir::Dir::from_fd(again.into())?.into_iter();
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// The fault is gone: what was not done can be done now, and nothing was lost. `done` says whether the
    /// call was a success.
    pub(super) fn afterwards(mut self, rig: &Rig, done: bool) {
        let bytes = || noise(BYTES);
        match self.column {
            Column::Lookup | Column::Getattr | Column::Open => self.call().unwrap(),
            Column::Readdir => assert!(self.list().unwrap().contains(&"f".to_owned())),
            Column::Read => {
                let mut read = vec![0; BYTES];
                self.file.as_ref().unwrap().read_exact_at(&mut read, 0).unwrap();
                assert!(read == bytes(), "other bytes than the server's");
            }
            Column::Create => {
                self.file.as_ref().unwrap().write_all_at(PRECIOUS, 0).unwrap();
                close(self.file.take().unwrap()).unwrap();
                self.holds(rig, &self.new_name(), PRECIOUS);
            }
            Column::Write => {
                self.call().unwrap();
                close(self.file.take().unwrap()).unwrap();
                let mut wanted = bytes();
                wanted[100..107].copy_from_slice(b"changed");
                self.holds(rig, "f", &wanted);
            }
            Column::Flush => {
                assert_eq!(fs::read(self.new_file()).unwrap(), PRECIOUS, "shown by the mount");
                if done {
                    self.holds(rig, &self.new_name(), PRECIOUS);
                }
                fs::write(self.new_file(), NEWER).unwrap();
                wait_until("the newer bytes arrive", || {
                    rig.env.versions(&self.container, &self.new_name()).iter().any(|version| {
                        rig.env.store().content(&self.container, &version.id).as_deref() == Some(NEWER)
                    })
                });
                self.holds(rig, &self.new_name(), NEWER);
            }
            Column::Fsync => {
                let file = self.file.as_mut().unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(NEWER).unwrap();
                file.sync_all().unwrap();
                self.holds(rig, &self.new_name(), NEWER);
            }
            Column::Rename => {
                if !done {
                    assert!(fs::read(self.at("f")).unwrap() == bytes(), "the old name shows its bytes");
                    self.call().unwrap();
                }
                assert!(fs::read(self.at("renamed")).unwrap() == bytes());
                self.holds(rig, "renamed", &bytes());
                wait_until("the old name goes", || rig.env.versions(&self.container, "-f").is_empty());
            }
            Column::Unlink => {
                if !done {
                    forgiving(self.call(), libc::ENOENT);
                }
                wait_until("the file goes", || rig.env.versions(&self.container, "-f").is_empty());
            }
            Column::Mkdir => {
                if !done {
                    forgiving(self.call(), libc::EEXIST);
                }
                assert!(self.new_directory().is_dir());
                let name = self.new_directory().file_name().unwrap().to_str().unwrap().to_owned();
                let made = rig.env.store().containers().iter().filter(|c| c.name == name).count();
                assert_eq!(made, 1, "containers of one name");
            }
            Column::Rmdir => {
                if !done {
                    forgiving(self.call(), libc::ENOENT);
                }
                assert!(!self.dir.exists());
            }
        }
    }

    /// The container is gone, as far as anyone can tell: what was written is kept and named.
    pub(super) fn bytes_are_kept(self, rig: &Rig) {
        if matches!(self.column, Column::Flush | Column::Fsync) {
            let output = rig.command(&["pending", "list"]).output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(told.contains(&self.new_name()), "{} is not in {told}", self.new_name());
        }
    }

    /// The server ends up with these bytes under this name, once.
    fn holds(&self, rig: &Rig, name: &str, bytes: &[u8]) {
        let only_version = || rig.env.only_version(&self.container, &format!("-{name}"));
        wait_until("one version, with these bytes", || only_version().as_deref() == Some(bytes));
    }
}

fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file.into_raw_fd())?)
}

/// Success, or the error that says that it is done already.
fn forgiving(outcome: io::Result<()>, done: i32) {
    if let Err(error) = outcome {
        assert_eq!(error.raw_os_error(), Some(done), "{error}");
    }
}
