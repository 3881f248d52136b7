//! What travels: containers, files, lists and parameters.
//!
//! Replies are read leniently. Only `id`, `name`, `status` and `created_at` of a container can be relied on
//! (API.md, "Objects"); what a command prints is the reply itself ([`crate::api::Raw`]), so
//! that no unknown field is lost, and none is kept for each of a hundred thousand files.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

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

impl Deleted {
    /// Whether this is the reply to a DELETE that was carried out.
    pub(super) fn says_so(&self) -> bool {
        self.deleted || self.object.ends_with("deleted")
    }
}

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items of this page.
    pub data: Vec<T>,
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

/// What a new container may reach, as the API takes it. Its `domain_secrets` are secrets, and nothing prints it.
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
    fn unknown_fields_and_an_unknown_status_do_no_harm() {
        let text = r#"{"id":"c","name":"n","status":"odd","created_at":7,"weather":{"today":"fine"}}"#;
        let container: Container = serde_json::from_str(text).unwrap();
        assert!(container.is_live());
        assert_eq!((container.name.as_str(), container.created_at), ("n", 7));
    }
}
