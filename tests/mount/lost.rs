//! POSTs without an answer on servers whose lists show late what they have made.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use containerfs::emulator::Kind::{Content, DeleteFile, RetrieveFile, Upload};
use containerfs::emulator::{Config, Fault, FaultRule, Profile, ReplaceByName};
use containerfs::journal::steps::FAILPOINT;
use nix::errno::Errno;

use crate::env::{Env, failure, fuse_is_missing, lost_answer, save, wait_until};
use crate::steps::{KILLED, TOO_MANY};

/// A server of each profile whose lists lag.
fn on_servers_that_lag(lag: Duration, test: impl Fn(&Env)) {
    for profile in [Profile::Openai, Profile::Plain] {
        if fuse_is_missing() {
            return;
        }
        test(&server_that_lags(profile, lag));
    }
}

fn server_that_lags(profile: Profile, lag: Duration) -> Env {
    let mut config = Config::new(profile);
    config.quirks.upload_list_lag = lag;
    Env::of(config)
}

fn lose_an_answer(env: &Env) {
    env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
}

/// In the end each of these is one file, here and on the server.
fn is_shown_once(env: &Env, container: &str, names: &[&str]) {
    let mount = env.mount(&["--ttl", "50ms"]);
    wait_until("each is there once", || {
        mount.names("c") == names && env.store().files(container).len() == names.len()
    });
    assert_eq!(mount.unmount(env), (0, 0));
}

#[test]
fn what_a_save_replaces_is_not_taken_for_what_it_has_left_itself() {
    let lag = Duration::from_millis(700);
    on_servers_that_lag(lag, |env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"same");
        thread::sleep(lag);
        let mount = env.mount(&["--write-back", "--write-back-delay", "300ms", "--ttl", "50ms"]);
        assert_eq!(mount.sh("c", "cat f"), "same");
        lose_an_answer(env);
        mount.sh("c", "printf same > g && mv g f");
        wait_until("it is sent", || env.count(Upload) == 1);
        assert_eq!(mount.unmount(env), (0, 0));
        thread::sleep(lag);
        is_shown_once(env, &id, &["f"]);
        assert_eq!(env.bytes_on_server(&id, "f"), b"same");
    });
}

#[test]
fn one_version_is_what_one_lost_answer_has_left() {
    let lag = Duration::from_millis(2500);
    on_servers_that_lag(lag, |env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "50ms", "--timeout", "5s"]);
        // The same bytes twice, and what the list knows of the name in between is another each time.
        for round in 0..2 {
            lose_an_answer(env);
            assert!(save(&mount.path("c/f"), b"same").is_err());
            assert_eq!(save(&mount.path("c/f"), format!("newer {round}").as_bytes()), Ok(()));
            assert_eq!(save(&mount.path("c/f"), format!("newest {round}").as_bytes()), Ok(()));
            thread::sleep(Duration::from_millis(1000));
        }
        // Several look at it at once.
        env.emulator.faults().inject(FaultRule::once(Content, Fault::Delay { millis: 400 }));
        wait_until("what lost answers have left goes", || {
            assert_eq!(mount.names("c"), ["f"]);
            env.store().files(&id).len() == 1
        });
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"newest 1");
        assert_eq!(mount.unmount(env), (0, 0));
        is_shown_once(env, &id, &["f"]);
        assert_eq!(env.bytes_on_server(&id, "f"), b"newest 1");
    });
}

/// The first `times` uploads are carried out and answered with 500.
fn carried_out_in_vain(env: &Env, times: u32) {
    let fault = Fault::StatusAfter { code: 500, headers: BTreeMap::new() };
    env.emulator.faults().inject(FaultRule { times: Some(times), ..FaultRule::always(Upload, fault) });
}

#[test]
fn of_two_posts_that_a_list_shows_too_late_one_version_is_left() {
    let lag = Duration::from_millis(2500);
    for replace in [ReplaceByName::Second, ReplaceByName::Replace, ReplaceByName::SameId] {
        if fuse_is_missing() {
            return;
        }
        let mut config = Config::new(Profile::Openai);
        (config.quirks.upload_list_lag, config.quirks.replace_by_name) = (lag, replace);
        let env = Env::of(config);
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "50ms", "--timeout", "5s"]);
        let comes_to_rest = |name: &str, bytes: &[u8]| {
            wait_until("one version is left", || {
                assert_eq!(mount.names("c"), [name], "{replace:?}");
                env.store().files(&id).len() == 1
            });
            assert_eq!(env.bytes_on_server(&id, name), bytes, "{replace:?}");
            assert_eq!(fs::read(mount.path("c").join(name)).unwrap(), bytes, "{replace:?}");
        };
        let are_on_server = |versions: usize| {
            let found = env.store().files(&id).len();
            assert_eq!(found, if replace == ReplaceByName::Second { versions } else { 1 }, "{replace:?}");
        };
        // The first has no answer, the second has.
        carried_out_in_vain(&env, 1);
        assert_eq!(save(&mount.path("c/f"), b"answered"), Ok(()));
        assert_eq!(env.count(Upload), 2);
        are_on_server(2);
        comes_to_rest("f", b"answered");
        // Neither has.
        carried_out_in_vain(&env, 2);
        env.emulator.forget_requests();
        assert_eq!(save(&mount.path("c/f"), b"in vain"), Err(Errno::EIO));
        assert_eq!(env.count(Upload), 2);
        are_on_server(3);
        assert_eq!(save(&mount.path("c/f"), b"newer"), Ok(()));
        comes_to_rest("f", b"newer");
        // Neither has, and the same bytes are saved again when both are shown.
        carried_out_in_vain(&env, 2);
        assert_eq!(save(&mount.path("c/f"), b"the same"), Err(Errno::EIO));
        thread::sleep(lag);
        env.emulator.forget_requests();
        assert_eq!(save(&mount.path("c/f"), b"the same"), Ok(()));
        // An id that was there before tells nothing.
        let sent = usize::from(replace == ReplaceByName::SameId);
        assert_eq!(env.count(Upload), sent, "one of them is what was saved, {replace:?}");
        comes_to_rest("f", b"the same");
        // The same of a rename.
        carried_out_in_vain(&env, 1);
        env.emulator.forget_requests();
        fs::rename(mount.path("c/f"), mount.path("c/g")).unwrap();
        assert_eq!(env.count(Upload), 2);
        comes_to_rest("g", b"the same");
        assert_eq!(mount.unmount(&env), (0, 0));
        is_shown_once(&env, &id, &["g"]);
    }
}

#[test]
fn of_two_posts_one_version_is_left_whenever_the_daemon_dies() {
    let lag = Duration::from_millis(900);
    if fuse_is_missing() {
        return;
    }
    let dies_at = |step: usize, times: u32, renames: bool| {
        let env = server_that_lags(Profile::Openai, lag);
        let id = env.container("c");
        if renames {
            env.store().put_upload(&id, "old", b"precious");
            thread::sleep(lag);
        }
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        carried_out_in_vain(&env, times);
        let path = mount.path("c/f");
        let told = match renames {
            true => fs::rename(mount.path("c/old"), &path).is_ok(),
            false => save(&path, b"precious").is_ok(),
        };
        let died = mount.unmount(&env).1 == KILLED;
        env.emulator.faults().clear();
        let mount = env.mount(&["--ttl", "50ms"]);
        thread::sleep(lag);
        let context = format!("step {step} of {times} in vain, renames: {renames}, told: {told}");
        wait_until(&format!("there is one version, {context}"), || {
            let names = mount.names("c");
            assert!(names.len() <= 1 || names == ["f", "old"], "{names:?}, {context}");
            env.store().files(&id).len() == names.len() && names.len() <= 1
        });
        let names = mount.names("c");
        assert!(!told || names == ["f"], "{names:?}, {context}");
        assert!(!renames || names.len() == 1, "{context}");
        for name in names {
            assert_eq!(fs::read(mount.path("c").join(name)).unwrap(), b"precious", "{context}");
        }
        let ended = mount.unmount(&env).1;
        assert!(ended == 0 || (ended == 3 && !told), "{ended}: what was never closed is left");
        died
    };
    for renames in [false, true] {
        for times in [1, 2] {
            let steps = (0..TOO_MANY).take_while(|step| dies_at(*step, times, renames)).count();
            assert!((3..TOO_MANY).contains(&steps), "it died at {steps} steps");
        }
    }
}

#[test]
fn what_an_earlier_mount_was_to_delete_stays_once_it_is_another_files() {
    if fuse_is_missing() {
        return;
    }
    let dies_at = |step: usize| {
        let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let flags = ["--write-back", "--write-back-delay", "300ms"];
        let mount = env.mount_with(&flags, &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        let told = save(&mount.path("c/f"), b"it moves").is_ok()
            && fs::rename(mount.path("c/f"), mount.path("c/g")).is_ok()
            && save(&mount.path("c/f"), b"another").is_ok();
        let died = mount.unmount(&env).1 == KILLED;
        // What was sent without a note is looked at while the other gets its id.
        fs::remove_dir_all(env.dir.path().join("cache")).unwrap();
        env.inject(Content, Fault::Delay { millis: 100 });
        env.inject(RetrieveFile, Fault::DelayAfter { millis: 300 });
        let mount = env.mount(&["--ttl", "50ms"]);
        let ended = mount.unmount(&env).1;
        assert!(ended == 0 || (ended == 3 && !told), "{ended}: what was never closed is left");
        env.emulator.faults().clear();
        let mount = env.mount(&["--ttl", "50ms"]);
        if told {
            assert_eq!(mount.sh("c", "cat f g"), "anotherit moves", "step {step}");
        }
        drop(mount);
        died
    };
    let steps = (0..TOO_MANY).take_while(|step| dies_at(*step)).count();
    assert!((2..TOO_MANY).contains(&steps), "it died at {steps} steps");
}

/// A rename takes the place of a save that failed and is sent again by the next mount: what the rename has sent by
/// then is nobody's, or the file, though no list shows it for a while.
#[test]
fn what_a_rename_has_sent_is_not_shown_beside_what_came_back() {
    let lag = Duration::from_millis(400);
    let dies_at = |step: usize, answer: Option<Fault>| {
        let env = server_that_lags(Profile::Openai, lag);
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"it moves");
        thread::sleep(lag);
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        env.emulator.faults().inject(FaultRule::once(Upload, failure()));
        assert!(save(&mount.path("c/g"), b"it fails").is_err());
        answer.into_iter().for_each(|fault| env.emulator.faults().inject(FaultRule::once(Upload, fault)));
        let told = fs::rename(mount.path("c/f"), mount.path("c/g")).is_ok();
        let died = mount.unmount(&env).1 == KILLED;
        env.emulator.faults().clear();
        let mount = env.mount(&["--ttl", "50ms"]);
        mount.names("c");
        let ended = mount.unmount(&env).1;
        assert!(ended == 0 || (ended == 3 && !told), "{ended}: what was never closed is left");
        thread::sleep(lag);
        let mount = env.mount(&["--ttl", "50ms"]);
        let names = || mount.names("c");
        wait_until(&format!("each is there once, step {step}"), || {
            !names().iter().any(|name| name.contains('~')) && env.store().files(&id).len() == names().len()
        });
        let is_renamed = names() == ["g"] && fs::read(mount.path("c/g")).unwrap() == b"it moves";
        assert!(is_renamed || !told, "step {step}");
        assert!(is_renamed || fs::read(mount.path("c/f")).unwrap() == b"it moves", "step {step}");
        drop(mount);
        died
    };
    for answer in [None, Some(Fault::ResetAfter)] {
        let steps = (0..TOO_MANY).take_while(|step| dies_at(*step, answer.clone())).count();
        assert!((2..TOO_MANY).contains(&steps), "it died at {steps} steps");
    }
}

#[test]
fn a_rename_without_an_answer_stands_where_the_server_has_carried_it_out() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Plain, ReplaceByName::Replace);
    let id = env.container("c");
    let mount = env.mount(&["--ttl", "50ms"]);
    for round in 0..40 {
        let moved = format!("moved {round}");
        assert_eq!(save(&mount.path("c/f"), format!("old {round}").as_bytes()), Ok(()));
        assert_eq!(save(&mount.path("c/g"), moved.as_bytes()), Ok(()));
        lose_an_answer(&env);
        fs::rename(mount.path("c/g"), mount.path("c/f")).unwrap();
        assert_eq!(mount.names("c"), ["f"], "{round}");
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), moved.as_bytes());
        assert_eq!(env.bytes_on_server(&id, "f"), moved.as_bytes());
    }
    assert_eq!(mount.unmount(&env), (0, 0));
}

#[test]
fn what_a_lost_answer_has_left_stays_if_nothing_may_be_deleted() {
    on_servers_that_lag(Duration::from_millis(500), |env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "50ms", "--no-delete"]);
        lose_an_answer(env);
        assert!(save(&mount.path("c/f"), b"lost").is_err());
        assert_eq!(save(&mount.path("c/f"), b"newer"), Ok(()));
        for _ in 0..20 {
            assert_eq!(mount.names("c"), ["f"]);
            thread::sleep(Duration::from_millis(51));
        }
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.count(DeleteFile), 0);
        is_shown_once(env, &id, &["f"]);
        assert_eq!(env.bytes_on_server(&id, "f"), b"newer");
    });
}

#[test]
fn what_was_found_is_not_forgotten_when_the_search_for_the_rest_fails() {
    if fuse_is_missing() {
        return;
    }
    let lag = Duration::from_millis(700);
    let mut config = Config::new(Profile::Openai);
    (config.quirks.upload_list_lag, config.quirks.null_sizes) = (lag, false);
    let env = Env::of(config);
    let id = env.container("c");
    let mount = env.mount(&["--ttl", "50ms"]);
    for bytes in [&b"first"[..], b"another"] {
        lose_an_answer(&env);
        assert!(save(&mount.path("c/f"), bytes).is_err());
    }
    thread::sleep(lag);
    let another = env
        .store()
        .files(&id)
        .into_iter()
        .find(|file| env.store().content(&id, &file.id).unwrap() == b"another");
    let broken = Fault::Status { code: 400, body: None, headers: BTreeMap::default() };
    let rule = FaultRule { path_contains: Some(another.unwrap().id), ..FaultRule::always(Content, broken) };
    env.emulator.faults().inject(rule);
    assert!(save(&mount.path("c/f"), b"newer").is_err(), "it is not known what the others have left");
    env.emulator.faults().clear();
    for _ in 0..5 {
        assert_eq!(mount.names("c"), ["f"]);
        thread::sleep(Duration::from_millis(51));
    }
    assert_eq!(save(&mount.path("c/f"), b"newest"), Ok(()));
    assert_eq!(mount.names("c"), ["f"]);
    assert_eq!(mount.unmount(&env), (0, 0));
    is_shown_once(&env, &id, &["f"]);
    assert_eq!(env.bytes_on_server(&id, "f"), b"newest");
}

#[test]
fn what_was_found_of_several_lost_answers_is_never_shown() {
    if fuse_is_missing() {
        return;
    }
    let mut config = Config::new(Profile::Openai);
    config.quirks.upload_list_lag = Duration::from_millis(700);
    let env = Env::of(config);
    let id = env.container("c");
    let mount = env.mount(&["--ttl", "30ms"]);
    for bytes in [&b"one"[..], b"second"] {
        env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
        assert!(save(&mount.path("c/f"), bytes).is_err());
    }
    thread::sleep(Duration::from_millis(900));
    // Of the two that are found the second takes a while.
    let slow = FaultRule { skip: 1, ..FaultRule::once(Content, Fault::Delay { millis: 700 }) };
    env.emulator.faults().inject(slow);
    thread::scope(|scope| {
        let third = scope.spawn(|| save(&mount.path("c/f"), b"the third"));
        while !third.is_finished() {
            assert_eq!(mount.names("c"), ["f"]);
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(third.join().unwrap(), Ok(()));
    });
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(env.bytes_on_server(&id, "f"), b"the third");
}

#[test]
fn a_rename_whose_answer_stays_away_leaves_what_the_server_has_put_in_the_place_of_others() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Plain, ReplaceByName::Replace);
    let id = env.container("c");
    let mount = env.mount(&["--ttl", "100ms", "--timeout", "1s"]);
    for from in ["a", ".goutputstream-1", "sedAbCdEf", "new.tmp"] {
        assert_eq!(save(&mount.path("c/f"), b"old"), Ok(()));
        assert_eq!(save(&mount.path("c").join(from), b"new"), Ok(()));
        env.emulator.faults().inject(FaultRule::once(Upload, Fault::HangAfter));
        // Where there is time left it is found out that the server has done it.
        let renamed = fs::rename(mount.path("c").join(from), mount.path("c/f"));
        wait_until("what the server has made of it is shown", || {
            fs::read(mount.path("c/f")).expect("there is always something") == b"new"
        });
        if renamed.is_err() {
            fs::remove_file(mount.path("c").join(from)).unwrap();
        }
        for _ in 0..8 {
            assert_eq!(mount.names("c"), ["f"], "{from}");
            thread::sleep(Duration::from_millis(51));
        }
        assert_eq!(env.bytes_on_server(&id, "f"), b"new", "{from}");
    }
    assert_eq!(mount.unmount(&env), (0, 0));
    is_shown_once(&env, &id, &["f"]);
}

#[test]
fn what_a_rename_without_an_answer_has_left_under_an_id_that_was_there_is_what_is_read() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Openai, ReplaceByName::SameId);
    let id = env.container("c");
    let mount = env.mount(&["--ttl", "100ms", "--timeout", "1s"]);
    // All within one second, for no list to tell the difference.
    for (round, fault) in [Fault::HangAfter, lost_answer()].into_iter().enumerate() {
        assert_eq!(save(&mount.path("c/f"), format!("old {round}").as_bytes()), Ok(()));
        assert_eq!(save(&mount.path("c/new"), format!("new {round}").as_bytes()), Ok(()));
        env.emulator.faults().inject(FaultRule::once(Upload, fault));
        assert!(fs::rename(mount.path("c/new"), mount.path("c/f")).is_err());
        wait_until("what the server has is read", || {
            fs::read(mount.path("c/f")).unwrap() == env.bytes_on_server(&id, "f")
        });
        fs::remove_file(mount.path("c/new")).unwrap();
    }
    assert_eq!(mount.unmount(&env), (0, 0));
    // Of another length, and no list is due.
    let mount = env.mount(&["--ttl", "1h", "--timeout", "1s"]);
    assert_eq!(save(&mount.path("c/f"), b"long and old"), Ok(()));
    assert_eq!(save(&mount.path("c/new"), b"new"), Ok(()));
    env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
    assert!(fs::rename(mount.path("c/new"), mount.path("c/f")).is_err());
    wait_until("what the server has is read", || fs::read(mount.path("c/f")).unwrap() == b"new");
    assert_eq!(mount.unmount(&env), (0, 0));
}

#[test]
fn what_a_lost_answer_has_left_does_not_come_back_where_its_successor_is_moved_aside() {
    on_servers_that_lag(Duration::from_millis(1000), |env| {
        env.container("c");
        let mount = env.mount(&["--ttl", "50ms"]);
        lose_an_answer(env);
        assert!(save(&mount.path("c/f"), b"lost").is_err());
        thread::sleep(Duration::from_millis(500));
        assert_eq!(save(&mount.path("c/f"), b"newer"), Ok(()));
        fs::rename(mount.path("c/f"), mount.path("c/f~")).unwrap();
        // The list shows the one before the other.
        for _ in 0..25 {
            assert_eq!(mount.names("c"), ["f~"]);
            thread::sleep(Duration::from_millis(51));
        }
    });
}

#[test]
fn what_a_lost_answer_has_left_does_not_come_back_where_its_file_is_renamed() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::that_replaces(Profile::Plain, ReplaceByName::Replace);
    let id = env.container("c");
    let mount = env.mount(&["--ttl", "50ms"]);
    assert_eq!(save(&mount.path("c/f"), b"old"), Ok(()));
    lose_an_answer(&env);
    assert!(save(&mount.path("c/f"), b"newer").is_err());
    env.status_fault(Upload, 503);
    fs::rename(mount.path("c/f"), mount.path("c/g")).unwrap();
    for _ in 0..10 {
        assert_eq!(mount.names("c"), ["g"]);
        thread::sleep(Duration::from_millis(51));
    }
    env.emulator.faults().clear();
    assert_eq!(mount.unmount(&env), (0, 0));
    is_shown_once(&env, &id, &["g"]);
    assert_eq!(env.bytes_on_server(&id, "g"), b"newer");
}

/// Nobody looks once the list has caught up.
#[test]
fn the_end_of_a_mount_finds_what_a_list_has_shown_too_late() {
    if fuse_is_missing() {
        return;
    }
    let lag = Duration::from_millis(900);
    let env = server_that_lags(Profile::Openai, lag);
    let id = env.container("c");
    let mount = env.mount(&[]);
    env.emulator.faults().inject(FaultRule::once(Upload, lost_answer()));
    assert!(save(&mount.path("c/f"), b"without an answer").is_err());
    assert_eq!(save(&mount.path("c/f"), b"with one"), Ok(()));
    assert_eq!(env.versions(&id, "f").len(), 2, "a list has shown it already");
    thread::sleep(lag);
    assert_eq!(mount.unmount(&env), (0, 0));
    assert_eq!(env.only_version(&id, "f"), Some(b"with one".to_vec()));
}
