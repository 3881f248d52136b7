//! One request of the kernel from its arrival to its answer: its span, its line in the log, its place in the
//! metrics.

use std::sync::Arc;
use std::time::Instant;

use metrics::Histogram;
use tracing::Span;

use super::watchdog::Open;
use crate::vfs::Error;

/// What the kernel asks.
macro_rules! operations {
    ($($variant:ident => $name:literal),+ $(,)?) => {
        /// What the kernel asks, by the name of the system call that a person knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Operation { $($variant),+ }

        impl Operation {
            const ALL: &[Self] = &[$(Self::$variant),+];

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

operations! {
    Lookup => "lookup",
    Getattr => "getattr",
    Setattr => "setattr",
    Readlink => "readlink",
    Mknod => "mknod",
    Mkdir => "mkdir",
    Unlink => "unlink",
    Rmdir => "rmdir",
    Rename => "rename",
    Open => "open",
    Create => "create",
    Read => "read",
    Write => "write",
    Close => "close",
    Release => "release",
    Fsync => "fsync",
    Opendir => "opendir",
    Readdir => "readdir",
    Getxattr => "getxattr",
    Fallocate => "fallocate",
    Symlink => "symlink",
}

/// Where durations go; handles that were looked up once, because some calls take microseconds.
pub(super) struct Meters(Vec<Histogram>);

impl Meters {
    pub(super) fn new() -> Arc<Self> {
        metrics::describe_histogram!(
            "containerfs_fuse_operation_duration_seconds",
            metrics::Unit::Seconds,
            "From a request of the kernel to its answer"
        );
        metrics::describe_counter!("containerfs_fuse_errors_total", "Requests of the kernel that failed");
        let meter = |operation: &Operation| metrics::histogram!("containerfs_fuse_operation_duration_seconds", "operation" => operation.name());
        Arc::new(Self(Operation::ALL.iter().map(meter).collect()))
    }
}

/// A request that is being answered.
pub(super) struct Call {
    operation: Operation,
    span: Span,
    begun: Instant,
    meters: Arc<Meters>,
    errno: i32,
    _open: Open,
}

impl Call {
    pub(super) fn new(operation: Operation, span: Span, meters: Arc<Meters>, open: Open) -> Self {
        Self { operation, span, begun: Instant::now(), meters, errno: 0, _open: open }
    }

    pub(super) fn name(&self) -> &'static str {
        self.operation.name()
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// It is answered with an error.
    pub(super) fn failed(&mut self, error: &Error) {
        self.errno = error.errno;
        let errno = nix::errno::Errno::from_raw(error.errno);
        metrics::counter!(
            "containerfs_fuse_errors_total",
            "operation" => self.name(),
            "errno" => format!("{errno:?}")
        )
        .increment(1);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        self.meters.0[self.operation as usize].record(took);
        self.span.in_scope(|| {
            tracing::debug!(
                us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                errno = self.errno,
                "answered"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::watchdog::Watchdog;
    use super::*;

    #[test]
    fn every_operation_has_its_meter() {
        let meters = Meters::new();
        for (at, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, at);
            drop(Call::new(*operation, Span::none(), meters.clone(), Arc::<Watchdog>::default().open()));
        }
        assert_eq!(meters.0.len(), Operation::ALL.len());
    }
}
