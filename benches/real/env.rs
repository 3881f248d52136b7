//! A server in this process, and daemons of their own mounted on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use containerfs::emulator::{Config, Emulator, Kind, Profile};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long a mount may take to come or go.
const PATIENCE: Duration = Duration::from_secs(120);

/// The largest peak of any daemon so far, in KiB.
static PEAK: AtomicU64 = AtomicU64::new(0);

/// A server with one container `c`, and a place for mounts of it.
pub(crate) struct Server {
    pub(crate) emulator: Emulator,
    pub(crate) container: String,
    pub(crate) dir: TempDir,
    pub(crate) latency: Duration,
    pub(crate) runtime: Runtime,
}

impl Server {
    /// The server answers at once until [`Server::slow_down`].
    pub(crate) fn new(profile: Profile, latency: Duration) -> Result<Self> {
        let runtime = Runtime::new()?;
        let mut config = Config::new(profile);
        config.quirks.max_upload = 1 << 30;
        let emulator = runtime.block_on(Emulator::start(config, ([127, 0, 0, 1], 0).into()))?;
        let container = emulator.store().create_container("c");
        let dir = tempfile::Builder::new().prefix("containerfs-bench-").tempdir()?;
        Ok(Self { emulator, container, dir, latency, runtime })
    }

    /// From now on every request takes the latency of this run.
    pub(crate) fn slow_down(&self) {
        self.emulator.set_latency(self.latency);
    }

    /// Files of 4 KiB, each with the word that `grep` does not look for.
    pub(crate) fn fill(&self, files: usize) {
        let content = |number: usize| {
            let line = format!("line of file {number:05}, which holds nothing that is looked for\n");
            line.repeat(4096 / line.len() + 1)[..4096].to_owned()
        };
        let files = (0..files).map(|number| (format!("/mnt/data/f{number:05}.txt"), content(number)));
        self.emulator.store().put_many(&self.container, files);
    }

    /// Content URLs of every file, in the order of their names.
    pub(crate) fn content_urls(&self) -> Vec<(String, String)> {
        let mut files = self.emulator.store().files(&self.container);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let base = format!("{}/containers/{}/files", self.emulator.base_url(), self.container);
        let url = |id: &str| format!("{base}/{id}/content");
        files
            .iter()
            .map(|file| (file.path.trim_start_matches("/mnt/data/").to_owned(), url(&file.id)))
            .collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `work` and counts its requests: of all kinds.
    pub(crate) fn counted<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, usize)> {
        self.emulator.forget_requests();
        let done = work()?;
        Ok((done, self.emulator.requests().len()))
    }

    /// How many requests of a kind there were since the last count began.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.emulator.requests().iter().filter(|request| request.kind == kind).count()
    }

    fn containerfs(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_containerfs"));
        command
            .env("OPENAI_API_KEY", "sk-test")
            .env("OPENAI_BASE_URL", self.emulator.base_url())
            .env("CONTAINERFS_CACHE_DIR", self.path("cache"))
            .env("CONTAINERFS_STATE_DIR", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"));
        command
    }

    /// A daemon with an empty cache and no state.
    pub(crate) fn mount(&self, flags: &[&str]) -> Result<Mount> {
        for leftover in ["cache", "state"] {
            let _ = fs::remove_dir_all(self.path(leftover));
        }
        let dir = self.path("mnt");
        fs::create_dir_all(&dir)?;
        let mut command = self.containerfs();
        command.args(["mount", "--foreground"]).args(flags).arg(&dir);
        let begun = Instant::now();
        let mount = self.mounted(&mut command, dir)?;
        fs::read_dir(&mount.dir)?.count();
        tracing_time("mounted", begun);
        Ok(mount)
    }

    /// Runs a daemon, of whoever, until its mount is there.
    pub(crate) fn mounted(&self, command: &mut Command, dir: PathBuf) -> Result<Mount> {
        let log = fs::File::create(self.path("log"))?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut mount = Mount { dir, child, ended: false };
        wait_for("the mount", || Ok(is_mounted(&mount.dir)? || mount.child.try_wait()?.is_some()))?;
        ensure!(is_mounted(&mount.dir)?, "the mount failed: {}", fs::read_to_string(self.path("log"))?);
        Ok(mount)
    }

    /// Mounts in the background as a user does, and lists; how long until the list is there.
    pub(crate) fn time_to_first_answer(&self) -> Result<(Duration, Mount)> {
        let dir = self.path("mnt");
        fs::create_dir_all(&dir)?;
        let begun = Instant::now();
        let mut command = self.containerfs();
        let child = command.args(["mount", "--foreground"]).arg(&dir).spawn()?;
        while !is_mounted(&dir)? {
            ensure!(begun.elapsed() < PATIENCE, "no mount");
            std::thread::sleep(Duration::from_millis(1));
        }
        let seen = fs::read_dir(&dir)?.count();
        let took = begun.elapsed();
        ensure!(seen == 1, "{seen} containers");
        Ok((took, Mount { dir, child, ended: false }))
    }
}

/// A daemon.
pub(crate) struct Mount {
    pub(crate) dir: PathBuf,
    child: Child,
    ended: bool,
}

impl Mount {
    /// The directory of the container.
    pub(crate) fn c(&self) -> PathBuf {
        self.dir.join("c")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `unmount` does; returns how long that took.
    pub(crate) fn end(mut self) -> Result<Duration> {
        self.note_peak();
        let pid = i32::try_from(self.child.id())?;
        let begun = Instant::now();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)?;
        let status = self.child.wait()?;
        let took = begun.elapsed();
        self.ended = true;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(took)
    }

    /// The peak of its resident memory, in KiB.
    pub(crate) fn peak(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }

    fn note_peak(&self) {
        if let Ok(peak) = self.peak() {
            PEAK.fetch_max(peak, Ordering::Relaxed);
        }
    }

    /// Context switches of all its threads so far.
    pub(crate) fn switches(&self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            sum += counts.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.note_peak();
        let _ = Command::new("umount").arg("-l").arg(&self.dir).stderr(Stdio::null()).status();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The largest peak of all daemons since the last call, in KiB.
pub(crate) fn take_peak() -> u64 {
    PEAK.swap(0, Ordering::Relaxed)
}

/// Whether something is mounted at `dir`, asked of the kernel alone.
pub(crate) fn is_mounted(dir: &Path) -> Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let at = format!(" {} ", dir.display());
    Ok(table.lines().any(|line| line.contains(&at)))
}

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        if begun.elapsed() > PATIENCE {
            bail!("in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs a program that must succeed; how long it took.
pub(crate) fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {} {said}", output.status);
    Ok(took)
}

/// The same in a shell.
pub(crate) fn shell(script: &str) -> Result<Duration> {
    timed(Command::new("sh").args(["-c", script]))
}

fn tracing_time(what: &str, since: Instant) {
    if std::env::var_os("BENCH_VERBOSE").is_some() {
        eprintln!("  {what} after {:?}", since.elapsed());
    }
}
