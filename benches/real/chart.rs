//! `docs/performance.svg`: how far each row is from its goal, and the same tasks by others.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::others::Tool;
use crate::report::{Beside, Goal, Measured};

/// Pixels of the chart: its width, and the height of a bar with its gap.
const WIDTH: u32 = 900;
const BAR: u32 = 28;

/// Where the bar of a goal ends, in parts of the width.
const AT_GOAL: f64 = 0.55;

/// The latency whose rows are drawn: in milliseconds. With all of them nobody would scroll to the end.
const DRAWN: u64 = 50;

const GREEN: RGBColor = RGBColor(190, 222, 200);
const RED: RGBColor = RGBColor(240, 190, 180);
const GREY: RGBColor = RGBColor(214, 214, 220);

/// Draws both, one below the other.
pub(crate) fn draw(path: &Path, measured: &[Measured], beside: &[Beside]) -> Result<()> {
    let goals = goals(measured);
    let beside: Vec<_> = beside.iter().filter(|task| task.latency == DRAWN).collect();
    let lines = goals.len() + 1 + beside.iter().map(|task| task.taken.len() + 1).sum::<usize>() + 1;
    let height = BAR * (u32::try_from(lines)? + 1);
    let mut chart = Chart { area: SVGBackend::new(path, (WIDTH, height)).into_drawing_area(), top: 0 };
    chart.area.fill(&WHITE)?;
    chart.text("Ratio over its goal: left of the line is better than asked for")?;
    let begun = chart.top;
    for (row, part) in goals {
        let label = format!("{}: {:.2} ({})", row.told.replace('`', ""), row.best.ratio(), row.goal.told());
        chart.bar(part * AT_GOAL, if row.is_met() { GREEN } else { RED }, label)?;
    }
    let goal = (f64::from(WIDTH) * AT_GOAL) as i32;
    let line = PathElement::new(vec![(goal, begun), (goal, chart.top - 4)], BLACK);
    chart.area.draw(&line)?;
    chart.text("Time next to curl and other mounts, in parts of the longest: shorter is better")?;
    for task in beside {
        chart.text(&task.told.replace('`', ""))?;
        let longest = task.taken.iter().map(|(_, taken)| taken.time.as_secs_f64()).fold(0.0, f64::max);
        for (tool, taken) in &task.taken {
            let colour = if *tool == Tool::Containerfs { GREEN } else { GREY };
            let label = format!("{}: {:.3?}", tool.name(), taken.time);
            chart.bar(taken.time.as_secs_f64() / longest, colour, label)?;
        }
    }
    Ok(chart.area.present()?)
}

/// Each row with a goal, and how far it is from it, whichever direction is the good one.
fn goals(measured: &[Measured]) -> Vec<(&Measured, f64)> {
    measured
        .iter()
        .filter_map(|row| match row.goal {
            Goal::AtMost(most) if most > 0.0 => Some((row, row.best.ratio() / most)),
            Goal::AtLeast(least) => Some((row, least / row.best.ratio())),
            _ => None,
        })
        .collect()
}

/// A column of lines of equal height.
struct Chart<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    /// Where the next line begins.
    top: i32,
}

impl Chart<'_> {
    fn text(&mut self, text: &str) -> Result<()> {
        let font = ("sans-serif", 13).into_font();
        self.area.draw(&Text::new(text.to_owned(), (8, self.top + 8), font))?;
        self.top += BAR as i32;
        Ok(())
    }

    /// A bar over a part of the width.
    fn bar(&mut self, part: f64, colour: RGBColor, label: String) -> Result<()> {
        let top = self.top + 4;
        let end = (f64::from(WIDTH) * part).clamp(2.0, f64::from(WIDTH - 4)) as i32;
        let bar = Rectangle::new([(0, top), (end, top + BAR as i32 - 8)], colour.filled());
        self.area.draw(&bar)?;
        let font = ("sans-serif", 13).into_font();
        self.area.draw(&Text::new(label, (8, top + 4), font))?;
        self.top += BAR as i32;
        Ok(())
    }
}
