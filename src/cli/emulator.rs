//! `containerfs emulator`.

use std::time::Duration;

use anyhow::{Context, Result};
use secrecy::SecretString;

use crate::cli::args::{self, Common};
use crate::cli::exit_codes::ExitCode;
use crate::cli::output;
use crate::daemon::logging;
use crate::daemon::signals::Signals;
use crate::emulator::{Config, Emulator, Profile, demo};

/// Serves until a signal.
///
/// # Errors
/// The address is taken, or the data directory cannot be used.
pub(super) fn emulator(
    args: &args::Emulator,
    common: &Common,
    key: Option<SecretString>,
) -> Result<ExitCode> {
    logging::start(&common.log_level, common.log_format == args::LogFormat::Json, None)?;
    let mut config = Config::new(match args.profile {
        args::Profile::Openai => Profile::Openai,
        args::Profile::Plain => Profile::Plain,
    });
    // The real service drops what nobody uses; sample containers should be there after lunch, too.
    config.quirks.expire_after_use = config.profile == Profile::Openai && !args.demo;
    for quirk in &args.quirk {
        config.quirks.set(quirk)?;
    }
    config.data_dir.clone_from(&args.data_dir);
    config.latency = args.latency.unwrap_or(Duration::ZERO);
    config.admin = args.admin;
    config.api_key = key;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut signals = Signals::new()?;
        let emulator = Emulator::start(config, args.listen).await;
        let emulator = emulator.with_context(|| format!("cannot serve on {}", args.listen))?;
        if args.demo && emulator.store().containers().is_empty() {
            demo::populate(emulator.store());
        }
        output::line(&format!("serving the Containers API at {}", emulator.base_url()))?;
        signals.next().await;
        emulator.stop().await;
        Ok(ExitCode::Success)
    })
}
