//! The same task through each mount and through curl, one after the other.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::body::Bytes;
use containerfs::emulator::Profile;

use crate::env::{self, Server, shell};
use crate::others::{Access, Tool};
use crate::report::{Beside, Taken};
use crate::s3::S3;
use crate::tasks::{self, LINK, millis};

/// From so many milliseconds on a task has fewer files: what goes one request after the other would take
/// minutes.
const SLOW: u64 = 500;

/// What is served.
#[derive(Clone, Copy)]
enum Content {
    /// Files of 4 KiB; and how many when requests are slow.
    Small { files: usize, slow: usize },
    /// One file of 256 MiB; over a link of 800 Mbit/s, or a free one.
    Large { throttled: bool },
    /// Nothing yet: as many files of 4 KiB lie on the disk and will be copied in.
    Incoming { files: usize, slow: usize },
}

impl Content {
    fn files(self, latency: u64) -> usize {
        match self {
            Self::Large { .. } => 1,
            Self::Small { files, slow } | Self::Incoming { files, slow } => {
                if latency < SLOW {
                    files
                } else {
                    slow
                }
            }
        }
    }
}

/// Does a task; how long it took.
type Work = fn(&Place) -> Result<Duration>;

/// A task for everybody.
pub(crate) struct Task {
    pub(crate) key: &'static str,
    /// What it is; `{}` stands for the number of files.
    told: &'static str,
    content: Content,
    /// Milliseconds a request, unless others are asked for.
    latencies: &'static [u64],
    /// Flags of our own mount.
    flags: &'static [&'static str],
    /// Done once before, with no latency and outside the time.
    warm_up: bool,
    work: Work,
    /// The same bytes with no mount, where that is the same task.
    curl: Option<Work>,
    /// Whether the bytes were right; outside the time.
    check: fn(&Place) -> Result<()>,
}

/// Where one of them has its files.
struct Place {
    tool: Tool,
    server: Server,
    s3: S3,
    files: PathBuf,
    /// How many there are or will be.
    count: usize,
}

/// Every task.
pub(crate) fn tasks() -> Vec<Task> {
    let cp = Task {
        key: "beside-cp",
        told: "`cp -r` of {} files of 4 KiB, cold",
        content: Content::Small { files: 300, slow: 50 },
        latencies: &[0, 50, 500],
        flags: &[],
        warm_up: false,
        work: copy,
        curl: Some(|place| tasks::curls(&place.server, 32)),
        check: copied,
    };
    let grep = Task {
        key: "beside-grep",
        told: "`grep -r` of {} files of 4 KiB, cold",
        work: grep_all,
        check: |_| Ok(()),
        ..cp
    };
    let again = Task {
        key: "beside-grep-again",
        told: "`grep -r` of {} files of 4 KiB, a second time",
        latencies: &[50],
        warm_up: true,
        curl: None,
        ..grep
    };
    let ls = Task {
        key: "beside-ls",
        told: "`ls -l` of {} files, cold",
        content: Content::Small { files: 3000, slow: 3000 },
        work: list,
        curl: Some(|place| tasks::pages(&place.server)),
        ..grep
    };
    let stream = Task {
        key: "beside-stream",
        told: "256 MiB cold",
        content: Content::Large { throttled: false },
        work: |place| shell(&format!("cat {}/large > /dev/null", place.files.display())),
        curl: Some(|place| tasks::curl_large(&place.server, "cat > /dev/null")),
        check: same_as_served,
        ..grep
    };
    let throttled = Task {
        key: "beside-stream-800",
        told: "256 MiB cold at 800 Mbit/s",
        content: Content::Large { throttled: true },
        latencies: &[50],
        ..stream
    };
    let first = Task {
        key: "beside-first",
        told: "first 4 KiB of a cold file of 256 MiB",
        work: first_bytes,
        curl: Some(|place| tasks::curl_large(&place.server, "head -c 4096 > /dev/null")),
        check: |_| Ok(()),
        ..stream
    };
    let copy_in = Task {
        key: "beside-in",
        told: "`cp -r` of {} files of 4 KiB in, until the server has them",
        content: Content::Incoming { files: 100, slow: 20 },
        work: copy_in,
        curl: Some(|place| tasks::curl_uploads(&place.server, &place.server.path("from"), 32)),
        check: arrived,
        ..grep
    };
    let back = Task {
        key: "beside-in-back",
        told: "the same with {} files and `--write-back --write-back-delay 0s` of ours",
        flags: &["--write-back", "--write-back-delay", "0s"],
        ..copy_in
    };
    vec![cp, grep, again, ls, first, stream, throttled, copy_in, back]
}

impl Task {
    /// Runs it by every one of `tools`, at each of its latencies.
    pub(crate) fn measure(&self, tools: &[Tool], latencies: Option<&[u64]>, runs: usize) -> Vec<Beside> {
        let latencies = latencies.unwrap_or(self.latencies);
        latencies.iter().map(|&latency| self.measure_at(latency, tools, runs)).collect()
    }

    fn measure_at(&self, latency: u64, tools: &[Tool], runs: usize) -> Beside {
        let told = self.told.replace("{}", &self.content.files(latency).to_string());
        let told = format!("{told}, at {latency} ms");
        let mut beside = Beside { told, latency, taken: Vec::new(), failed: Vec::new() };
        let who = tools.iter().filter_map(|&tool| Some((tool, self.work_of(tool)?)));
        let who: Vec<(Tool, Work)> = who.collect();
        let mut all = vec![Vec::new(); who.len()];
        for _ in 0..runs {
            for ((tool, work), taken) in who.iter().zip(&mut all) {
                match self.take(*tool, *work, latency) {
                    Ok(took) => taken.push(took),
                    Err(error) => println!("FAIL {} at {latency} ms by {}: {error:#}", self.key, tool.name()),
                }
            }
        }
        for ((tool, _), taken) in who.into_iter().zip(all) {
            match taken.into_iter().min_by_key(|taken: &Taken| taken.time) {
                Some(best) => beside.taken.push((tool, best)),
                None => beside.failed.push(tool),
            }
        }
        beside
    }

    /// Nothing if the task is none for it.
    fn work_of(&self, tool: Tool) -> Option<Work> {
        if tool == Tool::Curl { self.curl } else { Some(self.work) }
    }

    /// One run by one of them, on a server of its own.
    fn take(&self, tool: Tool, work: Work, latency: u64) -> Result<Taken> {
        let mut place = self.place(tool, latency)?;
        let access = match self.content {
            Content::Incoming { .. } => Access::Write,
            _ => Access::Read,
        };
        let latency = place.server.latency;
        place.slow_down(if self.warm_up { Duration::ZERO } else { latency });
        env::take_peak();
        let mount = tool.mount(&place.server, &place.s3, access, self.flags)?;
        if let Some((_, files)) = &mount {
            place.files.clone_from(files);
        }
        if self.warm_up {
            work(&place)?;
        }
        place.slow_down(latency);
        place.s3.take_requests();
        let (time, requests) = place.server.counted(|| work(&place))?;
        let requests = requests + place.s3.take_requests();
        ensure!(requests == 0 || time >= latency, "{requests} requests in {time:?} were not slowed down");
        (self.check)(&place)?;
        drop(mount);
        Ok(Taken { time, requests, peak_mib: env::take_peak() / 1024 })
    }

    fn place(&self, tool: Tool, latency: u64) -> Result<Place> {
        let count = self.content.files(latency);
        let server = Server::new(Profile::Plain, millis(latency))?;
        let mut link = None;
        match self.content {
            Content::Small { .. } => server.fill(count),
            Content::Large { throttled } => {
                tasks::fill_large(&server, throttled);
                link = throttled.then_some(LINK);
            }
            Content::Incoming { .. } => {
                let from = server.path("from");
                fs::create_dir_all(&from)?;
                for number in 0..count {
                    fs::write(from.join(format!("f{number:03}")), format!("{number:03} ").repeat(1024))?;
                }
            }
        }
        let s3 = S3::beside(&server, link)?;
        let files = server.path("curl");
        Ok(Place { tool, server, s3, files, count })
    }
}

impl Place {
    fn slow_down(&self, latency: Duration) {
        self.server.emulator.set_latency(latency);
        self.s3.set_latency(latency);
    }

    fn is_of_s3(&self) -> bool {
        matches!(self.tool, Tool::Rclone | Tool::S3fs)
    }

    /// Whether as many files that are not empty are on the server as shall be.
    fn is_whole(&self) -> bool {
        if self.is_of_s3() {
            return self.s3.contents().iter().filter(|bytes| !bytes.is_empty()).count() == self.count;
        }
        let files = self.server.emulator.store().files(&self.server.container);
        files.len() == self.count
    }

    /// What the server holds that this one speaks to, in no order that means anything.
    fn held(&self) -> Vec<Bytes> {
        let mut held = if self.is_of_s3() {
            self.s3.contents()
        } else {
            let store = self.server.emulator.store();
            let files = store.files(&self.server.container);
            let bytes = files.iter().filter_map(|file| store.content(&self.server.container, &file.id));
            bytes.map(Bytes::from).collect()
        };
        held.sort();
        held
    }

    /// What lies on the disk to be copied in, in the same order.
    fn incoming(&self) -> Result<Vec<Bytes>> {
        let mut incoming = Vec::new();
        for entry in fs::read_dir(self.server.path("from"))? {
            incoming.push(Bytes::from(fs::read(entry?.path())?));
        }
        incoming.sort();
        Ok(incoming)
    }

    /// What is served, as files of the disk.
    fn truth(&self) -> Result<PathBuf> {
        let truth = self.server.path("truth");
        fs::create_dir_all(&truth)?;
        let store = self.server.emulator.store();
        for file in store.files(&self.server.container) {
            let bytes = store.content(&self.server.container, &file.id).context("a file is gone")?;
            fs::write(truth.join(file.path.trim_start_matches("/mnt/data/")), bytes)?;
        }
        Ok(truth)
    }
}

fn copy(place: &Place) -> Result<Duration> {
    shell(&format!("cp -r {} {}", place.files.display(), place.server.path("copy").display()))
}

fn copied(place: &Place) -> Result<()> {
    let copy = place.server.path(if place.tool == Tool::Curl { "curl" } else { "copy" });
    shell(&format!("diff -rq {} {}", copy.display(), place.truth()?.display()))?;
    Ok(())
}

fn list(place: &Place) -> Result<Duration> {
    shell(&format!("test $(ls -l {} | wc -l) = {}", place.files.display(), place.count + 1))
}

/// Tells a line for each file, none of which has it.
fn grep_all(place: &Place) -> Result<Duration> {
    shell(&format!("test $(grep -rc needle {} | grep -c ':0$') = {}", place.files.display(), place.count))
}

fn first_bytes(place: &Place) -> Result<Duration> {
    let begun = Instant::now();
    let mut file = fs::File::open(place.files.join("large"))?;
    file.read_exact(&mut [0; 4096])?;
    Ok(begun.elapsed())
}

/// Once more through the mount, beside what is served.
fn same_as_served(place: &Place) -> Result<()> {
    if place.tool != Tool::Curl {
        let large = place.files.join("large");
        shell(&format!("cmp {} {}", large.display(), place.truth()?.join("large").display()))?;
    }
    Ok(())
}

/// Some return before the bytes are there; all are waited for.
fn copy_in(place: &Place) -> Result<Duration> {
    let begun = Instant::now();
    shell(&format!("cp -r {}/. {}", place.server.path("from").display(), place.files.display()))?;
    env::wait_for("all files on the server", || Ok(place.is_whole()))?;
    Ok(begun.elapsed())
}

fn arrived(place: &Place) -> Result<()> {
    ensure!(place.held() == place.incoming()?, "what arrived is not what was copied");
    Ok(())
}
