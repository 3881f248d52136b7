//! Small JSON files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes `name` in `dir`, private to this account. What is durable survives the loss of power too.
///
/// # Errors
/// The disk's.
pub(super) fn write(dir: &Path, name: &str, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}"));
    let file = create(&temporary, value)?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(&temporary, dir.join(name))?;
    if durable {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Writes `name` in `dir` durably, of something that `first` makes durable. The note is there only when that
/// is done; both are done at the same time, which a disk makes one of.
///
/// # Errors
/// The disk's, or those of `first`, and then there is no new note.
pub(super) fn write_after(
    dir: &Path,
    name: &str,
    value: &impl Serialize,
    first: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}"));
    let file = create(&temporary, value)?;
    thread::scope(|scope| {
        let first = thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, first)?;
        file.sync_data()?;
        first.join().unwrap_or_else(|_| Err(io::Error::other("a thread that syncs panicked")))
    })?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn create(temporary: &Path, value: &impl Serialize) -> io::Result<File> {
    let text = serde_json::to_vec_pretty(value)?;
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary);
    let mut file = create().or_else(|error| match error.kind() {
        // Left by a crash, or planted: not written through either way.
        io::ErrorKind::AlreadyExists => fs::remove_file(temporary).and_then(|()| create()),
        _ => Err(error),
    })?;
    file.write_all(&text)?;
    Ok(file)
}

/// Reads `name` in `dir`.
///
/// # Errors
/// The disk's, or `InvalidData` for what is not such a note.
pub(super) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<T> {
    // Whoever asks what is pending may be root: whose file it is does not matter, where it leads does.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut text = Vec::new();
    options.open(dir.join(name))?.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
