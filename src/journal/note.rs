//! Small JSON files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes `name` in `dir`, private to this account. What is durable survives the loss of power too.
///
/// # Errors
/// The disk's.
pub(super) fn write(dir: &Path, name: &str, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    let temporary = dir.join(format!(".{name}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&text)?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(temporary, dir.join(name))?;
    if durable {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Reads `name` in `dir`.
///
/// # Errors
/// The disk's, or `InvalidData` for what is not such a note.
pub(super) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(dir.join(name))?)?)
}
