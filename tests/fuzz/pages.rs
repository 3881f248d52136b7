//! Lists of files and containers from a server that is hostile, broken or merely another one.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use containerfs::api::model::Page;
use containerfs::api::{Container, File, FileId};
use containerfs::namespace::inode::{ROOT, Tree};
use containerfs::namespace::listing;
use containerfs::namespace::names;
use containerfs::namespace::records::Records;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::engine::fuzz;
use crate::shape;

/// Lays each line, which is a page, over what the lines before it made.
fn case(input: &[u8], records: &Records) {
    let container = serde_json::from_value(json!({"id": "cntr_1", "name": "c"})).unwrap();
    let (mut files, mut containers) = (Tree::of_container(container), Tree::new());
    for line in String::from_utf8_lossy(input).split('\n') {
        if let Ok(page) = serde_json::from_str::<Page<File>>(line) {
            assert_eq!(page.data.len(), with_ids(line).unwrap_or(page.data.len()), "what has an id is read");
            lay_files(&mut files, &page.data, records);
        }
        if let Ok(page) = serde_json::from_str::<Page<Container>>(line) {
            lay_containers(&mut containers, &page.data);
        }
    }
}

/// How many items of a page have an id.
fn with_ids(page: &str) -> Option<usize> {
    let page: Value = serde_json::from_str(page).ok()?;
    Some(page["data"].as_array()?.iter().filter(|item| item["id"].is_string()).count())
}

fn lay_files(tree: &mut Tree, page: &[File], records: &Records) {
    let mut lay = || {
        let changes =
            listing::apply_files(tree, ROOT, page.to_vec(), Instant::now(), records, &HashSet::new());
        let container = tree.container(ROOT).unwrap();
        let shown = shape::checked(tree);
        let listed: BTreeSet<&FileId> = page.iter().map(|file| &file.id).collect();
        let with_files: BTreeSet<&FileId> = shown.values().filter_map(|ino| tree.file(*ino)?.id()).collect();
        assert_eq!(with_files, listed, "each file is shown");
        assert_eq!(container.files.len(), listed.len());
        let files = shown.values().filter(|ino| tree.file(**ino).is_some()).count();
        assert_eq!(files, listed.len(), "each file is shown once");
        for path in shown.keys() {
            assert!(path.len() <= names::PATH_MAX + 9 && path.split('/').count() <= names::DEPTH_MAX);
        }
        let generations = shape::generations(tree);
        (shown, generations, changes)
    };
    let (first, generations, _) = lay();
    let (again, same_generations, changes) = lay();
    assert_eq!(first, again, "the same page twice changes nothing");
    assert!(changes.displaced.is_empty() && changes.missing.is_empty());
    assert_eq!(generations, same_generations);
}

fn lay_containers(tree: &mut Tree, page: &[Container]) {
    listing::apply_containers(tree, page, Instant::now());
    let (shown, generations) = (shape::checked(tree), shape::generations(tree));
    let live = live_in(page);
    assert_eq!(shown.len(), live.len(), "each live container is shown once");
    assert_eq!(tree.containers.len(), live.len());
    let changes = listing::apply_containers(tree, page, Instant::now());
    assert_eq!(shape::checked(tree), shown, "the same page twice changes nothing");
    assert!(changes.displaced.is_empty());
    assert_eq!(shape::generations(tree), generations);
}

/// Of a container that is told twice, what is told first counts.
fn live_in(page: &[Container]) -> BTreeSet<&str> {
    let mut known = HashSet::new();
    let once = page.iter().filter(|container| known.insert(&container.id));
    once.filter(|container| container.is_live()).map(|container| container.id.as_str()).collect()
}

/// Parts of paths: a few that meet often, and what no filesystem takes.
pub(crate) fn part() -> impl Strategy<Value = String> {
    let long = || (200..400_usize, prop::sample::select(vec!["x", "é", ".", "\u{1F600}"]));
    prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "a.txt", "a~0b1c2d3e", "a~0b1c2d3e.txt"]).prop_map(str::to_owned),
        3 => prop::sample::select(vec!["", ".", "..", "%2F", "a%2Fb", "%2f..", "~", "-", "a b", "mnt", "data"])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\0", "a\n", "\u{1b}[2J", "\u{202e}x", "\u{feff}", "\u{85}"])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec!["\u{200c}", "👩\u{200d}👧", "a\u{200f}", "\u{2028}", "\u{2069}"])
            .prop_map(str::to_owned),
        1 => ("[0-9a-f]{32}", "-[ab]?").prop_map(|(hex, rest)| hex + &rest),
        1 => long().prop_map(|(times, of)| of.repeat(times)),
        1 => ".{0,6}",
    ]
}

/// Paths as a server may tell them.
pub(crate) fn path() -> impl Strategy<Value = String> {
    let prefix = prop::sample::select(vec!["/mnt/data/", "/mnt/data/", "/mnt/data", "/", "", "/tmp/", "//"]);
    let parts = prop_oneof![
        60 => prop::collection::vec(part(), 0..4).prop_map(|parts| parts.join("/")),
        3 => (part(), 1..300_usize).prop_map(|(part, times)| vec![part; times].join("/")),
        1 => (1..10_000_usize).prop_map(|times| "a/".repeat(times)),
    ];
    (prefix, parts).prop_map(|(prefix, parts)| format!("{prefix}{parts}"))
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0..6_u8).prop_map(|id| format!("cfile_0b1c2d3{id}")),
        2 => (0..3_u8).prop_map(|id| format!("cfile_0b1c2d3e{id}")),
        1 => part(),
    ]
}

/// A value of a field: mostly the right one.
fn field(right: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    let wrong = prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!([]),
        json!({}),
        json!([[[]]]),
    ]);
    prop_oneof![20 => right.prop_map(Some), 1 => wrong.prop_map(Some), 1 => Just(None)]
}

fn item() -> impl Strategy<Value = Value> {
    let fields = (
        field(id().prop_map(Value::from)),
        field(path().prop_map(Value::from)),
        field(part().prop_map(Value::from)),
        field(prop::sample::select(vec!["user", "assistant", "odd"]).prop_map(Value::from)),
        field(prop::sample::select(vec!["running", "expired", "DELETED", ""]).prop_map(Value::from)),
        field((0..3_i64).prop_map(Value::from)),
        field((0..9_u64).prop_map(Value::from)),
    );
    let object = fields.prop_map(|(id, path, name, source, status, created_at, bytes)| {
        let fields = [
            ("id", id),
            ("path", path),
            ("name", name),
            ("source", source),
            ("status", status),
            ("created_at", created_at),
            ("bytes", bytes),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    });
    prop_oneof![40 => object, 1 => prop::sample::select(vec![json!(null), json!(7), json!("x"), json!([])])]
}

fn page() -> impl Strategy<Value = Vec<u8>> {
    let pages = prop::collection::vec(prop::collection::vec(item(), 0..8), 1..4);
    pages.prop_map(|pages| {
        let lines = pages.into_iter().map(|data| json!({"object": "list", "data": data}).to_string());
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    })
}

#[test]
fn whatever_a_list_says_each_file_has_one_safe_name() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    fuzz("pages", page().boxed(), |input| case(input, &records));
}
