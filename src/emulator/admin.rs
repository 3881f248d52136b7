//! The admin route, for tests in other languages and for demonstrations: faults, latency, the log, and the
//! model's hands.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /_admin/faults` | adds a rule, as JSON |
//! | `DELETE /_admin/faults` | takes all rules back |
//! | `PUT /_admin/latency` | `{"millis": 250}` |
//! | `GET`, `DELETE /_admin/requests` | tells or forgets the log |
//! | `POST /_admin/model-file?container=…&path=…` | the body becomes a file of the model |
//! | `POST /_admin/phantom?container=…&path=…` | a file without content |
//! | `POST /_admin/api-file?id=file-…&filename=…` | the body becomes known to the Files API |
//! | `POST /_admin/expire?container=…` | the container expires now |
//! | `POST /_admin/clock?millis=…` | the clock goes ahead |

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::ApiError;
use super::faults::FaultRule;
use super::router::App;

/// Files for the model's hands are samples.
const MAX_BODY: usize = 512 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    millis: u64,
}

pub(crate) async fn serve(app: &App, request: Request) -> Result<Response, ApiError> {
    if app.api_key.is_some() {
        app.authorize(request.headers())?;
    }
    let (parts, body) = request.into_parts();
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query: HashMap<String, String> = query.into_owned().collect();
    let given = |name: &str| query.get(name).cloned().ok_or_else(|| ApiError::missing_parameter(name));
    let path = parts.uri.path();
    let reply = match (&parts.method, path.trim_start_matches("/_admin/")) {
        (&Method::POST, "faults") => {
            app.faults.inject(json_body::<FaultRule>(body).await?);
            json!({ "ok": true })
        }
        (&Method::DELETE, "faults") => {
            app.faults.clear();
            json!({ "ok": true })
        }
        (&Method::PUT, "latency") => {
            let latency = Duration::from_millis(json_body::<Latency>(body).await?.millis);
            *app.latency.lock().unwrap_or_else(PoisonError::into_inner) = latency;
            json!({ "ok": true })
        }
        (&Method::GET, "requests") => requests(app),
        (&Method::DELETE, "requests") => {
            app.log.forget();
            json!({ "ok": true })
        }
        (&Method::POST, "model-file") => {
            let (container, path, bytes) = (given("container")?, given("path")?, whole(body).await?);
            live(app, &container)?;
            json!({ "id": app.store.put_model_file(&container, &path, &bytes) })
        }
        (&Method::POST, "phantom") => {
            let (container, path) = (given("container")?, given("path")?);
            live(app, &container)?;
            json!({ "id": app.store.put_phantom(&container, &path) })
        }
        (&Method::POST, "api-file") => {
            let (id, filename, bytes) = (given("id")?, given("filename")?, whole(body).await?);
            app.store.register_api_file(&id, &filename, &bytes);
            json!({ "id": id })
        }
        (&Method::POST, "expire") => {
            let container = given("container")?;
            live(app, &container)?;
            app.store.expire_container(&container);
            json!({ "ok": true })
        }
        (&Method::POST, "clock") => {
            let millis = given("millis")?;
            let millis =
                millis.parse().map_err(|_| ApiError::invalid_type("millis", "an integer", "a string"))?;
            app.store.advance_clock(Duration::from_millis(millis));
            json!({ "ok": true })
        }
        (method, _) => return Err(ApiError::no_route(method.as_str(), path)),
    };
    Ok(Json(reply).into_response())
}

fn requests(app: &App) -> Value {
    let told = |entry: super::requests::Logged| {
        json!({
            "method": entry.method, "path": entry.path, "query": entry.query, "status": entry.status,
            "kind": entry.kind, "at_ms": entry.at.saturating_duration_since(app.started).as_millis() as u64,
        })
    };
    json!({ "data": app.log.all().into_iter().map(told).collect::<Vec<_>>() })
}

fn live(app: &App, container: &str) -> Result<(), ApiError> {
    app.store.retrieve_container(container).map(drop).map_err(|error| app.refuse(&error))
}

async fn whole(body: Body) -> Result<axum::body::Bytes, ApiError> {
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| ApiError::bad_request(error.to_string()))
}

async fn json_body<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    serde_json::from_slice(&whole(body).await?).map_err(|error| ApiError::bad_request(error.to_string()))
}
