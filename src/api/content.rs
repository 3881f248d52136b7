//! The content of a file, as it arrives.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout};

use crate::api::budget;
use crate::api::client::Client;
use crate::api::disguise::Disguise;
use crate::api::error::{Error, ErrorKind, Result, request_id};
use crate::api::gate::Permit;
use crate::api::model::File;
use crate::api::pace::enough;
use crate::api::reply::Sent;
use crate::api::transport::{Reply, innermost};

const OPERATION: &str = "content";

/// What is wanted of a file. A server that takes no ranges sends the whole file all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every byte.
    Whole,
    /// From this byte to the end.
    From(u64),
    /// These bytes.
    Range(Range<u64>),
}

impl Part {
    /// The value of `Range`.
    pub(super) fn to_header(&self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::From(from) => Some(format!("bytes={from}-")),
            Self::Range(range) => Some(format!("bytes={}-{}", range.start, range.end.saturating_sub(1))),
        }
    }
}

/// A body under way.
pub struct Content {
    /// Bytes of this body; `None` where the server sends it in chunks and does not tell.
    pub length: Option<u64>,
    /// The offset in the file at which it begins.
    pub start: u64,
    /// Whether the server takes ranges for this file.
    pub accepts_ranges: bool,
    response: Response,
    /// What has been looked at already.
    ahead: Bytes,
    received: u64,
    client: Client,
    /// The number of the connections that it comes over.
    connections: u64,
    window: Duration,
    waited: Duration,
    moved: u64,
    _permit: Permit,
}

impl Content {
    pub(super) fn new(client: Client, window: Duration, reply: Reply) -> Self {
        let Reply { response, permit } = reply;
        let connections = client.connections();
        let headers = response.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let length = text(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let sent = text(CONTENT_RANGE).and_then(Sent::parse).filter(|_| partial);
        let accepts_ranges = partial || text(ACCEPT_RANGES) == Some("bytes");
        Self {
            length,
            start: sent.map_or(0, |sent| sent.first),
            accepts_ranges,
            response,
            ahead: Bytes::new(),
            received: 0,
            client,
            window,
            connections,
            waited: Duration::ZERO,
            moved: 0,
            _permit: permit,
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// `CutBody` if the connection breaks or the body is not as long as its header said, `Timeout` if less
    /// than 1 KiB/s moves. Only the time spent waiting here counts.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.ahead.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ahead)));
        }
        let begun = Instant::now();
        let left = self.window.saturating_sub(self.waited);
        let Ok(chunk) = timeout(left, self.response.chunk()).await else {
            self.client.leave_connections(self.connections);
            return Err(self.error(ErrorKind::Timeout, "the body stopped arriving"));
        };
        self.waited += begun.elapsed();
        match chunk {
            Ok(Some(chunk)) => {
                self.moved += chunk.len() as u64;
                if self.moved >= enough(self.waited) {
                    budget::give_back(self.waited);
                    (self.waited, self.moved) = (Duration::ZERO, 0);
                }
                self.received += chunk.len() as u64;
                self.client.received(chunk.len() as u64);
                Ok(Some(chunk))
            }
            Ok(None) if self.length.is_some_and(|length| length != self.received) => {
                Err(self.error(ErrorKind::CutBody, "the body is not as long as its header said"))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                Err(self.error(ErrorKind::CutBody, &format!("the body was cut: {}", innermost(&error))))
            }
        }
    }

    /// Whether this may be something else that came with 200 in the place of the file at `path`, by its type: what is
    /// known of the file has to tell.
    pub(crate) fn is_suspect(&self, path: &str) -> bool {
        self.disguise(path).is_some()
    }

    /// The length that this has to have, if it is the content of `file`, which was `learnt` bytes long when it last came.
    /// A model may have written its file again, so that another length alone proves nothing; but with the type of
    /// something else it does.
    pub(crate) fn expected_len(&self, file: &File, learnt: Option<u64>) -> Option<u64> {
        let known = || file.bytes.or(learnt).filter(|_| self.is_suspect(&file.path));
        file.reliable_len().or_else(known)
    }

    /// Makes sure of what the beginning can tell: that this is the content of `file`, which was `learnt` bytes long when
    /// it last came. Where the length comes last, it has to be compared by who reads to the end.
    ///
    /// # Errors
    /// `Protocol` if it is a page of HTML or an error; `CutBody` or `Protocol` if it has not the length of the file;
    /// those of [`Content::chunk`].
    pub(crate) async fn check(&mut self, file: &File, learnt: Option<u64>) -> Result<()> {
        let total = self.length.map(|length| self.start + length);
        match (self.expected_len(file, learnt), total) {
            (Some(expected), Some(total)) if total != expected => {
                Err(self.wrong_length(expected, total, &file.path))
            }
            // Of the length that is known of the file it is no other body, whoever made that.
            (Some(_), Some(_)) => Ok(()),
            _ if self.start > 0 || file.reliable_len().is_some() => Ok(()),
            _ => self.see_through(&file.path).await,
        }
    }

    /// Looks at the beginning of a body whose length nobody has told: it may be none of the bytes of the file at
    /// `path`.
    async fn see_through(&mut self, path: &str) -> Result<()> {
        let Some(disguise) = self.disguise(path) else { return Ok(()) };
        let mut seen = BytesMut::new();
        let is_all = loop {
            if seen.len() > disguise.most() {
                break false;
            }
            match self.chunk().await? {
                Some(chunk) => seen.extend_from_slice(&chunk),
                None => break true,
            }
        };
        let why = disguise.unmasked(&seen, is_all, self.client.redactor());
        self.ahead = seen.freeze();
        why.map_or(Ok(()), |why| Err(self.error(ErrorKind::Protocol, &why)))
    }

    /// The error of a body that has, or announces, `got` bytes, where `expected` bytes are known of the file at `path`.
    pub(crate) fn wrong_length(&self, expected: u64, got: u64, path: &str) -> Error {
        match self.disguise(path) {
            None => self.error(ErrorKind::CutBody, &format!("{got} bytes came of a file of {expected}")),
            Some(_) => {
                self.error(ErrorKind::Protocol, "the server sent something else in place of the content")
            }
        }
    }

    fn disguise(&self, path: &str) -> Option<Disguise> {
        let content_type = self.response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        content_type.and_then(|content_type| Disguise::of(content_type, path))
    }

    fn error(&self, kind: ErrorKind, message: &str) -> Error {
        let mut error = Error::new(kind, OPERATION, message);
        error.request_id = request_id(self.response.headers(), self.client.redactor());
        error
    }
}
