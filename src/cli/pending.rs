//! `containerfs pending`: bytes that are not on the server. It needs no mount.

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use indicatif::HumanBytes;

use crate::cli::args::{Pending, StateDir};
use crate::cli::exit_codes::ExitCode;
use crate::cli::{directories, output};
use crate::daemon::asking::Connection;
use crate::daemon::control::{Answer, Question};
use crate::fuse::mounts::{self, Entry};
use crate::journal::pending::{Item, items};
use crate::vfs::Left;

/// Ids in one question, which has to be short.
const AT_ONCE: usize = 500;

/// Runs one of its commands.
///
/// # Errors
/// An id that is none, or the disk's.
pub(super) fn pending(command: &Pending) -> Result<ExitCode> {
    match command {
        Pending::List { state, json } => list(&all(state)?, *json),
        Pending::Retry { state, ids } => retry(state, ids),
        Pending::Save { state, directory, ids } => {
            for item in chosen(all(state)?, ids)? {
                let to = item.save(directory).with_context(|| format!("cannot save {}", item.id))?;
                output::line(&output::escaped(&format!("{}: {}", item.id, to.display())))?;
            }
            Ok(ExitCode::Success)
        }
        Pending::Discard { state, ids } => discard(state, ids),
    }
}

fn retry(state: &StateDir, ids: &[String]) -> Result<ExitCode> {
    let mut asked = Vec::new();
    for item in chosen(all(state)?, ids)? {
        if item.stays_here() {
            if !ids.is_empty() {
                output::line(&format!("{}: stays on this machine; under another name it is sent", item.id))?;
            }
        } else if ids.is_empty() && !item.is_to_be_sent() {
            // Never closed: by its id alone.
        } else if item.live {
            asked.push(item.id);
        } else {
            item.retry().with_context(|| format!("{}: it is not known where it belongs", item.id))?;
            output::line(&format!("{}: the next mount sends it", item.id))?;
        }
    }
    let silent = ask_the_living(&asked, |ids| Question::Retry { ids })?.silent;
    let left: Vec<Item> = all(state)?.into_iter().filter(|item| asked.contains(&item.id)).collect();
    if left.is_empty() {
        return Ok(ExitCode::Success);
    }
    silent.iter().for_each(|why| eprintln!("containerfs: {why}"));
    for item in left {
        let told = format!("{}: {}: {}", item.id, item.path().unwrap_or("?"), item.reason());
        eprintln!("containerfs: still not on the server: {}", output::escaped(&told));
    }
    Ok(ExitCode::Pending)
}

fn discard(state: &StateDir, ids: &[String]) -> Result<ExitCode> {
    let (live, free): (Vec<Item>, Vec<Item>) =
        chosen(all(state)?, ids)?.into_iter().partition(|item| item.live);
    for item in free {
        item.discard().with_context(|| format!("cannot discard {}", item.id))?;
        output::line(&format!("{}: thrown away", item.id))?;
    }
    let asked: Vec<String> = live.into_iter().map(|item| item.id).collect();
    let answers = ask_the_living(&asked, |ids| Question::Discard { ids })?;
    let left: Vec<String> = all(state)?.into_iter().map(|item| item.id).collect();
    for id in asked {
        if left.contains(&id) {
            let why = answers.left.iter().find(|left| left.name == id).map(|left| left.reason.clone());
            let why = why.or_else(|| answers.silent.first().cloned());
            let why = why.unwrap_or_else(|| "the mount that has it does not answer".to_owned());
            bail!("{id} is still here: {why}");
        }
        output::line(&format!("{id}: thrown away"))?;
    }
    Ok(ExitCode::Success)
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
        output::json(&serde_json::to_string_pretty(items)?)?;
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

/// What mounts have said.
#[derive(Default)]
struct Answers {
    left: Vec<Left>,
    /// Those that say nothing, and why.
    silent: Vec<String>,
}

/// Asks the mounts of this user; each does what concerns its own journal.
fn ask_the_living(ids: &[String], question: impl Fn(Vec<String>) -> Question) -> Result<Answers> {
    let mut answers = Answers::default();
    if ids.is_empty() {
        return Ok(answers);
    }
    // Root could ask those of others, too, and would be told of bytes that are not in this journal.
    let us = nix::unistd::geteuid().as_raw();
    let is_meant = |entry: &&Entry| entry.is_ours() && entry.user.is_none_or(|user| user == us);
    for entry in mounts::all()?.iter().filter(is_meant) {
        for ids in ids.chunks(AT_ONCE) {
            let answer = Connection::ask_patiently(entry, &question(ids.to_vec()))
                .and_then(|mut connection| connection.line());
            match answer.map(|line| line.and_then(|line| serde_json::from_str(&line).ok())) {
                Ok(Some(Answer::Done(mut left))) => answers.left.append(&mut left),
                Ok(_) => answers.silent.push(format!("{} does not answer", entry.mountpoint.display())),
                Err(error) => {
                    answers.silent.push(format!("{} does not answer: {error}", entry.mountpoint.display()));
                }
            }
        }
    }
    Ok(answers)
}
