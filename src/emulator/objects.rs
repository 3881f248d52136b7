//! Stored records as replies.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::profiles::Quirks;
use super::store::{StoredContainer, StoredFile};

pub(crate) fn container(container: &StoredContainer, quirks: &Quirks) -> Value {
    let mut object = json!({
        "id": container.id,
        "object": "container",
        "created_at": container.created_at,
        "status": if quirks.active_status && !container.is_expired() { "active" } else { &container.status },
        "expires_after": { "anchor": "last_active_at", "minutes": container.minutes },
        "last_active_at": container.last_active_at,
        "memory_limit": container.memory_limit,
        "name": container.name,
        "network_policy": container.network_policy,
    });
    if quirks.sparse_containers
        && let Some(fields) = object.as_object_mut()
    {
        fields.retain(|name, _| matches!(name.as_str(), "id" | "object" | "created_at" | "status" | "name"));
    }
    add_extra_fields(&mut object, quirks);
    object
}

pub(crate) fn file(file: &StoredFile, quirks: &Quirks) -> Value {
    let unknown = file.phantom || (quirks.null_sizes && file.source == "assistant");
    let mut object = json!({
        "id": file.id,
        "object": "container.file",
        "created_at": file.created_at,
        "bytes": (!unknown).then_some(file.bytes),
        "container_id": file.container_id,
        "path": file.path,
        "source": file.source,
    });
    add_extra_fields(&mut object, quirks);
    object
}

fn add_extra_fields(object: &mut Value, quirks: &Quirks) {
    if quirks.extra_fields {
        object["x_region"] = json!("somewhere");
        object["x_metadata"] = json!({ "tags": ["a", 1, null], "nested": { "deep": true } });
    }
}

/// A list's envelope; both ids are null on an empty page.
pub(crate) fn list(data: &[Value], has_more: bool) -> Response {
    let id = |item: Option<&Value>| item.map(|item| item["id"].clone());
    let body = json!({
        "object": "list",
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": has_more,
        "data": data,
    });
    Json(body).into_response()
}

pub(crate) fn deleted(id: &str, object: &str, quirks: &Quirks) -> Response {
    if quirks.empty_delete_bodies {
        return Body::empty().into_response();
    }
    Json(json!({ "id": id, "object": object, "deleted": true })).into_response()
}
