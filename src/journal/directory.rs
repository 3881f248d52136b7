//! The journal of one mount: a directory of its own in the state directory, held by a lock.
//!
//! In it each staging file and each intent has a numbered directory. A mount that starts takes over the
//! journals that nobody locks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::journal::intent::{Intent, Noted};
use crate::journal::stage::{self, Staging};
use crate::private;

/// There while a mount is ending.
const DRAINING: &str = "draining";

/// The journal of one mount, locked for as long as this value lives.
#[derive(Debug)]
pub struct Journal {
    root: PathBuf,
    own: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl Journal {
    /// Makes a directory for this mount in `state_dir`, which must exist.
    ///
    /// # Errors
    /// It cannot be made or locked.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join("journal");
        private::directory(&root)?;
        // Made under a hidden name and locked before it is shown: no other mount can adopt it half made.
        let private = fs::Permissions::from_mode(0o700);
        let hidden = tempfile::Builder::new().prefix(".new-").permissions(private).tempdir_in(&root)?.keep();
        let lock = locked(&hidden)?.ok_or(io::ErrorKind::WouldBlock)?;
        let name = hidden.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let own = root.join(name.trim_start_matches(".new-"));
        fs::rename(&hidden, &own)?;
        for dir in [&root, state_dir] {
            File::open(dir)?.sync_all()?;
        }
        Ok(Self { root, own, next: AtomicU64::new(1), _lock: lock })
    }

    /// A new, empty staging file.
    ///
    /// # Errors
    /// The disk's.
    pub fn stage(&self) -> io::Result<Staging> {
        Staging::create(self.slot())
    }

    /// A staging file with the bytes of `other`, which is frozen.
    ///
    /// # Errors
    /// The disk's.
    pub fn stage_copy(&self, other: &Staging) -> io::Result<Staging> {
        let copy = self.stage()?;
        let to = copy.file()?;
        let copied = other.reopened().and_then(|mut bytes| io::copy(&mut bytes, &mut &*to));
        copied.inspect_err(|_| copy.discard())?;
        Ok(copy)
    }

    /// Writes down what is going to be done.
    ///
    /// # Errors
    /// The disk's.
    pub fn intend(&self, intent: &Intent) -> io::Result<Noted> {
        let slot = self.slot();
        fs::DirBuilder::new().mode(0o700).create(&slot)?;
        let noted = Noted::at(slot);
        noted.write(intent).inspect_err(|_| noted.done())?;
        // The directory's own entry has to survive too.
        File::open(&self.own)?.sync_all()?;
        Ok(noted)
    }

    /// Takes over what mounts that are no more have left, oldest first within each.
    pub fn adopt(&self) -> Vec<Adopted> {
        let mut adopted = Vec::new();
        for mount in subdirectories(&self.root) {
            if mount == self.own {
                continue;
            }
            let Ok(Some(_lock)) = locked(&mount) else { continue };
            for entry in subdirectories(&mount) {
                let slot = self.slot();
                match fs::rename(&entry, &slot).and_then(|()| Adopted::open(slot)) {
                    Ok(entry) => adopted.extend(entry),
                    Err(error) => {
                        tracing::warn!(%error, entry = %entry.display(), "cannot adopt an entry of a journal");
                    }
                }
            }
            for file in ["lock", DRAINING] {
                let _ = fs::remove_file(mount.join(file));
            }
            let _ = fs::remove_dir(&mount);
        }
        adopted
    }

    /// Tells mounts that start from now on that this one is ending: what it has comes to the server before
    /// they look.
    pub fn begin_draining(&self) {
        let mut options = OpenOptions::new();
        if let Err(error) = private::open(&self.own.join(DRAINING), options.write(true).create(true)) {
            tracing::warn!(%error, "a mount that starts now will not wait for this one");
        }
    }

    /// The number of an entry of this journal that `pending` calls `id`.
    pub fn serial_of(&self, id: &str) -> Option<u64> {
        let (journal, number) = id.split_once('/')?;
        if self.own.file_name()? == journal { number.parse().ok() } else { None }
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard(&self, serial: u64) -> io::Result<()> {
        stage::remove(&self.entry(serial))
    }

    /// Opens once more what nobody holds.
    ///
    /// # Errors
    /// The disk's.
    pub fn reopen(&self, serial: u64) -> io::Result<Staging> {
        Staging::reopen(self.entry(serial))
    }

    fn entry(&self, serial: u64) -> PathBuf {
        self.own.join(format!("{serial:08}"))
    }

    fn slot(&self) -> PathBuf {
        self.entry(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether a mount of this state directory is ending.
pub fn is_draining(state_dir: &Path) -> bool {
    let mounts = subdirectories(&state_dir.join("journal"));
    mounts.into_iter().any(|mount| mount.join(DRAINING).exists() && matches!(locked(&mount), Ok(None)))
}

/// What a mount that is no more has left.
#[derive(Debug)]
pub enum Adopted {
    /// Bytes.
    Staging(Staging),
    /// Something that it was about to do.
    Intent(Noted, Intent),
}

impl Adopted {
    /// Nothing if the mount died before it had written down what it was about to do. What is there and cannot
    /// be read, for whatever reason, stays where it is: a newer version, a person or a better day may
    /// read it.
    fn open(slot: PathBuf) -> io::Result<Option<Self>> {
        if slot.join("data").symlink_metadata().is_ok() {
            return Staging::reopen(slot).map(Self::Staging).map(Some);
        }
        let noted = Noted::at(slot);
        match noted.read() {
            Ok(intent) => Ok(Some(Self::Intent(noted, intent))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                noted.done();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let empty = subdirectories(&self.own).is_empty();
        if empty {
            let _ = fs::remove_dir_all(&self.own);
        }
    }
}

/// Locks a mount's directory; `None` if its mount lives.
pub(super) fn locked(dir: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join("lock"))?;
    Ok(private::lock(&file)?.then_some(file))
}

pub(super) fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Meta;
    use crate::namespace::records::Attributes;

    fn meta(path: &str) -> Meta {
        Meta {
            container: "cntr_1".into(),
            path: path.to_owned(),
            replaces: None,
            also_replaces: Vec::new(),
            noted_at: 0,
            attributes: Attributes::default(),
            closed: true,
            arrived: false,
            reason: None,
            refused: false,
            local: false,
            shelved: None,
            sent: Vec::new(),
        }
    }

    #[test]
    fn what_a_note_says_is_where_bytes_belong_and_not_when_they_were_written() {
        let noted = meta("f");
        let attributes = Attributes { mtime: Some(5), ctime: Some(6), ..Attributes::default() };
        assert!(noted.says_the_same(&Meta { noted_at: 5, attributes, ..meta("f") }));
        assert!(!noted.says_the_same(&meta("g")));
        assert!(!noted.says_the_same(&Meta { replaces: Some("cfile_1".into()), ..meta("f") }));
    }

    #[test]
    fn a_dead_mounts_files_are_adopted_and_a_live_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let dead = Journal::open(dir.path()).unwrap();
        let staging = dead.stage().unwrap();
        staging.write_at(b"precious", 0).unwrap();
        staging.write_meta(&meta("a.txt"), true).unwrap();
        drop(dead);
        let live = Journal::open(dir.path()).unwrap();
        live.stage().unwrap();

        let next = Journal::open(dir.path()).unwrap();
        let adopted = next.adopt();
        let [Adopted::Staging(staging)] = adopted.as_slice() else { panic!("{adopted:?}") };
        assert_eq!(staging.meta().unwrap(), meta("a.txt"));
        assert_eq!(staging.read_at(0, 100).unwrap(), b"precious");
        staging.discard();
        assert!(next.adopt().is_empty());
    }

    #[test]
    fn a_note_takes_nothing_back_that_is_newer() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let staging = journal.stage().unwrap();
        let asked = std::cell::Cell::new(0);
        let says = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                staging.write_meta(&meta("newer"), true).unwrap();
                return Some(meta("older"));
            }
            assert_eq!(staging.meta().unwrap(), meta("newer"), "the older note was never on disk");
            Some(meta("newest"))
        };
        assert_eq!(staging.note(true, says).unwrap().unwrap(), meta("newest"));
        assert_eq!(staging.meta().unwrap(), meta("newest"));
        staging.discard();
    }

    #[test]
    fn attributes_that_are_noted_take_nothing_else_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let staging = journal.stage().unwrap();
        let attributes = |mode| Attributes { mode: Some(mode), ..Attributes::default() };
        staging.note_attributes(|| Some(attributes(0o600))).unwrap();
        assert_eq!(staging.meta(), None, "there is no note yet");
        let asked = std::cell::Cell::new(0);
        let says = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                staging.write_meta(&meta("a"), true).unwrap();
                staging.note_attributes(|| Some(attributes(0o600))).unwrap();
                assert_eq!(staging.meta().unwrap(), Meta { attributes: attributes(0o600), ..meta("a") });
                return Some(meta("b"));
            }
            Some(Meta { attributes: attributes(0o640), ..meta("b") })
        };
        staging.note(true, says).unwrap();
        assert_eq!(staging.meta().unwrap(), Meta { attributes: attributes(0o640), ..meta("b") });
        staging.discard();
    }

    #[test]
    fn nothing_is_noted_beside_bytes_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let staging = journal.stage().unwrap();
        let says = || {
            staging.discard();
            Some(meta("a.txt"))
        };
        assert_eq!(staging.note(true, says).unwrap(), None);
        assert!(subdirectories(&journal.own).is_empty());
    }

    #[test]
    fn an_intent_is_adopted_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let intent = Intent::Delete { container: "cntr_1".into(), ids: vec!["cfile_1".into()] };
        let dead = Journal::open(dir.path()).unwrap();
        dead.intend(&intent).unwrap().stage().unwrap();
        fs::create_dir(dead.slot()).unwrap();
        drop(dead);
        let next = Journal::open(dir.path()).unwrap();
        let adopted = next.adopt();
        let [Adopted::Intent(noted, found)] = adopted.as_slice() else { panic!("{adopted:?}") };
        assert_eq!(*found, intent);
        noted.stage().unwrap();
        noted.done();
        drop(next);
        assert!(subdirectories(&dir.path().join("journal")).is_empty(), "nothing is left");
    }

    #[test]
    fn what_cannot_be_read_is_kept_and_keeps_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let intent = Intent::Delete { container: "cntr_1".into(), ids: vec!["cfile_1".into()] };
        let dead = Journal::open(dir.path()).unwrap();
        let torn = dead.intend(&intent).unwrap();
        torn.stage().unwrap().write_at(b"precious", 0).unwrap();
        let slot = subdirectories(&dead.own).pop().unwrap();
        fs::write(slot.join("intent.json"), "{\"intent\":\"dele").unwrap();
        let dangling = dead.slot();
        fs::create_dir(&dangling).unwrap();
        std::os::unix::fs::symlink("nowhere", dangling.join("data")).unwrap();
        fs::write(dangling.join("meta.json"), "{}").unwrap();
        dead.intend(&intent).unwrap();
        drop(dead);
        for _ in 0..2 {
            let next = Journal::open(dir.path()).unwrap();
            let adopted = next.adopt();
            let [Adopted::Intent(_, found)] = adopted.as_slice() else { panic!("{adopted:?}") };
            assert_eq!(*found, intent);
            let slots = subdirectories(&next.own);
            assert!(slots.iter().any(|slot| slot.join("meta.json").exists()));
            let staged = slots.iter().flat_map(|slot| subdirectories(slot)).map(|slot| slot.join("data"));
            assert!(staged.map(fs::read).any(|bytes| bytes.is_ok_and(|bytes| bytes == b"precious")));
        }
    }

    #[test]
    fn a_mount_that_ends_is_seen_until_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let old = Journal::open(dir.path()).unwrap();
        assert!(!is_draining(dir.path()));
        old.begin_draining();
        assert!(is_draining(dir.path()));
        drop(old);
        assert!(!is_draining(dir.path()));
    }

    #[test]
    fn a_copy_does_not_follow_its_original() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let frozen = journal.stage().unwrap();
        frozen.write_at(b"one", 0).unwrap();
        let copy = journal.stage_copy(&frozen).unwrap();
        copy.write_at(b"two", 0).unwrap();
        assert_eq!(frozen.read_at(0, 9).unwrap(), b"one");
        assert_eq!(copy.read_at(1, 9).unwrap(), b"wo");
    }

    #[test]
    fn an_unused_journal_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Journal::open(dir.path()).unwrap());
        assert!(subdirectories(&dir.path().join("journal")).is_empty());
    }
}
