//! Server path to shown name, and shown name to the name of an upload.

use std::ffi::OsStr;
use std::hint::black_box;

use containerfs::api::File;
use containerfs::namespace::names;
use criterion::Criterion;

fn file(path: &str, source: &str) -> File {
    let id = "cfile_0123456789abcdef0123456789abcdef".into();
    File { id, path: path.to_owned(), bytes: Some(1), source: source.to_owned(), created_at: 0 }
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shown name");
    let prefix = "0123456789abcdef0123456789abcdef-";
    for (told, file) in [
        ("of what the model wrote", file("/mnt/data/report.csv", "assistant")),
        ("of an upload", file(&format!("/mnt/data/{prefix}report.csv"), "user")),
        (
            "of an upload in a directory",
            file(&format!("/mnt/data/{prefix}plots%2F2026%2Freport.csv"), "user"),
        ),
        ("of a hostile path", file("/mnt/data/../plots/\u{202e}report\n.csv", "assistant")),
    ] {
        group.bench_function(told, |bench| bench.iter(|| names::shown_path(black_box(&file))));
    }
    group.finish();
    let mut group = criterion.benchmark_group("upload name");
    for (told, keeps) in [("where the server keeps directories", true), ("where it does not", false)] {
        group.bench_function(told, |bench| {
            bench.iter(|| {
                let name = names::creatable(black_box(OsStr::new("report.csv"))).unwrap();
                names::upload_name(&format!("plots/2026/{name}"), keeps)
            });
        });
    }
    group.finish();
}
