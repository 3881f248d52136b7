//! `--keep-alive`, on a container that would live for a minute.

use std::time::{Duration, Instant};

use containerfs::emulator::Kind;

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
