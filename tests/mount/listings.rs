//! Directories that the kernel answers from its own copy, and when it must not.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, open, seek};

use crate::env::{Env, Mount, errno, on_both_profiles, on_openai, wait_until};

/// A directory that is read some entries at a time, as `getdents` gives them.
struct Reader {
    fd: OwnedFd,
    seen: Vec<String>,
}

impl Reader {
    fn open(path: &Path) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self { fd: open(path, flags, Mode::empty()).unwrap(), seen: Vec::new() }
    }

    /// One call; whether there was anything left.
    fn read_on(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut entries = RawDir::new(&self.fd, &mut buffer);
        let mut any = false;
        // More would be another call.
        while let Some(entry) = entries.next() {
            any = true;
            let name = entry.unwrap().file_name().to_bytes().to_vec();
            self.seen.push(OsString::from_vec(name).into_string().unwrap());
            if entries.is_buffer_empty() {
                break;
            }
        }
        any
    }

    fn rest(&mut self) -> Vec<String> {
        while self.read_on() {}
        std::mem::take(&mut self.seen).into_iter().filter(|name| name != "." && name != "..").collect()
    }

    fn read_again(&mut self) -> Vec<String> {
        seek(&self.fd, SeekFrom::Start(0)).unwrap();
        self.rest()
    }
}

fn fill(env: &Env, files: usize) -> String {
    let id = env.container("c");
    for number in 0..files {
        env.store().put_upload(&id, &format!("f{number:03}"), b"x");
    }
    id
}

/// How often the daemon was asked for entries of a directory.
fn reads(mount: &Mount) -> usize {
    // Calls are logged once they are answered.
    thread::sleep(Duration::from_millis(100));
    mount
        .log()
        .lines()
        .filter(|line| line.contains("operation=\"readdir\"") && line.contains("call: answered"))
        .count()
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("f{number:03}")).collect()
}

/// Names that stayed, each once; the others came or went meanwhile.
fn assert_all_of(seen: &[String], stayed: std::ops::Range<usize>) {
    let once: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(once.len(), seen.len(), "a name twice in {seen:?}");
    for name in numbered(stayed) {
        assert!(once.contains(&name), "no {name} in {seen:?}");
    }
}

#[test]
fn a_directory_is_read_once_while_its_list_is_fresh() {
    on_both_profiles(|env| {
        fill(env, 100);
        let mount = env.mount(&["--ttl", "1h", "--log-level", "debug"]);
        assert_eq!(mount.names("c"), numbered(0..100));
        let once = reads(&mount);
        assert!(once > 0, "{}", mount.log());
        let mut reader = Reader::open(&mount.path("c"));
        for _ in 0..3 {
            assert_eq!(mount.names("c"), numbered(0..100));
            assert_eq!(reader.read_again(), numbered(0..100));
        }
        assert_eq!(reads(&mount), once);
    });
}

#[test]
fn what_is_done_here_is_seen_at_once_however_often_a_directory_was_read() {
    on_both_profiles(|env| {
        fill(env, 3);
        let mount = env.mount(&["--ttl", "1h"]);
        fs::create_dir(mount.path("c/d")).unwrap();
        let mut reader = Reader::open(&mount.path("c"));
        let mut shows = |names: &[&str]| {
            for _ in 0..3 {
                assert_eq!(mount.names("c"), names);
                assert_eq!(reader.read_again(), names);
            }
        };
        shows(&["d", "f000", "f001", "f002"]);
        fs::write(mount.path("c/new"), "x").unwrap();
        shows(&["d", "f000", "f001", "f002", "new"]);
        fs::remove_file(mount.path("c/f001")).unwrap();
        shows(&["d", "f000", "f002", "new"]);
        fs::rename(mount.path("c/new"), mount.path("c/newer")).unwrap();
        shows(&["d", "f000", "f002", "newer"]);
        fs::rename(mount.path("c/newer"), mount.path("c/f000")).unwrap();
        shows(&["d", "f000", "f002"]);
        assert!(mount.names("c/d").is_empty());
        fs::rename(mount.path("c/f000"), mount.path("c/d/f000")).unwrap();
        shows(&["d", "f002"]);
        assert_eq!(mount.names("c/d"), ["f000"]);
        fs::remove_file(mount.path("c/d/f000")).unwrap();
        fs::remove_dir(mount.path("c/d")).unwrap();
        shows(&["f002"]);
    });
}

#[test]
fn what_others_do_is_seen_within_the_ttl_however_long_a_directory_stays_open() {
    on_both_profiles(|env| {
        let id = fill(env, 3);
        let mount = env.mount(&["--ttl", "300ms"]);
        assert_eq!(mount.names("c"), ["f000", "f001", "f002"]);
        let mut reader = Reader::open(&mount.path("c"));
        assert_eq!(reader.read_again(), ["f000", "f001", "f002"]);
        env.store().put_upload(&id, "theirs", b"x");
        // Nobody else asks for anything.
        wait_until("it is shown", || reader.read_again() == ["f000", "f001", "f002", "theirs"]);
        let gone = env.store().files(&id)[0].id.clone();
        env.store().delete_file(&id, &gone);
        wait_until("it is gone", || reader.read_again() == ["f001", "f002", "theirs"]);
        env.store().put_upload(&id, "another", b"x");
        wait_until("opens show it", || mount.names("c") == ["another", "f001", "f002", "theirs"]);
    });
}

#[test]
fn a_reader_amid_a_directory_misses_nothing_that_stays_and_sees_nothing_twice() {
    on_both_profiles(|env| {
        fill(env, 200);
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(mount.names("c").len(), 200);
        let directory = mount.path("c");
        let mut readers: Vec<Reader> = (0..4).map(|_| Reader::open(&directory)).collect();
        // One each reads from the copy, amid which it is dropped, and one makes the next copy.
        let [first, second, third, maker] = &mut readers[..] else { unreachable!() };
        assert!(first.read_on());
        for name in numbered(0..5) {
            fs::remove_file(directory.join(name)).unwrap();
        }
        assert_eq!(mount.names("c"), numbered(5..200));
        assert!(first.read_on());
        assert_eq!(maker.read_again(), numbered(5..200));
        // Begins in a copy that was made after it was opened.
        assert!(second.read_on() && second.read_on());
        for name in ["a0", "a1", "a2"] {
            fs::write(directory.join(name), "x").unwrap();
        }
        assert_eq!(mount.names("c").len(), 198);
        assert!(first.read_on() && second.read_on());
        assert_eq!(maker.read_again().len(), 198);
        assert!(third.read_on());
        for name in numbered(100..103) {
            fs::remove_file(directory.join(name)).unwrap();
        }
        assert_eq!(mount.names("c").len(), 195);
        let kept = |seen: Vec<String>| seen.into_iter().filter(|name| !numbered(100..103).contains(name));
        assert_eq!(maker.read_again().len(), 195);
        for reader in [first, second, third] {
            let seen: Vec<String> = kept(reader.rest()).collect();
            assert_all_of(&seen, 5..100);
            assert_all_of(&seen, 103..200);
        }
    });
}

#[test]
fn a_reader_amid_a_directory_that_others_change_misses_nothing_that_stays() {
    on_both_profiles(|env| {
        let id = fill(env, 200);
        let mount = env.mount(&["--ttl", "300ms"]);
        assert_eq!(mount.names("c").len(), 200);
        let mut reader = Reader::open(&mount.path("c"));
        assert!(reader.read_on() && reader.read_on());
        for file in env.store().files(&id).into_iter().take(5) {
            env.store().delete_file(&id, &file.id);
        }
        wait_until("they are gone", || mount.names("c").len() == 195);
        assert_all_of(&reader.rest(), 5..200);
        assert_eq!(reader.read_again(), numbered(5..200));
    });
}

#[test]
fn a_reader_amid_a_directory_brings_no_name_back_that_stands_for_another_file_or_for_none() {
    on_both_profiles(|env| {
        fill(env, 200);
        let mount = env.mount(&["--ttl", "1h"]);
        let directory = mount.path("c");
        let at = |name: &str| directory.join(name);
        fs::write(at("next"), "the next version").unwrap();
        let mut reader = Reader::open(&directory);
        assert!(reader.read_on());
        let held = [File::open(at("f060")).unwrap(), File::open(at("f061")).unwrap()];
        fs::remove_file(at("f060")).unwrap();
        fs::rename(at("next"), at("f061")).unwrap();
        fs::rename(at("f062"), at("moved")).unwrap();
        // The kernel asks for entries with their attributes while somebody looks for those.
        let mut is_looked_for = numbered(100..200).into_iter();
        while reader.read_on() {
            fs::metadata(at(&is_looked_for.next().unwrap())).unwrap();
        }
        assert_eq!(fs::read_to_string(at("f061")).unwrap(), "the next version");
        assert_eq!(fs::read_to_string(at("moved")).unwrap(), "x");
        let seen = reader.rest();
        for gone in ["f060", "f062"] {
            assert_eq!(errno(fs::metadata(at(gone))), libc::ENOENT, "{gone}");
            assert!(!seen.contains(&gone.to_owned()), "{gone} in {seen:?}");
        }
        assert_all_of(&seen, 0..60);
        assert_all_of(&seen, 61..62);
        assert_all_of(&seen, 63..200);
        drop(held);
    });
}

#[test]
fn a_directory_of_files_whose_length_nobody_has_told_is_read_each_time() {
    on_openai(|env| {
        let id = fill(env, 3);
        env.store().put_model_file(&id, "/mnt/data/models", b"12345");
        let mount = env.mount(&["--ttl", "1h", "--log-level", "debug"]);
        assert_eq!(mount.names("c").len(), 4);
        let once = reads(&mount);
        assert_eq!(mount.names("c").len(), 4);
        assert!(reads(&mount) > once, "which has the lengths asked for at once");
    });
}

#[test]
fn a_list_may_take_longer_than_the_timeout_while_its_pages_come() {
    on_openai(|env| {
        fill(env, 1200);
        let mount = env.mount(&["--ttl", "1h", "--timeout", "2s"]);
        env.emulator.set_latency(Duration::from_millis(600));
        thread::scope(|scope| {
            for number in 0..8 {
                let path = mount.path(&format!("c/f{number:03}"));
                // They join the list at different moments.
                thread::sleep(Duration::from_millis(150));
                scope.spawn(move || assert_eq!(fs::metadata(path).map(|found| found.len()).ok(), Some(1)));
            }
        });
    });
}
