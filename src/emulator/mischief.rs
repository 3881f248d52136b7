//! Faults carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::BoxError;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::connection::Reset;
use super::faults::Fault;
use super::requests::Kind;

/// So much longer is a long body.
const SURPLUS: usize = 4096;

/// Filler is sent in pieces of this size.
const PIECE: usize = 64 * 1024;

/// A body cut off at once would take the bytes before the cut with it: they are still in the server's
/// buffers.
const BEFORE_THE_CUT: Duration = Duration::from_millis(30);

/// What a fault leaves to do.
pub(crate) enum Before {
    GoOn,
    Reply(Response),
}

/// The part of a fault that comes before the request is carried out.
pub(crate) async fn before(fault: &Fault, reset: &Reset, request: &mut Request) -> Before {
    let reply = match fault {
        Fault::Status { code, body, headers } => answer(*code, body.as_deref(), headers),
        Fault::ResetBefore => reset.now().await,
        Fault::HangBefore => std::future::pending().await,
        Fault::Html200 => {
            let page = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to go on.</body></html>";
            ([(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
        }
        Fault::WrongShape200 => {
            Json(json!({ "ok": true, "result": ["nothing", "that", 1, "expects"] })).into_response()
        }
        Fault::HugeJson { bytes } => {
            let body = Body::from_stream(huge_json(*bytes).map(Ok::<_, BoxError>));
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        Fault::Redirect { location } => {
            let location = HeaderValue::try_from(location).unwrap_or(HeaderValue::from_static("/"));
            (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response()
        }
        Fault::Delay { millis } => {
            tokio::time::sleep(Duration::from_millis(*millis)).await;
            return Before::GoOn;
        }
        Fault::Throttle { bytes_per_second } => {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = throttled(body, *bytes_per_second);
            return Before::GoOn;
        }
        Fault::EndlessList => {
            from_the_start(request);
            return Before::GoOn;
        }
        Fault::StatusAfter { .. }
        | Fault::ResetAfter
        | Fault::HangAfter
        | Fault::DelayAfter { .. }
        | Fault::HangMidBody { .. }
        | Fault::CutBody { .. }
        | Fault::LongBody => return Before::GoOn,
    };
    Before::Reply(reply)
}

/// The part of a fault that comes after.
pub(crate) async fn after(fault: &Fault, reset: &Reset, kind: Kind, response: Response) -> Response {
    match fault {
        Fault::StatusAfter { code, headers } => answer(*code, None, headers),
        Fault::ResetAfter => reset.now().await,
        Fault::HangAfter => std::future::pending().await,
        Fault::DelayAfter { millis } => {
            tokio::time::sleep(Duration::from_millis(*millis)).await;
            response
        }
        Fault::HangMidBody { after } => {
            with_length(response, |chunks| first(*after, chunks).chain(stream::pending())).await
        }
        Fault::CutBody { after } => {
            let cut = stream::once(async {
                tokio::time::sleep(BEFORE_THE_CUT).await;
                Err(BoxError::from("cut off, as a fault asks"))
            });
            with_length(response, |chunks| first(*after, chunks).chain(cut)).await
        }
        Fault::LongBody => {
            let (mut parts, body) = response.into_parts();
            let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            parts.headers.remove(CONTENT_LENGTH);
            Response::from_parts(parts, Body::from([&whole[..], &[b'+'; SURPLUS]].concat()))
        }
        Fault::EndlessList if matches!(kind, Kind::ListContainers | Kind::ListFiles) => {
            endless(response).await
        }
        Fault::Throttle { bytes_per_second } => {
            let (parts, body) = response.into_parts();
            Response::from_parts(parts, throttled(body, *bytes_per_second))
        }
        _ => response,
    }
}

/// A status as a fault asks for it, with the official error envelope if there is no body.
fn answer(code: u16, body: Option<&str>, headers: &BTreeMap<String, String>) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match body {
        Some(body) => (status, body.to_owned()).into_response(),
        None => (status, Json(envelope(status))).into_response(),
    };
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Lets the body be replaced, while `Content-Length` goes on telling the whole length.
async fn with_length<S>(response: Response, spoil: impl FnOnce(Chunks) -> S) -> Response
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    let (mut parts, body) = response.into_parts();
    if let Some(len) = axum::body::HttpBody::size_hint(&body).exact() {
        parts.headers.insert(CONTENT_LENGTH, len.into());
    }
    let chunks: Chunks = Box::pin(body.into_data_stream().map(|chunk| chunk.map_err(BoxError::from)));
    Response::from_parts(parts, Body::from_stream(spoil(chunks)))
}

type Chunks = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// The first bytes of a stream.
fn first(bytes: u64, chunks: Chunks) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    stream::unfold((bytes, chunks), |(left, mut chunks)| async move {
        if left == 0 {
            return None;
        }
        let chunk = match chunks.next().await? {
            Ok(chunk) => chunk,
            Err(error) => return Some((Err(error), (0, chunks))),
        };
        let take = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Some((Ok(chunk.slice(..take)), (left - take as u64, chunks)))
    })
}

/// A body that takes its time: pieces of at most a tenth of a second, each not before its time has come.
fn throttled(body: Body, bytes_per_second: u64) -> Body {
    let piece = usize::try_from(bytes_per_second / 10).unwrap_or(usize::MAX).max(1);
    let rate = bytes_per_second.max(1) as f64;
    let start = (body.into_data_stream(), Bytes::new(), Instant::now(), 0_usize);
    Body::from_stream(stream::unfold(start, move |(mut chunks, mut rest, begun, gone)| async move {
        while rest.is_empty() {
            match chunks.next().await? {
                Ok(chunk) => rest = chunk,
                Err(error) => return Some((Err(error), (chunks, rest, begun, gone))),
            }
        }
        let sent = rest.split_to(piece.min(rest.len()));
        let gone = gone + sent.len();
        tokio::time::sleep_until(begun + Duration::from_secs_f64(gone as f64 / rate)).await;
        Some((Ok(sent), (chunks, rest, begun, gone)))
    }))
}

fn huge_json(bytes: u64) -> impl Stream<Item = Bytes> + Send + 'static {
    const OPEN: &[u8] =
        br#"{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false,"padding":""#;
    let filler = Bytes::from(vec![b'x'; PIECE]);
    let middle = stream::unfold(bytes, move |left| {
        let take = left.min(PIECE as u64);
        let piece = filler.slice(..usize::try_from(take).unwrap_or(PIECE));
        async move { (take > 0).then_some((piece, left - take)) }
    });
    let close = stream::once(async { Bytes::from_static(b"\"}") });
    stream::once(async { Bytes::from_static(OPEN) }).chain(middle).chain(close)
}

/// Takes the cursor out of a list's query.
fn from_the_start(request: &mut Request) {
    let uri = request.uri();
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.filter(|(key, _)| key != "after"));
    let whole = format!("{}?{}", uri.path(), query.finish());
    if let Ok(whole) = PathAndQuery::try_from(whole) {
        *request.uri_mut() = Uri::from(whole);
    }
}

async fn endless(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let Ok(mut list) = serde_json::from_slice::<Value>(&bytes) else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    list["has_more"] = Value::Bool(true);
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(list.to_string()))
}

fn envelope(status: StatusCode) -> Value {
    let (message, kind, code) = match status.as_u16() {
        429 => ("Rate limit reached for requests.", "requests", Some("rate_limit_exceeded")),
        500.. => {
            ("The server had an error while processing your request. Sorry about that!", "server_error", None)
        }
        _ => ("Refused, as a fault asks.", "invalid_request_error", None),
    };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}
