//! Files and replies as the commands move and print them. No mount is needed here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use containerfs::emulator::{Config, Fault, Kind, Profile};
use serde_json::{Value, json};

use crate::env::{Env, noise, program_is_missing, wait_until};

fn env() -> Env {
    Env::of(Config::new(Profile::Openai))
}

fn run(env: &Env, args: &[&str]) -> Output {
    env.command(args).current_dir(env.dir.path()).output().unwrap()
}

fn printed(env: &Env, args: &[&str]) -> Value {
    let output = run(env, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_field_of_a_reply_is_printed_known_or_not() {
    let env = env();
    let id = env.container("c");
    let reply =
        json!({ "id": "x", "object": "o", "weather": { "wind": [1, null] }, "path": null, "deleted": true });
    let (list, listed) = (json!([reply]), json!({ "data": [reply], "mood": "good", "has_more": false }));
    env.store().put_upload(&id, "a", b"x");
    let answer = |kind: Kind, body: &Value| {
        let fault = Fault::Status { code: 200, body: Some(body.to_string()), headers: BTreeMap::new() };
        env.inject(kind, fault);
    };
    for kind in [Kind::CreateContainer, Kind::RetrieveContainer, Kind::DeleteContainer] {
        answer(kind, &reply);
    }
    for kind in [Kind::Upload, Kind::RetrieveFile, Kind::DeleteFile] {
        answer(kind, &reply);
    }
    answer(Kind::ListContainers, &listed);
    answer(Kind::ListFiles, &listed);
    fs::write(env.dir.path().join("f"), b"x").unwrap();
    for args in [
        &["containers", "create", "--name", "n"][..],
        &["containers", "retrieve", "c"],
        &["containers", "delete", "c"],
        &["containers:files", "create", "c", "--file", "f"],
        &["containers:files", "create", "c", "--file-id", "file-1"],
        &["containers:files", "retrieve", "c", "f"],
        &["containers:files", "delete", "c", "f"],
    ] {
        assert_eq!(printed(&env, args), reply, "{args:?}");
    }
    assert_eq!(printed(&env, &["containers", "list"]), listed);
    assert_eq!(printed(&env, &["containers:files", "list", "c"]), listed);
    assert_eq!(json!([printed(&env, &["containers:files", "list", "c", "--format", "jsonl"])]), list);
}

#[test]
fn a_list_of_several_pages_fits_one_envelope() {
    let env = env();
    for number in 0..130 {
        env.container(&format!("c{number}"));
    }
    let all = printed(&env, &["containers", "list", "--max-items", "-1"]);
    assert_eq!((all["data"].as_array().unwrap().len(), &all["has_more"]), (130, &json!(false)));
    assert_eq!(all["last_id"], all["data"][129]["id"]);
    let some = printed(&env, &["containers", "list", "--max-items", "25", "--limit", "10"]);
    assert_eq!((some["data"].as_array().unwrap().len(), &some["has_more"]), (25, &json!(true)));
    env.emulator.forget_requests();
    assert_eq!(
        printed(&env, &["containers", "list", "--max-items", "3"])["data"].as_array().unwrap().len(),
        3
    );
    assert_eq!(env.count(Kind::ListContainers), 1);
    assert_eq!(run(&env, &["containers", "list", "--max-items", "-2"]).status.code(), Some(2));
    let table = run(&env, &["containers", "list", "--format", "table"]);
    assert!(String::from_utf8_lossy(&table.stderr).contains("--max-items"), "a table tells that it is cut");
}

#[test]
fn an_expiry_of_minutes_alone_is_enough() {
    let env = env();
    let made = printed(&env, &["containers", "create", "--name", "n", "--expires-after.minutes", "10"]);
    assert_eq!(made["expires_after"], json!({ "anchor": "last_active_at", "minutes": 10 }));
}

#[test]
fn what_was_there_stays_until_the_whole_content_has_come() {
    let env = env();
    let id = env.container("c");
    let bytes = noise(1 << 20);
    let file = env.store().put_upload(&id, "f", &bytes);
    let at = |name: &str| env.dir.path().join(name);
    let fetch =
        |to: &str| run(&env, &["containers:files:content", "retrieve", &id, &file, "--output", to]).status;
    fs::write(at("old"), b"old").unwrap();
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("old", at("link")).unwrap();
    env.inject(Kind::Content, Fault::CutBody { after: 100_000 });
    assert_eq!(fetch("old").code(), Some(1));
    assert_eq!(fs::read(at("old")).unwrap(), b"old");
    let left = |()| fs::read_dir(env.dir.path()).unwrap().count();
    assert_eq!(left(()), 2, "the temporary file is gone");
    env.emulator.faults().clear();
    assert!(fetch("link").success());
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(fs::read(at("old")).unwrap(), bytes);
    assert_eq!(fs::metadata(at("old")).unwrap().permissions().mode() & 0o777, 0o640);
    // A device is written to, and not replaced.
    assert!(fetch("/dev/null").success());
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    assert_eq!(fetch(".").code(), Some(1));
    let out = run(&env, &["containers:files:content", "retrieve", &id, &file, "--output", "-"]);
    assert_eq!(out.stdout, bytes);
}

#[test]
fn a_page_or_an_error_with_200_replaces_nothing() {
    let env = env();
    let id = env.container("c");
    let error = r#"{"error":{"message":"quota","type":"t","param":null,"code":null}}"#;
    let answer = |body: &str| {
        let headers = [("content-type".to_owned(), "application/json".to_owned())].into();
        Fault::Status { code: 200, body: Some(body.to_owned()), headers }
    };
    let fetch = |file: &str, to: &str| {
        run(&env, &["containers:files:content", "retrieve", &id, file, "--output", to])
    };
    let written = env.store().put_model_file(&id, "/mnt/data/report.csv", b"a,b\n");
    let sent = env.store().put_upload(&id, "report.csv", b"a,b\n");
    let old = env.dir.path().join("old.csv");
    fs::write(&old, b"old").unwrap();
    for (file, fault, told) in [
        (&written, Fault::Html200, "a page of HTML in place of the content"),
        (&written, answer(error), "an error in place of the content: quota"),
        (&sent, Fault::Html200, "something else in place of the content"),
        (&sent, answer(error), "something else in place of the content"),
        (&sent, answer(r#"{"detail":"Unauthorized"}"#), "something else in place of the content"),
    ] {
        env.inject(Kind::Content, fault.clone());
        for to in ["old.csv", "-"] {
            let output = fetch(file, to);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && said.contains(told), "{fault:?}: {said}");
            assert!(output.stdout.is_empty(), "{fault:?}");
        }
        assert_eq!(fs::read(&old).unwrap(), b"old", "{fault:?}");
        assert_eq!(fs::read_dir(env.dir.path()).unwrap().count(), 1, "the temporary file is gone");
        env.emulator.faults().clear();
    }
    // What looks like an error may be what the file holds: its name or its length says so.
    let named_so = env.store().put_model_file(&id, "/mnt/data/reply.json", b"");
    let as_long = env.store().put_upload(&id, "reply", error.as_bytes());
    env.inject(Kind::Content, answer(error));
    for file in [&named_so, &as_long] {
        assert!(fetch(file, "new").status.success());
        assert_eq!(fs::read_to_string(env.dir.path().join("new")).unwrap(), error);
    }
    env.emulator.faults().clear();
    env.emulator.forget_requests();
    assert!(fetch(&sent, "new").status.success());
    assert_eq!(env.emulator.requests().len(), 1, "what looks like content costs nothing more");
}

#[test]
fn a_download_that_is_interrupted_leaves_nothing() {
    let env = env();
    let id = env.container("c");
    let file = env.store().put_upload(&id, "f", &noise(1 << 20));
    env.inject(Kind::Content, Fault::Throttle { bytes_per_second: 50_000 });
    let to = env.dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let output = to.join("f");
    let args = ["containers:files:content", "retrieve", &id, &file, "--output", output.to_str().unwrap()];
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let mut child = env.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("bytes arrive", || {
            let mut files = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
            files.next().is_some_and(|len| len > 0)
        });
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{signal}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn a_download_that_is_to_outlive_its_terminal_does() {
    if program_is_missing("nohup") {
        return;
    }
    let env = env();
    let id = env.container("c");
    let file = env.store().put_upload(&id, "f", &noise(200_000));
    env.inject(Kind::Content, Fault::Throttle { bytes_per_second: 200_000 });
    let to = env.dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let like = env.command(&["containers:files:content", "retrieve", &id, &file, "--output"]);
    let mut command = std::process::Command::new("nohup");
    command.arg(like.get_program()).args(like.get_args()).arg(to.join("f")).stdout(Stdio::null());
    for (name, value) in like.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    wait_until("bytes arrive", || {
        let mut files = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        files.next().is_some_and(|len| len > 0)
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read(to.join("f")).unwrap(), noise(200_000));
}

#[test]
fn numbers_are_printed_as_they_came() {
    let env = env();
    let reply = r#"{"id" : "x", "big": 123456789012345678901234567890,
        "small": [1.10, 1e400, -0.0]}"#;
    let numbers = ["123456789012345678901234567890", "1.10", "1e400", "-0.0"];
    let answer = |kind: Kind, body: String| {
        env.inject(kind, Fault::Status { code: 200, body: Some(body), headers: BTreeMap::new() });
    };
    for kind in [Kind::CreateContainer, Kind::RetrieveContainer] {
        answer(kind, reply.to_owned());
    }
    answer(Kind::ListContainers, format!(r#"{{"data": [{reply}], "has_more": false}}"#));
    let text = |args: &[&str]| {
        let output = run(&env, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let raw = text(&["containers", "retrieve", "c", "--format", "raw"]);
    assert_eq!(raw, format!("{reply}\n"), "as it came");
    for args in [
        &["containers", "retrieve", "c"][..],
        &["containers", "create", "--name", "n"],
        &["containers", "list"],
        &["containers", "list", "--format", "jsonl"],
        &["containers", "list", "--max-items", "-1"],
    ] {
        let text = text(args);
        assert!(numbers.iter().all(|number| text.contains(number)), "{args:?}: {text}");
    }
    assert_eq!(text(&["containers", "list", "--format", "jsonl"]).lines().count(), 1);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let env = env();
    let id = env.container("c");
    let file = env.store().put_upload(&id, "f", &noise(2 << 20));
    for number in 0..130 {
        env.container(&format!("a container with a long name, number {number}, so that a pipe is filled"));
    }
    for args in [
        &["containers:files:content", "retrieve", &id, &file][..],
        &["containers", "list", "--format", "jsonl"],
    ] {
        let mut child = env.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn a_terminal_gets_bars_and_tables_and_no_bytes_that_garble_it() {
    if program_is_missing("script") {
        return;
    }
    let env = env();
    let id = env.container("c");
    fs::write(env.dir.path().join("f"), noise(3 << 20)).unwrap();
    env.inject(Kind::Upload, Fault::Throttle { bytes_per_second: 4 << 20 });
    let seen = env.on_a_terminal(&["containers:files", "create", &id, "--file", "f"]);
    assert!(seen.contains("/3.00 MiB") && seen.contains("left") && seen.contains("bytes"), "{seen}");
    let file = env.store().files(&id)[0].id.clone();
    env.inject(Kind::Content, Fault::Throttle { bytes_per_second: 4 << 20 });
    let seen = env.on_a_terminal(&["containers:files:content", "retrieve", &id, &file, "--output", "down"]);
    assert!(seen.contains("/3.00 MiB") && env.dir.path().join("down").exists(), "{seen}");
    env.emulator.faults().clear();
    let seen = env.on_a_terminal(&["containers:files:content", "retrieve", &id, &file]);
    assert!(seen.contains("--output") && seen.len() < 500, "{seen}");
    let text = env.store().put_upload(&id, "t", b"plain text\n");
    let seen = env.on_a_terminal(&["containers:files:content", "retrieve", &id, &text]);
    assert_eq!(seen.trim_end(), "plain text");
    let seen = env.on_a_terminal(&["containers", "list"]);
    assert!(seen.contains("STATUS") && !seen.contains('{'), "{seen}");

    let hostile = "a\u{9b}2J\u{7f}\u{2028}\u{202e}\u{2066}\u{200f}b";
    let reply = json!({ "data": [{ "id": "x", "name": hostile }], "has_more": false });
    let body = Some(reply.to_string());
    env.inject(Kind::ListContainers, Fault::Status { code: 200, body, headers: BTreeMap::new() });
    for format in ["json", "jsonl", "raw"] {
        let args = ["containers", "list", "--format", format];
        let seen = env.on_a_terminal(&args);
        assert!(
            seen.contains("a\\u009b2J")
                && hostile.chars().skip(1).all(|c| c.is_ascii_graphic() || !seen.contains(c)),
            "{seen}"
        );
        assert!(serde_json::from_str::<Value>(&seen).unwrap().to_string().contains(hostile));
        assert!(String::from_utf8(run(&env, &args).stdout).unwrap().contains(hostile), "as it is in a pipe");
    }
}

#[test]
fn colours_are_for_terminals_and_never_with_no_color() {
    if program_is_missing("script") {
        return;
    }
    let env = env();
    let coloured = |text: &str| text.contains("\u{1b}[");
    assert!(coloured(&env.on_a_terminal(&["containers", "list", "--limti"])));
    for args in [&["containers", "list", "--limti"][..], &["--help"]] {
        let plain = env.command(args).env("CLICOLOR_FORCE", "1").output().unwrap();
        assert!(!coloured(&String::from_utf8_lossy(&[plain.stderr, plain.stdout].concat())));
    }
    // Set by a program, so that nothing else of this process sees it.
    let line = format!("env NO_COLOR=1 {} containers list --limti", env!("CARGO_BIN_EXE_containerfs"));
    let output = std::process::Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(seen.contains("--limit") && !coloured(&seen), "{seen}");
}
