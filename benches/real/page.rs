//! `docs/performance.md` and its chart, written from what was measured and from nothing else.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::others::Tool;
use crate::report::{Beside, Measured, Peak};

/// What the page says of the other bench; it has no numbers, which differ from machine to machine.
const HOT: &str = "\n## The daemon's own work\n\n\
    The rows above have a kernel, a server and programs in them. `just hot` leaves all of them out: with criterion it \
    measures what a reader thread of the mount does when memory has the answer (lookup, getattr, readdirplus of 10,000 \
    entries, reads of 4 and 128 KiB from the cache), what turning a server's path into a shown name and a shown name into \
    that of an upload costs, and a list from the JSON of its pages to the tree. `just hot read` runs those with `read` in \
    their names; `just hot --save-baseline before`, and later `just hot --baseline before`, tell what a change has done. \
    `cargo test --benches` runs each once, to see that it works; `cargo test` alone runs none of them.\n";

/// Writes it into `docs`.
pub(crate) fn write(docs: &Path, measured: &[Measured], beside: &[Beside], runs: usize) -> Result<()> {
    let mut page = goals(measured, runs)?;
    page.push_str(&next_to_others(beside, runs)?);
    page.push_str(HOT);
    Ok(fs::write(docs.join("performance.md"), page)?)
}

fn goals(measured: &[Measured], runs: usize) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let mut page = format!(
        "# Performance\n\n\
         Written by `just bench --write`: real mounts against the emulator, which waits for 50 ms before each answer unless a \
         row says otherwise, and beside each what the same bytes cost in another way, in the same run. A ratio means \
         something on any machine, a time does not; here there were {cores} cores, which the emulator, the mount and the \
         programs shared, and {runs} runs of each row, of which the best counts and the middle one stands beside it.\n\n\
         ![Ratios over their goals](performance.svg)\n\n\
         | task | goal | best | middle | time | compared with | requests | of the other | peak memory |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for row in measured {
        writeln!(
            page,
            "| {}{} | {} | {:.2} | {:.2} | {:.3?} | {:.3?} | {} | {} | {} MiB |",
            row.told,
            if row.is_met() { "" } else { " (**missed**)" },
            row.goal.told(),
            row.best.ratio(),
            row.middle,
            row.best.ours,
            row.best.theirs,
            row.best.requests,
            row.best.their_requests,
            row.peak_mib,
        )?;
    }
    for peak in Peak::all(measured) {
        let missed = if peak.is_met() { "" } else { " (**missed**)" };
        writeln!(
            page,
            "| {}{missed} | ≤ {} MiB | – | – | – | – | – | – | {} MiB |",
            peak.told, peak.most_mib, peak.mib
        )?;
    }
    let missed: Vec<&Measured> = measured.iter().filter(|row| !row.is_met()).collect();
    if !missed.is_empty() {
        page.push_str("\n## What is missed\n\n");
    }
    for row in missed {
        writeln!(
            page,
            "- {}: {:.2} instead of {}. {}",
            row.told,
            row.best.ratio(),
            row.goal.told(),
            row.why
        )?;
    }
    Ok(page)
}

/// What everybody took, and how many times as long as ours that is.
fn next_to_others(beside: &[Beside], runs: usize) -> Result<String> {
    let mut page = format!(
        "\n## Next to curl and other mounts\n\n\
         The same tasks, one after the other, each on a server of its own and with an empty cache. curl speaks to the emulator \
         as containerfs does, by one process with 32 transfers at once (pages of a list one after the other, which is how their \
         cursors are told). `rclone mount` and `s3fs` have the very same bytes in a bucket on this machine, which waits as long \
         before each answer and whose replies share a link of the same width; S3 lists a thousand names a page, where the \
         Containers API lists a hundred. rclone has `--use-server-modtime --vfs-cache-mode full`, without the first of which it \
         asks for each file's time, with `--read-only`, or `--vfs-write-back 0s` where files are copied in; s3fs has \
         `use_path_request_style,use_cache=DIRECTORY`, with `ro` where it only reads. containerfs has no flags unless a row \
         names them. What was copied is compared with what was served. Each time is the best of {runs} runs; × is how many times \
         as long as containerfs.\n\n\
         | task |"
    );
    for tool in Tool::ALL {
        let version = tool.version().unwrap_or_else(|| format!("{}, not installed", tool.name()));
        write!(page, " {version} |")?;
    }
    page.push_str(" requests | peak memory in MiB |\n|---|---|---|---|---|---|---|\n");
    for task in beside {
        write!(page, "| {} |", task.told)?;
        let (mut requests, mut memory) = (Vec::new(), Vec::new());
        for tool in Tool::ALL {
            let Some(taken) = task.of(tool) else {
                page.push_str(" – |");
                requests.push("–".to_owned());
                memory.push("–".to_owned());
                continue;
            };
            write!(page, " {:.3?}", taken.time)?;
            match task.ratio(tool) {
                Some(ratio) if tool != Tool::Containerfs => write!(page, " ({ratio:.2} ×) |")?,
                _ => page.push_str(" |"),
            }
            requests.push(taken.requests.to_string());
            memory.push(if taken.peak_mib == 0 { "–".to_owned() } else { taken.peak_mib.to_string() });
        }
        writeln!(page, " {} | {} |", requests.join(" / "), memory.join(" / "))?;
    }
    Ok(page)
}
