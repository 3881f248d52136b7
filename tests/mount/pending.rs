//! Bytes that are not on the server, in the hands of a person.

use std::fs;

use containerfs::emulator::{Fault, Kind};

use crate::env::{Env, on_openai, save, wait_until};

fn refuse(env: &Env) {
    env.inject(Kind::Upload, Fault::Status { code: 400, body: None, headers: Default::default() });
}

fn run(env: &Env, args: &[&str]) -> (i32, String) {
    let output = env.command(&[&["pending"], args].concat()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn ids(env: &Env) -> Vec<String> {
    let (_, text) = run(env, &["list", "--json"]);
    let items: serde_json::Value = serde_json::from_str(&text).unwrap();
    items.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_was_refused_is_listed_saved_and_thrown_away() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        refuse(env);
        mount.sh("c", "mkdir d");
        assert!(save(&mount.path("c/f.txt"), b"precious").is_err());
        assert!(run(env, &["list"]).1.contains("mounted"));
        assert_eq!(mount.unmount(env), (3, 3));
        let (code, text) = run(env, &["list"]);
        assert_eq!(code, 0);
        assert!(text.contains("f.txt") && text.contains("8 B") && text.contains("status 400"), "{text}");

        let target = env.dir.path().join("saved");
        assert_eq!(run(env, &["save", target.to_str().unwrap()]).0, 0);
        assert_eq!(fs::read(target.join(&id).join("f.txt")).unwrap(), b"precious");
        assert_eq!(run(env, &["save", target.to_str().unwrap()]).0, 1, "nothing is overwritten");

        assert_eq!(run(env, &["discard", "no/such"]).0, 1);
        assert_eq!(run(env, &["discard"]).0, 2);
        let ids = ids(env);
        assert_eq!(ids.len(), 1);
        assert_eq!(run(env, &["discard", &ids[0]]).0, 0);
        assert!(run(env, &["list"]).1.contains("nothing is pending"));
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert!(!mount.path("c/f.txt").exists());
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_was_refused_is_sent_again_by_the_next_mount_on_request() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        refuse(env);
        assert!(save(&mount.path("c/f"), b"precious").is_err());
        assert_eq!(mount.unmount(env), (3, 3));
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert!(env.store().files(&id).is_empty(), "a refusal is final until somebody asks");
        assert_eq!(mount.unmount(env), (3, 3));
        assert_eq!(run(env, &["retry"]).0, 0);
        let mount = env.mount(&[]);
        wait_until("it is sent", || !env.store().files(&id).is_empty());
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
    });
}

#[test]
fn a_mount_that_lives_sends_again_at_once() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        refuse(env);
        assert!(save(&mount.path("c/f"), b"precious").is_err());
        env.emulator.faults().clear();
        assert_eq!(run(env, &["retry"]).0, 0);
        assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_was_never_closed_is_saved_by_its_id() {
    on_openai(|env| {
        let id = env.container("c");
        let mut mount = env.mount(&[]);
        let file = fs::File::create(mount.path("c/f")).unwrap();
        std::io::Write::write_all(&mut &file, b"half").unwrap();
        mount.kill();
        drop(file);
        drop(mount);
        let (_, text) = run(env, &["list"]);
        assert!(text.contains("unfinished") && text.contains(" f "), "{text}");
        let target = env.dir.path().join("saved");
        let ids = ids(env);
        let (code, text) = run(env, &["save", target.to_str().unwrap(), &ids[0]]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(fs::read(target.join(&id).join("f")).unwrap(), b"half");
        assert_eq!(run(env, &["retry", &ids[0]]).0, 0);
        let mount = env.mount(&[]);
        wait_until("it is sent because somebody asked", || !env.store().files(&id).is_empty());
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"half");
    });
}
