//! What a system call returns when the server, or a flag, says no.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use containerfs::emulator::{Config, Fault, FaultRule, Kind, Profile};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::env::{
    Env, errno, failure, fuse_is_missing, lost_answer, noise, on_both_profiles, on_openai, save, wait_until,
};

#[test]
fn reading_tells_what_the_server_said() {
    let cases = [
        (401, libc::EACCES),
        (403, libc::EACCES),
        (400, libc::EINVAL),
        (408, libc::ETIMEDOUT),
        (429, libc::EBUSY),
        (500, libc::EIO),
        (503, libc::EIO),
    ];
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--ttl", "1h", "--timeout", "5s"]);
        assert_eq!(mount.names("c"), ["f"]);
        for (code, expected) in cases {
            env.status_fault(Kind::Content, code);
            assert_eq!(errno(fs::read(mount.path("c/f"))), expected, "{code}");
            env.emulator.faults().clear();
        }
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes", "and then it works again");
    });
}

#[test]
fn closing_tells_what_the_server_said() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--timeout", "3s"]);
        let cases = [
            (401, Errno::EACCES),
            (400, Errno::EINVAL),
            (413, Errno::EFBIG),
            (429, Errno::EBUSY),
            (500, Errno::EIO),
        ];
        for (code, expected) in cases {
            let name = format!("f{code}");
            env.status_fault(Kind::Upload, code);
            assert_eq!(save(&mount.path("c").join(&name), b"precious"), Err(expected), "{code}");
            env.emulator.faults().clear();
            assert_eq!(
                fs::read(mount.path("c").join(&name)).unwrap(),
                b"precious",
                "the bytes are still shown"
            );
        }
        assert_eq!(save(&mount.path("c/f500"), b"precious again"), Ok(()), "a later save is sent");
        assert_eq!(env.bytes_on_server(&id, "f500"), b"precious again");
    });
}

/// Each way in which a POST may have happened, once with nothing done and once carried out.
fn ways_to_lose_an_answer() -> Vec<(Fault, bool)> {
    let asks = [("x-should-retry".to_owned(), "true".to_owned())];
    let wait = [("retry-after-ms".to_owned(), "20".to_owned())];
    let statuses =
        [(408, &[][..]), (409, &[]), (500, &[]), (500, &asks), (503, &[]), (503, &wait), (400, &asks)];
    let mut ways = vec![(Fault::ResetBefore, false), (Fault::ResetAfter, true)];
    ways.push((Fault::CutBody { after: 10 }, true));
    for (code, headers) in statuses {
        let headers: BTreeMap<_, _> = headers.iter().cloned().collect();
        ways.push((Fault::Status { code, body: None, headers: headers.clone() }, false));
        ways.push((Fault::StatusAfter { code, headers }, true));
    }
    ways
}

#[test]
fn a_post_that_may_have_happened_is_looked_for_and_only_then_sent_again() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--timeout", "5s", "--ttl", "1h"]);
        assert!(mount.names("c").is_empty());
        for (at, (fault, is_done)) in ways_to_lose_an_answer().into_iter().enumerate() {
            let (name, moved, directory) = (format!("f{at}."), format!("m{at}."), format!("made{at}"));
            let posts = if is_done { 1 } else { 2 };
            let path = |name: &str| mount.path("c").join(name);
            env.emulator.faults().inject(FaultRule::once(Kind::Upload, fault.clone()));
            env.emulator.forget_requests();
            assert_eq!(save(&path(&name), name.as_bytes()), Ok(()), "{fault:?}");
            assert_eq!((env.count(Kind::Upload), env.count(Kind::ListFiles)), (posts, 1), "{fault:?}");
            assert_eq!(env.bytes_on_server(&id, &name), name.as_bytes(), "{fault:?}");

            env.emulator.faults().inject(FaultRule::once(Kind::Upload, fault.clone()));
            env.emulator.forget_requests();
            assert_eq!(fs::rename(path(&name), path(&moved)).ok(), Some(()), "{fault:?}");
            assert_eq!(env.count(Kind::Upload), posts, "{fault:?}");
            assert_eq!(env.bytes_on_server(&id, &moved), name.as_bytes(), "{fault:?}");

            env.emulator.faults().inject(FaultRule::once(Kind::CreateContainer, fault.clone()));
            env.emulator.forget_requests();
            assert_eq!(fs::create_dir(mount.path("").join(&directory)).ok(), Some(()), "{fault:?}");
            assert_eq!(env.count(Kind::CreateContainer), posts, "{fault:?}");
            let made = env.store().containers().iter().filter(|made| made.name == directory).count();
            assert_eq!(made, 1, "{fault:?}");
        }
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

#[test]
fn a_post_is_sent_twice_at_most_and_never_unlooked_for() {
    on_both_profiles(|env| {
        env.container("c");
        let mount = env.mount(&["--timeout", "3s", "--ttl", "1h"]);
        assert_eq!(save(&mount.path("c/there"), b"moves"), Ok(()));
        assert!(mount.names("").contains(&"c".to_owned()));
        let posts = [Kind::Upload, Kind::CreateContainer];
        let count = || posts.map(|kind| env.count(kind));
        let status = |code, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Fault::Status { code, body: None, headers: headers.collect() }
        };
        let fail = |directory: &str| {
            let saved = save(&mount.path("c/f"), b"x");
            let renamed = fs::rename(mount.path("c/there"), mount.path("c/moved"));
            let made = fs::create_dir(mount.path("").join(directory));
            (saved, errno(renamed), errno(made))
        };
        let eio = (Err(Errno::EIO), libc::EIO, libc::EIO);
        for (fault, sent) in [
            (status(500, &[]), 2),
            (status(500, &[("x-should-retry", "false")]), 1),
            (status(503, &[("retry-after", "60")]), 1),
        ] {
            posts.into_iter().for_each(|kind| env.inject(kind, fault.clone()));
            env.emulator.forget_requests();
            assert_eq!(fail("made"), eio, "{fault:?}");
            assert_eq!(count(), [2 * sent, sent], "{fault:?}");
            env.emulator.faults().clear();
        }
        // As long as no list tells what it has made. The root has just been read.
        assert!(mount.names("").contains(&"c".to_owned()));
        posts.into_iter().for_each(|kind| env.status_fault(kind, 500));
        [Kind::ListFiles, Kind::ListContainers].into_iter().for_each(|kind| env.status_fault(kind, 500));
        env.emulator.forget_requests();
        assert_eq!(save(&mount.path("c/g"), b"x"), Err(Errno::EIO));
        assert_eq!(errno(fs::create_dir(mount.path("made"))), libc::EIO);
        assert_eq!(count(), [1, 1]);
    });
}

#[test]
fn content_that_the_service_refuses_fails_the_close_and_is_kept() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&[]);
        let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>";
        assert_eq!(save(&mount.path("c/x.svg"), svg), Err(Errno::EINVAL));
        assert_eq!(fs::read(mount.path("c/x.svg")).unwrap(), svg);
        assert!(mount.log().contains("invalid file"), "{}", mount.log());
        let (asked, ended) = mount.unmount(env);
        assert_eq!((asked, ended), (3, 3), "something is left, and the exit code says so");
    });
}

#[test]
fn a_server_that_hangs_holds_nobody_for_longer_than_the_timeout() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--timeout", "1s", "--ttl", "100ms"]);
        assert_eq!(mount.names("c"), ["f"]);
        env.inject(Kind::Content, Fault::HangBefore);
        assert_eq!(errno(fs::read(mount.path("c/f"))), libc::ETIMEDOUT);
        env.inject(Kind::Upload, Fault::HangBefore);
        assert_eq!(save(&mount.path("c/g"), b"x"), Err(Errno::ETIMEDOUT));
        env.inject(Kind::ListFiles, Fault::HangBefore);
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(errno(fs::metadata(mount.path("c/other"))), libc::ETIMEDOUT);
        env.emulator.faults().clear();
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes");
    });
}

#[test]
fn an_upload_that_moves_is_not_cut_and_one_that_stalls_is() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount(&["--timeout", "2s"]);
        env.inject(Kind::Upload, Fault::Throttle { bytes_per_second: 1 << 20 });
        let begun = Instant::now();
        assert_eq!(save(&mount.path("c/slow"), &noise(10 << 20)), Ok(()));
        assert!(begun.elapsed() > 2 * Duration::from_secs(2), "it was not slow");
        assert_eq!(env.changes(), [Kind::Upload]);
        assert!(env.bytes_on_server(&id, "slow") == noise(10 << 20));

        // The server takes no more than fits into the buffers between.
        env.emulator.faults().clear();
        env.inject(Kind::Upload, Fault::HangBefore);
        let bytes = noise(16 << 20);
        let begun = Instant::now();
        assert_eq!(save(&mount.path("c/stalled"), &bytes), Err(Errno::ETIMEDOUT));
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(fs::read(mount.path("c/stalled")).unwrap() == bytes, "the bytes are kept");
        env.emulator.faults().clear();
        assert_eq!(mount.unmount(env), (0, 0));
        assert!(env.bytes_on_server(&id, "stalled") == bytes);
        assert_eq!(env.versions(&id, "stalled").len(), 1);
    });
}

/// The base URL of a way to the server that holds little and takes so many bytes a second.
fn narrow(env: &Env, bytes_per_second: usize) -> String {
    const STEP: usize = 16 << 10;
    let server = env.emulator.addr();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The connections have it from here.
    setsockopt(&listener, sockopt::RcvBuf, &(2 * STEP)).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let (mut replies, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut replies, &mut back));
            std::thread::spawn(move || {
                let mut buffer = vec![0; STEP];
                while let Ok(got @ 1..) = client.read(&mut buffer) {
                    std::thread::sleep(Duration::from_secs_f64(got as f64 / bytes_per_second as f64));
                    if server.write_all(&buffer[..got]).is_err() {
                        break;
                    }
                }
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    url
}

#[test]
fn an_upload_that_the_kernel_has_taken_whole_is_not_cut_while_it_leaves() {
    on_openai(|env| {
        let id = env.container("c");
        let mount = env.mount_with(&["--timeout", "2s"], &[("OPENAI_BASE_URL", &narrow(env, 300_000))]);
        // Less than the buffer of a socket takes at once.
        let bytes = noise(2 << 20);
        assert_eq!(save(&mount.path("c/slow"), &bytes), Ok(()));
        assert!(env.bytes_on_server(&id, "slow") == bytes);
        assert_eq!(env.changes(), [Kind::Upload]);
    });
}

#[test]
fn a_container_that_expires_becomes_stale_and_goes() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(mount.names("c"), ["f"]);
        env.store().expire_container(&id);
        assert_eq!(errno(fs::read(mount.path("c/f"))), libc::ESTALE);
        wait_until("the directory goes", || mount.names("").is_empty());
    });
}

#[test]
fn a_container_that_turns_out_to_be_gone_through_an_open_file_goes_at_once() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        env.store().put_model_file(&id, "/mnt/data/d/g", b"bytes");
        let mount = env.mount(&["--ttl", "1h"]);
        mount.sh("c", "ls -lR . && stat f d/g");
        let open = fs::File::open(mount.path("c/f")).unwrap();
        env.store().expire_container(&id);
        assert_eq!(errno((&open).read(&mut [0; 10])), libc::ESTALE);
        wait_until("the kernel has been told", || !mount.path("c").exists());
        for path in ["c/f", "c/d/g", "c"] {
            assert_eq!(errno(fs::metadata(mount.path(path))), libc::ENOENT, "{path}");
        }
        assert!(mount.names("").is_empty());
    });
}

#[test]
fn a_file_that_goes_is_absent_and_stale_for_who_has_it_open() {
    on_openai(|env| {
        let id = env.container("c");
        let file = env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--ttl", "1h"]);
        let open = fs::File::open(mount.path("c/f")).unwrap();
        env.store().delete_file(&id, &file);
        let read = (&open).read(&mut [0; 10]);
        assert_eq!(errno(read), libc::ESTALE);
    });
}

#[test]
fn a_page_or_an_error_with_200_is_not_taken_for_a_file_of_untold_length() {
    on_openai(|env| {
        let id = env.container("c");
        let error = r#"{"error":{"message":"quota","type":"t","param":null,"code":null}}"#;
        let headers = [("content-type".to_owned(), "application/json".to_owned())].into();
        let success = Fault::Status { code: 200, body: Some(error.to_owned()), headers };
        for (number, fault) in [Fault::Html200, success].into_iter().enumerate() {
            let path = format!("c/table{number}.csv");
            let mount = env.mount(&["--ttl", "0s"]);
            env.inject(Kind::Content, fault);
            env.store().put_model_file(&id, &format!("/mnt/data/table{number}.csv"), b"a,b\n");
            assert_eq!(errno(fs::read(mount.path(&path))), libc::EPROTO);
            assert_eq!(errno(fs::metadata(mount.path(&path))), libc::EPROTO, "it has no length");
            env.emulator.faults().clear();
            assert_eq!(fs::read(mount.path(&path)).unwrap(), b"a,b\n");
            assert_eq!(mount.unmount(env), (0, 0));
        }
    });
}

/// Other JSON than the API's, in the place of what a model has written, of which the length is known by now.
#[test]
fn other_json_with_200_is_not_taken_for_a_file_of_another_length() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let bytes = noise(3000);
        env.store().put_model_file(&id, "/mnt/data/report.txt", &bytes);
        let mount = env.mount(&["--ttl", "50ms", "--content-ttl", "50ms", "--no-prefetch"]);
        let path = mount.path("c/report.txt");
        assert_eq!(fs::metadata(&path).unwrap().len(), 3000);
        let changes = env.changes_of(|| {
            let headers = [("content-type".to_owned(), "application/json".to_owned())].into();
            let body = Some(r#"{"foo":[1,2]}"#.to_owned());
            env.inject(Kind::Content, Fault::Status { code: 200, body, headers });
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(errno(fs::read(&path)), libc::EPROTO);
            assert_eq!(errno(fs::rename(&path, mount.path("c/old.txt"))), libc::EPROTO);
            let append = |mut file: fs::File| file.write_all(b"more");
            assert_eq!(errno(fs::File::options().append(true).open(&path).and_then(append)), libc::EPROTO);
        });
        assert_eq!(changes, []);
        env.emulator.faults().clear();
        assert_eq!(mount.names("c"), ["report.txt"]);
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.bytes_on_server(&id, "report.txt"), bytes);
    });
}

#[test]
fn replies_that_are_not_the_apis_are_protocol_errors() {
    on_both_profiles(|env| {
        env.container("c");
        let mount = env.mount(&["--ttl", "10ms"]);
        let faults = [
            Fault::Html200,
            Fault::WrongShape200,
            Fault::EndlessList,
            Fault::Redirect { location: "http://127.0.0.1:1/steal".to_owned() },
        ];
        for fault in faults {
            env.inject(Kind::ListFiles, fault.clone());
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert_eq!(errno(fs::metadata(mount.path("c/f"))), libc::EPROTO, "{fault:?}");
            env.emulator.faults().clear();
        }
    });
}

#[test]
fn a_connection_that_breaks_again_and_again_is_an_io_error() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--ttl", "1h", "--timeout", "3s"]);
        assert_eq!(mount.names("c"), ["f"]);
        env.inject(Kind::Content, Fault::ResetBefore);
        assert_eq!(errno(fs::read(mount.path("c/f"))), libc::EIO);
    });
}

#[test]
fn the_flags_that_forbid_are_obeyed_without_a_request() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let changes = env.changes_of(|| {
            let mount = env.mount(&["--read-only"]);
            assert_eq!(errno(fs::write(mount.path("c/g"), "x")), libc::EROFS);
            assert_eq!(errno(fs::remove_file(mount.path("c/f"))), libc::EROFS);
            assert_eq!(errno(fs::create_dir(mount.path("new"))), libc::EROFS);
            assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes");
            drop(mount);
            let mount = env.mount(&["--no-overwrite"]);
            assert_eq!(errno(fs::write(mount.path("c/f"), "x")), libc::EPERM);
            drop(mount);
            let mount = env.mount(&["--no-delete"]);
            assert_eq!(errno(fs::remove_file(mount.path("c/f"))), libc::EPERM);
            assert_eq!(errno(fs::remove_dir(mount.path("c"))), libc::EPERM);
        });
        assert_eq!(changes, []);
        assert_eq!(env.bytes_on_server(&id, "f"), b"bytes");
    });
}

#[test]
fn a_server_that_is_gone_is_unreachable() {
    if fuse_is_missing() {
        return;
    }
    let env = Env::of(Config::new(Profile::Openai));
    let id = env.container("c");
    env.store().put_upload(&id, "f", b"bytes");
    let mount = env.mount(&["--ttl", "1h", "--timeout", "3s", "--drain-timeout", "1s"]);
    assert_eq!(mount.names("c"), ["f"]);
    let kept = env.stop_server();
    assert_eq!(errno(fs::read(mount.path("c/f"))), libc::EHOSTUNREACH);
    assert_eq!(save(&mount.path("c/g"), b"precious"), Err(Errno::EHOSTUNREACH));
    assert_eq!(fs::read(mount.path("c/g")).unwrap(), b"precious", "the bytes are still shown");
    drop(mount);
    drop(kept);
}

#[test]
fn a_wait_longer_than_clocks_tell_is_as_good_as_a_refusal() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(mount.names("c"), ["f"]);
        for wait in ["9999999999999999999", "1e300"] {
            let headers = [("retry-after".to_owned(), wait.to_owned())].into();
            let busy = Fault::Status { code: 429, body: None, headers };
            for kind in [Kind::Content, Kind::Upload] {
                env.inject(kind, busy.clone());
            }
            assert_eq!(errno(fs::read(mount.path("c/f"))), libc::EBUSY);
            assert_eq!(save(&mount.path("c/g"), wait.as_bytes()), Err(Errno::EBUSY));
            env.emulator.faults().clear();
            assert_eq!(save(&mount.path("c/g"), wait.as_bytes()), Ok(()));
        }
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes");
    });
}

#[test]
fn one_failure_is_not_seen() {
    on_both_profiles(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&[]);
        assert_eq!(mount.names("c"), ["f"]);
        let status = |code| Fault::Status { code, body: None, headers: Default::default() };
        env.emulator.faults().inject(FaultRule::once(Kind::Content, status(500)));
        env.emulator.forget_requests();
        assert_eq!(fs::read(mount.path("c/f")).unwrap(), b"bytes");
        assert_eq!(env.count(Kind::Content), 2);
        env.emulator.faults().inject(FaultRule::once(Kind::Upload, status(429)));
        env.emulator.forget_requests();
        assert_eq!(save(&mount.path("c/g"), b"x"), Ok(()), "429 says that nothing was done");
        assert_eq!(env.count(Kind::Upload), 2);
        assert_eq!(env.bytes_on_server(&id, "g"), b"x");
    });
}

#[test]
fn an_error_stands_in_status_and_once_in_the_log_with_the_servers_words_and_request_id() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--ttl", "1h"]);
        assert_eq!(mount.names("c"), ["f"]);
        let body = r#"{"error":{"message":"the words of the server","type":"x"}}"#.to_owned();
        env.inject(Kind::Content, Fault::Status { code: 400, body: Some(body), headers: Default::default() });
        assert_eq!(errno(fs::read(mount.path("c/f"))), libc::EINVAL);
        let output = env.command(&["status", "--json"]).arg(&mount.dir).output().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let errors = told[0]["errors"].as_array().unwrap();
        assert!(!errors.is_empty(), "{told}");
        // The kernel asks again when its reading ahead has failed: each of these is an error of its own.
        for error in errors {
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("the words of the server") && message.contains("req_"), "{message}");
            assert_eq!(error["errno"], libc::EINVAL);
            assert_eq!(mount.log().matches(message).count(), 1, "{message}: {}", mount.log());
        }
    });
}

#[test]
fn what_is_appended_after_a_truncation_that_failed_leaves_no_hole() {
    on_openai(|env| {
        let id = env.container("c");
        for (fault, len) in [(failure(), 4), (lost_answer(), 4), (lost_answer(), 1)] {
            env.store().put_upload(&id, "f", b"0123456789");
            let mount = env.mount(&["--ttl", "50ms"]);
            let path = mount.path("c/f");
            env.emulator.faults().inject(FaultRule::once(Kind::Upload, fault));
            assert!(nix::unistd::truncate(&path, len).is_err());
            let file = fs::File::options().write(true).open(&path).unwrap();
            let end = file.metadata().unwrap().len();
            file.write_all_at(b"x", end).unwrap();
            assert_eq!(nix::unistd::close(file), Ok(()));
            assert_eq!(end, u64::try_from(len).unwrap());
            let expected = [&b"0123456789"[..usize::try_from(len).unwrap()], b"x"].concat();
            assert_eq!(fs::read(&path).unwrap(), expected);
            fs::remove_file(&path).unwrap();
            assert_eq!(mount.unmount(env), (0, 0));
        }
    });
}

#[test]
fn a_truncation_to_the_length_that_one_that_failed_has_left_is_a_save_too() {
    on_both_profiles(|env| {
        let id = env.container("c");
        let truncations = [("shorter", 4), ("longer", 12), ("empty", 0)];
        for (name, _) in truncations {
            env.store().put_upload(&id, name, b"0123456789");
        }
        let mount = env.mount(&["--ttl", "1h"]);
        for (name, len) in truncations {
            let truncate = || nix::unistd::truncate(&mount.path("c").join(name), len);
            let headers = [("x-should-retry".to_owned(), "false".to_owned())].into();
            env.inject(Kind::Upload, Fault::Status { code: 503, body: None, headers });
            for _ in 0..3 {
                assert_eq!(truncate(), Err(Errno::EIO), "{name}");
            }
            assert_eq!(env.bytes_on_server(&id, name), b"0123456789", "{name}");
            env.emulator.faults().clear();
            assert_eq!(truncate(), Ok(()), "{name}");
            let mut expected = b"0123456789".to_vec();
            expected.resize(usize::try_from(len).unwrap(), 0);
            assert_eq!(env.bytes_on_server(&id, name), expected, "{name}");
            let again = env.changes_of(|| assert_eq!(truncate(), Ok(()), "{name}"));
            assert_eq!(again, [], "{name}");
        }
        assert_eq!(mount.unmount(env), (0, 0));
    });
}

/// What the kernel asks for once only, since it remembers nothing of it.
#[test]
fn the_call_after_one_that_failed_slowly_works_once_the_server_does() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", &noise(5000));
        let mount = env.mount(&["--ttl", "100ms", "--timeout", "1s", "--no-prefetch"]);
        let dir = fs::File::options().read(true).custom_flags(libc::O_PATH).open(mount.path("c")).unwrap();
        let path = format!("/proc/self/fd/{}/f", dir.as_raw_fd());
        std::thread::sleep(Duration::from_millis(150));
        env.inject(Kind::ListFiles, Fault::HangBefore);
        assert_eq!(errno(fs::symlink_metadata(&path)), libc::ETIMEDOUT);
        env.emulator.faults().clear();
        fs::symlink_metadata(&path).unwrap();

        let direct = fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        env.inject(Kind::Content, Fault::HangBefore);
        assert_eq!(errno(direct.read_at(&mut [0; 512], 0)), libc::ETIMEDOUT);
        env.emulator.faults().clear();
        assert_eq!(direct.read_at(&mut [0; 512], 0).unwrap(), 512);
    });
}
