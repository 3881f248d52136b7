//! One save is one POST; an overwrite is a POST and then a DELETE.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use containerfs::emulator::Kind::{Content, DeleteFile, Upload};
use containerfs::emulator::{Fault, FaultRule};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::env::{noise, on_both_profiles, on_openai, program_is_missing, save, sha256, wait_until};
use crate::tools::WRITE_BACK;

#[test]
fn a_new_file_is_one_post() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        let changes = env.changes_of(|| fs::write(mount.path("c/new.txt"), "hello").unwrap());
        assert_eq!(changes, [Upload]);
        assert_eq!(env.bytes_on_server(&id, "new.txt"), b"hello");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.changes(), [Upload], "nothing more at the end");
    });
}

#[test]
fn an_overwrite_is_one_post_and_one_delete() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.txt", b"old");
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/f.txt")).unwrap(), b"old");
        let changes = env.changes_of(|| fs::write(mount.path("c/f.txt"), "newer").unwrap());
        let replaced_by_the_server = env.emulator.requests().iter().all(|request| request.kind != DeleteFile);
        if replaced_by_the_server {
            assert_eq!(changes, [Upload], "a server that replaces by name");
        } else {
            assert_eq!(changes, [Upload, DeleteFile]);
        }
        assert_eq!(env.bytes_on_server(&id, "f.txt"), b"newer");
        assert_eq!(fs::read(mount.path("c/f.txt")).unwrap(), b"newer");
        assert_eq!(mount.names("c"), ["f.txt"]);
    });
}

#[test]
fn a_models_file_is_overwritten_too() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f.txt", b"the model's");
        let mount = env.mount(&[]);
        let changes = env.changes_of(|| fs::write(mount.path("c/f.txt"), "mine").unwrap());
        assert_eq!(changes, [Upload, DeleteFile]);
        assert_eq!(env.bytes_on_server(&id, "f.txt"), b"mine");
        assert_eq!(mount.names("c"), ["f.txt"]);
    });
}

#[test]
fn removing_is_one_delete() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.txt", b"x");
        let mount = env.mount(&[]);
        let changes = env.changes_of(|| fs::remove_file(mount.path("c/f.txt")).unwrap());
        assert_eq!(changes, [DeleteFile]);
        assert!(env.store().files(&id).is_empty());
        assert!(!mount.path("c/f.txt").exists());
    });
}

#[test]
fn the_same_bytes_again_are_not_sent() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.txt", b"same");
        let mount = env.mount(&[]);
        for _ in 0..2 {
            let changes = env.changes_of(|| fs::write(mount.path("c/f.txt"), "same").unwrap());
            assert_eq!(changes, []);
        }
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.changes(), []);
        assert_eq!(env.bytes_on_server(&id, "f.txt"), b"same");
    });
}

#[test]
fn two_writers_of_one_descriptor_are_one_post() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        for (script, expected) in [
            ("sh -c '{ echo a; /bin/echo b; } > f'", "a\nb\n"),
            ("sh -c 'exec 3>f; echo a >&3; echo b >&3; exec 3>&-'", "a\nb\n"),
            ("sh -c '(echo a; (echo b; echo c)) > f'", "a\nb\nc\n"),
        ] {
            let changes = env.changes_of(|| {
                mount.sh("c", script);
                wait_until("the upload arrives", || {
                    env.versions(&id, "f").len() == 1 && !env.changes().is_empty()
                });
            });
            assert_eq!(changes, [Upload], "{script}");
            assert_eq!(env.bytes_on_server(&id, "f"), expected.as_bytes(), "{script}");
            mount.sh("c", "rm f");
        }
    });
}

#[test]
fn a_child_that_outlives_its_parents_close_is_one_post() {
    if program_is_missing("python3") {
        return;
    }
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        let script = "python3 -c \"
import subprocess
with open('f', 'w') as f:
    p = subprocess.Popen(['sh', '-c', 'sleep 0.3; echo late'], stdout=f)
p.wait()\"";
        let changes = env.changes_of(|| {
            mount.sh("c", script);
            wait_until("the upload arrives", || !env.versions(&id, "f").is_empty());
        });
        assert_eq!(changes, [Upload]);
        assert_eq!(env.bytes_on_server(&id, "f"), b"late\n");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.changes(), [Upload]);
    });
}

#[test]
fn an_empty_file_arrives_after_its_last_close() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        mount.sh("c", "touch empty");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.changes(), [Upload]);
        assert_eq!(env.bytes_on_server(&id, "empty"), b"");
    });
}

#[test]
fn every_way_to_change_a_file_arrives() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "printf 0123456789 > f");
        let steps: [(&str, &[u8]); 6] = [
            ("printf AB | dd of=f bs=1 seek=3 conv=notrunc status=none", b"012AB56789"),
            ("truncate -s 4 f", b"012A"),
            ("truncate -s 6 f", b"012A\0\0"),
            ("printf xyz >> f", b"012A\0\0xyz"),
            ("printf short > f", b"short"),
            (": > f", b""),
        ];
        for (step, expected) in steps {
            mount.sh("c", step);
            wait_until(step, || env.only_version(&id, "f").as_deref() == Some(expected));
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), expected, "{step}");
        }
    });
}

#[test]
fn a_shared_writable_mapping_arrives() {
    if program_is_missing("python3") {
        return;
    }
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.bin", &noise(10_000));
        let mount = env.mount(&[]);
        let script = "python3 -c \"
import mmap
with open('f.bin', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    m[5000:5005] = b'HELLO'
    m.flush()
    m.close()\"";
        mount.sh("c", script);
        assert_eq!(mount.unmount(env), (0, 0));
        let mut expected = noise(10_000);
        expected[5000..5005].copy_from_slice(b"HELLO");
        assert_eq!(sha256(&env.bytes_on_server(&id, "f.bin")), sha256(&expected));
    });
}

#[test]
fn thirty_mebibytes_go_up_and_come_down() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let bytes = noise(30 << 20);
        let mount = env.mount(&[]);
        let local = env.dir.path().join("local.bin");
        fs::write(&local, &bytes).unwrap();
        let changes = env.changes_of(|| {
            fs::copy(&local, mount.path("c/big.bin")).unwrap();
        });
        assert_eq!(changes, [Upload]);
        assert_eq!(sha256(&env.bytes_on_server(&id, "big.bin")), sha256(&bytes));
        assert_eq!(mount.unmount(env), (0, 0));
        fs::remove_dir_all(env.dir.path().join("cache")).unwrap();
        let mount = env.mount(&[]);
        assert_eq!(sha256(&fs::read(mount.path("c/big.bin")).unwrap()), sha256(&bytes));
    });
}

#[test]
fn times_and_modes_follow_a_file_through_saves_renames_and_remounts() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let local = env.dir.path().join("local");
        fs::write(&local, "x").unwrap();
        mount.sh(
            "",
            &format!("touch -d '2020-02-02 02:02:02' {0}; chmod 640 {0}; cp -p {0} c/f", local.display()),
        );
        let expected = fs::metadata(&local).unwrap();
        let check = |path: &std::path::Path| {
            let found = fs::metadata(path).unwrap();
            assert_eq!((found.mtime(), found.mtime_nsec()), (expected.mtime(), expected.mtime_nsec()));
            assert_eq!(found.mode() & 0o777, 0o640);
        };
        check(&mount.path("c/f"));
        mount.sh("c", "mv f g");
        check(&mount.path("c/g"));
        let before = fs::metadata(mount.path("c/g")).unwrap();
        mount.unmount(env);
        let mount = env.mount(&[]);
        check(&mount.path("c/g"));
        assert_eq!(before.len(), fs::metadata(mount.path("c/g")).unwrap().len());
    });
}

#[test]
fn nothing_that_stat_shows_changes_when_an_upload_lands() {
    on_both_profiles(|env| {
        env.container("c");
        let mount = env.mount(&["--ttl", "100ms"]);
        let file = fs::File::create(mount.path("c/f")).unwrap();
        std::io::Write::write_all(&mut &file, b"bytes").unwrap();
        let shown = |m: fs::Metadata| (m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.mode());
        let before = shown(file.metadata().unwrap());
        drop(file);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(shown(fs::metadata(mount.path("c/f")).unwrap()), before);
    });
}

#[test]
fn what_was_uploaded_is_read_back_without_a_request() {
    on_both_profiles(|env| {
        env.container("c");
        let mount = env.mount(&["--ttl", "1h"]);
        fs::write(mount.path("c/f"), noise(100_000)).unwrap();
        mount.sh("", "echo 3 > /proc/sys/vm/drop_caches || true");
        env.emulator.forget_requests();
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), noise(100_000));
        assert!(env.emulator.requests().is_empty(), "{:?}", env.emulator.requests());
    });
}

#[test]
fn an_unlinked_open_file_is_read_to_its_end() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/f.bin", &noise(3 << 20));
        let mount = env.mount(&[]);
        let mut file = fs::File::open(mount.path("c/f.bin")).unwrap();
        fs::remove_file(mount.path("c/f.bin")).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        assert_eq!(sha256(&bytes), sha256(&noise(3 << 20)));
        drop(file);
        wait_until("the file is deleted", || env.store().files(&id).is_empty());
    });
}

#[test]
fn a_file_that_is_removed_while_it_is_open_is_never_sent() {
    on_both_profiles(|env| {
        env.container("c");
        for flags in [&[][..], WRITE_BACK] {
            let mount = env.mount(flags);
            env.emulator.forget_requests();
            let path = mount.path("c/t");
            let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            file.write_all(b"written, ").unwrap();
            fs::remove_file(&path).unwrap();
            file.write_all(b"and more").unwrap();
            file.sync_all().unwrap();
            let mut all = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut all).unwrap();
            assert_eq!(all, "written, and more");
            drop(file);
            assert!(mount.names("c").is_empty());
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.changes(), []);
        }
    });
}

#[test]
fn what_was_removed_or_replaced_while_it_was_open_does_not_come_back_after_a_crash() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        let saved_and_open = |name: &str| {
            let mut file = File::create(mount.path("c").join(name)).unwrap();
            file.write_all(b"promised").unwrap();
            file.sync_all().unwrap();
            file
        };
        let (removed, mut replaced) = (saved_and_open("removed"), saved_and_open("replaced"));
        fs::remove_file(mount.path("c/removed")).unwrap();
        save(&mount.path("c/new"), b"newer").unwrap();
        fs::rename(mount.path("c/new"), mount.path("c/replaced")).unwrap();
        replaced.write_all(b" to nobody").unwrap();
        mount.kill();
        drop((removed, replaced, mount));
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["replaced"]);
        assert_eq!(fs::read(mount.path("c/replaced")).unwrap(), b"newer");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "replaced"), b"newer");
        assert_eq!(env.store().files(&id).len(), 1);
    });
}

#[test]
fn fsync_uploads_and_the_close_after_it_sends_nothing() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        let mut file = fs::File::create(mount.path("c/f")).unwrap();
        std::io::Write::write_all(&mut file, b"bytes").unwrap();
        assert_eq!(env.changes_of(|| file.sync_all().unwrap()), [Upload]);
        assert_eq!(env.bytes_on_server(&id, "f"), b"bytes");
        assert_eq!(env.changes_of(|| drop(file)), []);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.changes(), []);
    });
}

#[test]
fn a_version_that_appeared_meanwhile_is_kept_beside_ours() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.txt", b"seen");
        let mount = env.mount(&["--ttl", "100ms"]);
        let mut file = fs::File::create(mount.path("c/f.txt")).unwrap();
        std::io::Write::write_all(&mut file, b"ours").unwrap();
        env.store().put_model_file(&id, "/mnt/data/f.txt", b"a stranger's");
        drop(file);
        wait_until("both are shown", || mount.names("c").len() == 2);
        let mut shown: Vec<Vec<u8>> =
            mount.names("c").iter().map(|name| fs::read(mount.path("c").join(name)).unwrap()).collect();
        shown.sort();
        assert_eq!(shown, [b"a stranger's".to_vec(), b"ours".to_vec()]);
        assert_eq!(fs::read(mount.path("c/f.txt")).unwrap(), b"ours");
        assert_eq!(env.store().files(&id).len(), 2, "only what the writer saw is deleted");
    });
}

#[test]
fn removing_what_is_gone_already_succeeds() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let file = env.store().put_upload(&id, "f", b"x");
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(mount.names("c"), ["f"]);
        env.store().delete_file(&id, &file);
        fs::remove_file(mount.path("c/f")).unwrap();
        assert!(mount.names("c").is_empty());
    });
}

#[test]
fn who_has_a_file_open_goes_on_reading_what_was_opened() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.bin", &noise(2 << 20));
        let mount = env.mount(&[]);
        let mut open = fs::File::open(mount.path("c/f.bin")).unwrap();
        mount.sh("c", "echo other > g && mv g f.bin");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut open, &mut bytes).unwrap();
        assert_eq!(sha256(&bytes), sha256(&noise(2 << 20)));
        drop(open);
        assert_eq!(fs::read(mount.path("c/f.bin")).unwrap(), b"other\n");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "f.bin"), b"other\n");
    });
}

#[test]
fn who_reads_while_a_file_is_emptied_reads_it_whole_or_empty() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&["--write-back", "--write-back-delay", "1h", "--ttl", "10ms"]);
        let path = mount.path("c/f");
        let wrote = AtomicBool::new(false);
        let is_over = Instant::now() + Duration::from_secs(6);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in (b'a'..=b'z').cycle().take_while(|_| Instant::now() < is_over) {
                    let by_open = n % 2 == 0;
                    let options = File::options().write(true).create(true).truncate(by_open).clone();
                    let mut file = options.open(&path).unwrap();
                    if !by_open {
                        file.set_len(0).unwrap();
                    }
                    file.write_all(&[n; 64]).unwrap();
                    wrote.store(true, Ordering::Relaxed);
                }
            });
            // Whose calls come between a read and its answer.
            scope.spawn(|| {
                while Instant::now() < is_over {
                    let _ = fs::metadata(&path);
                }
            });
            for _ in 0..4 {
                scope.spawn(|| {
                    while Instant::now() < is_over {
                        let Ok(file) = File::open(&path) else { continue };
                        // Not from the kernel's pages.
                        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
                        let mut bytes = [0xff; 100];
                        let len = file.read_at(&mut bytes, 0).unwrap();
                        assert!(matches!(len, 0 | 64), "{len} bytes");
                        assert!(!bytes[..len].contains(&0), "{:?}", &bytes[..len]);
                    }
                });
            }
        });
        assert!(wrote.into_inner());
        drop(mount);
    });
}

#[test]
fn a_reader_that_closes_amid_a_truncation_or_a_rename_takes_no_change_away() {
    on_both_profiles(|env| {
        let id = env.container("c");
        for (to_length, left) in [(Some(3), "byt"), (Some(8), "bytes\0\0\0"), (None, "bytes")] {
            for flags in [&[][..], WRITE_BACK] {
                env.store().put_upload(&id, "f", b"bytes");
                let mount = env.mount(flags);
                let path = mount.path("c/f");
                let reader = File::open(&path).unwrap();
                env.emulator.forget_requests();
                env.emulator.faults().inject(FaultRule::once(Content, Fault::Delay { millis: 500 }));
                thread::scope(|scope| {
                    let change = scope.spawn(|| match to_length {
                        Some(length) => nix::unistd::truncate(&path, length).unwrap(),
                        None => fs::rename(&path, mount.path("c/f~")).unwrap(),
                    });
                    wait_until("the bytes are asked for", || env.count(Content) == 1);
                    drop(reader);
                    change.join().unwrap();
                });
                let name = if to_length.is_some() { "f" } else { "f~" };
                assert_eq!(fs::read(mount.path("c").join(name)).unwrap(), left.as_bytes(), "{flags:?}");
                assert_eq!(mount.unmount(env), (0, 0));
                let mount = env.mount(&[]);
                assert_eq!(mount.names("c"), [name], "{flags:?}");
                assert_eq!(mount.sh("c", "cat f*; rm f*"), left, "{flags:?}");
                assert_eq!(mount.unmount(env), (0, 0));
                assert!(env.store().files(&id).is_empty());
            }
        }
    });
}
