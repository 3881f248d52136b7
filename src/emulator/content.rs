//! A file's bytes, whole or, where the quirk allows it, a range of them.

use std::io::SeekFrom;
use std::path::Path;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::error::ApiError;
use super::paging;
use super::router::App;
use super::store::{Content, Error};

/// One read of a streamed file: large enough that the hop to a blocking thread costs little.
const READ: usize = 256 * 1024;

pub(crate) async fn content(
    app: &App,
    query: &str,
    headers: &HeaderMap,
    container: &str,
    id: &str,
) -> Result<Response, ApiError> {
    paging::no_parameters(query)?;
    let content = app.store.content_of(container, id).map_err(|error| app.refuse(&error))?;
    let opened = match content {
        Content::Held(bytes) => Opened::Held(bytes),
        Content::OnDisk(path) => open(&path).await.map_err(|error| match error.kind() {
            // Deleted since the lookup.
            std::io::ErrorKind::NotFound => {
                app.refuse(&Error::NoFile { container: container.to_owned(), file: id.to_owned() })
            }
            _ => ApiError::internal(&error),
        })?,
    };
    let len = opened.len();
    let range = match headers.get(RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) if app.quirks.ranges => wanted(range, len),
        _ => Wanted::Whole,
    };
    let (start, count) = match range {
        Wanted::Whole => (0, len),
        Wanted::Part { start, count } => (start, count),
        Wanted::Nothing => {
            let unsatisfied = [(CONTENT_RANGE, format!("bytes */{len}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, unsatisfied).into_response());
        }
    };
    let body = opened.body(start, count).await.map_err(|error| ApiError::internal(&error))?;
    let mut response = if app.quirks.chunked_content {
        Body::from_stream(body.into_data_stream()).into_response()
    } else {
        let mut response = body.into_response();
        response.headers_mut().insert(CONTENT_LENGTH, count.into());
        response
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if app.quirks.ranges {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let Wanted::Part { start, count } = range {
        let told = format!("bytes {start}-{}/{len}", start + count - 1);
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(told).expect("digits are a header's value"));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

enum Opened {
    Held(Bytes),
    File(tokio::fs::File, u64),
}

async fn open(path: &Path) -> std::io::Result<Opened> {
    let file = tokio::fs::File::open(path).await?;
    let len = file.metadata().await?.len();
    Ok(Opened::File(file, len))
}

impl Opened {
    fn len(&self) -> u64 {
        match self {
            Self::Held(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    async fn body(self, start: u64, count: u64) -> std::io::Result<Body> {
        match self {
            Self::Held(bytes) => {
                let at = |n: u64| usize::try_from(n).expect("within bytes that are in memory");
                Ok(Body::from(bytes.slice(at(start)..at(start + count))))
            }
            Self::File(mut file, _) => {
                if start > 0 {
                    file.seek(SeekFrom::Start(start)).await?;
                }
                Ok(Body::from_stream(ReaderStream::with_capacity(file.take(count), READ)))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Whole,
    Part { start: u64, count: u64 },
    Nothing,
}

/// One range; several, other units and nonsense get the whole file, as RFC 9110 allows.
fn wanted(range: &str, len: u64) -> Wanted {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else {
        return Wanted::Whole;
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(len)),
        (Ok(first), Err(_)) if last.is_empty() => (first, len),
        (Err(_), Ok(suffix)) if first.is_empty() => (len - suffix.min(len), len),
        _ => return Wanted::Whole,
    };
    if start >= end { Wanted::Nothing } else { Wanted::Part { start, count: end - start } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (range, expected) in [
            ("bytes=0-3", Wanted::Part { start: 0, count: 4 }),
            ("bytes=8-99", Wanted::Part { start: 8, count: 2 }),
            ("bytes=4-", Wanted::Part { start: 4, count: 6 }),
            ("bytes=-3", Wanted::Part { start: 7, count: 3 }),
            ("bytes=-30", Wanted::Part { start: 0, count: 10 }),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=3-1", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(wanted(range, 10), expected, "{range}");
        }
    }
}
