//! The bytes of a file, up or down, with a progress bar where a person watches.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::api::client::{Part, UploadBody};
use crate::api::{Client, ContainerId, FileId, Reply};
use crate::cli::args::Common;
use crate::cli::server;

/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);

/// What to upload, and under which name.
pub(super) struct Source {
    name: String,
    path: PathBuf,
    len: u64,
    /// What has no length is spooled here first; removed with this value.
    _spooled: Option<tempfile::NamedTempFile>,
}

impl Source {
    /// A file, or standard input for `-`; `filename` is needed where there is no name.
    ///
    /// # Errors
    /// It cannot be read, or has no name.
    pub(super) fn open(file: &Path, filename: Option<&str>) -> Result<Self> {
        let stdin = file == Path::new("-");
        let own = file.file_name().and_then(|name| name.to_str()).filter(|_| !stdin);
        let name = filename.or(own).context("--filename is needed: standard input has no name")?.to_owned();
        let mut input: Box<dyn io::Read> = if stdin {
            Box::new(io::stdin().lock())
        } else {
            let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
            let metadata = opened.metadata()?;
            if metadata.is_dir() {
                bail!("{} is a directory", file.display());
            }
            if metadata.is_file() {
                return Ok(Self { name, path: file.to_owned(), len: metadata.len(), _spooled: None });
            }
            Box::new(opened)
        };
        let mut spooled = tempfile::NamedTempFile::new()?;
        let len =
            io::copy(&mut input, &mut spooled).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self { name, path: spooled.path().to_owned(), len, _spooled: Some(spooled) })
    }

    /// Uploads it; returns the reply as it came.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn upload(&self, client: &Client, container: &ContainerId) -> Result<Reply> {
        let sent = Arc::new(AtomicU64::new(0));
        let body = UploadBody::File { path: self.path.clone(), len: self.len };
        let mut reply = std::pin::pin!(client.raw().upload(container, &self.name, body, sent.clone()));
        let bar = bar(Some(self.len));
        let outcome = loop {
            match tokio::time::timeout(TICK, &mut reply).await {
                Ok(outcome) => break outcome,
                Err(_) => bar.set_position(sent.load(Ordering::Relaxed).min(self.len)),
            }
        };
        bar.finish_and_clear();
        Ok(outcome?)
    }
}

/// Writes the content of a file to standard output. A reader that went away is no error.
///
/// # Errors
/// The server's; with `binary_is_meant` not set, that a terminal is no place for these bytes.
pub(super) fn to_stdout(
    common: &Common,
    container: &ContainerId,
    file: &FileId,
    binary_is_meant: bool,
) -> Result<()> {
    let careful = io::stdout().is_terminal() && !binary_is_meant;
    let outcome = server::call(common, async |client| {
        receive(&client, container, file, &mut io::stdout().lock(), &ProgressBar::hidden(), careful).await
    });
    match outcome {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        outcome => outcome,
    }
}

/// Writes the content of a file to `path`: to a temporary name beside it, which becomes `path` when every
/// byte is there. What is no ordinary file (`/dev/null`, a pipe) is written to as it is.
///
/// # Errors
/// The server's, or the disk's; what was at `path` before stays then.
pub(super) fn to_file(common: &Common, container: &ContainerId, file: &FileId, path: &Path) -> Result<()> {
    let shown = path.display();
    let present = match fs::metadata(path) {
        Ok(present) => Some(present),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot write to {shown}")),
    };
    if present.as_ref().is_some_and(fs::Metadata::is_dir) {
        bail!("{shown} is a directory: name a file in it");
    }
    if present.as_ref().is_some_and(|present| !present.is_file()) {
        let mut special =
            File::options().write(true).open(path).with_context(|| format!("cannot write to {shown}"))?;
        return server::call(common, async |client| {
            receive(&client, container, file, &mut special, &ProgressBar::hidden(), false).await
        });
    }
    // What a symbolic link leads to is replaced, and not the link.
    let target = if present.is_some() { path.canonicalize()? } else { path.to_owned() };
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(".containerfs-")
        .tempfile_in(directory)
        // The error itself names the temporary file, which nobody has asked for.
        .map_err(|error| anyhow!("cannot write to {}: {}", directory.display(), error.kind()))?;
    server::call(common, async |client| {
        receive(&client, container, file, temporary.as_file_mut(), &bar(None), false).await
    })?;
    let mode = present.map_or_else(usual_mode, |present| present.permissions());
    temporary.as_file().set_permissions(mode)?;
    temporary.persist(&target).with_context(|| format!("cannot write {shown}"))?;
    Ok(())
}

/// Writes the content of a file to `to`; where it looks as if something else had come in its place, the server is
/// asked what it knows of the file.
async fn receive(
    client: &Client,
    container: &ContainerId,
    file: &FileId,
    to: &mut impl Write,
    bar: &ProgressBar,
    careful: bool,
) -> Result<()> {
    let mut content = client.content(container, file, &Part::Whole).await?;
    let mut expected = None;
    // The file's name may yet say that it is one of that type.
    if content.is_suspect("") {
        let known = client.retrieve_file(container, file).await?;
        content.check(&known, None).await?;
        expected = content.expected_len(&known, None).map(|len| (len, known.path));
    }
    if let Some(length) = content.length {
        bar.set_length(length);
    }
    let (mut begun, mut received) = (false, 0);
    while let Some(chunk) = content.chunk().await? {
        if careful && !begun && chunk.contains(&0) {
            bail!(
                "these bytes are not text, and would garble the terminal: use --output FILE, or --output -"
            );
        }
        begun = true;
        received += chunk.len() as u64;
        to.write_all(&chunk)?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    if let Some((expected, path)) = expected.filter(|(expected, _)| *expected != received) {
        return Err(content.wrong_length(expected, received, &path).into());
    }
    to.flush()?;
    Ok(())
}

/// A bar on stderr; hidden where that is no terminal.
fn bar(len: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = len.map_or_else(ProgressBar::no_length, ProgressBar::new);
    match ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A temporary file is private; the one that it becomes has the mode that the umask gives.
fn usual_mode() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    fs::Permissions::from_mode(0o666 & !mask.bits())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
