//! A server in the process, and real mounts of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerfs::emulator::{
    Config, Emulator, Fault, FaultRule, Kind, Profile, ReplaceByName, Store, StoredFile,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long anything may take that happens by itself; generous, because test machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and a place for mounts of it.
pub(crate) struct Env {
    pub(crate) emulator: Emulator,
    pub(crate) dir: TempDir,
    _runtime: Runtime,
}

/// A mount; unmounted when it goes.
pub(crate) struct Mount {
    pub(crate) dir: PathBuf,
    child: Child,
    log: PathBuf,
}

/// Says loudly that a test is skipped where FUSE is missing; on CI that is a failure.
pub(crate) fn fuse_is_missing() -> bool {
    is_missing("/dev/fuse", File::options().read(true).write(true).open("/dev/fuse").is_err())
}

/// The same for a program.
pub(crate) fn program_is_missing(program: &str) -> bool {
    let found =
        Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success();
    is_missing(program, !found)
}

pub(crate) fn is_missing(what: &str, missing: bool) -> bool {
    if missing {
        assert!(std::env::var_os("CI").is_none(), "{what} is missing, and on CI nothing is skipped");
        eprintln!("\n*** SKIPPED: this test needs {what}, which this machine doesn't have ***\n");
    }
    missing
}

/// A program that cargo installs, from the path or from `tools` below the target directory, where `.ci/run`
/// puts it.
pub(crate) fn tool(program: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_containerfs")).ancestors().nth(2).unwrap();
    let installed = target.join("tools/bin").join(program);
    if installed.exists() {
        return Some(installed);
    }
    (!program_is_missing(program)).then(|| program.into())
}

/// Runs a test on both profiles of the server, unless there is no FUSE.
pub(crate) fn on_both_profiles(test: impl Fn(&Env)) {
    for profile in [Profile::Openai, Profile::Plain] {
        if fuse_is_missing() {
            return;
        }
        eprintln!("profile {profile:?}");
        test(&Env::of(Config::new(profile)));
    }
}

/// Runs a test on the profile of the real service, unless there is no FUSE.
pub(crate) fn on_openai(test: impl Fn(&Env)) {
    if !fuse_is_missing() {
        test(&Env::of(Config::new(Profile::Openai)));
    }
}

/// Runs a test on a server that tells lengths, unless there is no FUSE.
pub(crate) fn on_plain(test: impl Fn(&Env)) {
    if !fuse_is_missing() {
        test(&Env::of(Config::new(Profile::Plain)));
    }
}

impl Env {
    pub(crate) fn of(config: Config) -> Self {
        let runtime = Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(config, ([127, 0, 0, 1], 0).into())).unwrap();
        Self { emulator, dir: tempfile::tempdir().unwrap(), _runtime: runtime }
    }

    /// With a server that does `replace` with a second version of a path.
    pub(crate) fn that_replaces(profile: Profile, replace: ReplaceByName) -> Self {
        let mut config = Config::new(profile);
        config.quirks.replace_by_name = replace;
        Self::of(config)
    }

    pub(crate) fn store(&self) -> &Store {
        self.emulator.store()
    }

    /// A new container on the server.
    pub(crate) fn container(&self, name: &str) -> String {
        self.store().create_container(name)
    }

    /// The command with everything that leads to this server and to temporary directories.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_containerfs"));
        command
            .args(args)
            .env("OPENAI_API_KEY", "sk-test")
            .env("OPENAI_BASE_URL", self.emulator.base_url())
            .env("CONTAINERFS_CACHE_DIR", self.dir.path().join("cache"))
            .env("CONTAINERFS_STATE_DIR", self.dir.path().join("state"))
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy");
        command
    }

    /// The command with a terminal, which `script` lends; returns what the terminal showed.
    pub(crate) fn on_a_terminal(&self, args: &[&str]) -> String {
        let (told, _) = self.on_a_terminal_with_code(args);
        told
    }

    /// The same, and the exit code.
    pub(crate) fn on_a_terminal_with_code(&self, args: &[&str]) -> (String, i32) {
        let line = [&[env!("CARGO_BIN_EXE_containerfs")], args].concat().join(" ");
        let like = self.command(&[]);
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("TERM", "xterm-256color");
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command.output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap())
    }

    /// Where mounts of this environment go.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        let dir = self.dir.path().join("mnt");
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Mounts with the flags given.
    pub(crate) fn mount(&self, flags: &[&str]) -> Mount {
        self.mount_with(flags, &[])
    }

    /// The same with environment variables.
    pub(crate) fn mount_with(&self, flags: &[&str], variables: &[(&str, &str)]) -> Mount {
        let dir = self.mountpoint();
        let mut command = self.command(&["mount", "--foreground"]);
        command.envs(variables.iter().copied()).args(flags).arg(&dir);
        self.start(command, dir)
    }

    /// Runs a command that mounts on `dir` and stays.
    pub(crate) fn start(&self, mut command: Command, dir: PathBuf) -> Mount {
        let log = self.dir.path().join("log");
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stderr(stderr).spawn().unwrap();
        let mut mount = Mount { dir, child, log };
        wait_until("the mount answers", || {
            if let Some(status) = mount.child.try_wait().unwrap() {
                panic!("the mount ended with {status}: {}", mount.log());
            }
            is_mounted(&mount.dir)
        });
        mount
    }

    /// Ends the server; its port refuses connections from then on. The directories stay as long as what is
    /// returned.
    pub(crate) fn stop_server(self) -> (TempDir, Runtime) {
        self._runtime.block_on(self.emulator.stop());
        (self.dir, self._runtime)
    }

    /// How many requests of a kind the server has seen.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.emulator.requests().iter().filter(|request| request.kind == kind).count()
    }

    /// Requests that change something, in order.
    pub(crate) fn changes(&self) -> Vec<Kind> {
        let changes = [Kind::Upload, Kind::DeleteFile, Kind::CreateContainer, Kind::DeleteContainer];
        self.emulator
            .requests()
            .iter()
            .map(|request| request.kind)
            .filter(|kind| changes.contains(kind))
            .collect()
    }

    /// Runs something and returns the changing requests that it made.
    pub(crate) fn changes_of(&self, work: impl FnOnce()) -> Vec<Kind> {
        self.emulator.forget_requests();
        work();
        self.changes()
    }

    pub(crate) fn inject(&self, kind: Kind, fault: Fault) {
        self.emulator.faults().inject(FaultRule::always(kind, fault));
    }

    pub(crate) fn status_fault(&self, kind: Kind, code: u16) {
        self.inject(kind, Fault::Status { code, body: None, headers: std::collections::BTreeMap::new() });
    }

    /// The bytes of the one file of a container whose path ends with `name`.
    pub(crate) fn bytes_on_server(&self, container: &str, name: &str) -> Vec<u8> {
        let files = self.versions(container, name);
        assert_eq!(files.len(), 1, "versions of {name}: {files:?}");
        self.store().content(container, &files[0].id).unwrap()
    }

    /// The bytes of the only version of a file, if there is one and it stays for as long as one asks.
    pub(crate) fn only_version(&self, container: &str, name: &str) -> Option<Vec<u8>> {
        match &self.versions(container, name)[..] {
            [only] => self.store().content(container, &only.id),
            _ => None,
        }
    }

    /// The versions of a file on the server.
    pub(crate) fn versions(&self, container: &str, name: &str) -> Vec<StoredFile> {
        let mut files = self.store().files(container);
        files.retain(|file| file.path.ends_with(name));
        files
    }

    /// Everything in the state directory and the logs, for secrets to be looked for.
    pub(crate) fn traces(&self) -> Vec<u8> {
        let mut traces = fs::read(self.dir.path().join("log")).unwrap_or_default();
        self.kept_files().into_iter().for_each(|file| traces.extend(fs::read(file).unwrap_or_default()));
        traces
    }

    /// What the journal says in files of this name: `meta.json` beside the bytes that it keeps, `intent.json`.
    pub(crate) fn notes(&self, name: &str) -> Vec<String> {
        let is_note = |file: &PathBuf| file.file_name().is_some_and(|found| found == name);
        let notes = self.kept_files().into_iter().filter(is_note);
        notes.filter_map(|note| fs::read_to_string(note).ok()).collect()
    }

    /// As if all that mounts which are no more intended had been done.
    pub(crate) fn strike_out_intents(&self) {
        let is_intent = |file: &PathBuf| file.file_name().is_some_and(|found| found == "intent.json");
        for intent in self.kept_files().into_iter().filter(is_intent) {
            fs::remove_dir_all(intent.parent().unwrap()).unwrap();
        }
    }

    /// Everything below state and cache.
    pub(crate) fn kept_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.dir.path().join("state"), self.dir.path().join("cache")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let is_dir = entry.file_type().unwrap().is_dir();
                if is_dir { &mut directories } else { &mut files }.push(entry.path());
            }
        }
        files
    }
}

impl Mount {
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// Names in a directory, sorted.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs a shell in the mount; it must succeed. Returns what it printed.
    pub(crate) fn sh(&self, directory: &str, script: &str) -> String {
        let output = self.try_sh(directory, script);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {}{stderr}\n{}", output.status, self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_sh(&self, directory: &str, script: &str) -> Output {
        Command::new("sh").args(["-c", script]).current_dir(self.path(directory)).output().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Unmounts as a user does, and waits for the daemon; returns the exit code of `unmount` and of the
    /// daemon.
    pub(crate) fn unmount(mut self, env: &Env) -> (i32, i32) {
        let asked = env.command(&["unmount"]).arg(&self.dir).output().unwrap();
        let ended = self.wait();
        (asked.status.code().unwrap(), ended)
    }

    /// Waits for the daemon to end; returns its exit code.
    pub(crate) fn wait(&mut self) -> i32 {
        wait_until("the daemon ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) && !is_mounted(&self.dir) {
            return;
        }
        let _ = Command::new("umount").arg("-l").arg(&self.dir).stderr(Stdio::null()).status();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the mount:\n{}", self.log());
        }
    }
}

/// Whether a containerfs mount is at `dir`, asked of the kernel alone.
pub(crate) fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = format!(" {} ", dir.canonicalize().unwrap_or_else(|_| dir.to_owned()).display());
    table.lines().any(|line| line.contains(&at) && line.contains("fuse.containerfs"))
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The errno of a system call that must fail.
pub(crate) fn errno<T: std::fmt::Debug>(outcome: io::Result<T>) -> i32 {
    outcome.expect_err("it should have failed").raw_os_error().unwrap()
}

/// An upload is carried out and its reply is of no use: it is the next save that looks for it.
pub(crate) fn lost_answer() -> Fault {
    Fault::LongBody
}

/// An upload fails, may have happened, and is not sent again.
pub(crate) fn failure() -> Fault {
    let headers = [("x-should-retry".to_owned(), "false".to_owned())].into();
    Fault::Status { code: 500, body: None, headers }
}

/// The errno of writing a whole file and closing it; `std::fs` hides what `close` says.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> nix::Result<()> {
    use nix::fcntl::{OFlag, open};
    use std::os::fd::IntoRawFd;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    let file = open(path, flags, nix::sys::stat::Mode::from_bits_truncate(0o644))?;
    let written = nix::unistd::write(&file, bytes);
    let closed = nix::unistd::close(file.into_raw_fd());
    written?;
    closed
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes that do not compress, the same each time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn ino(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}
