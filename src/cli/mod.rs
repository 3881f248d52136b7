//! Flags, the commands, what a person sees.

pub mod args;
mod completions;
mod containers;
mod directories;
mod doctor;
mod dotted;
mod emulator;
mod exit_codes;
mod format;
mod key;
mod machine;
mod mount;
mod output;
mod path;
mod pending;
mod rewrite;
mod server;
mod status;
mod transfer;
mod unmount;

use std::ffi::OsString;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use exit_codes::ExitCode;

use crate::daemon::logging;

/// Runs the program on the arguments of the process; returns what it ends with.
pub fn main() -> i32 {
    let typed: Vec<OsString> = std::env::args_os().collect();
    run(typed).into()
}

fn run(typed: Vec<OsString>) -> ExitCode {
    let typed = dotted::joined(rewrite::command_line(typed));
    let meant = match typed.and_then(rewrite::with_config_file) {
        Ok(meant) => meant,
        Err(error) => {
            tell(&error);
            return ExitCode::Usage;
        }
    };
    let parsed = Cli::command().try_get_matches_from(&meant).map_err(|error| with_plain_usage(error, &meant));
    let (cli, key_was_typed) = match parsed.and_then(|matches| {
        let typed = matches.value_source("api_key") == Some(clap::parser::ValueSource::CommandLine);
        Cli::from_arg_matches(&matches).map(|cli| (cli, typed))
    }) {
        Ok(parsed) => parsed,
        Err(error) => {
            let usage = error.use_stderr();
            let _ = error.print();
            return if usage { ExitCode::Usage } else { ExitCode::Success };
        }
    };
    dispatch(&cli, key_was_typed).unwrap_or_else(|error| {
        tell(&error);
        ExitCode::Failed
    })
}

/// The usage of the command that was called. What the environment gives counts as typed for clap, and would stand in it.
fn with_plain_usage(mut error: clap::Error, meant: &[OsString]) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    if error.get(ContextKind::Usage).is_some() {
        let mut command = Cli::command();
        command.build();
        for word in meant {
            command = command.find_subcommand(word).cloned().unwrap_or(command);
        }
        error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    }
    error
}

fn dispatch(cli: &Cli, key_was_typed: bool) -> Result<ExitCode> {
    // A mount and the emulator begin to log where their lines have to go.
    if !matches!(cli.command, Command::Mount(_) | Command::Emulator(_)) {
        let json = cli.common.log_format == args::LogFormat::Json;
        logging::start(&cli.common.log_level, json, None).context("--log-level")?;
    }
    match &cli.command {
        Command::Mount(args) => mount::mount(args, &cli.common),
        Command::Unmount(args) => unmount::unmount(args),
        Command::Pending(command) => pending::pending(command),
        Command::Path(args) => path::path(args),
        Command::Doctor(args) => doctor::doctor(args, &cli.common),
        Command::Status(args) => status::status(args),
        Command::Containers(command) => containers::containers(command, &cli.common),
        Command::Files(command) => containers::files(command, &cli.common),
        Command::Content(command) => containers::content(command, &cli.common),
        Command::Emulator(args) => {
            // A key in the environment is for clients; only one that was typed is the server's.
            let key = cli.common.api_key.clone().filter(|_| key_was_typed);
            emulator::emulator(args, &cli.common, key)
        }
        Command::Completions(args) => completions::completions(args).map(|()| ExitCode::Success),
        Command::Man(args) => completions::man(args).map(|()| ExitCode::Success),
    }
}

fn tell(error: &anyhow::Error) {
    eprintln!("containerfs: {}", output::escaped_lines(&format!("{error:#}")));
}
