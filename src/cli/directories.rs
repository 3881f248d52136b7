//! Where cache and state are, by the XDG rules.

use std::path::PathBuf;

use anyhow::{Context, Result};
use etcetera::BaseStrategy;

/// Where content is cached, for all accounts.
///
/// # Errors
/// There is no home directory.
pub(super) fn cache(given: &Option<PathBuf>) -> Result<PathBuf> {
    absolute(given, |home| home.cache_dir())
}

/// Where unsent bytes are, for all accounts.
///
/// # Errors
/// There is no home directory.
pub(super) fn state(given: &Option<PathBuf>) -> Result<PathBuf> {
    absolute(given, |home| home.state_dir().unwrap_or_else(|| home.data_dir()))
}

/// The daemon's working directory is another one, so the path must not depend on it.
fn absolute(
    given: &Option<PathBuf>,
    default: impl Fn(&etcetera::base_strategy::Xdg) -> PathBuf,
) -> Result<PathBuf> {
    let directory = match given {
        Some(given) => given.clone(),
        None => {
            let home = etcetera::base_strategy::Xdg::new()
                .context("no home directory: name --cache-dir and --state-dir")?;
            default(&home).join("containerfs")
        }
    };
    Ok(std::path::absolute(directory)?)
}
