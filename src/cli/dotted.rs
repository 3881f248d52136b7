//! Objects that were typed in parts: `--expires-after.minutes 10` is `--expires-after {"minutes":10}`.

use std::ffi::OsString;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Flags that are objects.
const OBJECTS: [&str; 3] = ["expires-after", "network-policy", "skill"];

/// Fields of theirs that are arrays: a single value is one of one.
const ARRAYS: [&str; 2] = ["allowed_domains", "domain_secrets"];

/// Puts the parts of each object together.
///
/// # Errors
/// A part lacks its value.
pub(super) fn joined(args: Vec<OsString>) -> Result<Vec<OsString>> {
    let mut objects: Vec<(&str, Map<String, Value>)> = Vec::new();
    let mut rest = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let part = OBJECTS.iter().find_map(|name| {
            let path = text.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('.')?;
            Some((*name, path.to_owned()))
        });
        let Some((name, path)) = part else {
            rest.push(arg);
            continue;
        };
        let (path, value) = match path.split_once('=') {
            Some((path, value)) => (path.to_owned(), value.to_owned()),
            None => {
                let value = args.next().with_context(|| format!("--{name}.{path} needs a value"))?;
                (path, value.to_string_lossy().into_owned())
            }
        };
        let at = objects.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            objects.push((name, Map::new()));
            objects.len() - 1
        });
        let keys: Vec<String> = path.split('.').map(|key| key.replace('-', "_")).collect();
        put(&mut objects[at].1, &keys, typed(&value));
    }
    for (name, object) in objects {
        rest.push(format!("--{name}={}", Value::Object(object)).into());
    }
    Ok(rest)
}

fn put(object: &mut Map<String, Value>, keys: &[String], value: Value) {
    let Some((key, below)) = keys.split_first() else { return };
    if !below.is_empty() {
        let inner = object.entry(key.as_str()).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(inner) = inner {
            put(inner, below, value);
        }
        return;
    }
    let many = ARRAYS.contains(&key.as_str());
    match object.get_mut(key) {
        Some(Value::Array(values)) => values.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
        None if many && !value.is_array() => {
            object.insert(key.clone(), Value::Array(vec![value]));
        }
        None => {
            object.insert(key.clone(), value);
        }
    }
}

/// Numbers, truth values and JSON are what they are; everything else is text.
fn typed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(line: &str) -> String {
        let args = joined(line.split(' ').map(OsString::from).collect()).unwrap();
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn parts_become_one_object() {
        assert_eq!(
            join("x --expires-after.minutes 10 --name n --expires-after.anchor=last_active_at"),
            r#"x --name n --expires-after={"minutes":10,"anchor":"last_active_at"}"#
        );
        assert_eq!(
            join("x --network-policy.type allowlist --network-policy.allowed-domains a.com"),
            r#"x --network-policy={"type":"allowlist","allowed_domains":["a.com"]}"#
        );
        assert_eq!(
            join("x --network-policy.allowed-domains a --network-policy.allowed-domains b"),
            r#"x --network-policy={"allowed_domains":["a","b"]}"#
        );
        assert_eq!(join("x --skill.source.type base64"), r#"x --skill={"source":{"type":"base64"}}"#);
        assert!(joined(vec!["--skill.type".into()]).is_err());
    }
}
