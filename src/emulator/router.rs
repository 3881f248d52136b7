//! One request: its operation found, noted, spoiled if a rule says so, its key checked, carried out.
//!
//! Routes are matched by hand and not by a router: faults and the log must know the operation before anything
//! is done, and nine patterns are a page of code.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::body::drain;
use super::connection::Reset;
use super::error::ApiError;
use super::faults::Faults;
use super::mischief::{self, Before};
use super::profiles::Quirks;
use super::requests::{Kind, Logged, RequestLog};
use super::store::{self, Store};
use super::{admin, containers, content, files, upload};

/// Everything that requests share.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) quirks: Quirks,
    pub(crate) faults: Faults,
    pub(crate) log: RequestLog,
    pub(crate) api_key: Option<SecretString>,
    pub(crate) admin: bool,
    pub(crate) latency: Mutex<Duration>,
    pub(crate) started: Instant,
}

impl App {
    /// A store's error as this server tells it.
    pub(crate) fn refuse(&self, error: &store::Error) -> ApiError {
        ApiError::from_store(error, &self.quirks)
    }

    /// Runs what touches the disk where it may block.
    pub(crate) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|error| ApiError::internal(&error))?.map_err(|error| self.refuse(&error))
    }

    pub(crate) fn authorize(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        let key =
            given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
        match (key.filter(|key| !key.is_empty()), &self.api_key) {
            (None, _) => Err(ApiError::no_key()),
            (Some(key), Some(right)) if !same(key, right.expose_secret()) => Err(ApiError::wrong_key(key)),
            _ => Ok(()),
        }
    }

    fn latency(&self) -> Duration {
        *self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares digests, so that the time that it takes tells nothing of how much of a key was right.
fn same(key: &str, right: &str) -> bool {
    Sha256::digest(key) == Sha256::digest(right)
}

/// An operation and what it is about.
#[derive(Debug, PartialEq)]
struct Route {
    kind: Kind,
    container: String,
    file: String,
}

impl Route {
    /// The route, or the error of a wrong path or method.
    fn find(method: &Method, path: &str) -> Result<Self, ApiError> {
        let below = path.strip_prefix("/openai/v1/").or_else(|| path.strip_prefix("/v1/"));
        let parts: Vec<&str> = below.unwrap_or_default().split('/').collect();
        let operations: &[(Method, Kind)] = match parts[..] {
            ["containers"] => &[(Method::GET, Kind::ListContainers), (Method::POST, Kind::CreateContainer)],
            ["containers", _] => {
                &[(Method::GET, Kind::RetrieveContainer), (Method::DELETE, Kind::DeleteContainer)]
            }
            ["containers", _, "files"] => &[(Method::GET, Kind::ListFiles), (Method::POST, Kind::Upload)],
            ["containers", _, "files", _] => {
                &[(Method::GET, Kind::RetrieveFile), (Method::DELETE, Kind::DeleteFile)]
            }
            ["containers", _, "files", _, "content"] => &[(Method::GET, Kind::Content)],
            _ => return Err(ApiError::no_route(method.as_str(), path)),
        };
        let kind = operations.iter().find(|(its, _)| its == method).map(|(_, kind)| *kind);
        let id = |at: usize| {
            parts
                .get(at)
                .map(|id| percent_decode_str(id).decode_utf8_lossy().into_owned())
                .unwrap_or_default()
        };
        match kind {
            Some(kind) => Ok(Self { kind, container: id(1), file: id(3) }),
            None => Err(ApiError::wrong_method(method.as_str(), path)),
        }
    }
}

/// Serves one request of a connection.
pub(crate) async fn serve(app: &App, reset: &Reset, request: Request) -> Response {
    let mut response = if app.admin && request.uri().path().starts_with("/_admin/") {
        admin::serve(app, request).await.unwrap_or_else(ApiError::into_response)
    } else {
        match Route::find(request.method(), request.uri().path()) {
            Ok(route) => serve_operation(app, reset, &route, request).await,
            Err(error) => {
                drain(request.into_body()).await;
                error.into_response()
            }
        }
    };
    let id = format!("req_{}", hex::encode(rand::random::<[u8; 16]>()));
    let id = HeaderValue::try_from(id).expect("hex is a header's value");
    response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    response
}

async fn serve_operation(app: &App, reset: &Reset, route: &Route, mut request: Request) -> Response {
    let uri = request.uri();
    let whole = uri.path_and_query().map(|whole| whole.as_str().to_owned()).unwrap_or_default();
    let number = app.log.arrived(Logged {
        method: request.method().to_string(),
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        status: 0,
        kind: route.kind,
        at: Instant::now(),
    });
    let latency = app.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let response = match app.faults.pick(route.kind, &whole) {
        None => carry_out(app, route, request).await,
        Some(fault) => match mischief::before(&fault, reset, &mut request).await {
            Before::Reply(response) => {
                drain(request.into_body()).await;
                response
            }
            Before::GoOn => {
                let response = carry_out(app, route, request).await;
                mischief::after(&fault, reset, route.kind, response).await
            }
        },
    };
    app.log.answered(number, response.status().as_u16());
    response
}

async fn carry_out(app: &App, route: &Route, request: Request) -> Response {
    let response = match Box::pin(operate(app, route, request)).await {
        Ok(response) => response,
        Err(error) if app.quirks.errors_as_200 => error.as_200(),
        Err(error) => error.into_response(),
    };
    if app.quirks.chunked_json && route.kind != Kind::Content {
        let (parts, body) = response.into_parts();
        return Response::from_parts(parts, Body::from_stream(body.into_data_stream()));
    }
    response
}

async fn operate(app: &App, route: &Route, request: Request) -> Result<Response, ApiError> {
    if let Err(refused) = app.authorize(request.headers()) {
        drain(request.into_body()).await;
        return Err(refused);
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Route { kind, container, file } = route;
    match kind {
        Kind::ListContainers => containers::list(app, &query),
        Kind::CreateContainer => containers::create(app, &query, request.into_body()).await,
        Kind::RetrieveContainer => containers::retrieve(app, &query, container),
        Kind::DeleteContainer => containers::delete(app, &query, container).await,
        Kind::ListFiles => files::list(app, &query, container),
        Kind::Upload => upload::upload(app, &query, container, request).await,
        Kind::RetrieveFile => files::retrieve(app, &query, container, file),
        Kind::DeleteFile => files::delete(app, &query, container, file).await,
        Kind::Content => content::content(app, &query, request.headers(), container, file).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_found_under_both_base_paths() {
        let find = |method: Method, path: &str| Route::find(&method, path).map(|route| route.kind).ok();
        assert_eq!(find(Method::GET, "/v1/containers"), Some(Kind::ListContainers));
        assert_eq!(find(Method::POST, "/openai/v1/containers/c/files"), Some(Kind::Upload));
        assert_eq!(find(Method::GET, "/v1/containers/c/files/f/content"), Some(Kind::Content));
        assert_eq!(find(Method::PUT, "/v1/containers"), None);
        assert_eq!(find(Method::GET, "/containers"), None);
        let route = Route::find(&Method::GET, "/v1/containers/a%2Fb/files/c%20d").unwrap();
        assert_eq!((route.container.as_str(), route.file.as_str()), ("a/b", "c d"));
    }
}
