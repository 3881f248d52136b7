//! What editors and other tools write beside a file never reaches the server, and a save is one POST.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use containerfs::emulator::Kind::{DeleteFile, Upload};

use crate::env::{Env, Mount, errno, on_both_profiles, on_openai, program_is_missing, wait_until};

/// Everything that was ever uploaded, by the last component of its name as it was sent.
fn uploads(env: &Env) -> usize {
    env.count(Upload)
}

fn alone(env: &Env, id: &str, name: &str, bytes: &[u8]) {
    assert_eq!(env.bytes_on_server(id, name), bytes);
    assert_eq!(env.store().files(id).len(), 1, "{:?}", env.store().files(id));
}

#[test]
fn scratch_files_stay_here() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--scratch", "*.part"]);
        env.emulator.forget_requests();
        mount.sh("c", "for f in .a.swp a~ '#a#' .goutputstream-XYZ .DS_Store big.part; do echo x > $f; done");
        assert_eq!(mount.sh("c", "cat a~ .a.swp"), "x\nx\n");
        mount.sh("c", "ln -s me@here .#a && readlink .#a && rm .#a");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(uploads(env), 0);
        let mount = env.mount(&["--scratch", "*.part"]);
        assert_eq!(mount.sh("c", "cat a~"), "x\n", "they outlive the mount");
        mount.sh("c", "rm a~ .a.swp '#a#' .goutputstream-XYZ .DS_Store big.part");
        assert_eq!(mount.unmount(env), (0, 0));
        assert!(env.store().files(&id).is_empty());
        assert_eq!(env.changes(), []);
    });
}

#[test]
fn a_servers_file_with_a_scratch_name_is_an_ordinary_file() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_model_file(&id, "/mnt/data/notes~", b"the model's");
        let mount = env.mount(&[]);
        assert_eq!(fs::read(mount.path("c/notes~")).unwrap(), b"the model's");
        fs::remove_file(mount.path("c/notes~")).unwrap();
        assert!(env.store().files(&id).is_empty());
    });
}

#[test]
fn a_scratch_file_that_is_renamed_to_a_real_name_is_sent_at_once() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&[]);
        for (temporary, text) in
            [(".goutputstream-A1B2C3", "gedit"), ("sedAbCdEf", "sed"), (".f.Xy12Zz", "rsync")]
        {
            env.emulator.forget_requests();
            mount.sh("c", &format!("echo {text} > {temporary} && mv {temporary} f"));
            assert_eq!(uploads(env), 1, "{temporary}");
            assert!(env.count(DeleteFile) <= 1, "{temporary}");
            alone(env, &id, "f", format!("{text}\n").as_bytes());
            assert_eq!(mount.names("c"), ["f"]);
        }
    });
}

#[test]
fn a_file_moved_aside_is_replaced_by_its_successor() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        for flags in [&[][..], &["--write-back", "--write-back-delay", "300ms"][..]] {
            let mount = env.mount(flags);
            let before = fs::read(mount.path("c/f")).unwrap();
            env.emulator.forget_requests();
            mount.sh("c", "mv f f~ && echo new$(date +%N) > f && cat f~ && rm f~");
            assert_eq!(mount.names("c"), ["f"]);
            assert_ne!(fs::read(mount.path("c/f")).unwrap(), before);
            let expected = fs::read(mount.path("c/f")).unwrap();
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(uploads(env), 1);
            assert!(env.count(DeleteFile) <= 1);
            alone(env, &id, "f", &expected);
        }
    });
}

#[test]
fn a_file_moved_aside_and_back_costs_nothing() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"same");
        let mount = env.mount(&["--ttl", "100ms"]);
        env.emulator.forget_requests();
        mount.sh("c", "mv f f~ && sleep 0.3 && ls && cat f~ && mv f~ f && cat f");
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.changes(), []);
        alone(env, &id, "f", b"same");
    });
}

#[test]
fn a_file_moved_aside_goes_when_its_scratch_file_goes() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&[]);
        mount.sh("c", "mv f f~");
        assert_eq!(mount.names("c"), ["f~"]);
        assert_eq!(env.store().files(&id).len(), 1, "the server keeps it until then");
        mount.sh("c", "rm f~");
        assert!(env.store().files(&id).is_empty());
        assert_eq!(env.count(Upload), 0);
    });
}

#[test]
fn a_crash_gives_a_file_moved_aside_its_name_back() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mut mount = env.mount(&[]);
        mount.sh("c", "mv f f~");
        mount.kill();
        drop(mount);
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"old");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn an_unmount_soon_after_a_file_was_moved_aside_leaves_it_there() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        env.store().put_upload(&id, "g", b"old");
        let mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        mount.sh("c", "mv f f~ && echo saved > g && mv g g~");
        assert_eq!(mount.unmount(env), (0, 0));
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["f~", "g~"]);
        assert_eq!(mount.sh("c", "cat f~ g~"), "oldsaved\n");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 2);
    });
}

#[test]
fn a_file_moved_aside_for_good_stays_so_after_a_crash_and_a_remount() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        env.store().put_upload(&id, "g", b"another");
        let mut mount = env.mount(&[]);
        mount.sh("c", "mv f f~ && mv g g~ && echo more >> g~");
        std::thread::sleep(std::time::Duration::from_secs(11));
        mount.kill();
        drop(mount);
        for _ in 0..2 {
            let mount = env.mount(&[]);
            assert_eq!(mount.names("c"), ["f~", "g~"]);
            assert_eq!(mount.sh("c", "cat f~ g~"), "oldanothermore\n");
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(env.store().files(&id).len(), 2, "the server keeps them until the scratch files go");
        }
        let mount = env.mount(&[]);
        mount.sh("c", "rm f~ && echo new > g && rm g~");
        assert_eq!(mount.names("c"), ["g"]);
        assert_eq!(mount.unmount(env), (0, 0));
        alone(env, &id, "g", b"new\n");
    });
}

#[test]
fn what_was_saved_and_then_moved_aside_survives_a_crash() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        mount.sh("c", "echo saved > f && mv f f~");
        mount.kill();
        drop(mount);
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["f"]);
        assert_eq!(mount.sh("c", "cat f"), "saved\n");
        assert_eq!(mount.unmount(env), (0, 0));
        alone(env, &id, "f", b"saved\n");
    });
}

#[test]
fn a_file_that_was_moved_aside_before_its_close_has_its_name_back_after_a_crash() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "saved", b"old");
        env.store().put_upload(&id, "opened", b"same");
        let mut mount = env.mount(&["--write-back", "--write-back-delay", "1h"]);
        let path = |name: &str| mount.path("c").join(name);
        let mut saved = File::create(path("saved")).unwrap();
        saved.write_all(b"new").unwrap();
        saved.sync_all().unwrap();
        let opened = OpenOptions::new().write(true).open(path("opened")).unwrap();
        for name in ["saved", "opened"] {
            fs::rename(path(name), path(&format!("{name}~"))).unwrap();
        }
        drop((saved, opened));
        mount.kill();
        drop(mount);
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["opened", "saved"]);
        assert_eq!(mount.sh("c", "cat opened saved"), "samenew");
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "saved"), b"new");
        assert_eq!(env.store().files(&id).len(), 2);
    });
}

#[test]
fn a_file_written_while_it_is_aside_comes_back_as_it_is() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        mount.sh("c", "mv f f~ && echo more >> f~ && mv f~ g~ && cat g~");
        assert_eq!(env.changes(), []);
        mount.sh("c", "mv g~ f");
        assert_eq!(env.changes(), [Upload, DeleteFile]);
        alone(env, &id, "f", b"oldmore\n");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn a_file_moved_to_a_deferred_name_is_renamed_when_it_stays() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"old");
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        mount.sh("c", "mv f sediments && mv sediments f && mv f sediments && cat sediments");
        assert_eq!(env.changes(), []);
        wait_until("its time has come", || env.count(DeleteFile) == 1);
        assert_eq!(env.changes(), [Upload, DeleteFile]);
        assert_eq!(mount.names("c"), ["sediments"]);
        alone(env, &id, "sediments", b"old");
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn a_link_is_renamed_to_scratch_names_only() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "ln -s x .#a && echo y > .#b && mv .#a .#b && readlink .#b && ls -A");
        assert_eq!(mount.names("c"), [".#b"]);
        assert_eq!(errno(fs::rename(mount.path("c/.#b"), mount.path("c/real"))), libc::EPERM);
        mount.sh("c", "rm .#b");
        assert_eq!(mount.unmount(env), (0, 0));
        assert!(env.store().files(&id).is_empty());
    });
}

#[test]
fn a_deferred_name_that_stays_is_sent_at_the_end() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        mount.sh("c", "echo x > sediments && echo y > 4913 && rm 4913");
        assert_eq!(uploads(env), 0);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(uploads(env), 1);
        alone(env, &id, "sediments", b"x\n");
    });
}

#[test]
fn a_deferred_name_that_is_written_again_is_sent_after_its_last_close() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&[]);
        mount.sh("c", "touch sedsayona; echo > sedsayonb");
        let mut file = OpenOptions::new().append(true).open(mount.path("c/sedsayona")).unwrap();
        file.write_all(b"half ").unwrap();
        wait_until("their time has come", || !env.versions(&id, "sedsayonb").is_empty());
        file.write_all(b"and half").unwrap();
        drop(file);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(uploads(env), 2);
        assert_eq!(env.bytes_on_server(&id, "sedsayona"), b"half and half");
    });
}

#[test]
fn symbolic_links_are_for_scratch_names_only() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        assert_eq!(errno(std::os::unix::fs::symlink("x", mount.path("c/link"))), libc::EPERM);
        std::os::unix::fs::symlink("x", mount.path("c/.#link")).unwrap();
        assert_eq!(fs::read_link(mount.path("c/.#link")).unwrap().to_str(), Some("x"));
    });
}

/// Drives an editor in a terminal. Each line is what `tmux send-keys` types.
fn in_a_terminal(mount: &Mount, command: &str, keys: &[&[&str]]) {
    let session = format!("containerfs-{}-{}", std::process::id(), mount.pid());
    let tmux = |args: &[&str]| {
        let output = std::process::Command::new("tmux").args(["-L", &session]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let directory = mount.path("c");
    let size = ["-x", "80", "-y", "24"];
    let environment = format!("HOME={} TERM=screen {command}", mount.dir.parent().unwrap().display());
    let new = ["new-session", "-d", "-s", "editor", "-c", directory.to_str().unwrap()];
    tmux(&[&new[..], &size, &[&environment]].concat());
    wait_until("the editor shows the file", || {
        tmux(&["capture-pane", "-p", "-t", "editor"]).contains("old line")
    });
    for typed in keys {
        tmux(&[&["send-keys", "-t", "editor"], *typed].concat());
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    wait_until("the editor ends", || !tmux(&["list-sessions"]).contains("editor"));
}

/// Runs something while the server is watched: it has a whole version of `name` at any moment, and nothing
/// else.
fn watched(env: &Env, id: &str, name: &str, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Acquire) || looks == 0 {
                let files = env.store().files(id);
                assert!(!files.is_empty(), "there is no version");
                for file in files {
                    assert!(file.path.ends_with(name), "{} reached the server", file.path);
                    let bytes = env.store().content(id, &file.id);
                    assert!(bytes.is_none_or(|bytes| bytes.ends_with(b"line\n")), "a version is not whole");
                }
                looks += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Release);
        watcher.join().unwrap();
        outcome.unwrap();
    });
}

fn a_save_is_one_post(env: &Env, program: &str, command: &str, keys: &[&[&str]]) {
    if program_is_missing("tmux") || program_is_missing(program) {
        return;
    }
    let id = env.container("c");
    env.store().put_upload(&id, "f.txt", b"old line\n");
    let mount = env.mount(&[]);
    env.emulator.forget_requests();
    watched(env, &id, "f.txt", || {
        in_a_terminal(&mount, command, keys);
        wait_until("the save arrives", || uploads(env) > 0);
        assert_eq!(mount.unmount(env), (0, 0));
    });
    assert_eq!(uploads(env), 1, "{command}: {:?}", env.changes());
    assert!(env.count(DeleteFile) <= 1, "{command}: {:?}", env.changes());
    let bytes = env.bytes_on_server(&id, "f.txt");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("new") && text.contains("old line"), "{command}: {text}");
    assert_eq!(env.store().files(&id).len(), 1, "{command}: {:?}", env.store().files(&id));
}

#[test]
fn a_save_with_vim_is_one_post() {
    let keys: &[&[&str]] = &[&["O", "new", "Escape"], &[":wq", "Enter"]];
    on_both_profiles(|env| a_save_is_one_post(env, "vim", "vim -u NONE f.txt", keys));
    on_openai(|env| {
        a_save_is_one_post(env, "vim", "vim -u NONE --cmd 'set backup backupcopy=no' f.txt", keys);
    });
    on_openai(|env| {
        a_save_is_one_post(env, "vim", "vim -u NONE --cmd 'set writebackup backupcopy=no' f.txt", keys);
    });
}

#[test]
fn a_save_with_nano_is_one_post() {
    let keys: &[&[&str]] = &[&["new "], &["C-o"], &["Enter"], &["C-x"]];
    on_both_profiles(|env| a_save_is_one_post(env, "nano", "nano f.txt", keys));
}

#[test]
fn a_save_with_emacs_is_one_post() {
    let keys: &[&[&str]] = &[&["new "], &["C-x", "C-s"], &["C-x", "C-c"]];
    on_both_profiles(|env| a_save_is_one_post(env, "emacs", "emacs -nw -Q f.txt", keys));
}

#[test]
fn a_save_with_sed_is_one_post() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.txt", b"old line\n");
        let mount = env.mount(&[]);
        env.emulator.forget_requests();
        watched(env, &id, "f.txt", || {
            mount.sh("c", "sed -i s/old/new/ f.txt");
            assert_eq!(mount.unmount(env), (0, 0));
        });
        assert_eq!(uploads(env), 1);
        alone(env, &id, "f.txt", b"new line\n");
    });
}

/// What gedit does (GIO's `g_file_replace_contents`): a temporary file beside the document, synced, with its
/// mode, and renamed over it; with a backup copy, the document is moved aside first.
const GEDIT: &str = "
import os, sys
path, backup = sys.argv[1], sys.argv[2] == 'backup'
text = open(path).read()
temporary = '.goutputstream-K3YX91'
fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
os.fchmod(fd, os.stat(path).st_mode)
os.write(fd, ('new ' + text).encode())
os.fsync(fd)
os.close(fd)
if backup:
    if os.path.exists(path + '~'):
        os.unlink(path + '~')
    os.rename(path, path + '~')
os.rename(temporary, path)
";

#[test]
fn a_save_with_gedits_temporary_file_is_one_post() {
    if program_is_missing("python3") {
        return;
    }
    on_both_profiles(|env| {
        for backup in ["plain", "backup"] {
            let id = env.container(backup);
            env.store().put_upload(&id, "f.txt", b"old line\n");
            let mount = env.mount(&[]);
            env.emulator.forget_requests();
            watched(env, &id, "f.txt", || {
                let script = env.dir.path().join("gedit.py");
                fs::write(&script, GEDIT).unwrap();
                mount.sh(backup, &format!("python3 {} f.txt {backup}", script.display()));
                assert_eq!(env.changes(), [Upload, DeleteFile]);
                assert_eq!(mount.unmount(env), (0, 0));
            });
            assert_eq!(env.changes(), [Upload, DeleteFile]);
            alone(env, &id, "f.txt", b"new old line\n");
        }
    });
}

/// What LibreOffice does: a lock file, a temporary file that is made empty, closed, opened again, filled and
/// synced, and a rename over the document; or, where it may not rename, a copy and an unlink. At the end the
/// lock goes.
const LIBREOFFICE: &str = "
import os, sys
path, how = sys.argv[1:]
lock, temporary = f'.~lock.{path}#', 'lu41832k5x3a.tmp'
fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
os.write(fd, b',me,here,01.01.2026 12:00,file:///home/me/.config/libreoffice/4;')
os.close(fd)
text = open(path, 'rb').read()
os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
fd = os.open(temporary, os.O_RDWR)
os.write(fd, b'new ' + text[:4])
os.fsync(fd)
os.write(fd, text[4:])
os.ftruncate(fd, 4 + len(text))
os.fsync(fd)
os.close(fd)
os.chmod(temporary, os.stat(path).st_mode)
if how == 'rename':
    os.rename(temporary, path)
else:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, open(temporary, 'rb').read())
    os.fsync(fd)
    os.close(fd)
    os.unlink(temporary)
os.unlink(lock)
";

#[test]
fn a_save_with_libreoffices_temporary_file_is_one_post() {
    if program_is_missing("python3") {
        return;
    }
    on_both_profiles(|env| {
        for how in ["rename", "copy"] {
            let id = env.container(how);
            env.store().put_upload(&id, "f.odt", b"old line\n");
            let mount = env.mount(&[]);
            env.emulator.forget_requests();
            watched(env, &id, "f.odt", || {
                let script = env.dir.path().join("libreoffice.py");
                fs::write(&script, LIBREOFFICE).unwrap();
                mount.sh(how, &format!("python3 {} f.odt {how}", script.display()));
                assert_eq!(env.changes(), [Upload, DeleteFile]);
                assert_eq!(mount.unmount(env), (0, 0));
            });
            assert_eq!(env.changes(), [Upload, DeleteFile]);
            alone(env, &id, "f.odt", b"new old line\n");
        }
    });
}

#[test]
fn a_save_with_a_temporary_file_of_unknown_name_ends_with_one_version() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f.odt", b"old line\n");
        for flags in [&[][..], &["--write-back", "--write-back-delay", "300ms"][..]] {
            let mount = env.mount(flags);
            env.emulator.forget_requests();
            mount.sh(
                "c",
                "echo me > .~lock.f.odt# && cp f.odt f.new && echo more >> f.new && mv f.new f.odt \
                 && rm .~lock.f.odt#",
            );
            assert_eq!(mount.unmount(env), (0, 0));
            assert_eq!(mount_names(env, &id), ["f.odt"]);
            if !flags.is_empty() {
                assert_eq!(env.changes(), [Upload, DeleteFile]);
            }
        }
        alone(env, &id, "f.odt", b"old line\nmore\nmore\n");
    });
}

#[test]
fn scratch_files_whose_container_is_gone_or_elsewhere_stay_and_end_no_mount_with_a_failure() {
    on_openai(|env| {
        let id = env.container("c");
        env.container("other");
        let pending = |args: &[&str]| {
            let output = env.command(&[&["pending"], args].concat()).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let listed = || {
            let told = pending(&["list"]).1;
            told.matches("stays on this machine").count()
        };
        let mut mount = env.mount(&[]);
        mount.sh("c", "echo backup > a~");
        let swap = fs::File::create(mount.path("c/.a.swp")).unwrap();
        std::io::Write::write_all(&mut &swap, b"never closed").unwrap();
        mount.kill();
        drop((swap, mount));
        for flags in [&["--container", "other"][..], &[]] {
            let mount = env.mount(flags);
            assert_eq!(listed(), 2);
            assert_eq!(mount.unmount(env), (0, 0), "they are never sent");
            assert_eq!(listed(), 2);
        }
        env.store().expire_container(&id);
        for _ in 0..2 {
            let mount = env.mount(&[]);
            assert_eq!(listed(), 2);
            assert_eq!(mount.unmount(env), (0, 0), "they are never sent");
        }
        let saved = env.dir.path().join("saved");
        assert_eq!(pending(&["save", saved.to_str().unwrap()]).0, Some(0));
        assert_eq!(fs::read(saved.join(&id).join("a~")).unwrap(), b"backup\n");
        let mount = env.mount(&[]);
        let items: serde_json::Value = serde_json::from_str(&pending(&["list", "--json"]).1).unwrap();
        for item in items.as_array().unwrap() {
            assert_eq!(pending(&["discard", item["id"].as_str().unwrap()]).0, Some(0));
        }
        assert_eq!(listed(), 0);
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

/// The names of a container as a fresh mount shows them.
fn mount_names(env: &Env, id: &str) -> Vec<String> {
    let mount = env.mount(&["--container", id]);
    mount.names("")
}
