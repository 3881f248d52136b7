//! Ends a mount whose daemon is stuck, so that nobody waits for ever.
//!
//! Every request has a deadline, but deadlines are kept by the runtime: if all of its threads hang (in a disk
//! that does not answer, say), or somebody keeps the lock of the tree, none of them comes, and a process that
//! waits in the kernel cannot even be killed. So a thread of its own asks the runtime for a sign of life
//! while a request is open. A request alone, however long it takes, proves nothing: a transfer may take for
//! ever as long as bytes move.
//!
//! Nothing here takes a lock or logs before the kernel has let the callers go: what is stuck may be the log.
//! While no request is open the thread is parked, and an idle mount wakes nobody, but for once when it has come to
//! rest (`heap.rs`).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::connection::Connection;
use super::heap::Heap;
use super::mounts;
use crate::vfs::Vfs;

/// How often a sign of life is looked for while a request is open.
const TICK: Duration = Duration::from_secs(1);

/// What a runtime in good health may take at most, beside twice the longest wait of a request: a disk that
/// writes back what it has put off, or a machine that swaps, is slow and not stuck.
const SLACK: Duration = Duration::from_secs(10);

/// How long telling of it may take.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Counts the requests that are open.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    open: AtomicUsize,
    /// Whether the thread runs, or has been woken.
    armed: AtomicBool,
    thread: OnceLock<Thread>,
}

/// A request that is open, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Open(Arc<Watchdog>);

/// What would be ended.
pub(super) struct Watched {
    pub(super) mountpoint: PathBuf,
    pub(super) device: (u32, u32),
    pub(super) connection: Arc<Connection>,
    pub(super) vfs: Arc<Vfs>,
    pub(super) runtime: Handle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watchdog {
    /// A request arrives.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::SeqCst);
        if !self.armed.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Open(self.clone())
    }

    /// Begins to watch.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn watch(self: &Arc<Self>, watched: Watched) -> io::Result<()> {
        let watchdog = self.clone();
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || watchdog.run(&watched))?;
        Ok(())
    }

    fn run(&self, watched: &Watched) {
        let _ = self.thread.set(thread::current());
        let mut pulse = Pulse::new(patience(watched.vfs.config().timeout));
        let mut heap = Heap::default();
        loop {
            self.park_until_open(&mut heap);
            let beats = pulse.beats.clone();
            let (vfs, count) = (watched.vfs.clone(), pulse.asked + 1);
            match pulse.tick() {
                Tick::Ask => drop(watched.runtime.spawn(async move {
                    vfs.beat();
                    beats.store(count, Ordering::Release);
                })),
                Tick::Wait => {}
                Tick::Stuck => end(watched, pulse.limit),
            }
            thread::sleep(TICK);
        }
    }

    fn park_until_open(&self, heap: &mut Heap) {
        while self.open.load(Ordering::SeqCst) == 0 {
            self.armed.store(false, Ordering::SeqCst);
            // A request that came before this line found it armed, and would wake nobody.
            if self.open.load(Ordering::SeqCst) == 0 {
                heap.due_in(Instant::now()).map_or_else(thread::park, thread::park_timeout);
                heap.rests(Instant::now());
            }
        }
        heap.is_used(Instant::now());
        self.armed.store(true, Ordering::SeqCst);
    }
}

/// A runtime in good health beats within milliseconds, for none of its threads waits for the network. Twice
/// `timeout` lets every deadline that can still come do so first.
fn patience(timeout: Duration) -> Duration {
    timeout.saturating_mul(2).saturating_add(SLACK)
}

#[derive(Debug, PartialEq, Eq)]
enum Tick {
    /// The last beat has come: ask for another one.
    Ask,
    Wait,
    Stuck,
}

/// Signs of life. Silence is counted in ticks that were slept through, not in time: a process that was
/// stopped, or whose machine was asleep, has not been silent meanwhile.
#[derive(Debug)]
struct Pulse {
    asked: u64,
    beats: Arc<AtomicU64>,
    silent: u128,
    limit: Duration,
}

impl Pulse {
    fn new(limit: Duration) -> Self {
        Self { asked: 0, beats: Arc::default(), silent: 0, limit }
    }

    fn tick(&mut self) -> Tick {
        if self.beats.load(Ordering::Acquire) == self.asked {
            (self.asked, self.silent) = (self.asked + 1, 0);
            return Tick::Ask;
        }
        self.silent += 1;
        if self.silent * TICK.as_millis() >= self.limit.as_millis() { Tick::Stuck } else { Tick::Wait }
    }
}

/// Lets everybody go, tells, and ends the process: its journal is another mount's to take over, which finds
/// in it whatever was acknowledged.
fn end(watched: &Watched, silence: Duration) -> ! {
    // First of all, because a thread that hangs in a disk keeps a killed process, and with it the connection,
    // alive.
    let has_ended = watched.connection.has_ended();
    let what = if has_ended {
        // Its number may be another mount's by now.
        "it was unmounted before"
    } else {
        let connection = format!("/sys/fs/fuse/connections/{}/abort", watched.device.1);
        let aborted = fs::write(&connection, "1").map(|()| "its connection was aborted");
        aborted.unwrap_or("its end closes the connection")
    };
    let (mountpoint, device) = (watched.mountpoint.clone(), watched.device);
    let (told, done) = mpsc::channel();
    let unmounted = told.clone();
    // Each by itself: either may hang.
    let _ = thread::Builder::new().spawn(move || {
        let _ = if has_ended {
            mounts::unmount_dead(&mountpoint, device)
        } else {
            mounts::unmount_ours(&mountpoint, device, true)
        };
        let _ = unmounted.send(());
    });
    let mountpoint = watched.mountpoint.clone();
    let _ = thread::Builder::new().spawn(move || {
        tracing::error!(
            mountpoint = %mountpoint.display(),
            "the daemon is stuck: it gave no sign of life for {} s while somebody waited; {what}, and the daemon ends. \
             What was saved and not sent is sent by the next mount",
            silence.as_secs()
        );
        let _ = told.send(());
    });
    for _ in 0..2 {
        let _ = done.recv_timeout(LAST_WORDS);
    }
    // Not `exit`: what runs at an exit may wait for what is stuck.
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_in_ticks_and_a_beat_ends_it() {
        let mut pulse = Pulse::new(Duration::from_secs(3));
        assert_eq!(pulse.tick(), Tick::Ask);
        assert_eq!([pulse.tick(), pulse.tick()], [Tick::Wait, Tick::Wait]);
        pulse.beats.store(1, Ordering::Release);
        assert_eq!(pulse.tick(), Tick::Ask);
        assert_eq!([pulse.tick(), pulse.tick(), pulse.tick()], [Tick::Wait, Tick::Wait, Tick::Stuck]);
    }

    #[test]
    fn the_thread_is_woken_by_the_first_request_only() {
        let watchdog = Arc::new(Watchdog::default());
        let (parked, woken) = (watchdog.clone(), Arc::new(AtomicU64::new(0)));
        let count = woken.clone();
        let thread = thread::spawn(move || {
            parked.thread.set(thread::current()).unwrap();
            parked.park_until_open(&mut Heap::default());
            count.fetch_add(1, Ordering::SeqCst);
        });
        thread::sleep(Duration::from_millis(50));
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        let (first, second) = (watchdog.open(), watchdog.open());
        thread.join().unwrap();
        assert!(watchdog.armed.load(Ordering::SeqCst));
        drop((first, second));
        assert_eq!(watchdog.open.load(Ordering::SeqCst), 0);
    }
}
