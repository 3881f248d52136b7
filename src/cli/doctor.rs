//! `containerfs doctor`: what a mount needs, looked at one by one, with what to do about each.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use indicatif::HumanBytes;
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use crate::api::model::ListParams;
use crate::api::{Client, ClientConfig, ErrorKind};
use crate::cli::args::{Common, Doctor};
use crate::cli::exit_codes::ExitCode;
use crate::cli::{directories, key, machine, output, server, status};
use crate::daemon::run::refusal;
use crate::fuse::mounts;
use crate::journal::pending;

/// Clocks that differ by more make TLS and times doubtful.
const SKEW_NOTED: Duration = Duration::from_secs(30);

/// Clocks that differ by more are wrong.
const SKEW_MAX: Duration = Duration::from_secs(300);

/// Free bytes below which a directory is small.
const ROOM_NOTED: u64 = 1 << 30;

/// Free bytes below which nothing can be written safely.
const ROOM_MIN: u64 = 64 << 20;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warning,
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    state: State,
    /// What was found, and if it is not right what to do.
    found: String,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into() }
    }

    fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Warning, found: found.into() }
    }

    fn broken(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Broken, found: found.into() }
    }
}

/// Looks at everything; exit 1 if something is broken.
///
/// # Errors
/// Stdout's.
pub(super) fn doctor(args: &Doctor, common: &Common) -> Result<ExitCode> {
    let mut checks = vec![device(), helper(), allow_other()];
    checks.extend(service(common, args.timeout)?);
    let state_dir = directories::state(&args.state_dir);
    checks.push(directory("cache directory", directories::cache(&args.cache_dir), false));
    let waiting = state_dir.as_ref().ok().and_then(|dir| unsent(dir));
    checks.push(directory("state directory", state_dir, true));
    checks.extend(dead_mounts());
    checks.extend(waiting);
    if args.json {
        output::json(&serde_json::to_string_pretty(&checks)?)?;
    } else {
        for check in &checks {
            output::line(&line(check))?;
        }
    }
    let broken = checks.iter().any(|check| check.state == State::Broken);
    Ok(if broken { ExitCode::Failed } else { ExitCode::Success })
}

fn line(check: &Check) -> String {
    let (word, colour) = match check.state {
        State::Ok => ("ok", "32"),
        State::Warning => ("warning", "33"),
        State::Broken => ("BROKEN", "31"),
    };
    let padded = format!("{word:8}");
    let word =
        if output::colours(&io::stdout()) { format!("\u{1b}[{colour}m{padded}\u{1b}[0m") } else { padded };
    format!("{word} {:17} {}", check.check, output::escaped(&check.found))
}

fn device() -> Check {
    match machine::device() {
        Ok(()) => Check::ok("/dev/fuse", "can be opened"),
        Err(told) => Check::broken("/dev/fuse", told),
    }
}

fn helper() -> Check {
    match (machine::may_mount(), machine::fusermount()) {
        (true, found) => {
            let there = if found.is_ok() { "there" } else { "missing" };
            Check::ok("fusermount3", format!("{there}, and not needed: you may mount"))
        }
        (false, Ok(path)) => Check::ok("fusermount3", path.display().to_string()),
        (false, Err(told)) if nix::unistd::geteuid().is_root() => Check::broken(
            "fusermount3",
            format!("you are root without the right to mount (in Docker: `--cap-add SYS_ADMIN`), and {told}"),
        ),
        (false, Err(told)) => Check::broken("fusermount3", told),
    }
}

fn allow_other() -> Check {
    match machine::allow_other() {
        Ok(()) => Check::ok("user_allow_other", "--allow-other works"),
        // Needed by those alone who let others in.
        Err(told) => Check::warning("user_allow_other", format!("{told} (nothing else does)")),
    }
}

/// The key, the server, and its clock.
fn service(common: &Common, timeout: Duration) -> Result<Vec<Check>> {
    let resolved = key::resolve(common);
    let mut checks = Vec::new();
    let given = match &resolved {
        Ok(_) => None,
        Err(error) => Some(Check::broken("key", format!("{error:#}"))),
    };
    let config = ClientConfig { timeout, ..server::config(common, resolved.ok()) };
    let client = match Client::new(&config) {
        Ok(client) => client,
        Err(error) => {
            checks.extend(given);
            checks.push(Check::broken("server", error.message));
            return Ok(checks);
        }
    };
    let params = ListParams { limit: Some(1), ..ListParams::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let begun = std::time::Instant::now();
    let outcome = runtime.block_on(client.list_containers(&params));
    let took = begun.elapsed().as_millis();
    let base_url = client.base_url();
    match outcome {
        Ok(page) if page.data.is_empty() && page.unread > 0 => {
            checks.push(given.unwrap_or_else(|| Check::ok("key", "the server takes it")));
            let told = format!("{base_url} tells of containers without an id: check the base URL");
            checks.push(Check::broken("server", told));
        }
        Ok(_) => {
            checks.push(given.unwrap_or_else(|| Check::ok("key", "the server takes it")));
            checks.push(Check::ok("server", format!("{base_url} answers in {took} ms")));
        }
        Err(error) if matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Forbidden) => {
            let told = || Check::broken("key", refusal(&error.clone().into(), base_url));
            checks.push(given.unwrap_or_else(told));
            checks.push(Check::ok("server", format!("{base_url} answers in {took} ms")));
        }
        Err(error) => {
            checks.push(given.unwrap_or_else(|| Check::ok("key", "there is one; the server was not asked")));
            checks.push(Check::broken("server", refusal(&error.into(), base_url)));
        }
    }
    checks.extend(client.clocks().map(|(theirs, ours)| clock(theirs, ours)));
    Ok(checks)
}

/// The `Date` of a reply has whole seconds.
fn clock(theirs: SystemTime, ours: SystemTime) -> Check {
    let (skew, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if skew <= SKEW_NOTED {
        return Check::ok("clock", "agrees with the server's");
    }
    let skew_told = humantime::format_duration(Duration::from_secs(skew.as_secs()));
    let told = format!(
        "{skew_told} {word} the server's: certificates and times will be wrong; `timedatectl set-ntp true`"
    );
    if skew > SKEW_MAX { Check::broken("clock", told) } else { Check::warning("clock", told) }
}

/// A directory that is private, writable and has room; `precious` if bytes wait in it.
fn directory(check: &'static str, dir: Result<PathBuf>, precious: bool) -> Check {
    let dir = match dir {
        Ok(dir) => dir,
        Err(error) => return Check::broken(check, format!("{error:#}")),
    };
    let shown = dir.display();
    let there = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Check::broken(check, format!("{} is not a directory: move it away", there.display()));
    }
    if let Err(error) = tempfile::tempfile_in(there) {
        let told = format!("cannot write to {} ({}): give it to yourself", there.display(), error.kind());
        return Check::broken(check, told);
    }
    if there == dir
        && let Ok(found) = fs::metadata(&dir)
    {
        if found.uid() != nix::unistd::geteuid().as_raw() {
            return Check::warning(
                check,
                format!("{shown} belongs to somebody else, who can read what is in it"),
            );
        }
        if found.permissions().mode() & 0o077 != 0 {
            return Check::warning(check, format!("others can enter {shown}: `chmod 700 {shown}`"));
        }
    }
    let free = statvfs(there).map_or(u64::MAX, |found| found.blocks_available() * found.fragment_size());
    let room = HumanBytes(free);
    if free < ROOM_MIN && precious {
        return Check::broken(
            check,
            format!("{room} left on the disk of {shown}: writing will fail; make room"),
        );
    }
    if free < ROOM_NOTED {
        return Check::warning(
            check,
            format!("{room} left on the disk of {shown}: make room, or name another"),
        );
    }
    let made = if there == dir { "private, writable" } else { "will be made" };
    Check::ok(check, format!("{shown}: {made}, {room} free"))
}

fn dead_mounts() -> Vec<Check> {
    let all = mounts::all().unwrap_or_default();
    let dead = all.iter().filter(|entry| entry.is_ours()).filter_map(status::dead);
    dead.map(|told| Check::warning("mounts", told)).collect()
}

fn unsent(state_dir: &Path) -> Option<Check> {
    let waiting = pending::items(state_dir).iter().filter(|item| !item.live).count();
    (waiting > 0).then(|| {
        let told = "the next mount sends what it may; `containerfs pending list` tells why it waits";
        Check::warning("pending", format!("files that are not on the server: {waiting}; {told}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_both_ways() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
        assert_eq!(clock(at(0), at(20)).state, State::Ok);
        assert_eq!(clock(at(60), at(0)).state, State::Warning);
        let wrong = clock(at(0), at(7200));
        assert_eq!(wrong.state, State::Broken);
        assert!(wrong.found.starts_with("2h ahead of the server's"), "{}", wrong.found);
    }

    #[test]
    fn a_directory_that_cannot_be_used_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Ok(dir.path().join(name));
        assert!(directory("d", at("a/b"), true).found.contains("will be made"));
        fs::write(dir.path().join("file"), b"").unwrap();
        assert_eq!(directory("d", at("file"), true).state, State::Broken);
        fs::create_dir(dir.path().join("open")).unwrap();
        fs::set_permissions(dir.path().join("open"), fs::Permissions::from_mode(0o755)).unwrap();
        let open = directory("d", at("open"), true);
        assert!(open.state == State::Warning && open.found.contains("chmod 700"), "{open:?}");
    }
}
