//! Counts of requests and their latencies, for `status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// Upper bounds of the latency buckets, in milliseconds; one more bucket holds the rest.
const BOUNDS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// What was asked of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// By operation.
    pub operations: BTreeMap<&'static str, OperationStats>,
    /// Requests that were sent again.
    pub retries: u64,
    /// Bytes of content received.
    pub bytes_down: u64,
    /// Bytes of content sent.
    pub bytes_up: u64,
    /// Of the transfers.
    pub connections: Connections,
}

/// How many transfers go on at once; adapts to what the server takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// At most.
    pub most: usize,
    /// At present.
    pub in_use: usize,
}

/// What was asked by one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OperationStats {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Half of them were answered within about so many milliseconds.
    pub p50_ms: u64,
    /// 95 of a hundred.
    pub p95_ms: u64,
    /// 99 of a hundred.
    pub p99_ms: u64,
    #[serde(skip)]
    buckets: [u64; BOUNDS.len() + 1],
}

#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<Stats>);

impl Counters {
    pub(super) fn answered(&self, operation: &'static str, took: Duration, failed: bool) {
        metrics::histogram!("containerfs_request_duration_seconds", "operation" => operation).record(took);
        let outcome = if failed { "error" } else { "ok" };
        metrics::counter!("containerfs_requests_total", "operation" => operation, "outcome" => outcome)
            .increment(1);
        self.change(|stats| {
            let entry = stats.operations.entry(operation).or_default();
            entry.requests += 1;
            entry.errors += u64::from(failed);
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            entry.buckets[BOUNDS.partition_point(|bound| *bound < ms)] += 1;
        });
    }

    pub(super) fn repeated(&self) {
        self.change(|stats| stats.retries += 1);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.change(|stats| stats.bytes_down += bytes);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.change(|stats| stats.bytes_up += bytes);
    }

    pub(super) fn snapshot(&self) -> Stats {
        let mut stats = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for entry in stats.operations.values_mut() {
            entry.p50_ms = percentile(&entry.buckets, 50);
            entry.p95_ms = percentile(&entry.buckets, 95);
            entry.p99_ms = percentile(&entry.buckets, 99);
        }
        stats
    }

    fn change(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn percentile(buckets: &[u64], percent: u64) -> u64 {
    let all: u64 = buckets.iter().sum();
    let wanted = (all * percent).div_ceil(100);
    let mut seen = 0;
    for (at, count) in buckets.iter().enumerate() {
        seen += count;
        if seen >= wanted && seen > 0 {
            return BOUNDS.get(at).or(BOUNDS.last()).copied().unwrap_or(0);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_buckets() {
        let counters = Counters::default();
        for ms in [3, 4, 4, 400] {
            counters.answered("content", Duration::from_millis(ms), ms > 100);
        }
        let stats = counters.snapshot();
        let content = &stats.operations["content"];
        assert_eq!((content.requests, content.errors, content.p50_ms, content.p95_ms), (4, 1, 5, 500));
    }
}
