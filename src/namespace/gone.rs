//! What goes from the tree: nothing shows it, holds it open or refers to it, and it keeps nothing that does.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::api::{ContainerId, File};
use crate::namespace::inode::{Ino, Kind, Node, ROOT, Tree};

/// A version that no inode stands for any more: nobody will ask for its bytes.
pub type LetGo = (ContainerId, Arc<File>);

impl Tree {
    /// Takes `ino` out of its directory, and what it shows but for files that are held here out of `ino`; each is
    /// dropped once nobody refers to it.
    pub fn unlink(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        if !node.linked {
            return;
        }
        node.linked = false;
        let (parent, name) = (node.parent, node.name.clone());
        let forget_id = match &node.kind {
            Kind::File(file) => file.id().cloned().map(|id| (file.container, id)),
            _ => None,
        };
        let forget_directory = match &node.kind {
            Kind::Directory(directory) => Some((directory.container, directory.path.clone())),
            _ => None,
        };
        if let Kind::Container(container) = &node.kind {
            let id = container.container.id.clone();
            self.containers.remove(&id);
        }
        self.detach(parent, &name, ino);
        if let Some((container, id)) = forget_id
            && let Some(container) = self.container_mut(container)
            && container.files.get(&id) == Some(&ino)
        {
            container.files.remove(&id);
        }
        self.empty(ino);
        if let Some((container, path)) = forget_directory
            && let Some(container) = self.container_mut(container)
        {
            container.directories.remove(&path);
        }
        self.reap(ino);
        self.leave(parent);
    }

    /// Takes everything out of a directory that has gone. A file that is held stays where it was, so that its
    /// path can be told, and so do the directories that lead there.
    fn empty(&mut self, directory: Ino) {
        let children = self.get(directory).and_then(|node| node.children());
        let children: Vec<Ino> =
            children.into_iter().flat_map(|children| children.values().copied()).collect();
        for child in children {
            self.empty(child);
            let Some(node) = self.get(child) else { continue };
            let is_held = node.file().is_some_and(|file| file.held);
            if !is_held && node.children().is_none_or(|children| children.is_empty()) {
                self.unlink(child);
            }
        }
    }

    /// The kernel holds `count` references fewer.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
            self.reap(ino);
        }
    }

    /// Drops a node that nothing shows, holds open or refers to, and that holds nothing. The bytes of a file are
    /// not needed once nobody has it open: none can be opened that is not shown.
    pub fn reap(&mut self, ino: Ino) {
        let is_done = |node: &&Node| {
            !node.linked && node.handles == 0 && node.children().is_none_or(|children| children.is_empty())
        };
        let Some(node) = self.get(ino).filter(is_done).filter(|_| ino != ROOT) else { return };
        let is_forgotten = node.lookups == 0;
        if let Some(file) = node.file() {
            self.lets_go(file.container, file.server.clone());
        }
        if is_forgotten {
            self.nodes.remove(&ino);
        }
    }

    /// A directory of a container that has gone goes with the last file that was held in it.
    fn leave(&mut self, directory: Ino) {
        let is_gone = self.container_of(directory).is_some_and(|container| !self.is_linked(container));
        let children = self.get(directory).and_then(|node| node.children());
        if is_gone && children.is_some_and(|children| children.is_empty()) {
            self.unlink(directory);
            self.reap(directory);
        }
    }

    /// From now on tells of each version that no inode stands for any more.
    pub fn tell_what_goes(&mut self) -> UnboundedReceiver<LetGo> {
        let (let_go, told) = unbounded_channel();
        self.let_go = Some(let_go);
        told
    }

    /// An inode does not stand for a version any more. Another version may have its id.
    pub(super) fn lets_go(&self, container: Ino, version: Option<Arc<File>>) {
        let (Some(let_go), Some(version), Some(container)) =
            (&self.let_go, version, self.container(container))
        else {
            return;
        };
        let stands = container.files.get(&version.id).and_then(|ino| self.file(*ino)?.server.as_deref());
        let is_same = |now: &File| (now.bytes, now.created_at) == (version.bytes, version.created_at);
        if !stands.is_some_and(is_same) {
            // Nobody listens any more when the mount ends.
            let _ = let_go.send((container.container.id.clone(), version));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::namespace::inode::FileNode;
    use crate::namespace::listing::apply_containers;
    use crate::namespace::records::Attributes;

    fn version(id: &str) -> Arc<File> {
        let file = serde_json::json!({"id": id, "path": "/mnt/data/f", "source": "user", "bytes": 3, "created_at": 1});
        Arc::new(serde_json::from_value(file).unwrap())
    }

    fn tree() -> (Tree, Ino) {
        let mut tree = Tree::new();
        let container =
            serde_json::json!({"id": "cntr_1", "name": "c", "status": "running", "created_at": 1});
        apply_containers(&mut tree, &[serde_json::from_value(container).unwrap()], Instant::now());
        let container = tree.child(ROOT, "c").unwrap();
        (tree, container)
    }

    fn add(tree: &mut Tree, parent: Ino, id: &str) -> Ino {
        let container = tree.container_of(parent).unwrap();
        let file = FileNode::listed(container, version(id), Attributes::default(), Instant::now());
        tree.insert(parent, id, Kind::File(Box::new(file)))
    }

    fn told(told: &mut UnboundedReceiver<LetGo>) -> Vec<String> {
        std::iter::from_fn(|| told.try_recv().ok()).map(|(_, file)| file.id.to_string()).collect()
    }

    #[test]
    fn a_container_takes_along_all_that_it_shows() {
        let (mut tree, container) = tree();
        let mut gone = tree.tell_what_goes();
        let deep = tree.directory(container, "a/b");
        let (f, g) = (add(&mut tree, deep, "f"), add(&mut tree, container, "g"));
        tree.get_mut(f).unwrap().lookups = 1;
        tree.get_mut(container).unwrap().lookups = 2;
        tree.unlink(container);
        assert!(tree.get(g).is_none() && tree.get(deep).is_none());
        assert_eq!(told(&mut gone), ["f", "g"]);
        assert!(tree.get(f).is_some(), "the kernel refers to it");
        tree.forget(f, 1);
        tree.forget(container, 2);
        assert!(tree.is_empty());
    }

    #[test]
    fn what_is_held_in_a_container_that_has_gone_has_its_path_until_it_goes_too() {
        let (mut tree, container) = tree();
        let deep = tree.directory(container, "a/b");
        let (f, g) = (add(&mut tree, deep, "f"), add(&mut tree, container, "g"));
        tree.file_mut(f).unwrap().held = true;
        tree.unlink(container);
        assert!(tree.get(g).is_none());
        assert!(tree.container(tree.file(f).unwrap().container).is_some());
        assert_eq!(tree.path(f), "a/b/f");
        tree.unlink(f);
        assert!(tree.is_empty());
    }

    #[test]
    fn a_version_goes_when_nobody_has_it_open_and_nothing_else_stands_for_it() {
        let (mut tree, container) = tree();
        let mut gone = tree.tell_what_goes();
        let f = add(&mut tree, container, "f");
        tree.get_mut(f).unwrap().handles = 1;
        tree.unlink(f);
        assert!(told(&mut gone).is_empty(), "it is read");
        tree.get_mut(f).unwrap().handles = 0;
        tree.reap(f);
        assert_eq!(told(&mut gone), ["f"]);

        let saved = add(&mut tree, container, "old");
        tree.set_server(saved, version("old"));
        assert!(told(&mut gone).is_empty(), "the same version");
        let longer = File { bytes: Some(4), ..(*version("old")).clone() };
        tree.set_server(saved, Arc::new(longer));
        assert_eq!(told(&mut gone), ["old"], "of the same id, and another");
        tree.set_server(saved, version("new"));
        assert_eq!(told(&mut gone), ["old"]);
        tree.forget_server(saved);
        assert_eq!(told(&mut gone), ["new"]);

        let past = add(&mut tree, container, "model");
        tree.get_mut(past).unwrap().handles = 1;
        tree.unlink(past);
        add(&mut tree, container, "model");
        tree.get_mut(past).unwrap().handles = 0;
        tree.reap(past);
        assert!(told(&mut gone).is_empty(), "another inode stands for it");
    }
}
