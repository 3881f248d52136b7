//! Lost answers and killed daemons: nothing that was promised is lost, and nothing is there twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use containerfs::emulator::Kind::{DeleteFile, Upload};
use containerfs::emulator::{Fault, FaultRule};
use serde_json::Value;

use crate::env::{Env, Mount, lost_answer, noise, on_both_profiles, on_openai, save, sha256, wait_until};

#[test]
fn a_post_whose_answer_was_lost_is_found_and_not_sent_again() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
        assert!(save(&mount.path("c/f"), b"precious").is_err());
        assert_eq!(env.versions(&id, "f").len(), 1, "it has happened all the same");
        assert_eq!(save(&mount.path("c/f"), b"precious"), Ok(()));
        assert_eq!(env.count(Upload), 1);
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.versions(&id, "f").len(), 1);
    });
}

#[test]
fn what_a_lost_answer_left_is_replaced_by_a_newer_save() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
        assert!(save(&mount.path("c/f"), b"the first try").is_err());
        assert_eq!(save(&mount.path("c/f"), b"another text"), Ok(()));
        assert_eq!(env.bytes_on_server(&id, "f"), b"another text");
        assert_eq!(mount.names("c"), ["f"]);
    });
}

#[test]
fn the_end_of_a_mount_finds_a_lost_answer_too() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--timeout", "1s"]);
        env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangAfter));
        assert!(save(&mount.path("c/f"), b"precious").is_err());
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.count(Upload), 1);
        assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
    });
}

#[test]
fn a_daemon_that_dies_before_the_answer_leaves_one_version() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        for fault in [Fault::HangAfter, Fault::HangBefore] {
            let mut mount = env.mount(&[]);
            let bytes = format!("{fault:?}");
            env.emulator.faults().inject(FaultRule::once(Upload, fault));
            env.emulator.forget_requests();
            thread::scope(|scope| {
                scope.spawn(|| save(&mount.dir.join("c/f"), bytes.as_bytes()));
                wait_until("the POST is under way", || env.count(Upload) == 1);
                thread::sleep(Duration::from_millis(100));
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(mount.pid()), nix::sys::signal::SIGKILL)
                    .unwrap();
            });
            mount.kill();
            drop(mount);
            let mount = env.mount(&[]);
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), bytes.as_bytes(), "shown at once");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "f"), bytes.as_bytes());
            assert_eq!(env.store().files(&id).len(), 1);
        }
    });
}

/// A server that takes its time over a POST, and a mount that doesn't wait for it; another one has sent the
/// bytes again.
fn sent_again_while_the_first_post_is_under_way(env: &Env, end: impl FnOnce(Mount)) {
    let mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
    env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangBefore));
    assert_eq!(save(&mount.path("c/f"), b"precious"), Ok(()));
    wait_until("the POST is under way", || env.count(Upload) == 1);
    end(mount);
    let mount = env.mount(&[]);
    assert_eq!(mount.unmount(env), (0, 0), "a POST that may have happened is nothing to wait for");
    assert_eq!(env.count(Upload), 2);
    assert_eq!(env.command(&["pending", "list"]).status().unwrap().code(), Some(0));
}

fn intents(env: &Env) -> Vec<PathBuf> {
    let mut found = vec![env.dir.path().join("state")];
    let mut intents = Vec::new();
    while let Some(directory) = found.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            found.push(entry.path());
            intents.extend(Some(entry.path()).filter(|path| path.ends_with("intent.json")));
        }
    }
    intents
}

#[test]
fn a_post_that_lands_after_a_later_mount_has_sent_it_again_is_found_by_any_after_that() {
    let forced = |env: &Env, mut mount: Mount| {
        env.command(&["unmount", "--force"]).arg(&mount.dir).output().unwrap();
        assert_eq!(mount.wait(), 3);
    };
    on_openai(|env| {
        let id = env.container("c");
        sent_again_while_the_first_post_is_under_way(env, |mount| forced(env, mount));
        // Nothing of it in the next one either.
        assert_eq!(env.mount(&[]).names("c"), ["f"]);
        let ours = env.versions(&id, "f")[0].id.clone();
        env.store().put_upload(&id, "f", b"precious");
        // Of the same name and length, from elsewhere.
        env.store().put_upload(&id, "f", b"somebody");
        let mount = env.mount(&[]);
        mount.names("c");
        wait_until("it is gone", || env.versions(&id, "f").len() == 2);
        wait_until("it is forgotten", || intents(env).is_empty());
        assert!(env.versions(&id, "f").iter().any(|file| file.id == ours));
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        wait_until("both are shown", || mount.names("c").len() == 2);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"somebody");
    });
}

#[test]
fn a_post_of_a_rename_that_lands_after_a_later_mount_has_renamed_again_is_found_too() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "old", b"precious");
        let mut mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/old")).unwrap(), b"precious");
        env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangBefore));
        thread::scope(|scope| {
            scope.spawn(|| fs::rename(mount.dir.join("c/old"), mount.dir.join("c/new")));
            wait_until("the POST is under way", || env.count(Upload) == 1);
            let pid = nix::unistd::Pid::from_raw(mount.pid());
            nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        });
        mount.kill();
        drop(mount);
        assert_eq!(env.mount(&[]).unmount(env), (0, 0));
        assert_eq!((env.versions(&id, "new").len(), env.versions(&id, "old").len()), (1, 0));
        env.store().put_upload(&id, "new", b"precious");
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["new"]);
        wait_until("it is gone", || env.versions(&id, "new").len() == 1);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn a_post_that_was_found_is_not_looked_for_again_beside_bytes_that_were_never_closed() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mut mount = env.mount(&[]);
        env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
        assert!(save(&mount.path("c/f"), b"precious").is_err());
        let file = fs::OpenOptions::new().write(true).open(mount.path("c/f")).unwrap();
        std::io::Write::write_all(&mut &file, b"half a sen").unwrap();
        mount.kill();
        drop((file, mount));
        for _ in 0..3 {
            let mount = env.mount(&["--ttl", "50ms"]);
            for _ in 0..5 {
                assert_eq!(mount.names("c"), ["f"]);
                assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"precious");
                thread::sleep(Duration::from_millis(80));
            }
            assert_eq!(mount.unmount(env), (3, 3), "what was never closed waits");
            assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
        }
        assert_eq!(env.count(Upload), 1);
    });
}

#[test]
fn what_is_made_under_the_old_name_of_a_directory_stays_there_while_its_old_versions_do() {
    on_both_profiles(|env| {
        env.container("c");
        let mut mount = env.mount(&[]);
        fs::create_dir(mount.path("c/d")).unwrap();
        assert_eq!(save(&mount.path("c/d/f"), b"moves"), Ok(()));
        env.status_fault(DeleteFile, 500);
        fs::rename(mount.path("c/d"), mount.path("c/e")).unwrap();
        for _ in 0..2 {
            fs::create_dir_all(mount.path("c/d")).unwrap();
            assert_eq!(save(&mount.path("c/d/new~"), b"stays"), Ok(()));
            mount.kill();
            drop(mount);
            mount = env.mount(&[]);
            assert_eq!((mount.names("c/d"), mount.names("c/e")), (vec!["new~".into()], vec!["f".into()]));
        }
        env.emulator.faults().clear();
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

/// A mount that takes up a rename of `c/old` to `c/new` whose POST the one before it had begun, and that does
/// not get on with it.
fn amid_a_rename_that_is_taken_up(env: &Env, then: impl Fn(&Mount)) {
    let mut mount = env.mount(&[]);
    assert_eq!(fs::read(mount.path("c/old")).unwrap(), b"precious");
    env.emulator.forget_requests();
    env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangBefore));
    thread::scope(|scope| {
        scope.spawn(|| fs::rename(mount.dir.join("c/old"), mount.dir.join("c/new")));
        wait_until("the POST is under way", || env.count(Upload) == 1);
        thread::sleep(Duration::from_millis(50));
        let pid = nix::unistd::Pid::from_raw(mount.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    });
    mount.kill();
    drop(mount);
    env.emulator.forget_requests();
    env.emulator.faults().inject(FaultRule::once(Upload, Fault::Delay { millis: 1000 }));
    let mount = env.mount(&[]);
    wait_until("it is taken up", || env.count(Upload) == 1);
    then(&mount);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(mount.unmount(env), (0, 0));
}

#[test]
fn a_rename_that_is_taken_up_spares_what_has_been_saved_meanwhile() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "old", b"precious");
        amid_a_rename_that_is_taken_up(env, |mount| {
            assert_eq!(save(&mount.path("c/new"), b"another's"), Ok(()));
        });
        assert_eq!(env.bytes_on_server(&id, "old"), b"precious");
        assert_eq!(env.bytes_on_server(&id, "new"), b"another's");

        env.store().delete_file(&id, &env.versions(&id, "new")[0].id);
        amid_a_rename_that_is_taken_up(env, |mount| {
            assert_eq!(save(&mount.path("c/old"), b"newer"), Ok(()));
        });
        assert_eq!(env.bytes_on_server(&id, "old"), b"newer");
        assert_eq!(env.versions(&id, "new").len(), 0);
    });
}

#[test]
fn what_is_made_an_hour_after_a_lost_post_is_somebody_elses() {
    on_openai(|env| {
        let id = env.container("c");
        sent_again_while_the_first_post_is_under_way(env, |mut mount| mount.kill());
        let [intent] = intents(env).try_into().unwrap();
        let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(&intent).unwrap()).unwrap();
        let at = noted["sent"]["at"].as_i64().unwrap();
        noted["sent"]["at"] = (at - 2 * 3600 * 1_000_000_000).into();
        fs::write(&intent, noted.to_string()).unwrap();
        env.store().put_upload(&id, "f", b"precious");
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c").len(), 2);
        wait_until("it is forgotten", || intents(env).is_empty());
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.versions(&id, "f").len(), 2);
        assert_eq!(env.count(DeleteFile), 0);
    });
}

#[test]
fn times_mode_and_owner_of_an_unsent_file_outlive_a_crash() {
    on_both_profiles(|env| {
        env.container("c");
        let flags = ["--write-back", "--write-back-delay", "1h"];
        let mut mount = env.mount(&flags);
        let file = fs::File::create(mount.path("c/f")).unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::new(seconds, 7);
        file.set_times(fs::FileTimes::new().set_accessed(at(1_000_000_000)).set_modified(at(1_200_000_000)))
            .unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::fchown(&file, Some(7), Some(8)).unwrap();
        }
        let shown = |found: fs::Metadata| {
            let times = [(found.atime(), found.atime_nsec()), (found.mtime(), found.mtime_nsec())];
            (times, (found.ctime(), found.ctime_nsec()), found.mode(), found.uid(), found.gid())
        };
        let before = shown(file.metadata().unwrap());
        assert_eq!(before.0, [(1_000_000_000, 7), (1_200_000_000, 7)]);
        drop(file);
        mount.kill();
        drop(mount);
        let mount = env.mount(&flags);
        assert_eq!(shown(fs::metadata(mount.path("c/f")).unwrap()), before);
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&flags);
        assert_eq!(
            shown(fs::metadata(mount.path("c/f")).unwrap()),
            before,
            "nor does its upload change them"
        );
    });
}

#[test]
fn what_is_set_on_an_unsent_file_after_its_close_outlives_a_crash() {
    on_both_profiles(|env| {
        env.container("c");
        let flags = ["--write-back", "--write-back-delay", "1h"];
        let mut mount = env.mount(&flags);
        assert_eq!(save(&mount.path("c/f"), b"bytes"), Ok(()));
        mount.sh("c", "chmod 600 f && touch -d @1234567890 f && chmod 640 f");
        let shown = |mount: &Mount| {
            let found = fs::metadata(mount.path("c/f")).unwrap();
            (found.mtime(), found.mode() & 0o7777, found.ctime(), found.ctime_nsec())
        };
        let before = shown(&mount);
        assert_eq!((before.0, before.1), (1_234_567_890, 0o640));
        let is_written_down = || env.notes("meta.json").iter().any(|note| note.contains("\"mode\": 416"));
        wait_until("it is written down", is_written_down);
        mount.kill();
        drop(mount);
        let mount = env.mount(&flags);
        assert_eq!(shown(&mount), before);
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&flags);
        assert_eq!(shown(&mount), before, "nor does its upload change them");
    });
}

#[test]
fn bytes_that_were_never_closed_are_kept_and_not_sent() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"the server's");
        let mut mount = env.mount(&[]);
        let file = fs::File::create(mount.path("c/f")).unwrap();
        std::io::Write::write_all(&mut &file, b"half a sen").unwrap();
        mount.kill();
        drop(file);
        drop(mount);
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"the server's");
        assert_eq!(mount.unmount(env), (3, 3), "they are named");
        assert_eq!(env.bytes_on_server(&id, "f"), b"the server's");
        assert!(String::from_utf8_lossy(&env.traces()).contains("half a sen"), "and they are still there");
    });
}

#[test]
fn bytes_that_were_never_closed_are_listed_and_sent_while_a_mount_has_them() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"the server's");
        for (retried, server) in [(false, "the server's"), (true, "half a sen")] {
            let mut mount = env.mount(&[]);
            let file = fs::File::create(mount.path("c/f")).unwrap();
            std::io::Write::write_all(&mut &file, b"half a sen").unwrap();
            mount.kill();
            drop(file);
            drop(mount);
            let mount = env.mount(&[]);
            let open = fs::File::create(mount.path("c/g")).unwrap();
            std::io::Write::write_all(&mut &open, b"a program has it open").unwrap();
            let pending = |args: &[&str]| {
                let output = env.command(&[&["pending"], args].concat()).output().unwrap();
                (output.status.code(), String::from_utf8(output.stdout).unwrap())
            };
            let items: Value = serde_json::from_str(&pending(&["list", "--json"]).1).unwrap();
            let of = |path: &str| {
                let item = items.as_array().unwrap().iter().find(|item| item["meta"]["path"] == path);
                item.unwrap_or_else(|| panic!("{items}"))["id"].as_str().unwrap()
            };
            let (name, open_still) = (of("f"), of("g"));
            let told = pending(&["list"]).1;
            assert!(told.contains("unfinished: never closed") && told.contains("not closed yet"), "{told}");
            assert_eq!(pending(&["retry"]).0, Some(0), "it needs its id");
            assert_eq!(env.bytes_on_server(&id, "f"), b"the server's");
            if retried {
                assert_eq!(pending(&["retry", name]).0, Some(0));
            } else {
                assert_eq!(pending(&["discard", name]).0, Some(0));
            }
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), server.as_bytes());
            let items: Value = serde_json::from_str(&pending(&["list", "--json"]).1).unwrap();
            let [item] = &items.as_array().unwrap()[..] else { panic!("{items}") };
            assert_eq!(item["id"], open_still, "what a program is writing stays");
            drop(open);
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "f"), server.as_bytes());
        }
    });
}

#[test]
fn what_was_synced_and_is_open_still_is_unfinished_only_once_it_is_written_again() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for written_again in [false, true] {
            let mut mount = env.mount(&[]);
            let file = fs::File::create(mount.path("c/f")).unwrap();
            std::io::Write::write_all(&mut &file, b"synced").unwrap();
            file.sync_all().unwrap();
            assert_eq!(env.bytes_on_server(&id, "f"), b"synced");
            if written_again {
                std::io::Write::write_all(&mut &file, b", and half a sen").unwrap();
            }
            mount.kill();
            drop(file);
            drop(mount);
            let pending = env.command(&["pending", "list"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&pending.stdout).contains("never closed"), written_again);
            let mount = env.mount(&[]);
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"synced");
            let code = if written_again { 3 } else { 0 };
            assert_eq!(mount.unmount(env), (code, code), "written again: {written_again}");
            assert_eq!(env.bytes_on_server(&id, "f"), b"synced");
        }
        assert!(String::from_utf8_lossy(&env.traces()).contains("synced, and half a sen"));
    });
}

#[test]
fn what_an_older_save_was_about_to_replace_is_replaced_by_the_newer_one() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
        env.emulator.faults().inject(FaultRule::once(Upload, Fault::Delay { millis: 500 }));
        env.emulator.faults().inject(FaultRule::always(DeleteFile, Fault::HangBefore));
        assert_eq!(save(&mount.path("c/f"), b"first"), Ok(()));
        wait_until("the first save travels", || env.count(Upload) == 1);
        assert_eq!(save(&mount.path("c/f"), b"second"), Ok(()));
        wait_until("it has arrived", || env.count(DeleteFile) == 1);
        mount.kill();
        drop(mount);
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"second");
        assert_eq!(env.store().files(&id).len(), 1, "{:?}", env.store().files(&id));
    });
}

/// The name that an upload asked for, without what the server puts before it.
fn as_sent(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('-').filter(|(prefix, _)| prefix.len() == 32).map_or(name, |(_, asked)| asked)
}

/// A save of the test with kills: its writer, round and number.
type Save = (usize, usize, usize);

fn bytes_of(writer: usize, round: usize, number: usize) -> Vec<u8> {
    let bytes = noise(1000 + 7919 * number % 50_000 + writer);
    [format!("{round} {number} ").as_bytes(), &bytes].concat()
}

/// Whether these are all the bytes of a later save of the same writer: one that was under way at a kill and landed.
fn is_later(found: &[u8], (writer, round, number): Save) -> bool {
    let mut told = found.split(|byte| *byte == b' ').map(|word| String::from_utf8_lossy(word).parse().ok());
    match (told.next().flatten(), told.next().flatten()) {
        (Some(in_round), Some(later)) => {
            (in_round, later) > (round, number) && found == bytes_of(writer, in_round, later)
        }
        _ => false,
    }
}

/// Kills of the daemon at random moments; every file whose `close` returned must survive. `CONTAINERFS_KILLS`
/// sets how many.
fn kills(env: &Env, flags: &[&str]) {
    let kills: usize = std::env::var("CONTAINERFS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let id = env.container("c");
    env.emulator.set_latency(Duration::from_millis(5));
    let mut noted: BTreeMap<String, (String, Save)> = BTreeMap::new();
    let in_flight = AtomicUsize::new(0);
    for round in 0..kills {
        let mut mount = env.mount(flags);
        let stop = AtomicBool::new(false);
        let notes = Mutex::new(Vec::new());
        let dir = Arc::new(mount.dir.clone());
        thread::scope(|scope| {
            for writer in 0..3 {
                let (dir, stop, notes, in_flight) = (dir.clone(), &stop, &notes, &in_flight);
                scope.spawn(move || {
                    for number in 0.. {
                        if stop.load(Ordering::Acquire) {
                            return;
                        }
                        // A third of the saves overwrite a file of an earlier round.
                        let name = if number % 3 == 2 {
                            format!("w{writer}-again")
                        } else {
                            format!("w{writer}-{round}-{number}")
                        };
                        let bytes = bytes_of(writer, round, number);
                        in_flight.fetch_add(1, Ordering::AcqRel);
                        if save(&dir.join("c").join(&name), &bytes).is_err() {
                            return;
                        }
                        in_flight.fetch_sub(1, Ordering::AcqRel);
                        notes.lock().unwrap().push((name, (sha256(&bytes), (writer, round, number))));
                    }
                });
            }
            thread::sleep(Duration::from_millis(60 + 37 * (round as u64 % 7)));
            mount.kill();
            stop.store(true, Ordering::Release);
        });
        // What is lost stays lost: the last round looks at all of them, the others at what they have made.
        let fresh: BTreeMap<_, _> = notes.into_inner().unwrap().into_iter().collect();
        noted.extend(fresh.clone());
        drop(mount);
        let _ = fs::remove_dir_all(env.dir.path().join("cache"));
        let mount = env.mount(&["--ttl", "100ms"]);
        for (name, (hash, save)) in if round + 1 == kills { &noted } else { &fresh } {
            let found =
                fs::read(mount.path("c").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(sha256(&found) == *hash || is_later(&found, *save), "{name} of round {round}");
        }
        let (asked, _) = mount.unmount(env);
        assert!(asked == 0 || asked == 3, "3: a file that was never closed");
        let mut versions: BTreeMap<String, usize> = BTreeMap::new();
        for file in env.store().files(&id) {
            *versions.entry(as_sent(&file.path).to_owned()).or_default() += 1;
        }
        for name in noted.keys() {
            assert_eq!(versions.get(name), Some(&1), "{name} of round {round}: {versions:?}");
        }
    }
    assert!(in_flight.into_inner() > 0, "no save was under way at any kill: the test shows nothing");
    assert!(noted.len() > kills, "too little was written: {}", noted.len());
}

#[test]
fn kills_at_random_moments_lose_nothing() {
    on_both_profiles(|env| kills(env, &[]));
}

#[test]
fn kills_with_write_back_lose_nothing() {
    on_both_profiles(|env| kills(env, &["--write-back", "--write-back-delay", "50ms"]));
}

#[test]
fn what_was_saved_has_its_place_after_a_crash_though_the_file_is_being_overwritten() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
        env.inject(Upload, Fault::Delay { millis: 700 });
        assert_eq!(save(&mount.path("c/f"), b"first"), Ok(()));
        wait_until("it is on its way", || env.count(Upload) == 1);
        assert_eq!(save(&mount.path("c/f"), b"second"), Ok(()));
        let overwritten = File::create(mount.path("c/f")).unwrap();
        wait_until("the first save arrives", || env.store().files(&id).len() == 1);
        std::thread::sleep(Duration::from_millis(200));
        mount.kill();
        drop((overwritten, mount));

        let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        assert_eq!(mount.sh("c", "cat f"), "second");
        wait_until("the second save arrives", || env.only_version(&id, "f").as_deref() == Some(b"second"));
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(save(&mount.path("c/f"), b"third"), Ok(()));
        let mut overwritten = File::create(mount.path("c/f")).unwrap();
        overwritten.write_all(b"half a sen").unwrap();
        mount.sh("c", "mv f g");
        mount.kill();
        drop((overwritten, mount));

        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["g"]);
        assert_eq!(mount.sh("c", "cat g"), "third");
        assert_eq!(mount.unmount(env), (3, 3), "what was never closed is left");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}
