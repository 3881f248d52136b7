//! The tree of what is seen: inodes, their names and their kinds.
//!
//! The tree knows nothing of freshness or of the network. An inode stands for one file object through its
//! saves and renames here; a version that came from elsewhere is another inode, so that the kernel's pages of
//! two versions never meet. Numbers are never used twice within a mount.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::UnboundedSender;

use crate::api::{Container, ContainerId, File, FileId};
use crate::namespace::container::ContainerNode;
use crate::namespace::gone::LetGo;
use crate::namespace::listed::Listed;
use crate::namespace::records::Attributes;
use crate::namespace::trust::Trust;

/// An inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// The root of the mount, as FUSE fixes it.
pub const ROOT: Ino = Ino(1);

/// Now, in nanoseconds since the epoch.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Names of a directory and their inodes.
pub type Children = BTreeMap<Arc<str>, Ino>;

/// One inode.
#[derive(Debug)]
pub struct Node {
    /// The directory that shows it; its last one once unlinked.
    pub parent: Ino,
    /// Its name there.
    pub name: Arc<str>,
    /// Whether a directory still shows it.
    pub linked: bool,
    /// References held by the kernel.
    pub lookups: u64,
    /// Open handles.
    pub handles: u32,
    /// Of a directory: when its entries last changed under this mount, in nanoseconds since the epoch.
    pub changed: Option<i64>,
    /// Of a directory: counts changes of its entries, so that the kernel's copy of it can be kept.
    pub generation: u64,
    /// Of a directory: how many of its entries are directories.
    pub subdirectories: u32,
    /// What it is.
    pub kind: Kind,
}

/// What an inode is.
#[derive(Debug)]
pub enum Kind {
    /// The directory of containers.
    Root(Children),
    /// A container.
    Container(Box<ContainerNode>),
    /// A directory inside a container.
    Directory(DirectoryNode),
    /// A file of a container.
    File(Box<FileNode>),
    /// A container's id, pointing at its name.
    Link(String),
}

/// A directory inside a container.
#[derive(Debug)]
pub struct DirectoryNode {
    /// The container's inode.
    pub container: Ino,
    /// Its path below the container.
    pub path: String,
    /// Its entries.
    pub children: Children,
}

/// A file of a container.
#[derive(Debug)]
pub struct FileNode {
    /// The container's inode.
    pub container: Ino,
    /// The version on the server that the name shows; `None` until the first upload.
    pub server: Option<Arc<File>>,
    /// Whether a list has shown that version.
    pub settled: bool,
    /// When the last list was asked for that showed that version.
    pub seen: Option<Instant>,
    /// How far its bytes can be trusted, if a model wrote them.
    pub trust: Trust,
    /// Length in bytes, and when it was learnt; `None` while the service hasn't told.
    pub size: Option<(u64, Instant)>,
    /// Open for writing here, or with bytes that are not on the server yet.
    pub held: bool,
    /// Attributes set here.
    pub attributes: Attributes,
    /// The version was uploaded from here, so its length needs no asking and never expires.
    pub size_is_ours: bool,
}

impl FileNode {
    /// A node for a version that a list shows.
    pub fn listed(container: Ino, file: Arc<File>, attributes: Attributes, now: Instant) -> Self {
        let size = file.bytes.map(|bytes| (bytes, now));
        Self {
            container,
            server: Some(file),
            settled: true,
            seen: Some(now),
            trust: Trust::default(),
            size,
            held: false,
            attributes,
            size_is_ours: false,
        }
    }

    /// A node for a file that is being made here.
    pub fn new_here(container: Ino, attributes: Attributes) -> Self {
        Self {
            container,
            server: None,
            settled: false,
            seen: None,
            trust: Trust::default(),
            size: None,
            held: true,
            attributes,
            size_is_ours: true,
        }
    }

    /// Whether the length is known from a list or from here, and so for as long as the version is.
    pub fn length_is_told(&self) -> bool {
        self.size_is_ours
            || self.trust.past
            || self.server.as_ref().is_some_and(|server| server.bytes.is_some())
    }

    /// The id of the version on the server.
    pub fn id(&self) -> Option<&FileId> {
        self.server.as_ref().map(|file| &file.id)
    }
}

impl Node {
    fn new(parent: Ino, name: Arc<str>, linked: bool, kind: Kind) -> Self {
        Self {
            parent,
            name,
            linked,
            lookups: 0,
            handles: 0,
            changed: None,
            generation: 0,
            subdirectories: 0,
            kind,
        }
    }

    /// The entries, if it is a directory of any kind.
    pub fn children(&self) -> Option<&Children> {
        match &self.kind {
            Kind::Root(children) => Some(children),
            Kind::Container(container) => Some(&container.children),
            Kind::Directory(directory) => Some(&directory.children),
            Kind::File(_) | Kind::Link(_) => None,
        }
    }

    fn children_mut(&mut self) -> Option<&mut Children> {
        match &mut self.kind {
            Kind::Root(children) => Some(children),
            Kind::Container(container) => Some(&mut container.children),
            Kind::Directory(directory) => Some(&mut directory.children),
            Kind::File(_) | Kind::Link(_) => None,
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&FileNode> {
        match &self.kind {
            Kind::File(file) => Some(file),
            _ => None,
        }
    }

    /// The file, if it is one.
    pub fn file_mut(&mut self) -> Option<&mut FileNode> {
        match &mut self.kind {
            Kind::File(file) => Some(file),
            _ => None,
        }
    }
}

/// All inodes of a mount.
#[derive(Debug)]
pub struct Tree {
    pub(super) nodes: HashMap<Ino, Node>,
    next: u64,
    /// Told of versions that no inode stands for any more.
    pub(super) let_go: Option<UnboundedSender<LetGo>>,
    /// Live containers by id.
    pub containers: HashMap<ContainerId, Ino>,
    /// When the list of containers was asked for that the root comes from.
    pub listed: Option<Listed>,
    /// Whether that list holds containers without a readable id, which may be any of those that it misses.
    pub has_unread: bool,
}

impl Tree {
    /// A tree of containers.
    pub fn new() -> Self {
        Self::with_root(Kind::Root(Children::new()))
    }

    /// A tree whose root is one container.
    pub fn of_container(container: Container) -> Self {
        let id = container.id.clone();
        let mut tree = Self::with_root(Kind::Container(Box::new(ContainerNode::new(container))));
        tree.containers.insert(id, ROOT);
        tree
    }

    fn with_root(kind: Kind) -> Self {
        let root = Node { lookups: 1, ..Node::new(ROOT, Arc::from(""), true, kind) };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            next: ROOT.0 + 1,
            let_go: None,
            containers: HashMap::new(),
            listed: None,
            has_unread: false,
        }
    }

    /// The next inode number: all that there are have smaller ones.
    pub fn next(&self) -> Ino {
        Ino(self.next)
    }

    /// The node of an inode number.
    pub fn get(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    /// The node of an inode number.
    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    /// The file of an inode number.
    pub fn file(&self, ino: Ino) -> Option<&FileNode> {
        self.get(ino)?.file()
    }

    /// The file of an inode number.
    pub fn file_mut(&mut self, ino: Ino) -> Option<&mut FileNode> {
        self.get_mut(ino)?.file_mut()
    }

    /// The container node of an inode number.
    pub fn container(&self, ino: Ino) -> Option<&ContainerNode> {
        match &self.get(ino)?.kind {
            Kind::Container(container) => Some(container),
            _ => None,
        }
    }

    /// The container node of an inode number.
    pub fn container_mut(&mut self, ino: Ino) -> Option<&mut ContainerNode> {
        match &mut self.get_mut(ino)?.kind {
            Kind::Container(container) => Some(container),
            _ => None,
        }
    }

    /// The inode of the container in which `ino` lies, itself included.
    pub fn container_of(&self, ino: Ino) -> Option<Ino> {
        match &self.get(ino)?.kind {
            Kind::Container(_) => Some(ino),
            Kind::Directory(directory) => Some(directory.container),
            Kind::File(file) => Some(file.container),
            Kind::Root(_) | Kind::Link(_) => None,
        }
    }

    /// The entry `name` of a directory.
    pub fn child(&self, parent: Ino, name: &str) -> Option<Ino> {
        self.get(parent)?.children()?.get(name).copied()
    }

    /// What is shown at a path below a directory or container.
    pub fn find(&self, below: Ino, path: &str) -> Option<Ino> {
        path.split('/').try_fold(below, |at, name| self.child(at, name))
    }

    /// The path below the container under which `ino` is (or was last) shown; empty for the container.
    pub fn path(&self, ino: Ino) -> String {
        let mut parts = Vec::new();
        let mut at = ino;
        while let Some(node) = self.get(at) {
            if matches!(node.kind, Kind::Container(_) | Kind::Root(_)) {
                break;
            }
            parts.push(&*node.name);
            at = node.parent;
        }
        parts.reverse();
        parts.join("/")
    }

    /// The path of `name` in the directory `parent`, below the container.
    pub fn path_in(&self, parent: Ino, name: &str) -> String {
        let path = self.path(parent);
        if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
    }

    /// Adds a node under a name that is free.
    pub fn insert(&mut self, parent: Ino, name: &str, kind: Kind) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        let name: Arc<str> = Arc::from(name);
        match &kind {
            Kind::Container(container) => {
                self.containers.insert(container.container.id.clone(), ino);
            }
            Kind::Directory(directory) => {
                let (container, path) = (directory.container, directory.path.clone());
                if let Some(container) = self.container_mut(container) {
                    container.directories.insert(path, ino);
                }
            }
            Kind::File(file) => {
                let (container, id) = (file.container, file.id().cloned());
                if let (Some(container), Some(id)) = (self.container_mut(container), id) {
                    container.files.insert(id, ino);
                }
            }
            Kind::Root(_) | Kind::Link(_) => {}
        }
        self.nodes.insert(ino, Node::new(parent, name.clone(), true, kind));
        self.attach(parent, name, ino);
        ino
    }

    /// An inode for a container's id, which no directory shows.
    pub fn insert_link(&mut self, id: &str, target: String) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        self.nodes.insert(ino, Node::new(ROOT, Arc::from(id), false, Kind::Link(target)));
        ino
    }

    /// Finds or makes the directory `path` below a container.
    pub fn directory(&mut self, container: Ino, path: &str) -> Ino {
        if path.is_empty() {
            return container;
        }
        if let Some(&ino) = self.container(container).and_then(|c| c.directories.get(path)) {
            return ino;
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        // No deeper than `names::DEPTH_MAX`.
        let parent = self.directory(container, parent);
        let node = DirectoryNode { container, path: path.to_owned(), children: Children::new() };
        self.insert(parent, name, Kind::Directory(node))
    }

    /// Whether an inode has a name.
    pub fn is_linked(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.linked)
    }

    /// Moves a file to a free name.
    pub fn rename(&mut self, ino: Ino, parent: Ino, name: &str) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        let (old_parent, old_name) = (node.parent, node.name.clone());
        let name: Arc<str> = Arc::from(name);
        node.parent = parent;
        node.name = name.clone();
        // Its `..` may be another.
        node.generation += 1;
        self.detach(old_parent, &old_name, ino);
        self.attach(parent, name, ino);
    }

    /// Moves a directory, with all directories below it, to a free name.
    pub fn rename_directory(&mut self, ino: Ino, parent: Ino, name: &str) {
        self.rename(ino, parent, name);
        let mut below = vec![ino];
        while let Some(at) = below.pop() {
            let path = self.path(at);
            let Some(node) = self.nodes.get_mut(&at) else { continue };
            let Kind::Directory(directory) = &mut node.kind else { continue };
            let old = std::mem::replace(&mut directory.path, path.clone());
            let container = directory.container;
            below.extend(directory.children.values().copied());
            if let Some(container) = self.container_mut(container) {
                if container.directories.get(&old) == Some(&at) {
                    container.directories.remove(&old);
                }
                container.directories.insert(path, at);
            }
        }
    }

    /// Records which version on the server a file stands for.
    pub fn set_server(&mut self, ino: Ino, file: Arc<File>) {
        let Some(node) = self.file_mut(ino) else { return };
        let (container, new) = (node.container, file.id.clone());
        let old = node.server.replace(file);
        node.settled = false;
        node.seen = None;
        let linked = self.is_linked(ino);
        let stray = self.container(container).and_then(|container| container.files.get(&new)).copied();
        if let Some(stray) = stray.filter(|stray| *stray != ino) {
            // A list was faster than the reply to the upload, and showed the version by itself.
            self.unlink(stray);
        }
        if let Some(container) = self.container_mut(container) {
            if let Some(old) = &old
                && container.files.get(&old.id) == Some(&ino)
            {
                container.files.remove(&old.id);
            }
            if linked {
                container.files.insert(new, ino);
            }
        }
        self.lets_go(container, old);
    }

    /// No list has shown a version, which was asked for by its id.
    pub fn unsettle(&mut self, container: Ino, id: &FileId) {
        let ino = self.container(container).and_then(|container| container.files.get(id)).copied();
        if let Some(file) = ino.and_then(|ino| self.file_mut(ino)) {
            file.settled = false;
        }
    }

    /// A file stands for itself from now on, and for no version on the server.
    pub fn forget_server(&mut self, ino: Ino) {
        let Some(node) = self.file_mut(ino) else { return };
        let (container, old) = (node.container, node.server.take());
        node.settled = false;
        node.seen = None;
        node.held = true;
        if let (Some(container), Some(old)) = (self.container_mut(container), &old)
            && container.files.get(&old.id) == Some(&ino)
        {
            container.files.remove(&old.id);
        }
        self.lets_go(container, old);
    }

    /// How many inodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() <= 1
    }

    /// Every file that a directory shows, with its inode.
    pub fn files(&self) -> impl Iterator<Item = (Ino, &FileNode)> {
        self.nodes.iter().filter(|(_, node)| node.linked).filter_map(|(ino, node)| Some((*ino, node.file()?)))
    }

    fn attach(&mut self, parent: Ino, name: Arc<str>, ino: Ino) {
        let is_directory = self.is_directory(ino);
        if let Some(node) = self.nodes.get_mut(&parent)
            && let Some(children) = node.children_mut()
        {
            children.insert(name, ino);
            node.subdirectories += u32::from(is_directory);
        }
        self.changed(parent);
    }

    pub(super) fn detach(&mut self, parent: Ino, name: &str, ino: Ino) {
        let is_directory = self.is_directory(ino);
        if let Some(node) = self.nodes.get_mut(&parent)
            && let Some(children) = node.children_mut()
            && children.get(name) == Some(&ino)
        {
            children.remove(name);
            node.subdirectories = node.subdirectories.saturating_sub(u32::from(is_directory));
        }
        self.changed(parent);
    }

    fn is_directory(&self, ino: Ino) -> bool {
        self.get(ino).is_some_and(|node| node.children().is_some())
    }

    /// What the first list shows has not changed; what comes and goes later has.
    fn changed(&mut self, directory: Ino) {
        let listed = match self.container_of(directory).and_then(|ino| self.container(ino)) {
            Some(container) => container.listed,
            None => self.listed,
        };
        if let Some(node) = self.nodes.get_mut(&directory) {
            node.generation += 1;
            if listed.is_some() {
                node.changed = Some(now());
            }
        }
    }

    /// Directories whose entries have changed under this mount, with when that was.
    pub fn changed_directories(&self) -> Vec<(Ino, i64)> {
        let linked = self.nodes.iter().filter(|(_, node)| node.linked);
        linked.filter_map(|(ino, node)| Some((*ino, node.changed?))).collect()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}
