use super::*;
use crate::namespace::container::Phantom;
use crate::namespace::records::Attributes;

struct Fixture {
    _dir: tempfile::TempDir,
    records: Records,
    tree: Tree,
}

fn container(id: &str, name: &str, status: &str, created_at: i64) -> Container {
    serde_json::from_value(
        serde_json::json!({"id": id, "name": name, "status": status, "created_at": created_at}),
    )
    .unwrap()
}

fn file(id: &str, path: &str, created_at: i64) -> File {
    serde_json::from_value(serde_json::json!({
        "id": id, "path": format!("/mnt/data/{path}"), "bytes": 3, "source": "assistant", "created_at": created_at,
    }))
    .unwrap()
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let tree = Tree::of_container(container("cntr_1", "c", "running", 1));
        Self { _dir: dir, records, tree }
    }

    fn list(&mut self, files: &[File]) -> Changes {
        apply_files(&mut self.tree, ROOT, files.to_vec(), Instant::now(), &self.records, &HashSet::new())
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut below = vec![ROOT];
        while let Some(at) = below.pop() {
            for ino in self.tree.get(at).unwrap().children().unwrap().values() {
                if self.tree.file(*ino).is_some() {
                    names.push(self.tree.path(*ino));
                } else {
                    below.push(*ino);
                }
            }
        }
        names.sort();
        names
    }

    fn ino(&self, name: &str) -> Ino {
        self.tree.child(ROOT, name).unwrap()
    }
}

#[test]
fn the_oldest_container_has_the_bare_name_and_expired_ones_are_not_shown() {
    let mut tree = Tree::new();
    let list = vec![
        container("cntr_cccccccc01", "auto", "running", 3),
        container("cntr_bbbbbbbb01", "auto", "expired", 2),
        container("cntr_aaaaaaaa01", "auto", "running", 1),
    ];
    apply_containers(&mut tree, &list, Instant::now());
    let names: Vec<_> = tree.get(ROOT).unwrap().children().unwrap().keys().cloned().collect();
    assert_eq!(names, [Arc::from("auto"), Arc::<str>::from("auto~cccccccc")]);
    // A name once given holds when the oldest is gone.
    apply_containers(&mut tree, &list[..1], Instant::now());
    let names: Vec<_> = tree.get(ROOT).unwrap().children().unwrap().keys().cloned().collect();
    assert_eq!(names, [Arc::<str>::from("auto~cccccccc")]);
}

#[test]
fn the_newest_of_several_files_has_the_bare_name_and_the_others_keep_theirs() {
    let mut fixture = Fixture::new();
    let (old, new) = (file("cfile_11111111", "x.csv", 1), file("cfile_22222222", "x.csv", 2));
    fixture.list(&[new, old.clone()]);
    assert_eq!(fixture.names(), ["x.csv", "x~11111111.csv"]);
    fixture.list(std::slice::from_ref(&old));
    assert_eq!(fixture.names(), ["x~11111111.csv"]);
}

#[test]
fn within_one_second_the_place_in_the_list_decides() {
    let mut fixture = Fixture::new();
    fixture.list(&[file("cfile_22222222", "x", 1), file("cfile_11111111", "x", 1)]);
    assert_eq!(fixture.names(), ["x", "x~11111111"]);
    assert_eq!(fixture.tree.file(fixture.ino("x")).unwrap().id().unwrap().as_str(), "cfile_22222222");
}

#[test]
fn a_file_makes_room_for_a_directory_of_its_name() {
    let mut fixture = Fixture::new();
    let a = file("cfile_11111111", "a", 1);
    fixture.list(std::slice::from_ref(&a));
    let ino = fixture.ino("a");
    fixture.list(&[file("cfile_22222222", "a/b", 2), a]);
    assert_eq!(fixture.names(), ["a/b", "a~11111111"]);
    assert_eq!(fixture.ino("a~11111111"), ino);
}

#[test]
fn a_tombstone_outlasts_a_list_that_lags() {
    let mut fixture = Fixture::new();
    let x = file("cfile_11111111", "x", 1);
    fixture.list(std::slice::from_ref(&x));
    fixture.records.bury(&"cntr_1".into(), &x.id);
    fixture.list(&[x]);
    assert!(fixture.names().is_empty());
}

#[test]
fn an_upload_stays_until_a_list_has_shown_it_once() {
    let mut fixture = Fixture::new();
    fixture.list(&[]);
    let x = file("cfile_11111111", "x", 1);
    let mut node = FileNode::listed(ROOT, Arc::new(x.clone()), Attributes::default(), Instant::now());
    node.settled = false;
    node.size_is_ours = true;
    fixture.tree.insert(ROOT, "x", Kind::File(Box::new(node)));
    assert_eq!(fixture.list(&[]).missing.len(), 1);
    assert_eq!(fixture.names(), ["x"]);
    fixture.list(&[x]);
    assert_eq!(fixture.names(), ["x"]);
    fixture.list(&[]);
    assert!(fixture.names().is_empty());
}

#[test]
fn a_newer_file_gets_the_bare_name_once_an_upload_that_no_list_has_shown_is_gone() {
    let mut fixture = Fixture::new();
    fixture.list(&[]);
    let ino = fixture.tree.insert(
        ROOT,
        "x.csv",
        Kind::File(Box::new(FileNode::new_here(ROOT, Attributes::default()))),
    );
    fixture.tree.set_server(ino, Arc::new(file("cfile_bbbbbbbb", "x.csv", 5)));
    fixture.tree.file_mut(ino).unwrap().held = false;
    let [newer, older] = [file("cfile_cccccccc", "x.csv", 5), file("cfile_aaaaaaaa", "x.csv", 4)];
    for _ in 0..2 {
        let changes = fixture.list(&[newer.clone(), older.clone()]);
        assert_eq!(changes.missing.len(), 1, "it is asked for");
        assert_eq!(fixture.names(), ["x.csv", "x~aaaaaaaa.csv", "x~cccccccc.csv"]);
        assert_eq!(fixture.ino("x.csv"), ino);
    }
    let theirs = fixture.ino("x~cccccccc.csv");
    fixture.tree.unlink(ino);
    fixture.list(&[newer, older.clone()]);
    assert_eq!(fixture.names(), ["x.csv", "x~aaaaaaaa.csv"], "what was older anyway keeps its name");
    assert_eq!(fixture.ino("x.csv"), theirs);
    fixture.list(&[older]);
    assert_eq!(fixture.names(), ["x~aaaaaaaa.csv"]);
}

#[test]
fn what_a_list_with_an_unread_item_misses_is_asked_for_first() {
    let mut fixture = Fixture::new();
    let (a, b) = (file("cfile_11111111", "a", 1), file("cfile_22222222", "b", 2));
    fixture.list(&[b.clone(), a.clone()]);
    let ino = fixture.ino("a");
    fixture.tree.container_mut(ROOT).unwrap().has_unread = true;
    // Another version of the one that may be gone has the bare name.
    let newer = file("cfile_33333333", "a", 3);
    let changes = fixture.list(&[newer, b.clone()]);
    assert_eq!(changes.missing, [(ino, a.id)]);
    assert_eq!(fixture.names(), ["a", "a~11111111", "b"]);
    assert_eq!(fixture.ino("a~11111111"), ino);
    fixture.tree.container_mut(ROOT).unwrap().has_unread = false;
    assert!(fixture.list(&[b]).missing.is_empty());
    assert_eq!(fixture.names(), ["b"]);
}

#[test]
fn what_a_list_with_an_unread_container_misses_stays() {
    let mut tree = Tree::new();
    let live = |id: &str, name: &str| container(id, name, "running", 1);
    apply_containers(&mut tree, &[live("c1", "a"), live("c2", "b"), live("c3", "c")], Instant::now());
    let shown = |tree: &Tree| tree.get(ROOT).unwrap().children().unwrap().keys().cloned().collect::<Vec<_>>();
    tree.has_unread = true;
    apply_containers(&mut tree, &[container("c2", "b", "expired", 1), live("c3", "c")], Instant::now());
    assert_eq!(shown(&tree), [Arc::from("a"), Arc::<str>::from("c")]);
    tree.has_unread = false;
    apply_containers(&mut tree, &[live("c3", "c")], Instant::now());
    assert_eq!(shown(&tree), [Arc::<str>::from("c")]);
}

#[test]
fn a_version_from_elsewhere_is_a_new_inode() {
    let mut fixture = Fixture::new();
    fixture.list(&[file("cfile_11111111", "x", 1)]);
    let first = fixture.ino("x");
    assert!(fixture.list(&[file("cfile_11111111", "x", 1)]).displaced.is_empty());
    assert_eq!(fixture.ino("x"), first);
    fixture.list(&[file("cfile_11111111", "x", 2)]);
    assert_ne!(fixture.ino("x"), first);
}

#[test]
fn a_strangers_file_beside_unsent_bytes_gets_the_made_up_name() {
    let mut fixture = Fixture::new();
    fixture.list(&[]);
    let mut node =
        FileNode::listed(ROOT, Arc::new(file("gone", "x", 1)), Attributes::default(), Instant::now());
    node.server = None;
    node.held = true;
    let ino = fixture.tree.insert(ROOT, "x", Kind::File(Box::new(node)));
    fixture.list(&[file("cfile_11111111", "x", 9)]);
    assert_eq!(fixture.names(), ["x", "x~11111111"]);
    assert_eq!(fixture.ino("x"), ino);
}

#[test]
fn inode_numbers_are_handed_out_in_sorted_order() {
    let mut fixture = Fixture::new();
    fixture.list(&[file("cfile_3", "c", 3), file("cfile_1", "a", 1), file("cfile_2", "b", 2)]);
    assert!(fixture.ino("a") < fixture.ino("b") && fixture.ino("b") < fixture.ino("c"));
}

#[test]
fn inode_numbers_follow_the_names_of_files_and_directories_alike() {
    let mut fixture = Fixture::new();
    fixture.records.set_directory(&"cntr_1".into(), "bb", true);
    let in_order = |fixture: &Fixture| {
        let mut below = vec![ROOT];
        while let Some(at) = below.pop() {
            let Some(children) = fixture.tree.get(at).unwrap().children() else { continue };
            let inos: Vec<Ino> = children.values().copied().collect();
            assert!(inos.is_sorted(), "{children:?}");
            below.extend(inos);
        }
        fixture.tree.get(ROOT).unwrap().children().unwrap().len()
    };
    let paths = ["e", "d/y", "b-1", "b/x/z", "c", "b/x-1", "b.txt", "a"];
    let files: Vec<File> = paths.iter().map(|path| file(&format!("cfile_{path}"), path, 1)).collect();
    fixture.list(&files);
    assert_eq!(in_order(&fixture), 8);
}

#[test]
fn a_made_up_name_is_not_made_up_again() {
    let mut fixture = Fixture::new();
    fixture.list(&[]);
    let ours = file("cfile_11111111", "x", 1);
    let mut node = FileNode::listed(ROOT, Arc::new(ours.clone()), Attributes::default(), Instant::now());
    node.size_is_ours = true;
    fixture.tree.insert(ROOT, "x", Kind::File(Box::new(node)));
    let strangers = file("cfile_22222222", "x", 2);
    for _ in 0..3 {
        fixture.list(&[strangers.clone(), ours.clone()]);
        assert_eq!(fixture.names(), ["x", "x~11111111"]);
    }
}

#[test]
fn a_list_asked_for_before_an_upload_landed_changes_nothing_of_it() {
    let mut fixture = Fixture::new();
    fixture.list(&[file("a", "f", 1)]);
    let (ino, asked) = (fixture.ino("f"), Instant::now());
    // A server that keeps the id: the list has the older length under it.
    fixture.tree.set_server(ino, Arc::new(file("a", "f", 2)));
    let node = fixture.tree.file_mut(ino).unwrap();
    (node.size, node.size_is_ours) = (Some((5, Instant::now())), true);
    let listed = vec![file("a", "f", 1)];
    apply_files(&mut fixture.tree, ROOT, listed.clone(), asked, &fixture.records, &HashSet::new());
    assert_eq!(fixture.ino("f"), ino);
    // Asked for later it tells of somebody else's change.
    fixture.list(&listed);
    assert_ne!(fixture.ino("f"), ino);
}

#[test]
fn a_made_up_name_is_never_one_that_is_taken() {
    let mut taken = std::collections::HashSet::new();
    for _ in 0..200 {
        let name = made_up("x.txt", "cfile_0123456789abcdef", |name| !taken.contains(name));
        assert!(taken.insert(name), "given out twice");
    }
}

#[test]
fn a_file_that_moves_out_of_a_directory_on_the_server_stays_in_sight() {
    let mut fixture = Fixture::new();
    fixture.list(&[file("c1", "d/x", 1)]);
    let ino = fixture.tree.child(fixture.ino("d"), "x").unwrap();
    for path in ["x", "x/y", "x/y/z", "x"] {
        fixture.list(&[file("c1", path, 1)]);
        assert_eq!(fixture.names(), [path]);
        assert_eq!(fixture.tree.file(ino).unwrap().id().unwrap().as_str(), "c1");
        assert_eq!(fixture.tree.path(ino), path);
    }
    fixture.list(&[]);
    assert_eq!(fixture.tree.len(), 1, "nothing is left");
}

#[test]
fn a_container_that_a_list_tells_twice_is_one() {
    let mut tree = Tree::new();
    let list = [
        container("c", "new", "running", 2),
        container("c", "old", "running", 1),
        container("d", "c", "running", 1),
    ];
    for _ in 0..2 {
        apply_containers(&mut tree, &list, Instant::now());
        let names: Vec<_> = tree.get(ROOT).unwrap().children().unwrap().keys().cloned().collect();
        assert_eq!(names, [Arc::from(format!("c~{}", names::short_id("d"))), Arc::<str>::from("new")]);
    }
}

#[test]
fn a_phantom_is_hidden_until_the_list_tells_another_version_of_it() {
    let mut fixture = Fixture::new();
    let told = |bytes: Option<u64>, created_at| File { bytes, ..file("cfile_1", "f", created_at) };
    let hide = |fixture: &mut Fixture, file: File| {
        let phantom = Phantom { file: Arc::new(file), asked: Instant::now() };
        let ino = fixture.ino("f");
        fixture.tree.container_mut(ROOT).unwrap().phantoms.insert(FileId::from("cfile_1"), phantom);
        fixture.tree.unlink(ino);
    };
    for now in [told(Some(60), 5), told(None, 12), told(Some(60), 12)] {
        fixture.list(&[told(None, 5)]);
        hide(&mut fixture, told(None, 5));
        fixture.list(&[told(None, 5)]);
        assert_eq!(fixture.names(), [""; 0]);
        fixture.list(&[now]);
        assert_eq!(fixture.names(), ["f"]);
        assert!(fixture.tree.container(ROOT).unwrap().phantoms.is_empty());
    }
}
