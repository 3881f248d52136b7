//! State directories that are torn, of another version, or not ours: what they say leads nowhere outside,
//! takes nothing away that they do not name, and loses no byte that was promised.
//!
//! An input is the files of one account, each after a line with its name: `@records.jsonl`, `@1/meta.json`,
//! `@1/data`, `@2/intent.json`, `@2/copy-7.json`. In them `cntr_1` stands for a container and `cfile_1` and `cfile_2` for files
//! of it.

use std::fs;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerfs::journal::pending;
use containerfs::journal::{Intent, Meta};
use containerfs::vfs::{Deadline, FileKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::engine::fuzz;
use crate::pages;
use crate::world::World;

/// The note of a POST of a rename.
const COPY: &str = "copy-7.json";

/// What no intent can name.
const KEPT: &[u8] = b"what nobody has asked to be deleted";

fn case(input: &[u8], world: &World) {
    let store = world.emulator.store();
    let container = store.create_container("c");
    let ids =
        [store.put_upload(&container, "a.txt", b"a"), store.put_model_file(&container, "/mnt/data/b", b"b")];
    let kept = store.put_upload(&container, "kept", KEPT);
    let dir = tempfile::tempdir().unwrap();
    let (account, cache) = (dir.path().join("state/account"), dir.path().join("cache"));
    let files = files(input, &[("cntr_1", &container), ("cfile_1", &ids[0]), ("cfile_2", &ids[1])]);
    lay_out(&account, &files);

    save_pending(dir.path());
    let vfs = world.mount(&account, &cache);
    let shown = world.shown(&vfs);
    for (path, (ino, kind)) in &shown {
        if let Err(error) = world.runtime.block_on(vfs.getattr(*ino)) {
            // What is taken up behind the mount may have moved or deleted it since.
            assert!(matches!(error.errno, libc::ESTALE | libc::ENOENT), "{path:?}: {error}");
        }
        if *kind == FileKind::File {
            let path = path.rsplit_once('/').unwrap().1;
            let _ = vfs.locate(path);
        }
    }
    let _ = vfs.status();
    let left = world.runtime.block_on(vfs.drain(&Deadline::after(Duration::from_secs(5))));
    let ended = Arc::downgrade(&vfs);
    drop(vfs);
    assert!(is_soon(|| ended.strong_count() == 0), "something keeps a mount that has ended");

    assert_eq!(store.content(&container, &kept).as_deref(), Some(KEPT), "nothing else is deleted");
    let sent: Vec<Vec<u8>> =
        store.files(&container).iter().filter_map(|file| store.content(&container, &file.id)).collect();
    if let Some(promised) = promised(&files) {
        let here = below(&account).iter().any(|path| fs::read(path).is_ok_and(|bytes| bytes == *promised));
        assert!(
            here || sent.iter().any(|bytes| bytes == promised),
            "promised bytes are lost; left: {left:?}"
        );
    }
    let mut outside: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    outside.sort();
    assert!(
        outside.iter().all(|name| ["cache", "saved", "state"].iter().any(|ours| name == ours)),
        "{outside:?}"
    );
    for made in store.containers() {
        store.delete_container(&made.id);
    }
}

fn is_soon(done: impl Fn() -> bool) -> bool {
    let patience = Instant::now() + Duration::from_secs(20);
    while !done() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    done()
}

/// The files of an input; what has no name before it, or one that no mount gives, is none.
fn files(input: &[u8], names: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let name =
            line.strip_prefix(b"@").map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned());
        match (name.filter(|name| is_file_of_a_journal(name)), files.last_mut()) {
            (Some(name), _) => files.push((name, Vec::new())),
            (None, Some((_, text))) => text.extend_from_slice(line),
            (None, None) => {}
        }
    }
    for (name, bytes) in &mut files {
        if !name.ends_with("data")
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            let text = names.iter().fold(text.to_owned(), |text, (short, id)| text.replace(short, id));
            *bytes = text.into_bytes();
        }
    }
    files
}

fn is_file_of_a_journal(name: &str) -> bool {
    let slot = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit()) && (1..=8).contains(&name.len());
    match name.split('/').collect::<Vec<_>>()[..] {
        ["records.jsonl"] => true,
        [at, file] => slot(at) && ["meta.json", "data", "intent.json", COPY].contains(&file),
        [at, part, "data"] => slot(at) && slot(part),
        _ => false,
    }
}

fn lay_out(account: &Path, files: &[(String, Vec<u8>)]) {
    let journal = account.join("journal/dead");
    fs::create_dir_all(&journal).unwrap();
    for (name, bytes) in files {
        let path = if name.contains('/') { journal.join(name) } else { account.join(name) };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// What a person sees and saves of it without a mount.
fn save_pending(dir: &Path) {
    for item in pending::items(&dir.join("state")) {
        let _ = (item.reason(), item.path());
        if let Ok(saved) = item.save(&dir.join("saved")) {
            let inside = saved.strip_prefix(dir.join("saved")).expect("saved where it was asked for");
            assert!(inside.components().all(|part| matches!(part, Component::Normal(_))), "{saved:?}");
            assert_eq!(fs::metadata(&saved).unwrap().len(), item.bytes);
        }
    }
}

/// The bytes that a mount must not lose: of the one staging file that was closed.
fn promised(files: &[(String, Vec<u8>)]) -> Option<&Vec<u8>> {
    let is_intent = |text: &[u8]| serde_json::from_slice::<Intent>(text).is_ok();
    let mut notes = files.iter().filter(|(name, _)| name.ends_with("meta.json"));
    let (name, text) = notes.next()?;
    let meta: Meta = serde_json::from_slice(text).ok()?;
    if notes.next().is_some()
        || !meta.closed
        || meta.shelved.is_some()
        || files.iter().any(|f| is_intent(&f.1))
    {
        return None;
    }
    let data = format!("{}/data", name.split('/').next()?);
    files.iter().rev().find(|(name, _)| *name == data).map(|(_, bytes)| bytes)
}

fn below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

fn path() -> BoxedStrategy<Value> {
    prop_oneof![
        4 => prop::collection::vec(pages::part(), 1..4).prop_map(|parts| parts.join("/")),
        2 => prop::sample::select(vec!["a.txt", "b", "kept", "d/e", "d"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["", "/", "/etc/x", "../../../x", "a/../../../x", "d/", "\0"])
            .prop_map(str::to_owned),
        1 => pages::path(),
    ]
    .prop_map(Value::from)
    .boxed()
}

fn container() -> impl Strategy<Value = Value> {
    prop::sample::select(vec!["cntr_1", "cntr_1", "cntr_1", "", "cntr_gone", "../x"]).prop_map(Value::from)
}

fn id() -> impl Strategy<Value = Value> {
    prop::sample::select(vec!["cfile_1", "cfile_2", "cfile_3", "", "..", "a/b"]).prop_map(Value::from)
}

fn ids() -> impl Strategy<Value = Value> {
    prop::collection::vec(id(), 0..3).prop_map(Value::from)
}

fn number() -> impl Strategy<Value = Value> {
    let odd = vec![json!(0), json!(null), json!(-1), json!(i64::MIN), json!(i64::MAX), json!(u64::MAX)];
    prop_oneof![2 => (0..2_000_000_000_i64).prop_map(Value::from), 1 => prop::sample::select(odd)]
}

fn attributes() -> impl Strategy<Value = Value> {
    (number(), number(), number())
        .prop_map(|(mtime, mode, uid)| json!({"mtime": mtime, "mode": mode, "uid": uid}))
}

fn sent() -> impl Strategy<Value = Value> {
    (path(), ids(), number(), prop::option::of(number())).prop_map(|(path, known, len, at)| {
        // Of no bytes, so that it may be a file of ours.
        let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        json!({"path": path, "len": len, "sha256": sha256, "known": known, "at": at})
    })
}

fn meta() -> impl Strategy<Value = String> {
    let flags =
        (any::<bool>(), prop::bool::weighted(0.1), prop::option::weighted(0.2, (path(), any::<bool>())));
    let rest = (prop::collection::vec(sent(), 0..2), number(), number());
    (container(), path(), prop::option::of(id()), ids(), flags, rest).prop_map(
        |(container, path, replaces, also, (closed, refused, shelved), (sent, mtime, mode))| {
            let shelved = shelved.map(|(from, just_now)| json!({"from": from, "just_now": just_now}));
            json!({
                "container": container, "path": path, "replaces": replaces, "also_replaces": also,
                "mtime": mtime, "mode": mode, "closed": closed, "reason": null, "refused": refused,
                "shelved": shelved, "sent": sent, "noted_at": mtime.as_i64().unwrap_or(0),
            })
            .to_string()
        },
    )
}

fn intent() -> BoxedStrategy<String> {
    let step = (id(), path(), attributes(), prop::option::of(id())).prop_map(
        |(id, to, attributes, new)| json!({"id": id, "to": to, "attributes": attributes, "new": new}),
    );
    let posted = (any::<bool>(), number());
    let rename = (container(), path(), path(), prop::collection::vec(step, 0..3), ids(), posted);
    let base = prop::sample::select(vec!["0123456789abcdef", "", "t", "/"]);
    prop_oneof![
        1 => (container(), ids())
            .prop_map(|(container, ids)| json!({"intent": "delete", "container": container, "ids": ids})),
        3 => rename.prop_map(|(container, from, to, moves, replaces, (posted, posted_at))| {
            json!({"intent": "rename", "container": container, "from": from, "to": to, "moves": moves,
                   "replaces": replaces, "posted": posted, "posted_at": posted_at.as_i64().unwrap_or(0)})
        }),
        1 => (pages::part(), container())
            .prop_map(|(name, known)| json!({"intent": "create_container", "name": name, "known": [known]})),
        1 => (container(), base)
            .prop_map(|(container, base)| json!({"intent": "probe", "container": container, "base": base})),
        1 => (container(), sent())
            .prop_map(|(container, sent)| json!({"intent": "forget", "container": container, "sent": sent})),
    ]
    .prop_map(|intent| intent.to_string())
    .boxed()
}

fn copied() -> impl Strategy<Value = String> {
    (id(), sent(), prop::option::of(id()))
        .prop_map(|(id, sent, made)| json!({"id": id, "sent": sent, "made": made}).to_string())
}

fn fact() -> BoxedStrategy<String> {
    prop_oneof![
        (container(), id(), prop::option::of(path()), attributes()).prop_map(|(container, id, path, attributes)| {
            json!({"fact": "file", "container": container, "id": id, "path": path, "attributes": attributes})
        }),
        (container(), id(), number()).prop_map(|(container, id, at)| {
            json!({"fact": "deleted", "container": container, "id": id, "at": at})
        }),
        (container(), path(), any::<bool>()).prop_map(|(container, path, exists)| {
            json!({"fact": "directory", "container": container, "path": path, "exists": exists})
        }),
        (container(), path(), attributes()).prop_map(|(container, path, attributes)| {
            json!({"fact": "directory_attributes", "container": container, "path": path, "attributes": attributes})
        }),
        any::<bool>().prop_map(|kept| json!({"fact": "directories", "kept": kept})),
    ]
    .prop_map(|fact| fact.to_string())
    .boxed()
}

/// What a mount that died has left, with what no mount writes.
fn state() -> impl Strategy<Value = Vec<u8>> {
    let slot = prop_oneof![
        (meta(), "[a-c]{0,5}").prop_map(|(meta, data)| vec![("meta.json", meta), ("data", data)]),
        intent().prop_map(|intent| vec![("intent.json", intent)]),
        intent().prop_map(|intent| vec![("intent.json", intent), ("0/data", "left".to_owned())]),
        (intent(), copied()).prop_map(|(intent, copied)| vec![("intent.json", intent), (COPY, copied)]),
    ];
    let facts = prop::collection::vec(fact(), 0..4);
    (facts, prop::collection::vec(slot, 0..3)).prop_map(|(facts, slots)| {
        let mut text = format!("@records.jsonl\n{}\n", facts.join("\n"));
        for (number, files) in slots.into_iter().enumerate() {
            for (name, content) in files {
                text += &format!("@{number}/{name}\n{content}\n");
            }
        }
        text.into_bytes()
    })
}

#[test]
fn no_state_directory_leads_outside_or_loses_what_was_promised() {
    let world = World::new();
    fuzz("journal", state().boxed(), |input| case(input, &world));
}
