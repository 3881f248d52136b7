//! `containerfs path`: where the model finds a file that is shown, and where a file is shown that the model
//! names.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::stat::{major, minor};
use rustix::fs::getxattr;
use serde::Serialize;

use crate::cli::args;
use crate::cli::exit_codes::ExitCode;
use crate::cli::output;
use crate::daemon::asking::Connection;
use crate::daemon::control::Question;
use crate::fuse::mounts::{self, Entry};
use crate::vfs::Located;

/// The longest value of an extended attribute that is read, in bytes; the kernel takes no longer one.
const XATTR_MAX: usize = 64 << 10;

/// Directories that are listed at once when a model's path has to be looked for.
const LISTED_AT_ONCE: usize = 8;

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Place {
    /// Where it is shown.
    file: String,
    /// Where the model finds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Prints the other path of each file.
///
/// # Errors
/// Nothing is mounted that could be asked.
pub(super) fn path(args: &args::Path) -> Result<ExitCode> {
    let mounts: Vec<Entry> = mounts::all()?.into_iter().filter(Entry::is_ours).collect();
    if mounts.is_empty() {
        bail!("nothing is mounted: `containerfs mount` first");
    }
    let shown = !args.shown.is_empty();
    let places = if shown { shown_at(args, &mounts)? } else { found_at(&args.files, &mounts) };
    if args.json {
        output::json(&serde_json::to_string_pretty(&places)?)?;
    } else {
        for place in &places {
            let printed = if shown { Some(&place.file) } else { place.path.as_ref() };
            if let Some(printed) = printed.filter(|_| place.error.is_none()) {
                output::line(&output::escaped(printed))?;
            }
        }
    }
    let mut code = ExitCode::Success;
    for place in &places {
        if let Some(error) = &place.error {
            eprintln!("containerfs: {}: {}", output::escaped(&place.file), output::escaped(error));
            code = ExitCode::Failed;
        }
    }
    Ok(code)
}

/// What the model calls each file, and each file below a directory.
fn found_at(files: &[PathBuf], mounts: &[Entry]) -> Vec<Place> {
    let mut places = Vec::new();
    for file in files {
        if let Err(error) = look_at(file, mounts, &mut places) {
            let file = file.display().to_string();
            places.push(Place { error: Some(format!("{error:#}")), ..Place::of(file) });
        }
    }
    places
}

fn look_at(file: &Path, mounts: &[Entry], places: &mut Vec<Place>) -> Result<()> {
    let found = fs::metadata(file).map_err(|error| anyhow!(plain(&error)))?;
    let entry = mount_of(&found, mounts).context("it is not in a containerfs mount")?;
    if !found.is_dir() {
        places.push(ask(file)?.context("it is not on the server yet: the model cannot find it")?);
        return Ok(());
    }
    let root = file.canonicalize()?;
    if root == entry.mountpoint && attribute(file, "id")?.is_none() {
        bail!("it holds all containers: name one, or files");
    }
    below(file, places)
}

/// Every file below a directory, in order. What is on this machine alone is left out.
fn below(directory: &Path, places: &mut Vec<Place>) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(|error| anyhow!(plain(&error)))?;
    let mut entries = entries.collect::<io::Result<Vec<_>>>().map_err(|error| anyhow!(plain(&error)))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            below(&path, places)?;
        } else if kind.is_file() {
            places.extend(ask(&path)?);
        }
    }
    Ok(())
}

/// What the mount tells of a file; `None` if the server does not have it.
fn ask(file: &Path) -> Result<Option<Place>> {
    let Some(path) = attribute(file, "path")? else { return Ok(None) };
    Ok(Some(Place {
        path: Some(path),
        id: attribute(file, "id")?,
        container_id: attribute(file, "container_id")?,
        source: attribute(file, "source")?,
        ..Place::of(file.display().to_string())
    }))
}

fn attribute(file: &Path, name: &str) -> Result<Option<String>> {
    let mut value = vec![0; XATTR_MAX];
    match getxattr(file, format!("user.containerfs.{name}"), &mut value) {
        Ok(len) => Ok(Some(String::from_utf8_lossy(&value[..len]).into_owned())),
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(errno) => Err(anyhow!(plain(&errno.into()))),
    }
}

fn mount_of<'a>(found: &fs::Metadata, mounts: &'a [Entry]) -> Option<&'a Entry> {
    let device = (major(found.dev()), minor(found.dev()));
    mounts.iter().find(|entry| (u64::from(entry.device.0), u64::from(entry.device.1)) == device)
}

/// Where each path of a model is shown: in the places that are named, else in every mount.
fn shown_at(args: &args::Path, mounts: &[Entry]) -> Result<Vec<Place>> {
    let mut within = Vec::new();
    for place in &args.files {
        let shown = place.display();
        let found = fs::metadata(place).with_context(|| shown.to_string())?;
        let entry =
            mount_of(&found, mounts).with_context(|| format!("{shown} is not in a containerfs mount"))?;
        within.push((entry, place.canonicalize()?));
    }
    if within.is_empty() {
        within.extend(mounts.iter().map(|entry| (entry, entry.mountpoint.clone())));
    }
    let mut places = Vec::new();
    let mut listed = false;
    for path in &args.shown {
        // A model writes links to its files so.
        let path = path.strip_prefix("sandbox:").unwrap_or(path);
        let mut found = shown_in(path, &within);
        if found.is_empty() && !listed {
            list(&within);
            listed = true;
            found = shown_in(path, &within);
        }
        if found.is_empty() {
            let error = Some("no file that is shown has this path".to_owned());
            found.push(Place { error, ..Place::of(path.to_owned()) });
        }
        places.append(&mut found);
    }
    Ok(places)
}

fn shown_in(path: &str, within: &[(&Entry, PathBuf)]) -> Vec<Place> {
    let mut places = Vec::new();
    for (entry, place) in within {
        let answer = Connection::ask(entry, &Question::Locate { path: path.to_owned() })
            .and_then(|mut connection| connection.line())
            .ok()
            .flatten();
        let located: Vec<Located> =
            answer.and_then(|line| serde_json::from_str(&line).ok()).unwrap_or_default();
        for found in located {
            let file = entry.mountpoint.join(&found.shown);
            // The look also asks for a younger list, if that one has had its time.
            if !file.starts_with(place) || fs::symlink_metadata(&file).is_err() {
                continue;
            }
            places.push(Place {
                path: Some(found.path),
                id: Some(found.id),
                container_id: Some(found.container_id),
                ..Place::of(file.display().to_string())
            });
        }
    }
    places
}

/// Has the containers listed, so that the mounts know their files.
fn list(within: &[(&Entry, PathBuf)]) {
    let mut directories = Vec::new();
    for (_, place) in within {
        directories.push(place.clone());
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        directories.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    for group in directories.chunks(LISTED_AT_ONCE) {
        std::thread::scope(|scope| {
            for directory in group {
                scope.spawn(move || fs::read_dir(directory).map(Iterator::count));
            }
        });
    }
}

/// The system's words without the number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

impl Place {
    fn of(file: String) -> Self {
        Self { file, path: None, id: None, container_id: None, source: None, error: None }
    }
}
