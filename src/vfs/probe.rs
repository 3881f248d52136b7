//! Whether a server keeps directories in the names of uploads is found out with a file of random name in a random
//! directory: a user's bytes are never the probe.
//!
//! Nobody is shown it. It goes as soon as its answer is there, or when a list shows what a POST without an
//! answer has made, in a later mount too.

use std::sync::Arc;
use std::time::Instant;

use crate::api::client::UploadBody;
use crate::api::{ContainerId, File, FileId};
use crate::journal::{Intent, Noted, steps};
use crate::namespace::names;
use crate::vfs::lost::{MADE_WITHIN, NANOS, seconds_at};
use crate::vfs::{Error, Result, State, Vfs, attr};

/// Characters of a base name.
const BASE: usize = 16;

/// A probe whose answer was lost.
#[derive(Debug)]
pub(super) struct Probe {
    container: ContainerId,
    /// When it was sent, in nanoseconds since the epoch.
    at: i64,
    /// Says so until it is known to be gone.
    noted: Noted,
}

impl Vfs {
    /// The filename that an upload of `path` is sent under. A path with directories needs to know what the
    /// server does to them, which a probe finds out once: a user's bytes are never the probe.
    ///
    /// # Errors
    /// The server's, of the probe.
    pub(super) async fn filename(&self, container: &ContainerId, path: &str) -> Result<String> {
        if !path.contains('/') {
            return Ok(path.to_owned());
        }
        let _turn = self.probing.lock().await;
        let known = self.state().records.directories_kept();
        let kept = match known {
            Some(kept) => kept,
            None => {
                let kept = self.probe_directories(container).await?;
                self.state().records.set_directories_kept(kept);
                kept
            }
        };
        let name = names::upload_name(path, kept);
        let longest = name.rsplit('/').next().map_or(0, str::len);
        if longest > names::NAME_MAX {
            return Err(Error::told(
                libc::ENAMETOOLONG,
                "the path is longer than 255 bytes, the server's limit",
            ));
        }
        Ok(name)
    }

    /// Asks the server with a file that goes again.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn probe_directories(&self, container: &ContainerId) -> Result<bool> {
        match self.probe_once(container).await {
            // The list that shows what the first has made has it deleted.
            Err(error) if self.wait_to_repeat(&error).await => {
                self.client.count_repetition();
                self.probe_once(container).await
            }
            told => told,
        }
    }

    async fn probe_once(&self, container: &ContainerId) -> Result<bool> {
        let random = || hex::encode(rand::random::<[u8; 8]>());
        let (directory, base) = (format!(".containerfs-{}", random()), random());
        let body =
            UploadBody::Bytes(bytes::Bytes::from_static(b"containerfs asks whether directories are kept\n"));
        let at = attr::now();
        let probe = Intent::Probe { container: container.clone(), base: base.clone(), at };
        let noted = self.journal.intend(&probe)?;
        self.state().hide_probe(&base);
        steps::step();
        let sent = self.client.upload(container, &format!("{directory}/{base}"), body).await;
        let file = match sent {
            Ok(file) => file,
            Err(error) => {
                if error.may_have_happened {
                    self.lost_probe(container, base, at, noted);
                } else {
                    noted.done();
                }
                return Err(error.into());
            }
        };
        if self.state().shows(container, &file.id) {
            self.lost_probe(container, base, at, noted);
            return Err(Error::told(libc::EPROTO, "the server answered a new file with the id of another"));
        }
        let kept = file.path.ends_with(&format!("{directory}/{base}"));
        self.delete_version(container, &file.id).await;
        noted.done();
        Ok(kept)
    }

    /// Takes up a probe of an earlier mount: a list tells what became of it.
    pub(super) async fn resume_probe(
        self: &Arc<Self>,
        container: ContainerId,
        base: String,
        at: i64,
        noted: Noted,
    ) {
        if !self.is_in_this_mount(&container, &noted).await {
            return;
        }
        self.lost_probe(&container, base, at, noted);
        if let Err(error) = self.ensure_listed_since(&container, Instant::now()).await {
            tracing::debug!(%error, "a probe of an earlier mount is looked for in later lists");
        }
    }

    fn lost_probe(&self, container: &ContainerId, base: String, at: i64, noted: Noted) {
        let probe = Probe { container: container.clone(), at, noted };
        self.state().probes.insert(base, Some(probe));
    }

    /// Takes probes out of a list that was asked for at `asked`, and has them deleted. One that it does not
    /// show may come yet, but not for ever.
    pub(super) fn take_out_probes(
        self: &Arc<Self>,
        state: &mut State,
        container: &ContainerId,
        files: &mut Vec<File>,
        asked: Instant,
    ) {
        if state.probes.is_empty() {
            return;
        }
        let base_of = |file: &File| {
            let name = file.path.get(file.path.len().checked_sub(BASE)?..)?;
            state.probes.contains_key(name).then(|| name.to_owned())
        };
        let found: Vec<(String, FileId)> = files
            .extract_if(.., |file| base_of(file).is_some())
            .filter_map(|file| Some((base_of(&file)?, file.id)))
            .collect();
        let asked = seconds_at(asked);
        for (base, probe) in &mut state.probes {
            let is_found = found.iter().any(|(found, _)| found == base);
            let is_not_to_come = |probe: &mut Probe| {
                probe.container == *container && (probe.at / NANOS).saturating_add(MADE_WITHIN) < asked
            };
            if !is_found && let Some(probe) = probe.take_if(is_not_to_come) {
                probe.noted.done();
            }
        }
        for (base, id) in found {
            let Some(probe) = state.probes.get_mut(&base).and_then(Option::take) else { continue };
            let (vfs, container) = (self.clone(), container.clone());
            state.bury(&container, &id);
            self.behind.spawn(async move {
                vfs.delete_version(&container, &id).await;
                probe.noted.done();
            });
        }
    }
}

impl State {
    /// Nobody is shown what has this base name.
    pub(super) fn hide_probe(&mut self, base: &str) {
        self.probes.entry(base.to_owned()).or_insert(None);
    }
}
