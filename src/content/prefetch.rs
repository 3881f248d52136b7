//! Reading ahead across the files of a directory.
//!
//! `cp -r`, `grep -r`, `tar` and `cat *` open one small file after the other, in the order of the directory.
//! Once two have been opened in that order the next ones are fetched at once, in a window that doubles while
//! it is right and shuts when it is not. A tool that has just gone through one directory in order is taken at
//! its word in the next.

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
    /// The file up to which the window has been filled, and how many it is ahead of `last`.
    front: u64,
    reached: usize,
}

/// Where the window of a run is to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The file after which to go on: what lies before it has been looked at.
    pub after: u64,
    /// How many files after it.
    pub files: usize,
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
        let before = self.runs.get(&directory).copied();
        let anew = |window| Run { last: file, window, front: file, reached: 0 };
        let run = match (before, step) {
            (Some(run), _) if run.last == file => run,
            (Some(run), Some(step)) => {
                self.right_at = Some(now);
                let window = (run.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW);
                match run.reached.checked_sub(step) {
                    Some(reached) => Run { last: file, window, reached, ..run },
                    None => anew(window),
                }
            }
            _ if leads && self.right_at.is_some_and(|at| now.duration_since(at) < CARRIES_OVER) => {
                anew(FIRST_WINDOW)
            }
            _ => anew(0),
        };
        self.runs.put(directory, run);
        let paused = self.paused_until.is_some_and(|until| now < until);
        let ahead = Ahead { after: run.front, files: run.window.saturating_sub(run.reached) };
        (run.window > 0 && !paused).then_some(ahead)
    }

    /// So many files were looked at, the last of which was `front`.
    pub fn looked(&mut self, directory: u64, front: u64, files: usize) {
        if let Some(run) = self.runs.get_mut(&directory) {
            run.front = front;
            run.reached += files;
        }
    }

    /// The server had enough then.
    pub fn pause(&mut self, at: Instant) {
        self.paused_until = Some(at + PAUSE);
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

    fn files(ahead: Option<Ahead>) -> usize {
        ahead.map_or(0, |ahead| ahead.files)
    }

    #[test]
    fn a_single_file_costs_nothing_and_the_window_doubles_while_it_is_right() {
        let (mut prefetch, now) = (Prefetch::new(), Instant::now());
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
        let (mut prefetch, now) = (Prefetch::new(), Instant::now());
        prefetch.opened(1, 0, None, true, now);
        let mut looked = 0;
        for file in 1..1000 {
            let ahead = prefetch.opened(1, file, Some(1), false, now).unwrap();
            assert_eq!(ahead.after, if file == 1 { 1 } else { looked });
            looked = ahead.after + ahead.files as u64;
            prefetch.looked(1, looked, ahead.files);
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
        let (mut prefetch, now) = (Prefetch::new(), Instant::now());
        prefetch.opened(1, 10, None, true, now);
        prefetch.opened(1, 11, Some(1), false, now);
        assert_eq!(prefetch.opened(2, 20, None, false, now), None, "in the middle: no");
        assert_eq!(files(prefetch.opened(3, 30, None, true, now)), 16);
        assert_eq!(prefetch.opened(4, 40, None, true, now + CARRIES_OVER), None);
    }

    #[test]
    fn a_429_shuts_every_window_for_a_while() {
        let (mut prefetch, now) = (Prefetch::new(), Instant::now());
        prefetch.opened(1, 1, None, true, now);
        prefetch.pause(now);
        assert_eq!(prefetch.opened(1, 2, Some(1), false, now), None);
        assert!(files(prefetch.opened(1, 3, Some(1), false, now + PAUSE)) > 0);
    }
}
