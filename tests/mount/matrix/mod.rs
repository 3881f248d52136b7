//! Every call on every fault: the errno of the table, in time, and all is well once the fault is gone.

mod faults;
mod operations;
mod table;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use containerfs::emulator::{Config, Profile};
use nix::errno::Errno;

use self::table::Cell;
use crate::env::{Env, Mount, fuse_is_missing, is_missing, noise, program_is_missing};
use crate::gate::Gate;

/// `--timeout` of every mount here.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A call may be so much later than that.
const GRACE: Duration = Duration::from_secs(1);

/// Length of the files that are read.
const BYTES: usize = 5000;

/// A failure on a machine that was later than this says nothing: the cell is tried again.
const TOO_LATE: Duration = Duration::from_millis(250);

/// Mounts at once: they wait more than they work.
const MOUNTS: usize = 10;

/// A server, a mount of it, and perhaps a gate between the two.
struct Rig {
    env: Env,
    mount: Mount,
    gate: Option<Gate>,
}

impl Rig {
    fn gate(&self) -> &Gate {
        self.gate.as_ref().expect("the rows that need one get one")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.env.command(args);
        if let Some(gate) = &self.gate {
            command.env("OPENAI_BASE_URL", gate.base_url());
        }
        command
    }
}

#[test]
fn every_call_fails_as_it_should_when_the_server_does() {
    // Root, for names that only its mounts know.
    let is_root = nix::unistd::geteuid().is_root();
    if fuse_is_missing() || program_is_missing("unshare") || is_missing("root", !is_root) {
        return;
    }
    let wanted = std::env::var("CONTAINERFS_CELLS").unwrap_or_default();
    let cells: Vec<Cell> = table::cells().into_iter().filter(|cell| name(cell).contains(&wanted)).collect();
    let (gated, plain): (Vec<Cell>, Vec<Cell>) = cells.into_iter().partition(|cell| cell.row.needs_gate());
    // A gate is shut for all of its mount: what needs one has its own.
    let mut shares: Vec<Vec<Cell>> = Vec::new();
    for lists in [true, false] {
        let some: Vec<Cell> = plain.iter().filter(|cell| cell.column.lists() == lists).copied().collect();
        let mounts = if lists { MOUNTS / 3 } else { MOUNTS };
        shares.extend((0..mounts).map(|at| some.iter().skip(at).step_by(mounts).copied().collect()));
        for row in ["connection refused", "no such host", "wrong certificate"] {
            let of_row = gated.iter().filter(|cell| cell.column.lists() == lists && cell.row_name == row);
            shares.push(of_row.copied().collect());
        }
    }
    let lag = Lag::default();
    let wrong: Mutex<Vec<String>> = Mutex::default();
    let again: Mutex<Vec<Cell>> = Mutex::default();
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| lag.measure(&busy));
        let shares: Vec<_> = shares
            .iter()
            .filter(|share| !share.is_empty())
            .map(|share| scope.spawn(|| run(share, &lag, &wrong, Some(&again))))
            .collect();
        let outcomes: Vec<_> = shares.into_iter().map(|share| share.join()).collect();
        for cell in std::mem::take(&mut *again.lock().unwrap()) {
            run(&[cell], &lag, &wrong, None);
        }
        busy.store(false, Ordering::Release);
        assert!(outcomes.iter().all(Result::is_ok), "a share of the matrix broke off");
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// The table of the documentation is the one that is tested.
#[test]
fn the_documentation_shows_the_matrix() {
    const BEGIN: &str = "<!-- the matrix -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/semantics.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(BEGIN).unwrap();
    let right = format!("{before}{BEGIN}{}{BEGIN}{after}", table::markdown());
    if std::env::var_os("CONTAINERFS_WRITE_DOCS").is_some() {
        fs::write(&path, &right).unwrap();
    }
    assert!(
        page == right,
        "docs/semantics.md is old: CONTAINERFS_WRITE_DOCS=1 cargo test the_documentation_shows"
    );
}

fn name(cell: &Cell) -> String {
    format!("{} on {}", cell.column.name(), cell.row_name)
}

/// Runs cells one after the other on a mount of their own; what says nothing of the daemon joins `again`.
fn run(share: &[Cell], lag: &Lag, wrong: &Mutex<Vec<String>>, again: Option<&Mutex<Vec<Cell>>>) {
    let env = Env::of(Config::new(Profile::Openai));
    let containers: Vec<String> =
        share.iter().enumerate().map(|(at, cell)| furnish(&env, at, cell)).collect();
    let rig = mount(env, share);
    for (at, cell) in share.iter().enumerate() {
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            try_cell(&rig, &format!("x{at}"), &containers[at], *cell, lag)
        }));
        let problem = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(panic) => {
                cell.row.end(&rig);
                let text = panic.downcast_ref::<String>().cloned();
                Some(text.unwrap_or_else(|| format!("{:?}", panic.downcast_ref::<&str>())))
            }
        };
        let Some(problem) = problem else { continue };
        if let Some(again) = again.filter(|_| lag.worst() > TOO_LATE) {
            eprintln!("{} once more, the machine was late by {:?}: {problem}", name(cell), lag.worst());
            again.lock().unwrap().push(*cell);
        } else {
            wrong.lock().unwrap().push(format!("{} ({:?}): {problem}", name(cell), begun.elapsed()));
        }
    }
}

/// A container for a cell, with what its call needs.
fn furnish(env: &Env, at: usize, cell: &Cell) -> String {
    let id = env.container(&format!("x{at}"));
    if cell.row == faults::Row::Phantom {
        env.store().put_phantom(&id, "/mnt/data/f");
    } else if cell.column != operations::Column::Rmdir {
        env.store().put_upload(&id, "f", &noise(BYTES));
    }
    id
}

fn mount(env: Env, share: &[Cell]) -> Rig {
    let ttl = if share[0].column.lists() { "100ms" } else { "1h" };
    let timeout = format!("{}s", TIMEOUT.as_secs());
    let flags = ["--ttl", ttl, "--timeout", &timeout, "--no-prefetch", "--drain-timeout", "1s"];
    if !share[0].row.needs_gate() {
        let mount = env.mount(&flags);
        return Rig { env, mount, gate: None };
    }
    // A mount in which the daemon's own namespace and everybody else's see the same.
    let shared = env.mountpoint();
    let made = Command::new("sh")
        .args(["-c", "mount -t tmpfs gate \"$1\" && mount --make-shared \"$1\" && mkdir \"$1/mnt\"", "sh"])
        .arg(&shared)
        .status();
    assert!(made.unwrap().success());
    let gate = Gate::before(env.emulator.addr(), env.dir.path());
    let dir = shared.join("mnt");
    let mut command = env.command(&["mount", "--foreground"]);
    command.args(flags).arg(&dir);
    let mount = env.start(gate.lead(&command), dir);
    Rig { env, mount, gate: Some(gate) }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.gate.is_some() {
            let _ = Command::new("umount").args(["-l", "-R"]).arg(self.env.mountpoint()).status();
        }
    }
}

fn try_cell(rig: &Rig, directory: &str, container: &str, cell: Cell, lag: &Lag) -> Result<(), String> {
    let mut ready = cell.column.prepare(rig, directory, container);
    if cell.column.lists() {
        // The list grows old.
        std::thread::sleep(Duration::from_millis(150));
    }
    cell.row.begin(rig, cell.column.request(), container);
    lag.begin();
    let begun = Instant::now();
    let outcome = ready.call();
    let took = begun.elapsed();
    let lag = lag.worst();
    cell.row.end(rig);
    let got = match &outcome {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    };
    if got != cell.expected {
        return Err(format!("{got} instead of {}\n{}", cell.expected, tail(&rig.mount.log())));
    }
    // What the machine was late itself is not the daemon's; on a quiet one it is nothing.
    if took > TIMEOUT + GRACE + 4 * lag {
        return Err(format!("it took {took:?}; the machine was late by {lag:?}"));
    }
    if cell.row.takes_the_container() {
        ready.bytes_are_kept(rig);
    } else if cell.row != faults::Row::Phantom {
        ready.afterwards(rig, outcome.is_ok());
    }
    Ok(())
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

/// How late the machine is: the longest that a short sleep and a small write to the disk took too long since
/// somebody began to look.
#[derive(Default)]
struct Lag(AtomicU64);

impl Lag {
    fn measure(&self, busy: &AtomicBool) {
        const STEP: Duration = Duration::from_millis(50);
        let mut disk = tempfile::tempfile().unwrap();
        while busy.load(Ordering::Acquire) {
            let begun = Instant::now();
            std::thread::sleep(STEP);
            disk.write_all(b"late?").unwrap();
            disk.sync_all().unwrap();
            let late = begun.elapsed().saturating_sub(STEP);
            let _ = self.0.fetch_max(u64::try_from(late.as_millis()).unwrap(), Ordering::Relaxed);
        }
    }

    /// The worst moment of a run counts for the cells that are under way; an old one is half forgotten.
    fn begin(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |late| Some(late / 2));
    }

    fn worst(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}
