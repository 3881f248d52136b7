//! A list of files from the JSON of its pages to the tree.

use std::collections::HashSet;
use std::hint::black_box;
use std::time::Instant;

use containerfs::api::model::Page;
use containerfs::api::{Container, File};
use containerfs::namespace::inode::{ROOT, Tree};
use containerfs::namespace::listing;
use containerfs::namespace::records::Records;
use criterion::{BatchSize, Criterion, Throughput};
use serde_json::json;

/// Files of a page: the most that the API gives.
const PAGE: usize = 100;

/// Pages of the long list.
const PAGES: usize = 100;

fn page(number: usize) -> Vec<u8> {
    let id = |place: usize| format!("cfile_{:032x}", number * PAGE + place);
    let file = |place: usize| {
        json!({
            "id": id(place),
            "object": "container.file",
            "created_at": 1_790_000_000 - number * PAGE - place,
            "bytes": 4096,
            "container_id": "cntr_0123456789abcdef0123456789abcdef0123456789abcdef",
            "path": format!("/mnt/data/{:032x}-part{:02}%2Freport-{place:02}.csv", number + place, number),
            "source": "user",
        })
    };
    let data: Vec<_> = (0..PAGE).map(file).collect();
    let page = json!({
        "object": "list",
        "data": data,
        "first_id": id(0),
        "last_id": id(PAGE - 1),
        "has_more": number + 1 < PAGES,
    });
    page.to_string().into_bytes()
}

fn parsed(pages: &[Vec<u8>]) -> Vec<File> {
    let files = |page| serde_json::from_slice::<Page<File>>(page).unwrap().data;
    pages.iter().flat_map(|page| files(page)).collect()
}

fn empty_tree() -> Tree {
    let container = json!({ "id": "cntr_0", "name": "c", "status": "running", "created_at": 0 });
    Tree::of_container(serde_json::from_value::<Container>(container).unwrap())
}

pub(crate) fn all(criterion: &mut Criterion) {
    let pages: Vec<Vec<u8>> = (0..PAGES).map(page).collect();
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let replaced = HashSet::new();
    let apply = |tree: &mut Tree, files: Vec<File>| {
        let changes = listing::apply_files(tree, ROOT, files, Instant::now(), &records, &replaced);
        assert!(changes.displaced.is_empty() && changes.missing.is_empty());
    };
    let from_pages = |mut tree: Tree, pages: &[Vec<u8>]| {
        apply(&mut tree, parsed(black_box(pages)));
        tree
    };

    let mut group = criterion.benchmark_group("list");
    group.throughput(Throughput::Elements(PAGE as u64));
    group.bench_function("a page of 100 files, parsed", |bench| {
        bench.iter(|| parsed(black_box(&pages[..1])));
    });
    group.bench_function("a page of 100 files, to an empty tree", |bench| {
        bench.iter_batched(empty_tree, |tree| from_pages(tree, &pages[..1]), BatchSize::SmallInput);
    });
    group.sample_size(20).throughput(Throughput::Elements((PAGE * PAGES) as u64));
    group.bench_function("100 pages, to an empty tree", |bench| {
        bench.iter_batched(empty_tree, |tree| from_pages(tree, &pages), BatchSize::LargeInput);
    });
    group.bench_function("100 pages, to a tree that shows them", |bench| {
        let mut tree = from_pages(empty_tree(), &pages);
        bench.iter(|| apply(&mut tree, parsed(black_box(&pages))));
    });
    group.finish();
}
