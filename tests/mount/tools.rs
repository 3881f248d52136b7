//! Real tools, which know what a filesystem has to do.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use containerfs::emulator::Kind::Upload;

use crate::env::{
    Env, Mount, errno, is_missing, noise, on_both_profiles, on_openai, program_is_missing, save, wait_until,
};

pub(crate) const WRITE_BACK: &[&str] = &["--write-back", "--write-back-delay", "200ms"];

/// A remount with a cold cache.
pub(crate) fn again(env: &Env, mount: Mount, flags: &[&str]) -> Mount {
    assert_eq!(mount.unmount(env), (0, 0));
    let _ = fs::remove_dir_all(env.dir.path().join("cache"));
    env.mount(flags)
}

#[test]
fn git_works_and_its_repository_is_sound_after_a_remount() {
    if program_is_missing("git") {
        return;
    }
    on_openai(|env| {
        env.container("c");
        for flags in [&[], WRITE_BACK] {
            let mount = env.mount(flags);
            mount.sh(
                "c",
                "mkdir repo && cd repo && git init -q . && git config user.email a@b.c && git config user.name a \
                 && mkdir -p src/deep && for i in $(seq 120); do echo \"line $i\" > src/f$i; done \
                 && echo x > src/deep/g && git add . && git commit -qm one \
                 && echo more >> src/f1 && rm src/f2 && git mv src/f3 src/f4.moved && git commit -qam two",
            );
            let log = mount.sh("c/repo", "git log --oneline | wc -l && git status --porcelain | wc -l");
            assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["2", "0"]);
            mount.sh("c/repo", "git gc -q && git fsck --strict 2>&1");
            let mount = again(env, mount, flags);
            let log = mount.sh(
                "c/repo",
                "git fsck --strict 2>&1 && git log --oneline | wc -l && git status --porcelain | wc -l",
            );
            assert!(log.ends_with("2\n0\n"), "{log}");
            mount.sh("c", "rm -rf repo && test ! -e repo");
            assert_eq!(mount.unmount(env), (0, 0));
        }
    });
}

#[test]
fn rsync_transfers_nothing_the_second_time() {
    if program_is_missing("rsync") {
        return;
    }
    on_both_profiles(|env| {
        let id = env.container("c");
        let from = env.dir.path().join("from");
        fs::create_dir_all(from.join("deep/er")).unwrap();
        for (number, directory) in ["", "deep", "deep/er"].iter().cycle().take(30).enumerate() {
            fs::write(from.join(directory).join(format!("f{number}")), noise(number * 700)).unwrap();
        }
        let sync = |mount: &Mount| {
            let command = format!("rsync -a --stats {}/ {}/", from.display(), mount.path("c/to").display());
            let stats = mount.sh("c", &command);
            let line = stats.lines().find(|line| line.contains("regular files transferred")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
        };
        let mount = env.mount(&[]);
        assert_eq!(sync(&mount), 30);
        assert_eq!(sync(&mount), 0);
        let mount = again(env, mount, &[]);
        assert_eq!(sync(&mount), 0, "after a remount");
        mount.sh("c", &format!("diff -r {} to", from.display()));
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 30);
    });
}

#[test]
fn sqlite_keeps_its_integrity() {
    if program_is_missing("sqlite3") {
        return;
    }
    on_openai(|env| {
        let id = env.container("c");
        for flags in [&[], WRITE_BACK] {
            let mount = env.mount(flags);
            mount.sh(
                "c",
                "sqlite3 base.db 'create table t(a integer primary key, b text); begin; \
                 with recursive n(i) as (select 1 union all select i+1 from n where i<2000) \
                 insert into t select i, hex(randomblob(20)) from n; commit; \
                 delete from t where a % 3 = 0; create index i on t(b);'",
            );
            let mount = again(env, mount, flags);
            let told = mount.sh("c", "sqlite3 base.db 'pragma integrity_check; select count(*) from t'");
            assert_eq!(told, "ok\n1334\n");
            mount.sh("c", "rm base.db");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.store().files(&id), [], "no journal of sqlite is left");
        }
    });
}

#[test]
fn tar_goes_out_and_in() {
    on_both_profiles(|env| {
        env.container("c");
        let from = env.dir.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        for (number, name) in ["one", "a/two", "a/b/three", "a/b/empty"].iter().enumerate() {
            fs::write(from.join(name), noise(number * 40_000 % 120_000)).unwrap();
        }
        let mount = env.mount(&[]);
        mount.sh("c", &format!("tar -C {} -cf - . | tar -xf -", from.display()));
        let mount = again(env, mount, &[]);
        mount.sh("c", &format!("diff -r . {}", from.display()));
        mount.sh("c", "tar -cf all.tar one a && mkdir out && tar -C out -xf all.tar && diff -r a out/a");
        mount.sh(
            "c",
            &format!("cp -a {} copy && diff -r copy a/..  | grep -v '^Only in' | wc -l", from.display()),
        );
    });
}

#[test]
fn a_full_disk_is_enospc_and_loses_nothing() {
    on_a_small_disk("8m", |env, id, _| {
        let mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        let mut kept = Vec::new();
        let refused = loop {
            let name = format!("f{}", kept.len());
            match save(&mount.path("c").join(&name), &noise(1 << 20)) {
                Ok(()) => kept.push(name),
                Err(errno) => break errno,
            }
            assert!(kept.len() < 9, "8 MB took {} MB", kept.len());
        };
        assert_eq!(refused, nix::errno::Errno::ENOSPC);
        assert!(kept.len() > 3);
        for name in &kept {
            assert!(fs::read(mount.path("c").join(name)).unwrap() == noise(1 << 20), "{name}");
        }
        fs::remove_file(mount.path("c").join(format!("f{}", kept.len()))).ok();
        mount.unmount(env);
        for name in &kept {
            assert!(env.bytes_on_server(id, name) == noise(1 << 20), "{name}");
        }
    });
}

/// Runs a test with a state directory on a disk of its own, and a container.
fn on_a_small_disk(size: &str, test: impl Fn(&Env, &str, &Path)) {
    if is_missing("root, who alone can mount a small disk", !nix::unistd::geteuid().is_root()) {
        return;
    }
    on_openai(|env| {
        let (id, state) = (env.container("c"), env.dir.path().join("state"));
        let _disk = Tmpfs::mount(&state, size);
        test(env, &id, &state);
    });
}

/// A small disk; unmounted when it goes.
pub(crate) struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    pub(crate) fn mount(at: &'a Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status().unwrap();
        assert!(mounted.success());
        Self(at)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_save_under_a_full_disk_is_sent_once_there_is_room() {
    on_a_small_disk("4m", |env, id, state| {
        let mount = env.mount(&[]);
        let filler = state.join("filler");
        assert!(fs::write(&filler, noise(5 << 20)).is_err(), "it fills the disk");
        assert!(save(&mount.path("c/f"), &noise(100_000)).is_err());
        assert_eq!(env.count(Upload), 0);
        fs::remove_file(filler).unwrap();
        assert_eq!(save(&mount.path("c/f"), &noise(100_000)), Ok(()));
        assert!(env.bytes_on_server(id, "f") == noise(100_000));
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn what_a_full_disk_has_left_is_listed_by_the_mount_that_names_it() {
    on_a_small_disk("4m", |env, _, state| {
        let pending = || {
            let listed = env.command(&["pending", "list"]).output().unwrap();
            String::from_utf8(listed.stdout).unwrap()
        };
        let mount = env.mount(&[]);
        assert_eq!(save(&mount.path("c/f"), &noise(5 << 20)), Err(nix::errno::Errno::ENOSPC));
        assert!(pending().contains(" f "), "{}", pending());
        assert_eq!(mount.unmount(env), (3, 3));
        assert!(pending().contains("unfinished: never closed"), "{}", pending());
        let _ = fs::write(state.join("filler"), noise(5 << 20));
        let mount = env.mount(&[]);
        assert!(pending().contains(" f ") && pending().contains("unfinished"), "{}", pending());
        assert_eq!(mount.unmount(env), (3, 3));
    });
}

#[test]
fn a_full_disk_empties_no_file_and_makes_none() {
    on_a_small_disk("4m", |env, id, state| {
        env.store().put_upload(id, "f", b"precious");
        let mount = env.mount(&[]);
        let f = mount.path("c/f");
        assert_eq!(fs::read(&f).unwrap(), b"precious");
        let filler = state.join("filler");
        assert!(fs::write(&filler, noise(5 << 20)).is_err(), "it fills the disk");
        assert_eq!(errno(fs::File::create(&f)), libc::ENOSPC);
        assert_eq!(nix::unistd::truncate(&f, 0), Err(nix::errno::Errno::ENOSPC));
        assert_eq!(errno(fs::File::create(mount.path("c/g"))), libc::ENOSPC);
        assert_eq!(fs::read(&f).unwrap(), b"precious");
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(env.notes("data"), [""; 0], "nothing of it is left");
        fs::remove_file(filler).unwrap();
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(id, "f"), b"precious");
        assert_eq!(env.store().files(id).len(), 1);
    });
}

#[test]
fn a_disk_that_fills_while_a_save_travels_leaves_one_version_in_the_end() {
    on_a_small_disk("4m", |env, id, state| {
        env.store().put_upload(id, "f", b"old");
        let mount = env.mount(&["--write-back", "--write-back-delay", "10ms"]);
        assert_eq!(mount.names("c"), ["f"]);
        env.emulator.set_latency(Duration::from_secs(1));
        assert_eq!(save(&mount.path("c/f"), b"first"), Ok(()));
        wait_until("it travels", || env.count(Upload) == 1);
        assert_eq!(save(&mount.path("c/f"), b"second"), Ok(()));
        let filler = state.join("filler");
        assert!(fs::write(&filler, noise(5 << 20)).is_err(), "it fills the disk");
        wait_until("it has arrived", || mount.log().contains("could not be written"));
        assert_eq!(env.versions(id, "f").len(), 2, "what could not be noted is not deleted");
        fs::remove_file(filler).unwrap();
        env.emulator.set_latency(Duration::ZERO);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(id).len(), 1);
        assert_eq!(env.bytes_on_server(id, "f"), b"second");
    });
}
