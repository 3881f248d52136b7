//! No old save beats a new one, and what goes wrong in the middle of something leaves all of it or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use containerfs::emulator::Kind::{Content, DeleteFile, Upload};
use containerfs::emulator::{Fault, FaultRule, Profile};

use crate::env::{Env, errno, fuse_is_missing, lost_answer, on_both_profiles, on_openai, save, wait_until};

fn status(code: u16) -> Fault {
    Fault::Status { code, body: None, headers: BTreeMap::new() }
}

fn fails_once(env: &Env, code: u16) {
    env.emulator.faults().inject(FaultRule { times: Some(3), ..FaultRule::always(Upload, status(code)) });
}

#[test]
fn a_later_save_supersedes_one_that_failed() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for code in [500, 400] {
            let mount = env.mount(&[]);
            env.status_fault(Upload, code);
            assert!(save(&mount.path("c/f"), b"the one that failed").is_err());
            env.emulator.faults().clear();
            assert_eq!(save(&mount.path("c/f"), b"a later one"), Ok(()));
            assert_eq!(mount.unmount(env), (0, 0), "nothing is pending any more");
            assert_eq!(env.bytes_on_server(&id, "f"), b"a later one");
            assert_eq!(save_nothing(env), ["f"]);
            env.store().delete_file(&id, &env.versions(&id, "f")[0].id);
        }
    });
}

/// Mounts and unmounts; returns what was shown.
fn save_nothing(env: &Env) -> Vec<String> {
    let mount = env.mount(&[]);
    let names = mount.names("c");
    assert_eq!(mount.unmount(env), (0, 0));
    names
}

#[test]
fn an_unlink_supersedes_a_save_that_failed() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&[]);
        fails_once(env, 500);
        assert!(save(&mount.path("c/f"), b"new").is_err());
        env.emulator.faults().clear();
        let changes = env.changes_of(|| fs::remove_file(mount.path("c/f")).unwrap());
        assert_eq!(changes, [DeleteFile]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert!(env.store().files(&id).is_empty());
        assert_eq!(save_nothing(env), [""; 0]);
    });
}

#[test]
fn a_rename_over_a_save_that_failed_supersedes_it() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        assert_eq!(save(&mount.path("c/good"), b"good"), Ok(()));
        env.status_fault(Upload, 500);
        assert!(save(&mount.path("c/f"), b"failed").is_err());
        env.emulator.faults().clear();
        fs::rename(mount.path("c/good"), mount.path("c/f")).unwrap();
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"good");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_rename_over_a_file_that_was_about_to_replace_another_replaces_both() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        mount.sh("c", "echo old > f && echo good > good");
        env.status_fault(Upload, 500);
        assert!(save(&mount.path("c/g"), b"failed").is_err());
        mount.sh("c", "mv g f");
        env.emulator.faults().clear();
        mount.sh("c", "mv good f");
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"good\n");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_scratch_file_that_cannot_be_uploaded_is_not_renamed() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        for temporary in [".goutputstream-A1B2C3", "sedAbCdEf"] {
            for fault in [status(400), status(503)] {
                let told = format!("{temporary}, {fault:?}");
                assert_eq!(save(&mount.path("c/f"), b"old"), Ok(()));
                assert_eq!(save(&mount.path("c").join(temporary), told.as_bytes()), Ok(()));
                let before = env.versions(&id, "f");
                let rename = || fs::rename(mount.path("c").join(temporary), mount.path("c/f"));
                env.emulator.faults().inject(FaultRule::always(Upload, fault.clone()));
                assert!(rename().is_err(), "{told}");
                env.emulator.faults().clear();
                let mut both = [temporary, "f"];
                both.sort_unstable();
                assert_eq!(mount.names("c"), both, "{told}");
                assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"old", "{told}");
                assert_eq!(fs::read(mount.path("c").join(temporary)).unwrap(), told.as_bytes());
                assert!(env.versions(&id, "f").contains(&before[0]) || env.versions(&id, "f").len() == 1);
                rename().unwrap();
                assert_eq!(mount.names("c"), ["f"], "{told}");
                assert_eq!(env.bytes_on_server(&id, "f"), told.as_bytes());
            }
        }
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_rename_whose_upload_has_no_answer_has_happened_if_the_list_shows_it() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        for temporary in [".goutputstream-A1B2C3", "sedAbCdEf"] {
            assert_eq!(save(&mount.path("c/f"), b"old"), Ok(()));
            assert_eq!(save(&mount.path("c").join(temporary), temporary.as_bytes()), Ok(()));
            let posts = env.count(Upload);
            env.emulator.faults().inject(FaultRule::once(Upload, Fault::ResetAfter));
            fs::rename(mount.path("c").join(temporary), mount.path("c/f")).unwrap();
            assert_eq!(env.count(Upload), posts + 1, "{temporary}: sent once");
            assert_eq!(mount.names("c"), ["f"], "{temporary}");
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), temporary.as_bytes());
            assert_eq!(env.bytes_on_server(&id, "f"), temporary.as_bytes());
        }
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_rename_without_an_answer_leaves_a_file_under_the_name_that_it_was_to_have() {
    use containerfs::emulator::ReplaceByName::{Replace, SameId, Second};
    for replace in [Second, Replace, SameId] {
        if fuse_is_missing() {
            return;
        }
        let env = Env::that_replaces(Profile::Openai, replace);
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "50ms"]);
        for name in ["f", "g"] {
            assert_eq!(save(&mount.path("c").join(name), name.as_bytes()), Ok(()));
        }
        env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
        let told = fs::rename(mount.path("c/g"), mount.path("c/f")).is_ok();
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(80));
            let names = mount.names("c");
            assert!(names == ["f"] || (!told && names == ["f", "g"]), "{replace:?}, {told}: {names:?}");
            let bytes = fs::read(mount.path("c/f")).unwrap();
            assert!(bytes == b"g" || (!told && bytes == b"f"), "{replace:?}, {told}: {bytes:?}");
        }
        let shown = mount.names("c").len();
        assert_eq!(mount.unmount(&env), (0, 0));
        assert_eq!(env.store().files(&id).len(), shown, "{replace:?}");
    }
}

#[test]
fn a_rename_that_is_called_off_leaves_what_has_taken_the_place_of_another() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Openai, containerfs::emulator::ReplaceByName::Replace);
    let id = env.container("c");
    let mut mount = env.mount(&[]);
    for name in ["f", "g"] {
        assert_eq!(save(&mount.path("c").join(name), name.as_bytes()), Ok(()));
    }
    env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangAfter));
    env.emulator.forget_requests();
    thread::scope(|scope| {
        scope.spawn(|| fs::rename(mount.dir.join("c/g"), mount.dir.join("c/f")));
        wait_until("the server has replaced it", || {
            env.count(Upload) == 1
                && env.versions(&id, "f").first().and_then(|f| env.store().content(&id, &f.id))
                    == Some(b"g".to_vec())
        });
        let pid = nix::unistd::Pid::from_raw(mount.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    });
    mount.kill();
    drop(mount);
    // The next mount compares what it finds, and somebody is faster.
    env.inject(Content, Fault::Delay { millis: 1000 });
    let mount = env.mount(&[]);
    wait_until("it is taken up", || env.count(Content) == 1);
    assert_eq!(save(&mount.path("c/g"), b"newer"), Ok(()));
    thread::sleep(Duration::from_millis(1500));
    env.emulator.faults().clear();
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(env.bytes_on_server(&id, "g"), b"newer");
    assert_eq!(env.bytes_on_server(&id, "f"), b"g", "what was there before is gone");
}

#[test]
fn a_scratch_file_that_could_not_be_renamed_goes_and_leaves_the_document() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mut mount = env.mount(&[]);
        assert_eq!(save(&mount.path("c/f"), b"old"), Ok(()));
        env.status_fault(Upload, 400);
        for unlinked in [true, false] {
            assert_eq!(save(&mount.path("c/.goutputstream-A"), b"new"), Ok(()));
            assert_eq!(errno(fs::rename(mount.path("c/.goutputstream-A"), mount.path("c/f"))), libc::EINVAL);
            if unlinked {
                fs::remove_file(mount.path("c/.goutputstream-A")).unwrap();
                assert_eq!(mount.unmount(env), (0, 0));
            } else {
                mount.kill();
                drop(mount);
            }
            mount = env.mount(&[]);
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"old");
            assert_eq!(mount.path("c/.goutputstream-A").exists(), !unlinked);
        }
        env.emulator.faults().clear();
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"old");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_scratch_file_that_is_synced_and_open_still_is_uploaded_by_its_rename() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        assert_eq!(save(&mount.path("c/f"), b"old"), Ok(()));
        let mut file = fs::File::create(mount.path("c/.goutputstream-A")).unwrap();
        file.write_all(b"new").unwrap();
        file.sync_all().unwrap();
        let rename = || fs::rename(mount.path("c/.goutputstream-A"), mount.path("c/f"));
        env.status_fault(Upload, 400);
        assert_eq!(errno(rename()), libc::EINVAL);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"old");
        env.emulator.faults().clear();
        rename().unwrap();
        assert_eq!(env.bytes_on_server(&id, "f"), b"new");
        file.write_all(b" and newer").unwrap();
        drop(file);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"new and newer");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_file_that_is_not_uploaded_is_merely_renamed_whatever_the_server_says() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        assert_eq!(save(&mount.path("c/t"), b"stands"), Ok(()));
        env.status_fault(Upload, 503);
        assert!(save(&mount.path("c/p"), b"waits").is_err());
        fs::rename(mount.path("c/p"), mount.path("c/q")).unwrap();
        assert_eq!(mount.names("c"), ["q", "t"]);
        fs::rename(mount.path("c/q"), mount.path("c/t")).unwrap();
        assert_eq!(mount.names("c"), ["t"]);
        assert_eq!(fs::read(mount.path("c/t")).unwrap(), b"waits");
        let pending = env.command(&["pending", "list"]).output().unwrap();
        assert!(String::from_utf8_lossy(&pending.stdout).contains(" t "), "{pending:?}");
        env.emulator.faults().clear();
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "t"), b"waits");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn a_directory_one_of_whose_files_is_refused_is_not_renamed() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "mkdir old && for i in 1 2 3 4 5 6 7 8 9; do echo $i > old/$i; done");
        let before = env.store().files(&id);
        env.emulator.faults().inject(FaultRule {
            skip: 6,
            times: Some(1),
            ..FaultRule::always(Upload, status(400))
        });
        assert_eq!(errno(fs::rename(mount.path("c/old"), mount.path("c/new"))), libc::EINVAL);
        assert_eq!(mount.names("c"), ["old"]);
        assert_eq!(mount.names("c/old").len(), 9);
        assert_eq!(mount.unmount(env), (0, 0));
        let after = env.store().files(&id);
        let paths = |files: &[containerfs::emulator::StoredFile]| {
            files.iter().map(|file| (file.path.clone(), file.id.clone())).collect::<Vec<_>>()
        };
        assert_eq!(paths(&after), paths(&before), "as it was");
        assert_eq!(save_nothing(env), ["old"]);
    });
}

#[test]
fn every_post_of_a_renamed_directory_comes_before_the_first_delete() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh(
            "c",
            "mkdir -p old/deep && for i in 1 2 3 4 5 6; do echo $i > old/$i; echo $i > old/deep/$i; done",
        );
        env.emulator.forget_requests();
        fs::rename(mount.path("c/old"), mount.path("c/new")).unwrap();
        let changes = env.changes();
        assert_eq!(changes[..12], [Upload; 12]);
        assert_eq!(changes[12..], [DeleteFile; 12]);
        assert_eq!(env.store().files(&id).len(), 12);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn a_rename_over_a_file_that_is_refused_leaves_both() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "a", b"aaa");
        env.store().put_upload(&id, "b", b"bbb");
        let mount = env.mount(&[]);
        env.status_fault(Upload, 403);
        assert_eq!(errno(fs::rename(mount.path("c/a"), mount.path("c/b"))), libc::EACCES);
        env.emulator.faults().clear();
        assert_eq!(mount.sh("c", "cat a b"), "aaabbb");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "a"), b"aaa");
        assert_eq!(env.bytes_on_server(&id, "b"), b"bbb");
    });
}

#[test]
fn an_old_version_whose_deletion_fails_goes_later() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&["--ttl", "50ms"]);
        env.status_fault(DeleteFile, 500);
        assert_eq!(save(&mount.path("c/f"), b"new"), Ok(()), "the save has happened");
        thread::sleep(Duration::from_millis(100));
        assert_eq!(mount.names("c"), ["f"], "nobody is shown the old one");
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"new");
        assert_eq!(env.versions(&id, "f").len(), 2);
        env.emulator.faults().clear();
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"new");
    });
}

#[test]
fn a_deletion_that_has_failed_is_tried_again_while_the_mount_goes_on() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        env.store().put_upload(&id, "g", b"old");
        let mount = env.mount(&["--ttl", "50ms", "--write-back"]);
        env.status_fault(DeleteFile, 500);
        assert_eq!(save(&mount.path("c/f"), b"new"), Ok(()));
        fs::remove_file(mount.path("c/g")).unwrap();
        let undeleted = || {
            let told = env.command(&["status", "--json"]).arg(&mount.dir).output().unwrap();
            String::from_utf8_lossy(&told.stdout).matches("is still on the server").count()
        };
        wait_until("both deletions have failed", || undeleted() == 2);
        env.emulator.faults().clear();
        wait_until("they are tried again", || mount.names("c") == ["f"] && undeleted() == 0);
        let asked = env.count(DeleteFile);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.count(DeleteFile), asked, "and not once more");
        assert_eq!(env.bytes_on_server(&id, "f"), b"new");
    });
}

#[test]
fn of_two_writers_the_last_close_is_what_stays() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        // Two processes with descriptors of their own.
        mount
            .sh("c", "(exec 3>>f; echo one >&3; sleep 0.4; echo three >&3) & sleep 0.1; echo two >> f; wait");
        let mut lines: Vec<&str> = Vec::new();
        let text = fs::read_to_string(mount.path("c/f")).unwrap();
        lines.extend(text.lines());
        lines.sort_unstable();
        assert_eq!(lines, ["one", "three", "two"]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), text.as_bytes());
    });
}

#[test]
fn a_write_while_an_upload_is_under_way_arrives_too() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        env.emulator.faults().inject(FaultRule::once(Upload, Fault::Delay { millis: 600 }));
        thread::scope(|scope| {
            let first = scope.spawn(|| save(&mount.path("c/f"), b"first"));
            wait_until("the POST is under way", || env.count(Upload) == 1);
            assert_eq!(save(&mount.path("c/f"), b"second, longer"), Ok(()));
            assert_eq!(first.join().unwrap(), Ok(()));
        });
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"second, longer");
    });
}

#[test]
fn uploads_behind_run_at_once_as_many_as_allowed() {
    on_openai(|env| {
        let id = env.container("c");
        env.emulator.set_latency(Duration::from_millis(300));
        let mount = env.mount(&["--write-back", "--write-back-delay", "1h", "--max-connections", "16"]);
        for number in 0..32 {
            assert_eq!(save(&mount.path(&format!("c/f{number}")), format!("{number}").as_bytes()), Ok(()));
        }
        let began = Instant::now();
        assert_eq!(mount.unmount(env), (0, 0));
        // One after another they would take 9.6 s; sixteen at once take 0.6.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(env.store().files(&id).len(), 32);
    });
}

#[test]
fn unsent_bytes_of_a_container_that_is_gone_stay_pending_and_block_nothing() {
    on_openai(|env| {
        let gone = env.container("gone");
        let lives = env.container("lives");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        mount.sh("", "echo precious > gone/f; echo other > lives/g");
        mount.kill();
        drop(mount);
        env.store().expire_container(&gone);
        let mount = env.mount(&[]);
        wait_until("the other one arrives", || env.versions(&lives, "g").len() == 1);
        assert_eq!(mount.unmount(env), (3, 3));
        let output = env.command(&["pending", "list"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains('f') && text.contains("gone"), "{text}");
        let saved = env.dir.path().join("saved");
        assert!(env.command(&["pending", "save"]).arg(&saved).output().unwrap().status.success());
        assert_eq!(fs::read(saved.join(gone).join("f")).unwrap(), b"precious\n");
    });
}

#[test]
fn an_unmount_that_may_not_wait_names_what_is_left() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        mount.sh("c", "echo precious > slow.txt");
        env.emulator.faults().inject(FaultRule::always(Upload, Fault::HangBefore));
        let output = env.command(&["unmount", "--timeout", "1s"]).arg(&mount.dir).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{told}");
        assert!(told.contains("slow.txt"), "{told}");
        drop(mount);
        env.emulator.faults().clear();
        let mount = env.mount(&[]);
        assert_eq!(mount.sh("c", "cat slow.txt"), "precious\n");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "slow.txt"), b"precious\n");
    });
}

#[test]
fn a_server_that_replaces_by_name_keeps_a_whole_version_at_every_save() {
    if fuse_is_missing() {
        return;
    }
    use containerfs::emulator::ReplaceByName::{Replace, SameId};
    for replace in [Replace, SameId] {
        let env = Env::that_replaces(Profile::Plain, replace);
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "0s"]);
        for number in 0..5 {
            assert_eq!(save(&mount.path("c/f"), format!("version {number}").as_bytes()), Ok(()));
            assert_eq!(mount.names("c"), ["f"]);
            assert_eq!(env.bytes_on_server(&id, "f"), format!("version {number}").as_bytes());
        }
        mount.sh("c", "mv f g && mv g f && cat f");
        assert_eq!(mount.unmount(&env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f"), b"version 4");
    }
}

#[test]
fn a_deletion_that_is_tried_again_spares_a_newer_file_of_the_name() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Plain, containerfs::emulator::ReplaceByName::SameId);
    let id = env.container("c");
    env.store().put_upload(&id, "f", b"old");
    let mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
    assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"old");
    env.emulator.faults().inject(FaultRule::once(DeleteFile, status(500)));
    fs::remove_file(mount.path("c/f")).unwrap();
    wait_until("the deletion fails for now", || env.count(DeleteFile) == 1);
    assert_eq!(save(&mount.path("c/f"), b"new"), Ok(()));
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(env.bytes_on_server(&id, "f"), b"new");
}

/// Each save begins while an older one travels, and waits for its turn to be promised.
#[test]
fn saves_that_overtake_each_other_leave_one_version() {
    on_openai(|env| {
        let id = env.container("c");
        env.emulator.set_latency(Duration::from_millis(3));
        for round in 0..2 {
            let mount = env.mount(&["--write-back", "--write-back-delay", "1ms"]);
            for number in 0..150 {
                fs::write(mount.path("c/f"), format!("{round} {number}")).unwrap();
            }
            let log = mount.log();
            assert_eq!(mount.unmount(env), (0, 0));
            assert!(!log.contains("could not be"), "{log}");
            assert_eq!(env.store().files(&id).len(), 1);
            assert_eq!(env.bytes_on_server(&id, "f"), format!("{round} 149").as_bytes());
        }
    });
}
