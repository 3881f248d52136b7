//! Log lines: to stderr, or in the background to a file of the state directory.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::Path;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::private;

/// A log file that is longer than this many bytes begins anew.
const LOG_MAX: u64 = 10 << 20;

/// Begins to log.
///
/// # Errors
/// The filter makes no sense, or the file cannot be opened.
pub fn start(filter: &str, json: bool, file: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_new(directives(filter))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let (writer, colours) = match file {
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal() && no_color_unset()),
        Some(path) => {
            let long = std::fs::symlink_metadata(path).is_ok_and(|log| log.len() > LOG_MAX);
            let mut options = OpenOptions::new();
            let file = private::open(path, options.create(true).append(true))?;
            if long {
                file.set_len(0)?;
            }
            (BoxMakeWriter::new(file), false)
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    // A second subscriber, in tests, is no harm.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
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
    use super::*;

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
