//! `containerfs doctor`: what is wrong is named, with what to do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use containerfs::emulator::{Config, Fault, Kind, Profile};
use serde_json::Value;

use crate::env::{Env, fuse_is_missing};

/// The state and the words of a check, and the exit code.
fn doctor(env: &Env, variables: &[(&str, &str)], check: &str) -> (String, String, i32) {
    let output = env
        .command(&["doctor", "--json", "--timeout", "2s"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let found = checks.iter().find(|found| found["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no check {check} in {checks:?}"));
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("state"), text("found"), output.status.code().unwrap())
}

#[test]
fn a_machine_that_is_well_is_told_so() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::of(Config::new(Profile::Openai));
    let output = env.command(&["doctor"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    for check in ["/dev/fuse", "fusermount3", "user_allow_other", "key", "server", "clock", "cache directory"]
    {
        assert!(told.lines().any(|line| line.contains(check)), "{check}: {told}");
    }
    assert!(!told.contains("BROKEN") && !told.contains("sk-test") && !told.contains('\u{1b}'), "{told}");
    assert_eq!(env.count(Kind::ListContainers), 1, "one request");
    assert!(!env.dir.path().join("state").exists(), "it makes nothing");
}

#[test]
fn doctor_names_what_is_broken_and_says_what_to_do() {
    let env = Env::of(Config::new(Profile::Openai));
    let (state, found, code) = doctor(&env, &[("OPENAI_API_KEY", "")], "key");
    assert_eq!((state.as_str(), code), ("broken", 1));
    assert!(found.contains("OPENAI_API_KEY"), "{found}");
    env.status_fault(Kind::ListContainers, 401);
    let (state, found, _) = doctor(&env, &[], "key");
    assert!(state == "broken" && found.contains("refuses"), "{found}");
    assert_eq!(doctor(&env, &[], "server").0, "ok");
    env.emulator.faults().clear();
    let nobody = ("OPENAI_BASE_URL", "http://127.0.0.1:1/v1");
    let (state, found, code) = doctor(&env, &[nobody], "server");
    assert!(state == "broken" && code == 1 && found.contains("cannot reach"), "{found}");

    let file = env.dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let (state, found, code) =
        doctor(&env, &[("CONTAINERFS_STATE_DIR", file.to_str().unwrap())], "state directory");
    assert!(state == "broken" && code == 1 && found.contains("not a directory"), "{found}");
    let open = env.dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let (state, found, code) =
        doctor(&env, &[("CONTAINERFS_CACHE_DIR", open.to_str().unwrap())], "cache directory");
    assert!(state == "warning" && code == 0 && found.contains("chmod 700"), "{found}");
}

#[test]
fn doctor_compares_the_clocks() {
    let env = Env::of(Config::new(Profile::Openai));
    let date = |ago: u64| {
        let at = std::time::SystemTime::now() - std::time::Duration::from_secs(ago);
        let headers = BTreeMap::from([("date".to_owned(), httpdate::fmt_http_date(at))]);
        let body = Some(r#"{"object":"list","data":[],"has_more":false}"#.to_owned());
        env.emulator.faults().clear();
        env.inject(Kind::ListContainers, Fault::Status { code: 200, body, headers });
    };
    date(2);
    assert_eq!(doctor(&env, &[], "clock").0, "ok");
    date(120);
    let (state, found, code) = doctor(&env, &[], "clock");
    assert!(state == "warning" && code == 0 && found.contains("ahead"), "{found}");
    date(7200);
    assert_eq!((doctor(&env, &[], "clock").0.as_str(), doctor(&env, &[], "clock").2), ("broken", 1));
}

#[test]
fn doctor_tells_what_waits_and_what_is_dead() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::of(Config::new(Profile::Openai));
    env.container("c");
    let mut mount = env.mount(&[]);
    env.status_fault(Kind::Upload, 400);
    assert!(crate::env::save(&mount.path("c/f"), b"x").is_err());
    // The kernel knows its attributes for a while.
    fs::metadata(&mount.dir).unwrap();
    mount.kill();
    let (state, found, code) = doctor(&env, &[], "pending");
    assert!(state == "warning" && code == 0 && found.contains(": 1;"), "{found}");
    let (state, found, _) = doctor(&env, &[], "mounts");
    assert!(state == "warning" && found.contains("containerfs unmount"), "{found}");
}

#[test]
fn a_mount_that_died_is_told_to_be_dead_and_what_to_do() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::of(Config::new(Profile::Openai));
    env.container("c");
    let mut mount = env.mount(&[]);
    let at = mount.dir.to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let output = env.command(args).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    assert!(run(&["mount"]).0.contains(&at));
    assert_eq!(run(&["status", &at]).1, 0);
    mount.kill();
    let (told, code) = run(&["status", &at]);
    assert!(told.contains("is dead") && told.contains("containerfs unmount") && code == 1, "{code}: {told}");
    let (told, code) = run(&["status", &at, "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told[0]["dead"] == true && told[0]["error"].as_str().unwrap().contains("unmount"), "{told}");
    assert_eq!(code, 1);
    assert!(!run(&["mount"]).0.contains(&at), "it is no mount that anybody can use");
    assert_eq!(run(&["unmount", &at]).1, 0);
}
