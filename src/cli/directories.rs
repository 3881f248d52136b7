//! Where cache and state are, by the XDG rules.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
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

/// Links of a path that are followed, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Refuses what the mount would hide, and wait for itself in.
///
/// # Errors
/// `dir`, which may not exist yet, lies in the canonical `mountpoint`.
pub(super) fn check_outside(dir: &Path, flag: &str, mountpoint: &Path) -> Result<()> {
    if resolved(dir, LINKS_MAX).starts_with(mountpoint) {
        bail!(
            "{} lies in the mountpoint {}: name a directory elsewhere with {flag}",
            dir.display(),
            mountpoint.display()
        );
    }
    Ok(())
}

/// Where a path leads through symbolic links, as far as it exists.
fn resolved(path: &Path, links: usize) -> PathBuf {
    if let Ok(canonical) = path.canonicalize() {
        return canonical;
    }
    let Some(parent) = path.parent() else { return path.to_owned() };
    if links > 0
        && let Ok(target) = path.read_link()
    {
        return resolved(&parent.join(target), links - 1);
    }
    let mut whole = resolved(parent, links);
    match path.file_name() {
        Some(name) => whole.push(name),
        // It ends in `..`.
        None => _ = whole.pop(),
    }
    whole
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
