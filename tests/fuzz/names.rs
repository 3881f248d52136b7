//! Names both ways: what is shown for a server's path, and what an upload of a shown name comes back as.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use containerfs::api::File;
use containerfs::namespace::{listing, names};
use proptest::prelude::*;

use crate::engine::fuzz;
use crate::pages;
use crate::shape;

fn file(path: &str, source: &str) -> File {
    File {
        id: "cfile_1".into(),
        path: path.to_owned(),
        bytes: None,
        source: source.to_owned(),
        created_at: 0,
    }
}

fn case(input: &[u8]) {
    let path = String::from_utf8_lossy(input);
    for source in ["user", "assistant", ""] {
        let shown = names::shown_path(&file(&path, source));
        check(&shown);
        assert_eq!(names::shown_path(&file(&path, source)), shown);
        // What is remembered of it comes back as it was.
        assert_eq!(names::components(&shown.join("/")), shown);
    }
    check(&names::components(&path));
    for part in path.split('/').take(8) {
        let safe = names::safe_component(part, &path);
        assert!(shape::is_shown(&safe), "{part:?} became {safe:?}");
        assert_eq!(names::safe_component(&safe, "something else"), safe);
        let made_up = listing::made_up(&safe, &path, |name| name != safe);
        assert!(shape::is_shown(&made_up) && made_up != safe);
    }
    there_and_back(input);
}

/// Shown paths lie below what shows them, and no deeper than a path can be.
fn check(shown: &[String]) {
    assert!(!shown.is_empty() && shown.len() <= names::DEPTH_MAX, "{} parts", shown.len());
    assert!(shown.iter().all(|part| shape::is_shown(part)), "{shown:?}");
    let path = shown.join("/");
    assert!(path.len() <= names::PATH_MAX, "{} bytes", path.len());
    let inside = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
    assert!(inside && Path::new(&path).components().count() == shown.len());
}

/// A path that can be made here is shown again as it was made, whether the server keeps directories or not.
fn there_and_back(input: &[u8]) {
    let parts: Result<Vec<&str>, _> =
        input.split(|byte| *byte == b'/').map(|part| names::creatable(OsStr::from_bytes(part))).collect();
    let Ok(parts) = parts else { return };
    let path = parts.join("/");
    if names::components(&path) != parts {
        assert!(parts.len() > names::DEPTH_MAX || path.len() > names::PATH_MAX);
        return;
    }
    for keeps_directories in [true, false] {
        let sent = names::upload_name(&path, keeps_directories);
        assert!(keeps_directories || !sent.contains('/'));
        let kept = format!("/mnt/data/0123456789abcdef0123456789abcdef-{sent}");
        assert_eq!(names::shown_path(&file(&kept, "user")), parts);
    }
}

#[test]
fn every_path_is_shown_inside_and_every_name_comes_back() {
    let raw = prop_oneof![
        3 => pages::path().prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    fuzz("names", raw.boxed(), case);
}
