//! Going to the background, while the caller's terminal still learns how the start went.
//!
//! The process forks while it has one thread. The child reports through a pipe; the parent waits for the
//! report, prints an error if it is one, and ends with its code. The child has left the terminal: a Ctrl-C, or
//! any other signal that would end the parent, is handed on until then.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, setsid};
use rustix::event::{PollFd, PollFlags, poll};

/// Which side of the fork this is.
#[derive(Debug)]
pub enum Role {
    /// The caller's process.
    Parent(Waiter),
    /// The one that stays.
    Child(Reporter),
}

/// Waits for the child's report.
#[derive(Debug)]
pub struct Waiter {
    report: File,
    child: Pid,
    signals: SignalFd,
}

/// Reports once how the start went.
#[derive(Debug)]
pub struct Reporter(File);

/// Forks. The child leads a session of its own in `/`; its standard streams stay until it has reported.
///
/// # Errors
/// The kernel's.
pub fn detach() -> io::Result<Role> {
    let (from_child, to_parent) = pipe()?;
    let signals = ends();
    // Before the fork: none is lost in between.
    signals.thread_block()?;
    // SAFETY: there is no other thread, so the child may go on as if nothing had happened.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(to_parent);
            let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
            Ok(Role::Parent(Waiter { report: from_child.into(), child, signals }))
        }
        ForkResult::Child => {
            drop(from_child);
            setsid()?;
            signals.thread_unblock()?;
            chdir("/")?;
            Ok(Role::Child(Reporter(to_parent.into())))
        }
    }
}

/// The signals that say that whoever called has had enough.
fn ends() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

impl Waiter {
    /// The child's report: nothing, or its error.
    ///
    /// # Errors
    /// What the child said, that it died without a word, or that it was told to end.
    pub fn wait(mut self) -> Result<(), String> {
        let is_interrupted = self.hand_on_signals();
        let mut report = String::new();
        let _ = self.report.read_to_string(&mut report);
        match report.split_once('\n') {
            Some(("ready", _)) if is_interrupted => Err("interrupted: the mount ends again".to_owned()),
            Some(("ready", _)) => Ok(()),
            Some(("failed", message)) => Err(message.trim_end().to_owned()),
            _ if is_interrupted => Err("interrupted before the mount answered".to_owned()),
            _ => Err("the mount died while it started".to_owned()),
        }
    }

    /// Until the child reports; returns whether there was one.
    fn hand_on_signals(&self) -> bool {
        let mut is_interrupted = false;
        loop {
            let mut waited =
                [PollFd::new(&self.report, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            if poll(&mut waited, None).is_err_and(|errno| errno != rustix::io::Errno::INTR) {
                return is_interrupted;
            }
            if !waited[1].revents().is_empty() && matches!(self.signals.read_signal(), Ok(Some(_))) {
                // One signal for all: the daemon does not care about its terminal.
                let _ = kill(self.child, Signal::SIGTERM);
                is_interrupted = true;
            }
            if !waited[0].revents().is_empty() {
                return is_interrupted;
            }
        }
    }
}

impl Reporter {
    /// The mount answers. From here on nobody reads the standard streams.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened.
    pub fn ready(mut self) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        // A parent that was killed meanwhile is no reason to end.
        let _ = self.0.write_all(b"ready\n");
        Ok(())
    }

    /// The start failed.
    pub fn failed(mut self, message: &str) {
        let _ = self.0.write_all(format!("failed\n{message}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides() -> (Waiter, Reporter) {
        let (reader, writer) = pipe().unwrap();
        let signals = SignalFd::new(&SigSet::empty()).unwrap();
        (Waiter { report: reader.into(), child: Pid::this(), signals }, Reporter(writer.into()))
    }

    #[test]
    fn an_error_of_several_lines_arrives_whole() {
        let (waiter, reporter) = sides();
        reporter.failed("no\nkey");
        assert_eq!(waiter.wait(), Err("no\nkey".to_owned()));
    }

    #[test]
    fn a_child_that_dies_silently_is_an_error() {
        let (waiter, reporter) = sides();
        drop(reporter);
        assert!(waiter.wait().unwrap_err().contains("died"));
    }
}
