//! One error for the whole filesystem: what the system call returns, and how loudly it is told.

use std::io;
use std::sync::Arc;

use crate::api::{self, ErrorKind};
use crate::content::download;
use crate::namespace::names::BadName;

/// An operation's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the system call returns (DESIGN §6).
    pub errno: i32,
    /// A sentence for the log and `status`.
    pub message: String,
    /// The loudness it deserves.
    pub level: tracing::Level,
    api: Option<Arc<api::Error>>,
}

impl Error {
    /// An error that is an answer, such as `ENOENT`, and is not worth a line in the log.
    pub fn quiet(errno: i32) -> Self {
        let message = io::Error::from_raw_os_error(errno).to_string();
        Self { errno, message, level: tracing::Level::TRACE, api: None }
    }

    /// An error that a person should read.
    pub fn told(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, message: message.into(), level: tracing::Level::WARN, api: None }
    }

    /// What the server refused for good in an earlier mount, which has noted `reason`.
    pub(super) fn refused_before(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let error = api::Error {
            kind: ErrorKind::Refused,
            message: reason.clone(),
            status: None,
            request_id: None,
            retry: false,
            wait: None,
            may_have_happened: false,
            operation: "upload a file",
        };
        Self { message: reason, ..Arc::new(error).into() }
    }

    /// The server's part in it, if it had one.
    pub fn api(&self) -> Option<&api::Error> {
        self.api.as_deref()
    }

    /// Whether the server refused for good, so that sending the same again is useless.
    pub fn is_refusal(&self) -> bool {
        self.api().is_some_and(|error| {
            matches!(
                error.kind,
                ErrorKind::Refused | ErrorKind::TooLarge | ErrorKind::ContainerGone | ErrorKind::Forbidden
            )
        })
    }

    /// Whether it is not known what became of a POST, and a list may tell.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.api().is_some_and(api::Error::is_in_doubt)
    }

    /// Whether a file or container is gone from the server.
    pub fn is_gone(&self) -> bool {
        self.api()
            .is_some_and(|error| matches!(error.kind, ErrorKind::FileNotFound | ErrorKind::ContainerGone))
    }

    /// Whether a container is gone from the server.
    pub fn is_container_gone(&self) -> bool {
        self.api().is_some_and(|error| error.kind == ErrorKind::ContainerGone)
    }

    /// The same for a handle that was open before the file went: `ESTALE` instead of `ENOENT`.
    #[must_use]
    pub fn on_open_handle(mut self) -> Self {
        if self.errno == libc::ENOENT {
            self.errno = libc::ESTALE;
        }
        self
    }
}

impl From<api::Error> for Error {
    fn from(error: api::Error) -> Self {
        Arc::new(error).into()
    }
}

impl From<Arc<api::Error>> for Error {
    fn from(error: Arc<api::Error>) -> Self {
        let errno = match error.kind {
            ErrorKind::Unauthorized | ErrorKind::Forbidden => libc::EACCES,
            ErrorKind::FileNotFound => libc::ENOENT,
            ErrorKind::ContainerGone => libc::ESTALE,
            ErrorKind::Refused => libc::EINVAL,
            ErrorKind::TooLarge => libc::EFBIG,
            ErrorKind::Timeout => libc::ETIMEDOUT,
            ErrorKind::RateLimited | ErrorKind::Conflict => libc::EBUSY,
            ErrorKind::Unreachable => libc::EHOSTUNREACH,
            ErrorKind::Protocol | ErrorKind::NotFound => libc::EPROTO,
            _ => libc::EIO,
        };
        Self { errno, message: error.to_string(), level: tracing::Level::WARN, api: Some(error) }
    }
}

impl From<download::Error> for Error {
    fn from(error: download::Error) -> Self {
        match error {
            download::Error::Api(error) => error.into(),
            endless @ download::Error::Endless(_) => Self::told(libc::EFBIG, endless.to_string()),
            changed @ download::Error::Changed => Self::told(libc::ESTALE, changed.to_string()),
            other => Self::told(libc::EIO, other.to_string()),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let errno = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => libc::ENOSPC,
            Some(libc::EFBIG) => libc::EFBIG,
            _ => libc::EIO,
        };
        Self::told(errno, format!("state directory: {error}"))
    }
}

impl From<BadName> for Error {
    fn from(error: BadName) -> Self {
        let errno = match error {
            BadName::Invalid => libc::EINVAL,
            BadName::TooLong | BadName::TooDeep => libc::ENAMETOOLONG,
        };
        Self { errno, message: error.to_string(), level: tracing::Level::DEBUG, api: None }
    }
}
