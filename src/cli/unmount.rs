//! `containerfs unmount`: waits for the uploads, with progress, and says what is left.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::cli::args::Unmount;
use crate::cli::exit_codes::ExitCode;
use crate::cli::output;
use crate::daemon::asking::Connection;
use crate::daemon::control::{Answer, Question};
use crate::fuse::mounts::{self, Entry};
use crate::vfs::{Left, Progress};

/// How long a mount may take to vanish once nobody serves it.
const VANISH_WAIT: Duration = Duration::from_secs(5);

/// How long a mount may take from being seen to being asked.
const LISTEN_WAIT: Duration = Duration::from_secs(1);

/// What is said of a daemon that is stopped or stuck.
const SILENT: &str = "the daemon does not answer";

/// Where to look when nobody has said what is left.
const LEFT: &str = "the next mount sends what it finds in the state directory";

/// What takes no longer than this needs no progress.
const QUIET: Duration = Duration::from_millis(150);

/// How often a line of progress is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Unmounts.
///
/// # Errors
/// Nothing of ours is mounted there, or it cannot be unmounted.
pub(super) fn unmount(args: &Unmount) -> Result<ExitCode> {
    let shown = args.mountpoint.display();
    let at = mounts::absolute(&args.mountpoint).with_context(|| format!("{shown} does not exist"))?;
    let Some(entry) = mounts::topmost_at(&at)?.filter(Entry::is_ours) else {
        if let Some(around) = mounts::around(&at)? {
            bail!("{shown} lies in the mount {0}: `containerfs unmount {0}` ends it", around.display());
        }
        bail!("{shown} is not a containerfs mount; `containerfs mount` lists them");
    };
    let question =
        Question::Unmount { timeout_seconds: args.timeout.map(|t| t.as_secs_f64()), force: args.force };
    match ask(&entry, &question)? {
        Asked::Answers(connection) => drained(connection, &entry, patience(args)),
        Asked::Dead => {
            mounts::clear_stale(&at).with_context(|| format!("cannot clear the dead mount at {shown}"))?;
            eprintln!(
                "containerfs: the mount at {shown} was dead; what it had not uploaded is sent by the next mount"
            );
            Ok(ExitCode::Success)
        }
        Asked::Silent if patience(args).is_some() => detach(&entry),
        Asked::Silent => bail!("{SILENT} at {shown}: --force takes the mount away without it"),
        Asked::Nobody(error) => {
            tracing::debug!(%error, "nobody answers at the control socket");
            mounts::unmount_ours(&at, entry.device, args.force)
                .with_context(|| format!("cannot unmount {shown}; --force takes it away from its users"))?;
            bail!(
                "{shown} is unmounted, but its daemon is not to be asked from here: nobody knows whether everything \
                 is on the server. `containerfs pending list` tells the user who mounted it, when the daemon has ended"
            )
        }
    }
}

/// How long is waited for a daemon that says nothing; for ever if there is no limit.
fn patience(args: &Unmount) -> Option<Duration> {
    if args.force { Some(Duration::ZERO) } else { args.timeout }
}

enum Asked {
    Answers(Connection),
    /// The daemon is gone, and the mount is left.
    Dead,
    /// The daemon is there, and stopped or stuck.
    Silent,
    /// It serves, and is not to be asked by us.
    Nobody(io::Error),
}

/// The mount itself is asked for signs of life only if nobody is behind the socket: the call would wait for a
/// daemon that is stopped.
fn ask(entry: &Entry, question: &Question) -> Result<Asked> {
    // A mount is seen a moment before it can be asked.
    let deadline = Instant::now() + LISTEN_WAIT;
    loop {
        match Connection::ask(entry, question) {
            Ok(connection) => return Ok(Asked::Answers(connection)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Asked::Silent),
            Err(_) if mounts::is_stale(&entry.mountpoint) => return Ok(Asked::Dead),
            Err(_) if !is_there(entry)? => bail!("the mount has ended meanwhile: {LEFT}"),
            Err(error) if Instant::now() > deadline => return Ok(Asked::Nobody(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn drained(mut connection: Connection, entry: &Entry, patience: Option<Duration>) -> Result<ExitCode> {
    let mut left = None;
    let mut display = Display::new();
    loop {
        match connection.line() {
            Ok(Some(line)) => match serde_json::from_str(&line)? {
                Answer::Progress(progress) => display.show(progress),
                Answer::Done(items) => left = Some(items),
            },
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if left.is_some() {
                    // It has ended but for its process.
                    break;
                }
                if patience.is_some_and(|patience| display.begun.elapsed() >= patience) {
                    return detach(entry);
                }
                display.tell_once(&format!("{SILENT}; --force takes the mount away without it"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    display.finish();
    let Some(left) = left else { bail!("the mount ended without saying what is left: {LEFT}") };
    wait_until_gone(entry)?;
    report(&left)
}

/// Takes the mount away from a daemon that does not answer.
fn detach(entry: &Entry) -> Result<ExitCode> {
    let at = entry.mountpoint.display();
    eprintln!(
        "containerfs: {SILENT} at {at}: the mount is taken away without it. What is not on the server is sent \
         when it goes on, or by the next mount when it has ended"
    );
    mounts::unmount_ours(&entry.mountpoint, entry.device, true)
        .with_context(|| format!("cannot unmount {at}"))?;
    Ok(ExitCode::Failed)
}

fn is_there(entry: &Entry) -> io::Result<bool> {
    let there = mounts::topmost_at(&entry.mountpoint)?;
    // Another one may be there by now.
    Ok(there.is_some_and(|there| (there.device, there.mount_id) == (entry.device, entry.mount_id)))
}

fn wait_until_gone(entry: &Entry) -> Result<()> {
    let deadline = Instant::now() + VANISH_WAIT;
    while is_there(entry)? {
        mounts::clear_stale(&entry.mountpoint)?;
        if Instant::now() > deadline {
            bail!("{} is still mounted", entry.mountpoint.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn report(left: &[Left]) -> Result<ExitCode> {
    if left.is_empty() {
        return Ok(ExitCode::Success);
    }
    output::tell_left(left);
    Ok(ExitCode::Pending)
}

/// A bar on a terminal, lines elsewhere, nothing while there is nothing to send.
struct Display {
    bar: Option<ProgressBar>,
    most: Progress,
    begun: Instant,
    last_line: Option<Instant>,
    has_told: bool,
}

impl Display {
    fn new() -> Self {
        Self { bar: None, most: Progress::default(), begun: Instant::now(), last_line: None, has_told: false }
    }

    fn show(&mut self, now: Progress) {
        if now.files_left == 0 {
            return;
        }
        self.most.files_left = self.most.files_left.max(now.files_left);
        self.most.bytes_left = self.most.bytes_left.max(now.bytes_left);
        let since = self.begun.elapsed();
        if since < QUIET {
            return;
        }
        let told = told(self.most, now, since);
        if io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("uploading {wide_bar} {msg}");
                ProgressBar::new(0)
                    .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                    .with_message(told.clone())
            });
            bar.set_message(told);
            bar.set_length(self.most.bytes_left);
            bar.set_position(self.most.bytes_left - now.bytes_left);
        } else if self.last_line.is_none_or(|last| last.elapsed() > LINE_EVERY) {
            self.last_line = Some(Instant::now());
            eprintln!("uploading: {told}");
        }
    }

    /// Something that a person should know while he waits.
    fn tell_once(&mut self, what: &str) {
        if std::mem::replace(&mut self.has_told, true) {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("containerfs: {what}")),
            None => eprintln!("containerfs: {what}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How far it is, and for how long it will go on if it goes on like that.
fn told(most: Progress, now: Progress, since: Duration) -> String {
    let (files, bytes) = (most.files_left - now.files_left, most.bytes_left - now.bytes_left);
    let so_far = format!(
        "{files}/{} files, {} of {}",
        most.files_left,
        HumanBytes(bytes),
        HumanBytes(most.bytes_left)
    );
    if now.bytes_left == 0 {
        return format!("{so_far}, waiting for the server");
    }
    if bytes == 0 {
        return so_far;
    }
    let left = since.as_secs_f64() * now.bytes_left as f64 / bytes as f64;
    match Duration::try_from_secs_f64(left.ceil()) {
        Ok(left) => format!("{so_far}, {} left", humantime::format_duration(left)),
        Err(_) => so_far,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_the_beginning_did() {
        let of = |files_left, bytes_left| Progress { files_left, bytes_left };
        let (most, two) = (of(4, 100 << 20), Duration::from_secs(2));
        assert_eq!(told(most, most, two), "0/4 files, 0 B of 100.00 MiB");
        assert_eq!(told(most, of(3, 75 << 20), two), "1/4 files, 25.00 MiB of 100.00 MiB, 6s left");
        assert_eq!(told(most, of(1, 0), two), "3/4 files, 100.00 MiB of 100.00 MiB, waiting for the server");
    }
}
