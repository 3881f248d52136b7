//! `containerfs pending`: bytes that are not on the server. It needs no mount.

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use indicatif::HumanBytes;

use crate::cli::args::{Pending, StateDir};
use crate::cli::exit_codes::ExitCode;
use crate::cli::{directories, output};
use crate::daemon::control::{Connection, Question};
use crate::fuse::mounts::{self, Entry};
use crate::journal::pending::{Item, items};

/// Runs one of its commands.
///
/// # Errors
/// An id that is none, or the disk's.
pub(super) fn pending(command: &Pending) -> Result<ExitCode> {
    match command {
        Pending::List { state, json } => list(&all(state)?, *json),
        Pending::Retry { state, ids } => {
            for item in chosen(all(state)?, ids)? {
                let closed = item.meta.as_ref().is_some_and(|meta| meta.closed);
                if item.live || (ids.is_empty() && !closed) {
                    continue;
                }
                item.retry().with_context(|| format!("{}: it is not known where it belongs", item.id))?;
                output::line(&format!("{}: the next mount sends it", item.id))?;
            }
            ask_the_living()?;
            Ok(ExitCode::Success)
        }
        Pending::Save { state, directory, ids } => {
            for item in chosen(all(state)?, ids)? {
                let to = item.save(directory).with_context(|| format!("cannot save {}", item.id))?;
                output::line(&output::escaped(&format!("{}: {}", item.id, to.display())))?;
            }
            Ok(ExitCode::Success)
        }
        Pending::Discard { state, ids } => {
            for item in chosen(all(state)?, ids)? {
                if item.live {
                    bail!("{} is in use: remove the file in its mount, or unmount first", item.id);
                }
                item.discard().with_context(|| format!("cannot discard {}", item.id))?;
                output::line(&format!("{}: thrown away", item.id))?;
            }
            Ok(ExitCode::Success)
        }
    }
}

fn all(state: &StateDir) -> Result<Vec<Item>> {
    Ok(items(&directories::state(&state.state_dir)?))
}

fn chosen(items: Vec<Item>, ids: &[String]) -> Result<Vec<Item>> {
    if let Some(unknown) = ids.iter().find(|id| !items.iter().any(|item| item.id == **id)) {
        bail!("nothing pending is called {unknown:?}; `containerfs pending list` names everything");
    }
    Ok(items.into_iter().filter(|item| ids.is_empty() || ids.contains(&item.id)).collect())
}

fn list(items: &[Item], json: bool) -> Result<ExitCode> {
    if json {
        output::line(&serde_json::to_string_pretty(items)?)?;
        return Ok(ExitCode::Success);
    }
    if items.is_empty() {
        output::line("nothing is pending")?;
        return Ok(ExitCode::Success);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["ID", "FILE", "SIZE", "CONTAINER", "WHY"]);
    for item in items {
        let file = output::escaped(item.path().unwrap_or("?"));
        let why = if item.live { format!("{} (mounted)", item.reason()) } else { item.reason() };
        let container = item.meta.as_ref().map_or("?", |meta| meta.container.as_str());
        let (size, container) = (HumanBytes(item.bytes).to_string(), output::escaped(container));
        table.add_row([item.id.clone(), file, size, container, output::escaped(&why)]);
    }
    output::line(&table.trim_fmt())?;
    Ok(ExitCode::Success)
}

/// Mounts that live send at once.
fn ask_the_living() -> Result<()> {
    for entry in mounts::all()?.iter().filter(|entry| Entry::is_ours(entry)) {
        let answer =
            Connection::ask(entry.device, &Question::Retry).and_then(|mut connection| connection.line());
        if let Err(error) = answer {
            eprintln!("containerfs: {} does not answer: {error}", entry.mountpoint.display());
        }
    }
    Ok(())
}
