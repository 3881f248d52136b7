//! Cache directories that are torn, mixed up or not ours: what they hold is served as it was put in, or not
//! at all.
//!
//! An input is files of the directory, each after a line with its path: `@files/{A}-7-0123`, `@mount-1/lock`.
//! `{A}`, `{B}` and `{C}` stand for the hashes of three keys, `{A rest}` for what follows in the name of an
//! entry, `{A name}` for both, and `{A bytes}` for what was put in.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use containerfs::api::File;
use containerfs::content::cache::{Cached, Checksum};
use containerfs::content::{Cache, Key};
use proptest::prelude::*;

use crate::engine::fuzz;

const LIMIT: u64 = 1 << 20;

struct Entry {
    key: Key,
    bytes: Vec<u8>,
    /// The name of its file.
    name: String,
}

impl Entry {
    fn new(id: &str, bytes: Vec<u8>) -> Self {
        let len = Some(bytes.len() as u64);
        let file =
            File { id: id.into(), path: String::new(), bytes: len, source: "user".into(), created_at: 1 };
        let key = Key::new(&"cntr_1".into(), &file);
        let dir = tempfile::tempdir().unwrap();
        put(&Cache::open(dir.path(), LIMIT, 0).unwrap(), &key, &bytes).unwrap();
        let found = fs::read_dir(dir.path().join("files")).unwrap().next().unwrap().unwrap();
        Self { key, bytes, name: found.file_name().into_string().unwrap() }
    }

    fn hash(&self) -> &str {
        self.name.split('-').next().unwrap()
    }
}

fn put(cache: &Cache, key: &Key, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = cache.temporary()?;
    file.write_all(bytes)?;
    let mut checksum = Checksum::of(key);
    checksum.update(bytes);
    cache.adopt(key, file, bytes.len() as u64, &checksum)
}

fn case(input: &[u8], entries: &[Entry; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("cache"), dir.path().join("outside"));
    for (path, bytes) in files(input, entries) {
        let path = inside.join(path);
        let _ = fs::create_dir_all(path.parent().unwrap());
        let _ = fs::write(path, bytes);
    }
    plant(&inside, &outside, &entries[2]);
    // With room for all; for almost nothing; in memory too.
    for (limit, memory) in [(LIMIT, 0), (300, 0), (LIMIT, LIMIT)] {
        let cache = Cache::open(&inside, limit, memory).unwrap();
        counts(&cache, &inside, limit);
        for entry in entries.iter().chain(entries) {
            if let Some(cached) = cache.get(&entry.key) {
                assert!(read(cached) == entry.bytes, "{} is not what was put in", entry.name);
            }
            counts(&cache, &inside, limit);
        }
        for entry in entries {
            let kept = put(&cache, &entry.key, &entry.bytes);
            let cached = cache.get(&entry.key);
            assert!(cached.is_some() || kept.is_err() || limit < LIMIT, "{} is not kept", entry.name);
            assert!(cached.is_none_or(|cached| read(cached) == entry.bytes));
            counts(&cache, &inside, limit);
        }
        for entry in entries {
            cache.remove(&entry.key);
            assert!(cache.get(&entry.key).is_none());
        }
        counts(&cache, &inside, limit);
    }
    assert_eq!(fs::read(outside.join("bytes")).unwrap(), entries[2].bytes);
    assert!(outside.join("lock").exists());
}

/// Links to a right file and to a directory with a lock, which lie elsewhere.
fn plant(inside: &Path, outside: &Path, entry: &Entry) {
    fs::create_dir_all(inside.join("files")).unwrap();
    fs::create_dir(outside).unwrap();
    fs::write(outside.join("bytes"), &entry.bytes).unwrap();
    fs::write(outside.join("lock"), "").unwrap();
    let _ = symlink(outside.join("bytes"), inside.join("files").join(&entry.name));
    let _ = symlink(outside, inside.join("mount-elsewhere"));
}

/// What the cache says of itself is what lies there, and keeps to its limit.
fn counts(cache: &Cache, inside: &Path, limit: u64) {
    let usage = cache.usage();
    assert!(usage.disk_bytes <= limit, "{usage:?}");
    let there = fs::read_dir(inside.join("files")).unwrap().map(|entry| entry.unwrap());
    let ours = there.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let parts: Vec<&str> = name.split('-').collect();
        matches!(parts[..], [hash, len, sum] if is_hex(hash) && is_hex(sum) && len.parse::<u64>().is_ok())
            && entry.file_type().unwrap().is_file()
    });
    assert_eq!(ours.map(|entry| entry.metadata().unwrap().len()).sum::<u64>(), usage.disk_bytes);
}

fn is_hex(digits: &str) -> bool {
    digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn read(cached: Cached) -> Vec<u8> {
    match cached {
        Cached::Memory(bytes) => bytes.to_vec(),
        Cached::Disk(mut file, len) => {
            let mut bytes = Vec::new();
            std::io::Seek::rewind(&mut file).unwrap();
            std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, len);
            bytes
        }
    }
}

/// The files of an input; what has no path before it, or one that leads outside, is none.
fn files(input: &[u8], entries: &[Entry; 3]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let path = line.strip_prefix(b"@").and_then(|path| path_of(path.trim_ascii(), entries));
        match (path, files.last_mut()) {
            (Some(path), _) => files.push((path, Vec::new())),
            (None, Some((_, bytes))) => bytes.extend_from_slice(line),
            (None, None) => {}
        }
    }
    for (_, bytes) in &mut files {
        bytes.pop();
        for (entry, letter) in entries.iter().zip(["A", "B", "C"]) {
            let place = format!("{{{letter} bytes}}").into_bytes();
            while let Some(at) = bytes.windows(place.len()).position(|window| window == place) {
                bytes.splice(at..at + place.len(), entry.bytes.iter().copied());
            }
        }
    }
    files
}

fn path_of(path: &[u8], entries: &[Entry; 3]) -> Option<String> {
    let mut path = std::str::from_utf8(path).ok()?.to_owned();
    for (entry, letter) in entries.iter().zip(["A", "B", "C"]) {
        path = path.replace(&format!("{{{letter}}}"), entry.hash());
        path = path.replace(&format!("{{{letter} name}}"), &entry.name);
        path = path.replace(&format!("{{{letter} rest}}"), &entry.name[entry.hash().len()..]);
    }
    let parts: Vec<&str> = path.split('/').collect();
    let is_inside = parts.len() <= 3 && parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
    let is_inside = is_inside && (path.starts_with("files/") || path.starts_with("mount-"));
    (is_inside && path.len() < 200 && !path.contains('\0')).then_some(path)
}

fn directory() -> impl Strategy<Value = Vec<u8>> {
    let letter = || prop::sample::select(vec!["A", "B", "C"]);
    let name = prop_oneof![
        4 => letter().prop_map(|letter| format!("files/{{{letter} name}}")),
        2 => (letter(), 0..12_u64, "[0-9a-f]{0,3}").prop_map(|(letter, len, sum)| format!("files/{{{letter}}}-{len}-{sum}")),
        2 => (letter(), letter()).prop_map(|(one, other)| format!("files/{{{one}}}{{{other} rest}}")),
        1 => letter().prop_map(|letter| format!("files/{{{letter} name}}-1")),
        1 => (letter(), "[a-z0-9]{0,2}").prop_map(|(letter, rest)| format!("files/{{{letter}}}-{{{letter} name}}{rest}")),
        1 => letter().prop_map(|letter| format!("files/{{{letter} name}}/x")),
        1 => prop::sample::select(vec!["files/.part-x", "mount-x/lock", "mount-x", "files/x", "files/-0-"]).prop_map(str::to_owned),
    ];
    let content = prop_oneof![
        4 => letter().prop_map(|letter| format!("{{{letter} bytes}}")),
        1 => letter().prop_map(|letter| format!("{{{letter} bytes}}x")),
        2 => "[a-e]{0,12}",
    ];
    prop::collection::vec((name, content), 0..5).prop_map(|files| {
        files
            .into_iter()
            .map(|(name, content)| format!("@{name}\n{content}\n"))
            .collect::<String>()
            .into_bytes()
    })
}

#[test]
fn a_cache_serves_what_was_put_in_or_nothing() {
    let large = (0..200_000_u32).map(|n| (n / 7 % 251) as u8).collect();
    let entries = [
        Entry::new("cfile_1", b"right A".to_vec()),
        Entry::new("cfile_2", b"right B".to_vec()),
        Entry::new("cfile_3", large),
    ];
    fuzz("cache", directory().boxed(), |input| case(input, &entries));
}
