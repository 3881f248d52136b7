//! `containerfs unmount`: waits for the uploads, with progress, and says what is left.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::cli::args::Unmount;
use crate::cli::exit_codes::ExitCode;
use crate::cli::output;
use crate::daemon::control::{Answer, Connection, Question};
use crate::fuse::mounts::{self, Entry};
use crate::vfs::{Left, Progress};

/// How long a mount may take to vanish once nobody serves it.
const VANISH_WAIT: Duration = Duration::from_secs(5);

/// How long a mount may take from being seen to being asked.
const LISTEN_WAIT: Duration = Duration::from_secs(1);

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
    if mounts::clear_stale(&args.mountpoint)
        .with_context(|| format!("cannot clear the dead mount at {shown}"))?
    {
        eprintln!(
            "containerfs: the mount at {shown} was dead; what it had not uploaded is sent by the next mount"
        );
        return Ok(ExitCode::Success);
    }
    let at = mounts::absolute(&args.mountpoint).with_context(|| format!("{shown} does not exist"))?;
    let Some(entry) = mounts::topmost_at(&at)?.filter(Entry::is_ours) else {
        if let Some(around) = mounts::around(&at)? {
            bail!("{shown} lies in the mount {0}: `containerfs unmount {0}` ends it", around.display());
        }
        bail!("{shown} is not a containerfs mount; `containerfs mount` lists them");
    };
    let question =
        Question::Unmount { timeout_seconds: args.timeout.map(|t| t.as_secs_f64()), force: args.force };
    match ask(entry.device, &question) {
        Ok(connection) => drained(connection, &at),
        Err(error) => {
            tracing::debug!(%error, "nobody answers at the control socket");
            mounts::unmount_ours(&at, entry.device, args.force)
                .with_context(|| format!("cannot unmount {shown}; --force takes it away from its users"))?;
            Ok(ExitCode::Success)
        }
    }
}

/// A mount is seen a moment before it can be asked.
fn ask(device: (u32, u32), question: &Question) -> io::Result<Connection> {
    let deadline = Instant::now() + LISTEN_WAIT;
    loop {
        match Connection::ask(device, question) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            answer => return answer,
        }
    }
}

fn drained(mut connection: Connection, at: &Path) -> Result<ExitCode> {
    let mut left = None;
    let mut display = Display::new();
    while let Some(line) = connection.line()? {
        match serde_json::from_str(&line)? {
            Answer::Progress(progress) => display.show(progress),
            Answer::Done(items) => left = Some(items),
        }
    }
    display.finish();
    let Some(left) = left else {
        bail!(
            "the mount ended without saying what is left: the next mount sends what it finds in the state directory"
        )
    };
    wait_until_gone(at)?;
    report(&left)
}

fn wait_until_gone(at: &Path) -> Result<()> {
    let deadline = Instant::now() + VANISH_WAIT;
    while mounts::is_stale(at) || mounts::topmost_at(at)?.is_some_and(|entry| entry.is_ours()) {
        if mounts::is_stale(at) {
            mounts::clear_stale(at)?;
        }
        if Instant::now() > deadline {
            bail!("{} is still mounted", at.display());
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
}

impl Display {
    fn new() -> Self {
        Self { bar: None, most: Progress::default(), begun: Instant::now(), last_line: None }
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
