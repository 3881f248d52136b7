//! Renames that a crash has interrupted, taken up by the next mount while it is in use.

use std::fs;
use std::thread;
use std::time::Duration;

use containerfs::emulator::Kind::Upload;
use containerfs::emulator::{Config, Fault, FaultRule, Profile, ReplaceByName};
use containerfs::journal::steps::FAILPOINT;
use nix::errno::Errno;

use crate::env::{Env, fuse_is_missing, save, wait_until};
use crate::recovery::killed_amid;
use crate::steps::{KILLED, TOO_MANY};

/// A server that keeps ids gives the new file that of the renamed one, or what has been sent that of what it replaced.
#[test]
fn what_is_saved_while_a_rename_is_taken_up_stays_where_ids_are_kept() {
    if fuse_is_missing() {
        return;
    }
    let saved_after = |fault: &Fault, of_a_directory: bool, delay: Duration| {
        let context = format!("{fault:?}, of a directory: {of_a_directory}, after {delay:?}");
        let env = Env::that_replaces(Profile::Plain, ReplaceByName::SameId);
        let id = env.container("c");
        let (from, to, old, new) = match of_a_directory {
            true => ("old", "new", "old/f", "new/f"),
            false => ("old", "new", "old", "new"),
        };
        if !of_a_directory {
            env.store().put_upload(&id, new, b"it stood");
        }
        env.store().put_upload(&id, old, b"renamed");
        if of_a_directory {
            let mount = env.mount(&[]);
            mount.sh("c", "mkdir probed; touch probed/f; rm -r probed");
            assert_eq!(mount.unmount(&env), (0, 0));
        }
        killed_amid(&env, 1, FaultRule::once(Upload, fault.clone()), |mount| {
            let _ = fs::rename(mount.path(&format!("c/{from}")), mount.path(&format!("c/{to}")));
        });
        env.emulator.set_latency(Duration::from_millis(200));
        let mount = env.mount(&["--ttl", "50ms"]);
        thread::sleep(delay);
        let told = save(&mount.path(&format!("c/{old}")), b"another");
        wait_until("the rename is done or called off", || {
            !env.notes("intent.json").iter().any(|intent| intent.contains("\"posted\""))
        });
        env.emulator.set_latency(Duration::ZERO);
        let shown = mount.sh("c", &format!("cat {old}; echo; cat {new}; true"));
        let done_or_called_off: &[&str] = match (told, of_a_directory) {
            (Ok(()), true) => &["\nanother", "another\n"],
            (Ok(()), false) => &["another\nit stood", "another\nrenamed"],
            // It was renamed by then.
            (Err(Errno::ENOENT), true) => &["\nrenamed"],
            _ => &[],
        };
        assert!(done_or_called_off.contains(&shown.as_str()), "{context}: {told:?}, {shown}");
        assert_eq!(mount.unmount(&env), (0, 0), "{context}");
        let on_server = |name: &str| env.only_version(&id, name).unwrap_or_default();
        let shown_on_server = [on_server(old), on_server(new)].join(&b'\n');
        assert_eq!(String::from_utf8(shown_on_server).unwrap(), shown, "{context}");
    };
    for (fault, of_a_directory) in
        [Fault::HangBefore, Fault::HangAfter].iter().flat_map(|fault| [(fault, false), (fault, true)])
    {
        for millis in [0, 250] {
            saved_after(fault, of_a_directory, Duration::from_millis(millis));
        }
    }
}

/// A server that replaces by name has put the renamed file in the place of the other.
#[test]
fn what_a_rename_has_replaced_by_name_is_there_until_it_is_taken_up() {
    if fuse_is_missing() {
        return;
    }
    for fault in [Fault::HangAfter, Fault::HangBefore] {
        let env = Env::that_replaces(Profile::Openai, ReplaceByName::Replace);
        let id = env.container("c");
        env.store().put_upload(&id, "new", b"it stood");
        env.store().put_upload(&id, "old", b"renamed");
        killed_amid(&env, 1, FaultRule::once(Upload, fault.clone()), |mount| {
            let _ = fs::rename(mount.path("c/old"), mount.path("c/new"));
        });
        env.emulator.set_latency(Duration::from_millis(300));
        let mount = env.mount(&["--ttl", "50ms"]);
        let is_taken_up = || !env.notes("intent.json").iter().any(|intent| intent.contains("\"posted\""));
        let mut looks = 0;
        while !is_taken_up() || looks == 0 {
            let bytes = fs::read(mount.path("c/new")).map(|bytes| String::from_utf8(bytes).unwrap());
            let is_there = matches!(bytes.as_deref(), Ok("it stood" | "renamed"));
            assert!(is_there, "{fault:?}: {bytes:?} at look {looks}");
            looks += 1;
        }
        env.emulator.set_latency(Duration::ZERO);
        assert_eq!(mount.sh("c", "ls; cat new"), "new\nrenamed", "{fault:?}");
        assert_eq!(mount.unmount(&env), (0, 0));
        assert_eq!(env.only_version(&id, "new"), Some(b"renamed".to_vec()), "{fault:?}");
        assert_eq!(env.store().files(&id).len(), 1, "{fault:?}");
    }
}

/// Its first POST had no answer, and its second is not taken for what that has made.
#[test]
fn a_rename_that_was_sent_twice_leaves_its_file_whenever_the_daemon_dies() {
    if fuse_is_missing() {
        return;
    }
    let dies_at = |step: usize| {
        let env = Env::of(Config::new(Profile::Openai));
        let id = env.container("c");
        env.store().put_upload(&id, "old", b"renamed");
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        env.emulator.faults().inject(FaultRule::once(Upload, Fault::ResetBefore));
        let renamed = fs::rename(mount.path("c/old"), mount.path("c/new")).is_ok();
        let died = mount.unmount(&env).1 == KILLED;
        for _ in 0..2 {
            let mount = env.mount(&["--ttl", "50ms"]);
            mount.sh("c", "ls; sleep 0.1; ls");
            assert_eq!(mount.unmount(&env), (0, 0), "step {step}");
        }
        let names = if renamed { &["new"][..] } else { &["new", "old"] };
        let versions = names.iter().filter_map(|name| env.only_version(&id, name));
        assert_eq!(versions.collect::<Vec<_>>(), [b"renamed"], "step {step}");
        died
    };
    let steps = (0..TOO_MANY).take_while(|step| dies_at(*step)).count();
    assert!((2..TOO_MANY).contains(&steps), "it died at {steps} steps");
}
