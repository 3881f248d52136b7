//! The server that the common flags name.

use std::future::Future;

use anyhow::{Result, bail};
use secrecy::SecretString;

use crate::api::{Client, ClientConfig};
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
            outcome = work(client) => outcome,
            // Ended in order, so that temporary files go.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

/// An empty environment variable means that there is none.
fn filled(value: &Option<String>) -> Option<String> {
    value.as_deref().map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
}
