//! What the random steps have found once, in as few of them as show it.

use std::collections::BTreeMap;
use std::time::Duration;

use containerfs::emulator::{Fault, FaultRule, Kind, Profile, ReplaceByName};

use crate::reference::Bytes;
use crate::world::World;
use crate::{LAGS_TO_THE_END, Lag, Setting, Step, run};

fn setting(profile: Profile, write_back: Option<Duration>) -> Setting {
    Setting { profile, replace: ReplaceByName::Second, write_back, lag: Lag::default() }
}

fn save(path: &'static str, bytes: &str) -> Step {
    Step::Save(path, Bytes(bytes.as_bytes().to_vec()))
}

fn refused() -> Step {
    Step::Fault(Kind::Upload, Fault::Status { code: 400, body: None, headers: BTreeMap::new() })
}

/// An upload is carried out and its reply is of no use: it is not looked for at once.
fn lost_answer() -> Step {
    Step::Fault(Kind::Upload, Fault::LongBody)
}

#[test]
fn an_empty_file_is_there_after_a_crash() {
    let steps = [save("a", ""), save("a", ""), Step::Mkdir("d"), save("d/b", ""), Step::Crash];
    run(&setting(Profile::Openai, None), &steps);
}

#[test]
fn what_was_sent_in_vain_twice_is_not_taken_for_an_old_version_later() {
    let final_answer = [("x-should-retry".to_owned(), "false".to_owned())];
    let fails = Fault::Status { code: 500, body: None, headers: final_answer.into() };
    let steps = [
        Step::Fault(Kind::Upload, fails),
        lost_answer(),
        save("a", ""),
        Step::Append("a", Bytes(Vec::new())),
        Step::Remount,
    ];
    run(&setting(Profile::Openai, Some(Duration::ZERO)), &steps);
}

#[test]
fn a_directory_is_renamed_even_if_what_is_in_it_is_refused() {
    let steps = [Step::Mkdir("d"), refused(), save("d/a", ""), Step::Rename("d", "e")];
    run(&setting(Profile::Openai, None), &steps);
}

#[test]
fn a_lost_answer_is_one_version_after_renames_and_a_crash() {
    for profile in [Profile::Openai, Profile::Plain] {
        let steps = [
            lost_answer(),
            save("a", "first"),
            Step::Rename("a", "b.txt"),
            save("a", "second"),
            Step::Crash,
            Step::Look,
            save("a", "third"),
        ];
        run(&setting(profile, None), &steps);
    }
}

#[test]
fn a_file_saved_and_moved_aside_before_its_upload_survives_a_crash() {
    let later = Some(Duration::from_secs(3600));
    let steps = [save("a", "old"), Step::Remount, save("a", "new"), Step::Rename("a", "a~"), Step::Crash];
    run(&setting(Profile::Openai, later), &steps);
}

#[test]
fn a_file_moved_aside_has_its_name_back_though_its_directory_was_renamed() {
    let steps = [
        Step::Mkdir("d"),
        save("r2.csv", "old"),
        Step::Rename("r2.csv", "d/b~"),
        Step::Rename("d", "e"),
        Step::Crash,
        Step::Look,
    ];
    run(&setting(Profile::Openai, None), &steps);
}

#[test]
fn a_deletion_that_failed_does_not_hit_a_newer_file_with_the_same_id() {
    let error = Fault::Status { code: 500, body: None, headers: BTreeMap::new() };
    let setting =
        Setting { replace: ReplaceByName::SameId, ..setting(Profile::Openai, Some(Duration::ZERO)) };
    let steps = [
        save("b.txt", "old"),
        Step::Look,
        Step::Fault(Kind::DeleteFile, error),
        Step::Unlink("b.txt"),
        save("a", ""),
        save("b.txt", "new"),
        Step::Look,
        Step::Crash,
    ];
    run(&setting, &steps);
}

#[test]
fn a_file_moved_aside_stays_when_its_successor_gets_its_id() {
    let setting = Setting { replace: ReplaceByName::SameId, ..setting(Profile::Openai, None) };
    let moved = || [save("a", "old"), Step::Rename("a", "a~")];
    run(&setting, &[&moved()[..], &[save("a", "new"), Step::Look]].concat());
    let renamed = [save("b.txt", "new"), Step::Rename("b.txt", "a"), Step::Look];
    run(&setting, &[&moved()[..], &renamed].concat());
}

#[test]
fn a_version_that_is_no_more_is_read_by_who_has_it_and_written_by_nobody() {
    let world = World::new(Profile::Openai, |_| (), None);
    let store = world.emulator.store();
    let old = store.put_model_file(&world.container, "/mnt/data/f", b"old");
    let (ino, _reader) = world.open("f").unwrap();
    store.delete_file(&world.container, &old);
    store.put_model_file(&world.container, "/mnt/data/f", b"new");
    world.expire();
    assert_eq!(world.tree().unwrap()["f"], Some(Bytes(b"new".to_vec())));
    world.open_by(ino, libc::O_RDONLY).unwrap();
    let refused = world.open_by(ino, libc::O_WRONLY | libc::O_TRUNC).unwrap_err();
    assert_eq!(refused.errno, libc::ESTALE, "the kernel looks the name up again");
}

#[test]
fn what_was_asked_for_before_the_file_was_emptied_is_what_was_there_before() {
    let mut world = World::new(Profile::Openai, |_| (), None);
    let read = |world: &World, handle| world.read_through(handle).unwrap();
    for before in ["on the server", "here"] {
        world.save("f", &Bytes(b"old".to_vec())).unwrap();
        let (ino, reader) = world.open("f").unwrap();
        if before == "here" {
            world.hold("f", &Bytes(b"new".to_vec())).unwrap();
        }
        let old = read(&world, reader);
        let emptied = world.open_by(ino, libc::O_WRONLY | libc::O_TRUNC).unwrap();
        assert_eq!(read(&world, reader), old, "{before}: the open has not come back");
        let again = world.open_by(ino, libc::O_WRONLY | libc::O_TRUNC).unwrap();
        world.close(emptied).unwrap();
        assert_eq!(read(&world, reader), old, "{before}: the other one has not");
        world.close(again).unwrap();
        assert_eq!(read(&world, reader), b"", "{before}");
        if before == "here" {
            world.close_held().unwrap();
        }
        world.close(reader).unwrap();
    }
}

#[test]
fn what_is_emptied_while_its_bytes_are_fetched_is_empty() {
    let world = World::new(Profile::Openai, |_| (), None);
    world.emulator.store().put_upload(&world.container, "f", b"0123456789");
    let (ino, reader) = world.open("f").unwrap();
    world.inject(FaultRule::once(Kind::Content, Fault::Delay { millis: 300 }));
    std::thread::scope(|scope| {
        let append = scope.spawn(|| world.append("f", &Bytes(b"A".to_vec())));
        let is_asked = || world.emulator.requests().iter().any(|request| request.kind == Kind::Content);
        while !is_asked() {
            std::thread::yield_now();
        }
        let emptied = world.open_by(ino, libc::O_WRONLY | libc::O_TRUNC).unwrap();
        append.join().unwrap().unwrap();
        world.close(emptied).unwrap();
    });
    assert_eq!(world.read_through(reader).unwrap(), b"\0\0\0\0\0\0\0\0\0\0A");
    world.close(reader).unwrap();
}

#[test]
fn a_save_whose_file_makes_way_while_it_waits_for_the_name_sends_nothing() {
    for replace in [ReplaceByName::Second, ReplaceByName::Replace, ReplaceByName::SameId] {
        let mut world = World::new(Profile::Openai, |quirks| quirks.replace_by_name = replace, None);
        for (name, bytes) in [("f", "moves"), ("g", "goes")] {
            world.save(name, &Bytes(bytes.as_bytes().to_vec())).unwrap();
        }
        let requests = || world.emulator.requests();
        let uploads = || requests().iter().filter(|request| request.kind == Kind::Upload).count();
        world.inject(FaultRule::once(Kind::Upload, Fault::Delay { millis: 500 }));
        std::thread::scope(|scope| {
            let renamed = scope.spawn(|| world.rename("f", "g"));
            while uploads() < 3 {
                std::thread::yield_now();
            }
            world.save("g", &Bytes(b"makes way".to_vec())).unwrap();
            renamed.join().unwrap().unwrap();
        });
        assert_eq!(uploads(), 3, "{replace:?}");
        let left = BTreeMap::from([("g".to_owned(), Some(Bytes(b"moves".to_vec())))]);
        assert_eq!(world.tree().unwrap(), left, "{replace:?}");
        assert!(world.unmount().is_empty(), "{replace:?}");
        assert_eq!(world.emulator.store().files(&world.container).len(), 1, "{replace:?}");
    }
}

#[test]
fn a_probe_that_a_list_shows_late_is_shown_to_nobody() {
    let lag = Lag { uploads: LAGS_TO_THE_END, ..Lag::default() };
    let lost = Step::Fault(Kind::Upload, Fault::ResetAfter);
    let steps = [Step::Mkdir("d"), lost, save("d/b", "bytes"), Step::Crash, save("d/b", "more")];
    run(&Setting { lag, ..setting(Profile::Openai, None) }, &steps);
}
