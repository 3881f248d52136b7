//! The control socket: whatever is said to it is answered or hung up on, and the next one is heard.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use containerfs::daemon::asking::Connection;
use containerfs::daemon::control::{self, Question};
use containerfs::fuse::mounts::Entry;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::engine::fuzz;
use crate::pages;
use crate::world::World;

/// Longer than any answer takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn case(input: &[u8], device: (u32, u32)) {
    let mount = Entry { device, ..Entry::default() };
    let mut asked = Connection::ask(&mount, &Question::Status).unwrap();
    let peer = asked.line().unwrap().expect("the status is told");
    let status: Value = serde_json::from_str(&peer).unwrap();
    assert!(status.is_object(), "{status}");
    let mut stream = UnixStream::connect(path_of(device)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (head, tail) = input.split_at(input.len() / 2);
    // It may have hung up before it has heard all.
    let _ = stream.write_all(head).and_then(|()| stream.write_all(tail));
    let _ = stream.shutdown(Shutdown::Write);
    for line in BufReader::new(stream).lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("neither answered nor hung up: {error}"),
        };
        let answer: Value = serde_json::from_str(&line).unwrap();
        // A mount that ends keeps the connection until it is gone.
        if answer.get("done").is_some() {
            break;
        }
    }
}

/// Where a mount of this user listens.
fn path_of((major, minor): (u32, u32)) -> std::path::PathBuf {
    let uid = nix::unistd::geteuid();
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(|dir| std::path::PathBuf::from(dir).join("containerfs"));
    let root = uid.is_root().then(|| "/run/containerfs".into());
    let temporary = std::env::temp_dir().join(format!("containerfs-{uid}"));
    let directories = root.into_iter().chain(runtime).chain([temporary]);
    let mut places = directories.map(|dir| dir.join(format!("{major}-{minor}.sock")));
    places.find(|place| place.exists()).unwrap()
}

fn question() -> impl Strategy<Value = Vec<u8>> {
    let odd = vec![
        json!(null),
        json!(0),
        json!(-1.5),
        json!(1e300),
        json!("1"),
        json!(u64::MAX),
        json!([]),
        json!(1.8e19),
    ];
    let odd = || prop::sample::select(odd.clone());
    let one = prop_oneof![
        1 => Just(json!({"ask": "status"})),
        1 => Just(json!({"ask": "retry"})),
        1 => (prop::sample::select(vec!["retry", "discard"]), odd())
            .prop_map(|(ask, id)| json!({"ask": ask, "ids": [id, "a/1", "/", "a"]})),
        2 => pages::path().prop_map(|path| json!({"ask": "locate", "path": path})),
        2 => (odd(), any::<bool>()).prop_map(|(seconds, force)| json!({"ask": "unmount", "timeout_seconds": seconds, "force": force})),
        1 => odd().prop_map(|ask| json!({"ask": ask})),
    ];
    let raw = prop_oneof![
        6 => prop::collection::vec(one, 1..3).prop_map(|questions| {
            questions.iter().map(|question| format!("{question}\n")).collect::<String>().into_bytes()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..64),
        1 => (prop::sample::select(vec![b'[', b'"', b' ', b'{', 0xff]), 0..70_000_usize)
            .prop_map(|(byte, times)| vec![byte; times]),
    ];
    raw
}

#[test]
fn whatever_a_control_socket_is_told_it_answers_or_hangs_up() {
    let world = World::new();
    let container = world.emulator.store().create_container("c");
    world.emulator.store().put_upload(&container, "a.txt", b"a");
    let dir = tempfile::tempdir().unwrap();
    let vfs = world.mount(&dir.path().join("state"), &dir.path().join("cache"));
    // A number that no device has.
    let device = (4095, std::process::id());
    let (asked, mut unmounts) = mpsc::unbounded_channel::<control::UnmountRequest>();
    let _entered = world.runtime.enter();
    let _socket = control::listen(device, vfs, None, asked).unwrap();
    world.runtime.spawn(async move {
        while let Some(request) = unmounts.recv().await {
            let within = request.within.unwrap_or_default();
            let _ = (std::time::Instant::now() + within, tokio::time::Instant::now() + within);
            let _ = request.left.send(Vec::new());
        }
    });
    fuzz("control", question().boxed(), |input| case(input, device));
}
