//! `just hot`: how long the daemon's own work on a call takes, with no kernel and no network in the time.
//!
//! `cargo bench --bench hot -- [FILTER]`. What is measured is what a reader thread of the mount runs when
//! memory has the answer, and what a fetched list costs once its pages have arrived. `cargo test --benches`
//! runs each once.
#![allow(clippy::unwrap_used)]

mod calls;
mod lists;
mod names;
mod world;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    calls::all(&mut criterion);
    names::all(&mut criterion);
    lists::all(&mut criterion);
    criterion.final_summary();
}
