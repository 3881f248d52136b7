//! Reading ahead across the files of a directory.
//!
//! `cp -r`, `grep -r`, `tar` and `cat *` open one small file after the other, in the order of the directory.
//! Once two have been opened in that order the next ones are fetched at once, in a window that doubles while
//! it is right and shuts when it is not. A tool that has just gone through one directory in order is taken at
//! its word in the next. What was fetched and not yet read has a limit in bytes for the whole mount: more
//! would be thrown out of a small cache before it is read.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// Files up to this many bytes are fetched ahead; a larger one has its own read-ahead.
pub const SMALL: u64 = 1 << 20;

/// Entries that may lie between two files that are read in order: directories, links, files of another kind.
pub const NEAR: usize = 4;

/// The window that opens with the second file.
const FIRST_WINDOW: usize = 16;

/// Files that are fetched ahead at most: four times the default number of connections, so that all of them go
/// on while the reader waits for something else.
const LAST_WINDOW: usize = 128;

/// Bytes that are fetched and not yet read, at most: what a second of a fast link brings.
const MOST_AHEAD: u64 = 32 << 20;

/// The part of the cache that they may take up. What is read and what is written pass through it too, and
/// nothing is to be thrown out before its turn.
const PART_OF_CACHE: u64 = 4;

/// Directories whose order is remembered.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// How long a run in one directory speaks for the next, and what was fetched for it counts against others.
const CARRIES_OVER: Duration = Duration::from_secs(5);

/// How long nothing is fetched ahead after a 429.
const PAUSE: Duration = Duration::from_secs(30);

/// The runs of a mount. Directories and files are inode numbers.
#[derive(Debug)]
pub struct Prefetch {
    runs: LruCache<u64, Run>,
    right_at: Option<Instant>,
    paused_until: Option<Instant>,
    /// Bytes of all runs that may be ahead.
    most: u64,
}

#[derive(Debug)]
struct Run {
    last: u64,
    window: usize,
    /// The file up to which the window has been filled, and how many it is ahead of `last`.
    front: u64,
    reached: usize,
    /// How many places of the directory the run has passed.
    passed: usize,
    /// What was fetched beyond `last`, in the order of the directory.
    ahead: VecDeque<Fetched>,
    moved: Instant,
}

/// A file that was fetched ahead.
#[derive(Debug)]
struct Fetched {
    file: u64,
    place: usize,
    bytes: u64,
}

/// Where the window of a run is to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The file after which to go on: what lies before it has been looked at.
    pub after: u64,
    /// How many files after it.
    pub files: usize,
    /// How many bytes of them.
    pub bytes: u64,
}

impl Run {
    fn anew(last: u64, window: usize, now: Instant) -> Self {
        Self { last, window, front: last, reached: 0, passed: 0, ahead: VecDeque::new(), moved: now }
    }

    /// What lies up to `step` places on has been read, or never will be.
    fn pass(&mut self, step: usize) {
        self.passed += step;
        while self.ahead.front().is_some_and(|fetched| fetched.place <= self.passed) {
            self.ahead.pop_front();
        }
    }

    fn bytes(&self) -> u64 {
        self.ahead.iter().map(|fetched| fetched.bytes).sum()
    }
}

impl Prefetch {
    /// No run yet, and a cache of so many bytes.
    pub fn new(cache_size: u64) -> Self {
        let most = MOST_AHEAD.min(cache_size / PART_OF_CACHE);
        Self { runs: LruCache::new(DIRECTORIES), right_at: None, paused_until: None, most }
    }

    /// The file of a directory that was opened last.
    pub fn last(&self, directory: u64) -> Option<u64> {
        self.runs.peek(&directory).map(|run| run.last)
    }

    /// A file was opened for reading. `step` tells how many places it comes after the last one in the order
    /// of the directory, if soon, `leads` whether it is among the first of it. Returns what to look at
    /// beyond what has been looked at already, so that a file costs the same whatever the window; `None`
    /// if nothing is to be fetched.
    pub fn opened(
        &mut self,
        directory: u64,
        file: u64,
        step: Option<usize>,
        leads: bool,
        now: Instant,
    ) -> Option<Ahead> {
        let run = match (self.runs.pop(&directory), step) {
            (Some(run), _) if run.last == file => run,
            (Some(mut run), Some(step)) => {
                self.right_at = Some(now);
                let window = (run.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW);
                match run.reached.checked_sub(step) {
                    Some(reached) => {
                        run.pass(step);
                        Run { last: file, window, reached, moved: now, ..run }
                    }
                    None => Run::anew(file, window, now),
                }
            }
            _ if leads && self.right_at.is_some_and(|at| now.duration_since(at) < CARRIES_OVER) => {
                Run::anew(file, FIRST_WINDOW, now)
            }
            _ => Run::anew(file, 0, now),
        };
        let (after, files) = (run.front, run.window.saturating_sub(run.reached));
        let paused = self.paused_until.is_some_and(|until| now < until);
        let opens = run.window > 0 && !paused;
        let bytes = if opens { self.room(&run, now) } else { 0 };
        self.runs.put(directory, run);
        opens.then_some(Ahead { after, files, bytes })
    }

    /// How many bytes more a run may fetch: what others leave it, and its share, lest the first to come
    /// have everything. What was fetched for a run that stands still is nobody's.
    fn room(&self, run: &Run, now: Instant) -> u64 {
        let moving = self.runs.iter().map(|(_, other)| other).filter(|other| {
            !other.ahead.is_empty() && now.saturating_duration_since(other.moved) < CARRIES_OVER
        });
        let (sharing, others) = moving.fold((1, 0), |(runs, bytes), other| (runs + 1, bytes + other.bytes()));
        let own = run.bytes();
        (self.most / sharing).saturating_sub(own).min(self.most.saturating_sub(own + others))
    }

    /// So many files were looked at, the last of which was `front`. Of these were fetched: which file, at
    /// which place among them, of how many bytes.
    pub fn looked(&mut self, directory: u64, front: u64, files: usize, fetched: &[(u64, usize, u64)]) {
        if let Some(run) = self.runs.get_mut(&directory) {
            let before = run.passed + run.reached + 1;
            let fetched = fetched.iter().copied();
            run.ahead.extend(fetched.map(|(file, nth, bytes)| Fetched { file, place: before + nth, bytes }));
            run.front = front;
            run.reached += files;
        }
    }

    /// What was fetched ahead turns out to have so many bytes.
    pub fn turned_out(&mut self, directory: u64, file: u64, bytes: u64) {
        let run = self.runs.peek_mut(&directory);
        if let Some(fetched) = run.and_then(|run| run.ahead.iter_mut().find(|fetched| fetched.file == file)) {
            fetched.bytes = bytes;
        }
    }

    /// The server had enough then.
    pub fn pause(&mut self, at: Instant) {
        self.paused_until = Some(at + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE_CACHE: u64 = 1 << 40;

    fn files(ahead: Option<Ahead>) -> usize {
        ahead.map_or(0, |ahead| ahead.files)
    }

    #[test]
    fn a_single_file_costs_nothing_and_the_window_doubles_while_it_is_right() {
        let (mut prefetch, now) = (Prefetch::new(LARGE_CACHE), Instant::now());
        let windows: Vec<usize> =
            (0..6).map(|n| files(prefetch.opened(1, n, (n > 0).then_some(1), n == 0, now))).collect();
        assert_eq!(windows, [0, 16, 32, 64, 128, 128]);
        assert_eq!(
            files(prefetch.opened(1, 5, None, false, now)),
            128,
            "the same file again changes nothing"
        );
        assert_eq!(prefetch.opened(1, 90, None, false, now), None, "a wrong guess shuts the window");
        assert_eq!(files(prefetch.opened(1, 91, Some(1), false, now)), 16);
    }

    #[test]
    fn what_was_looked_at_is_not_looked_at_again() {
        let (mut prefetch, now) = (Prefetch::new(LARGE_CACHE), Instant::now());
        prefetch.opened(1, 0, None, true, now);
        let mut looked = 0;
        for file in 1..1000 {
            let ahead = prefetch.opened(1, file, Some(1), false, now).unwrap();
            assert_eq!(ahead.after, if file == 1 { 1 } else { looked });
            looked = ahead.after + ahead.files as u64;
            prefetch.looked(1, looked, ahead.files, &[]);
        }
        assert_eq!(looked, 999 + LAST_WINDOW as u64);
        // Two places on, then beyond everything that was looked at.
        assert_eq!(files(prefetch.opened(1, 1001, Some(2), false, now)), 2);
        prefetch.opened(1, 1001, None, false, now);
        for file in 0..200 {
            let ahead = prefetch.opened(1, 1002 + file, Some(1), false, now);
            assert!(files(ahead) <= LAST_WINDOW, "{ahead:?}");
        }
    }

    #[test]
    fn a_run_speaks_for_the_next_directory_for_a_while() {
        let (mut prefetch, now) = (Prefetch::new(LARGE_CACHE), Instant::now());
        prefetch.opened(1, 10, None, true, now);
        prefetch.opened(1, 11, Some(1), false, now);
        assert_eq!(prefetch.opened(2, 20, None, false, now), None, "in the middle: no");
        assert_eq!(files(prefetch.opened(3, 30, None, true, now)), 16);
        assert_eq!(prefetch.opened(4, 40, None, true, now + CARRIES_OVER), None);
    }

    #[test]
    fn a_429_shuts_every_window_for_a_while() {
        let (mut prefetch, now) = (Prefetch::new(LARGE_CACHE), Instant::now());
        prefetch.opened(1, 1, None, true, now);
        prefetch.pause(now);
        assert_eq!(prefetch.opened(1, 2, Some(1), false, now), None);
        assert!(files(prefetch.opened(1, 3, Some(1), false, now + PAUSE)) > 0);
    }

    /// Reads files of `len` bytes in order and fetches what may be fetched; the most that was ahead.
    fn most_ahead(prefetch: &mut Prefetch, directory: u64, count: u64, step: usize, len: u64) -> u64 {
        let (now, mut most) = (Instant::now(), 0);
        for file in (0..count).step_by(step) {
            let step = (file > 0).then_some(step);
            let Some(ahead) = prefetch.opened(directory, file, step, file == 0, now) else { continue };
            let fits = usize::try_from(ahead.bytes / len).unwrap().min(ahead.files);
            let fetched: Vec<_> = (0..fits).map(|nth| (ahead.after + 1 + nth as u64, nth, len)).collect();
            if fits > 0 {
                prefetch.looked(directory, ahead.after + fits as u64, fits, &fetched);
            }
            most = most.max(prefetch.runs.peek(&directory).unwrap().bytes());
        }
        most
    }

    #[test]
    fn what_is_ahead_is_bounded_in_bytes_whatever_is_skipped() {
        for step in [1, 3] {
            let mut prefetch = Prefetch::new(LARGE_CACHE);
            assert_eq!(most_ahead(&mut prefetch, 1, 300, step, SMALL), MOST_AHEAD);
            let mut prefetch = Prefetch::new(8 << 20);
            assert_eq!(most_ahead(&mut prefetch, 1, 300, step, SMALL), 2 << 20);
        }
    }

    #[test]
    fn runs_share_what_may_be_ahead_and_one_that_stands_still_keeps_nothing() {
        let (mut prefetch, now) = (Prefetch::new(LARGE_CACHE), Instant::now());
        assert_eq!(most_ahead(&mut prefetch, 1, 40, 1, SMALL), MOST_AHEAD);
        prefetch.opened(2, 1000, None, false, now);
        let second =
            |prefetch: &mut Prefetch, file, at| prefetch.opened(2, file, Some(1), false, at).unwrap();
        assert_eq!(second(&mut prefetch, 1001, now).bytes, 0);
        prefetch.opened(1, 44, Some(5), false, now);
        assert_eq!(second(&mut prefetch, 1002, now).bytes, 5 * SMALL);
        let later = Instant::now() + CARRIES_OVER;
        assert_eq!(second(&mut prefetch, 1003, later).bytes, MOST_AHEAD);
    }

    #[test]
    fn what_turns_out_shorter_makes_room() {
        let (mut prefetch, now) = (Prefetch::new(LARGE_CACHE), Instant::now());
        prefetch.opened(1, 0, None, true, now);
        prefetch.opened(1, 1, Some(1), false, now);
        prefetch.looked(1, 4, 3, &[(2, 0, SMALL), (4, 2, SMALL)]);
        prefetch.turned_out(1, 4, 10);
        let ahead = prefetch.opened(1, 1, None, false, now).unwrap();
        assert_eq!(ahead.bytes, MOST_AHEAD - SMALL - 10);
    }
}
