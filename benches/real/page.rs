//! `docs/performance.md` and its chart, written from what was measured and from nothing else.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::{Goal, Measured};

/// Pixels of the chart: its width, and the height of a bar with its gap.
const WIDTH: u32 = 900;
const BAR: u32 = 28;

/// Where the bar of a goal ends, in parts of the width.
const AT_GOAL: f64 = 0.55;

/// What the page says of the other bench; it has no numbers, which differ from machine to machine.
const HOT: &str = "\n## The daemon's own work\n\n\
    The rows above have a kernel, a server and programs in them. `just hot` leaves all of them out: with criterion it \
    measures what a reader thread of the mount does when memory has the answer (lookup, getattr, readdirplus of 10,000 \
    entries, reads of 4 and 128 KiB from the cache), what turning a server's path into a shown name and a shown name into \
    that of an upload costs, and a list from the JSON of its pages to the tree. `just hot read` runs those with `read` in \
    their names; `just hot --save-baseline before`, and later `just hot --baseline before`, tell what a change has done. \
    `cargo test --benches` runs each once, to see that it works; `cargo test` alone runs none of them.\n";

/// Writes both into `docs`.
pub(crate) fn write(docs: &Path, measured: &[Measured], runs: usize) -> Result<()> {
    fs::write(docs.join("performance.md"), text(measured, runs)?)?;
    chart(&docs.join("performance.svg"), measured)
}

fn text(measured: &[Measured], runs: usize) -> Result<String> {
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
    page.push_str(HOT);
    Ok(page)
}

/// A bar for each row with a goal: how far it is from it, whichever direction is the good one.
fn chart(path: &Path, measured: &[Measured]) -> Result<()> {
    let rows: Vec<(&Measured, f64)> = measured
        .iter()
        .filter_map(|row| match row.goal {
            Goal::AtMost(most) if most > 0.0 => Some((row, row.best.ratio() / most)),
            Goal::AtLeast(least) => Some((row, least / row.best.ratio())),
            _ => None,
        })
        .collect();
    let height = BAR * (u32::try_from(rows.len())? + 2);
    let wrong = |error: DrawingAreaErrorKind<_>| anyhow!("the chart: {error}");
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(wrong)?;
    let font = ("sans-serif", 13).into_font();
    let goal = (f64::from(WIDTH) * AT_GOAL) as i32;
    let title =
        Text::new("Ratio over its goal: left of the line is better than asked for", (8, 8), font.clone());
    area.draw(&title).map_err(wrong)?;
    for (place, (row, part)) in rows.iter().enumerate() {
        let top = (BAR * (u32::try_from(place)? + 1)) as i32 + 4;
        let end = (f64::from(WIDTH) * AT_GOAL * part).clamp(2.0, f64::from(WIDTH - 4)) as i32;
        let colour = if row.is_met() { RGBColor(190, 222, 200) } else { RGBColor(240, 190, 180) };
        area.draw(&Rectangle::new([(0, top), (end, top + BAR as i32 - 8)], colour.filled()))
            .map_err(wrong)?;
        let label = format!("{}: {:.2} ({})", row.told.replace('`', ""), row.best.ratio(), row.goal.told());
        area.draw(&Text::new(label, (8, top + 4), font.clone())).map_err(wrong)?;
    }
    let line = PathElement::new(vec![(goal, BAR as i32), (goal, height as i32 - 4)], BLACK);
    area.draw(&line).map_err(wrong)?;
    area.present().map_err(wrong)
}
