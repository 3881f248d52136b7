//! Objects that were typed in parts: `--expires-after.minutes 10` is `--expires-after {"minutes":10}`.

use std::ffi::OsString;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Flags that are objects.
const OBJECTS: [&str; 3] = ["expires-after", "network-policy", "skill"];

/// Fields of theirs that are arrays: a single value is one of one.
const ARRAYS: [&str; 2] = ["allowed_domains", "domain_secrets"];

/// The flag that may be repeated: a part that is there already begins the next object.
const REPEATED: &str = "skill";

/// The fields that are numbers; all others are text, whatever they look like.
const NUMBERS: [&str; 1] = ["minutes"];

/// Puts the parts of each object together, where its first part was.
///
/// # Errors
/// A part lacks its value.
pub(super) fn joined(args: Vec<OsString>) -> Result<Vec<OsString>> {
    // Each with its place in `rest`, which is kept free.
    let mut objects: Vec<(&str, usize, Map<String, Value>)> = Vec::new();
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
        let keys: Vec<String> = path.split('.').map(|key| key.replace('-', "_")).collect();
        let last = objects.iter().rposition(|(known, ..)| *known == name);
        let same = last.filter(|at| name != REPEATED || !has(&objects[*at].2, &keys));
        let at = same.unwrap_or_else(|| {
            objects.push((name, rest.len(), Map::new()));
            rest.push(OsString::new());
            objects.len() - 1
        });
        let value = typed(keys.last().map_or("", String::as_str), &value);
        put(&mut objects[at].2, &keys, value);
    }
    for (name, place, object) in objects {
        rest[place] = format!("--{name}={}", Value::Object(object)).into();
    }
    Ok(rest)
}

/// Whether an object has a value at the end of a path.
fn has(object: &Map<String, Value>, keys: &[String]) -> bool {
    let Some((key, below)) = keys.split_first() else { return false };
    match object.get(key) {
        Some(Value::Object(inner)) if !below.is_empty() => has(inner, below),
        found => found.is_some(),
    }
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
        Some(Value::Array(values)) => match value {
            Value::Array(more) => values.extend(more),
            one => values.push(one),
        },
        Some(first) => *first = Value::Array(vec![first.take(), value]),
        None if many && !value.is_array() => {
            object.insert(key.clone(), Value::Array(vec![value]));
        }
        None => {
            object.insert(key.clone(), value);
        }
    }
}

/// Objects and arrays are JSON; a version or base64 that looks like a number is text.
fn typed(key: &str, text: &str) -> Value {
    let parsed = serde_json::from_str(text).ok();
    let meant = |value: &Value| value.is_object() || value.is_array() || NUMBERS.contains(&key);
    parsed.filter(meant).unwrap_or_else(|| Value::String(text.to_owned()))
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
            r#"x --expires-after={"minutes":10,"anchor":"last_active_at"} --name n"#
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
        assert_eq!(
            join(r#"x --network-policy.allowed-domains ["a","b"] --network-policy.allowed-domains ["c"]"#),
            r#"x --network-policy={"allowed_domains":["a","b","c"]}"#
        );
        assert!(joined(vec!["--skill.type".into()]).is_err());
    }

    #[test]
    fn a_part_that_is_there_already_begins_the_next_skill() {
        assert_eq!(
            join("--skill.type a --skill.skill-id 1 --skill={} --skill.type b --skill.skill-id 2"),
            r#"--skill={"type":"a","skill_id":"1"} --skill={} --skill={"type":"b","skill_id":"2"}"#
        );
        assert_eq!(
            join("--skill.source.type base64 --skill.source.data 1234 --skill.source.type base64"),
            r#"--skill={"source":{"type":"base64","data":"1234"}} --skill={"source":{"type":"base64"}}"#
        );
    }

    #[test]
    fn only_numbers_are_numbers() {
        assert_eq!(
            join("--expires-after.minutes 7 --skill.version 2 --skill.name true"),
            r#"--expires-after={"minutes":7} --skill={"version":"2","name":"true"}"#
        );
    }
}
