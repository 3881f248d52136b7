//! What must not leave: keys, and bytes for other eyes.

use std::fs;

use containerfs::emulator::{Config, Fault, Kind, Profile};

use crate::env::{Env, errno, on_both_profiles, on_openai, save};

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
