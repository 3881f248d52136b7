//! Reading ahead across the files of a directory.
//!
//! `cp -r`, `grep -r`, `tar` and `cat *` open one small file after the other, in the order of the directory. Once two
//! have been opened in that order the next ones are fetched at once, in a window that doubles while it is right and
//! shuts when it is not. A tool that has just gone through one directory in order is taken at its word in the next.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

/// Files up to this many bytes are fetched ahead; a larger one has its own read-ahead.
pub const SMALL: u64 = 1 << 20;

/// Entries that may lie between two files that are read in order: directories, links, files of another kind.
pub const NEAR: usize = 4;

/// The window that opens with the second file.
const FIRST_WINDOW: usize = 16;

/// Files that are fetched ahead at most: four times the default number of connections, so that all of them go on
/// while the reader waits for something else.
const LAST_WINDOW: usize = 128;

/// Directories whose order is remembered.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// How long a run in one directory speaks for the next.
const CARRIES_OVER: Duration = Duration::from_secs(5);

/// How long nothing is fetched ahead after a 429.
const PAUSE: Duration = Duration::from_secs(30);

/// The runs of a mount. Directories and files are inode numbers.
#[derive(Debug)]
pub struct Prefetch {
    runs: LruCache<u64, Run>,
    right_at: Option<Instant>,
    paused_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    last: u64,
    window: usize,
}

impl Prefetch {
    /// No run yet.
    pub fn new() -> Self {
        Self { runs: LruCache::new(DIRECTORIES), right_at: None, paused_until: None }
    }

    /// The file of a directory that was opened last.
    pub fn last(&self, directory: u64) -> Option<u64> {
        self.runs.peek(&directory).map(|run| run.last)
    }

    /// A file was opened for reading. `follows` tells whether it comes soon after the last one in the order of the
    /// directory, `leads` whether it is among the first of it. Returns how many files after it to fetch.
    pub fn opened(&mut self, directory: u64, file: u64, follows: bool, leads: bool, now: Instant) -> usize {
        let before = self.runs.get(&directory).copied();
        let carried = leads && self.right_at.is_some_and(|at| now.duration_since(at) < CARRIES_OVER);
        let window = match before {
            Some(run) if run.last == file => run.window,
            Some(run) if follows => (run.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW),
            _ if carried => FIRST_WINDOW,
            _ => 0,
        };
        if before.is_some() && follows {
            self.right_at = Some(now);
        }
        self.runs.put(directory, Run { last: file, window });
        let paused = self.paused_until.is_some_and(|until| now < until);
        if paused { 0 } else { window }
    }

    /// The server has had enough.
    pub fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + PAUSE);
    }
}

impl Default for Prefetch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_file_costs_nothing_and_the_window_doubles_while_it_is_right() {
        let (mut prefetch, now) = (Prefetch::new(), Instant::now());
        let windows: Vec<usize> = (0..6).map(|n| prefetch.opened(1, n, n > 0, n == 0, now)).collect();
        assert_eq!(windows, [0, 16, 32, 64, 128, 128]);
        assert_eq!(prefetch.opened(1, 5, false, false, now), 128, "the same file again changes nothing");
        assert_eq!(prefetch.opened(1, 90, false, false, now), 0, "a wrong guess shuts the window");
        assert_eq!(prefetch.opened(1, 91, true, false, now), 16);
    }

    #[test]
    fn a_run_speaks_for_the_next_directory_for_a_while() {
        let (mut prefetch, now) = (Prefetch::new(), Instant::now());
        prefetch.opened(1, 10, false, true, now);
        prefetch.opened(1, 11, true, false, now);
        assert_eq!(prefetch.opened(2, 20, false, false, now), 0, "in the middle: no");
        assert_eq!(prefetch.opened(3, 30, false, true, now), 16);
        assert_eq!(prefetch.opened(4, 40, false, true, now + CARRIES_OVER), 0);
    }

    #[test]
    fn a_429_shuts_every_window_for_a_while() {
        let (mut prefetch, now) = (Prefetch::new(), Instant::now());
        prefetch.opened(1, 1, false, true, now);
        prefetch.pause(now);
        assert_eq!(prefetch.opened(1, 2, true, false, now), 0);
        assert!(prefetch.opened(1, 3, true, false, now + PAUSE) > 0);
    }
}
