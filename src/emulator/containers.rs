//! The operations on containers, and the strict reading of a new container's parameters.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::body::json_object;
use super::error::ApiError;
use super::objects;
use super::paging::{self, ListQuery};
use super::router::App;
use super::store::NewContainer;

pub(crate) fn list(app: &App, query: &str) -> Result<Response, ApiError> {
    let query = ListQuery::parse(query, app.quirks.page_max, true)?;
    let (page, more) = app.store.list_containers(&query).map_err(|error| app.refuse(&error))?;
    let data: Vec<Value> = page.iter().map(|container| objects::container(container, &app.quirks)).collect();
    Ok(objects::list(&data, more))
}

pub(crate) async fn create(app: &App, query: &str, body: Body) -> Result<Response, ApiError> {
    let object = json_object(body).await?;
    paging::no_parameters(query)?;
    let new = read_new(&object)?;
    let container = app.with_store(move |store| store.new_container(new)).await?;
    Ok(Json(objects::container(&container, &app.quirks)).into_response())
}

pub(crate) fn retrieve(app: &App, query: &str, id: &str) -> Result<Response, ApiError> {
    paging::no_parameters(query)?;
    let container = app.store.retrieve_container(id).map_err(|error| app.refuse(&error))?;
    Ok(Json(objects::container(&container, &app.quirks)).into_response())
}

pub(crate) async fn delete(app: &App, query: &str, id: &str) -> Result<Response, ApiError> {
    paging::no_parameters(query)?;
    let gone = id.to_owned();
    app.with_store(move |store| store.remove_container(&gone, false)).await?;
    Ok(objects::deleted(id, "container.deleted", &app.quirks))
}

fn read_new(object: &Map<String, Value>) -> Result<NewContainer, ApiError> {
    const KNOWN: &[&str] = &["name", "expires_after", "file_ids", "memory_limit", "network_policy", "skills"];
    known_only("", object, KNOWN)?;
    let mut new = NewContainer { name: string("", object, "name")?.to_owned(), ..NewContainer::default() };
    if let Some(expires) = given(object, "expires_after") {
        let expires = as_object("expires_after", expires)?;
        known_only("expires_after.", expires, &["anchor", "minutes"])?;
        let anchor = string("expires_after.", expires, "anchor")?;
        one_of("expires_after.anchor", anchor, &["last_active_at"])?;
        let minutes =
            given(expires, "minutes").ok_or_else(|| ApiError::missing_parameter("expires_after.minutes"))?;
        let minutes = minutes
            .as_i64()
            .ok_or_else(|| ApiError::invalid_type("expires_after.minutes", "an integer", kind_of(minutes)))?;
        new.minutes = ApiError::check_integer("expires_after.minutes", minutes, 1, 20)?;
    }
    if let Some(ids) = given(object, "file_ids") {
        new.file_ids = strings("file_ids", ids)?;
    }
    if given(object, "memory_limit").is_some() {
        let limit = string("", object, "memory_limit")?;
        new.memory_limit = one_of("memory_limit", limit, &["1g", "4g", "16g", "64g"])?;
    }
    if let Some(policy) = given(object, "network_policy") {
        new.network_policy = read_policy(as_object("network_policy", policy)?)?;
    }
    if let Some(skills) = given(object, "skills") {
        let skills =
            skills.as_array().ok_or_else(|| ApiError::invalid_type("skills", "an array", kind_of(skills)))?;
        for (n, skill) in skills.iter().enumerate() {
            check_skill(&format!("skills[{n}]"), skill)?;
        }
    }
    Ok(new)
}

/// The policy as replies tell it: secrets are taken and never told.
fn read_policy(policy: &Map<String, Value>) -> Result<Value, ApiError> {
    let kind = string("network_policy.", policy, "type")?;
    if one_of("network_policy.type", kind, &["disabled", "allowlist"])? == "disabled" {
        known_only("network_policy.", policy, &["type"])?;
        return Ok(json!({ "type": "disabled" }));
    }
    known_only("network_policy.", policy, &["type", "allowed_domains", "domain_secrets"])?;
    let domains = given(policy, "allowed_domains")
        .ok_or_else(|| ApiError::missing_parameter("network_policy.allowed_domains"))?;
    let domains = strings("network_policy.allowed_domains", domains)?;
    if domains.is_empty() {
        let name = "network_policy.allowed_domains";
        return Err(ApiError::invalid(
            name,
            format!("Invalid '{name}': empty array. Expected at least one domain."),
        ));
    }
    if let Some(secrets) = given(policy, "domain_secrets") {
        let name = "network_policy.domain_secrets";
        let secrets =
            secrets.as_array().ok_or_else(|| ApiError::invalid_type(name, "an array", kind_of(secrets)))?;
        for (n, secret) in secrets.iter().enumerate() {
            let at = format!("{name}[{n}]");
            let secret = as_object(&at, secret)?;
            let at = format!("{at}.");
            known_only(&at, secret, &["domain", "name", "value"])?;
            for field in ["domain", "name", "value"] {
                string(&at, secret, field)?;
            }
        }
    }
    Ok(json!({ "type": "allowlist", "allowed_domains": domains }))
}

fn check_skill(name: &str, skill: &Value) -> Result<(), ApiError> {
    let skill = as_object(name, skill)?;
    let at = format!("{name}.");
    let kind = string(&at, skill, "type")?;
    if one_of(&format!("{at}type"), kind, &["skill_reference", "inline"])? == "skill_reference" {
        known_only(&at, skill, &["type", "skill_id", "version"])?;
        string(&at, skill, "skill_id")?;
        if given(skill, "version").is_some() {
            string(&at, skill, "version")?;
        }
        return Ok(());
    }
    known_only(&at, skill, &["type", "name", "description", "source"])?;
    string(&at, skill, "name")?;
    string(&at, skill, "description")?;
    let source = given(skill, "source").ok_or_else(|| ApiError::missing_parameter(&format!("{at}source")))?;
    let source_name = format!("{at}source");
    let source = as_object(&source_name, source)?;
    let at = format!("{source_name}.");
    known_only(&at, source, &["type", "media_type", "data"])?;
    one_of(&format!("{at}type"), string(&at, source, "type")?, &["base64"])?;
    one_of(&format!("{at}media_type"), string(&at, source, "media_type")?, &["application/zip"])?;
    string(&at, source, "data").map(drop)
}

/// A field that is there; null is as good as absent.
fn given<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn known_only(at: &str, object: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(ApiError::unknown_parameter(&format!("{at}{key}"))),
        None => Ok(()),
    }
}

fn string<'a>(at: &str, object: &'a Map<String, Value>, name: &str) -> Result<&'a str, ApiError> {
    let full = format!("{at}{name}");
    let value = given(object, name).ok_or_else(|| ApiError::missing_parameter(&full))?;
    value.as_str().ok_or_else(|| ApiError::invalid_type(&full, "a string", kind_of(value)))
}

fn strings(name: &str, value: &Value) -> Result<Vec<String>, ApiError> {
    let items = value.as_array().ok_or_else(|| ApiError::invalid_type(name, "an array", kind_of(value)))?;
    let one = |item: &Value| {
        let text = item.as_str().map(str::to_owned);
        text.ok_or_else(|| ApiError::invalid_type(name, "an array of strings", kind_of(item)))
    };
    items.iter().map(one).collect()
}

fn as_object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>, ApiError> {
    value.as_object().ok_or_else(|| ApiError::invalid_type(name, "an object", kind_of(value)))
}

fn one_of(name: &str, value: &str, supported: &[&str]) -> Result<String, ApiError> {
    if supported.contains(&value) {
        Ok(value.to_owned())
    } else {
        Err(ApiError::invalid_value(name, value, supported))
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<NewContainer, ApiError> {
        read_new(value.as_object().unwrap())
    }

    #[test]
    fn good_parameters_are_taken() {
        let new = read(&json!({
            "name": "n", "memory_limit": "4g", "expires_after": { "anchor": "last_active_at", "minutes": 5 },
            "network_policy": { "type": "allowlist", "allowed_domains": ["a.org"],
                "domain_secrets": [{ "domain": "a.org", "name": "K", "value": "hush" }] },
            "skills": [{ "type": "skill_reference", "skill_id": "s", "version": "2" }, { "type": "inline", "name": "i",
                "description": "d", "source": { "type": "base64", "media_type": "application/zip", "data": "UEs=" } }],
        }))
        .unwrap();
        assert_eq!((new.minutes, new.memory_limit.as_str()), (5, "4g"));
        assert!(!new.network_policy.to_string().contains("hush"));
    }

    #[test]
    fn bad_parameters_are_refused() {
        for bad in [
            json!({}),
            json!({ "name": 7 }),
            json!({ "name": "n", "colour": "red" }),
            json!({ "name": "n", "memory_limit": "2g" }),
            json!({ "name": "n", "expires_after": { "anchor": "last_active_at", "minutes": 21 } }),
            json!({ "name": "n", "expires_after": { "minutes": 2 } }),
            json!({ "name": "n", "network_policy": { "type": "open" } }),
            json!({ "name": "n", "network_policy": { "type": "allowlist" } }),
            json!({ "name": "n", "skills": [{ "type": "inline", "name": "i" }] }),
            json!({ "name": "n", "file_ids": [1] }),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
