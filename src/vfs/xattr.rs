//! Extended attributes: what the API tells and `stat` has no field for. They are answered by name and not
//! listed, so that `rsync -X` does not try to copy them.

use serde_json::Value;

use crate::api::{Container, File};
use crate::namespace::inode::{Ino, Kind};
use crate::vfs::{Error, Result, Vfs};

const PREFIX: &str = "user.containerfs.";

/// The one namespace that there is (xattr(7)).
const NAMESPACE: &str = "user.";

impl Vfs {
    /// The value of the extended attribute `name`.
    ///
    /// # Errors
    /// `ENODATA` if there is none, `ESTALE` if the inode is gone; `EOPNOTSUPP` for another namespace than
    /// `user`, so that `ls -l` doesn't ask for the labels and the access control list of every single
    /// file.
    pub fn getxattr(&self, ino: Ino, name: &str) -> Result<String> {
        if !name.starts_with(NAMESPACE) {
            return Err(Error::quiet(libc::EOPNOTSUPP));
        }
        let absent = || Error::quiet(libc::ENODATA);
        let field = name.strip_prefix(PREFIX).ok_or_else(absent)?;
        let state = self.state();
        let node = state.tree.get(ino).ok_or_else(|| Error::quiet(libc::ESTALE))?;
        let value = match &node.kind {
            Kind::Container(container) => of_container(&container.container, field),
            Kind::File(file) => {
                let container = state.tree.container(file.container);
                match (field, container) {
                    ("container_id", Some(container)) => Some(container.container.id.to_string()),
                    _ => file.server.as_deref().and_then(|server| of_file(server, field)),
                }
            }
            Kind::Root(_) | Kind::Directory(_) | Kind::Link(_) => None,
        };
        value.ok_or_else(absent)
    }
}

fn of_file(file: &File, field: &str) -> Option<String> {
    match field {
        "id" => Some(file.id.to_string()),
        "path" => Some(file.path.clone()),
        "source" => Some(file.source.clone()),
        "created_at" => Some(file.created_at.to_string()),
        _ => None,
    }
}

/// Strings as they are, everything else as JSON.
fn of_container(container: &Container, field: &str) -> Option<String> {
    match field {
        "id" | "status" | "memory_limit" | "expires_after" | "network_policy" | "last_active_at"
        | "created_at" => {}
        _ => return None,
    }
    match serde_json::to_value(container).ok()?.get(field)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        // Seconds, which some servers break; those that are whole are told as they came.
        Value::Number(number) => Some(match number.as_f64().filter(|number| number.fract() == 0.0) {
            Some(whole) if !number.is_i64() => format!("{whole:.0}"),
            _ => number.to_string(),
        }),
        other => Some(other.to_string()),
    }
}
