//! Going to the background, while the caller's terminal still learns how the start went.
//!
//! The process forks while it has one thread. The child reports through a pipe; the parent waits for the
//! report, prints an error if it is one, and ends with its code.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, setsid};

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
pub struct Waiter(File);

/// Reports once how the start went.
#[derive(Debug)]
pub struct Reporter(File);

/// Forks. The child leads a session of its own in `/`; its standard streams stay until it has reported.
///
/// # Errors
/// The kernel's.
pub fn detach() -> io::Result<Role> {
    let (from_child, to_parent) = pipe()?;
    // SAFETY: there is no other thread, so the child may go on as if nothing had happened.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(to_parent);
            Ok(Role::Parent(Waiter(from_child.into())))
        }
        ForkResult::Child => {
            drop(from_child);
            setsid()?;
            chdir("/")?;
            Ok(Role::Child(Reporter(to_parent.into())))
        }
    }
}

impl Waiter {
    /// The child's report: nothing, or its error.
    ///
    /// # Errors
    /// What the child said, or that it died without a word.
    pub fn wait(mut self) -> Result<(), String> {
        let mut report = String::new();
        let _ = self.0.read_to_string(&mut report);
        match report.split_once('\n') {
            Some(("ready", _)) => Ok(()),
            Some(("failed", message)) => Err(message.trim_end().to_owned()),
            _ => Err("the mount died while it started".to_owned()),
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
        (Waiter(reader.into()), Reporter(writer.into()))
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
