//! Log lines: to stderr, or in the background to a file of the state directory.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::private;

/// A log file that is longer than this many bytes begins anew, whenever that is.
const LOG_MAX: u64 = 10 << 20;

/// A file of bounded length that lines are appended to.
struct Log {
    file: File,
    len: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = private::open(path, options.create(true).append(true))?;
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len > LOG_MAX {
            // Another mount may have cut it meanwhile.
            self.len = self.file.metadata()?.len();
        }
        if self.len > LOG_MAX {
            self.file.set_len(0)?;
            self.len = 0;
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Begins to log.
///
/// # Errors
/// The filter makes no sense, or the file cannot be opened.
pub fn start(filter: &str, json: bool, file: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_new(directives(filter))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let (writer, colours) = match file {
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal() && no_color_unset()),
        Some(path) => (BoxMakeWriter::new(Mutex::new(Log::open(path)?)), false),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    // A second subscriber, in tests, is no harm.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
}

/// From now on a bug is told in the log, by its place. The words that a panic was formatted with are not: they may
/// be a server's, or a secret.
pub fn tell_bugs() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or_default();
        tracing::error!(at, what, "this is a bug in containerfs: please report it");
    }));
}

/// Whether [`start`] can use a filter. A bare word that is no level would be taken for a library with
/// everything that it has to say.
///
/// # Errors
/// What is wrong with it.
pub fn check(filter: &str) -> Result<(), String> {
    let is_level = |part: &str| part.trim().is_empty() || part.trim().parse::<LevelFilter>().is_ok();
    let no_level =
        filter.split(',').find(|part| !part.contains(['=', '[', ']', '{', '}']) && !is_level(part));
    if let Some(part) = no_level {
        return Err(format!("{part:?} is none of off, error, warn, info, debug and trace"));
    }
    EnvFilter::try_new(directives(filter)).map(drop).map_err(|error| error.to_string())
}

/// A bare level is ours: what the libraries below have to say of every connection drowns it. A filter is
/// taken as it is, but for one library that tells every refused certificate again, which is an error of ours
/// already.
fn directives(filter: &str) -> String {
    const TOLD_ALREADY: &str = "rustls_platform_verifier=off";
    let level: Option<LevelFilter> = filter.trim().parse().ok();
    match level {
        Some(level) if level > LevelFilter::WARN => format!("warn,containerfs={level},{TOLD_ALREADY}"),
        _ => format!("{TOLD_ALREADY},{filter}"),
    }
}

fn no_color_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, set_hook, take_hook};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_log_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path).unwrap();
        let line = vec![b'.'; 1 << 20];
        for _ in 0..25 {
            log.write_all(&line).unwrap();
            assert!(path.metadata().unwrap().len() <= LOG_MAX + line.len() as u64);
        }
        drop(log);
        Log::open(&path).unwrap().write_all(b"last").unwrap();
        let kept = std::fs::read(&path).unwrap();
        assert!(kept.len() < line.len() * 5 && kept.ends_with(b"last"), "it goes on where it was");
    }

    #[test]
    fn a_bug_is_told_by_its_place_and_not_by_what_it_was_formatted_with() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = told.clone();
        let writer = move || Lines(lines.clone());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
        let hook = take_hook();
        tell_bugs();
        tracing::subscriber::with_default(subscriber, || {
            catch_unwind(|| panic!("no words of others")).unwrap_err();
            catch_unwind(|| panic!("{}", "sk-secret")).unwrap_err();
        });
        set_hook(hook);
        let told = String::from_utf8(told.lock().unwrap().clone()).unwrap();
        assert_eq!(told.matches("src/daemon/logging.rs:").count(), 2, "{told}");
        assert!(told.contains("no words of others") && !told.contains("sk-secret"), "{told}");
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bare_level_is_ours_and_a_filter_stays() {
        assert!(directives("debug").starts_with("warn,containerfs=debug"));
        assert!(directives("error").ends_with(",error"));
        assert!(directives("hyper=trace,containerfs=info").ends_with(",hyper=trace,containerfs=info"));
        for filter in ["debug", "warn", "off", "hyper=trace"] {
            assert!(EnvFilter::try_new(directives(filter)).is_ok());
        }
    }
}
