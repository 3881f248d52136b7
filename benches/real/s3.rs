//! The files of a container once more, as a bucket: any signature is good.
//!
//! Mounts that speak S3 read the same bytes from it after the same latency and over a link of the same width,
//! and write files of one part. It gives a thousand names a page, as S3 does, where the Containers API gives
//! a hundred.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use futures_util::stream;
use md5::{Digest, Md5};
use tokio::time::Instant;

use crate::env::Server;

/// The bucket's name.
pub(crate) const BUCKET: &str = "bench";

/// The most names of a page.
const PAGE: usize = 1000;

/// The most bytes of an upload.
const MOST: usize = 64 << 20;

/// Bytes that pass a throttled link at a time.
const PIECE: usize = 256 << 10;

/// The server of the bucket; it ends with the runtime of the other one.
pub(crate) struct S3 {
    bucket: Arc<Bucket>,
    addr: SocketAddr,
}

impl S3 {
    /// Serves what the container holds now, over a link of `link` bytes a second that all replies share.
    pub(crate) fn beside(server: &Server, link: Option<u64>) -> Result<Self> {
        let store = server.emulator.store();
        let mut objects = BTreeMap::new();
        for file in store.files(&server.container) {
            let bytes = Bytes::from(store.content(&server.container, &file.id).context("a file is gone")?);
            let key = file.path.trim_start_matches("/mnt/data/").to_owned();
            objects.insert(key, Object::new(bytes, HeaderMap::new()));
        }
        let bucket = Arc::new(Bucket {
            objects: Mutex::new(objects),
            link: link.map(Link::new),
            latency: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
        });
        let listener = server.runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let addr = listener.local_addr()?;
        let app = axum::Router::new().fallback(serve).with_state(Arc::clone(&bucket));
        // Small replies must not wait for acknowledgements.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        server.runtime.spawn(async move { axum::serve(listener, app).await });
        Ok(Self { bucket, addr })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on every request waits so long before it is carried out.
    pub(crate) fn set_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.bucket.latency.store(micros, Ordering::Relaxed);
    }

    /// How many requests there were since the last call.
    pub(crate) fn take_requests(&self) -> usize {
        self.bucket.requests.swap(0, Ordering::Relaxed)
    }

    /// The bytes of every object.
    pub(crate) fn contents(&self) -> Vec<Bytes> {
        self.bucket.objects().values().map(|object| object.bytes.clone()).collect()
    }
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    etag: String,
    modified: SystemTime,
    /// The headers that come back as they were sent: `x-amz-meta-…` and the type.
    told: HeaderMap,
}

impl Object {
    fn new(bytes: Bytes, told: HeaderMap) -> Self {
        Self { etag: hex::encode(Md5::digest(&bytes)), bytes, modified: SystemTime::now(), told }
    }
}

struct Bucket {
    objects: Mutex<BTreeMap<String, Object>>,
    link: Option<Link>,
    latency: AtomicU64,
    requests: AtomicUsize,
}

async fn serve(State(bucket): State<Arc<Bucket>>, request: Request) -> Response {
    bucket.requests.fetch_add(1, Ordering::Relaxed);
    let latency = bucket.latency.load(Ordering::Relaxed);
    if latency > 0 {
        tokio::time::sleep(Duration::from_micros(latency)).await;
    }
    let (parts, body) = request.into_parts();
    let Some(key) = key_of(parts.uri.path()) else {
        return refused(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    match (parts.method, key.as_str()) {
        (Method::HEAD, "") => StatusCode::OK.into_response(),
        (Method::GET, "") => bucket.list(parts.uri.query().unwrap_or_default()),
        (Method::HEAD | Method::GET, key) => Bucket::object(&bucket, key, &parts.headers),
        (Method::PUT, key) if !key.is_empty() => match axum::body::to_bytes(body, MOST).await {
            Ok(bytes) => bucket.put(key, bytes, &parts.headers),
            Err(_) => refused(StatusCode::BAD_REQUEST, "IncompleteBody"),
        },
        _ => refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

/// The key in `/bucket/key`; an empty one is the bucket itself.
fn key_of(path: &str) -> Option<String> {
    let path = percent_encoding::percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy();
    let (name, key) = path.split_once('/').unwrap_or((&path, ""));
    (name == BUCKET).then(|| key.to_owned())
}

impl Bucket {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new object, or a copy of one that is there.
    fn put(&self, key: &str, bytes: Bytes, headers: &HeaderMap) -> Response {
        let source = headers.get("x-amz-copy-source").and_then(|source| key_of(source.to_str().ok()?));
        let mut objects = self.objects();
        let bytes = match &source {
            None => bytes,
            Some(source) => match objects.get(source) {
                Some(object) => object.bytes.clone(),
                None => return refused(StatusCode::NOT_FOUND, "NoSuchKey"),
            },
        };
        let told = headers
            .iter()
            .filter(|(name, _)| **name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-meta-"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let object = Object::new(bytes, told);
        let etag = [(header::ETAG, format!("\"{}\"", object.etag))];
        let copied = format!("<CopyObjectResult>{}</CopyObjectResult>", told_of_version(&object));
        objects.insert(key.to_owned(), object);
        if source.is_some() { xml(&copied) } else { etag.into_response() }
    }

    /// ListObjects in both versions: the first goes on after `marker`, the second after `continuation-token`.
    fn list(&self, query: &str) -> Response {
        let query: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let asked = |name: &str| query.get(name).map_or("", String::as_str);
        let (prefix, delimiter) = (asked("prefix"), asked("delimiter"));
        let most = asked("max-keys").parse().unwrap_or(PAGE).min(PAGE);
        let after =
            ["continuation-token", "start-after", "marker"].map(asked).into_iter().max().unwrap_or("");
        let mut page = format!("<Name>{BUCKET}</Name><Prefix>{}</Prefix>", escaped(prefix));
        let (mut told, mut last, mut more) = (0, after.to_owned(), false);
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        for (key, object) in self.objects().range::<str, _>((from, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let common = match rest.find(delimiter) {
                Some(end) if !delimiter.is_empty() => Some(&key[..prefix.len() + end + delimiter.len()]),
                _ => None,
            };
            if common.is_some_and(|common| last == common || after.starts_with(common)) {
                continue;
            }
            if told == most {
                more = true;
                break;
            }
            told += 1;
            match common {
                Some(common) => {
                    let _ =
                        write!(page, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(common));
                    common.clone_into(&mut last);
                }
                None => {
                    let _ = write!(
                        page,
                        "<Contents><Key>{}</Key>{}<Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                        escaped(key),
                        told_of_version(object),
                        object.bytes.len()
                    );
                    key.clone_into(&mut last);
                }
            }
        }
        let next = escaped(&last);
        let next = if asked("list-type") == "2" {
            format!("<KeyCount>{told}</KeyCount><NextContinuationToken>{next}</NextContinuationToken>")
        } else {
            format!("<NextMarker>{next}</NextMarker>")
        };
        let next = if more { next.as_str() } else { "" };
        xml(&format!(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><MaxKeys>{most}</MaxKeys>\
             <Delimiter>{}</Delimiter><IsTruncated>{more}</IsTruncated>{next}{page}</ListBucketResult>",
            escaped(delimiter)
        ))
    }

    /// An object or a part of it; of a HEAD, the connection leaves the body out.
    fn object(bucket: &Arc<Self>, key: &str, headers: &HeaderMap) -> Response {
        let Some(object) = bucket.objects().get(key).cloned() else {
            return refused(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let len = object.bytes.len();
        let range = headers.get(header::RANGE).and_then(|range| part(range.to_str().ok()?, len));
        let (first, end) = range.unwrap_or((0, len));
        if range.is_some() && first >= end {
            return refused(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let mut response = bucket.body(object.bytes.slice(first..end)).into_response();
        if range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.extend(object.told);
        for (name, value) in [
            (header::CONTENT_LENGTH, (end - first).to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, format!("\"{}\"", object.etag)),
            (header::LAST_MODIFIED, httpdate::fmt_http_date(object.modified)),
        ] {
            headers.insert(name, value.try_into().expect("digits and letters"));
        }
        if range.is_some() {
            let told = format!("bytes {first}-{}/{len}", end - 1);
            headers.insert(header::CONTENT_RANGE, told.try_into().expect("digits"));
        }
        response
    }

    fn body(self: &Arc<Self>, bytes: Bytes) -> Body {
        let bucket = Arc::clone(self);
        Body::from_stream(stream::unfold((bucket, bytes), |(bucket, mut rest)| async move {
            if rest.is_empty() {
                return None;
            }
            let sent = rest.split_to(PIECE.min(rest.len()));
            if let Some(link) = &bucket.link {
                link.pass(sent.len()).await;
            }
            Some((Ok::<_, std::io::Error>(sent), (bucket, rest)))
        }))
    }
}

/// So much of what a link did not carry it may still carry: timers are late, which must not make it narrower.
const SLACK: Duration = Duration::from_millis(20);

/// What all replies together pass at a limited rate.
struct Link {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Link {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    async fn pass(&self, bytes: usize) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let passed = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let idle_since = Instant::now().checked_sub(SLACK).unwrap_or(*free_at);
            *free_at = (*free_at).max(idle_since) + takes;
            *free_at
        };
        tokio::time::sleep_until(passed).await;
    }
}

/// The first byte and the end of `bytes=1-2`, `bytes=1-` and `bytes=-2`.
fn part(range: &str, len: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => Some((first, last.saturating_add(1).min(len))),
        (Ok(first), Err(_)) => Some((first, len)),
        (Err(_), Ok(last)) => Some((len - last.min(len), len)),
        _ => None,
    }
}

fn told_of_version(object: &Object) -> String {
    let modified = jiff::Timestamp::try_from(object.modified).unwrap_or_default();
    format!("<LastModified>{modified:.3}</LastModified><ETag>&quot;{}&quot;</ETag>", object.etag)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn xml(body: &str) -> Response {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}");
    ([(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

fn refused(status: StatusCode, code: &str) -> Response {
    (status, xml(&format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))).into_response()
}
