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
mod json;
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
use std::io::{self, Write as _};

use anyhow::{Context, Result};
use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
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
    let (cli, key_was_typed) = match parse(typed) {
        Ok(parsed) => parsed,
        Err(Refused::Words(error)) => {
            tell(&error);
            return ExitCode::Usage;
        }
        Err(Refused::Flags(error)) => return show(&error),
    };
    dispatch(&cli, key_was_typed).unwrap_or_else(|error| {
        tell(&error);
        ExitCode::Failed
    })
}

/// Prints what clap has to say. It would heed CLICOLOR_FORCE, and colour what goes into a pipe.
fn show(error: &clap::Error) -> ExitCode {
    let coloured = |colours: bool| {
        let text = error.render();
        if colours { text.ansi().to_string() } else { text.to_string() }
    };
    if error.use_stderr() {
        let _ = write!(io::stderr(), "{}", coloured(output::colours(&io::stderr())));
        return ExitCode::Usage;
    }
    match output::print(&coloured(output::colours(&io::stdout()))) {
        Ok(()) => ExitCode::Success,
        Err(_) => ExitCode::Failed,
    }
}

/// Why a command line means nothing.
#[derive(Debug)]
pub enum Refused {
    /// What was typed, or the configuration file, makes no flags.
    Words(anyhow::Error),
    /// The flags are wrong, or ask for help.
    Flags(clap::Error),
}

/// What a command line means, with the environment and the configuration file; also, whether the API key is a
/// flag of either, and not of the environment.
///
/// # Errors
/// It means nothing, or asks for help.
pub fn parse(typed: Vec<OsString>) -> Result<(Cli, bool), Refused> {
    let typed = rewrite::command_line(typed).and_then(dotted::joined).map_err(Refused::Words)?;
    let meant = rewrite::with_config_file(typed.clone()).map_err(Refused::Words)?;
    let parsed = without_empty_variables(Cli::command()).try_get_matches_from(&meant).and_then(|matches| {
        let source_of = |flag| matches.value_source(flag);
        let is_flag = source_of("api_key") == Some(ValueSource::CommandLine);
        let mut cli = Cli::from_arg_matches(&matches)?;
        if source_of("api_key") > source_of("api_key_file") {
            // A key that was typed beats the file that the environment names.
            cli.common.api_key_file = None;
        }
        check_mountpoint(&cli, &typed)?;
        Ok((cli, is_flag))
    });
    parsed.map_err(|error| Refused::Flags(with_plain_usage(error, &meant)))
}

/// An empty variable counts as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty =
        |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Without a mountpoint there is a list of what is mounted, unless flags that were typed say that a mount was
/// meant.
fn check_mountpoint(cli: &Cli, typed: &[OsString]) -> Result<(), clap::Error> {
    if !matches!(&cli.command, Command::Mount(mount) if mount.mountpoint.is_none()) {
        return Ok(());
    }
    let command = Cli::command();
    let Some(mount) = command.find_subcommand("mount") else { return Ok(()) };
    let matches = without_empty_variables(Cli::command()).try_get_matches_from(typed)?;
    let Some(("mount", given)) = matches.subcommand() else { return Ok(()) };
    let was_typed =
        |arg: &clap::Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    if mount.get_arguments().any(was_typed) {
        let told = "MOUNTPOINT is missing: `containerfs mount` alone lists what is mounted";
        return Err(Cli::command().error(ErrorKind::MissingRequiredArgument, told));
    }
    Ok(())
}

/// The usage of the command that was called. What the environment gives counts as typed for clap, and would
/// stand in it.
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
