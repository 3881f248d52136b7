//! The server that the common flags name.

use std::future::Future;

use anyhow::{Result, anyhow, bail};
use secrecy::SecretString;

use crate::api::{self, Client, ClientConfig};
use crate::cli::args::Common;
use crate::cli::key;

/// Settings of a client out of the common flags and the environment.
pub(super) fn config(common: &Common, api_key: Option<SecretString>) -> ClientConfig {
    let headers = std::env::var("OPENAI_CUSTOM_HEADERS").unwrap_or_default();
    let mut config = ClientConfig {
        api_key,
        organization: filled(&common.organization),
        project: filled(&common.project),
        custom_headers: ClientConfig::parse_custom_headers(&headers),
        insecure_http: common.insecure_http,
        ..ClientConfig::default()
    };
    if let Some(base_url) = filled(&common.base_url) {
        config.base_url = base_url;
    }
    config
}

/// Calls the server once, or a few times, and waits for it.
///
/// # Errors
/// There is no key, what `work` says, or that somebody interrupted it.
pub(super) fn call<T, Work: Future<Output = Result<T>>>(
    common: &Common,
    work: impl FnOnce(Client) -> Work,
) -> Result<T> {
    let client = Client::new(&config(common, Some(key::resolve(common)?)))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::select! {
            outcome = work(client) => outcome.map_err(with_doubt),
            // Ended in order, so that temporary files go.
            outcome = interrupted() => outcome.and_then(|()| bail!("interrupted")),
        }
    })
}

/// Names are not unique, so no list tells whether something is what a POST without an answer has made: it is for the
/// user to look.
fn with_doubt(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<api::Error>() {
        Some(failed) if failed.may_have_happened => {
            anyhow!("{error:#}\nit may be there all the same: look with list before you ask for it again")
        }
        _ => error,
    }
}

/// Waits for a signal that ends the program. What it was started to ignore, as by nohup(1), it ignores.
async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut ends = vec![SignalKind::interrupt(), SignalKind::terminate()];
    ends.extend((!is_ignored(libc::SIGHUP)).then(SignalKind::hangup));
    let mut signals = ends.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>()?;
    futures_util::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
    Ok(())
}

fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// An empty environment variable means that there is none.
fn filled(value: &Option<String>) -> Option<String> {
    value.as_deref().map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
}
