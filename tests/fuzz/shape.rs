//! What holds for every tree of a mount, whatever it was made of.

use std::collections::BTreeMap;

use containerfs::namespace::inode::{Ino, Kind, ROOT, Tree};
use containerfs::namespace::names;

/// Whether a name can stand in a directory and on a terminal.
pub(crate) fn is_shown(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= names::NAME_MAX
        && !name.contains('/')
        && !name.chars().any(names::is_unsafe)
}

/// Every path below the root with its inode; the names are safe, and the tree is one.
pub(crate) fn checked(tree: &Tree) -> BTreeMap<String, Ino> {
    let mut paths = BTreeMap::new();
    let mut below = vec![(ROOT, String::new())];
    while let Some((directory, path)) = below.pop() {
        let node = tree.get(directory).expect("a directory has a node");
        let mut subdirectories = 0;
        for (name, &ino) in node.children().into_iter().flatten() {
            assert!(is_shown(name), "{name:?} is shown in {path:?}");
            let child = tree.get(ino).expect("an entry has a node");
            assert_eq!((child.parent, &child.name, child.linked), (directory, name, true));
            assert_eq!(tree.child(directory, name), Some(ino));
            let path = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            if tree.container_of(ROOT).is_some() {
                assert_eq!(tree.path(ino), path);
            }
            match &child.kind {
                Kind::Directory(directory) => {
                    assert_eq!(directory.path, tree.path(ino));
                    let known = &tree.container(directory.container).unwrap().directories;
                    assert_eq!(known.get(&directory.path), Some(&ino));
                    below.push((ino, path.clone()));
                }
                Kind::Container(container) => {
                    assert_eq!(tree.containers.get(&container.container.id), Some(&ino));
                    below.push((ino, path.clone()));
                }
                _ => {}
            }
            subdirectories += u32::from(child.children().is_some());
            assert!(paths.insert(path, ino).is_none());
        }
        assert_eq!(node.subdirectories, subdirectories, "of {path:?}");
    }
    // Nobody holds anything open: what is not shown is not kept.
    assert_eq!(paths.len() + 1, tree.len(), "nodes that no directory shows");
    paths
}

/// How often the entries of each directory have changed.
pub(crate) fn generations(tree: &Tree) -> BTreeMap<Ino, u64> {
    let shown = checked(tree).into_values().chain([ROOT]);
    shown.filter_map(|ino| Some((ino, tree.get(ino)?.generation))).collect()
}
