//! Sends requests: limits, deadlines and repetitions, the same for every operation.
//!
//! Metadata calls have one deadline for all attempts. A transfer may take as long as it likes while at least
//! 1 KiB/s moves. Waiting for a connection of one's own counts for neither.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span};
use url::Url;

use crate::api::budget;
use crate::api::client::ClientConfig;
use crate::api::content::Part;
use crate::api::error::{Error, ErrorKind, Result, request_id};
use crate::api::gate::{Gate, Permit};
use crate::api::pace::Progress;
use crate::api::pool::{Pool, is_refused};
use crate::api::priority::{self, Priority, Urgency};
use crate::api::queues::{Queues, queues};
use crate::api::redact::Redactor;
use crate::api::reply::{Answer, check_content, error_body};
use crate::api::retry;
use crate::api::stats::Counters;
use crate::api::upload::{Form, UploadBody};

/// The longest wait for an error's body: its status has been told.
const ERROR_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether an upload still moves.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Metadata calls that may be under way beside the transfers.
const METADATA_AT_ONCE: usize = 16;

/// What is sent.
pub(super) enum Payload {
    Nothing,
    Json(Bytes),
    File {
        filename: String,
        body: UploadBody,
        /// Counts the bytes of the present attempt, the form around them included, for whoever shows
        /// progress.
        sent: Arc<AtomicU64>,
    },
}

/// One call of an operation.
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) payload: Payload,
}

impl Call {
    /// Whether it makes something, so that sending it twice may make two.
    pub(super) fn posts(&self) -> bool {
        self.method == Method::POST
    }

    fn is_content(&self) -> bool {
        self.operation == "content"
    }

    /// Bytes of content that it sends.
    fn length(&self) -> u64 {
        match &self.payload {
            Payload::File { body, .. } => body.len(),
            Payload::Nothing | Payload::Json(_) => 0,
        }
    }
}

/// A reply whose body has not been read, with the right to go on using its connection.
pub(super) struct Reply {
    pub(super) response: Response,
    pub(super) permit: Permit,
}

/// Requests a minute, most urgent first: only one at a time waits for the next that is allowed.
struct Limiter {
    requests: DefaultDirectRateLimiter,
    next: Arc<Gate>,
}

impl Limiter {
    fn new(most: std::num::NonZeroU32) -> Self {
        let burst = std::num::NonZeroU32::new(most.get().div_ceil(10)).unwrap_or(most);
        let requests = RateLimiter::direct(Quota::per_minute(most).allow_burst(burst));
        Self { requests, next: Gate::new(1) }
    }

    async fn allowed(&self, priority: &Priority) {
        let _next = self.next.acquire(priority).await;
        self.requests.until_ready().await;
    }
}

pub(super) struct Transport {
    pub(super) pool: Pool,
    timeout: Duration,
    metadata: Arc<Gate>,
    transfers: Arc<Gate>,
    limiter: Option<Limiter>,
    pub(super) counters: Counters,
    pub(super) redactor: Redactor,
    /// The `Date` of the last reply, and when it came.
    date: Mutex<Option<(HeaderValue, SystemTime)>>,
    /// The port that the last reply came from.
    port: AtomicU16,
}

impl Transport {
    pub(super) fn new(pool: Pool, config: &ClientConfig) -> Self {
        let limiter = config.max_requests_per_minute.and_then(std::num::NonZeroU32::new).map(Limiter::new);
        Self {
            pool,
            timeout: config.timeout,
            metadata: Gate::new(config.max_connections.max(METADATA_AT_ONCE)),
            transfers: Gate::new(config.max_connections),
            limiter,
            counters: Counters::default(),
            redactor: Redactor::new(config),
            date: Mutex::new(None),
            port: AtomicU16::new(0),
        }
    }

    /// The server's clock and ours, at the last reply.
    pub(super) fn clocks(&self) -> Option<(SystemTime, SystemTime)> {
        let last = self.date.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (date, at) = last?;
        Some((httpdate::parse_http_date(date.to_str().ok()?).ok()?, at))
    }

    /// When the server has had enough, the last time.
    pub(super) fn limited_at(&self) -> Option<Instant> {
        self.transfers.limited_at()
    }

    /// Transfers that may be under way, and those that are.
    pub(super) fn load(&self) -> (usize, usize) {
        self.transfers.load()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a call and reads its whole reply, which is JSON or nothing.
    pub(super) async fn call(&self, call: &Call) -> Result<Answer> {
        let transfer = matches!(call.payload, Payload::File { .. });
        let priority = Priority::new(priority::current());
        let _permit = self.turn(if transfer { &self.transfers } else { &self.metadata }, &priority).await;
        let begun = Instant::now();
        let deadline = budget::deadline(self.timeout);
        let outcome =
            self.repeated(call, deadline, &priority, |moved| self.call_once(call, deadline, moved)).await;
        if outcome.is_ok() {
            budget::give_back(begun.elapsed());
        }
        outcome
    }

    async fn call_once(
        &self,
        call: &Call,
        deadline: Instant,
        moved: Option<Arc<AtomicU64>>,
    ) -> Result<Answer> {
        let whole = async {
            let response = self.send(call, &Part::Whole, deadline, moved.clone()).await?;
            Answer::read(call, response, &self.redactor).await
        };
        match &moved {
            Some(moved) => self.while_it_moves(deadline, call, whole, moved).await,
            None => self.until(deadline, call, whole).await,
        }
    }

    /// Sends a call whose reply is a file, or a part of it. A reply that stays away within the deadline is an
    /// error; how long the body takes is the reader's business. What is fetched ahead ends with a 429, and so
    /// does what waits for its turn meanwhile.
    pub(super) async fn open(&self, call: &Call, part: &Part, priority: &Priority) -> Result<Reply> {
        let asked = Instant::now();
        let permit = self.turn(&self.transfers, priority).await;
        if priority.urgency() == Urgency::Ahead && self.limited_at().is_some_and(|at| at >= asked) {
            let message = "the server has had enough, and nobody waits for this";
            return Err(Error::new(ErrorKind::RateLimited, call.operation, message));
        }
        let begun = Instant::now();
        let deadline = budget::deadline(self.timeout);
        let once = |_| {
            self.until(deadline, call, async {
                let response = self.send(call, part, deadline, None).await?;
                check_content(call, part, &response, &self.redactor)?;
                Ok(response)
            })
        };
        let response = self.repeated(call, deadline, priority, once).await?;
        budget::give_back(begun.elapsed());
        Ok(Reply { response, permit })
    }

    /// Waits for a connection and for the rate limit; no deadline runs meanwhile.
    async fn turn(&self, connections: &Arc<Gate>, priority: &Priority) -> Permit {
        budget::free(async {
            let permit = connections.acquire(priority).await;
            if let Some(limiter) = &self.limiter {
                limiter.allowed(priority).await;
            }
            permit
        })
        .await
    }

    async fn repeated<T, Attempt>(
        &self,
        call: &Call,
        deadline: Instant,
        priority: &Priority,
        attempt: impl Fn(Option<Arc<AtomicU64>>) -> Attempt,
    ) -> Result<T>
    where
        Attempt: Future<Output = Result<T>>,
    {
        let transfer = matches!(call.payload, Payload::File { .. });
        if deadline <= Instant::now() {
            let message = "the time of this call was used up by requests that came to nothing";
            return Err(Error::new(ErrorKind::Timeout, call.operation, message));
        }
        let mut waited = Duration::ZERO;
        for attempts in 0.. {
            let begun = Instant::now();
            let span = tracing::debug_span!(
                "request",
                operation = call.operation,
                attempts,
                id = tracing::field::Empty
            );
            let connections = self.pool.number();
            let outcome = attempt(transfer.then(Arc::default)).instrument(span.clone()).await;
            let took = begun.elapsed();
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            self.counters.answered(call.operation, took, outcome.is_err());
            let error = match outcome {
                Ok(done) => {
                    let gate = if transfer || call.is_content() { &self.transfers } else { &self.metadata };
                    // How long an upload takes says how large it is.
                    gate.answered(call.is_content().then_some(took));
                    span.in_scope(|| tracing::debug!(ms, "answered"));
                    return Ok(done);
                }
                Err(error) => error,
            };
            span.in_scope(|| tracing::debug!(ms, %error, "failed"));
            if error.kind == ErrorKind::Timeout {
                self.pool.leave(connections);
            }
            if error.kind == ErrorKind::RateLimited {
                // Limits are an organisation's (API.md "Limits"), whatever was asked.
                [&self.transfers, &self.metadata].iter().for_each(|gate| gate.rate_limited());
            }
            let wait = wait_after(&error, attempts);
            waited += wait;
            // A transfer's own time is not counted: it was moving.
            let in_time = if transfer { waited < self.timeout } else { Instant::now() + wait < deadline };
            // It would keep its connection while it waits, from programs that wait for theirs.
            let stops = error.kind == ErrorKind::RateLimited
                && call.is_content()
                && priority.urgency() == Urgency::Ahead;
            // What may have happened is first looked for, by who knows where.
            let may_repeat = error.retry && !error.may_have_happened && attempts < retry::RETRIES;
            if !may_repeat || !in_time || stops {
                return Err(error);
            }
            self.counters.repeated();
            tokio::time::sleep(wait).await;
            if let Some(limiter) = &self.limiter {
                limiter.allowed(priority).await;
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Waits until a POST that is in doubt may be looked for and sent once more. False if it may not be sent, or not
    /// in time.
    pub(super) async fn wait_to_repeat(&self, error: &Error) -> bool {
        let wait = wait_after(error, 0);
        let in_time = Instant::now() + wait < budget::deadline(self.timeout);
        if !error.is_in_doubt() || !error.retry || !in_time {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }

    async fn send(
        &self,
        call: &Call,
        part: &Part,
        deadline: Instant,
        moved: Option<Arc<AtomicU64>>,
    ) -> Result<Response> {
        let moved_on = moved.is_some();
        let mut request = self.pool.client().request(call.method.clone(), call.url.clone());
        request = match &call.payload {
            Payload::Nothing => request,
            Payload::Json(json) => request.header(CONTENT_TYPE, "application/json").body(json.clone()),
            Payload::File { filename, body, sent } => {
                sent.store(0, Ordering::Relaxed);
                let form = Form::new(filename, body.len());
                let moved = moved.unwrap_or_default();
                request
                    .header(CONTENT_TYPE, &form.content_type)
                    .header(CONTENT_LENGTH, form.length)
                    .body(form.body(body, moved, sent.clone()))
            }
        };
        request = if call.is_content() {
            request.header(ACCEPT, "application/binary")
        } else {
            request.header(ACCEPT, "application/json")
        };
        if let Some(range) = part.to_header() {
            request = request.header(RANGE, range);
        }
        let response = request.send().await.map_err(|error| broken(call, &error))?;
        if let Some(from) = response.remote_addr() {
            self.port.store(from.port(), Ordering::Relaxed);
        }
        if let Some(date) = response.headers().get(DATE) {
            let now = SystemTime::now();
            *self.date.lock().unwrap_or_else(PoisonError::into_inner) = Some((date.clone(), now));
        }
        if let span = Span::current()
            && !span.is_disabled()
        {
            span.record("id", request_id(response.headers(), &self.redactor));
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() || status == StatusCode::SWITCHING_PROTOCOLS {
            let message = "the server answered with a redirect, which is not followed: check the base URL";
            // Others than these may send a POST on to what it has made.
            let undone = matches!(
                status,
                StatusCode::SWITCHING_PROTOCOLS
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            let error = Error::new(ErrorKind::Protocol, call.operation, message)
                .maybe_happened(call.posts() && !undone)
                .with_id(request_id(response.headers(), &self.redactor));
            return Err(error);
        }
        let headers = response.headers().clone();
        // An upload has moved: its first deadline may be over.
        let left = match moved_on {
            true => self.timeout,
            false => deadline.saturating_duration_since(Instant::now()),
        };
        let (body, cut) = error_body(response, ERROR_PATIENCE.min(left / 2)).await;
        Err(Error::of_reply(call, status, &headers, (&body, cut), &self.redactor))
    }

    async fn until<T>(
        &self,
        deadline: Instant,
        call: &Call,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match timeout_at(deadline, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(late(call)),
        }
    }

    /// Waits while bytes are handed over or leave. After the last one as long as the buffers on the way may
    /// take for the rest, and one window.
    async fn while_it_moves<T>(
        &self,
        deadline: Instant,
        call: &Call,
        work: impl Future<Output = Result<T>>,
        moved: &AtomicU64,
    ) -> Result<T> {
        let mut work = std::pin::pin!(work);
        let begun = Instant::now();
        let mut progress = Progress::new(begun, deadline, call.length());
        loop {
            let look = progress.deadline().min(Instant::now() + LOOK_AGAIN);
            if let Ok(outcome) = timeout_at(look, &mut work).await {
                self.counters.sent(moved.load(Ordering::Relaxed));
                budget::give_back(progress.last() - begun);
                return outcome;
            }
            let (sent, now) = (moved.load(Ordering::Relaxed), Instant::now());
            if progress.handed_over(now, sent) {
                continue;
            }
            progress.left(now, &self.queues(call).await, self.load().1);
            if now >= progress.deadline() {
                return Err(late(call));
            }
        }
    }

    /// What the kernel holds for the server.
    async fn queues(&self, call: &Call) -> Queues {
        // A proxy has a port of its own.
        let ports = [call.url.port_or_known_default().unwrap_or(0), self.port.load(Ordering::Relaxed)];
        tokio::task::spawn_blocking(move || queues(&ports)).await.unwrap_or_default()
    }
}

/// How long to wait before the repetition number `attempts`, from 0.
fn wait_after(error: &Error, attempts: u32) -> Duration {
    error.wait.unwrap_or_else(|| retry::backoff(attempts, rand::random()))
}

fn late(call: &Call) -> Error {
    let error = Error::new(ErrorKind::Timeout, call.operation, "the server did not answer in time");
    error.maybe_happened(call.posts())
}

/// A request that got no whole reply.
fn broken(call: &Call, error: &reqwest::Error) -> Error {
    let cause = innermost(error);
    if error.is_connect() {
        return Error::new(ErrorKind::Unreachable, call.operation, format!("cannot connect: {cause}"))
            .retrying(true);
    }
    if error.is_builder() {
        return Error::new(ErrorKind::Config, call.operation, cause);
    }
    if is_refused(error) {
        let message = format!("the server took no request any more: {cause}");
        return Error::new(ErrorKind::CutBody, call.operation, message).retrying(true);
    }
    let (kind, message) = if is_garbled(error) {
        (ErrorKind::Protocol, format!("the reply is not HTTP ({cause}): check the base URL"))
    } else {
        let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::CutBody };
        (kind, format!("the connection broke: {cause}"))
    };
    let retries = !call.posts() || kind != ErrorKind::Protocol;
    Error::new(kind, call.operation, message).retrying(retries).maybe_happened(call.posts())
}

/// Whether something came that is no HTTP. It may be the rest of an earlier reply.
fn is_garbled(error: &reqwest::Error) -> bool {
    let mut at: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_parse();
        }
        at = error.source();
    }
    false
}

/// The root of an error: the layers above it repeat the URL, whose ids belong in no message.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// Headers that go with every request.
pub(super) fn constant_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("accept-encoding", "identity".parse().expect("a plain word is a header value"));
    headers
}
