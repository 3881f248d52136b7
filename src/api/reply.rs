//! What comes back: bodies within their limits, and whether a reply answers what was asked.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use crate::api::content::Part;
use crate::api::error::{Error, ErrorKind, Result, request_id};
use crate::api::redact::Redactor;
use crate::api::transport::{Call, innermost};

/// A page of a list, at most.
const JSON_MAX: usize = 32 << 20;

/// As much of an error body is read.
const ERROR_MAX: usize = 64 << 10;

/// A whole reply that is JSON or nothing.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// The server's id of the request.
    pub(super) id: Option<String>,
    /// In what the body is encoded, although we ask for none.
    pub(super) encoding: Option<String>,
}

impl Answer {
    /// Reads the body of a reply.
    ///
    /// # Errors
    /// `Protocol` if it is too long, `CutBody` if it does not come whole.
    pub(super) async fn read(call: &Call, mut response: Response, redactor: &Redactor) -> Result<Self> {
        let id = request_id(response.headers(), redactor);
        let encoding = encoding(&response, redactor);
        let mut body = BytesMut::new();
        loop {
            let error = match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= JSON_MAX => {
                    body.extend_from_slice(&chunk);
                    continue;
                }
                Ok(Some(_)) => {
                    let message = format!("the reply is longer than {JSON_MAX} bytes");
                    Error::new(ErrorKind::Protocol, call.operation, message)
                }
                Ok(None) => return Ok(Self { body: body.freeze(), id, encoding }),
                Err(error) => {
                    let message = format!("the reply was cut: {}", innermost(&error));
                    Error::new(ErrorKind::CutBody, call.operation, message).retrying(true)
                }
            };
            // The status was a success, whatever the body is.
            return Err(error.maybe_happened(call.posts()).with_id(id));
        }
    }

    /// The error of a body that is not what the operation answers.
    pub(super) fn not_the_apis(&self, call: &Call, why: &str) -> Error {
        let message = match &self.encoding {
            Some(encoding) => format!("the reply is encoded as {encoding}, which was not asked for ({why})"),
            None => format!("the reply is not the API's ({why}): check the base URL"),
        };
        let error = Error::new(ErrorKind::Protocol, call.operation, message);
        error.maybe_happened(call.posts()).with_id(self.id.clone())
    }
}

/// The beginning of an error's body, and whether it stopped too early. The status has told what went wrong: a
/// body that is too long, is cut, or is not here in time costs no more than the server's words.
pub(super) async fn error_body(mut response: Response, patience: Duration) -> (Bytes, bool) {
    let mut body = BytesMut::new();
    let read = async {
        while body.len() <= ERROR_MAX {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
        false
    };
    let cut = timeout(patience, read).await.unwrap_or(true);
    body.truncate(ERROR_MAX);
    (body.freeze(), cut)
}

/// Whether a reply is the content that was asked for.
///
/// # Errors
/// `Protocol` if it is not.
pub(super) fn check_content(
    call: &Call,
    part: &Part,
    response: &Response,
    redactor: &Redactor,
) -> Result<()> {
    let status = response.status();
    let message = if let Some(encoding) = encoding(response, redactor) {
        format!("the content is encoded as {encoding}, which was not asked for")
    } else if status == StatusCode::OK {
        return Ok(());
    } else if status != StatusCode::PARTIAL_CONTENT {
        format!("the server answered {status}, which is no content")
    } else if *part == Part::Whole {
        "the server sent a part where the whole was asked for".to_owned()
    } else if !is_part(part, response) {
        "the server sent another part than it was asked for".to_owned()
    } else {
        return Ok(());
    };
    let mut error = Error::new(ErrorKind::Protocol, call.operation, message);
    error.status = Some(status.as_u16());
    Err(error.with_id(request_id(response.headers(), redactor)))
}

fn is_part(part: &Part, response: &Response) -> bool {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let Some(sent) = text(CONTENT_RANGE).and_then(Sent::parse) else { return false };
    let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    let right = match part {
        Part::Whole => false,
        Part::From(from) => sent.first == *from && sent.total.is_none_or(|total| sent.last + 1 == total),
        // What lies beyond the end of the file is not there to be sent.
        Part::Range(range) => sent.first == range.start && sent.last < range.end,
    };
    right && length.is_none_or(|length| length == sent.last - sent.first + 1)
}

/// A `Content-Range`.
#[derive(Debug, PartialEq)]
pub(super) struct Sent {
    pub(super) first: u64,
    last: u64,
    total: Option<u64>,
}

impl Sent {
    /// Parses `bytes 5-9/20`.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let total = match total.trim() {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        let fits = first <= last && last < u64::MAX && total.is_none_or(|total| last < total);
        fits.then_some(Self { first, last, total })
    }
}

/// In what a body is encoded.
fn encoding(response: &Response, redactor: &Redactor) -> Option<String> {
    let values = response.headers().get_all(CONTENT_ENCODING).iter();
    let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
    let encodings: Vec<_> = values
        .flat_map(|value| value.split(',').map(|one| one.trim().to_lowercase()).collect::<Vec<_>>())
        .filter(|one| !one.is_empty() && one != "identity")
        .collect();
    (!encodings.is_empty()).then(|| redactor.text(&encodings.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_and_nonsense_is_none() {
        let parsed = |value| Sent::parse(value).map(|sent| (sent.first, sent.last, sent.total));
        assert_eq!(parsed("bytes 5-9/20"), Some((5, 9, Some(20))));
        assert_eq!(parsed("bytes 0-0/*"), Some((0, 0, None)));
        for wrong in [
            "",
            "bytes */20",
            "bytes 9-5/20",
            "bytes 5-20/20",
            "lines 1-2/3",
            "bytes 1-2",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
