//! A daemon that is stuck holds nobody, and one that is not is left alone.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use containerfs::emulator::{Fault, Kind};
use containerfs::vfs::heartbeat::{STUCK_LOCK, STUCK_THREAD};
use url::Url;

use crate::env::{Mount, is_mounted, noise, on_openai, save, wait_until};

/// For `--timeout 1s`: twice that and ten seconds, and as much again for a slow machine.
const LET_GO: Duration = Duration::from_secs(50);

/// Longer than any test.
const FOR_EVER: &str = "sleep(600000)";

/// Waits for something that a process does; it must not hang.
fn ends<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || tell.send(work()));
    told.recv_timeout(LET_GO).unwrap_or_else(|_| panic!("it hangs: {what}"))
}

fn cat(path: PathBuf) -> i32 {
    ends("cat", move || Command::new("cat").arg(path).output().unwrap().status.code().unwrap_or(-1))
}

/// Saves with write-back, gets the daemon stuck, and sees that everybody is let go and nothing is lost.
fn lets_go_when(failpoint: &str, get_stuck: impl Fn(&Path)) {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "cold", b"not cached");
        let flags = ["--timeout", "1s", "--write-back", "--write-back-delay", "1h"];
        let mut mount = env.mount_with(&flags, &[("FAILPOINTS", &format!("{failpoint}={FOR_EVER}"))]);
        assert_eq!(save(&mount.path("c/f"), b"acknowledged"), Ok(()));
        get_stuck(&mount.path("c"));
        let begun = Instant::now();
        assert_ne!(cat(mount.path("c/cold")), 0);
        assert!(begun.elapsed() > Duration::from_secs(5), "it was not stuck");
        mount.wait();
        wait_until("the mount is gone", || !is_mounted(&mount.dir));
        assert!(mount.log().contains("the daemon is stuck"), "{}", mount.log());
        assert!(env.versions(&id, "f").is_empty(), "it had not been sent");
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"acknowledged");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"acknowledged");
    });
}

#[test]
fn a_runtime_that_is_stuck_holds_nobody_and_loses_nothing() {
    lets_go_when(STUCK_THREAD, |dir| {
        // More than the runtime has threads.
        for n in 0..12 {
            let path = dir.join(format!("new{n}"));
            thread::spawn(move || File::create(path).and_then(|file| file.sync_all()));
        }
        thread::sleep(Duration::from_secs(1));
    });
}

#[test]
fn a_lock_that_is_never_let_go_holds_nobody_and_loses_nothing() {
    lets_go_when(STUCK_LOCK, |dir| {
        let dir = dir.to_owned();
        thread::spawn(move || fs::read_dir(dir).map(Iterator::count));
        thread::sleep(Duration::from_secs(1));
    });
}

/// Context switches of all threads of a daemon so far.
fn switches(mount: &Mount) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", mount.pid())).unwrap();
    let status =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default());
    let counts = |status: String| -> u64 {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.filter_map(|line| line.rsplit('\t').next()?.trim().parse::<u64>().ok()).sum()
    };
    status.map(counts).sum()
}

#[test]
fn an_idle_mount_wakes_nobody() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"x");
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"x");
        // Connections are closed after a while, and what was begun comes to its end: then there is silence. A
        // thread that looks every second would be seen in every stretch of three.
        wait_until("a silent stretch", || {
            let before = switches(&mount);
            thread::sleep(Duration::from_secs(3));
            switches(&mount) == before
        });
    });
}

/// The kernel lets a process that it has handed a request for wait until there is an answer, whatever signal
/// comes.
#[test]
fn ctrl_c_ends_a_waiting_cat_at_the_deadline() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"x");
        let mount = env.mount(&["--timeout", "4s"]);
        assert_eq!(mount.names("c"), ["f"]);
        env.inject(Kind::Content, Fault::HangBefore);
        let begun = Instant::now();
        // A shell has what it starts in the background ignore SIGINT.
        let cat_that_heeds_it = ["--default-signal=INT", "cat"];
        let mut waiting = Command::new("env").args(cat_that_heeds_it).arg(mount.path("c/f")).spawn().unwrap();
        wait_until("it waits for the server", || env.count(Kind::Content) > 0);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(waiting.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let ended = waiting.wait().unwrap();
        assert_eq!(ended.signal(), Some(libc::SIGINT), "{ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(4 + 2), "{:?}", begun.elapsed());
        env.emulator.faults().clear();
        assert_eq!(cat(mount.path("c/f")), 0);
    });
}

/// What lies before the server and lets answers through a few bytes at a time. Returns where it listens.
fn trickle(upstream: SocketAddr, bytes_per_second: usize) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for outer in listener.incoming() {
            let (mut outer, mut inner) = (outer.unwrap(), TcpStream::connect(upstream).unwrap());
            let (mut asked, mut passed_on) = (outer.try_clone().unwrap(), inner.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut asked, &mut passed_on));
            thread::spawn(move || {
                let mut piece = vec![0; bytes_per_second / 10];
                while let Ok(got @ 1..) = inner.read(&mut piece) {
                    if outer.write_all(&piece[..got]).is_err() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    at
}

#[test]
fn a_server_that_is_slow_is_no_daemon_that_is_stuck() {
    on_openai(|env| {
        let id = env.container("c");
        let bytes = noise(64 << 10);
        env.store().put_upload(&id, "f", &bytes);
        let url = Url::parse(&env.emulator.base_url()).unwrap();
        let at = trickle(url.socket_addrs(|| None).unwrap()[0], 4 << 10);
        // The watchdog is patient for twelve seconds, and this takes sixteen.
        let mount = env.mount_with(&["--timeout", "1s"], &[("OPENAI_BASE_URL", &format!("http://{at}/v1"))]);
        let begun = Instant::now();
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), bytes);
        assert!(begun.elapsed() > Duration::from_secs(13), "it was not slow");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}
