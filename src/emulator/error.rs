//! The errors a client sees, in the real service's words.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::profiles::Quirks;
use super::store;

/// An error reply: status and the official envelope.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    fn with(mut self, param: &str, code: &'static str) -> Self {
        self.param = Some(param.to_owned());
        self.code = Some(code);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn unknown_parameter(name: &str) -> Self {
        Self::bad_request(format!("Unknown parameter: '{name}'.")).with(name, "unknown_parameter")
    }

    pub(crate) fn missing_parameter(name: &str) -> Self {
        Self::bad_request(format!("Missing required parameter: '{name}'."))
            .with(name, "missing_required_parameter")
    }

    pub(crate) fn invalid_type(name: &str, expected: &str, got: &str) -> Self {
        Self::bad_request(format!("Invalid type for '{name}': expected {expected}, but got {got} instead."))
            .with(name, "invalid_type")
    }

    pub(crate) fn invalid_value(name: &str, got: &str, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|s| format!("'{s}'")).collect::<Vec<_>>();
        let list = match supported.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
            None => String::new(),
        };
        Self::bad_request(format!("Invalid value: '{got}'. Supported values are: {list}."))
            .with(name, "invalid_value")
    }

    pub(crate) fn invalid(name: &str, message: impl Into<String>) -> Self {
        Self::bad_request(message).with(name, "invalid_value")
    }

    /// Checks an integer against its bounds.
    pub(crate) fn check_integer(name: &str, value: i64, min: i64, max: i64) -> Result<i64, Self> {
        if value < min {
            return Err(Self::bad_request(format!(
                "Invalid '{name}': integer below minimum value. Expected a value >= {min}, but got {value} instead."
            ))
            .with(name, "integer_below_min_value"));
        }
        if value > max {
            return Err(Self::bad_request(format!(
                "Invalid '{name}': integer above maximum value. Expected a value <= {max}, but got {value} instead."
            ))
            .with(name, "integer_above_max_value"));
        }
        Ok(value)
    }

    pub(crate) fn unknown_cursor(after: &str) -> Self {
        Self::bad_request(format!("Invalid cursor. No such object: {after}")).with("after", "invalid_value")
    }

    pub(crate) fn no_api_file(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("No such File object: {id}")).param_only("id")
    }

    fn param_only(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    pub(crate) fn invalid_file() -> Self {
        Self::bad_request("You uploaded an invalid file").param_only("file")
    }

    pub(crate) fn too_large(max: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Maximum content size limit ({max}) exceeded while uploading the file."),
        )
    }

    pub(crate) fn no_key() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using \
             Bearer auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from \
             https://platform.openai.com/account/api-keys.",
        )
    }

    /// Never the key itself: replies end in logs.
    pub(crate) fn wrong_key(key: &str) -> Self {
        let tail: String = match key.char_indices().rev().nth(3) {
            Some((at, _)) if key.len() >= 20 => key[at..].to_owned(),
            _ => "****".to_owned(),
        };
        let mut error = Self::new(
            StatusCode::UNAUTHORIZED,
            format!(
                "Incorrect API key provided: sk-…{tail}. You can find your API key at \
                 https://platform.openai.com/account/api-keys."
            ),
        );
        error.code = Some("invalid_api_key");
        error
    }

    pub(crate) fn no_route(method: &str, path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("Invalid URL ({method} {path})"))
    }

    pub(crate) fn wrong_method(method: &str, path: &str) -> Self {
        let mut error =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("Not allowed to {method} on {path}."));
        error.code = Some("method_not_supported");
        error
    }

    pub(crate) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "the emulator could not serve a request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The server had an error while processing your request.")
    }

    /// What the store could not do, as the API says it.
    pub(crate) fn from_store(error: &store::Error, quirks: &Quirks) -> Self {
        match error {
            store::Error::NoContainer(id) => {
                Self::new(StatusCode::NOT_FOUND, format!("Container with id '{id}' not found."))
            }
            store::Error::Expired(_) if quirks.expired_as_400 => Self::bad_request("Container is expired"),
            store::Error::Expired(_) => Self::new(StatusCode::NOT_FOUND, "Container is expired"),
            store::Error::NoFile { container, file } => {
                Self::new(StatusCode::NOT_FOUND, format!("File {file} not found on container {container}."))
            }
            store::Error::NoApiFile(id) => Self::no_api_file(id),
            store::Error::UnknownCursor(after) => Self::unknown_cursor(after),
            store::Error::Disk { .. } => Self::internal(error),
        }
    }
}

impl ApiError {
    fn body(&self) -> Value {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        json!({ "error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        }})
    }

    /// The error as gateways tell it that have lost its status.
    pub(crate) fn as_200(&self) -> Response {
        let mut body = self.body();
        body["error"]["code"] = json!(self.status.as_str());
        Json(body).into_response()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body())).into_response()
    }
}
