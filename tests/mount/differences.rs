//! Servers of this API differ, and of some things nobody knows what the real one does: the promises hold on
//! each.

use std::fs;
use std::io::Read;
use std::time::Duration;

use containerfs::emulator::Kind::{Content, DeleteFile, Upload};
use containerfs::emulator::{Config, Fault, FaultRule, Profile, Quirks, ReplaceByName, StoredFile};

use crate::env::{Env, fuse_is_missing, lost_answer, noise, on_both_profiles, save, sha256, wait_until};

const PROFILES: [Profile; 2] = [Profile::Openai, Profile::Plain];

/// Runs a test on both profiles, each altered in one thing.
fn on_servers_that(differ: impl Fn(&mut Quirks), test: impl Fn(&Env)) {
    for profile in PROFILES {
        if fuse_is_missing() {
            return;
        }
        eprintln!("profile {profile:?}");
        let mut config = Config::new(profile);
        differ(&mut config.quirks);
        test(&Env::of(config));
    }
}

/// A user reads, saves, overwrites, renames and deletes; everything must be right at its end.
pub(crate) fn everyday_use_is_right(env: &Env) {
    let id = env.container("c");
    env.store().put_model_file(&id, "/mnt/data/model.bin", &noise(150_000));
    env.store().put_upload(&id, "input.txt", b"input");
    let mount = env.mount(&["--ttl", "100ms"]);
    assert_eq!(mount.names("c"), ["input.txt", "model.bin"]);
    assert_eq!(fs::metadata(mount.path("c/model.bin")).unwrap().len(), 150_000);
    assert_eq!(sha256(&fs::read(mount.path("c/model.bin")).unwrap()), sha256(&noise(150_000)));
    assert_eq!(fs::read(mount.path("c/input.txt")).unwrap(), b"input");
    mount.sh("c", "echo 1 > f; echo 2 > f; echo 3 > g; mv g h; mkdir d; echo 4 > d/i; rm input.txt");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(mount.sh("c", "cat f h d/i"), "2\n3\n4\n");
    assert_eq!(mount.names("c"), ["d", "f", "h", "model.bin"]);
    fs::create_dir(mount.path("new")).unwrap();
    fs::remove_dir(mount.path("new")).unwrap();
    assert_eq!(mount.unmount(env), (0, 0));
    assert_eq!(env.bytes_on_server(&id, "f"), b"2\n");
    assert_eq!(env.bytes_on_server(&id, "h"), b"3\n");
    assert_eq!(env.store().files(&id).len(), 4, "{:?}", env.store().files(&id));
    let mount = env.mount(&[]);
    assert_eq!(mount.sh("c", "cat f h d/i"), "2\n3\n4\n");
    assert_eq!(mount.names(""), ["c"]);
}

#[test]
fn content_without_a_length_is_right() {
    on_servers_that(|quirks| quirks.chunked_content = true, everyday_use_is_right);
}

#[test]
fn ids_may_be_long() {
    on_servers_that(|quirks| quirks.long_ids = true, everyday_use_is_right);
}

#[test]
fn objects_may_have_more_fields_and_deletes_no_body() {
    on_servers_that(
        |quirks| (quirks.extra_fields, quirks.empty_delete_bodies) = (true, true),
        everyday_use_is_right,
    );
}

#[test]
fn a_second_upload_of_a_name_may_make_a_file_or_replace_one() {
    for replace in [ReplaceByName::Second, ReplaceByName::Replace, ReplaceByName::SameId] {
        eprintln!("{replace:?}");
        on_servers_that(|quirks| quirks.replace_by_name = replace, everyday_use_is_right);
    }
}

#[test]
fn a_reply_with_the_old_id_deletes_nothing() {
    on_servers_that(
        |quirks| (quirks.replace_by_name, quirks.upload_prefix) = (ReplaceByName::SameId, false),
        |env| {
            let id = env.container("c");
            let old = env.store().put_upload(&id, "f", b"old");
            let mount = env.mount(&[]);
            let changes = env.changes_of(|| fs::write(mount.path("c/f"), "newer").unwrap());
            assert_eq!(changes, [Upload]);
            assert_eq!(env.store().files(&id)[0].id, old);
            assert_eq!(env.bytes_on_server(&id, "f"), b"newer");
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"newer");
        },
    );
}

#[test]
fn what_was_deleted_here_stays_away_from_a_list_that_lags() {
    on_servers_that(
        |quirks| quirks.delete_list_lag = Duration::from_secs(3600),
        |env| {
            let id = env.container("c");
            let gone = env.container("gone");
            env.store().put_upload(&id, "f", b"bytes");
            env.store().put_upload(&id, "g", b"old");
            let mount = env.mount(&["--ttl", "50ms"]);
            mount.sh("", "rm c/f; echo new > c/g; rmdir gone");
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(80));
                assert_eq!(mount.names("c"), ["g"]);
                assert_eq!(mount.names(""), ["c"]);
            }
            assert_eq!(mount.unmount(env), (0, 0));
            let mount = env.mount(&[]);
            assert_eq!(mount.names("c"), ["g"], "nor does the next mount show it");
            assert_eq!(fs::read(mount.path("c/g")).unwrap(), b"new\n");
            assert!(env.store().containers().iter().all(|container| container.id != gone));
        },
    );
}

#[test]
fn what_was_uploaded_here_is_shown_before_a_list_that_lags_has_it() {
    on_servers_that(
        |quirks| quirks.upload_list_lag = Duration::from_secs(3600),
        |env| {
            let id = env.container("c");
            let mount = env.mount(&["--ttl", "50ms"]);
            let changes = env.changes_of(|| fs::write(mount.path("c/f"), "bytes").unwrap());
            assert_eq!(changes, [Upload]);
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(80));
                assert_eq!(mount.names("c"), ["f"]);
                assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes");
            }
            let changes = env.changes_of(|| fs::remove_file(mount.path("c/f")).unwrap());
            assert_eq!(changes, [DeleteFile]);
            assert!(env.store().files(&id).is_empty());
            env.store().advance_clock(Duration::from_secs(7200));
            assert!(mount.names("c").is_empty());
        },
    );
}

#[test]
fn what_an_earlier_mount_uploaded_is_shown_before_a_list_that_lags_has_it() {
    on_servers_that(
        |quirks| quirks.upload_list_lag = Duration::from_secs(3600),
        |env| {
            let id = env.container("c");
            let mount = env.mount(&[]);
            for name in ["f", "g"] {
                fs::write(mount.path("c").join(name), name).unwrap();
            }
            assert_eq!(mount.unmount(env), (0, 0));
            env.store().delete_file(&id, &env.versions(&id, "g")[0].id);
            let mount = env.mount(&["--ttl", "50ms"]);
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(80));
                assert_eq!(mount.names("c"), ["f"]);
                assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"f");
            }
            assert_eq!(env.changes_of(|| fs::remove_file(mount.path("c/f")).unwrap()), [DeleteFile]);
            assert!(mount.names("c").is_empty());
        },
    );
}

#[test]
fn a_file_that_the_model_writes_again_may_get_a_new_id() {
    on_servers_that(
        |quirks| quirks.rewritten_keeps_id = false,
        |env| {
            let id = env.container("c");
            let old = env.store().put_model_file(&id, "/mnt/data/f", b"one");
            let mount = env.mount(&["--ttl", "100ms", "--content-ttl", "1h"]);
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"one");
            assert_ne!(env.store().rewrite_model_file(&id, &old, b"number two"), old);
            wait_until("the new bytes are read", || {
                fs::read(mount.path("c/f")).is_ok_and(|bytes| bytes == b"number two")
            });
            assert_eq!(fs::metadata(mount.path("c/f")).unwrap().len(), 10);
            assert_eq!(mount.names("c"), ["f"]);
        },
    );
}

#[test]
fn an_expired_container_may_answer_400() {
    on_servers_that(
        |quirks| quirks.expired_as_400 = true,
        |env| {
            let id = env.container("c");
            env.store().put_upload(&id, "f", b"bytes");
            let mount = env.mount(&["--ttl", "1h"]);
            assert_eq!(mount.names("c"), ["f"]);
            env.store().expire_container(&id);
            assert_eq!(crate::env::errno(fs::read(mount.path("c/f"))), libc::ESTALE);
            wait_until("the directory goes", || mount.names("").is_empty());
        },
    );
}

#[test]
fn an_empty_file_may_be_refused() {
    on_servers_that(
        |quirks| quirks.refuse_empty = true,
        |env| {
            let id = env.container("c");
            let mount = env.mount(&[]);
            mount.sh("c", "touch empty; echo x > f");
            assert_eq!(mount.names("c"), ["empty", "f"]);
            assert_eq!(mount.unmount(env), (3, 3), "what could not be sent is named");
            assert_eq!(env.bytes_on_server(&id, "f"), b"x\n");
            assert_eq!(env.store().files(&id).len(), 1);
        },
    );
}

#[test]
fn over_the_limit_of_the_server_is_efbig() {
    on_servers_that(
        |quirks| quirks.max_upload = 100_000,
        |env| {
            let id = env.container("c");
            let mount = env.mount(&[]);
            let saved = crate::env::save(&mount.path("c/big"), &noise(100_001));
            assert_eq!(saved, Err(nix::errno::Errno::EFBIG), "{}", mount.log());
            assert_eq!(crate::env::save(&mount.path("c/fits"), &noise(100_000)), Ok(()));
            assert_eq!(sha256(&env.bytes_on_server(&id, "fits")), sha256(&noise(100_000)));
            assert_eq!(fs::read(mount.path("c/big")).unwrap(), noise(100_001), "the bytes are kept");
        },
    );
}

#[test]
fn a_list_that_is_faster_than_the_reply_to_an_upload_shows_the_file_once() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "0s", "--timeout", "3s"]);
        for bytes in ["first", "second"] {
            env.inject(Upload, Fault::HangAfter);
            std::thread::scope(|scope| {
                let saved = scope.spawn(|| crate::env::save(&mount.path("c/f"), bytes.as_bytes()));
                wait_until("the server has it", || {
                    let versions = env.versions(&id, "f");
                    let content = |file: &StoredFile| env.store().content(&id, &file.id);
                    versions.iter().any(|file| content(file).as_deref() == Some(bytes.as_bytes()))
                });
                assert_eq!(mount.names("c"), ["f"], "{bytes}");
                assert_eq!(fs::read(mount.path("c/f")).unwrap(), bytes.as_bytes());
                env.emulator.faults().clear();
                assert!(saved.join().unwrap().is_err(), "the answer never came");
            });
            assert_eq!(crate::env::save(&mount.path("c/f"), bytes.as_bytes()), Ok(()));
            assert_eq!(mount.names("c"), ["f"], "{bytes}");
            assert_eq!(env.bytes_on_server(&id, "f"), bytes.as_bytes());
        }
    });
}

#[test]
fn what_is_saved_under_the_name_that_a_file_had_before_may_get_its_id() {
    on_servers_that(
        |quirks| quirks.replace_by_name = ReplaceByName::SameId,
        |env| {
            let id = env.container("c");
            let mount = env.mount(&["--write-back", "--write-back-delay", "0s", "--ttl", "50ms"]);
            // The new name arrives before or after what is saved under the old one, or while that is under way.
            for [moves, saves, deletes] in [[500, 0, 300], [0, 0, 300], [100, 300, 600]] {
                assert_eq!(save(&mount.path("c/f"), b"it moves"), Ok(()));
                wait_until("it is sent", || env.versions(&id, "f").len() == 1);
                std::thread::sleep(Duration::from_millis(100));
                env.emulator.forget_requests();
                let slow = |kind, millis| FaultRule::once(kind, Fault::Delay { millis });
                env.emulator.faults().inject(slow(Upload, moves));
                env.emulator.faults().inject(slow(Upload, saves));
                // Nor does the deletion of the old one hit it.
                env.emulator.faults().inject(slow(DeleteFile, deletes));
                fs::rename(mount.path("c/f"), mount.path("c/g")).unwrap();
                wait_until("it is under way", || env.count(Upload) == 1);
                assert_eq!(save(&mount.path("c/f"), b"another"), Ok(()));
                for _ in 0..20 {
                    std::thread::sleep(Duration::from_millis(51));
                    assert_eq!(mount.names("c"), ["f", "g"]);
                    assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"another");
                    assert_eq!(fs::read(mount.path("c/g")).unwrap(), b"it moves");
                }
                assert_eq!(env.bytes_on_server(&id, "f"), b"another");
                assert_eq!(env.bytes_on_server(&id, "g"), b"it moves");
            }
            assert_eq!(mount.unmount(env), (0, 0));
        },
    );
}

#[test]
fn a_save_of_what_was_there_before_one_without_an_answer_is_sent() {
    for replace in [ReplaceByName::Second, ReplaceByName::Replace, ReplaceByName::SameId] {
        on_servers_that(
            |quirks| quirks.replace_by_name = replace,
            |env| {
                let id = env.container("c");
                let mount = env.mount(&["--ttl", "50ms"]);
                // What is empty is sent behind its close.
                let has = |bytes: &[u8]| env.only_version(&id, "f").as_deref() == Some(bytes);
                for before in [&b""[..], b"before"] {
                    assert_eq!(save(&mount.path("c/f"), before), Ok(()));
                    wait_until("it is sent", || has(before));
                    std::thread::sleep(Duration::from_millis(100));
                    env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
                    assert!(save(&mount.path("c/f"), b"lost").is_err());
                    assert_eq!(save(&mount.path("c/f"), before), Ok(()));
                    wait_until(&format!("it is sent again, {replace:?}"), || has(before));
                    assert_eq!(mount.names("c"), ["f"]);
                }
                assert_eq!(mount.unmount(env), (0, 0));
            },
        );
    }
}

#[test]
fn what_an_earlier_mount_has_sent_is_found_though_a_second_list_does_not_show_it() {
    on_servers_that(
        |quirks| quirks.upload_list_lag = Duration::from_secs(60),
        |env| {
            let id = env.container("c");
            let mount = env.mount(&["--ttl", "50ms"]);
            env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
            assert!(save(&mount.path("c/f"), b"saved").is_err());
            env.status_fault(Upload, 400);
            assert!(!mount.try_sh("c", "touch f").status.success());
            assert_eq!(mount.unmount(env).0, 3);
            env.emulator.faults().clear();
            // The reply had come, and no list yet, when the mount ended.
            let file = env.store().files(&id).pop().unwrap().id;
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let fact = format!(r#"{{"fact":"landed","container":"{id}","id":"{file}","at":{now}}}"#);
            let account = fs::read_dir(env.dir.path().join("state")).unwrap().flatten();
            let records: Vec<_> =
                account.map(|of| of.path().join("records.jsonl")).filter(|path| path.exists()).collect();
            let known = fs::read_to_string(&records[0]).unwrap();
            fs::write(&records[0], format!("{known}{fact}\n")).unwrap();
            env.emulator.forget_requests();
            let mount = env.mount(&["--ttl", "50ms"]);
            for _ in 0..3 {
                assert_eq!(mount.names("c"), ["f"]);
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(env.command(&["pending", "retry"]).output().unwrap().status.success());
            wait_until("it counts as sent", || mount.sh("c", "cat f") == "saved");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.count(Upload), 0, "it is there already");
            assert_eq!(env.store().files(&id).len(), 1);
        },
    );
}

#[test]
fn a_deletion_that_waits_for_a_reader_spares_what_is_saved_with_its_id_meanwhile() {
    on_servers_that(
        |quirks| (quirks.replace_by_name, quirks.upload_prefix) = (ReplaceByName::SameId, false),
        |env| {
            let id = env.container("c");
            env.store().put_upload(&id, "f", &noise(6 << 20));
            let mut mount = env.mount(&[]);
            env.inject(Content, Fault::Throttle { bytes_per_second: 300_000 });
            let mut reader = fs::File::open(mount.path("c/f")).unwrap();
            reader.read_exact(&mut [0; 4096]).unwrap();
            fs::remove_file(mount.path("c/f")).unwrap();
            assert_eq!(env.notes("intent.json").len(), 1, "it waits");
            assert_eq!(save(&mount.path("c/f"), b"precious"), Ok(()));
            assert_eq!(env.store().files(&id).len(), 1);
            mount.kill();
            drop((reader, mount));
            env.emulator.faults().clear();
            env.emulator.forget_requests();
            let mount = env.mount(&[]);
            assert_eq!(mount.sh("c", "cat f"), "precious");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.bytes_on_server(&id, "f"), b"precious");
            assert_eq!(env.count(DeleteFile), 0);
        },
    );
}
