//! A daemon that dies at any step of an intent: whatever it had said is done, and nothing is left half done.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use containerfs::emulator::{Config, Profile, ReplaceByName};
use containerfs::journal::steps::FAILPOINT;

use crate::env::{Env, Mount, fuse_is_missing, save};

/// How a process ends that was killed.
pub(crate) const KILLED: i32 = -1;

/// More steps than any intent has.
pub(crate) const TOO_MANY: usize = 60;

/// What a container may hold afterwards: bytes by path.
type Files = BTreeMap<&'static str, &'static str>;

/// One thing that a program does.
struct Deed {
    name: &'static str,
    /// Done before, and done with.
    before: fn(&Mount),
    /// Dies on the way. Returns whether it was told of success.
    deed: fn(&Path) -> bool,
    /// What may be there if it was not told of success.
    undone: Vec<Files>,
    /// What is there if it did.
    done: Files,
    flags: &'static [&'static str],
}

pub(crate) fn put(mount: &Mount, path: &str, bytes: &str) {
    assert_eq!(save(&mount.path("c").join(path), bytes.as_bytes()), Ok(()));
}

pub(crate) fn append(path: &Path, bytes: &[u8]) -> nix::Result<()> {
    let mut file = File::options().append(true).open(path).map_err(|error| error.try_into().unwrap())?;
    file.write_all(bytes).map_err(|error| error.try_into().unwrap())?;
    nix::unistd::close(file)
}

fn deeds() -> Vec<Deed> {
    let write_back: &[&str] = &["--write-back", "--write-back-delay", "0s"];
    let later: &[&str] = &["--write-back", "--write-back-delay", "1h"];
    let files = |files: &[(&'static str, &'static str)]| files.iter().copied().collect::<Files>();
    vec![
        Deed {
            name: "a new file",
            before: |_| {},
            deed: |dir| save(&dir.join("f"), b"new").is_ok(),
            undone: vec![files(&[])],
            done: files(&[("f", "new")]),
            flags: &[],
        },
        Deed {
            name: "an overwritten file",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| save(&dir.join("f"), b"newer").is_ok(),
            undone: vec![files(&[("f", "old")])],
            done: files(&[("f", "newer")]),
            flags: &[],
        },
        Deed {
            name: "an overwritten file with write-back",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| save(&dir.join("f"), b"newer").is_ok(),
            undone: vec![files(&[("f", "old")])],
            done: files(&[("f", "newer")]),
            flags: write_back,
        },
        Deed {
            name: "a removed file",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| fs::remove_file(dir.join("f")).is_ok(),
            undone: vec![files(&[("f", "old")])],
            done: files(&[]),
            flags: &[],
        },
        Deed {
            name: "a removed file with write-back",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| fs::remove_file(dir.join("f")).is_ok(),
            undone: vec![files(&[("f", "old")])],
            done: files(&[]),
            flags: write_back,
        },
        Deed {
            name: "a renamed file",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| fs::rename(dir.join("f"), dir.join("g")).is_ok(),
            undone: vec![files(&[("f", "old")])],
            done: files(&[("g", "old")]),
            flags: &[],
        },
        Deed {
            name: "a file renamed over another",
            before: |mount| {
                put(mount, "f", "moves");
                put(mount, "g", "goes");
            },
            deed: |dir| fs::rename(dir.join("f"), dir.join("g")).is_ok(),
            undone: vec![files(&[("f", "moves"), ("g", "goes")])],
            done: files(&[("g", "moves")]),
            flags: &[],
        },
        Deed {
            name: "a save by write-temp-and-rename with write-back",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| {
                let saved = save(&dir.join("f.new"), b"newer").is_ok();
                saved && fs::rename(dir.join("f.new"), dir.join("f")).is_ok()
            },
            undone: vec![files(&[("f", "old")]), files(&[("f", "old"), ("f.new", "newer")])],
            done: files(&[("f", "newer")]),
            flags: later,
        },
        Deed {
            name: "a save renamed over a promised file that is open",
            before: |_| {},
            deed: |dir| {
                let open = File::create(dir.join("f")).and_then(|mut file| {
                    file.write_all(b"promised")?;
                    file.sync_all()?;
                    Ok(file)
                });
                let saved = open.is_ok() && save(&dir.join("g"), b"newer").is_ok();
                saved && fs::rename(dir.join("g"), dir.join("f")).is_ok()
            },
            undone: vec![
                files(&[]),
                files(&[("f", "promised")]),
                files(&[("f", "promised"), ("g", "newer")]),
            ],
            done: files(&[("f", "newer")]),
            flags: later,
        },
        Deed {
            name: "a scratch file renamed over a file",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| {
                let saved = save(&dir.join(".goutputstream-A"), b"newer").is_ok();
                saved && fs::rename(dir.join(".goutputstream-A"), dir.join("f")).is_ok()
            },
            undone: vec![files(&[("f", "old")])],
            done: files(&[("f", "newer")]),
            flags: &[],
        },
        Deed {
            name: "a renamed directory",
            before: |mount| {
                fs::create_dir(mount.path("c/d")).unwrap();
                put(mount, "d/one", "1");
                put(mount, "d/two", "2");
            },
            deed: |dir| fs::rename(dir.join("d"), dir.join("e")).is_ok(),
            undone: vec![files(&[("d/one", "1"), ("d/two", "2")])],
            done: files(&[("e/one", "1"), ("e/two", "2")]),
            flags: &[],
        },
        Deed {
            name: "the first file of a directory, which needs the probe",
            before: |mount| fs::create_dir(mount.path("c/d")).unwrap(),
            deed: |dir| save(&dir.join("d/one"), b"1").is_ok(),
            undone: vec![files(&[])],
            done: files(&[("d/one", "1")]),
            flags: &[],
        },
        Deed {
            name: "a file that vim moves aside",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| {
                fs::rename(dir.join("f"), dir.join("f~")).is_ok()
                    && save(&dir.join("f"), b"newer").is_ok()
                    && fs::remove_file(dir.join("f~")).is_ok()
            },
            undone: vec![files(&[("f", "old")])],
            done: files(&[("f", "newer")]),
            flags: &[],
        },
        Deed {
            name: "a file in the place of one that is moved aside",
            before: |mount| {
                put(mount, "f", "old");
                put(mount, "g", "newer");
            },
            deed: |dir| {
                fs::rename(dir.join("f"), dir.join("f~")).is_ok()
                    && fs::rename(dir.join("g"), dir.join("f")).is_ok()
                    && fs::remove_file(dir.join("f~")).is_ok()
            },
            undone: vec![files(&[("f", "old"), ("g", "newer")])],
            done: files(&[("f", "newer")]),
            flags: &[],
        },
        Deed {
            name: "a file in the place of one that is aside and was written there",
            before: |mount| {
                put(mount, "f", "old");
                put(mount, "g", "newer");
            },
            deed: |dir| {
                fs::rename(dir.join("f"), dir.join("f~")).is_ok()
                    && append(&dir.join("f~"), b"er").is_ok()
                    && fs::rename(dir.join("g"), dir.join("f")).is_ok()
            },
            undone: vec![files(&[("f", "old"), ("g", "newer")])],
            done: files(&[("f", "newer")]),
            flags: &[],
        },
        Deed {
            name: "a backup of what is not sent yet",
            before: |mount| put(mount, "f", "old"),
            deed: |dir| {
                save(&dir.join("f"), b"newer").is_ok()
                    && fs::rename(dir.join("f"), dir.join("f~")).is_ok()
                    && save(&dir.join("f"), b"newest").is_ok()
                    && fs::remove_file(dir.join("f~")).is_ok()
            },
            undone: vec![files(&[("f", "old")]), files(&[("f", "newer")]), files(&[("f", "newest")])],
            done: files(&[("f", "newest")]),
            flags: later,
        },
        Deed {
            name: "a file that is written while it is aside",
            before: |_| {},
            deed: |dir| {
                save(&dir.join("f"), b"new").is_ok()
                    && fs::rename(dir.join("f"), dir.join("f~")).is_ok()
                    && append(&dir.join("f~"), b"er").is_ok()
                    && fs::rename(dir.join("f~"), dir.join("g")).is_ok()
            },
            undone: vec![
                files(&[]),
                files(&[("f", "new")]),
                files(&[("f~", "new")]),
                files(&[("f~", "newer")]),
            ],
            done: files(&[("g", "newer")]),
            flags: later,
        },
        Deed {
            name: "a file in the place of a backup",
            before: |mount| {
                put(mount, "f", "old");
                put(mount, "g", "newer");
            },
            deed: |dir| {
                fs::rename(dir.join("f"), dir.join("f~")).is_ok()
                    && fs::rename(dir.join("g"), dir.join("f~")).is_ok()
                    && fs::rename(dir.join("f~"), dir.join("h")).is_ok()
            },
            undone: vec![
                files(&[("f", "old"), ("g", "newer")]),
                files(&[("f~", "old"), ("g", "newer")]),
                files(&[("g", "newer")]),
            ],
            done: files(&[("h", "newer")]),
            flags: &[],
        },
    ]
}

/// Every file of the container, as the mount shows it.
pub(crate) fn shown(mount: &Mount) -> BTreeMap<String, String> {
    let paths = mount.sh("c", "find . -type f");
    let read = |path: &str| {
        let path = path.trim_start_matches("./").to_owned();
        let bytes = fs::read_to_string(mount.path("c").join(&path)).unwrap();
        (path, bytes)
    };
    paths.lines().map(read).collect()
}

/// Dies at the step number `step`. Returns whether there was such a step.
fn dies_at(env: &Env, deed: &Deed, step: usize) -> bool {
    let id = env.container("c");
    let mount = env.mount(&[]);
    (deed.before)(&mount);
    assert_eq!(mount.unmount(env), (0, 0));
    let mount = env.mount_with(deed.flags, &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
    let told = (deed.deed)(&mount.path("c"));
    let died = mount.unmount(env).1 == KILLED;

    let mount = env.mount(&[]);
    // Amid its recovery: a file may move while it is looked at.
    let first_seen = mount.try_sh("c", "grep -r ''").stdout;
    let first_seen = String::from_utf8_lossy(&first_seen);
    let log = mount.log();
    let ended = mount.unmount(env).1;
    let mount = env.mount(&["--read-only"]);
    let found = shown(&mount);
    drop(mount);
    let is = |files: &Files| {
        let same = |(path, bytes): (&&str, &&str)| found.get(*path).is_some_and(|found| found == bytes);
        files.len() == found.len() && files.iter().all(same)
    };
    let context = format!(
        "{}, step {step}, died: {died}, told of success: {told}: first {first_seen}, then {found:?}\n{log}",
        deed.name
    );
    assert!(is(&deed.done) || (!told && deed.undone.iter().any(is)), "{context}");
    assert!(ended == 0 || (ended == 3 && !told), "{ended}: {context}");
    let on_server: Vec<String> = env.store().files(&id).into_iter().map(|file| file.path).collect();
    let sent = found.keys().filter(|path| !path.ends_with('~')).count();
    assert_eq!(on_server.len(), sent, "{context}: on the server {on_server:?}");
    died
}

fn dies_at_every_step_of(name: &str) {
    let deed = deeds().into_iter().find(|deed| deed.name == name).unwrap();
    for profile in [Profile::Openai, Profile::Plain] {
        dies_at_every_step_on(profile, ReplaceByName::Second, &deed);
    }
}

/// The same on servers where an upload takes the place of the file that had its name, or its id too.
fn dies_at_every_step_where_names_are_replaced(name: &str) {
    let deed = deeds().into_iter().find(|deed| deed.name == name).unwrap();
    for replace in [ReplaceByName::Replace, ReplaceByName::SameId] {
        dies_at_every_step_on(Profile::Openai, replace, &deed);
    }
}

fn dies_at_every_step_on(profile: Profile, replace: ReplaceByName, deed: &Deed) {
    if !fuse_is_missing() {
        let name = deed.name;
        let server = || Env::that_replaces(profile, replace);
        let steps = (0..TOO_MANY).take_while(|step| dies_at(&server(), deed, *step)).count();
        assert!(steps > 1, "{name}: it died at {steps} steps only; are failpoints compiled in?");
        assert!(steps < TOO_MANY);
    }
}

#[test]
fn a_new_file() {
    dies_at_every_step_of("a new file");
}

#[test]
fn an_overwritten_file() {
    dies_at_every_step_of("an overwritten file");
    dies_at_every_step_where_names_are_replaced("an overwritten file");
}

#[test]
fn an_overwritten_file_with_write_back() {
    dies_at_every_step_of("an overwritten file with write-back");
    dies_at_every_step_where_names_are_replaced("an overwritten file with write-back");
}

#[test]
fn a_removed_file() {
    dies_at_every_step_of("a removed file");
}

#[test]
fn a_removed_file_with_write_back() {
    dies_at_every_step_of("a removed file with write-back");
}

#[test]
fn a_renamed_file() {
    dies_at_every_step_of("a renamed file");
}

#[test]
fn a_file_renamed_over_another() {
    dies_at_every_step_of("a file renamed over another");
    dies_at_every_step_where_names_are_replaced("a file renamed over another");
}

#[test]
fn a_save_by_write_temp_and_rename_with_write_back() {
    dies_at_every_step_of("a save by write-temp-and-rename with write-back");
    dies_at_every_step_where_names_are_replaced("a save by write-temp-and-rename with write-back");
}

#[test]
fn a_save_renamed_over_a_promised_file_that_is_open() {
    dies_at_every_step_of("a save renamed over a promised file that is open");
}

#[test]
fn a_scratch_file_renamed_over_a_file() {
    dies_at_every_step_of("a scratch file renamed over a file");
    dies_at_every_step_where_names_are_replaced("a scratch file renamed over a file");
}

#[test]
fn a_renamed_directory() {
    dies_at_every_step_of("a renamed directory");
}

#[test]
fn what_a_renamed_directory_takes_along_has_its_new_path_after_the_next_crash_too() {
    if fuse_is_missing() {
        return;
    }
    let dies_at = |step: usize| {
        let env = Env::of(Config::new(Profile::Openai));
        env.container("c");
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        let told = fs::create_dir(mount.path("c/d")).is_ok()
            && save(&mount.path("c/d/sent"), b"sent").is_ok()
            && save(&mount.path("c/d/kept~"), b"kept").is_ok();
        let _ = fs::rename(mount.dir.join("c/d"), mount.dir.join("c/e"));
        let died = mount.unmount(&env).1 == KILLED;

        let mut mount = env.mount(&[]);
        if told && mount.path("c/e/kept~").exists() {
            fs::create_dir(mount.path("c/d")).unwrap();
            assert_eq!(save(&mount.path("c/d/kept~"), b"another"), Ok(()));
            mount.kill();
            drop(mount);
            let mount = env.mount(&[]);
            assert_eq!(fs::read(mount.path("c/d/kept~")).unwrap(), b"another", "step {step}");
            assert_eq!(fs::read(mount.path("c/e/kept~")).unwrap(), b"kept", "step {step}");
        }
        died
    };
    let steps = (0..TOO_MANY).take_while(|step| dies_at(*step)).count();
    assert!(steps > 1, "it died at {steps} steps only");
}

#[test]
fn the_first_file_of_a_directory() {
    dies_at_every_step_of("the first file of a directory, which needs the probe");
}

#[test]
fn a_file_that_vim_moves_aside() {
    dies_at_every_step_of("a file that vim moves aside");
    dies_at_every_step_where_names_are_replaced("a file that vim moves aside");
}

#[test]
fn a_file_in_the_place_of_one_that_is_moved_aside() {
    dies_at_every_step_of("a file in the place of one that is moved aside");
    dies_at_every_step_where_names_are_replaced("a file in the place of one that is moved aside");
}

#[test]
fn a_file_in_the_place_of_one_that_is_aside_and_was_written_there() {
    let name = "a file in the place of one that is aside and was written there";
    dies_at_every_step_of(name);
    dies_at_every_step_where_names_are_replaced(name);
}

#[test]
fn a_backup_of_what_is_not_sent_yet() {
    dies_at_every_step_of("a backup of what is not sent yet");
    dies_at_every_step_where_names_are_replaced("a backup of what is not sent yet");
}

#[test]
fn a_file_that_is_written_while_it_is_aside() {
    dies_at_every_step_of("a file that is written while it is aside");
}

#[test]
fn a_file_in_the_place_of_a_backup() {
    dies_at_every_step_of("a file in the place of a backup");
    dies_at_every_step_where_names_are_replaced("a file in the place of a backup");
}

#[test]
fn a_new_container() {
    if fuse_is_missing() {
        return;
    }
    let dies_at = |step: usize| {
        let env = Env::of(Config::new(Profile::Openai));
        env.container("beside");
        let mount = env.mount_with(&[], &[("FAILPOINTS", &format!("{FAILPOINT}={step}*off->return"))]);
        let told = fs::create_dir(mount.path("made")).is_ok();
        let died = mount.unmount(&env).1 == KILLED;
        let mount = env.mount(&[]);
        assert_eq!(mount.unmount(&env), (0, 0));
        let made = env.store().containers().into_iter().filter(|container| container.name == "made").count();
        // Before its intent was written nothing had been asked for.
        assert!(made == 1 || (made == 0 && !told && step == 0), "step {step}: {made} containers");
        let mount = env.mount(&["--read-only"]);
        assert_eq!(mount.names("").len(), 1 + made);
        died
    };
    let steps = (0..TOO_MANY).take_while(|step| dies_at(*step)).count();
    assert!(steps > 1, "it died at {steps} steps only");
}
