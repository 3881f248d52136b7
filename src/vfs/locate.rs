//! From the path that a model sees to where it is shown.

use serde::{Deserialize, Serialize};

use crate::namespace::inode::{Kind, ROOT};
use crate::vfs::Vfs;

/// A file that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The path below the mountpoint.
    pub shown: String,
    /// The path that the model sees.
    pub path: String,
    /// The file's id.
    pub id: String,
    /// Its container's id.
    pub container_id: String,
}

impl Vfs {
    /// Where the file is shown that a model finds at `path`, in each container that has been listed. Asks the server
    /// nothing.
    pub fn locate(&self, path: &str) -> Vec<Located> {
        let state = self.state();
        let mut found: Vec<Located> = state
            .tree
            .files()
            .filter_map(|(ino, file)| {
                let server = file.server.as_ref().filter(|server| server.path == path)?;
                state.tree.get(ino).filter(|node| node.linked)?;
                let container = state.tree.container(file.container)?;
                let below = state.tree.path(ino);
                let shown = match state.tree.get(file.container) {
                    Some(node) if file.container != ROOT && matches!(node.kind, Kind::Container(_)) => {
                        format!("{}/{below}", node.name)
                    }
                    _ => below,
                };
                Some(Located {
                    shown,
                    path: server.path.clone(),
                    id: server.id.to_string(),
                    container_id: container.container.id.to_string(),
                })
            })
            .collect();
        found.sort_by(|a, b| a.shown.cmp(&b.shown));
        found
    }
}
