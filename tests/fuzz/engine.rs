//! Runs a target: its corpus, then random input until the time is over.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};

use crate::corpus::{self, Corpus};

/// How long a target runs if nobody says otherwise.
const BRIEFLY: Duration = Duration::from_secs(3);

/// What takes longer hangs.
const CASE_MAX: Duration = Duration::from_secs(60);

/// The input under way, and since when.
type UnderWay = Mutex<Option<(Instant, Vec<u8>)>>;

/// Tries `case` on the corpus of `target`, on mutations of it, and on `structured` input.
pub(crate) fn fuzz(target: &'static str, structured: BoxedStrategy<Vec<u8>>, case: impl Fn(&[u8])) {
    let under_way = Arc::new(UnderWay::default());
    watch(target, Arc::downgrade(&under_way));
    let panics = panics_are_counted();
    let case = |input: &[u8]| {
        let before = panics.load(Ordering::SeqCst);
        *under_way.lock().unwrap() = Some((Instant::now(), input.to_vec()));
        case(input);
        *under_way.lock().unwrap() = None;
        assert_eq!(panics.load(Ordering::SeqCst), before, "a task has panicked");
    };
    let corpus = Corpus::of(target);
    for (name, input) in corpus.files() {
        println!("{target}: {name}");
        case(input);
    }
    let asked = std::env::var("CONTAINERFS_FUZZ").ok().map(|seconds| seconds.parse().unwrap());
    let until = Instant::now() + asked.map_or(BRIEFLY, Duration::from_secs);
    // The same input each time, so that a change is judged by what it changes; others when a time is asked
    // for.
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(20_261_125) };
    let config = ProptestConfig {
        rng_seed,
        failure_persistence: None,
        max_shrink_iters: 4000,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let inputs = prop_oneof![corpus::mutated(&corpus), structured];
    let mut tried = 0_u64;
    while Instant::now() < until {
        let input = inputs.new_tree(&mut runner).unwrap();
        tried += 1;
        let outcome = runner.run_one(input, |input| {
            case(&input);
            Ok(())
        });
        if let Err(TestError::Fail(reason, input)) = outcome {
            panic!("{target}: {reason}\n{}\nkept as {}", shown(&input), keep(target, &input).display());
        }
    }
    println!("{target}: {tried} inputs");
}

/// A panic in a task or thread of its own ends nothing but that.
fn panics_are_counted() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            told(panic);
        }));
    });
    &PANICS
}

/// Ends the process when a case hangs.
fn watch(target: &'static str, under_way: Weak<UnderWay>) {
    std::thread::spawn(move || {
        while let Some(under_way) = under_way.upgrade() {
            if let Some((since, input)) = &*under_way.lock().unwrap_or_else(PoisonError::into_inner)
                && since.elapsed() > CASE_MAX
            {
                eprintln!("{target} hangs\n{}\nkept as {}", shown(input), keep(target, input).display());
                std::process::abort();
            }
            drop(under_way);
            std::thread::sleep(Duration::from_millis(500));
        }
    });
}

fn shown(input: &[u8]) -> String {
    let text = input.escape_ascii().to_string();
    if text.len() > 4000 { format!("{}… of {} bytes", &text[..4000], input.len()) } else { text }
}

/// Writes an input down, for the corpus.
fn keep(target: &str, input: &[u8]) -> PathBuf {
    let time = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{time}"));
    std::fs::write(&path, input).unwrap();
    path
}
