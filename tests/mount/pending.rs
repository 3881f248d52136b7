//! Bytes that are not on the server, in the hands of a person.

use std::fs;

use containerfs::emulator::{Fault, Kind};

use crate::env::{Env, Mount, lost_answer, on_openai, save, wait_until};

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

#[test]
fn what_was_refused_is_shown_by_the_next_mount_and_sent_when_somebody_asks() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        refuse(env);
        mount.sh("c", "mkdir d");
        for name in ["c/d/retried", "c/saved", "c/removed", "c/renamed"] {
            assert!(save(&mount.path(name), b"precious").is_err());
        }
        assert_eq!(mount.unmount(env), (3, 3));
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["d", "removed", "renamed", "saved"]);
        assert_eq!(mount.sh("c", "cat d/retried saved removed renamed"), "precious".repeat(4));
        assert!(env.store().files(&id).is_empty(), "a refusal is final until somebody asks");
        assert!(run(env, &["list"]).1.contains("status 400"));
        let (_, status) = (mount.sh("c", "true"), env.command(&["status", "--json"]).output().unwrap());
        assert!(String::from_utf8_lossy(&status.stdout).contains("status 400"));

        fs::remove_file(mount.path("c/removed")).unwrap();
        assert_eq!(save(&mount.path("c/saved"), b"other"), Ok(()));
        fs::rename(mount.path("c/renamed"), mount.path("c/moved")).unwrap();
        assert_eq!(run(env, &["retry"]), (0, String::new()));
        assert_eq!(env.bytes_on_server(&id, "retried"), b"precious");
        assert_eq!(env.bytes_on_server(&id, "saved"), b"other");
        assert_eq!(env.bytes_on_server(&id, "moved"), b"precious");
        assert_eq!(env.store().files(&id).len(), 3);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_is_refused_again_keeps_its_reason_through_mounts_and_crashes() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        refuse(env);
        mount.sh("c", "mkdir d");
        assert!(save(&mount.path("c/d/f"), b"precious").is_err());
        mount.sh("c", "mv d e");
        assert_eq!(mount.unmount(env), (3, 3));
        for crash in [false, true, false] {
            let mut mount = env.mount(&[]);
            assert_eq!(mount.sh("c", "cat e/f"), "precious");
            let (code, text) = run(env, &["retry"]);
            assert!(code == 3 && text.contains("e/f") && text.contains("status 400"), "{code}: {text}");
            mount.sh("c", "mv e d && mv d e");
            if crash {
                mount.kill();
            } else {
                assert_eq!(mount.unmount(env), (3, 3));
            }
        }
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert!(run(env, &["list"]).1.contains("status 400"));
        assert_eq!(mount.unmount(env), (3, 3));
        assert!(env.store().files(&id).is_empty());
    });
}

#[test]
fn what_is_thrown_away_in_a_mount_shows_what_the_server_has() {
    on_openai(|env| {
        let id = env.container("c");
        let gone = env.container("gone");
        env.store().put_upload(&id, "f", b"the server's");
        let mount = env.mount(&[]);
        refuse(env);
        for name in ["c/f", "c/new", "gone/g"] {
            assert!(save(&mount.path(name), b"refused").is_err());
        }
        assert_eq!(mount.unmount(env), (3, 3));
        env.store().expire_container(&gone);
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat f new"), "refusedrefused");
        let open = fs::File::options().write(true).open(mount.path("c/f")).unwrap();
        let ids = ids(env);
        assert_eq!(ids.len(), 3);
        let (code, text) =
            run(env, &[&["discard"], &*ids.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        assert!(code == 1 && text.contains("open for writing"), "{code}: {text}");
        drop(open);
        for id in self::ids(env) {
            let (code, text) = run(env, &["discard", &id]);
            assert_eq!((code, text), (0, format!("{id}: thrown away\n")));
        }
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"the server's");
        assert!(run(env, &["list"]).1.contains("nothing is pending"));
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"the server's");
    });
}

#[test]
fn a_mount_sends_what_is_named_and_mounts_of_other_state_directories_nothing() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        refuse(env);
        for name in ["c/one", "c/two"] {
            assert!(save(&mount.path(name), b"precious").is_err());
        }
        env.emulator.faults().clear();
        let elsewhere = env.dir.path().join("elsewhere");
        assert_eq!(run(env, &["retry", "--state-dir", elsewhere.to_str().unwrap()]), (0, String::new()));
        assert!(env.store().files(&id).is_empty(), "nothing of that directory is mounted");
        let (_, text) = run(env, &["list", "--json"]);
        let items: serde_json::Value = serde_json::from_str(&text).unwrap();
        let one = items.as_array().unwrap().iter().find(|item| item["meta"]["path"] == "one").unwrap();
        assert_eq!(run(env, &["retry", one["id"].as_str().unwrap()]), (0, String::new()));
        assert_eq!(env.bytes_on_server(&id, "one"), b"precious");
        assert_eq!(env.store().files(&id).len(), 1);
        assert_eq!(run(env, &["retry"]).0, 0);
        assert_eq!(env.store().files(&id).len(), 2);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_a_program_is_writing_is_listed_until_it_has_arrived() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "old", b"the server's");
        let mount = env.mount(&[]);
        let read = fs::File::open(mount.path("c/old")).unwrap();
        let file = fs::File::options().read(true).write(true).open(mount.path("c/old")).unwrap();
        assert!(run(env, &["list"]).1.contains("nothing is pending"), "nothing has been written");
        std::os::unix::fs::FileExt::write_all_at(&file, b"HALF", 0).unwrap();
        let (_, text) = run(env, &["list"]);
        assert!(text.contains(" old ") && text.contains("unfinished: not closed yet (mounted)"), "{text}");
        assert_eq!(run(env, &["retry"]), (0, String::new()), "it needs its id");
        assert_eq!(env.bytes_on_server(&id, "old"), b"the server's");
        let (code, text) = run(env, &["discard", &ids(env)[0]]);
        assert!(code == 1 && text.contains("open for writing"), "{code}: {text}");
        file.sync_all().unwrap();
        assert!(run(env, &["list"]).1.contains("nothing is pending"), "it has arrived");
        std::os::unix::fs::FileExt::write_all_at(&file, b"half", 0).unwrap();
        assert_eq!(ids(env).len(), 1);
        assert_eq!(run(env, &["retry", &ids(env)[0]]), (0, String::new()));
        assert_eq!(env.bytes_on_server(&id, "old"), b"halfserver's");
        drop((file, read));
        assert!(run(env, &["list"]).1.contains("nothing is pending"));
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_failed_for_a_moment_keeps_its_reason_when_the_mount_ends() {
    for (at_the_end, flags) in [
        (None, &[][..]),
        (Some(Fault::HangBefore), &[][..]),
        (Some(Fault::HangBefore), &["--write-back", "--write-back-delay", "10ms"][..]),
    ] {
        on_openai(|env| {
            env.container("c");
            let flags = [flags, &["--timeout", "5s", "--drain-timeout", "1s"][..]].concat();
            let mount = env.mount(&flags);
            let body = Some("{\"error\": {\"message\": \"sk-test is tired\\u001b[2J\"}}".into());
            env.inject(Kind::Upload, Fault::Status { code: 503, body, headers: Default::default() });
            let _ = save(&mount.path("c/f"), b"precious");
            let reason = || run(env, &["list"]).1;
            wait_until("it is refused for now", || reason().contains("status 503"));
            if let Some(fault) = &at_the_end {
                env.emulator.faults().clear();
                env.inject(Kind::Upload, fault.clone());
            }
            assert_eq!(mount.unmount(env), (3, 3));
            let told = reason();
            assert!(told.contains("status 503") && told.contains(" is tired"), "{told}");
            assert!(
                !told.contains("sk-test") && !told.contains('\u{1b}') && !told.contains("mounted"),
                "{told}"
            );
        });
    }
}

#[test]
fn what_stays_on_this_machine_says_so() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--scratch", "*.mine"]);
        for name in ["c/.s.swp", "c/a.mine"] {
            assert_eq!(save(&mount.path(name), b"scratch"), Ok(()));
        }
        let says_so = || {
            let (_, text) = run(env, &["list"]);
            assert!(
                text.matches("stays on this machine").count() == 2 && !text.contains("not uploaded"),
                "{text}"
            );
            for id in ids(env) {
                let (code, text) = run(env, &["retry", &id]);
                assert!(code == 0 && text.contains("stays on this machine"), "{code}: {text}");
            }
            assert_eq!(run(env, &["retry"]), (0, String::new()));
        };
        says_so();
        assert_eq!(mount.unmount(env), (0, 0));
        says_so();
        let mount = env.mount(&["--scratch", "*.mine"]);
        assert!(env.store().files(&id).is_empty());
        fs::rename(mount.path("c/a.mine"), mount.path("c/a")).unwrap();
        assert_eq!(env.bytes_on_server(&id, "a"), b"scratch");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

/// Has a save arrive whose daemon dies before the version that it replaces is deleted.
fn arrives_and_dies(env: &Env) -> String {
    let id = env.container("c");
    env.store().put_upload(&id, "a", b"base");
    let mut mount = env.mount(&["--write-back", "--write-back-delay", "20ms"]);
    env.inject(Kind::DeleteFile, Fault::HangBefore);
    assert_eq!(save(&mount.path("c/a"), b"saved"), Ok(()));
    wait_until("it has arrived", || env.count(Kind::DeleteFile) > 0);
    mount.kill();
    env.emulator.faults().clear();
    id
}

/// Throws away the only item that is pending.
fn discard_all(env: &Env) {
    let items = ids(env);
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(run(env, &["discard", &items[0]]), (0, format!("{}: thrown away\n", items[0])));
}

/// What has arrived is there alone, in this mount and the next one.
fn stays_alone(env: &Env, id: &str, mount: Mount) {
    wait_until("it is shown", || mount.names("c") == ["a"]);
    wait_until("what it replaces is gone", || env.store().files(id).len() == 1);
    assert_eq!(mount.sh("c", "cat a"), "saved");
    assert_eq!(mount.unmount(env), (0, 0));
    let mount = env.mount(&[]);
    assert_eq!(mount.sh("c", "cat *"), "saved");
    assert_eq!(mount.unmount(env), (0, 0));
    assert_eq!(env.bytes_on_server(id, "a"), b"saved");
}

#[test]
fn what_is_thrown_away_in_a_mount_and_has_arrived_stays() {
    on_openai(|env| {
        let id = arrives_and_dies(env);
        env.status_fault(Kind::ListFiles, 500);
        let mount = env.mount(&["--ttl", "50ms"]);
        discard_all(env);
        env.emulator.faults().clear();
        stays_alone(env, &id, mount);
    });
}

#[test]
fn what_is_thrown_away_in_a_mount_of_another_container_and_has_arrived_stays() {
    on_openai(|env| {
        let id = arrives_and_dies(env);
        let mount = env.mount(&["--container", &env.container("other")]);
        discard_all(env);
        assert_eq!(mount.unmount(env), (0, 0));
        stays_alone(env, &id, env.mount(&["--ttl", "50ms"]));
    });
}

#[test]
fn what_is_thrown_away_without_a_mount_and_has_arrived_stays() {
    on_openai(|env| {
        let id = arrives_and_dies(env);
        env.status_fault(Kind::ListFiles, 500);
        let mount = env.mount(&[]);
        assert_eq!(mount.unmount(env), (3, 3));
        discard_all(env);
        env.emulator.faults().clear();
        stays_alone(env, &id, env.mount(&["--ttl", "50ms"]));
    });
}

#[test]
fn what_is_thrown_away_without_an_answer_leaves_what_it_was_to_replace() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "a", b"base");
        for has_a_mount in [true, false] {
            let mount = env.mount(&["--ttl", "50ms"]);
            env.inject(Kind::Upload, lost_answer());
            assert!(save(&mount.path("c/a"), b"saved").is_err());
            env.emulator.faults().clear();
            if has_a_mount {
                discard_all(env);
                assert_eq!(mount.unmount(env), (0, 0));
            } else {
                env.status_fault(Kind::ListFiles, 500);
                assert_eq!(mount.unmount(env), (3, 3));
                env.emulator.faults().clear();
                discard_all(env);
            }
            let mount = env.mount(&["--ttl", "50ms"]);
            wait_until("what was sent is gone", || {
                mount.names("c") == ["a"] && env.store().files(&id).len() == 1
            });
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "a"), b"base");
        }
    });
}
