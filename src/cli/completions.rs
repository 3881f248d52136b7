//! `containerfs completions` and `containerfs man`, out of the one definition.

use anyhow::Result;
use clap::CommandFactory;

use crate::cli::args::{Cli, Completions};
use crate::cli::output;

/// Prints completions.
///
/// # Errors
/// Stdout's.
pub(super) fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "containerfs", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(())
}

/// Prints the manual page: the command itself, then each of its commands.
///
/// # Errors
/// Stdout's.
pub(super) fn man() -> Result<()> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        page.extend(format!(".SH \"{}\"\n", sub.get_name().to_uppercase()).bytes());
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(())
}
