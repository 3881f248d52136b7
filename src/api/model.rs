//! What travels: containers, files, lists and parameters.
//!
//! Replies are read leniently. Only `id`, `name`, `status` and `created_at` of a container can be relied on
//! (API.md, "Objects"); what a command prints is the reply itself ([`crate::api::Raw`]), so
//! that no unknown field is lost, and none is kept for each of a hundred thousand files.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as the server wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

id! {
    /// A container's id, usually `cntr_` and 48 hex digits; opaque, up to hundreds of bytes on other servers.
    ContainerId
}
id! {
    /// A container file's id, usually `cfile_` and 32 hex digits; opaque.
    FileId
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name; not unique.
    #[serde(default, deserialize_with = "null_is_default")]
    pub name: String,
    /// An open string: `running` and `expired` are what is seen.
    #[serde(default, deserialize_with = "null_is_default")]
    pub status: String,
    /// Seconds since the epoch.
    #[serde(default, deserialize_with = "lenient_seconds")]
    pub created_at: i64,
    /// When it expires, counted from its last use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<ExpiresAfter>,
    /// Seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active_at: Option<f64>,
    /// `1g`, `4g`, `16g` or `64g`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// What the container may reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<serde_json::Value>,
}

impl Container {
    /// Whether the container can still hold files: neither expired nor deleted.
    pub fn is_live(&self) -> bool {
        !matches!(self.status.to_ascii_lowercase().as_str(), "expired" | "deleted" | "terminated")
    }
}

/// When a container expires.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiresAfter {
    /// `last_active_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// 1..20 minutes after the anchor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<i64>,
}

/// A file of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Its id.
    pub id: FileId,
    /// The absolute path that the model sees.
    #[serde(default, deserialize_with = "null_is_default")]
    pub path: String,
    /// Length in bytes; null for files that the model wrote.
    #[serde(default, deserialize_with = "lenient_bytes")]
    pub bytes: Option<u64>,
    /// `user` or `assistant`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub source: String,
    /// Seconds since the epoch.
    #[serde(default, deserialize_with = "lenient_seconds")]
    pub created_at: i64,
}

impl File {
    /// The length in bytes that can be relied on, if there is one (API.md "Objects").
    pub fn reliable_len(&self) -> Option<u64> {
        self.bytes.filter(|_| self.source == "user")
    }
}

/// The reply to a DELETE; an empty body is one too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deleted {
    /// What was deleted.
    pub id: String,
    /// `container.deleted` or `container.file.deleted`.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

/// What a reply to a DELETE says of it.
#[derive(Deserialize)]
pub(super) struct Deletion {
    deleted: Option<bool>,
    #[serde(default, deserialize_with = "null_is_default")]
    object: String,
}

impl Deletion {
    /// Whether it was carried out; a plain no is believed, whatever else is said.
    pub(super) fn says_so(&self) -> bool {
        self.deleted.unwrap_or_else(|| self.object.ends_with("deleted"))
    }
}

/// One page of a list.
///
/// One bad item takes no other from a user. What is wrong in an item but its id is left out, as if the server
/// had not told it: the item is there, and can be fetched and deleted. An item without a readable id can't be
/// named to the server, and so not be shown; it is counted, so that nobody takes a list that misses it for
/// whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "RawPage", bound(deserialize = "T: DeserializeOwned"))]
pub struct Page<T> {
    /// The items of this page.
    pub data: Vec<T>,
    /// Items without a readable id.
    #[serde(skip)]
    pub unread: usize,
    /// The id of the first item; null on an empty page.
    #[serde(default)]
    pub first_id: Option<String>,
    /// The id of the last item, the cursor of the next page; null on an empty page.
    #[serde(default)]
    pub last_id: Option<String>,
    /// Whether the list goes on.
    #[serde(default, deserialize_with = "null_is_default")]
    pub has_more: bool,
}

/// A page whose items have yet to be read.
#[derive(Deserialize)]
struct RawPage {
    data: Vec<Box<RawValue>>,
    #[serde(default, deserialize_with = "lenient_cursor")]
    first_id: Option<String>,
    #[serde(default, deserialize_with = "lenient_cursor")]
    last_id: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    has_more: bool,
}

impl<T: DeserializeOwned> From<RawPage> for Page<T> {
    fn from(page: RawPage) -> Self {
        let read = |item: &RawValue| serde_json::from_str(item.get()).ok().or_else(|| salvaged(item.get()));
        let data: Vec<T> = page.data.iter().filter_map(|item| read(item)).collect();
        let unread = page.data.len() - data.len();
        Self { data, unread, first_id: page.first_id, last_id: page.last_id, has_more: page.has_more }
    }
}

/// What can be read of an item: its id, and each field that is right.
fn salvaged<T: DeserializeOwned>(item: &str) -> Option<T> {
    let mut fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&without_lone_surrogates(item)).ok()?;
    let id = fields.remove("id")?;
    let with_id = |fields: &BTreeMap<&String, &RawValue>| {
        let mut object = fields.clone();
        let name = "id".to_owned();
        object.insert(&name, &id);
        serde_json::from_str::<T>(&serde_json::to_string(&object).ok()?).ok()
    };
    let right = fields.iter().map(|(name, value)| (name, &**value));
    let right = right.filter(|(name, value)| with_id(&BTreeMap::from([(*name, *value)])).is_some());
    with_id(&right.collect())
}

/// JSON that names a half of a surrogate pair alone, which is no character: what Python makes of a filename
/// that is no UTF-8.
fn without_lone_surrogates(json: &str) -> String {
    let half = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok().filter(|code| (0xd800..0xe000).contains(code))
    };
    let (mut fixed, mut rest) = (String::with_capacity(json.len()), json);
    while let Some(at) = rest.find('\\') {
        fixed.push_str(&rest[..at]);
        rest = &rest[at..];
        let (kept, read) = match (half(rest), rest.get(6..).and_then(half)) {
            (Some(0xd800..0xdc00), Some(0xdc00..)) => (&rest[..12], 12),
            (Some(_), _) => ("\\ufffd", 6),
            // With the character that is escaped, which may be a backslash.
            (None, _) => {
                rest.char_indices().nth(2).map_or((rest, rest.len()), |(end, _)| (&rest[..end], end))
            }
        };
        fixed.push_str(kept);
        rest = &rest[read..];
    }
    fixed + rest
}

/// The order of a list, by `created_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first, the server's default.
    Desc,
}

/// Parameters of a list request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListParams {
    /// The cursor: the id after which the page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1..100; the server's default is 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The server's default is descending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Only containers of this name; containers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What a new container may reach, as the API takes it. Its `domain_secrets` are secrets, and nothing prints
/// it.
#[derive(Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct NetworkPolicy(pub serde_json::Value);

impl fmt::Debug for NetworkPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkPolicy").field("type", &self.0["type"]).finish_non_exhaustive()
    }
}

/// Parameters of a new container.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CreateContainer {
    /// Its name.
    pub name: String,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<ExpiresAfter>,
    /// Ids of Files API files to attach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file_ids: Vec<String>,
    /// `1g`, `4g`, `16g` or `64g`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// What the container may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
    /// Skills by reference or inline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<serde_json::Value>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Whole seconds from an integer, a float or null: other servers send all three.
fn lenient_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value: Option<serde_json::Number> = Option::deserialize(deserializer)?;
    Ok(value.and_then(|n| n.as_i64().or_else(|| n.as_f64().map(|f| f as i64))).unwrap_or(0))
}

/// A cursor; what is no string leads nowhere.
fn lenient_cursor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(value.get()).ok())
}

/// A length; null, a negative number and a fraction are all "unknown".
fn lenient_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value: Option<serde_json::Number> = Option::deserialize(deserializer)?;
    Ok(value.and_then(|n| n.as_u64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_null_bytes_and_missing_fields_is_read() {
        let file: File = serde_json::from_str(r#"{"id":"cfile_1","bytes":null,"path":null}"#).unwrap();
        assert_eq!(file.bytes, None);
        assert_eq!(file.path, "");
        assert_eq!(file.created_at, 0);
    }

    #[test]
    fn an_empty_page_has_null_ids() {
        let page: Page<File> = serde_json::from_str(
            r#"{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}"#,
        )
        .unwrap();
        assert!(page.data.is_empty() && page.last_id.is_none() && !page.has_more);
    }

    #[test]
    fn what_is_wrong_in_an_item_takes_nothing_else_away() {
        let text = r#"{"data":[
            {"id":"a","path":"/mnt/data/a","bytes":"3","source":["x"],"created_at":7},
            {"id":"b","path":"/mnt/data/\udcff\ud83d\ude00\\udcff","created_at":"soon","DEEP":7},
            null, 7, {"path":"/mnt/data/c"}, {"id":8,"path":"/mnt/data/d"},
            {"id":"e","path":{},"bytes":1e999}, {"id":"twice","id":"f","created_at":1,"created_at":2}
        ],"first_id":{},"last_id":8,"has_more":true}"#;
        let text = text.replace("7}", &format!("{}{}}}", "[".repeat(500), "]".repeat(500)));
        let page: Page<File> = serde_json::from_str(&text).unwrap();
        let read: Vec<_> = page.data.iter().map(|f| (f.id.as_str(), f.path.as_str(), f.created_at)).collect();
        let b = "/mnt/data/\u{fffd}\u{1F600}\\udcff";
        assert_eq!(read, [("a", "/mnt/data/a", 0), ("b", b, 0), ("e", "", 0), ("f", "", 2)]);
        assert_eq!((page.unread, page.first_id, page.last_id, page.has_more), (4, None, None, true));
        let containers =
            r#"{"data":[{"id":"c","name":"n","status":3,"expires_after":7,"last_active_at":"x"}]}"#;
        let page: Page<Container> = serde_json::from_str(containers).unwrap();
        assert_eq!((page.data[0].name.as_str(), page.unread), ("n", 0));
    }

    #[test]
    fn what_has_not_the_form_of_a_page_is_none() {
        for text in ["{}", r#"{"data":null}"#, r#"{"data":{"id":"a"}}"#, r#"{"data":[],"has_more":3}"#, "[]"]
        {
            assert!(serde_json::from_str::<Page<File>>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_fields_and_an_unknown_status_do_no_harm() {
        let text = r#"{"id":"c","name":"n","status":"odd","created_at":7,"weather":{"today":"fine"}}"#;
        let container: Container = serde_json::from_str(text).unwrap();
        assert!(container.is_live());
        assert_eq!((container.name.as_str(), container.created_at), ("n", 7));
    }
}
