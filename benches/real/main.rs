//! `just bench`: real mounts against the emulator at 0, 50 and 500 ms a request, next to other ways to the
//! same bytes.
//!
//! `cargo bench --bench real -- [FILTER…] [--runs N] [--latency MS,…] [--write]`. Ratios within one run mean
//! something on any machine, times do not. Each row is measured several times; the best pair counts, the
//! middle one is told beside it. Rows whose keys begin with `beside` do one task by containerfs, curl, rclone
//! and s3fs, at the latencies that are asked for; `beside` alone means them all.

mod beside;
mod chart;
mod env;
mod others;
mod page;
mod report;
mod s3;
mod tasks;

use anyhow::{Context, Result, ensure};
use containerfs::emulator::Profile::{Openai, Plain};

use others::Tool;
use report::{Beside, Goal, Measured, Pair, Peak};
use tasks::CopyIn;

type Task = Box<dyn Fn() -> Result<Pair>>;

struct Row {
    key: &'static str,
    told: &'static str,
    goal: Goal,
    task: Task,
}

fn row(key: &'static str, told: &'static str, goal: Goal, task: impl Fn() -> Result<Pair> + 'static) -> Row {
    Row { key, told, goal, task: Box::new(task) }
}

fn rows() -> Vec<Row> {
    use Goal::{AtLeast, AtMost};
    vec![
        row("cp-0", "`cp -r` of 300 files of 4 KiB, cold, at 0 ms, over 32 curls", Goal::None, || {
            tasks::copy_out(Plain, 300, 0)
        }),
        row("cp-50", "`cp -r` of 300 files of 4 KiB, cold, over 32 curls", AtMost(1.5), || {
            tasks::copy_out(Plain, 300, 50)
        }),
        row("cp-unsized", "the same, of unknown size", AtMost(1.8), || tasks::copy_out(Openai, 300, 50)),
        row("grep-50", "`grep -r` of 300 files, cold, over 32 curls", AtMost(1.5), || {
            tasks::grep(Plain, 300, 50)
        }),
        row("cp-500", "`cp -r` of 1,000 files at 500 ms, over 32 curls", AtMost(1.3), || {
            tasks::copy_out(Plain, 1000, 500)
        }),
        row("ls", "`ls -l` of 3,000 files, cold, over 30 pages in turn", AtMost(0.65), || tasks::list(false)),
        row("ls-again", "again after the TTL", AtMost(0.2), || tasks::list(true)),
        row("stream-800", "256 MiB cold at 800 Mbit/s, throughput over curl's", AtLeast(0.95), || {
            tasks::stream(true)
        }),
        row("stream", "256 MiB cold, unthrottled", AtLeast(0.6), || tasks::stream(false)),
        row("stream-again", "the same file again, over a native file", AtMost(1.3), tasks::stream_again),
        row("first", "first 4 KiB of a cold large file, in round trips", AtMost(2.6), tasks::first_bytes),
        row("in", "`cp -r` of 100 files in, over 100 round trips", AtMost(1.15), || {
            tasks::copy_in(CopyIn::Through)
        }),
        row("in-back", "`--write-back` returns", AtMost(0.15), || tasks::copy_in(CopyIn::BackReturn)),
        row("in-drain", "and drains", AtMost(0.15), || tasks::copy_in(CopyIn::BackDrain)),
        row(
            "grep-warm",
            "warm `grep -r` of 300 files, over a native directory",
            AtMost(3.0),
            tasks::warm_grep,
        ),
        row(
            "rm",
            "`rm -r` of 300 files with `--write-back`, over 300 round trips",
            AtMost(0.15),
            tasks::remove,
        ),
        row("find", "`find` of 100,000 entries, warm, over a tree in memory", AtMost(4.0), tasks::find),
        row(
            "mount",
            "mount to first answer, over 1.5 round trips and 50 ms",
            AtMost(1.0),
            tasks::first_answer,
        ),
        row("idle", "ten idle seconds: context switches of the daemon", AtMost(0.0), tasks::idle),
    ]
}

/// Why a row may be missed; told where it is.
fn why(key: &str) -> &'static str {
    match key {
        "stream-again" => {
            "No request reaches the daemon: the kernel has every page. It copies them to the program one page at a time, \
             where a file of the disk lies in larger pieces."
        }
        "ls" | "ls-again" => {
            "`ls -l` asks for two extended attributes of each file, which the kernel remembers nothing of: 6,000 calls of \
             some 30 µs, beside which the requests take what the goal leaves them."
        }
        "in" => {
            "A close takes some 3 ms beside its round trip, most of it for syncing the bytes and their intent before the \
             POST, and the emulator's 50 ms take 52."
        }
        "grep-warm" => {
            "Each open asks the daemon, which is how a version from elsewhere is noticed; the answer comes from memory, and \
             what it costs is two switches of the scheduler, which differ from run to run."
        }
        _ => "",
    }
}

fn measured(row: &Row, runs: usize) -> Option<Measured> {
    let mut pairs = Vec::new();
    for _ in 0..runs {
        match (row.task)() {
            Ok(pair) => pairs.push(pair),
            Err(error) => println!("{}: {error:#}", row.key),
        }
    }
    pairs.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    let peak_mib = env::take_peak() / 1024;
    let middle = pairs.get(pairs.len() / 2)?.ratio();
    let best = pairs.into_iter().reduce(|a, b| if row.goal.better(b.ratio(), a.ratio()) { b } else { a })?;
    Some(Measured { key: row.key, told: row.told, goal: row.goal, why: why(row.key), best, middle, peak_mib })
}

/// Those that there are, ours among them. What is missing is told, and not measured.
fn installed() -> Vec<Tool> {
    Tool::ALL
        .into_iter()
        .filter(|tool| match tool.version() {
            Some(version) => {
                println!("{}: {version}", tool.name());
                true
            }
            None => {
                eprintln!("WARNING: {} is not installed, and nothing is compared with it", tool.name());
                false
            }
        })
        .collect()
}

fn main() -> Result<()> {
    let mut filters = Vec::new();
    let mut runs = 3;
    let mut write = false;
    let mut latencies: Option<Vec<u64>> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--write" => write = true,
            "--latency" => {
                let list = arguments.next().context("--latency needs milliseconds")?;
                let all = list.split(',').map(|one| one.trim().parse().context("--latency"));
                latencies = Some(all.collect::<Result<_>>()?);
            }
            "--runs" => runs = arguments.next().and_then(|runs| runs.parse().ok()).unwrap_or(runs),
            _ => filters.push(argument),
        }
    }
    let all_of_it = filters.is_empty() && latencies.is_none();
    ensure!(!write || all_of_it, "--write writes every row at its own latencies, or none");
    let wanted = |key: &str, group: &str| {
        filters.is_empty() || filters.iter().any(|filter| key == filter || group == filter)
    };
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for row in rows().iter().filter(|row| wanted(row.key, "")) {
        match measured(row, runs) {
            Some(measured) => {
                println!("{}", measured.line());
                all.push(measured);
            }
            None => failed.push(row.key.to_owned()),
        }
    }
    Peak::all(&all).iter().for_each(|peak| println!("{}", peak.line()));
    let tasks: Vec<_> = beside::tasks().into_iter().filter(|task| wanted(task.key, "beside")).collect();
    let tools = if tasks.is_empty() { Vec::new() } else { installed() };
    let mut beside: Vec<Beside> = Vec::new();
    for task in tasks {
        for measured in task.measure(&tools, latencies.as_deref(), runs) {
            println!("{}", measured.lines());
            failed.extend(measured.failed.iter().map(|tool| format!("{} by {}", task.key, tool.name())));
            beside.push(measured);
        }
    }
    // A page with a hole would look as if nobody had asked.
    ensure!(failed.is_empty(), "not measured, for every run failed: {}", failed.join(", "));
    if write {
        let docs = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"));
        page::write(docs, &all, &beside, runs)?;
        chart::draw(&docs.join("performance.svg"), &all, &beside)?;
    }
    Ok(())
}
