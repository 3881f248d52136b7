//! The nine operations as commands. No mount is needed here.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use containerfs::emulator::{Config, Fault, FaultRule, Kind, Profile};
use serde_json::Value;

use crate::env::Env;

fn run(env: &Env, args: &[&str]) -> Output {
    env.command(args).output().unwrap()
}

/// What a command that must succeed printed.
fn json(env: &Env, args: &[&str]) -> Value {
    let output = run(env, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn on_servers(test: impl Fn(&Env)) {
    for profile in [Profile::Openai, Profile::Plain] {
        test(&Env::of(Config::new(profile)));
    }
}

#[test]
fn a_container_is_made_with_every_flag_shown_and_deleted() {
    on_servers(|env| {
        let made = json(
            env,
            &[
                "containers",
                "create",
                "--name",
                "c",
                "--expires-after.minutes",
                "10",
                "--expires-after.anchor",
                "last_active_at",
                "--memory-limit",
                "4g",
                "--network-policy",
                r#"{"type":"allowlist","allowed_domains":["a.com"]}"#,
            ],
        );
        let id = made["id"].as_str().unwrap();
        assert_eq!((&made["name"], &made["memory_limit"]), (&"c".into(), &"4g".into()));
        assert_eq!(made["expires_after"]["minutes"], 10);
        assert_eq!(made["network_policy"]["type"], "allowlist");
        for args in
            [&["containers", "retrieve", "--container-id", id][..], &["containers", "retrieve", id][..]]
        {
            assert_eq!(json(env, args)["id"], id);
        }
        let listed = json(env, &["containers", "list", "--limit", "5", "--order", "asc", "--name", "c"]);
        assert_eq!((&listed["object"], listed["data"].as_array().unwrap().len()), (&"list".into(), 1));
        assert_eq!(json(env, &["containers", "delete", id])["deleted"], true);
        assert!(env.store().containers().iter().all(|container| container.id != id));
    });
}

#[test]
fn files_and_skills_of_a_new_container_are_flags_that_repeat() {
    on_servers(|env| {
        let ids = ["file-AAAAAAAAAAAAAAAAAAAAAA", "file-BBBBBBBBBBBBBBBBBBBBBB"];
        for id in ids {
            env.store().register_api_file(id, "data.csv", b"1,2");
        }
        let common = ["containers", "create", "--name", "c", "--network-policy", "disabled"];
        let files = ["--file-id", ids[0], "--file-id", ids[1]];
        let skills = [
            "--skill.type=skill_reference",
            "--skill.skill-id=s1",
            "--skill.version=2",
            "--skill",
            r#"{"type":"inline","name":"n","description":"d","source":{"type":"base64","media_type":"application/zip","data":"UEsFBg=="}}"#,
        ];
        let made = json(env, &[&common[..], &files, &skills].concat());
        assert_eq!(made["network_policy"]["type"], "disabled");
        let id = made["id"].as_str().unwrap();
        assert_eq!(env.store().files(id).len(), 2);
        // The server looks at each skill: one that lacks its id is refused.
        let output = run(env, &[&common[..], &["--skill.type", "skill_reference"]].concat());
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

#[test]
fn every_byte_goes_up_and_comes_down() {
    on_servers(|env| {
        let id = env.container("c");
        let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        let local = env.dir.path().join("all bytes.bin");
        fs::write(&local, &bytes).unwrap();
        let made = json(
            env,
            &["containers:files", "create", "--container-id", &id, "--file", local.to_str().unwrap()],
        );
        let file = made["id"].as_str().unwrap();
        assert!(made["path"].as_str().unwrap().ends_with("all bytes.bin"));
        assert_eq!(env.store().content(&id, file).unwrap(), bytes);

        let out =
            run(env, &["containers:files:content", "retrieve", "--container-id", &id, "--file-id", file]);
        assert_eq!(out.stdout, bytes);
        let target = env.dir.path().join("down.bin");
        let target = target.to_str().unwrap();
        assert!(
            run(env, &["containers:files:content", "retrieve", &id, file, "--output", target])
                .status
                .success()
        );
        assert_eq!(fs::read(target).unwrap(), bytes);

        assert_eq!(json(env, &["containers:files", "retrieve", &id, file])["bytes"], 70_000);
        assert_eq!(json(env, &["containers:files", "list", &id])["data"][0]["id"], file);
        assert_eq!(
            json(env, &["containers:files", "delete", "--container-id", &id, "--file-id", file])["deleted"],
            true
        );
        assert!(env.store().files(&id).is_empty());
    });
}

#[test]
fn standard_input_is_uploaded_under_a_name() {
    on_servers(|env| {
        let id = env.container("c");
        let args = ["containers:files", "create", &id, "--file", "-", "--filename", "in.txt"];
        let mut command = env.command(&args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
        assert_eq!(env.bytes_on_server(&id, "in.txt"), b"from a pipe");
    });
}

#[test]
fn every_item_of_every_page_is_a_line() {
    on_servers(|env| {
        for number in 0..130 {
            env.container(&format!("c{number}"));
        }
        let lines = |args: &[&str]| {
            let output = run(env, &[&["containers", "list", "--format", "jsonl"], args].concat());
            assert!(output.status.success());
            let text = String::from_utf8(output.stdout).unwrap();
            let items = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            items.map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let expected: Vec<String> = (0..130).rev().map(|number| format!("c{number}")).collect();
        assert_eq!(lines(&["--max-items", "-1"]), expected);
        assert_eq!(lines(&["--max-items", "105"]), expected[..105]);
        assert_eq!(lines(&["--max-items", "3", "--order", "asc"]), ["c0", "c1", "c2"]);
        assert_eq!(lines(&["--limit", "7"]).len(), 130);
    });
}

#[test]
fn errors_are_the_servers_words_and_usage_is_told_apart() {
    on_servers(|env| {
        let id = env.container("c");
        let code = |args: &[&str]| run(env, args).status.code().unwrap();
        for args in [
            &["containers", "create"][..],
            &["containers", "retrieve"][..],
            &["containers:files", "create", &id][..],
            &["containers:files", "retrieve", &id][..],
            &["containers:files:content", "retrieve"][..],
            &["containers", "list", "--limti", "3"][..],
        ] {
            assert_eq!(code(args), 2, "{args:?}");
        }
        let output = run(env, &["containers", "list", "--limti", "3"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("'--limit'"), "the nearest flag is named: {said}");
        let usage = "Usage: containerfs containers list [OPTIONS]";
        assert!(
            said.contains(usage) && !said.contains("--api-key"),
            "what the environment gives is no usage: {said}"
        );
        let output = run(env, &["containers", "retrieve", "cntr_unknown"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said.contains("cntr_unknown") && said.contains("not found") && said.contains("req_"),
            "{said}"
        );
        let absent = env.dir.path().join("absent");
        let absent = absent.to_str().unwrap();
        assert_eq!(
            code(&["containers:files:content", "retrieve", &id, "cfile_unknown", "--output", absent]),
            1
        );
        assert!(!std::path::Path::new(absent).exists());
    });
}

#[test]
fn what_may_have_been_made_is_not_made_twice_and_is_told() {
    on_servers(|env| {
        let id = env.container("c");
        let asks = [("x-should-retry", "true"), ("retry-after-ms", "10")];
        let asks = asks.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for code in [408, 409, 500] {
            let file = env.dir.path().join(format!("f{code}"));
            fs::write(&file, b"x").unwrap();
            let name = format!("made{code}");
            let create_file = ["containers:files", "create", &id, "--file", file.to_str().unwrap()];
            for (kind, args) in [
                (Kind::CreateContainer, &["containers", "create", "--name", &name][..]),
                (Kind::Upload, &create_file[..]),
            ] {
                let fault = Fault::StatusAfter { code, headers: asks.clone().into() };
                env.emulator.faults().inject(FaultRule::once(kind, fault));
                env.emulator.forget_requests();
                let output = run(env, args);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!((output.status.code(), env.count(kind)), (Some(1), 1), "{args:?}: {said}");
                assert!(said.contains("it may be there all the same"), "{said}");
            }
            // What was not carried out for sure is tried again.
            let wait = Fault::Status { code: 429, body: None, headers: asks.clone().into() };
            env.emulator.faults().inject(FaultRule::once(Kind::CreateContainer, wait));
            env.emulator.forget_requests();
            assert_eq!(json(env, &["containers", "create", "--name", "other"])["name"], "other");
            assert_eq!(env.count(Kind::CreateContainer), 2);
        }
    });
}

#[test]
fn a_reply_is_printed_as_it_came_or_as_a_table() {
    on_servers(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f", b"x");
        let raw = run(env, &["containers:files", "list", &id, "--format", "raw"]);
        let raw: Value = serde_json::from_slice(&raw.stdout).unwrap();
        assert!(raw["data"][0].as_object().unwrap().contains_key("bytes"), "a null is a field too");
        let file = raw["data"][0]["id"].as_str().unwrap();
        let content = ["containers:files:content", "retrieve", &id, file, "--format"];
        assert_eq!(run(env, &[&content[..], &["raw"]].concat()).stdout, b"x");
        let refused = run(env, &[&content[..], &["json"]].concat());
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && said.contains("content is printed as it is"), "{said}");
        let table = run(env, &["containers:files", "list", &id, "--format", "table"]);
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(table.contains("PATH") && table.contains("/mnt/data/f"), "{table}");
    });
}
