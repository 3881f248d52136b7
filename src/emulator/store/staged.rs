//! Bytes on their way into the store: hashed as they come, in memory while they are few, then in a temporary
//! file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};
use tokio::io::AsyncWriteExt;

/// Files up to this size need no file while a store is temporary: ten thousand of them make 160 MiB at most.
const HELD: usize = 16 * 1024;

/// So much of the beginning is enough to know SVG.
const HEAD: usize = 1024;

/// Where bytes are.
pub(crate) enum Place {
    Held(Bytes),
    Spilled(TempPath),
}

/// Bytes that came in whole.
pub(crate) struct Staged {
    pub(crate) place: Place,
    pub(crate) len: u64,
    /// The prefix that the server gives this name with these bytes.
    pub(crate) prefix: String,
    head: Vec<u8>,
}

impl Staged {
    /// Stages bytes that are all there.
    pub(crate) fn of(tmp: &Path, name: &str, bytes: &[u8]) -> io::Result<Self> {
        let mut hasher = name_hasher(name);
        hasher.update(bytes);
        let place = if bytes.len() <= HELD {
            Place::Held(Bytes::copy_from_slice(bytes))
        } else {
            let mut file = NamedTempFile::new_in(tmp)?;
            file.write_all(bytes)?;
            Place::Spilled(file.into_temp_path())
        };
        let head = bytes[..bytes.len().min(HEAD)].to_vec();
        Ok(Self { place, len: bytes.len() as u64, prefix: prefix(hasher), head })
    }

    /// Whether the bytes are an SVG document, by its beginning.
    pub(crate) fn is_svg(&self) -> bool {
        let text = String::from_utf8_lossy(&self.head);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        text.starts_with('<') && text.contains("<svg")
    }
}

/// Takes bytes as they come.
pub(crate) struct Stager {
    tmp: PathBuf,
    hasher: Sha256,
    head: Vec<u8>,
    held: Vec<u8>,
    spilled: Option<(tokio::fs::File, TempPath)>,
    len: u64,
}

impl Stager {
    pub(crate) fn new(tmp: PathBuf, name: &str) -> Self {
        Self { tmp, hasher: name_hasher(name), head: Vec::new(), held: Vec::new(), spilled: None, len: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) async fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.hasher.update(chunk);
        self.len += chunk.len() as u64;
        let missing = HEAD - self.head.len();
        self.head.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        if let Some((file, _)) = &mut self.spilled {
            return file.write_all(chunk).await;
        }
        self.held.extend_from_slice(chunk);
        if self.held.len() > HELD {
            let (file, path) = NamedTempFile::new_in(&self.tmp)?.into_parts();
            let mut file = tokio::fs::File::from_std(file);
            file.write_all(&std::mem::take(&mut self.held)).await?;
            self.spilled = Some((file, path));
        }
        Ok(())
    }

    pub(crate) async fn finish(self) -> io::Result<Staged> {
        let place = match self.spilled {
            Some((mut file, path)) => {
                // Without it the last write may still be on its way when the file is read.
                file.flush().await?;
                Place::Spilled(path)
            }
            None => Place::Held(self.held.into()),
        };
        Ok(Staged { place, len: self.len, prefix: prefix(self.hasher), head: self.head })
    }
}

fn name_hasher(name: &str) -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([0]);
    hasher
}

fn prefix(hasher: Sha256) -> String {
    hex::encode(&hasher.finalize()[..16])
}
