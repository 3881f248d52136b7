//! Lays a fetched list over the tree.
//!
//! What a list says is right but for three things: it may lag behind a deletion (tombstones), it may lag
//! behind an upload (a version that was uploaded here stays until a list has shown it once), and it knows
//! nothing of bytes that are still here (`held`). What it misses is not gone if it holds items that could not
//! be read. Who has the bare name among several files of one path is decided here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::api::{Container, ContainerId, File, FileId};
use crate::namespace::container::ContainerNode;
use crate::namespace::inode::{FileNode, Ino, Kind, ROOT, Tree};
use crate::namespace::listed::Listed;
use crate::namespace::names;
use crate::namespace::records::{ContainerRecords, Records};

/// What a list changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Inodes whose name is no more, or means another one. New names are not told: the kernel remembers an
    /// absence no longer than the list that told it.
    pub displaced: Vec<Ino>,
    /// Versions that a list does not show and that may be there all the same; the caller asks for them by
    /// id.
    pub missing: Vec<(Ino, FileId)>,
}

/// Who a shown path belongs to.
#[derive(Clone)]
enum Owner {
    /// A node that exists: held bytes, or the same version as before.
    Node(Ino),
    /// A version that is new here.
    New(Arc<File>),
}

struct Candidate {
    path: String,
    id: Option<FileId>,
    owner: Owner,
    /// Sorts newest first: held, then not yet listed, then by `created_at` and place in the list.
    rank: (u8, std::cmp::Reverse<i64>, usize),
    sticky: bool,
}

/// Lays a list of containers, newest first, over the root.
pub fn apply_containers(tree: &mut Tree, containers: &[Container], started: Instant) -> Changes {
    let mut changes = Changes::default();
    let mut ids: HashSet<&str> = HashSet::new();
    let once = containers.iter().filter(|container| ids.insert(container.id.as_str()));
    let mut live: Vec<&Container> = once.filter(|container| container.is_live()).collect();
    live.reverse();
    live.sort_by_key(|c| c.created_at);

    let alive: HashSet<&ContainerId> = live.iter().map(|c| &c.id).collect();
    let may_be_missing = |ino: Ino| tree.has_unread || tree.container(ino).is_some_and(|node| !node.settled);
    let is_gone = |(id, ino): &(&ContainerId, &Ino)| {
        !alive.contains(id) && (ids.contains(id.as_str()) || !may_be_missing(**ino))
    };
    let gone: Vec<Ino> = tree.containers.iter().filter(is_gone).map(|(_, ino)| *ino).collect();
    for ino in gone {
        changes.displaced.push(ino);
        tree.unlink(ino);
    }

    let mut newcomers = Vec::new();
    for container in live {
        if let Some(node) =
            tree.containers.get(&container.id).copied().and_then(|ino| tree.container_mut(ino))
        {
            node.container = container.clone();
            node.settled = true;
        } else {
            newcomers.push(container);
        }
    }
    let mut named: BTreeMap<String, &Container> = BTreeMap::new();
    for container in newcomers {
        let bare = names::safe_component(&container.name, &container.name);
        let free =
            |name: &str| tree.child(ROOT, name).is_none() && !named.contains_key(name) && !ids.contains(name);
        let name = if free(&bare) { bare } else { made_up(&bare, container.id.as_str(), free) };
        named.insert(name, container);
    }
    for (name, container) in named {
        tree.insert(ROOT, &name, Kind::Container(Box::new(ContainerNode::new(container.clone()))));
    }
    tree.listed = Some(Listed::now(started));
    changes
}

/// Lays a list of files, newest first, over a container. Saves under way will replace the versions
/// `replaced`.
pub fn apply_files(
    tree: &mut Tree,
    container: Ino,
    files: Vec<File>,
    started: Instant,
    records: &Records,
    replaced: &HashSet<FileId>,
) -> Changes {
    let mut changes = Changes::default();
    let Some(node) = tree.container(container) else { return changes };
    let no_records = ContainerRecords::default();
    let known = records.container(&node.container.id).unwrap_or(&no_records);

    let mut listed = HashSet::new();
    let mut candidates = Vec::new();
    let mut stale = Vec::new();
    let mut phantoms = HashSet::new();
    for (place, file) in files.into_iter().enumerate() {
        let shown_elsewhere = node.files.contains_key(&file.id);
        let is_phantom = node.phantoms.get(&file.id).is_some_and(|phantom| phantom.is(&file));
        if is_phantom {
            phantoms.insert(file.id.clone());
        }
        let hidden = known.tombstones.contains(&file.id)
            || is_phantom
            || (replaced.contains(&file.id) && !shown_elsewhere);
        if hidden || !listed.insert(file.id.clone()) {
            continue;
        }
        let existing = node.files.get(&file.id).copied();
        let sticky = node.suffixed.contains(&file.id);
        let rank = (2, std::cmp::Reverse(file.created_at), place);
        let id = Some(file.id.clone());
        match existing.and_then(|ino| Some((ino, tree.file(ino)?))) {
            Some((ino, shown))
                if shown.held || landed_since(shown, started) || is_same_version(shown, &file) =>
            {
                let path = own_path(tree, ino, shown, &file, known);
                let rank = if shown.held { (0, rank.1, place) } else { rank };
                // Where it lies already is its name, made up or not.
                let sticky = sticky && path != tree.path(ino);
                candidates.push(Candidate { path, id, owner: Owner::Node(ino), rank, sticky });
            }
            other => {
                stale.extend(other.map(|(ino, _)| ino));
                let path = listed_path(&file, known);
                candidates.push(Candidate { path, id, owner: Owner::New(Arc::new(file)), rank, sticky });
            }
        }
    }
    // When what was uploaded here and no list has shown was made: it may be gone.
    let mut unlisted = HashMap::new();
    let mut gone = stale;
    for (ino, shown) in tree.files().filter(|(_, file)| file.container == container) {
        if shown.id().is_some_and(|id| listed.contains(id)) {
            continue;
        }
        let id = shown.id().cloned();
        if let Some(file) =
            shown.server.as_deref().filter(|_| node.has_unread && shown.settled && !shown.held)
        {
            changes.missing.push((ino, file.id.clone()));
            let rank = (2, std::cmp::Reverse(file.created_at), usize::MAX);
            let path = own_path(tree, ino, shown, file, known);
            let sticky = node.suffixed.contains(&file.id) && path != tree.path(ino);
            candidates.push(Candidate { path, id, owner: Owner::Node(ino), rank, sticky });
            continue;
        }
        let unsettled = !shown.settled && shown.server.is_some();
        if !shown.held && !unsettled {
            gone.push(ino);
            continue;
        }
        if !shown.held
            && let Some(id) = &id
        {
            changes.missing.push((ino, id.clone()));
        }
        let rank = (u8::from(!shown.held), std::cmp::Reverse(i64::MAX), 0);
        let path = tree.path(ino);
        if let Some(server) = shown.server.as_ref().filter(|_| !shown.held) {
            unlisted.insert(path.clone(), server.created_at);
        }
        candidates.push(Candidate { path, id, owner: Owner::Node(ino), rank, sticky: false });
    }
    gone.sort_unstable();

    let (shown, suffixed) = assign(candidates, &known.directories, &unlisted);
    for ino in gone {
        changes.displaced.push(ino);
        tree.unlink(ino);
    }
    let moves = set_aside(tree, container, &shown, &mut changes);
    let directories = settle_directories(tree, container, &shown, known, &mut changes);
    place(tree, container, shown, directories, &listed, known, started);
    for (ino, path) in moves {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path.as_str()));
        let parent = tree.directory(container, parent);
        tree.rename(ino, parent, name);
    }
    if let Some(node) = tree.container_mut(container) {
        node.suffixed.extend(suffixed);
        // What is neither listed nor shown needs no name any more.
        let files = &node.files;
        node.suffixed.retain(|id| listed.contains(id) || files.contains_key(id));
        node.phantoms.retain(|id, _| phantoms.contains(id));
        node.listed = Some(Listed::now(started));
    }
    changes
}

/// A made-up name for what cannot have `name`: `name~<8 hex>`, with the id's own digits if they are free.
pub fn made_up(name: &str, id: &str, free: impl Fn(&str) -> bool) -> String {
    let salted = (0_u32..).map(|salt| names::hashed_id(&format!("{id}#{salt}")));
    let mut tags = [names::short_id(id), names::hashed_id(id)].into_iter().chain(salted);
    tags.find_map(|tag| Some(names::tagged(name, &tag)).filter(|name| free(name)))
        .expect("there are more tags than a list has files")
}

/// Whether a version was uploaded here after the list was asked for, which may know the one before under the
/// same id.
fn landed_since(shown: &FileNode, started: Instant) -> bool {
    shown.size_is_ours && shown.size.is_some_and(|(_, landed)| landed >= started)
}

fn is_same_version(shown: &FileNode, file: &File) -> bool {
    let Some(server) = &shown.server else { return false };
    // The reply to an upload and the list may disagree on the second, not on the length.
    let same_time = server.created_at == file.created_at || shown.size_is_ours;
    let same_size = match (file.bytes, shown.size) {
        (Some(bytes), Some((size, _))) => bytes == size,
        _ => true,
    };
    same_time && same_size
}

fn listed_path(file: &File, known: &ContainerRecords) -> String {
    match known.paths.get(&file.id) {
        Some(path) => names::components(path).join("/"),
        None => names::shown_path(file).join("/"),
    }
}

/// A node's path for the assignment: where it lies now, unless it lies there under a made-up name.
fn own_path(tree: &Tree, ino: Ino, shown: &FileNode, file: &File, known: &ContainerRecords) -> String {
    if shown.held || shown.size_is_ours { tree.path(ino) } else { listed_path(file, known) }
}

/// Gives each candidate its shown path. Also returns the ids of those that got a made-up one for good: what is
/// no older than an upload of ours that may be gone has to wait for what becomes of that.
fn assign(
    mut candidates: Vec<Candidate>,
    directories: &BTreeSet<String>,
    unlisted: &HashMap<String, i64>,
) -> (BTreeMap<String, Owner>, Vec<FileId>) {
    candidates.sort_by_key(|candidate| candidate.rank);
    let mut parents: HashSet<String> = HashSet::new();
    let ancestors = |path: &str, parents: &mut HashSet<String>| {
        let mut path = path;
        while let Some((parent, _)) = path.rsplit_once('/') {
            if !parents.insert(parent.to_owned()) {
                break;
            }
            path = parent;
        }
    };
    for candidate in &candidates {
        ancestors(&candidate.path, &mut parents);
    }
    for directory in directories {
        ancestors(directory, &mut parents);
        parents.insert(directory.clone());
    }
    let mut shown: BTreeMap<String, Owner> = BTreeMap::new();
    let mut suffixed = Vec::new();
    let mut rest = Vec::new();
    for candidate in candidates {
        if candidate.sticky || parents.contains(&candidate.path) || shown.contains_key(&candidate.path) {
            rest.push(candidate);
        } else {
            shown.insert(candidate.path, candidate.owner);
        }
    }
    for candidate in rest {
        let (parent, name) = candidate.path.rsplit_once('/').unwrap_or(("", &candidate.path));
        let full = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        let id = candidate.id.as_ref().map_or(candidate.path.as_str(), FileId::as_str);
        let free = |name: &str| {
            let path = full(name);
            !shown.contains_key(&path) && !parents.contains(&path)
        };
        let path = full(&made_up(name, id, free));
        let waits = unlisted.get(&candidate.path).is_some_and(|made| candidate.rank.1.0 >= *made);
        suffixed.extend(candidate.id.filter(|_| candidate.sticky || !waits));
        shown.insert(path, candidate.owner);
    }
    (shown, suffixed)
}

/// Removes the directories that nothing keeps. Returns those that are to be made.
fn settle_directories(
    tree: &mut Tree,
    container: Ino,
    shown: &BTreeMap<String, Owner>,
    known: &ContainerRecords,
    changes: &mut Changes,
) -> Vec<String> {
    let mut needed: BTreeSet<&str> = known.directories.iter().map(String::as_str).collect();
    for path in shown.keys().map(String::as_str).chain(known.directories.iter().map(String::as_str)) {
        let mut path = path;
        while let Some((parent, _)) = path.rsplit_once('/') {
            if !needed.insert(parent) {
                break;
            }
            path = parent;
        }
    }
    let present: HashMap<String, Ino> =
        tree.container(container).map(|node| node.directories.clone()).unwrap_or_default();
    let mut surplus: Vec<(&String, Ino)> =
        present.iter().filter(|(path, _)| !needed.contains(path.as_str())).map(|(p, i)| (p, *i)).collect();
    surplus.sort_by(|a, b| b.0.cmp(a.0));
    for (_, ino) in surplus {
        changes.displaced.push(ino);
        tree.unlink(ino);
    }
    needed.into_iter().filter(|path| !present.contains_key(*path)).map(str::to_owned).collect()
}

/// Takes files out of the way that are shown elsewhere from now on, so that two can swap names, and out of
/// directories that go. Returns where they belong.
fn set_aside(
    tree: &mut Tree,
    container: Ino,
    shown: &BTreeMap<String, Owner>,
    changes: &mut Changes,
) -> Vec<(Ino, String)> {
    let mut moves = Vec::new();
    for (path, owner) in shown {
        let Owner::Node(ino) = owner else { continue };
        if tree.path(*ino) != *path {
            changes.displaced.push(*ino);
            tree.rename(*ino, container, &format!("\0{}", ino.0));
            moves.push((*ino, path.clone()));
        }
    }
    moves
}

/// Notes what the list says of files that were shown before, and shows the new ones and the new directories.
/// Within each directory inode numbers follow the names.
fn place(
    tree: &mut Tree,
    container: Ino,
    shown: BTreeMap<String, Owner>,
    directories: Vec<String>,
    listed: &HashSet<FileId>,
    known: &ContainerRecords,
    started: Instant,
) {
    let none_made = directories.is_empty();
    let mut new: Vec<(String, Option<Arc<File>>)> =
        directories.into_iter().map(|path| (path, None)).collect();
    for (path, owner) in shown {
        match owner {
            Owner::Node(ino) => {
                if let Some(file) = tree.file_mut(ino)
                    && file.id().is_some_and(|id| listed.contains(id))
                {
                    file.settled = true;
                    file.seen = Some(started);
                }
            }
            Owner::New(file) => new.push((path, Some(file))),
        }
    }
    // Paths as they are compare like names among files, and not between a directory and `directory-1`.
    if !none_made {
        new.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    }
    for (path, file) in new {
        let Some(file) = file else {
            tree.directory(container, &path);
            continue;
        };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = tree.directory(container, parent);
        let attributes = known.attributes.get(&file.id).copied().unwrap_or_default();
        let node = FileNode::listed(container, file, attributes, started);
        tree.insert(parent, name, Kind::File(Box::new(node)));
    }
}

#[cfg(test)]
mod tests;
