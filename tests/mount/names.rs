//! What a server's names look like here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::Duration;

use containerfs::emulator::Kind;

use crate::env::{errno, on_both_profiles, on_openai, program_is_missing, wait_until};

#[test]
fn the_root_lists_live_containers_and_an_id_resolves() {
    on_both_profiles(|env| {
        let first = env.container("auto");
        let second = env.container("auto");
        let dead = env.container("dead");
        env.store().expire_container(&dead);
        env.store().put_upload(&second, "f", b"2");
        let mount = env.mount(&[]);
        let names = mount.names("");
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0], "auto");
        let tag = names[1].strip_prefix("auto~").unwrap();
        assert_eq!(tag.len(), 8);
        assert!(second.contains(tag), "{tag} is of {second}");
        assert_eq!(fs::read_link(mount.path(&second)).unwrap().to_str().unwrap(), names[1]);
        assert_eq!(fs::read(mount.path(&second).join("f")).unwrap(), b"2");
        assert_eq!(fs::read_link(mount.path(&first)).unwrap().to_str().unwrap(), "auto");
        assert_eq!(mount.names(""), names, "an id is found and not listed");
        assert!(!mount.path(&dead).exists());
    });
}

#[test]
fn one_container_can_be_the_root() {
    on_both_profiles(|env| {
        let id = env.container("report");
        env.container("other");
        env.store().put_upload(&id, "f", b"x");
        for wanted in ["report", id.as_str()] {
            let mount = env.mount(&["--container", wanted]);
            assert_eq!(mount.names(""), ["f"]);
            fs::write(mount.path("g"), "y").unwrap();
            assert_eq!(env.bytes_on_server(&id, "g"), b"y");
            mount.sh("", "rm g");
        }
    });
}

#[test]
fn of_containers_of_one_name_and_second_the_one_with_the_bare_name_can_be_the_root() {
    on_both_profiles(|env| {
        let made_at =
            |id: &str| env.store().containers().into_iter().find(|made| made.id == id).unwrap().created_at;
        let (mut first, mut second) = (env.container("report"), env.container("report"));
        while made_at(&first) != made_at(&second) {
            env.store().delete_container(&first);
            first = std::mem::replace(&mut second, env.container("report"));
        }
        for (id, name) in [(&first, "first"), (&second, "second")] {
            env.store().put_upload(id, name, b"x");
        }
        let mount = env.mount(&[]);
        assert_eq!(mount.names("report"), ["first"]);
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&["--container", "report"]);
        assert_eq!(mount.names(""), ["first"]);
    });
}

#[test]
fn the_servers_prefix_is_hidden_and_an_xattr_tells_the_path() {
    if program_is_missing("getfattr") {
        return;
    }
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "in.csv", b"1,2");
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["in.csv"]);
        let path = mount.sh("c", "getfattr --only-values -n user.containerfs.path in.csv");
        assert_eq!(path, env.store().files(&id)[0].path);
        assert!(path.starts_with("/mnt/data/") && path.len() > "/mnt/data/in.csv".len());
        let file_id = mount.sh("c", "getfattr --only-values -n user.containerfs.id in.csv");
        assert_eq!(file_id, env.store().files(&id)[0].id);
        assert_eq!(mount.sh("", "getfattr --only-values -n user.containerfs.id c"), id);
        assert_eq!(mount.sh("c", "getfattr --only-values -n user.containerfs.container_id in.csv"), id);
        assert_eq!(mount.sh("", "getfattr --only-values -n user.containerfs.status c"), "running");
        let active = mount.sh("", "getfattr --only-values -n user.containerfs.last_active_at c");
        assert!(active.parse::<i64>().is_ok(), "{active}");
        assert_eq!(
            mount.sh("c", "getfattr -d -m - in.csv"),
            "",
            "not listed, so that rsync -X does not copy them"
        );
    });
}

#[test]
fn a_long_list_asks_once_for_what_there_is_not() {
    on_openai(|env| {
        let id = env.container("c");
        for number in 0..20 {
            env.store().put_upload(&id, &format!("f{number}"), b"x");
        }
        let mount = env.mount(&["--log-level", "debug"]);
        assert_eq!(mount.sh("", "ls -l c").lines().count(), 21);
        let log = mount.log();
        let asked = log.lines().filter(|line| line.contains("getxattr") && line.contains("answered")).count();
        assert!(asked <= 4, "labels and access control lists were asked for {asked} times");
        if !program_is_missing("getfattr") {
            let of = |name| mount.sh("c", &format!("getfattr -n {name} f1 2>&1 || true"));
            assert!(of("security.selinux").contains("not supported"));
            assert!(of("user.containerfs.nothing").contains("No such attribute"));
        }
    });
}

#[test]
fn of_several_files_with_one_name_none_is_hidden() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f.txt", b"first");
        env.store().put_upload(&id, "f.txt", b"second");
        let mount = env.mount(&[]);
        let names = mount.names("c");
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::read(mount.path("c/f.txt")).unwrap(), b"second", "the newest has the bare name");
        let older = names.iter().find(|name| *name != "f.txt").unwrap();
        assert!(older.starts_with("f~") && older.ends_with(".txt") && older.len() == "f~01234567.txt".len());
        assert_eq!(fs::read(mount.path("c").join(older)).unwrap(), b"first");

        fs::remove_file(mount.path("c/f.txt")).unwrap();
        let left = env.store().files(&id);
        assert_eq!(left.len(), 1, "unlink concerns the one file that the name showed");
        assert_eq!(env.store().content(&id, &left[0].id).unwrap(), b"first");
        assert_eq!(
            mount.names("c"),
            std::slice::from_ref(older),
            "the other keeps its name until the mount ends"
        );
    });
}

#[test]
fn hostile_names_are_readable_distinct_and_inside() {
    on_openai(|env| {
        let id = env.container("c");
        let long = "l".repeat(300);
        let hostile = [
            "/mnt/data/../../etc/passwd",
            "/mnt/data/..",
            "/mnt/data/.",
            "/mnt/data/a//b",
            "/mnt/data/",
            "/etc/shadow",
            "/mnt/data/nul\0byte",
            "/mnt/data/esc\u{1b}[31mred",
            "/mnt/data/new\nline",
            "/mnt/data/tab\tand\rreturn",
            "/mnt/data/a",
            "/mnt/data/a/b",
            "/mnt/data/-rf",
            "/mnt/data/%2Fetc",
            "/mnt/data/per%cent",
            "/mnt/data/ ",
            "/mnt/data/\u{202e}gnp.exe",
            "/mnt/data/ünï côdé 図.txt",
            "relative.txt",
            "/mnt/data/c1\u{9b}2J",
            "/mnt/data/back\\slash\"quote",
        ];
        let hostile = hostile.map(str::to_owned).into_iter().chain([format!("/mnt/data/{long}.txt")]);
        let hostile: Vec<String> = hostile.collect();
        for (number, path) in hostile.iter().enumerate() {
            env.store().put_model_file(&id, path, format!("file {number}").as_bytes());
        }
        let mount = env.mount(&[]);
        let mut contents = BTreeSet::new();
        let mut directories = vec![mount.path("c")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().as_bytes().to_vec();
                let text = String::from_utf8(name.clone()).unwrap();
                assert!(name.len() <= 255 && !matches!(text.as_str(), "" | "." | ".."), "{text:?}");
                assert!(!text.chars().any(char::is_control), "{text:?}");
                if path.is_dir() {
                    directories.push(path);
                } else {
                    assert!(path.starts_with(mount.path("c")));
                    assert!(contents.insert(fs::read_to_string(&path).unwrap()), "{text:?} is shown twice");
                }
            }
        }
        assert_eq!(contents.len(), hostile.len());
    });
}

#[test]
fn names_that_the_service_cannot_hold_are_refused_before_a_request() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let create =
            |name: &[u8]| errno(fs::write(mount.path("c").join(std::ffi::OsStr::from_bytes(name)), "x"));
        let changes = env.changes_of(|| {
            for name in [b"a%2Fb".as_slice(), b"a%2fb", b"esc\x1b", b"line\nfeed", b"\xff\xfe"] {
                assert_eq!(create(name), libc::EINVAL, "{name:?}");
            }
            for reversed in ["\u{202a}", "\u{202e}gnp.exe", "\u{2066}", "\u{2069}", "c1\u{85}"] {
                assert_eq!(create(reversed.as_bytes()), libc::EINVAL, "{reversed:?}");
            }
            assert_eq!(create(&[b'l'; 256]), libc::ENAMETOOLONG);
        });
        assert_eq!(changes, []);
        assert_eq!(env.count(Kind::Upload), 0);
    });
}

#[test]
fn a_path_that_is_too_deep_is_shown_by_its_end_and_cannot_be_made() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, &format!("/mnt/data/{}x.txt", "a/".repeat(5000)), b"deep");
        let mount = env.mount(&[]);
        let names = mount.names("c");
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(names[0].starts_with("x~") && names[0].ends_with(".txt"), "{names:?}");
        assert_eq!(fs::read(mount.path("c").join(&names[0])).unwrap(), b"deep");
        let deepest = mount.path("c").join("d/".repeat(128));
        fs::create_dir_all(&deepest).unwrap();
        assert_eq!(errno(fs::create_dir(deepest.join("d"))), libc::ENAMETOOLONG);
        assert_eq!(errno(fs::write(deepest.join("f"), "x")), libc::ENAMETOOLONG);
        fs::create_dir(mount.path("c/e")).unwrap();
        assert_eq!(errno(fs::rename(mount.path("c/d"), mount.path("c/e/d"))), libc::ENAMETOOLONG);
        fs::rename(mount.path("c/d"), mount.path("c/e2")).unwrap();
    });
}

#[test]
fn names_travel_there_and_back() {
    on_both_profiles(|env| {
        env.container("c");
        let names = [
            "quote\"d.txt",
            "ünï 図.txt",
            "semi;colon",
            "per%cent",
            "back\\slash",
            "-rf",
            " leading",
            "~a",
            "a'b",
            "👩\u{200d}👩\u{200d}👧.txt",
            "می\u{200c}خواهم",
            "marks\u{200e}\u{200f}\u{61c}",
            "\u{feff}bom",
            "lines\u{2028}\u{2029}",
            "zero\u{200b}width\u{2060}",
        ];
        let mount = env.mount(&[]);
        for name in names {
            fs::write(mount.path("c").join(name), name).unwrap();
        }
        let mut expected: Vec<String> = names.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(mount.names("c"), expected);
        mount.unmount(env);
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), expected);
        for name in names {
            assert_eq!(fs::read_to_string(mount.path("c").join(name)).unwrap(), name);
        }
    });
}

#[test]
fn characters_that_join_or_mark_text_are_shown_as_the_server_has_them() {
    on_openai(|env| {
        let id = env.container("👩\u{200d}🚀");
        let names = ["family 👩\u{200d}👩\u{200d}👧.txt", "lines\u{2028}", "می\u{200c}خواهم"];
        for name in names {
            env.store().put_model_file(&id, &format!("/mnt/data/{name}"), name.as_bytes());
        }
        let mount = env.mount(&[]);
        assert_eq!(mount.names(""), ["👩\u{200d}🚀"]);
        assert_eq!(mount.names("👩\u{200d}🚀"), names);
        for name in names {
            assert_eq!(fs::read_to_string(mount.path("👩\u{200d}🚀").join(name)).unwrap(), name);
        }
        let shown = mount.path("👩\u{200d}🚀").join("lines\u{2028}");
        let told = env.command(&["path", shown.to_str().unwrap()]).output().unwrap();
        assert_eq!(String::from_utf8(told.stdout).unwrap(), "/mnt/data/lines\\u{2028}\n");
    });
}

#[test]
fn what_replaces_an_upload_that_no_list_has_shown_gets_its_name() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        assert!(mount.names("c").is_empty());
        fs::write(mount.path("c/x.txt"), "ours").unwrap();
        let ours = env.versions(&id, "x.txt").remove(0).id;
        let theirs = env.store().put_upload(&id, "x.txt", b"theirs");
        if theirs != ours {
            env.store().delete_file(&id, &ours);
        }
        wait_until("it has the bare name", || {
            mount.names("c") == ["x.txt"] && fs::read(mount.path("c/x.txt")).is_ok_and(|x| x == b"theirs")
        });
    });
}

#[test]
fn an_id_beats_a_container_that_is_named_like_it() {
    on_both_profiles(|env| {
        let real = env.container("real");
        let liar = env.container(&real);
        env.store().put_upload(&real, "right", b"x");
        env.store().put_upload(&liar, "wrong", b"x");
        let mount = env.mount(&[]);
        assert_eq!(mount.names(&real), ["right"]);
        assert_eq!(mount.names(&liar), ["wrong"], "and the other is reached by its own");
    });
}

#[test]
fn a_name_once_given_holds_when_the_container_before_it_goes() {
    on_both_profiles(|env| {
        let first = env.container("auto");
        env.container("auto");
        let mount = env.mount(&["--ttl", "100ms"]);
        let names = mount.names("");
        env.store().delete_container(&first);
        crate::env::wait_until("it goes", || mount.names("").len() == 1);
        assert_eq!(mount.names(""), names[1..]);
    });
}

#[test]
fn a_link_that_is_held_open_is_still_there_after_the_ttl() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let link = fs::OpenOptions::new().read(true).custom_flags(flags).open(mount.path(&id)).unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(link.metadata().unwrap().file_type().is_symlink());
    });
}
