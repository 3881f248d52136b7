//! What the kernel may remember of a directory's entries.
//!
//! It copies what it reads of a directory, and answers later readers from the copy for as long as each open
//! says that the copy holds. It drops the copy at an open that does not say so, and after a change that was
//! made through the mount. So an open says so while the list is young and the same, and no entry has come or
//! gone; which no longer holds once somebody who was told of the copy before has it open: what is on its way
//! to that reader may enter the copy late. Then the open reads past the copy.
//!
//! A reader that is amid a copy when it is dropped goes on here, where it stopped. Therefore each version of
//! the entries has offsets of its own, and is remembered while somebody has the directory open: nobody reads
//! on in another version, and no copy is made of two.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::namespace::inode::{Ino, Node, Tree};
use crate::vfs::{Invalidation, State, Vfs};

/// An offset is a version and a place in it, which takes so many bits.
const PLACE_BITS: u32 = 32;

/// Versions begin anew after so many, so that offsets stay positive.
const VERSIONS: u64 = 1 << 31;

/// Versions of a directory that stays open.
const REMEMBERED: usize = 8;

/// The entries of a directory at one time.
pub(super) struct Listing {
    version: u64,
    /// The directory's when the entries were taken.
    generation: u64,
    /// In the order in which they are shown. What a name stands for may have changed since.
    pub(super) names: Vec<Arc<str>>,
    /// Whether the list tells every length. Where it doesn't, reading the directory is what has them asked
    /// for all at once.
    tells_lengths: bool,
}

impl Listing {
    fn of(tree: &Tree, node: &Node, version: u64) -> Self {
        let children = || node.children().into_iter().flatten();
        let names = children().map(|(name, _)| name.clone()).collect();
        let tells_lengths =
            children().all(|(_, ino)| tree.file(*ino).is_none_or(|file| file.length_is_told()));
        Self { version, generation: node.generation, names, tells_lengths }
    }

    /// The offset of a place in these entries.
    pub(super) fn offset(&self, place: u64) -> u64 {
        self.version << PLACE_BITS | place
    }
}

/// The place in its version that an offset means.
pub(super) fn place(offset: u64) -> u64 {
    offset & ((1 << PLACE_BITS) - 1)
}

fn version(offset: u64) -> u64 {
    offset >> PLACE_BITS
}

/// How a directory is read that was just opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// From the kernel's copy, if it has one.
    Copy,
    /// From here, for a new copy.
    Anew,
    /// From here, past the copy, which is dropped.
    Past,
}

/// An open directory.
pub(super) struct OpenDirectory {
    pub(super) ino: Ino,
    reading: Reading,
    /// What it reads.
    listing: Option<Arc<Listing>>,
    /// When the copy that it may read again from the start is too old.
    until: Option<Instant>,
}

/// What entered the kernel's copy since it was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copied {
    #[default]
    Nothing,
    Version(u64),
    /// One of several, and nobody knows which.
    Several,
}

/// What the kernel was shown of one directory.
#[derive(Default)]
pub(super) struct Shown {
    /// The newest is the last.
    listings: VecDeque<Arc<Listing>>,
    next_version: u64,
    /// When the list was asked for that the newest comes from.
    listed: Option<Instant>,
    copied: Copied,
    /// Open handles; and those of them that read the copy or make one.
    open: u32,
    copying: u32,
}

impl Shown {
    /// The directory is opened when it has that generation and a fresh list that was asked for then, if any.
    fn open(&mut self, generation: u64, fresh: Option<Instant>) -> Reading {
        self.open += 1;
        let holds = self.listings.back().is_some_and(|newest| {
            newest.tells_lengths
                && newest.generation == generation
                && fresh.is_some()
                && fresh == self.listed
                && self.copied == Copied::Version(newest.version)
        });
        let reading = match (holds, self.copying) {
            (true, _) => Reading::Copy,
            (false, 0) => Reading::Anew,
            (false, _) => Reading::Past,
        };
        if reading == Reading::Anew {
            self.copied = Copied::Nothing;
        }
        self.copying += u32::from(reading != Reading::Past);
        reading
    }

    fn close(&mut self, reading: Reading) {
        self.open -= 1;
        self.copying -= u32::from(reading != Reading::Past);
        if self.open == 0 {
            self.forget_all_but(1);
        }
    }

    /// Somebody reads from the start.
    fn begin(
        &mut self,
        reading: Reading,
        generation: u64,
        listed: Option<Instant>,
        take: impl FnOnce(u64) -> Listing,
    ) -> Arc<Listing> {
        self.listed = listed;
        let newest = self.listings.back().filter(|newest| newest.generation == generation).cloned();
        let listing = newest.unwrap_or_else(|| {
            let taken = Arc::new(take(self.next_version));
            self.next_version = (self.next_version + 1) % VERSIONS;
            self.listings.push_back(taken.clone());
            self.forget_all_but(REMEMBERED);
            taken
        });
        if reading != Reading::Past {
            self.copied = match self.copied {
                Copied::Nothing => Copied::Version(listing.version),
                Copied::Version(version) if version == listing.version => self.copied,
                _ => Copied::Several,
            };
        }
        listing
    }

    fn forget_all_but(&mut self, most: usize) {
        let old = self.listings.len().saturating_sub(most);
        self.listings.drain(..old);
    }

    fn of_version(&self, version: u64) -> Option<&Arc<Listing>> {
        self.listings.iter().find(|listing| listing.version == version)
    }
}

impl Vfs {
    /// Opens the directory `ino` for its handle: how it is read.
    pub(super) fn show(self: &Arc<Self>, state: &mut State, ino: Ino, handle: u64) -> Reading {
        let generation = state.tree.get(ino).map_or(0, |node| node.generation);
        let listed = self.entries_listed(state, ino).filter(|listed| listed.age() < self.config.ttl);
        let shown = state.shown.entry(ino).or_default();
        let reading = shown.open(generation, listed.map(|listed| listed.asked));
        // What it will read of the copy, should that be dropped amid it.
        let listing = shown.listings.back().filter(|_| reading == Reading::Copy).cloned();
        let open = OpenDirectory { ino, reading, listing, until: None };
        state.directories.insert(handle, open);
        if reading == Reading::Copy {
            self.drop_the_copy_in_time(state, handle);
        }
        reading
    }

    /// Takes the entries that `handle` reads from the start.
    pub(super) fn begin_listing(self: &Arc<Self>, state: &mut State, handle: u64) {
        let Some(open) = state.directories.get(&handle) else { return };
        let (ino, reading) = (open.ino, open.reading);
        let Some(node) = state.tree.get(ino) else { return };
        let listed = self.entries_listed(state, ino).map(|listed| listed.asked);
        let shown = state.shown.entry(ino).or_default();
        let take = |version| Listing::of(&state.tree, node, version);
        let listing = shown.begin(reading, node.generation, listed, take);
        if let Some(open) = state.directories.get_mut(&handle) {
            open.listing = Some(listing);
        }
        if reading != Reading::Past {
            self.drop_the_copy_in_time(state, handle);
        }
    }

    /// A directory that stays open may be read again from its start, of which nobody is told while there is a
    /// copy: it goes when the list is too old.
    fn drop_the_copy_in_time(self: &Arc<Self>, state: &mut State, handle: u64) {
        let Some(open) = state.directories.get(&handle) else { return };
        let Some(listed) = self.entries_listed(state, open.ino) else { return };
        let left = self.config.ttl.saturating_sub(listed.age());
        let Some(until) = Instant::now().checked_add(left) else { return };
        if let Some(open) = state.directories.get_mut(&handle) {
            open.until = Some(until);
        }
        if state.copies_hold_until.is_none_or(|others| until < others) {
            state.copies_hold_until = Some(until);
            tokio::spawn(drop_old_copies(Arc::downgrade(self), until));
        }
    }

    /// Returns when the next ones are too old.
    fn drop_copies_older_than(&self, until: Instant) -> Option<Instant> {
        let mut state = self.state();
        if state.copies_hold_until != Some(until) {
            return None;
        }
        let now = Instant::now();
        let mut next = None;
        for open in state.directories.values_mut() {
            match open.until {
                Some(until) if until <= now => {
                    open.until = None;
                    self.invalidate(Invalidation::Entries(open.ino));
                }
                Some(until) => next = Some(next.map_or(until, |next| until.min(next))),
                None => {}
            }
        }
        state.copies_hold_until = next;
        next
    }
}

/// Ends with the last directory that is open; where none stays open that is the first time that it looks.
async fn drop_old_copies(vfs: Weak<Vfs>, mut until: Instant) {
    loop {
        tokio::time::sleep_until(until.into()).await;
        let Some(next) = vfs.upgrade().and_then(|vfs| vfs.drop_copies_older_than(until)) else { return };
        until = next;
    }
}

impl State {
    /// Closes a directory; which it was.
    pub(super) fn no_longer_shown(&mut self, handle: u64) -> Option<Ino> {
        let open = self.directories.remove(&handle)?;
        if let Some(shown) = self.shown.get_mut(&open.ino) {
            shown.close(open.reading);
        }
        Some(open.ino)
    }

    /// If the kernel has forgotten an inode, it has what it copied of it too. It may say so before it closes
    /// the last handle.
    pub(super) fn forget_shown(&mut self, ino: Ino) {
        if self.tree.get(ino).is_none_or(|node| node.lookups == 0 && node.handles == 0) {
            self.shown.remove(&ino);
        }
    }

    /// The entries that an offset of `handle` means.
    pub(super) fn listing_at(&self, handle: u64, offset: u64) -> Option<Arc<Listing>> {
        let open = self.directories.get(&handle)?;
        let own = open.listing.as_ref();
        if offset == 0 || own.is_some_and(|own| own.version == version(offset)) {
            return own.cloned();
        }
        // A copy that somebody else has made, and that is dropped by now.
        let shown = self.shown.get(&open.ino)?;
        shown.of_version(version(offset)).or(own).or(shown.listings.back()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Client, ClientConfig};
    use crate::emulator::{self, Emulator, Profile};
    use crate::namespace::inode::ROOT;
    use crate::vfs::{Config, Found};

    fn taken(generation: u64, tells_lengths: bool) -> impl FnOnce(u64) -> Listing {
        move |version| Listing { version, generation, names: Vec::new(), tells_lengths }
    }

    fn read(shown: &mut Shown, reading: Reading, generation: u64, listed: Instant) -> Arc<Listing> {
        shown.begin(reading, generation, Some(listed), taken(generation, true))
    }

    #[test]
    fn a_copy_holds_while_list_and_entries_are_the_same() {
        let (mut shown, listed) = (Shown::default(), Instant::now());
        assert_eq!(shown.open(0, None), Reading::Anew);
        read(&mut shown, Reading::Anew, 1, listed);
        shown.close(Reading::Anew);
        assert_eq!(shown.open(1, Some(listed)), Reading::Copy);
        shown.close(Reading::Copy);
        for (generation, fresh) in [(2, Some(listed)), (1, None), (1, Some(Instant::now()))] {
            assert_eq!(shown.open(generation, fresh), Reading::Anew, "{generation} {fresh:?}");
            read(&mut shown, Reading::Anew, 1, listed);
            shown.close(Reading::Anew);
            assert_eq!(shown.open(1, Some(listed)), Reading::Copy);
            shown.close(Reading::Copy);
        }
    }

    #[test]
    fn who_opens_a_changed_directory_that_others_have_open_reads_past_the_copy() {
        let (mut shown, listed) = (Shown::default(), Instant::now());
        assert_eq!(shown.open(1, Some(listed)), Reading::Anew);
        let old = read(&mut shown, Reading::Anew, 1, listed);
        assert_eq!(shown.open(2, Some(listed)), Reading::Past);
        let new = read(&mut shown, Reading::Past, 2, listed);
        assert_ne!(old.offset(7), new.offset(7));
        assert_eq!((place(new.offset(7)), version(new.offset(7))), (7, new.version));
        shown.close(Reading::Past);
        // The first may yet put the old entries into the copy.
        assert_eq!(shown.open(2, Some(listed)), Reading::Past);
        shown.close(Reading::Past);
        shown.close(Reading::Anew);
        assert_eq!(shown.open(2, Some(listed)), Reading::Anew);
        assert_eq!(read(&mut shown, Reading::Anew, 2, listed).version, new.version);
        assert_eq!(shown.open(2, Some(listed)), Reading::Copy);
    }

    #[test]
    fn a_copy_of_which_nobody_knows_what_it_is_of_does_not_hold() {
        let (mut shown, listed) = (Shown::default(), Instant::now());
        assert_eq!(shown.open(1, Some(listed)), Reading::Anew);
        read(&mut shown, Reading::Anew, 1, listed);
        read(&mut shown, Reading::Anew, 2, listed);
        assert_eq!(shown.open(2, Some(listed)), Reading::Past);
        shown.close(Reading::Past);
        shown.close(Reading::Anew);
        assert_eq!(shown.open(2, Some(listed)), Reading::Anew);
    }

    #[test]
    fn lengths_that_nobody_has_told_keep_no_copy() {
        let (mut shown, listed) = (Shown::default(), Instant::now());
        assert_eq!(shown.open(1, Some(listed)), Reading::Anew);
        shown.begin(Reading::Anew, 1, Some(listed), taken(1, false));
        shown.close(Reading::Anew);
        assert_eq!(shown.open(1, Some(listed)), Reading::Anew);
    }

    #[test]
    fn versions_are_remembered_while_somebody_may_read_on_in_them() {
        let (mut shown, listed) = (Shown::default(), Instant::now());
        let reading = shown.open(0, Some(listed));
        let versions: Vec<_> =
            (0..20).map(|generation| read(&mut shown, reading, generation, listed).version).collect();
        let known = versions.iter().filter(|version| shown.of_version(**version).is_some()).count();
        assert_eq!(known, REMEMBERED);
        shown.close(reading);
        assert!(shown.listings.len() == 1 && shown.of_version(19).is_some());
    }

    #[tokio::test]
    async fn what_the_kernel_forgets_before_it_closes_it_is_forgotten() {
        let server = emulator::Config::new(Profile::Openai);
        let emulator = Emulator::start(server, ([127, 0, 0, 1], 0).into()).await.unwrap();
        emulator.store().create_container("c");
        let dir = tempfile::tempdir().unwrap();
        let client = ClientConfig {
            base_url: emulator.base_url(),
            api_key: Some("sk-test".to_owned().into()),
            ..ClientConfig::default()
        };
        let config = Config::new(dir.path().join("cache"), dir.path().join("state"));
        let vfs = Vfs::open(Client::new(&client).unwrap(), config).await.unwrap();
        let Found::Entry(entry) = vfs.lookup(ROOT, "c".as_ref()).await.unwrap() else {
            panic!("it is there")
        };
        let ino = entry.attr.ino;
        let (handle, _) = vfs.opendir(ino).unwrap();
        vfs.readdir(handle, 0, false, |_| true).await.unwrap();
        vfs.forget(ino, 1);
        assert!(vfs.state().shown.contains_key(&ino));
        vfs.releasedir(handle);
        assert!(!vfs.state().shown.contains_key(&ino));
    }
}
