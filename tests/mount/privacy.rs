//! What must not leave: keys, and bytes for other eyes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use containerfs::emulator::{Config, Fault, Kind, Profile};

use crate::env::{Env, errno, on_both_profiles, on_openai, save};

const KEY: &str = "sk-do-not-print-me-0123456789";

#[test]
fn the_key_is_in_no_log_state_cache_status_or_argument() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let dir = env.mountpoint();
        let log = env.dir.path().join("log");
        let mut command = env.command(&["mount", "--foreground", "--log-level", "trace,containerfs=trace"]);
        command.env("OPENAI_API_KEY", KEY).stderr(fs::File::create(&log).unwrap());
        let mut daemon = command.arg(&dir).spawn().unwrap();
        crate::env::wait_until("the mount answers", || crate::env::is_mounted(&dir));
        assert_eq!(fs::read(dir.join("c/f")).unwrap(), b"bytes");
        assert_eq!(save(&dir.join("c/g"), b"mine"), Ok(()));
        for code in [401, 400, 500] {
            // A server that repeats the key must not make us print it.
            let body = format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}","type":"x"}}}}"#);
            env.inject(
                Kind::Upload,
                Fault::Status { code, body: Some(body), headers: std::collections::BTreeMap::new() },
            );
            assert!(save(&dir.join(format!("c/{code}")), b"x").is_err());
            env.emulator.faults().clear();
        }
        let status = env.command(&["status", "--json"]).arg(&dir).output().unwrap();
        let arguments = fs::read(format!("/proc/{}/cmdline", daemon.id())).unwrap();
        let told = env.command(&["unmount"]).arg(&dir).output().unwrap();
        daemon.wait().unwrap();
        let traces = [env.traces(), status.stdout, arguments, told.stdout, told.stderr].concat();
        let traces = String::from_utf8_lossy(&traces);
        assert!(
            traces.contains("TRACE") && traces.contains("Incorrect API key"),
            "nothing was logged: {traces}"
        );
        let at = traces.find("do-not-print-me");
        assert_eq!(at, None, "{}", at.map_or("", |at| &traces[at.saturating_sub(300)..at + 60]));
    });
}

#[test]
fn a_redirect_reaches_no_other_server() {
    on_both_profiles(|env| {
        let other = Env::of(Config::new(Profile::Plain));
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(mount.names("c"), ["f"]);
        for kind in [Kind::Content, Kind::Upload] {
            env.inject(
                kind,
                Fault::Redirect { location: format!("{}/containers", other.emulator.base_url()) },
            );
        }
        assert_eq!(errno(fs::read(mount.path("c/f"))), libc::EPROTO);
        assert!(save(&mount.path("c/g"), b"secret").is_err());
        assert!(other.emulator.requests().is_empty(), "{:?}", other.emulator.requests());
    });
}

#[test]
fn state_and_cache_are_for_their_owner_alone() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--timeout", "1s"]);
        fs::read(mount.path("c/f")).unwrap();
        mount.sh("c", "mkdir d; echo x > d/g");
        env.status_fault(Kind::Upload, 400);
        assert!(save(&mount.path("c/refused"), b"kept").is_err());
        let mut directories = vec![env.dir.path().join("state"), env.dir.path().join("cache")];
        let mut files = 0;
        while let Some(directory) = directories.pop() {
            let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&directory), 0o700, "{directory:?}");
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    assert_eq!(mode(&path) & 0o077, 0, "{path:?}");
                    files += 1;
                }
            }
        }
        assert!(files > 2, "there is something to look at");
    });
}

#[test]
fn a_mount_honours_neither_setuid_nor_devices() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(&mount.dir.display().to_string())).unwrap();
        let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
        assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{line}");
    });
}

#[test]
fn what_a_server_says_garbles_no_terminal() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let body =
            "{\"error\":{\"message\":\"clear \\u001b[2J\\u009b2J\\u0007 screen\",\"type\":\"x\"}}".to_owned();
        let fault = Fault::Status { code: 400, body: Some(body), headers: std::collections::BTreeMap::new() };
        env.inject(Kind::Upload, fault);
        assert!(save(&mount.path("c/f"), b"x").is_err());
        let status = env.command(&["status"]).arg(&mount.dir).output().unwrap();
        let log = mount.log();
        let (asked, dir) = (env.command(&["unmount"]).arg(&mount.dir).output().unwrap(), mount.dir.clone());
        assert_eq!(asked.status.code(), Some(3));
        assert!(!crate::env::is_mounted(&dir));
        for said in [status.stdout, asked.stderr, log.into_bytes()] {
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains("screen"), "{said:?}");
            assert!(!said.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{said:?}");
        }
    });
}
