use std::fs;
use std::io::Write;
use std::path::Path;

use super::*;
use crate::emulator::{Profile, ReplaceByName};

fn open(dir: &Path, quirks: Quirks) -> Store {
    Store::open(Some(dir), quirks).unwrap()
}

fn contents(store: &Store, container: &str) -> Vec<(StoredFile, Vec<u8>)> {
    let files = store.files(container).into_iter();
    files
        .map(|file| (store.content(container, &file.id).unwrap(), file))
        .map(|(bytes, file)| (file, bytes))
        .collect()
}

#[test]
fn every_change_is_on_disk_before_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let quirks = Quirks { replace_by_name: ReplaceByName::SameId, ..Quirks::for_profile(Profile::Plain) };
    let store = open(dir.path(), quirks.clone());
    let container = store.create_container("c");
    store.put_many(&container, (0..10).map(|n| (format!("/mnt/data/{n}"), vec![n; 5])));
    let upload = store.put_upload(&container, "x", b"one");
    assert_eq!(store.put_upload(&container, "x", &[2; 40_000]), upload);
    let model = store.put_model_file(&container, "/mnt/data/m", b"m");
    store.rewrite_model_file(&container, &model, b"again");
    let first = store.files(&container)[0].id.clone();
    store.delete_file(&container, &first);
    let before = contents(&store, &container);
    assert_eq!(before.len(), 11);

    // The second opening is what a new process finds after the first one was killed: nothing of the first has
    // ended.
    let again = open(dir.path(), quirks);
    assert_eq!(contents(&again, &container), before);
}

#[test]
fn a_torn_line_costs_nothing_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    let quirks = Quirks::for_profile(Profile::Plain);
    let store = open(dir.path(), quirks.clone());
    let container = store.create_container("c");
    store.put_model_file(&container, "/mnt/data/a", b"a");
    let before = contents(&store, &container);
    let log = dir.path().join("containers").join(&container).join("changes.jsonl");
    let mut log = fs::OpenOptions::new().append(true).open(log).unwrap();
    log.write_all(b"{\"put\":{\"seq\":9,").unwrap();

    let again = open(dir.path(), quirks.clone());
    assert_eq!(contents(&again, &container), before);
    again.put_model_file(&container, "/mnt/data/b", b"b");
    assert_eq!(contents(&open(dir.path(), quirks), &container).len(), 2);
}

#[test]
fn a_long_log_is_folded_and_deleted_files_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Quirks::for_profile(Profile::Plain));
    let container = store.create_container("c");
    for _ in 0..600 {
        let id = store.put_model_file(&container, "/mnt/data/a", b"a");
        store.delete_file(&container, &id);
    }
    let home = dir.path().join("containers").join(&container);
    let log = fs::read_to_string(home.join("changes.jsonl")).unwrap();
    assert!(log.lines().count() < 1000, "{}", log.lines().count());
    assert_eq!(fs::read_dir(home.join("content")).unwrap().count(), 0);
    store.delete_container(&container);
    assert!(!home.exists());
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn names_on_disk_are_never_a_users() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Quirks::for_profile(Profile::Plain));
    let container = store.create_container("../../escape");
    store.put_upload(&container, "../../../evil", b"x");
    store.put_model_file(&container, "/../evil", b"x");
    let content = dir.path().join("containers").join(&container).join("content");
    for item in fs::read_dir(content).unwrap() {
        assert!(item.unwrap().file_name().to_str().unwrap().starts_with("cfile_"));
    }
}

#[test]
fn a_temporary_store_goes_with_its_last_handle() {
    let store = Store::open(None, Quirks::for_profile(Profile::Openai)).unwrap();
    let container = store.create_container("c");
    let id = store.put_model_file(&container, "/mnt/data/large", &[1; 100_000]);
    let Content::OnDisk(path) = store.content_of(&container, &id).unwrap() else {
        panic!("large files are on disk")
    };
    let other = store.clone();
    drop(store);
    assert!(path.exists());
    drop(other);
    assert!(!path.exists());
}

#[test]
fn ten_thousand_files_are_quick() {
    let store = Store::open(None, Quirks::for_profile(Profile::Openai)).unwrap();
    let container = store.create_container("c");
    let start = std::time::Instant::now();
    let ids = store.put_many(&container, (0..10_000).map(|n| (format!("/mnt/data/{n}"), [0_u8; 100])));
    assert!(ids.len() == 10_000 && start.elapsed() < Duration::from_secs(5));
    store.expire_container(&container);
    assert!(store.files(&container).is_empty() && store.containers()[0].is_expired());
}

#[test]
fn a_server_that_was_killed_remembers_use_and_its_absence_expires_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let quirks = Quirks { expire_after_use: true, ..Quirks::for_profile(Profile::Openai) };
    let store = open(dir.path(), quirks.clone());
    let container = store.create_container("c");
    let made = store.containers()[0].last_active_at;
    store.advance_clock(Duration::from_secs(600));
    store.put_model_file(&container, "/mnt/data/a", b"a");

    // Nothing of the first store has ended.
    let again = open(dir.path(), quirks.clone());
    assert!(again.containers()[0].last_active_at >= made + 600);
    again.advance_clock(Duration::from_secs(29 * 60));
    assert!(again.retrieve_container(&container).is_ok(), "nobody could use it while there was no server");

    let snapshot = dir.path().join("containers").join(&container).join("container.json");
    drop(again);
    drop(store);
    let long_ago = fs::read_to_string(&snapshot).unwrap();
    let used = open(dir.path(), quirks.clone()).containers()[0].last_active_at;
    fs::write(&snapshot, long_ago.replace(&format!("\"last_active_at\":{used}"), "\"last_active_at\":1000"))
        .unwrap();
    let _ = fs::remove_file(snapshot.with_file_name("changes.jsonl"));
    let back = open(dir.path(), quirks);
    assert!(back.containers()[0].last_active_at < made, "it really was long ago");
    back.advance_clock(Duration::from_secs(19 * 60));
    assert!(back.retrieve_container(&container).is_ok());
    back.advance_clock(Duration::from_secs(21 * 60));
    assert!(back.retrieve_container(&container).is_err());
}
