//! `containerfs completions` and `containerfs man`, out of the one definition.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::args::{self, Cli, Completions};
use crate::cli::output;

/// Bash takes a colon for the end of a word, and some of our commands have one: this puts the words together
/// again before the generated function sees them, and takes off what bash already has of the answers.
const BASH_COLONS: &str = r#"
_containerfs_whole_words() {
    local line="${COMP_LINE:0:COMP_POINT}" cur prev at
    local -a words
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    COMP_WORDS=("${words[@]}")
    COMP_CWORD=$(( ${#words[@]} - 1 ))
    cur="${words[COMP_CWORD]}"
    prev=""
    (( COMP_CWORD > 0 )) && prev="${words[COMP_CWORD-1]}"
    _containerfs "$1" "$cur" "$prev"
    if [[ "$cur" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        for at in "${!COMPREPLY[@]}"; do
            COMPREPLY[at]="${COMPREPLY[at]#"${cur%:*}:"}"
        done
    fi
}
complete -F _containerfs_whole_words -o bashdefault -o default containerfs
"#;

/// Prints completions.
///
/// # Errors
/// Stdout's.
pub(super) fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "containerfs", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Bash {
        script.push_str(BASH_COLONS);
    }
    output::print(&script)?;
    Ok(())
}

/// Prints the manual page of everything, or writes a page for each command into a directory.
///
/// # Errors
/// Stdout's, or the disk's.
pub(super) fn man(args: &args::Man) -> Result<()> {
    // `containerfs help` is told by each page itself.
    let mut command = Cli::command().disable_help_subcommand(true);
    for group in command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect::<Vec<_>>() {
        command = command.mut_subcommand(group, |group| group.disable_help_subcommand(true));
    }
    command.build();
    match &args.output {
        None => output::print(&String::from_utf8_lossy(&whole(&command)?))?,
        Some(directory) => {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
            let mut pages = vec![("containerfs".to_owned(), whole(&command)?)];
            each(&command, "containerfs", "", &mut |name, _, command| {
                let mut page = Vec::new();
                let of_its_own = command.clone().display_name(name);
                Man::new(of_its_own).title(name.to_uppercase()).render(&mut page)?;
                let page = references_as_files(&page);
                pages.push((name.to_owned(), page));
                Ok(())
            })?;
            for (name, page) in pages {
                write(directory, &name, &page)?;
            }
        }
    }
    Ok(())
}

fn write(directory: &Path, name: &str, page: &[u8]) -> Result<()> {
    let to = directory.join(format!("{name}.1"));
    fs::write(&to, page).with_context(|| format!("cannot write {}", to.display()))
}

/// The command itself, then each of its commands with the flags that are its own.
fn whole(command: &Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    page = references_as_files(&page);
    each(command, "", "", &mut |_, spoken, command| {
        if command.has_subcommands() {
            return Ok(());
        }
        page.extend(
            format!(
                ".SH \"{}\"
",
                spoken.to_uppercase()
            )
            .bytes(),
        );
        let mut own = command.clone();
        let shared: Vec<String> = own
            .get_arguments()
            .filter(|arg| arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version"))
            .map(|arg| arg.get_id().to_string())
            .collect();
        for id in shared {
            own = own.mut_arg(id, |arg| arg.hide(true));
        }
        let man = Man::new(own);
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        Ok(())
    })?;
    Ok(page)
}

/// References to pages by the names that their files have.
fn references_as_files(page: &[u8]) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let lines = page.lines().map(|line| {
        let reference = line.starts_with("containerfs\\-") && line.ends_with("(1)");
        if reference { line.replace(':', "\\-") } else { line.to_owned() }
    });
    lines.flat_map(|line| [line, "\n".to_owned()]).collect::<String>().into_bytes()
}

/// Each command and group of commands, with the name of its page and the words that call it.
fn each(
    command: &Command,
    name: &str,
    spoken: &str,
    work: &mut impl FnMut(&str, &str, &Command) -> Result<()>,
) -> Result<()> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        // A colon means something in the names of files elsewhere.
        let name = format!("{name}-{}", sub.get_name().replace(':', "-"));
        let spoken = format!("{spoken} {}", sub.get_name()).trim_start().to_owned();
        work(&name, &spoken, sub)?;
        each(sub, &name, &spoken, work)?;
    }
    Ok(())
}
