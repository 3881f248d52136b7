//! What POSIX says of files and directories, by pjdfstest and in the places that it does not reach.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::env::{errno, on_both_profiles, on_openai, tool, wait_until};

/// The kernel empties a file that is opened with `O_RDONLY|O_TRUNC`, which POSIX leaves undefined, before it
/// asks whether the file is being executed: whether the test's process survives is chance.
const BY_CHANCE: &[&str] = &["open::etxtbsy"];

/// With `--write-back` `close` succeeds before the service has refused the size.
const TOLD_BY_CLOSE_ALONE: &str = "    \"open::interact_2gb\",\n";

fn is_not_root() -> bool {
    let other = !nix::unistd::geteuid().is_root();
    if other {
        assert!(std::env::var_os("CI").is_none(), "only root can become others");
        eprintln!("\n*** SKIPPED: only root can become others ***\n");
    }
    other
}

#[test]
fn pjdfstest_finds_nothing_amiss() {
    let Some(pjdfstest) = tool("pjdfstest") else { return };
    if is_not_root() {
        return;
    }
    let settings = include_str!("pjdfstest.toml");
    on_openai(|env| {
        env.container("c");
        let elsewhere = env.dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        // Other users must get there.
        fs::set_permissions(env.dir.path(), Permissions::from_mode(0o755)).unwrap();
        for write_back in [false, true] {
            let config = env.dir.path().join("pjdfstest.toml");
            let mut settings = settings.to_owned();
            let mut flags = vec!["--allow-other"];
            if write_back {
                flags.push("--write-back");
                settings = settings.replacen(TOLD_BY_CLOSE_ALONE, "", 1);
            }
            fs::write(&config, settings).unwrap();
            let mount = env.mount(&flags);
            let run = Command::new(&pjdfstest)
                .arg("-c")
                .arg(&config)
                .arg("-s")
                .arg(&elsewhere)
                .arg("-p")
                .arg(mount.path("c"))
                .env("NO_COLOR", "1")
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&run.stdout);
            let amiss = told.lines().filter(|line| {
                (line.ends_with("FAILED") || line.ends_with("PASSED UNEXPECTEDLY"))
                    && !BY_CHANCE.iter().any(|name| line.starts_with(name))
            });
            assert_eq!(amiss.collect::<Vec<_>>(), Vec::<&str>::new(), "{flags:?}: {told}");
            let passed = told.lines().filter(|line| line.ends_with(" ok")).count();
            assert!(passed >= 155, "{passed} passed, {flags:?}: {told}");
            drop(mount);
        }
    });
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn set_times(path: &Path, accessed: u64, modified: u64) {
    let times = FileTimes::new().set_accessed(time(accessed)).set_modified(time(modified));
    File::open(path).unwrap().set_times(times).unwrap();
}

/// Access time, modification time, mode, owner.
fn told(path: &Path) -> (i64, i64, u32, u32) {
    let stat = fs::metadata(path).unwrap();
    (stat.atime(), stat.mtime(), stat.mode() & 0o7777, stat.uid())
}

#[test]
fn what_is_set_on_directories_is_kept_through_renames_and_remounts() {
    on_both_profiles(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let uid = nix::unistd::geteuid().as_raw();
        fs::DirBuilder::new().mode(0o710).create(mount.path("c/made")).unwrap();
        fs::DirBuilder::new().mode(0o700).create(mount.path("c/made/below")).unwrap();
        assert_eq!(told(&mount.path("c/made")).2, 0o710);
        fs::set_permissions(mount.path("c/made/below"), Permissions::from_mode(0o1751)).unwrap();
        for (number, directory) in ["c/made/below", "c/made", "c"].into_iter().enumerate() {
            let seconds = 1000 * (number as u64 + 1);
            set_times(&mount.path(directory), seconds, seconds + 1);
        }
        fs::set_permissions(mount.path("c"), Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(mount.path(""), Permissions::from_mode(0o711)).unwrap();
        fs::rename(mount.path("c/made"), mount.path("c/moved")).unwrap();
        set_times(&mount.path("c"), 3000, 3001);
        let check = |mount: &crate::env::Mount| {
            assert_eq!(told(&mount.path("c/moved/below")), (1000, 1001, 0o1751, uid));
            assert_eq!(told(&mount.path("c/moved")), (2000, 2001, 0o710, uid));
            assert_eq!(told(&mount.path("c")), (3000, 3001, 0o750, uid));
            assert_eq!(told(&mount.path("")).2, 0o711);
        };
        check(&mount);
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        check(&mount);
        // Who comes later under the same name begins anew.
        fs::remove_dir_all(mount.path("c/moved")).unwrap();
        fs::create_dir(mount.path("c/moved")).unwrap();
        let usual = told(&mount.path("c/moved"));
        assert_eq!((usual.2, usual.1 > 3001), (0o777 & !umask(), true));
    });
}

fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(mask.trim(), 8).unwrap()
}

#[test]
fn a_directorys_times_tell_when_its_entries_changed() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--ttl", "1s"]);
        fs::create_dir(mount.path("c/d")).unwrap();
        fs::write(mount.path("c/d/f"), "f").unwrap();
        let changes: &[(&str, &dyn Fn())] = &[
            ("create", &|| fs::write(mount.path("c/d/g"), "g").unwrap()),
            ("unlink", &|| fs::remove_file(mount.path("c/d/g")).unwrap()),
            ("mkdir", &|| fs::create_dir(mount.path("c/d/e")).unwrap()),
            ("rmdir", &|| fs::remove_dir(mount.path("c/d/e")).unwrap()),
            ("rename", &|| fs::rename(mount.path("c/d/f"), mount.path("c/d/h")).unwrap()),
        ];
        for (what, change) in changes {
            set_times(&mount.path("c/d"), 1000, 1000);
            change();
            let stat = fs::metadata(mount.path("c/d")).unwrap();
            assert!(stat.mtime() > 1000 && stat.ctime() >= stat.mtime(), "{what}: {stat:?}");
        }
        // Writing to a file changes nothing of its directory.
        set_times(&mount.path("c/d"), 1000, 1000);
        fs::write(mount.path("c/d/h"), "longer").unwrap();
        assert_eq!(fs::metadata(mount.path("c/d")).unwrap().mtime(), 1000);
        // What somebody else makes is a change; it is kept by the next mount.
        set_times(&mount.path("c"), 1000, 1000);
        env.store().put_model_file(&id, "/mnt/data/theirs", b"x");
        let changed = || fs::metadata(mount.path("c")).unwrap().mtime();
        wait_until("the file is seen", || mount.path("c/theirs").exists());
        wait_until("the change is seen", || changed() > 1000);
        let changed = changed();
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        assert_eq!(fs::metadata(mount.path("c")).unwrap().mtime(), changed);
    });
}

#[test]
fn a_directory_has_a_link_for_each_directory_in_it() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let links = |path: &str| fs::metadata(mount.path(path)).unwrap().nlink();
        assert_eq!((links(""), links("c")), (3, 2));
        fs::create_dir_all(mount.path("c/a/b")).unwrap();
        fs::create_dir(mount.path("c/d")).unwrap();
        fs::write(mount.path("c/f"), "f").unwrap();
        assert_eq!((links("c"), links("c/a"), links("c/a/b")), (4, 3, 2));
        fs::rename(mount.path("c/a/b"), mount.path("c/d/b")).unwrap();
        assert_eq!((links("c/a"), links("c/d")), (2, 3));
        fs::remove_dir(mount.path("c/a")).unwrap();
        assert_eq!(links("c"), 3);
    });
}

#[test]
fn used_and_free_inodes_add_up() {
    on_openai(|env| {
        let id = env.container("c");
        for name in ["a", "b", "c"] {
            env.store().put_upload(&id, name, b"x");
        }
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c").len(), 3);
        let told = nix::sys::statvfs::statvfs(&mount.dir).unwrap();
        assert_eq!(told.files() - told.files_free(), 3);
        assert_eq!(told.files_available(), told.files_free());
    });
}

#[test]
fn an_access_time_that_was_set_is_kept() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let file = mount.path("c/f");
        fs::write(&file, "f").unwrap();
        set_times(&file, 1000, 2000);
        assert_eq!((told(&file).0, told(&file).1), (1000, 2000));
        assert_eq!(fs::read(&file).unwrap(), b"f");
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        assert_eq!((told(&mount.path("c/f")).0, told(&mount.path("c/f")).1), (1000, 2000));
    });
}

#[test]
fn a_name_that_is_too_long_is_enametoolong_whatever_is_done_with_it() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        fs::write(mount.path("c/f"), "f").unwrap();
        let (long, longest) = (mount.path("c").join("x".repeat(256)), mount.path("c").join("x".repeat(255)));
        let outcomes = [
            errno(fs::metadata(&long)),
            errno(fs::remove_file(&long)),
            errno(fs::remove_dir(&long)),
            errno(fs::create_dir(&long)),
            errno(fs::rename(&long, mount.path("c/g"))),
            errno(fs::rename(mount.path("c/f"), &long)),
            errno(fs::write(&long, "x")),
            errno(fs::metadata(long.join("below"))),
            errno(fs::metadata(mount.path("").join("x".repeat(256)))),
        ];
        assert_eq!(outcomes, [libc::ENAMETOOLONG; 9]);
        assert_eq!(errno(fs::metadata(&longest)), libc::ENOENT);
        fs::write(&longest, "x").unwrap();
        assert_eq!(fs::read(&longest).unwrap(), b"x");
    });
}

#[test]
fn what_another_user_makes_is_theirs_unless_uid_says_otherwise() {
    if is_not_root() {
        return;
    }
    on_openai(|env| {
        env.container("c");
        fs::set_permissions(env.dir.path(), Permissions::from_mode(0o755)).unwrap();
        let owners = |mount: &crate::env::Mount, names: &[&str]| {
            names.iter().map(|name| fs::metadata(mount.path(name)).unwrap().uid()).collect::<Vec<_>>()
        };
        for (flags, owner) in [(&["--allow-other"][..], 1), (&["--allow-other", "--uid", "7"], 7)] {
            let mount = env.mount(flags);
            fs::set_permissions(mount.path("c"), Permissions::from_mode(0o777)).unwrap();
            let other = Command::new("setpriv")
                .args(["--reuid=1", "--regid=1", "--clear-groups", "sh", "-ec"])
                .arg("umask 022; mkdir d; echo f > d/f 2>/dev/null || : > g; chmod 600 d/f 2>/dev/null || :")
                .current_dir(mount.path("c"))
                .status()
                .unwrap();
            assert!(other.success());
            if owner == 1 {
                assert_eq!(owners(&mount, &["c/d", "c/d/f"]), [1, 1]);
                assert_eq!(told(&mount.path("c/d/f")).2, 0o600);
                chown(mount.path("c/d"), Some(2), Some(2)).unwrap();
                assert_eq!(owners(&mount, &["c/d"]), [2]);
            } else {
                // The directory belongs to 7, in whose place user 1 cannot write.
                assert_eq!(owners(&mount, &["c/d", "c/g"]), [7, 7]);
            }
            assert_eq!(mount.unmount(env), (0, 0));
            let mount = env.mount(flags);
            assert_eq!(owners(&mount, &["c/d"]), [if owner == 1 { 2 } else { 7 }]);
            fs::remove_dir_all(mount.path("c/d")).unwrap();
        }
    });
}
