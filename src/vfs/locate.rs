//! Where something is shown: the path below the mountpoint.

use serde::{Deserialize, Serialize};

use crate::api::ContainerId;
use crate::namespace::inode::{Ino, Kind, ROOT};
use crate::vfs::{State, Vfs};

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
    /// Where the file is shown that a model finds at `path`, in each container that has been listed. Asks the
    /// server nothing.
    pub fn locate(&self, path: &str) -> Vec<Located> {
        let state = self.state();
        let mut found: Vec<Located> = state
            .tree
            .files()
            .filter_map(|(ino, file)| {
                let server = file.server.as_ref().filter(|server| server.path == path)?;
                state.tree.get(ino).filter(|node| node.linked)?;
                let container = state.tree.container(file.container)?;
                Some(Located {
                    shown: state.shown_at(ino),
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

impl State {
    /// The path of a file below the mountpoint.
    pub(super) fn shown_at(&self, ino: Ino) -> String {
        self.below(self.tree.file(ino).map(|file| file.container), self.tree.path(ino))
    }

    /// The path below the mountpoint of what lies at `path` in a container; one that is not shown here goes
    /// by its id.
    pub(super) fn shown_in(&self, container: &ContainerId, path: &str) -> String {
        match self.tree.containers.get(container) {
            Some(ino) => self.below(Some(*ino), path.to_owned()),
            None => format!("{container}/{path}"),
        }
    }

    /// A container that is mounted by itself has no name in its mount.
    fn below(&self, container: Option<Ino>, path: String) -> String {
        match container.filter(|ino| *ino != ROOT).and_then(|ino| self.tree.get(ino)) {
            Some(node) if matches!(node.kind, Kind::Container(_)) => format!("{}/{path}", node.name),
            _ => path,
        }
    }
}
