//! The tasks: each measures a daemon of ours and something to compare it with, one after the other.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use containerfs::emulator::{Fault, FaultRule, Kind, Profile};

use crate::env::{Server, shell, timed};
use crate::report::Pair;

/// Bytes of the large file.
const LARGE: usize = 256 << 20;

/// 800 Mbit/s.
pub(crate) const LINK: u64 = 100_000_000;

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The content of every file by so many transfers at once, by one process of curl.
pub(crate) fn curls(server: &Server, at_once: usize) -> Result<Duration> {
    let out = server.path("curl");
    fs::create_dir_all(&out)?;
    let mut config = String::new();
    for (name, url) in server.content_urls() {
        config.push_str(&format!("url = \"{url}\"\noutput = \"{}/{name}\"\n", out.display()));
    }
    let file = server.path("curl.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new("curl");
    command.args(["-sS", "-f", "-H", "Authorization: Bearer sk-test", "-K"]).arg(&file);
    if at_once > 1 {
        command.args(["-Z", "--parallel-max", &at_once.to_string()]);
    }
    timed(&mut command)
}

/// Every page of the list, one after the other, by one process of curl.
pub(crate) fn pages(server: &Server) -> Result<Duration> {
    let base = format!("{}/containers/{}/files?limit=100", server.emulator.base_url(), server.container);
    let files = server.emulator.store().files(&server.container);
    let mut config = format!("url = \"{base}\"\noutput = /dev/null\n");
    for last in files.chunks(100).take(29).filter_map(|page| page.last()) {
        config.push_str(&format!("url = \"{base}&after={}\"\noutput = /dev/null\n", last.id));
    }
    let file = server.path("pages.cfg");
    fs::write(&file, config)?;
    shell(&format!("curl -sS -f -H 'Authorization: Bearer sk-test' -K {}", file.display()))
}

/// The content of the first file by curl, into another program.
pub(crate) fn curl_large(server: &Server, into: &str) -> Result<Duration> {
    let url = &server.content_urls()[0].1;
    shell(&format!("curl -sS -f -H 'Authorization: Bearer sk-test' {url} | {into}"))
}

/// An upload of every file of a directory, so many at once, by one process of curl.
pub(crate) fn curl_uploads(server: &Server, from: &Path, at_once: usize) -> Result<Duration> {
    let url = format!("{}/containers/{}/files", server.emulator.base_url(), server.container);
    let mut uploads = Vec::new();
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        uploads.push(format!(
            "fail\nheader = \"Authorization: Bearer sk-test\"\nform = \"file=@{}\"\nurl = \"{url}\"\noutput = /dev/null\n",
            path.display()
        ));
    }
    let file = server.path("uploads.cfg");
    fs::write(&file, uploads.join("next\n"))?;
    timed(Command::new("curl").args(["-sS", "-Z", "--parallel-max", &at_once.to_string(), "-K"]).arg(&file))
}

/// `cp -r` of everything, against the same bytes by 32 curls.
pub(crate) fn copy_out(profile: Profile, files: usize, latency: u64) -> Result<Pair> {
    read_all(profile, files, latency, |server| {
        let copy = server.path("copy");
        let script = format!("cp -r {}/mnt/c {}", server.dir.path().display(), copy.display());
        let took = shell(&script)?;
        shell(&format!("diff -rq {} {}", copy.display(), server.path("curl").display()))?;
        Ok(took)
    })
}

/// `grep -r` through everything.
pub(crate) fn grep(profile: Profile, files: usize, latency: u64) -> Result<Pair> {
    read_all(profile, files, latency, |server| {
        shell(&format!("! grep -r needle {}/mnt/c", server.dir.path().display()))
    })
}

fn read_all(
    profile: Profile,
    files: usize,
    latency: u64,
    work: impl Fn(&Server) -> Result<Duration>,
) -> Result<Pair> {
    let server = Server::new(profile, millis(latency))?;
    server.fill(files);
    server.slow_down();
    let (theirs, their_requests) = server.counted(|| curls(&server, 32))?;
    let mount = server.mount(&[])?;
    let (ours, requests) = server.counted(|| work(&server))?;
    ensure!(server.count(Kind::Content) == files, "{} contents", server.count(Kind::Content));
    drop(mount);
    Ok(Pair::new(ours, theirs).requests(requests, their_requests))
}

/// `ls -l` of 3,000 files against 30 pages one after the other; cold, and again after the TTL.
pub(crate) fn list(again: bool) -> Result<Pair> {
    let server = Server::new(Profile::Plain, millis(50))?;
    server.fill(3000);
    server.slow_down();
    let (theirs, their_requests) = server.counted(|| pages(&server))?;
    let mount = server.mount(&["--ttl", "2s"])?;
    let ls = format!("test $(ls -l {} | wc -l) = 3001", mount.c().display());
    let (cold, cold_requests) = server.counted(|| shell(&ls))?;
    if !again {
        return Ok(Pair::new(cold, theirs).requests(cold_requests, their_requests));
    }
    std::thread::sleep(millis(2100));
    let (warm, requests) = server.counted(|| shell(&ls))?;
    Ok(Pair::new(warm, theirs).requests(requests, their_requests))
}

/// Puts a file of 256 MiB there, over a link of 800 Mbit/s or a free one.
pub(crate) fn fill_large(server: &Server, throttled: bool) {
    let mut block = vec![0_u8; LARGE];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in block.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    server.emulator.store().put_upload(&server.container, "large", &block);
    if throttled {
        let slow = Fault::Throttle { bytes_per_second: LINK };
        server.emulator.faults().inject(FaultRule::always(Kind::Content, slow));
    }
}

fn large_server(throttled: bool) -> Result<Server> {
    let server = Server::new(Profile::Plain, millis(50))?;
    fill_large(&server, throttled);
    server.slow_down();
    Ok(server)
}

/// One large file, cold: throughput over curl's.
pub(crate) fn stream(throttled: bool) -> Result<Pair> {
    let server = large_server(throttled)?;
    let (theirs, their_requests) = server.counted(|| curl_large(&server, "cat > /dev/null"))?;
    let mount = server.mount(&[])?;
    let (ours, requests) =
        server.counted(|| shell(&format!("cat {}/large > /dev/null", mount.c().display())))?;
    Ok(Pair::throughput(ours, theirs).requests(requests, their_requests))
}

/// The same file once more, against a file of the disk below.
pub(crate) fn stream_again() -> Result<Pair> {
    let server = large_server(false)?;
    let native = server.path("native");
    let mount = server.mount(&[])?;
    shell(&format!("cp {}/large {}", mount.c().display(), native.display()))?;
    let read = |path: &Path| shell(&format!("cat {} > /dev/null", path.display()));
    let (mut theirs, mut ours, mut requests) = (Duration::MAX, Duration::MAX, 0);
    for _ in 0..3 {
        theirs = theirs.min(read(&native)?);
        let (once, count) = server.counted(|| read(&mount.c().join("large")))?;
        (ours, requests) = (ours.min(once), requests + count);
    }
    Ok(Pair::new(ours, theirs).requests(requests, 0))
}

/// The first bytes of a cold large file, in round trips.
pub(crate) fn first_bytes() -> Result<Pair> {
    let server = large_server(false)?;
    let mount = server.mount(&[])?;
    let (ours, requests) = server.counted(|| {
        let begun = Instant::now();
        let mut file = fs::File::open(mount.c().join("large"))?;
        file.read_exact(&mut [0; 4096])?;
        Ok(begun.elapsed())
    })?;
    Ok(Pair::new(ours, server.latency).requests(requests, 0))
}

/// What a row about copying in tells.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum CopyIn {
    Through,
    BackReturn,
    BackDrain,
}

/// `cp -r` of 100 files into a container, against 100 round trips.
pub(crate) fn copy_in(what: CopyIn) -> Result<Pair> {
    let server = Server::new(Profile::Openai, millis(50))?;
    let from = server.path("from");
    fs::create_dir_all(&from)?;
    for number in 0..100 {
        fs::write(from.join(format!("f{number:03}")), format!("{number:03} ").repeat(1024))?;
    }
    server.slow_down();
    let flags: &[&str] = if what == CopyIn::Through { &[] } else { &["--write-back"] };
    let mount = server.mount(flags)?;
    let script = format!("cp -r {}/. {}", from.display(), mount.c().display());
    let ((copied, drained), requests) = server.counted(|| {
        let copied = shell(&script)?;
        Ok((copied, mount.end()?))
    })?;
    ensure!(server.count(Kind::Upload) == 100, "{} POSTs", server.count(Kind::Upload));
    let ours = if what == CopyIn::BackDrain { drained } else { copied };
    Ok(Pair::new(ours, server.latency * 100).requests(requests, 100))
}

/// `grep -r` through 300 files that are in the cache, against a directory of the disk below.
pub(crate) fn warm_grep() -> Result<Pair> {
    let server = Server::new(Profile::Plain, millis(50))?;
    server.fill(300);
    server.slow_down();
    let mount = server.mount(&["--ttl", "1h"])?;
    let native = server.path("native");
    shell(&format!("cp -r {} {}", mount.c().display(), native.display()))?;
    let grep = |path: &Path| shell(&format!("! grep -r needle {}", path.display()));
    let mut theirs = grep(&native)?;
    let mut ours = grep(&mount.c())?;
    let mut requests = 0;
    for _ in 0..5 {
        theirs = theirs.min(grep(&native)?);
        let (once, count) = server.counted(|| grep(&mount.c()))?;
        (ours, requests) = (ours.min(once), requests + count);
    }
    Ok(Pair::new(ours, theirs).requests(requests, 0))
}

/// `rm -r` of 300 files with `--write-back`, against 300 round trips.
pub(crate) fn remove() -> Result<Pair> {
    let server = Server::new(Profile::Openai, millis(50))?;
    for number in 0..300 {
        server.emulator.store().put_upload(&server.container, &format!("f{number:03}"), b"x");
    }
    server.slow_down();
    let mount = server.mount(&["--write-back"])?;
    let ((ours, _), requests) = server.counted(|| {
        let removed = shell(&format!("rm -r {}/*", mount.c().display()))?;
        Ok((removed, mount.end()?))
    })?;
    ensure!(server.count(Kind::DeleteFile) == 300, "{} DELETEs", server.count(Kind::DeleteFile));
    Ok(Pair::new(ours, server.latency * 300).requests(requests, 300))
}

/// `find` through 100,000 entries, warm, against a tree in memory.
pub(crate) fn find() -> Result<Pair> {
    let server = Server::new(Profile::Plain, Duration::ZERO)?;
    let name = |number: usize| format!("d{:03}/f{number:06}.txt", number / 500);
    let files = (0..100_000).map(|number| (format!("/mnt/data/{}", name(number)), b"x"));
    server.emulator.store().put_many(&server.container, files);
    let native = tempfile::Builder::new().prefix("containerfs-bench-").tempdir_in("/dev/shm")?;
    for number in 0..100_000 {
        let path = native.path().join(name(number));
        if number % 500 == 0 {
            fs::create_dir_all(path.parent().unwrap_or(native.path()))?;
        }
        fs::File::create(path)?;
    }
    let mount = server.mount(&["--ttl", "1h", "--content-ttl", "1h"])?;
    let find = |path: &Path| shell(&format!("test $(find {} -type f | wc -l) = 100000", path.display()));
    let (mut theirs, mut ours) = (Duration::MAX, Duration::MAX);
    find(&mount.c())?;
    let mut requests = 0;
    for _ in 0..3 {
        theirs = theirs.min(find(native.path())?);
        let (once, count) = server.counted(|| find(&mount.c()))?;
        (ours, requests) = (ours.min(once), requests + count);
    }
    Ok(Pair::new(ours, theirs).requests(requests, 0))
}

/// From `mount` to the first list, over 1.5 round trips and 50 ms.
pub(crate) fn first_answer() -> Result<Pair> {
    let server = Server::new(Profile::Openai, millis(50))?;
    server.slow_down();
    let ((ours, mount), requests) = server.counted(|| server.time_to_first_answer())?;
    drop(mount);
    Ok(Pair::new(ours, server.latency.mul_f64(1.5) + millis(50)).requests(requests, 0))
}

/// Ten idle seconds: context switches of the daemon.
pub(crate) fn idle() -> Result<Pair> {
    let server = Server::new(Profile::Openai, Duration::ZERO)?;
    server.fill(10);
    let mount = server.mount(&[])?;
    shell(&format!("ls -l {0} && cat {0}/*", mount.c().display()))?;
    std::thread::sleep(millis(6000));
    let before = mount.switches()?;
    let ((), requests) = server.counted(|| {
        std::thread::sleep(millis(10_000));
        Ok(())
    })?;
    let woken = mount.switches()? - before;
    Ok(Pair::new(Duration::from_secs(woken), Duration::from_secs(1)).requests(requests, 0))
}
