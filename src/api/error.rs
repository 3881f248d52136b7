//! What went wrong with a call, decided where it went wrong: what kind, whether it may be repeated, and
//! whether it may have happened all the same.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Serialize;

use crate::api::redact::Redactor;
use crate::api::retry;
use crate::api::told::Told;
use crate::api::transport::Call;

/// An operation's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Characters of a server's message that are kept.
const MESSAGE_MAX: usize = 1000;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// 401: no key, or a wrong one.
    Unauthorized,
    /// 403.
    Forbidden,
    /// The file is not there.
    FileNotFound,
    /// The container is deleted or has expired.
    ContainerGone,
    /// Another 4xx: what was sent is refused for good.
    Refused,
    /// What was sent is too large.
    TooLarge,
    /// 408, or nothing moved for too long.
    Timeout,
    /// 409: somebody else is at it.
    Conflict,
    /// 429.
    RateLimited,
    /// 5xx.
    Server,
    /// The connection broke, or the body ended before its length.
    CutBody,
    /// No connection: refused, no such host, TLS.
    Unreachable,
    /// A reply that is not the API's.
    Protocol,
    /// The settings cannot work.
    Config,
    /// A 404 of something that is not this API.
    NotFound,
}

/// Why a call failed.
#[derive(Clone, Debug)]
pub struct Error {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// The server's words, or ours; bounded, with control characters escaped.
    pub message: String,
    /// The status of the reply, if there was one.
    pub status: Option<u16>,
    /// The server's `x-request-id`.
    pub request_id: Option<String>,
    /// Whether the same call may be sent again; what may have happened only once it has been looked for.
    pub retry: bool,
    /// The wait before that which the server asks for.
    pub wait: Option<Duration>,
    /// Whether a call that changes something may have changed it.
    pub may_have_happened: bool,
    /// Which operation.
    pub operation: &'static str,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, operation: &'static str, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: tame(&message.to_string()),
            status: None,
            request_id: None,
            retry: false,
            wait: None,
            may_have_happened: false,
            operation,
        }
    }

    pub(super) fn retrying(mut self, retry: bool) -> Self {
        self.retry = retry;
        self
    }

    pub(super) fn maybe_happened(mut self, maybe: bool) -> Self {
        self.may_have_happened = maybe;
        self
    }

    /// Whether it is not known what became of a POST, and a list may tell. A reply that is not the API's speaks of
    /// another server, whose lists tell nothing.
    pub fn is_in_doubt(&self) -> bool {
        self.may_have_happened && self.kind != ErrorKind::Protocol
    }

    pub(super) fn with_id(mut self, id: Option<String>) -> Self {
        self.request_id = id;
        self
    }

    /// The error that a reply tells, whose body may be `cut`.
    pub(super) fn of_reply(
        call: &Call,
        status: StatusCode,
        headers: &HeaderMap,
        (body, cut): (&[u8], bool),
        redactor: &Redactor,
    ) -> Self {
        let told = Told::parse_beginning(body, redactor);
        let kind = kind_of(call.operation, status, &told);
        let message =
            if told.message.is_empty() { format!("the server answered {status}") } else { told.message };
        let mut error = Self::new(kind, call.operation, message);
        error.status = Some(status.as_u16());
        error.request_id = request_id(headers, redactor);
        error.retry = may_repeat(status, headers, call.posts(), cut);
        error.wait = retry::asked(headers, SystemTime::now());
        error.may_have_happened = call.posts() && may_have_happened(status, error.retry);
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.message)?;
        match (self.status, &self.request_id) {
            (Some(status), Some(id)) => write!(f, " (status {status}, request {id})"),
            (Some(status), None) => write!(f, " (status {status})"),
            (None, Some(id)) => write!(f, " (request {id})"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The server's id of a request.
pub(super) fn request_id(headers: &HeaderMap, redactor: &Redactor) -> Option<String> {
    let id = redactor.text(headers.get("x-request-id")?.to_str().ok()?);
    Some(id.chars().take(100).collect())
}

impl Told {
    /// The error of a 2xx that tells one. What it is, its code says where that is a status, else its words.
    pub(super) fn into_error(self, operation: &'static str) -> Error {
        let message = self.message.to_lowercase();
        let status = self.code.parse().ok().filter(|code| (400..600).contains(code));
        let status = status.and_then(|code| StatusCode::from_u16(code).ok());
        let kind = match status {
            Some(status) => kind_of(operation, status, &self),
            None if message.contains("not found") => not_found(operation, &message, true),
            None if message.contains("expired") => ErrorKind::ContainerGone,
            None => ErrorKind::Protocol,
        };
        Error::new(kind, operation, self.message)
    }
}

fn kind_of(operation: &'static str, status: StatusCode, told: &Told) -> ErrorKind {
    let message = told.message.to_lowercase();
    let about_expiry = message.contains("expired");
    let about_size =
        message.contains("too large") || message.contains("file size") || told.code.contains("too_large");
    match status.as_u16() {
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        400 | 404 | 410 if about_expiry => ErrorKind::ContainerGone,
        404 | 410 => not_found(operation, &message, told.is_api),
        408 => ErrorKind::Timeout,
        409 => ErrorKind::Conflict,
        413 => ErrorKind::TooLarge,
        429 => ErrorKind::RateLimited,
        400 | 422 if about_size => ErrorKind::TooLarge,
        400..=499 => ErrorKind::Refused,
        500..=599 => ErrorKind::Server,
        _ => ErrorKind::Protocol,
    }
}

fn not_found(operation: &'static str, message: &str, is_api: bool) -> ErrorKind {
    // Where no container was named, it is the API that is not there.
    if !is_api || matches!(operation, "list containers" | "create container") {
        return ErrorKind::NotFound;
    }
    let of_a_file = matches!(operation, "retrieve file" | "delete file" | "content");
    if message.starts_with("container with id") || message.starts_with("container not found") {
        ErrorKind::ContainerGone
    } else if of_a_file || (message.starts_with("file ") && message.contains("not found")) {
        ErrorKind::FileNotFound
    } else {
        ErrorKind::ContainerGone
    }
}

/// Whether a POST that is answered so may have made something. 408 and 409 leave it open, and who asks for it once
/// more does not say that nothing was done; 429 does.
fn may_have_happened(status: StatusCode, retry: bool) -> bool {
    match status.as_u16() {
        429 => false,
        408 | 409 => true,
        400..=499 => retry,
        _ => true,
    }
}

/// Whether the same request may be sent again.
fn may_repeat(status: StatusCode, headers: &HeaderMap, posts: bool, cut: bool) -> bool {
    match headers.get("x-should-retry").and_then(|value| value.to_str().ok()) {
        Some("true") => return true,
        Some("false") => return false,
        _ => {}
    }
    match status.as_u16() {
        408 | 409 | 429 | 500..=599 => true,
        // These mean different things, which the body would have told.
        400 | 404 | 410 | 422 => cut && !posts,
        _ => false,
    }
}

/// Bounds a text from outside and escapes its control characters.
fn tame(text: &str) -> String {
    let mut tamed = String::with_capacity(text.len().min(MESSAGE_MAX));
    for c in text.chars().take(MESSAGE_MAX) {
        if c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            tamed.extend(c.escape_default());
        } else {
            tamed.push(c);
        }
    }
    tamed
}
