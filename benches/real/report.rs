//! What was measured.

use std::time::Duration;

use crate::others::Tool;

/// One measurement of ours and of what it is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) ours: Duration,
    pub(crate) theirs: Duration,
    pub(crate) requests: usize,
    pub(crate) their_requests: usize,
    /// The ratio is of throughputs and not of times: the larger the better.
    throughput: bool,
}

impl Pair {
    pub(crate) fn new(ours: Duration, theirs: Duration) -> Self {
        Self { ours, theirs, requests: 0, their_requests: 0, throughput: false }
    }

    /// The same bytes in these times.
    pub(crate) fn throughput(ours: Duration, theirs: Duration) -> Self {
        Self { throughput: true, ..Self::new(ours, theirs) }
    }

    pub(crate) fn requests(self, ours: usize, theirs: usize) -> Self {
        Self { requests: ours, their_requests: theirs, ..self }
    }

    pub(crate) fn ratio(&self) -> f64 {
        let times = self.ours.as_secs_f64() / self.theirs.as_secs_f64();
        if self.throughput { times.recip() } else { times }
    }
}

/// What a ratio must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Goal {
    pub(crate) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
            Self::None => true,
        }
    }

    pub(crate) fn better(self, a: f64, b: f64) -> bool {
        match self {
            Self::AtMost(_) | Self::None => a < b,
            Self::AtLeast(_) => a > b,
        }
    }

    pub(crate) fn told(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::None => "–".to_owned(),
        }
    }
}

/// The most memory that the daemon had in several rows.
pub(crate) struct Peak {
    pub(crate) told: &'static str,
    pub(crate) mib: u64,
    pub(crate) most_mib: u64,
}

impl Peak {
    /// Of what was measured: all rows but that of a hundred thousand entries, and with it.
    pub(crate) fn all(measured: &[Measured]) -> Vec<Self> {
        let peak = |told, most_mib, large| {
            let rows = measured.iter().filter(|row| large || row.key != "find");
            rows.map(|row| row.peak_mib).max().map(|mib| Self { told, mib, most_mib })
        };
        let small = peak("peak memory of all of these, the 100,000 entries apart", 96, false);
        small.into_iter().chain(peak("peak memory with the 100,000 entries", 160, true)).collect()
    }

    pub(crate) fn is_met(&self) -> bool {
        self.mib <= self.most_mib
    }

    /// One line for the terminal.
    pub(crate) fn line(&self) -> String {
        let Self { told, mib, most_mib } = self;
        format!(
            "{} {:12} {mib} MiB (≤ {most_mib} MiB)  {told}",
            if self.is_met() { "ok  " } else { "MISS" },
            "memory"
        )
    }
}

/// A row and what came out.
pub(crate) struct Measured {
    pub(crate) key: &'static str,
    pub(crate) told: &'static str,
    pub(crate) goal: Goal,
    /// What stands in the way, where the goal is missed.
    pub(crate) why: &'static str,
    pub(crate) best: Pair,
    /// The middle ratio of all runs.
    pub(crate) middle: f64,
    pub(crate) peak_mib: u64,
}

impl Measured {
    pub(crate) fn is_met(&self) -> bool {
        self.goal.is_met(self.best.ratio())
    }

    /// One line for the terminal.
    pub(crate) fn line(&self) -> String {
        let Self { key, told, goal, best, middle, peak_mib, .. } = self;
        format!(
            "{} {key:12} {:.3} ({}; median {middle:.3})  ours {:.3?} theirs {:.3?}, requests {} / {}, peak {peak_mib} MiB  {told}",
            if self.is_met() { "ok  " } else { "MISS" },
            best.ratio(),
            goal.told(),
            best.ours,
            best.theirs,
            best.requests,
            best.their_requests,
        )
    }
}

/// What one of them took for a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) time: Duration,
    pub(crate) requests: usize,
    /// Of the daemon; 0 where there is none.
    pub(crate) peak_mib: u64,
}

/// A task and what everybody took for it: the best of the runs.
pub(crate) struct Beside {
    pub(crate) told: String,
    /// Milliseconds a request.
    pub(crate) latency: u64,
    pub(crate) taken: Vec<(Tool, Taken)>,
    /// Who did not succeed once.
    pub(crate) failed: Vec<Tool>,
}

impl Beside {
    pub(crate) fn of(&self, tool: Tool) -> Option<Taken> {
        self.taken.iter().find(|(its, _)| *its == tool).map(|(_, taken)| *taken)
    }

    /// How many times as long as ours another took.
    pub(crate) fn ratio(&self, tool: Tool) -> Option<f64> {
        let ours = self.of(Tool::Containerfs)?.time;
        Some(self.of(tool)?.time.as_secs_f64() / ours.as_secs_f64())
    }

    /// One line for each mount, for the terminal.
    pub(crate) fn lines(&self) -> String {
        let mut lines = format!("     {}", self.told);
        if self.taken.is_empty() {
            lines.push_str("\n       nobody has done it");
        }
        for (tool, Taken { time, requests, peak_mib }) in &self.taken {
            let ratio = self.ratio(*tool).unwrap_or(f64::NAN);
            let name = tool.name();
            lines.push_str(&format!(
                "\n       {name:12} {time:>12.3?}  {ratio:>7.2} ×  {requests:>5} requests"
            ));
            if *peak_mib > 0 {
                lines.push_str(&format!("  peak {peak_mib} MiB"));
            }
        }
        lines
    }
}
