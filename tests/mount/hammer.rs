//! Sixty-four processes in one directory, while somebody else changes it too. `CONTAINERFS_HAMMER=120` for
//! two minutes of it in each mode.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use containerfs::emulator::{Fault, FaultRule, Kind};
use serde_json::Value;

use crate::env::{Env, Mount, is_missing, noise, on_openai, program_is_missing, sha256, wait_until};

/// Processes at once.
const PROCESSES: usize = 64;

/// How long a process may go on after its time is up: its last operation, and its last look at its files.
const GRACE: Duration = Duration::from_secs(180);

/// A file as tests/mount/hammer.py knows it.
fn content(seed: u64, lines: usize) -> Vec<u8> {
    let line = |at: usize| {
        let head = format!("{seed:016x} {at:08x} {lines:08x} ");
        let digest = sha256(head.as_bytes());
        format!("{head}{}\n", &digest[..28])
    };
    (0..lines).map(line).collect::<String>().into_bytes()
}

/// Changes that nobody here makes: another version of a shared file, a file of the model's, a file that goes.
fn meddle(env: &Env, container: &str, step: u64) {
    let pick =
        |of: u64| u64::from_le_bytes(noise(8 * (step as usize % 4096 + 1))[..8].try_into().unwrap()) % of;
    let bytes = content(step, [1, 7, 40, 400][step as usize % 4]);
    match step % 3 {
        0 => _ = env.store().put_upload(container, &format!("f{:02}", step * 7 % 24), &bytes),
        1 => _ = env.store().put_model_file(container, &format!("/mnt/data/m{:02}", step * 5 % 16), &bytes),
        _ => {
            let mut files = env.store().files(container);
            files.retain(|file| matches!(shown(&file.path).as_bytes()[0], b'f' | b'm'));
            while files.len() > 40 {
                let gone = files.swap_remove(pick(files.len() as u64) as usize);
                env.store().delete_file(container, &gone.id);
            }
        }
    }
}

/// The name without what the server puts before it.
fn shown(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap();
    match name.split_once('-') {
        Some((prefix, rest)) if prefix.len() == 32 => rest,
        _ => name,
    }
}

/// What a daemon holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Files, pipes, and what epoll has; not the connections, which are kept for the next request.
    descriptors: usize,
    connections: usize,
    threads: u64,
    /// KiB.
    resident: u64,
}

fn held(mount: &Mount) -> Held {
    let process = Path::new("/proc").join(mount.pid().to_string());
    let status = fs::read_to_string(process.join("status")).unwrap();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap()
    };
    let descriptors = fs::read_dir(process.join("fd")).unwrap().flatten();
    let (connections, descriptors): (Vec<_>, Vec<_>) = descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .partition(|target| target.to_string_lossy().starts_with("socket:"));
    Held {
        descriptors: descriptors.len(),
        connections: connections.len(),
        threads: number("Threads:"),
        resident: number("VmRSS:"),
    }
}

/// The same once the daemon has all its threads and, some seconds after the last call, has given back what it does
/// not need.
fn held_at_rest(mount: &Mount) -> Held {
    std::thread::sleep(Duration::from_secs(6));
    let mut last = held(mount);
    wait_until("the daemon is at rest", || {
        std::thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut last, held(mount));
        (before.threads, before.descriptors) == (last.threads, last.descriptors)
    });
    last
}

fn status(env: &Env, mount: &Mount) -> Value {
    let told = env.command(&["status", "--json"]).arg(&mount.dir).output().unwrap();
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    told.get(0).unwrap_or(&told).clone()
}

/// Lets `PROCESSES` work for `seconds`. Returns what each says of its own files: seed and number of lines.
fn round(
    env: &Env,
    mount: &Mount,
    container: &str,
    turn: &str,
    seconds: u64,
) -> BTreeMap<String, (u64, usize)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mount/hammer.py");
    let start = |number: usize| {
        Command::new("python3")
            .arg(&script)
            .arg(mount.path("c"))
            .args([&number.to_string(), turn, &seconds.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut processes: Vec<Child> = (0..PROCESSES).map(start).collect();
    let deadline = Instant::now() + Duration::from_secs(seconds) + GRACE;
    for step in 0.. {
        if processes.iter_mut().all(|process| process.try_wait().unwrap().is_some()) {
            break;
        }
        if Instant::now() > deadline {
            let stuck: Vec<u32> = processes
                .iter_mut()
                .filter_map(|process| process.try_wait().unwrap().is_none().then(|| process.id()))
                .collect();
            let stack = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default();
            panic!("stuck: {:?}\n{}", stuck.iter().map(stack).collect::<Vec<_>>(), status(env, mount));
        }
        if Instant::now() < deadline - GRACE {
            meddle(env, container, step);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut own = BTreeMap::new();
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    let mut slowest = 0.0_f64;
    for process in processes {
        let output = process.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{turn}: {} {stderr}\n{}", output.status, status(env, mount));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        for (work, times) in told["done"].as_object().unwrap() {
            *done.entry(work.clone()).or_default() += times.as_u64().unwrap();
        }
        for (name, version) in told["own"].as_object().unwrap() {
            let lines = usize::try_from(version[1].as_u64().unwrap()).unwrap();
            own.insert(name.clone(), (version[0].as_u64().unwrap(), lines));
        }
        slowest = slowest.max(told["slowest"].as_f64().unwrap());
    }
    eprintln!("{turn}: {done:?}, the slowest took {slowest:.1} s");
    own
}

/// Waits until nothing is under way, and has the kernel forget what it need not know.
fn settle(env: &Env, mount: &Mount) -> Value {
    let idle = |status: &Value| {
        status["open_files"] == 0 && status["uploads"]["files_left"] == 0 && status["downloads"] == 0
    };
    wait_until("nothing is open or under way", || idle(&status(env, mount)));
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    // Everything that is shown, the root and the container: what was unlinked or replaced is forgotten.
    wait_until("inodes that nothing shows are forgotten", || {
        let shown = fs::read_dir(mount.path("c")).unwrap().count();
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        status(env, mount)["inodes"] == shown + 2
    });
    status(env, mount)
}

/// Every version of a file that the server has, and what was asked of each.
fn history(env: &Env, container: &str, name: &str) -> String {
    let requests = env.emulator.requests();
    let of = |id: &str| {
        let about = requests.iter().filter(|request| request.path.contains(id));
        about.map(|r| format!("{:?} {} {:?} ago", r.kind, r.status, r.at.elapsed())).collect::<Vec<_>>()
    };
    let seed = |id: &str| {
        let bytes = env.store().content(container, id).unwrap_or_default();
        String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned()
    };
    let told = env.versions(container, name).into_iter();
    let told = told.map(|version| format!("{version:?}, {}: {:?}", seed(&version.id), of(&version.id)));
    let told: Vec<_> = told.collect();
    let log = String::from_utf8_lossy(&env.traces()).lines().take(40).collect::<Vec<_>>().join("\n");
    format!("{name}: {told:#?}\n{log}")
}

#[test]
fn sixty_four_processes_in_one_directory_read_no_wrong_byte_and_leave_nothing_open() {
    if program_is_missing("python3") {
        return;
    }
    if is_missing("root, who alone can have the kernel forget", !nix::unistd::geteuid().is_root()) {
        return;
    }
    let seconds = std::env::var("CONTAINERFS_HAMMER").map_or(8, |seconds| seconds.parse().unwrap());
    let small_cache = ["--memory-cache", "1MiB", "--cache-size", "8MiB"];
    let behind = [&["--write-back", "--write-back-delay", "100ms"][..], &small_cache].concat();
    for mode in [&[][..], &behind] {
        on_openai(|env| {
            let id = env.container("c");
            let flags = [&["--ttl", "500ms"], mode].concat();
            let mount = env.mount(&flags);
            let idle = held_at_rest(&mount);
            round(env, &mount, &id, "a", (seconds / 4).max(2));
            settle(env, &mount);
            let before = held_at_rest(&mount);
            mount.sh("c", "rm -f o*");
            let own = round(env, &mount, &id, "b", seconds);
            let told = settle(env, &mount);
            let after = held_at_rest(&mount);
            eprintln!("{mode:?}: {idle:?}, {before:?}, {after:?}");
            assert_eq!(told["pending"], serde_json::json!([]), "{told}");
            assert_eq!(after.descriptors, idle.descriptors, "{idle:?} {after:?}");
            assert!(after.connections <= before.connections.max(64), "{before:?} {after:?}");
            assert!(after.resident * 5 <= before.resident * 6, "{before:?} {after:?}");
            let (process, resident) = (&status(env, &mount)["process"], after.resident * 1024);
            let told = process["resident_bytes"].as_u64().unwrap();
            assert!(told.abs_diff(resident) < resident / 10, "{process} {after:?}");
            let descriptors = process["descriptors"].as_u64().unwrap();
            assert!(descriptors >= after.descriptors as u64, "{process} {after:?}");
            let strange: Vec<_> =
                mount.names("c").into_iter().filter(|name| name.starts_with("ob-")).collect();
            let strange = strange.iter().find(|name| !own.contains_key(*name));
            assert!(strange.is_none(), "{strange:?}: {}", history(env, &id, &strange.unwrap()[..6]));
            for (name, (seed, lines)) in &own {
                assert!(fs::read(mount.path("c").join(name)).unwrap() == content(*seed, *lines), "{name}");
            }
            // Threads that are for blocking calls end when they have had nothing to do for ten seconds.
            wait_until("no thread is left over", || held(&mount).threads <= idle.threads);
            assert_eq!(mount.unmount(env), (0, 0));
            is_all_there(env, &id, own);
            empties(env, &flags);
        });
    }
}

/// What is removed leaves nothing in the cache.
fn empties(env: &Env, flags: &[&str]) {
    let mount = env.mount(flags);
    mount.sh("c", "cat * > /dev/null && rm -f *");
    wait_until("the cache is empty", || {
        let told = status(env, &mount);
        told["cache"]["files"] == 0 && told["cache"]["memory_bytes"] == 0 && told["inodes"] == 2
    });
    assert_eq!(mount.unmount(env), (0, 0));
}

/// The server has the last version of each file of one process, and no other.
fn is_all_there(env: &Env, container: &str, own: BTreeMap<String, (u64, usize)>) {
    let mut left = own;
    for file in env.store().files(container) {
        let bytes = env.store().content(container, &file.id).unwrap();
        let seed = u64::from_str_radix(std::str::from_utf8(&bytes[..16]).unwrap(), 16).unwrap();
        assert!(bytes == content(seed, bytes.len() / 64), "{file:?}");
        let name = shown(&file.path);
        if let Some((mine, _)) = left.remove(name) {
            assert_eq!(mine, seed, "{}", history(env, container, name));
        } else {
            assert!(!name.starts_with("ob-"), "{}", history(env, container, name));
        }
        assert!(!name.starts_with('t'), "a temporary file is left: {file:?}");
    }
    assert!(left.is_empty(), "missing on the server: {left:?}");
}

#[test]
fn sixty_four_processes_lose_nothing_when_answers_are_lost() {
    if program_is_missing("python3") {
        return;
    }
    let seconds: u64 = std::env::var("CONTAINERFS_HAMMER").map_or(8, |seconds| seconds.parse().unwrap());
    on_openai(|env| {
        let id = env.container("c");
        let mount =
            env.mount(&["--ttl", "500ms", "--write-back", "--write-back-delay", "100ms", "--timeout", "5s"]);
        for (kind, every) in [(Kind::Upload, 20), (Kind::DeleteFile, 30)] {
            let faults = [Fault::ResetAfter, Fault::ResetBefore, Fault::HangAfter].into_iter().cycle();
            for (nth, fault) in (0..300).zip(faults) {
                let rule = FaultRule { skip: every * nth, ..FaultRule::once(kind, fault) };
                env.emulator.faults().inject(rule);
            }
        }
        // No faults are left after that.
        let own = round(env, &mount, &id, "b", seconds.min(25));
        env.emulator.faults().clear();
        wait_until("everything is sent", || {
            // What is sent again is sent when it is asked for, what is deleted again when a list shows it.
            env.command(&["pending", "retry"]).output().unwrap();
            mount.names("c");
            let told = status(env, &mount);
            told["uploads"]["files_left"] == 0 && told["pending"] == serde_json::json!([])
        });
        for (name, (seed, lines)) in &own {
            let read = fs::read(mount.path("c").join(name)).unwrap();
            let first = String::from_utf8_lossy(&read[..read.len().min(16)]).into_owned();
            assert!(
                read == content(*seed, *lines),
                "{first} and not {seed:016x}: {}",
                history(env, &id, name)
            );
        }
        let is_strange = |name: &String| name.starts_with("ob-") && !own.contains_key(name);
        let strange = || mount.names("c").into_iter().find(is_strange);
        let patience = Instant::now() + Duration::from_secs(20);
        while let Some(name) = strange() {
            assert!(Instant::now() < patience, "{name}: {}", history(env, &id, &name[..6]));
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(mount.unmount(env), (0, 0));
        is_all_there(env, &id, own);
    });
}
