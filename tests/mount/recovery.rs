//! What the next mount makes of a daemon that died at any step, where the server or the disk makes that hard.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::thread;
use std::time::Duration;

use containerfs::emulator::Kind::{DeleteFile, ListContainers, Upload};
use containerfs::emulator::{Config, Fault, FaultRule, Profile};
use containerfs::journal::steps::{CLOSED, FAILPOINT};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{
    Env, Mount, fuse_is_missing, is_missing, lost_answer, noise, on_both_profiles, on_openai, save,
    wait_until,
};
use crate::steps::{KILLED, TOO_MANY, append, put, shown};
use crate::tools::Tmpfs;

#[test]
fn a_file_whose_upload_the_list_shows_late() {
    if fuse_is_missing() {
        return;
    }
    let lag = Duration::from_millis(700);
    let dies_at = |newer: &str, step: usize| {
        let mut config = Config::new(Profile::Openai);
        config.quirks.upload_list_lag = lag;
        let env = Env::of(config);
        let id = env.container("c");
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        let first = save(&mount.path("c/f"), b"old").is_ok();
        // What is empty is saved behind its close.
        let told = first && save(&mount.path("c/f"), newer.as_bytes()).is_ok() && !newer.is_empty();
        let died = mount.unmount(&env).1 == KILLED;
        // What has arrived and is remembered is asked for by its id, and not sent again.
        let records = env.notes("records.jsonl").concat();
        let has_landed = |id: &str| records.lines().any(|fact| fact.contains("landed") && fact.contains(id));
        let is_newer = |file: &str| env.store().content(&id, file).unwrap() == newer.as_bytes();
        let is_there = env.store().files(&id).iter().any(|file| is_newer(&file.id) && has_landed(&file.id));
        env.emulator.forget_requests();
        let mut mount = env.mount(&["--ttl", "10ms"]);
        for _ in 0..10 {
            mount.names("c");
            thread::sleep(Duration::from_millis(11));
        }
        mount.kill();
        assert!(!is_there || env.count(Upload) == 0, "step {step}: it was sent again");
        drop(mount);
        thread::sleep(lag);
        let mount = env.mount(&["--ttl", "50ms"]);
        let is_one = || mount.names("c").len() <= 1 && env.store().files(&id).len() == mount.names("c").len();
        wait_until(&format!("there is one version, step {step}"), is_one);
        if told {
            assert_eq!(mount.sh("c", "cat f"), newer, "step {step}");
        }
        let ended = mount.unmount(&env).1;
        assert!(ended == 0 || (ended == 3 && !told), "{ended}: what was never closed is left");
        died
    };
    for newer in ["newer", ""] {
        let steps = (0..TOO_MANY).take_while(|step| dies_at(newer, *step)).count();
        assert!(steps > 1, "it died at {steps} steps only");
    }
}

#[test]
fn a_full_disk_at_the_recovery_of_a_rename_loses_nothing_and_leaves_nothing_twice() {
    if is_missing("root, who alone can mount a small disk", !nix::unistd::geteuid().is_root()) {
        return;
    }
    let dies_at = |step: usize| {
        let env = Env::of(Config::new(Profile::Openai));
        let (id, state) = (env.container("c"), env.dir.path().join("state"));
        let _disk = Tmpfs::mount(&state, "4m");
        let mount = env.mount(&[]);
        fs::create_dir(mount.path("c/d")).unwrap();
        put(&mount, "d/sent", "sent");
        put(&mount, "d/kept~", "kept");
        assert_eq!(mount.unmount(&env), (0, 0));
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        let told = fs::rename(mount.path("c/d"), mount.path("c/e")).is_ok();
        let died = mount.unmount(&env).1 == KILLED;

        let filler = state.join("filler");
        let filled = fs::write(&filler, noise(5 << 20));
        assert!(filled.is_err(), "it fills the disk");
        let mut mount = env.mount(&[]);
        let directory = |mount: &Mount| if mount.path("c/e/kept~").exists() { "e" } else { "d" };
        let is_whole = |mount: &Mount| {
            let place = directory(mount);
            let files =
                [(format!("{place}/kept~"), "kept".to_owned()), (format!("{place}/sent"), "sent".to_owned())];
            shown(mount) == files.into()
        };
        wait_until("all is in one directory", || is_whole(&mount));
        assert!(!told || directory(&mount) == "e", "step {step}");
        mount.kill();
        drop(mount);
        fs::remove_file(filler).unwrap();
        let mount = env.mount(&[]);
        wait_until("all is in one directory again", || is_whole(&mount));
        assert!(!told || directory(&mount) == "e", "step {step}");
        assert_eq!(mount.unmount(&env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 1, "step {step}");
        died
    };
    let steps = (0..TOO_MANY).take_while(|step| dies_at(*step)).count();
    assert!(steps > 1, "it died at {steps} steps only");
}

#[test]
fn what_a_lost_answer_has_left_goes_whenever_the_daemon_dies() {
    if fuse_is_missing() {
        return;
    }
    let dies_at = |again: &[u8], step: usize| {
        let env = Env::of(Config::new(Profile::Openai));
        let id = env.container("c");
        let variables = [("FAILPOINTS", &*format!("{FAILPOINT}={step}*off->return"))];
        let mount = env.mount_with(&["--ttl", "50ms"], &variables);
        let mut told = save(&mount.path("c/f"), b"old").is_ok();
        env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
        let is_lost = save(&mount.path("c/f"), b"lost") == Err(Errno::EPROTO);
        if told && is_lost {
            if again.is_empty() {
                // What is swept up behind a list.
                told = fs::rename(mount.path("c/f"), mount.path("c/g")).is_ok();
                wait_until("it is gone", || {
                    let _ = fs::read_dir(mount.dir.join("c"));
                    let missing = fs::metadata(mount.dir.join("c/missing"));
                    let is_dead = missing.is_err_and(|error| error.kind() != ErrorKind::NotFound);
                    is_dead || env.store().files(&id).len() == 1
                });
            } else {
                told = save(&mount.path("c/f"), again).is_ok();
            }
        }
        let died = mount.unmount(&env).1 == KILLED;
        env.emulator.faults().clear();
        let mount = env.mount(&["--ttl", "50ms"]);
        wait_until(&format!("there is one version of each file, step {step} of {again:?}"), || {
            let names = mount.names("c");
            !names.iter().any(|name| name.contains('~')) && env.store().files(&id).len() == names.len()
        });
        let found = shown(&mount);
        assert!(found.len() <= 1, "step {step}: {found:?}");
        if told && is_lost {
            let expected = if again.is_empty() { ("g", &b"lost"[..]) } else { ("f", again) };
            assert_eq!(
                found.get(expected.0).map(String::as_bytes),
                Some(expected.1),
                "step {step} {again:?} {found:?}"
            );
        }
        let ended = mount.unmount(&env).1;
        assert!(ended == 0 || (ended == 3 && !(told && is_lost)), "{ended}: what was never closed is left");
        let context =
            format!("step {step} of {again:?}, told: {told}, lost: {is_lost}, ended: {ended}, {found:?}");
        assert_eq!(env.store().files(&id).len(), found.len(), "{context}");
        died
    };
    for again in [&b""[..], b"lost", b"another"] {
        let steps = (0..TOO_MANY).take_while(|step| dies_at(again, *step)).count();
        assert!(steps > 1, "it died at {steps} steps only");
    }
}

/// A close of the older bytes, by their last descriptor, is thought of again when newer ones are promised already.
#[test]
fn of_two_saves_the_later_one_counts_however_late_the_note_of_the_other_is_written() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::of(Config::new(Profile::Openai));
    let id = env.container("c");
    let variables = [("FAILPOINTS", &*format!("{CLOSED}=1*off->1*sleep(400)->off"))];
    let mut mount = env.mount_with(&["--write-back", "--write-back-delay", "0s"], &variables);
    env.inject(Upload, Fault::HangBefore);
    assert_eq!(save(&mount.path("c/f"), b"first"), Ok(()));
    wait_until("it is under way", || env.count(Upload) == 1);
    assert_eq!(append(&mount.path("c/f"), b" second"), Ok(()));
    thread::sleep(Duration::from_millis(600));
    assert_eq!(env.notes("meta.json").len(), 2, "of the bytes that travel, and of the newer ones");
    mount.kill();
    drop(mount);
    env.emulator.faults().clear();
    let mount = env.mount(&[]);
    assert_eq!(mount.sh("c", "cat f"), "first second");
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(env.bytes_on_server(&id, "f"), b"first second");
}

/// A save whose POST is under way when the file is opened again, to be saved with the same bytes.
#[test]
fn what_has_arrived_is_not_taken_for_a_lost_post_of_bytes_that_were_never_closed() {
    on_both_profiles(|env| {
        for (number, bytes) in [b"" as &[u8], b"precious"].into_iter().enumerate() {
            let id = env.container(&format!("c{number}"));
            let path = format!("c{number}/f");
            let mut mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
            env.emulator.forget_requests();
            env.emulator.faults().inject(FaultRule::once(Upload, Fault::Delay { millis: 700 }));
            let mut file = File::create(mount.path(&path)).unwrap();
            file.write_all(bytes).unwrap();
            file.sync_all().unwrap();
            drop(file);
            wait_until("it is on its way", || env.count(Upload) == 1);
            let mut again = File::create(mount.path(&path)).unwrap();
            again.write_all(bytes).unwrap();
            wait_until("it has arrived", || env.store().files(&id).len() == 1);
            thread::sleep(Duration::from_millis(300));
            mount.kill();
            drop((again, mount));
            let mount = env.mount(&["--ttl", "50ms"]);
            for _ in 0..10 {
                assert_eq!(mount.names(&format!("c{number}")), ["f"]);
                assert_eq!(fs::read(mount.path(&path)).unwrap(), bytes);
                thread::sleep(Duration::from_millis(60));
            }
            mount.unmount(env);
            assert_eq!(env.bytes_on_server(&id, "f"), bytes);
        }
    });
}

/// Mounts that do not have the container that a killed one was at work in: one of another container, and one whose first
/// list does not show it. A last one has it.
fn mounted_elsewhere(env: &Env) -> Mount {
    // Bytes that are for the container are left.
    env.mount(&["--container", "other"]).unmount(env);
    let body = serde_json::json!({"object": "list", "data": [], "has_more": false}).to_string();
    let empty = Fault::Status { code: 200, body: Some(body), headers: BTreeMap::new() };
    env.emulator.faults().inject(FaultRule::once(ListContainers, empty));
    env.mount(&[]).unmount(env);
    env.mount(&["--ttl", "50ms"])
}

fn is_intended(env: &Env, what: &str) -> bool {
    env.notes("intent.json").iter().any(|note| note.contains(&format!("\"intent\": \"{what}\"")))
}

/// A program is in the middle of `work` when its daemon is killed.
pub(crate) fn killed_amid(env: &Env, uploads: usize, fault: FaultRule, work: impl FnOnce(&Mount) + Send) {
    let mut mount = env.mount(&[]);
    env.emulator.forget_requests();
    env.emulator.faults().inject(fault);
    thread::scope(|scope| {
        scope.spawn(|| work(&mount));
        wait_until("the POST is under way", || env.count(Upload) == uploads);
        thread::sleep(Duration::from_millis(100));
        kill(Pid::from_raw(mount.pid()), Signal::SIGKILL).unwrap();
    });
    mount.kill();
    env.emulator.faults().clear();
}

#[test]
fn a_rename_waits_for_a_mount_that_has_its_container() {
    on_openai(|env| {
        let id = env.container("c");
        env.container("other");
        let mount = env.mount(&[]);
        mount.sh("c", "mkdir d; for name in x y z; do echo $name > d/$name; done");
        assert_eq!(mount.unmount(env), (0, 0));
        let third = FaultRule { skip: 2, ..FaultRule::once(Upload, Fault::HangBefore) };
        killed_amid(env, 3, third, |mount| {
            assert!(fs::rename(mount.path("c/d"), mount.path("c/e")).is_err());
        });
        assert!(is_intended(env, "rename"));
        let mount = mounted_elsewhere(env);
        wait_until("the rename is finished, or undone", || !is_intended(env, "rename"));
        let directory = if mount.path("c/e").exists() { "e" } else { "d" };
        assert_eq!(mount.sh("c", &format!("cat {directory}/*")), "x\ny\nz\n");
        assert_eq!(mount.names("c"), [directory]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 3);
    });
}

#[test]
fn a_probe_waits_for_a_mount_that_has_its_container() {
    on_openai(|env| {
        let id = env.container("c");
        env.container("other");
        env.mount(&[]).sh("c", "mkdir d");
        killed_amid(env, 1, FaultRule::once(Upload, Fault::HangAfter), |mount| {
            assert!(save(&mount.path("c/d/f"), b"precious").is_err());
        });
        assert!(is_intended(env, "probe"));
        let mount = mounted_elsewhere(env);
        wait_until("the probe is gone", || {
            assert_eq!((mount.names("c"), mount.names("c/d").len()), (vec!["d".to_owned()], 0));
            !is_intended(env, "probe")
        });
        assert!(env.store().files(&id).is_empty());
    });
}

#[test]
fn what_was_intended_in_a_container_that_is_gone_is_forgotten() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        killed_amid(env, 1, FaultRule::once(Upload, Fault::HangBefore), |mount| {
            assert!(fs::rename(mount.path("c/f"), mount.path("c/g")).is_err());
        });
        assert!(is_intended(env, "rename"));
        env.store().delete_container(&id);
        let mount = env.mount(&[]);
        wait_until("it is forgotten", || !is_intended(env, "rename"));
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

/// What is hidden goes, whatever has become of the note that said so; not while another mount may be at it.
#[test]
fn what_was_to_be_deleted_and_is_in_no_note_any_more_goes() {
    on_openai(|env| {
        for other_mount_lives in [false, true] {
            let name = format!("c-{other_mount_lives}");
            let id = env.container(&name);
            let old = env.store().put_upload(&id, "f", b"old");
            let other = other_mount_lives.then(|| {
                let dir = env.dir.path().join("other");
                fs::create_dir(&dir).unwrap();
                let mut command = env.command(&["mount", "--foreground"]);
                command.arg(&dir);
                env.start(command, dir)
            });
            let mut mount = env.mount(&[]);
            mount.sh(&name, "cat f");
            env.status_fault(DeleteFile, 503);
            assert_eq!(save(&mount.path(&format!("{name}/f")), b"new"), Ok(()));
            wait_until("it has failed", || !env.notes("intent.json").is_empty());
            mount.kill();
            drop(mount);
            env.emulator.faults().clear();
            env.strike_out_intents();
            env.emulator.forget_requests();
            let mount = env.mount(&["--ttl", "50ms"]);
            assert_eq!(mount.names(&name), ["f"]);
            if other_mount_lives {
                thread::sleep(Duration::from_millis(200));
                assert_eq!(mount.names(&name), ["f"]);
                assert_eq!(env.count(DeleteFile), 0);
                drop((mount, other));
                continue;
            }
            wait_until("the old version goes", || env.versions(&id, "f").len() == 1);
            assert!(env.store().content(&id, &old).is_none());
            mount.names(&name);
            assert_eq!(env.count(DeleteFile), 1);
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "f"), b"new");
        }
    });
}

/// Of one close there are two promises, that of the close and that of the release.
#[test]
fn what_is_promised_again_when_it_has_arrived_names_what_it_replaces() {
    on_openai(|env| {
        let id = env.container("c");
        let base = env.store().put_upload(&id, "a", b"base");
        let variables = [("FAILPOINTS", &*format!("{CLOSED}=1*off->1*sleep(700)->off"))];
        let mut mount = env.mount_with(&["--write-back", "--write-back-delay", "20ms"], &variables);
        env.inject(DeleteFile, Fault::HangBefore);
        assert_eq!(save(&mount.path("c/a"), b"newer"), Ok(()));
        wait_until("its DELETE is under way", || env.count(DeleteFile) > 0);
        thread::sleep(Duration::from_millis(1200));
        let notes = env.notes("meta.json");
        let replaces = format!("\"replaces\": \"{base}\"");
        assert!(notes.iter().any(|note| note.contains(&replaces)), "{base} is replaced by none of {notes:?}");
        mount.kill();
        drop(mount);
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat a; rm a"), "newer");
        assert_eq!(mount.unmount(env), (0, 0));
        assert!(env.store().files(&id).is_empty());
    });
}

/// The kernel has been told of the old name by then, and is not told that it is gone.
#[test]
fn what_is_saved_under_the_old_name_after_a_rename_that_was_taken_up_is_a_file_of_its_own() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "old", b"renamed");
        let mut mount = env.mount(&[]);
        mount.sh("c", "cat old");
        env.inject(Upload, Fault::HangBefore);
        let (from, to) = (mount.path("c/old"), mount.path("c/new"));
        let renamed = thread::spawn(move || fs::rename(from, to));
        wait_until("it is under way", || env.count(Upload) == 1);
        mount.kill();
        let _ = renamed.join();
        drop(mount);
        env.emulator.faults().clear();
        env.emulator.set_latency(Duration::from_millis(200));
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(fs::metadata(mount.path("c/old")).unwrap().len(), 7);
        assert_eq!(fs::metadata(mount.path("c/new")).unwrap_err().kind(), ErrorKind::NotFound);
        env.emulator.set_latency(Duration::ZERO);
        wait_until("it is renamed", || {
            env.only_version(&id, "new").is_some() && env.store().files(&id).len() == 1
        });
        wait_until("its intent is struck out", || {
            !env.notes("intent.json").iter().any(|intent| intent.contains("\"posted\""))
        });
        assert_eq!(save(&mount.path("c/old"), b"another"), Ok(()));
        assert_eq!(mount.sh("c", "ls; cat new old"), "new\nold\nrenamedanother");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

/// Renames `c/f` to `c/g` while nothing can be deleted.
fn renamed_and_not_deleted(env: &Env) -> (String, Mount) {
    let id = env.container("c");
    env.store().put_upload(&id, "f", b"renamed");
    let mount = env.mount(&[]);
    env.status_fault(DeleteFile, 500);
    mount.sh("c", "mv f g");
    assert_eq!(env.store().files(&id).len(), 2);
    (id, mount)
}

#[test]
fn what_is_saved_after_a_rename_is_newer_whatever_the_clock_says() {
    on_openai(|env| {
        let (id, mut mount) = renamed_and_not_deleted(env);
        env.status_fault(Upload, 500);
        assert!(save(&mount.path("c/g"), b"newer").is_err());
        mount.kill();
        drop(mount);
        for note in env.kept_files().into_iter().filter(|file| file.ends_with("meta.json")) {
            // As a clock says that has been set back.
            let said = fs::read_to_string(&note).unwrap();
            let mut says: serde_json::Value = serde_json::from_str(&said).unwrap();
            says["noted_at"] = (says["noted_at"].as_i64().unwrap() - 3_600_000_000_000).into();
            fs::write(&note, says.to_string()).unwrap();
        }
        env.emulator.faults().clear();
        let mount = env.mount(&["--ttl", "50ms"]);
        assert_eq!(mount.sh("c", "cat g"), "newer");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "g"), b"newer");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn what_is_set_on_a_renamed_file_stays_though_its_old_version_could_not_be_deleted() {
    on_openai(|env| {
        let (id, mut mount) = renamed_and_not_deleted(env);
        mount.sh("c", "chmod 600 g && touch -d @1000 g");
        mount.kill();
        drop(mount);
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "stat -c '%a %Y' g"), "600 1000\n");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "g"), b"renamed");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}
