//! The nine operations.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use url::{Host, Url};

pub use crate::api::content::{Content, Part};
use crate::api::error::{Error, ErrorKind, Result};
use crate::api::model::{
    Container, ContainerId, CreateContainer, Deleted, Deletion, File, FileId, ListParams, Page,
};
use crate::api::paging::{self, Cursors, List};
use crate::api::pool::Pool;
use crate::api::priority::{self, Priority};
use crate::api::raw::Raw;
use crate::api::redact::Redactor;
use crate::api::stats::{Connections, Stats};
use crate::api::told::Told;
use crate::api::transport::{Call, Payload, Transport, constant_headers, innermost};
pub use crate::api::upload::UploadBody;

/// The real service (API.md "Wire").
pub const OPENAI: &str = "https://api.openai.com/v1";

/// Bytes of an id that stay as they are in a URL. A dot does not: no id may climb.
const ID: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// The longest time that a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where and as whom to call.
#[derive(Clone)]
pub struct ClientConfig {
    /// Up to and including `/v1`.
    pub base_url: String,
    /// The bearer key.
    pub api_key: Option<SecretString>,
    /// `OpenAI-Organization`.
    pub organization: Option<String>,
    /// `OpenAI-Project`.
    pub project: Option<String>,
    /// Further headers, as name and value.
    pub custom_headers: Vec<(String, String)>,
    /// The longest wait for an answer, repetitions included.
    pub timeout: Duration,
    /// Transfers at once.
    pub max_connections: usize,
    /// Requests a minute, if they are to be limited here.
    pub max_requests_per_minute: Option<u32>,
    /// Allow `http://` to hosts other than this one.
    pub insecure_http: bool,
}

impl fmt::Debug for ClientConfig {
    /// Without what may be secret: the key, the values of headers, and what a URL says before its host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.custom_headers.iter().map(|(name, _)| name.as_str()).collect();
        let host = self.base_url.rsplit('@').next().unwrap_or_default();
        f.debug_struct("ClientConfig")
            .field("base_url", &host)
            .field("api_key", &self.api_key)
            .field("organization", &self.organization)
            .field("project", &self.project)
            .field("custom_headers", &names)
            .field("timeout", &self.timeout)
            .field("max_connections", &self.max_connections)
            .field("max_requests_per_minute", &self.max_requests_per_minute)
            .field("insecure_http", &self.insecure_http)
            .finish()
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            base_url: OPENAI.to_owned(),
            api_key: None,
            organization: None,
            project: None,
            custom_headers: Vec::new(),
            timeout: Duration::from_secs(30),
            max_connections: 32,
            max_requests_per_minute: None,
            insecure_http: false,
        }
    }
}

impl ClientConfig {
    /// Reads `Name: value` lines, as `OPENAI_CUSTOM_HEADERS` holds them.
    pub fn parse_custom_headers(lines: &str) -> Vec<(String, String)> {
        let pairs = lines.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
    }
}

/// A client; clones share its connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    base: Url,
    base_text: String,
    account: String,
    transport: Transport,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base_url", &self.0.base_text).finish_non_exhaustive()
    }
}

impl Client {
    /// A client for `config`; makes no request.
    ///
    /// # Errors
    /// `Config`: a base URL that is none or would carry the key in the clear, or a header that is none.
    pub fn new(config: &ClientConfig) -> Result<Self> {
        let (base, loopback) = base_url(&config.base_url, config.insecure_http)?;
        let (headers, connect_timeout) = (headers(config)?, config.timeout.min(CONNECT_MAX));
        let idle = config.max_connections.max(1);
        let settings = move || {
            let settings = reqwest::Client::builder()
                .user_agent(concat!("containerfs/", env!("CARGO_PKG_VERSION")))
                .default_headers(headers.clone())
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(connect_timeout)
                .pool_max_idle_per_host(idle)
                .tcp_nodelay(true);
            if loopback { settings.no_proxy() } else { settings }
        };
        let pool = Pool::new(settings).map_err(|error| wrong(innermost(&error)))?;
        let transport = Transport::new(pool, config);
        let base_text = base.as_str().trim_end_matches('/').to_owned();
        let mut digest = Sha256::new();
        for part in [Some(&base_text), config.organization.as_ref(), config.project.as_ref()] {
            digest.update(part.map_or("", |part| part.as_str()));
            digest.update([0]);
        }
        let account = hex::encode(digest.finalize());
        Ok(Self(Arc::new(Inner { base, base_text, account, transport })))
    }

    /// The base URL, without a slash at its end.
    pub fn base_url(&self) -> &str {
        &self.0.base_text
    }

    /// What state and cache belong to: SHA-256, in hex, of base URL, organisation and project.
    pub fn account(&self) -> &str {
        &self.0.account
    }

    /// The same client with replies as they came.
    pub fn raw(&self) -> Raw<'_> {
        Raw(self)
    }

    /// What was asked of the server so far.
    pub fn stats(&self) -> Stats {
        let (most, in_use) = self.0.transport.load();
        Stats { connections: Connections { most, in_use }, ..self.0.transport.counters.snapshot() }
    }

    /// When the server has had enough, the last time (429).
    pub fn limited_at(&self) -> Option<Instant> {
        self.0.transport.limited_at().map(tokio::time::Instant::into_std)
    }

    /// What the server's clock showed in its last reply, and what ours showed then. A `Date` has whole
    /// seconds.
    pub fn clocks(&self) -> Option<(SystemTime, SystemTime)> {
        self.0.transport.clocks()
    }

    /// One page of the containers.
    ///
    /// # Errors
    /// The server's.
    pub async fn list_containers(&self, params: &ListParams) -> Result<Page<Container>> {
        let url = self.url("list containers", &["containers"], params)?;
        self.get("list containers", url).await
    }

    /// Waits until a POST that is in doubt may be looked for and sent once more. False if it may not be sent, or not
    /// in time.
    pub async fn wait_to_repeat(&self, error: &Error) -> bool {
        self.0.transport.wait_to_repeat(error).await
    }

    /// A POST that was looked for in vain is sent once more.
    pub fn count_repetition(&self) {
        self.0.transport.counters.repeated();
    }

    /// Makes a container.
    ///
    /// # Errors
    /// The server's; `may_have_happened` tells whether it may be there all the same.
    pub async fn create_container(&self, params: &CreateContainer) -> Result<Container> {
        let operation = "create container";
        let json =
            serde_json::to_vec(params).map_err(|error| Error::new(ErrorKind::Config, operation, error))?;
        let url = self.url(operation, &["containers"], &())?;
        self.json(Call { operation, method: Method::POST, url, payload: Payload::Json(json.into()) }).await
    }

    /// One container.
    ///
    /// # Errors
    /// The server's; `ContainerGone` if it is unknown or has expired.
    pub async fn retrieve_container(&self, container: &ContainerId) -> Result<Container> {
        let url = self.url("retrieve container", &["containers", container.as_str()], &())?;
        self.get("retrieve container", url).await
    }

    /// Deletes a container.
    ///
    /// # Errors
    /// The server's.
    pub async fn delete_container(&self, container: &ContainerId) -> Result<Deleted> {
        let url = self.url("delete container", &["containers", container.as_str()], &())?;
        self.delete("delete container", url).await
    }

    /// One page of a container's files.
    ///
    /// # Errors
    /// The server's.
    pub async fn list_files(&self, container: &ContainerId, params: &ListParams) -> Result<Page<File>> {
        let url = self.url("list files", &["containers", container.as_str(), "files"], params)?;
        self.get("list files", url).await
    }

    /// Uploads a file.
    ///
    /// # Errors
    /// The server's; `may_have_happened` tells whether it may be there all the same.
    pub async fn upload(&self, container: &ContainerId, filename: &str, body: UploadBody) -> Result<File> {
        self.upload_watched(container, filename, body, Arc::default()).await
    }

    /// Uploads a file; `sent` tells how many bytes of the present attempt have gone out, a few hundred of the
    /// form around the file included.
    ///
    /// # Errors
    /// The server's; `may_have_happened` tells whether it may be there all the same.
    pub async fn upload_watched(
        &self,
        container: &ContainerId,
        filename: &str,
        body: UploadBody,
        sent: Arc<AtomicU64>,
    ) -> Result<File> {
        self.json(self.upload_call(container, filename, body, sent)?).await
    }

    pub(super) fn upload_call(
        &self,
        container: &ContainerId,
        filename: &str,
        body: UploadBody,
        sent: Arc<AtomicU64>,
    ) -> Result<Call> {
        let url = self.url("upload", &["containers", container.as_str(), "files"], &())?;
        let payload = Payload::File { filename: filename.to_owned(), body, sent };
        Ok(Call { operation: "upload", method: Method::POST, url, payload })
    }

    /// Attaches a file of the Files API.
    ///
    /// # Errors
    /// The server's.
    pub async fn attach(&self, container: &ContainerId, file_id: &str) -> Result<File> {
        self.json(self.attach_call(container, file_id)?).await
    }

    pub(super) fn attach_call(&self, container: &ContainerId, file_id: &str) -> Result<Call> {
        let url = self.url("attach", &["containers", container.as_str(), "files"], &())?;
        let json = serde_json::json!({ "file_id": file_id }).to_string();
        Ok(Call { operation: "attach", method: Method::POST, url, payload: Payload::Json(json.into()) })
    }

    /// One file.
    ///
    /// # Errors
    /// The server's; `FileNotFound` if it is unknown.
    pub async fn retrieve_file(&self, container: &ContainerId, file: &FileId) -> Result<File> {
        let url =
            self.url("retrieve file", &["containers", container.as_str(), "files", file.as_str()], &())?;
        self.get("retrieve file", url).await
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// The server's; `FileNotFound` if it is gone already.
    pub async fn delete_file(&self, container: &ContainerId, file: &FileId) -> Result<Deleted> {
        let url =
            self.url("delete file", &["containers", container.as_str(), "files", file.as_str()], &())?;
        self.delete("delete file", url).await
    }

    /// The content of a file, or a part of it where the server takes ranges.
    ///
    /// # Errors
    /// The server's, before the first byte.
    pub async fn content(&self, container: &ContainerId, file: &FileId, part: &Part) -> Result<Content> {
        self.content_for(container, file, part, &Priority::new(priority::current())).await
    }

    /// The same, with an urgency that may rise.
    ///
    /// # Errors
    /// The server's, before the first byte.
    pub async fn content_for(
        &self,
        container: &ContainerId,
        file: &FileId,
        part: &Part,
        priority: &Priority,
    ) -> Result<Content> {
        let parts = ["containers", container.as_str(), "files", file.as_str(), "content"];
        let url = self.url("content", &parts, &())?;
        let call = Call { operation: "content", method: Method::GET, url, payload: Payload::Nothing };
        let reply = self.0.transport.open(&call, part, priority).await?;
        Ok(Content::new(self.clone(), self.0.transport.timeout(), reply))
    }

    /// Every container, newest first. A list of at most a hundred is one request.
    ///
    /// # Errors
    /// The server's.
    pub async fn all_containers(&self) -> Result<Vec<Container>> {
        Ok(self.live_containers(&mut Cursors::default()).await?.items)
    }

    /// Every container that may be live, newest first; `cursors` are those of the last such list. Of the
    /// others only some are told: what has expired stays expired.
    ///
    /// # Errors
    /// The server's.
    pub async fn live_containers(&self, cursors: &mut Cursors) -> Result<List<Container>> {
        let list = |params: ListParams| async move { self.list_containers(&params).await };
        paging::walk("list containers", cursors, list).await
    }

    /// Every file of a container, newest first; `cursors` are those of the last such list, or none. A list of
    /// at most a hundred is one request.
    ///
    /// # Errors
    /// The server's.
    pub async fn all_files(&self, container: &ContainerId, cursors: &mut Cursors) -> Result<List<File>> {
        let list = |params: ListParams| async move { self.list_files(container, &params).await };
        paging::walk("list files", cursors, list).await
    }

    pub(super) fn redactor(&self) -> &Redactor {
        &self.0.transport.redactor
    }

    /// Which connections requests go over.
    pub(super) fn connections(&self) -> u64 {
        self.0.transport.pool.number()
    }

    /// Nothing comes over those any more.
    pub(super) fn leave_connections(&self, number: u64) {
        self.0.transport.pool.leave(number);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.0.transport.counters.received(bytes);
    }

    async fn get<T: DeserializeOwned>(&self, operation: &'static str, url: Url) -> Result<T> {
        self.json(Call { operation, method: Method::GET, url, payload: Payload::Nothing }).await
    }

    async fn delete(&self, operation: &'static str, url: Url) -> Result<Deleted> {
        // Other servers answer a delete with nothing, or with something else.
        Ok(serde_json::from_slice(&self.delete_body(operation, url).await?).unwrap_or_default())
    }

    /// The body of the reply to a DELETE, which need not be JSON.
    pub(super) async fn delete_body(&self, operation: &'static str, url: Url) -> Result<Bytes> {
        let call = Call { operation, method: Method::DELETE, url, payload: Payload::Nothing };
        let answer = self.0.transport.call(&call).await?;
        if let Some(error) = self.told_in(&call, &answer.body, answer.id.as_ref()) {
            return Err(error);
        }
        // Other servers answer a delete with nothing (API.md "Wire"). A page that a proxy puts in between
        // says nothing of the file, which would be taken for deleted.
        let nothing = matches!(answer.body.trim_ascii(), b"" | b"{}" | b"null");
        if nothing || serde_json::from_slice::<Deletion>(&answer.body).is_ok_and(|reply| reply.says_so()) {
            return Ok(answer.body);
        }
        Err(answer.not_the_apis(&call, "it does not say that it is deleted"))
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.0.transport.timeout()
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.json_of(&call).await.map(|(reply, _)| reply)
    }

    /// The reply, and the server's id of the request.
    pub(super) async fn json_of<T: DeserializeOwned>(&self, call: &Call) -> Result<(T, Option<String>)> {
        let answer = self.0.transport.call(call).await?;
        // A name that is no UTF-8 makes no reply unreadable.
        match serde_json::from_str(&String::from_utf8_lossy(&answer.body)) {
            Ok(reply) => Ok((reply, answer.id)),
            Err(error) => Err(self
                .told_in(call, &answer.body, answer.id.as_ref())
                .unwrap_or_else(|| answer.not_the_apis(call, &self.redactor().text(&error.to_string())))),
        }
    }

    /// The error that the body of a 2xx tells (API.md "Wire"), if it does.
    pub(super) fn told_in(&self, call: &Call, body: &[u8], id: Option<&String>) -> Option<Error> {
        let told = Told::parse(body, self.redactor());
        let error = told.is_api.then(|| told.into_error(call.operation).with_id(id.cloned()))?;
        let maybe = call.posts()
            && matches!(
                error.kind,
                ErrorKind::Protocol | ErrorKind::Server | ErrorKind::Timeout | ErrorKind::Conflict
            );
        Some(error.maybe_happened(maybe))
    }

    pub(super) fn url(&self, operation: &'static str, parts: &[&str], query: &impl Serialize) -> Result<Url> {
        let mut url = self.0.base.clone();
        let mut path = url.path().trim_end_matches('/').to_owned();
        for part in parts {
            if matches!(*part, "" | "." | "..") {
                return Err(Error::new(ErrorKind::Config, operation, format!("{part:?} is no id")));
            }
            path.push('/');
            path.extend(utf8_percent_encode(part, ID));
        }
        url.set_path(&path);
        let query = serde_json::to_value(query).unwrap_or_default();
        let pairs = query.as_object().into_iter().flatten();
        let mut pairs = pairs.filter(|(_, value)| !value.is_null()).peekable();
        if pairs.peek().is_some() {
            let mut target = url.query_pairs_mut();
            for (name, value) in pairs {
                target.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
        }
        Ok(url)
    }
}

fn wrong(message: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, "settings", message)
}

/// Parses a base URL; also tells whether it is on this machine.
fn base_url(text: &str, insecure_http: bool) -> Result<(Url, bool)> {
    let url = Url::parse(text.trim()).map_err(|error| {
        wrong(format!(
            "the base URL {text:?} is not a URL ({error}): write it like https://api.openai.com/v1"
        ))
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("the base URL must not hold a user name or password"));
    }
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    };
    match url.scheme() {
        "https" => Ok((url, loopback)),
        "http" if loopback || insecure_http => Ok((url, loopback)),
        "http" => Err(wrong(format!(
            "{text:?} would send the key in the clear: use https, or --insecure-http if you mean it"
        ))),
        other => Err(wrong(format!("the base URL begins with {other}: and not with https:"))),
    }
}

fn headers(config: &ClientConfig) -> Result<HeaderMap> {
    let mut headers = constant_headers();
    let value = |name: &str, text: &str| {
        HeaderValue::from_str(text)
            .map_err(|_| wrong(format!("the value of {name} cannot be sent in a header")))
    };
    for (name, text) in [("OpenAI-Organization", &config.organization), ("OpenAI-Project", &config.project)] {
        if let Some(text) = text {
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(wrong)?;
            headers.insert(header, value(name, text)?);
        }
    }
    for (name, text) in &config.custom_headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong(format!("{name:?} is not the name of a header")))?;
        let mut value = value(name, text)?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    if let Some(key) = &config.api_key {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
            .map_err(|_| wrong("the API key holds characters that no key has"))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(headers)
}
