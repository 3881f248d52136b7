//! Real files that are moved aside under scratch names, again and again and over each other: what the server has of
//! them goes when nobody can see it any more, and not before its successor is there.

use std::fs::{self, File};
use std::io::Write;
use std::thread;
use std::time::Duration;

use containerfs::emulator::Kind::{DeleteFile, Upload};
use containerfs::emulator::{Fault, FaultRule, Profile, ReplaceByName};
use containerfs::journal::steps::{FAILPOINT, INTENDED};

use crate::env::{Env, fuse_is_missing, on_both_profiles, on_openai, save, wait_until};
use crate::steps::{KILLED, TOO_MANY, put, shown};

const LATER: [&str; 3] = ["--write-back", "--write-back-delay", "1h"];

/// What the server has, as name and bytes.
fn on_server(env: &Env, id: &str) -> Vec<(String, String)> {
    let shown = |path: &str| path.rsplit('/').next().unwrap().rsplit('-').next().unwrap().to_owned();
    let mut files: Vec<_> = env
        .store()
        .files(id)
        .iter()
        .filter_map(|file| {
            // What a mount deletes between the two questions has no bytes any more.
            let bytes = env.store().content(id, &file.id)?;
            Some((shown(&file.path), String::from_utf8(bytes).unwrap()))
        })
        .collect();
    files.sort();
    files
}

fn held(name: &str, bytes: &str) -> (String, String) {
    (name.to_owned(), bytes.to_owned())
}

#[test]
fn a_backup_with_each_save_costs_one_post_and_leaves_one_version() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&LATER);
        env.emulator.forget_requests();
        for save in 0..4 {
            mount.sh("c", &format!("mv f f~ && printf {save} > f"));
            assert_eq!(mount.sh("c", "cat f"), save.to_string());
            assert_eq!(
                on_server(env, &id),
                [held("f", "old")],
                "the old version stays until the new one is there"
            );
        }
        assert_eq!(mount.sh("c", "cat f~"), "2");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.changes(), [Upload, DeleteFile]);
        assert_eq!(on_server(env, &id), [held("f", "3")]);
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat f f~"), "32");
        mount.sh("c", "rm f~");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(on_server(env, &id), [held("f", "3")]);
    });
}

#[test]
fn what_was_moved_aside_goes_when_another_file_is_moved_there() {
    on_both_profiles(|env| {
        for (flags, g) in [(&[][..], "echo new > g"), (&LATER, "echo new > g"), (&[], "true")] {
            let id = env.container("c");
            env.store().put_upload(&id, "f", b"old");
            env.store().put_upload(&id, "g", b"other\n");
            let mount = env.mount(flags);
            mount.sh("c", &format!("{g} && mv f f~ && mv g f~"));
            let expected = mount.sh("c", "cat f~");
            assert_eq!(mount.names("c"), ["f~"], "{flags:?} {g}");
            // With write-back behind the rename.
            wait_until("what was moved aside first goes", || {
                on_server(env, &id).iter().all(|(name, _)| name == "g")
            });
            assert_eq!(mount.unmount(env), (0, 0));
            let mount = env.mount(&[]);
            assert_eq!(mount.sh("c", "cat f~"), expected);
            mount.sh("c", "rm f~");
            assert_eq!(mount.names("c"), [""; 0]);
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(on_server(env, &id), []);
            env.store().delete_container(&id);
        }
    });
}

#[test]
fn a_scratch_file_that_takes_the_place_of_one_that_was_moved_aside_has_nothing_of_it() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&[]);
        mount.sh("c", "mv f f~ && echo scratch > .s.swp && mv .s.swp f~");
        assert_eq!(mount.names("c"), ["f~"]);
        assert_eq!(on_server(env, &id), []);
        mount.sh("c", "mv f~ g");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(on_server(env, &id), [held("g", "scratch\n")]);
    });
}

#[test]
fn a_crash_amid_backups_leaves_what_was_saved_last() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for (nth, wait) in [(0, 0), (1, 0), (2, 0), (3, 11)] {
            let name = format!("f{nth}");
            env.store().put_upload(&id, &name, b"old");
            let mut mount = env.mount(&LATER);
            for save in 0..=nth {
                mount.sh("c", &format!("mv {name} {name}~ && printf {save} > {name}"));
            }
            std::thread::sleep(Duration::from_secs(wait));
            mount.kill();
            drop(mount);
            fs::remove_dir_all(env.dir.path().join("cache")).unwrap();
            let mount = env.mount(&[]);
            assert_eq!(mount.sh("c", &format!("cat {name}")), nth.to_string());
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(on_server(env, &id).iter().filter(|(shown, _)| *shown == name).count(), 1, "{name}");
        }
    });
}

#[test]
fn what_was_moved_aside_stays_there_if_the_server_refuses_another_name() {
    on_both_profiles(|env| {
        for (scratch, is_killed) in [("f~", false), ("sedAbCdEf", false), ("f~", true)] {
            let id = env.container("c");
            env.store().put_upload(&id, "f", b"old");
            env.store().put_upload(&id, "g", b"stands");
            let mut mount = env.mount(&["--ttl", "100ms"]);
            mount.sh("c", &format!("mv f {scratch}"));
            for fault in [400, 503] {
                env.status_fault(Upload, fault);
                assert!(!mount.try_sh("c", &format!("mv {scratch} g")).status.success(), "{scratch} {fault}");
                env.emulator.faults().clear();
                let mut both = [scratch, "g"];
                both.sort_unstable();
                assert_eq!(mount.names("c"), both);
                assert_eq!(mount.sh("c", &format!("cat {scratch} g")), "oldstands");
                assert_eq!(on_server(env, &id), [held("f", "old"), held("g", "stands")]);
            }
            if is_killed {
                mount.kill();
                drop(mount);
                mount = env.mount(&[]);
                assert_eq!(mount.sh("c", "cat f~ g"), "oldstands");
            }
            mount.sh("c", &format!("mv {scratch} g && cat g"));
            assert_eq!(mount.names("c"), ["g"]);
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(on_server(env, &id), [held("g", "old")]);
            env.store().delete_container(&id);
        }
    });
}

#[test]
fn what_was_moved_aside_unsent_stays_there_when_its_successor_has_arrived() {
    on_both_profiles(|env| {
        for successor in ["printf newer > f", "mv g f"] {
            let id = env.container("c");
            env.store().put_upload(&id, "g", b"newer");
            let mut mount = env.mount(&["--write-back", "--write-back-delay", "500ms"]);
            mount.sh("c", &format!("cat g; printf older > f && mv f f~ && {successor} && rm -f g"));
            wait_until("it arrives", || on_server(env, &id) == [held("f", "newer")]);
            std::thread::sleep(Duration::from_millis(200));
            mount.kill();
            drop(mount);
            let mount = env.mount(&[]);
            assert_eq!(mount.names("c"), ["f", "f~"], "{successor}");
            assert_eq!(mount.sh("c", "cat f f~"), "newerolder");
            mount.sh("c", "rm f~");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(on_server(env, &id), [held("f", "newer")]);
            env.store().delete_container(&id);
        }
    });
}

#[test]
fn what_was_moved_aside_does_not_replace_what_has_got_its_id() {
    if crate::env::fuse_is_missing() {
        return;
    }
    let moves = [
        "mv f g && printf 1 > g && mv g g~",
        "mv f g && mv g g~",
        "mv f f~",
        "printf 1 > h && mv h f && mv f g && mv g g~",
    ];
    for moves in moves {
        let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "300ms", "--ttl", "50ms"]);
        mount.sh("c", &format!("{moves} && printf newer > f"));
        wait_until("it arrives", || on_server(&env, &id) == [held("f", "newer")]);
        std::thread::sleep(Duration::from_millis(200));
        mount.kill();
        drop(mount);
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat f"), "newer", "{moves}");
        assert_eq!(mount.unmount(&env), (0, 0));
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat f"), "newer", "{moves}");
        assert!(on_server(&env, &id).contains(&held("f", "newer")));
    }
}

#[test]
fn what_was_moved_aside_outlives_a_successor_that_is_removed() {
    on_both_profiles(|env| {
        for flags in [&LATER[..], &[]] {
            for back in ["mv f~ f", "mv f~ g && mv g f", "true"] {
                let id = env.container("c");
                env.store().put_upload(&id, "f", b"old");
                let mount = env.mount(flags);
                mount.sh("c", &format!("mv f f~ && echo new > f && rm f && {back}"));
                let name = if back == "true" { "f~" } else { "f" };
                assert_eq!(mount.names("c"), [name], "{back}");
                assert_eq!(mount.sh("c", &format!("cat {name}")), "old");
                assert_eq!(mount.unmount(env), (0, 0));
                let mount = env.mount(&[]);
                assert_eq!(mount.names("c"), [name], "{flags:?} {back}");
                assert_eq!(mount.sh("c", &format!("cat {name} && mv {name} h")), "old");
                assert_eq!(mount.unmount(env), (0, 0));
                assert_eq!(on_server(env, &id), [held("h", "old")], "{flags:?} {back}");
                env.store().delete_container(&id);
            }
        }
    });
}

/// Its note is being written when another file gets its id: what it says then is known to be wrong before the disk
/// has it.
#[test]
fn what_was_moved_aside_and_is_written_does_not_claim_what_has_got_its_id() {
    use containerfs::journal::steps::FAILPOINT;
    if crate::env::fuse_is_missing() {
        return;
    }
    let mut met = 0;
    // Until it was met twice that its note was under way; on a slow machine the steps have to be slower.
    for attempt in 0..70 {
        let pause = 60 * (1 + attempt / 14);
        let later = (attempt % 14) * pause / 2;
        if met == 2 {
            break;
        }
        let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let variables = [("FAILPOINTS", &*format!("{FAILPOINT}=sleep({pause})"))];
        let mut mount = env.mount_with(&[], &variables);
        mount.sh("c", "cat f; mv f f~");
        let has_noted = || {
            env.notes("meta.json").iter().any(|note| {
                note.contains("\"f~\"")
                    && note.contains("\"closed\": true")
                    && !note.contains("just_now\": true")
            })
        };
        let told = std::thread::scope(|scope| {
            let saved = scope.spawn(|| save(&mount.path("c/f"), b"new"));
            std::thread::sleep(Duration::from_millis(later));
            let aside = scope.spawn(|| save(&mount.path("c/f~"), b"aside"));
            wait_until("it is noted", has_noted);
            let told = saved.is_finished();
            met += usize::from(told && !aside.is_finished());
            let pid = nix::unistd::Pid::from_raw(mount.pid());
            nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
            told && saved.join().unwrap().is_ok()
        });
        mount.kill();
        drop(mount);
        let mount = env.mount(&[]);
        if told {
            assert_eq!(mount.sh("c", "cat f"), "new", "{attempt}");
            assert!(on_server(&env, &id).contains(&held("f", "new")), "{attempt}");
        }
        drop(mount);
    }
    assert!(met > 0, "no note was under way when the other had its id: the test shows nothing");
}

#[test]
fn a_directory_that_is_renamed_or_removed_does_not_come_back_with_what_was_moved_aside_from_it() {
    on_both_profiles(|env| {
        let deeds = [
            ("mv d e", vec!["a~", "e"]),
            ("rmdir d", vec!["a~"]),
            ("mkdir e && mv -T e d", vec!["a~", "d"]),
            ("mkdir e && mv d e && rmdir e/d", vec!["a~", "e"]),
        ];
        for (number, (deed, left)) in deeds.into_iter().enumerate() {
            for flags in [&[][..], &LATER] {
                for saved_before in [true, false] {
                    let name = format!("c{number}-{}-{saved_before}", flags.len());
                    env.container(&name);
                    let mut mount = env.mount(flags);
                    mount.sh(&name, "mkdir d && printf bytes > d/b");
                    if saved_before {
                        mount.unmount(env);
                        mount = env.mount(flags);
                    }
                    mount.sh(&name, &format!("mv d/b a~ && {deed}"));
                    mount.kill();
                    drop(mount);
                    let mount = env.mount(flags);
                    assert_eq!(mount.names(&name), left, "{name}: {deed}");
                    assert_eq!(mount.sh(&name, "cat a~; find . -type f"), "bytes./a~\n", "{name}: {deed}");
                    assert_eq!(mount.unmount(env), (0, 0));
                }
            }
        }
    });
}

/// A server that keeps ids gives that of the version which stays behind to whoever takes the path.
#[test]
fn what_takes_a_path_outlives_the_removal_of_what_has_left_it() {
    for (left, delay) in [("f.moved", "300ms"), ("f~", "100ms")] {
        if fuse_is_missing() {
            return;
        }
        let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let variables = [("FAILPOINTS", &*format!("{INTENDED}=1*sleep(1200)->off"))];
        let mut mount = env.mount_with(&["--write-back", "--write-back-delay", delay], &variables);
        assert_eq!(mount.sh("c", "cat f"), "old");
        fs::rename(mount.path("c/f"), mount.path("c").join(left)).unwrap();
        assert_eq!(save(&mount.path("c/f"), b"acknowledged"), Ok(()));
        let moved = mount.path("c").join(left);
        let removed = thread::spawn(|| fs::remove_file(moved));
        thread::sleep(Duration::from_millis(800));
        mount.kill();
        let _ = removed.join();
        drop(mount);
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"acknowledged", "{left}");
        assert_eq!(mount.unmount(&env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"acknowledged", "{left}");
    }
}

/// What is moved over is as good as removed.
#[test]
fn what_takes_a_path_outlives_a_move_over_what_has_left_it() {
    for is_killed in [true, false] {
        if fuse_is_missing() {
            return;
        }
        let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
        let id = env.container("c");
        for name in ["f", "g"] {
            env.store().put_upload(&id, name, name.as_bytes());
        }
        let variables = [("FAILPOINTS", &*format!("{INTENDED}=1*sleep(1200)->off"))];
        let mut mount = env.mount_with(&["--write-back", "--write-back-delay", "300ms"], &variables);
        assert_eq!(mount.sh("c", "cat f g; mv f x; mv x f~"), "fg");
        assert_eq!(save(&mount.path("c/f"), b"acknowledged"), Ok(()));
        let (from, to) = (mount.path("c/g"), mount.path("c/f~"));
        let moved = thread::spawn(|| fs::rename(from, to));
        thread::sleep(Duration::from_millis(800));
        assert!(!moved.is_finished(), "it was noted before: the test shows nothing");
        assert_eq!(env.count(Upload), 1);
        if is_killed {
            mount.kill();
            let _ = moved.join();
            drop(mount);
        } else {
            moved.join().unwrap().unwrap();
            assert_eq!(mount.unmount(&env), (0, 0));
        }
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"acknowledged", "{is_killed}");
        assert_eq!(mount.unmount(&env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"acknowledged", "{is_killed}");
    }
}

/// Which deletes nothing itself, and has taken a deletion over from one that does.
#[test]
fn what_is_saved_without_the_right_to_delete_outlives_a_deletion_of_its_id() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
    let id = env.container("c");
    env.store().put_upload(&id, "f", b"old");
    env.store().put_upload(&id, "g", b"unwanted");
    let mut mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
    mount.sh("c", "cat f");
    env.status_fault(DeleteFile, 503);
    mount.sh("c", "rm f g");
    wait_until("it is noted", || env.notes("intent.json").len() == 2);
    mount.kill();
    drop(mount);
    env.emulator.faults().clear();
    let mut mount = env.mount(&["--no-delete"]);
    assert_eq!(save(&mount.path("c/f"), b"acknowledged"), Ok(()));
    mount.kill();
    drop(mount);
    let mount = env.mount(&["--ttl", "50ms"]);
    wait_until("what is unwanted goes", || env.versions(&id, "g").is_empty());
    assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"acknowledged");
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(env.bytes_on_server(&id, "f"), b"acknowledged");
}

#[test]
fn what_was_moved_aside_outlives_a_crash_beside_its_successor() {
    on_openai(|env| {
        for flags in [&["--write-back", "--write-back-delay", "1h"][..], &[]] {
            let id = env.container("c");
            env.store().put_upload(&id, "a", b"old");
            let mut mount = env.mount(flags);
            mount.sh("c", "mv a a~");
            if flags.is_empty() {
                // Its answer is lost with the daemon.
                env.inject(Upload, Fault::HangAfter);
            }
            let path = mount.path("c/a");
            let saved = thread::spawn(move || save(&path, b"new"));
            wait_until("it waits, or has arrived", || {
                let is_promised =
                    |note: &String| note.contains("\"path\": \"a\"") && note.contains("\"closed\": true");
                if flags.is_empty() {
                    env.store().files(&id).len() == 2
                } else {
                    env.notes("meta.json").iter().any(is_promised)
                }
            });
            mount.kill();
            let _ = saved.join();
            drop(mount);
            env.emulator.faults().clear();
            let mount = env.mount(&["--ttl", "50ms"]);
            wait_until("one version is left", || env.only_version(&id, "a").as_deref() == Some(b"new"));
            assert_eq!(mount.sh("c", "ls; cat a a~"), "a\na~\nnewold", "{flags:?}");
            mount.sh("c", "rm a~");
            assert_eq!(mount.unmount(env), (0, 0));
            env.store().delete_container(&id);
        }
    });
}

#[test]
fn what_was_moved_aside_goes_with_all_who_would_have_replaced_it() {
    on_openai(|env| {
        for flags in [&["--ttl", "50ms"][..], &["--ttl", "50ms", "--write-back", "--write-back-delay", "1h"]]
        {
            let id = env.container("c");
            env.store().put_upload(&id, "a", b"old");
            let mount = env.mount(flags);
            mount.sh("c", "mv a a~; exec 3>a; mv a c; exec 4>a; rm c a a~");
            wait_until("it goes", || env.store().files(&id).is_empty());
            assert!(mount.names("c").is_empty(), "{flags:?}");
            assert_eq!(mount.unmount(env), (0, 0));
            env.store().delete_container(&id);
        }
    });
}

#[test]
fn what_was_moved_aside_outlives_a_crash_at_any_step_of_a_rename_to_its_name() {
    let dies_at = |replace: ReplaceByName, step: usize| {
        let env = Env::that_replaces(Profile::Openai, replace);
        let id = env.container("c");
        let mount = env.mount(&[]);
        put(&mount, "f", "old");
        put(&mount, "g", "new");
        assert_eq!(mount.unmount(&env), (0, 0));
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        let moved = fs::rename(mount.path("c/f"), mount.path("c/f~"));
        let renamed = moved.and_then(|()| fs::rename(mount.path("c/g"), mount.path("c/f"))).is_ok();
        let died = mount.unmount(&env).1 == KILLED;
        let mount = env.mount(&[]);
        assert_eq!(mount.unmount(&env).1, 0);
        let mount = env.mount(&[]);
        let files = shown(&mount);
        let files: Vec<(&str, &str)> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
        let is_done = files == [("f", "new"), ("f~", "old")];
        let is_undone = files == [("f", "old"), ("g", "new")] || files == [("f~", "old"), ("g", "new")];
        assert!(is_done || (!renamed && is_undone), "{replace:?}, step {step}: {files:?}");
        assert_eq!(mount.unmount(&env).1, 0);
        let versions = on_server(&env, &id);
        assert!(!renamed || versions == [held("f", "new")], "{replace:?}, step {step}: {versions:?}");
        died
    };
    if !fuse_is_missing() {
        for replace in [ReplaceByName::Second, ReplaceByName::Replace, ReplaceByName::SameId] {
            let steps = (0..TOO_MANY).take_while(|step| dies_at(replace, *step)).count();
            assert!(steps > 1, "it died at {steps} steps only");
        }
    }
}

#[test]
fn what_takes_a_path_outlives_a_crash_amid_an_upload_of_what_has_left_it() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
    let id = env.container("c");
    env.store().put_upload(&id, "f", b"old");
    let mut mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
    env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangBefore));
    mount.sh("c", "mv f g");
    wait_until("it travels", || env.count(Upload) == 1);
    mount.sh("c", "printf ' and more' >> g; printf new > f");
    wait_until("what has its path has arrived", || {
        let is_noted = env.notes("meta.json").iter().any(|note| note.contains("\"path\": \"f\""));
        env.only_version(&id, "f").as_deref() == Some(b"new") && !is_noted
    });
    mount.kill();
    drop(mount);
    let mount = env.mount(&[]);
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(on_server(&env, &id), [held("f", "new"), held("g", "old and more")]);
}

/// `fsync` sends the present bytes of a file that is open still.
#[test]
fn what_takes_a_path_outlives_a_crash_amid_an_fsync_of_what_has_left_it() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
    let id = env.container("c");
    env.store().put_upload(&id, "f", b"old");
    let mut mount = env.mount(&[]);
    let moved = File::options().append(true).open(mount.path("c/f")).unwrap();
    (&moved).write_all(b" and more").unwrap();
    fs::rename(mount.path("c/f"), mount.path("c/g")).unwrap();
    let sent = env.count(Upload);
    env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangBefore));
    thread::scope(|scope| {
        let synced = scope.spawn(|| moved.sync_all());
        wait_until("it travels", || env.count(Upload) > sent);
        assert_eq!(save(&mount.path("c/f"), b"new"), Ok(()));
        assert!(!synced.is_finished(), "it has arrived: the test shows nothing");
        mount.kill();
    });
    drop(mount);
    let mount = env.mount(&[]);
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(on_server(&env, &id), [held("f", "new"), held("g", "old and more")]);
}
