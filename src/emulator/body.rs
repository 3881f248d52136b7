//! Reading request bodies.

use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::error::ApiError;

/// JSON larger than this is no parameter list; inline skills are the largest part of one.
const MAX_JSON: usize = 32 * 1024 * 1024;

/// Reads a body to its end and forgets it, so that a client that is still sending sees the reply, not a
/// reset.
pub(crate) async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    while let Some(Ok(_)) = chunks.next().await {}
}

/// Reads a JSON object.
pub(crate) async fn json_object(body: Body) -> Result<Map<String, Value>, ApiError> {
    let bytes: Bytes = axum::body::to_bytes(body, MAX_JSON)
        .await
        .map_err(|_| ApiError::bad_request("We could not read the body of your request."))?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::bad_request("The body of your request must be a JSON object.")),
        Err(_) => Err(ApiError::bad_request(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP \
             library correctly. The API expects a JSON payload.)",
        )),
    }
}
