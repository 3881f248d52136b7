//! `--keep-alive`, on a container that would live for a minute.

use std::time::{Duration, Instant};

use containerfs::emulator::{Fault, FaultRule, Kind};

use crate::env::{on_openai, wait_until};

#[test]
fn a_container_that_is_used_is_kept_alive_by_one_get_and_one_that_is_merely_shown_is_not() {
    on_openai(|env| {
        for name in ["used", "shown"] {
            let made = env.command(&["containers", "create", "--name", name, "--expires-after.minutes", "1"]);
            let mut made = made;
            assert!(made.output().unwrap().status.success());
        }
        let mount = env.mount(&["--keep-alive", "--ttl", "1h"]);
        let begun = Instant::now();
        assert!(mount.names("used").is_empty());
        assert_eq!(mount.names(""), ["shown", "used"]);
        env.emulator.forget_requests();
        let asked = || env.count(Kind::RetrieveContainer);
        // Half of its life is 30 seconds, longer than anybody's patience.
        while begun.elapsed() < Duration::from_secs(27) {
            assert_eq!(asked(), 0, "after {:?}", begun.elapsed());
            std::thread::sleep(Duration::from_millis(500));
        }
        wait_until("it is asked for", || asked() > 0);
        assert!(begun.elapsed() >= Duration::from_secs(30));
        std::thread::sleep(Duration::from_secs(3));
        let requests = env.emulator.requests();
        assert_eq!(requests.len(), 1, "one cheap GET and nothing else: {requests:?}");
        let used = env.store().containers().into_iter().find(|container| container.name == "used").unwrap();
        assert!(requests[0].path.ends_with(&used.id));
    });
}

#[test]
fn a_container_that_has_expired_is_not_asked_for_again() {
    on_openai(|env| {
        let mut ids = Vec::new();
        for name in ["absent", "expired"] {
            let mut made =
                env.command(&["containers", "create", "--name", name, "--expires-after.minutes", "1"]);
            let made = made.output().unwrap();
            let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
            ids.push(made["id"].as_str().unwrap().to_owned());
        }
        let mount = env.mount(&["--keep-alive", "--ttl", "1h"]);
        let begun = Instant::now();
        assert!(mount.names("absent").is_empty() && mount.names("expired").is_empty());
        // Some servers answer 404 or 400, others with the object.
        env.store().expire_container(&ids[0]);
        let object =
            serde_json::json!({ "id": ids[1], "name": "expired", "status": "expired", "created_at": 1 });
        let fault = Fault::Status { code: 200, body: Some(object.to_string()), headers: Default::default() };
        env.emulator.faults().inject(FaultRule {
            path_contains: Some(ids[1].clone()),
            ..FaultRule::always(Kind::RetrieveContainer, fault)
        });
        env.emulator.forget_requests();
        // Half of the life, then half of the life once more, in which a failure would be tried again four
        // times.
        while begun.elapsed() < Duration::from_secs(62) {
            std::thread::sleep(Duration::from_secs(1));
        }
        let requests = env.emulator.requests();
        for id in ids {
            let asked = requests.iter().filter(|request| request.path.ends_with(&id)).count();
            assert_eq!(asked, 1, "{requests:?}");
        }
        assert!(mount.names("").is_empty());
    });
}

#[test]
fn a_container_that_claims_to_live_for_ever_or_has_a_hostile_id_does_no_harm() {
    on_openai(|env| {
        let answer = |kind: Kind, body: serde_json::Value| {
            let headers = Default::default();
            env.inject(kind, Fault::Status { code: 200, body: Some(body.to_string()), headers });
        };
        let made = |id: &str, name: &str, minutes: i64| {
            let life = serde_json::json!({ "anchor": "last_active_at", "minutes": minutes });
            serde_json::json!({ "id": id, "name": name, "status": "running", "created_at": 1, "expires_after": life })
        };
        let hostile = [made("cntr_a", "eternal", 1 << 62), made("cntr_b\nforged", "forger", 1)];
        answer(
            Kind::ListContainers,
            serde_json::json!({ "object": "list", "data": hostile, "has_more": false }),
        );
        answer(Kind::ListFiles, serde_json::json!({ "object": "list", "data": [], "has_more": false }));
        env.status_fault(Kind::RetrieveContainer, 403);
        let mount = env.mount(&["--keep-alive", "--ttl", "1h"]);
        let begun = Instant::now();
        assert!(mount.names("eternal").is_empty() && mount.names("forger").is_empty());
        while begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(500));
        }
        wait_until("it is told", || mount.log().contains("could not be kept alive"));
        assert!(!mount.log().lines().any(|line| line.starts_with("forged")), "{}", mount.log());
        let requests = env.emulator.requests();
        let asked = requests.iter().filter(|request| request.path.ends_with("cntr_a"));
        assert_eq!(asked.count(), 0, "{requests:?}");
    });
}
