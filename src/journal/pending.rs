//! What lies in the journals, for a person who asks: bytes that are not on the server.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::journal::directory::{locked, subdirectories};
use crate::journal::stage::{Meta, NOTE};
use crate::journal::{Intent, Noted, note};
use crate::namespace::names;
use crate::namespace::records::Records;

/// Why bytes wait that were being written when their mount died.
pub const UNFINISHED: &str = "unfinished: never closed";

/// Why bytes wait that a mount has, and that no program has closed.
const OPEN: &str = "unfinished: not closed yet";

/// Bytes that are not on the server.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// What a person calls it: journal and number.
    pub id: String,
    /// What is known of it; none if nobody wrote that down.
    pub meta: Option<Meta>,
    /// How many.
    pub bytes: u64,
    /// Whether a mount that lives has it.
    pub live: bool,
    #[serde(skip)]
    dir: PathBuf,
}

impl Item {
    /// Why it is not on the server.
    pub fn reason(&self) -> String {
        match &self.meta {
            Some(meta) if meta.local => "stays on this machine, as its name says".to_owned(),
            Some(Meta { reason: Some(reason), .. }) => reason.clone(),
            Some(meta) if meta.closed => "not uploaded yet".to_owned(),
            _ if self.live => OPEN.to_owned(),
            _ => UNFINISHED.to_owned(),
        }
    }

    /// Whether it is closed and on its way to the server, or was refused there.
    pub fn is_to_be_sent(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.closed && !meta.local)
    }

    /// Whether it has a scratch name, under which it is never sent.
    pub fn stays_here(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.local)
    }

    /// Where it belongs: the path below its container.
    pub fn path(&self) -> Option<&str> {
        self.meta.as_ref().map(|meta| meta.path.as_str())
    }

    /// Copies the bytes below `directory`, as `CONTAINER/PATH`; nothing there is overwritten. Returns where.
    ///
    /// # Errors
    /// The disk's; `AlreadyExists`.
    pub fn save(&self, directory: &Path) -> io::Result<PathBuf> {
        let mut to = directory.to_owned();
        match &self.meta {
            Some(meta) => {
                to.push(names::safe_component(meta.container.as_str(), meta.container.as_str()));
                to.extend(names::components(&meta.path));
            }
            None => to.push(self.id.replace('/', "-")),
        }
        if let Some(parent) = to.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW);
        io::copy(&mut options.open(self.dir.join("data"))?, &mut file)?;
        file.sync_all()?;
        Ok(to)
    }

    /// Lets the next mount send it.
    ///
    /// # Errors
    /// `ResourceBusy` if a mount has it, `InvalidData` if it is not known where it belongs, or the disk's.
    pub fn retry(&self) -> io::Result<()> {
        self.check_unused()?;
        let mut meta = self.meta.clone().ok_or(io::ErrorKind::InvalidData)?;
        (meta.closed, meta.refused, meta.reason) = (true, false, None);
        note::write(&self.dir, NOTE, &meta, true)
    }

    /// Throws it away.
    ///
    /// # Errors
    /// `ResourceBusy` if a mount has it, or the disk's.
    pub fn discard(&self) -> io::Result<()> {
        self.check_unused()?;
        self.strike_out_answered()?;
        fs::remove_dir_all(&self.dir)
    }

    /// A POST was answered before its mount died if what it replaces is not wanted any more: what it has made is all
    /// that there is under the name, and no later mount is to delete it.
    fn strike_out_answered(&self) -> io::Result<()> {
        let Some(meta) = &self.meta else { return Ok(()) };
        let (Some(journal), Some(account)) = (self.dir.parent(), self.dir.ancestors().nth(3)) else {
            return Ok(());
        };
        let records = Records::open(account)?;
        let buried: Vec<_> = meta.replaced().filter(|id| records.is_buried(&meta.container, id)).collect();
        for noted in subdirectories(journal).into_iter().map(Noted::at) {
            if let Ok(Intent::Forget { container, sent }) = noted.read()
                && container == meta.container
                && buried.iter().any(|id| sent.known.contains(id))
            {
                noted.done();
            }
        }
        Ok(())
    }

    fn check_unused(&self) -> io::Result<()> {
        if self.live { Err(io::ErrorKind::ResourceBusy.into()) } else { Ok(()) }
    }
}

/// Everything that is pending below `state_dir`, of all accounts, oldest first within a journal.
pub fn items(state_dir: &Path) -> Vec<Item> {
    let mut items = Vec::new();
    for account in subdirectories(state_dir) {
        for journal in subdirectories(&account.join("journal")) {
            let lock = locked(&journal);
            let live = matches!(lock, Ok(None));
            items.extend(subdirectories(&journal).into_iter().filter_map(|dir| item(dir, live)));
        }
    }
    items
}

fn item(dir: PathBuf, live: bool) -> Option<Item> {
    let bytes = fs::symlink_metadata(dir.join("data")).ok().filter(fs::Metadata::is_file)?.len();
    let meta: Option<Meta> = note::read(&dir, NOTE).ok();
    // Moved aside, or left open while the server has it: nobody waits for it. Nor for an empty file that was just made.
    let waits = match &meta {
        Some(meta) => {
            let was_left = meta.closed || meta.reason.is_some() || bytes > 0;
            meta.shelved.is_none() && !meta.arrived && was_left
        }
        None => !live && bytes > 0,
    };
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let id = format!("{}/{}", name(dir.parent()?)?, name(&dir)?.trim_start_matches('0'));
    waits.then_some(Item { id, meta, bytes, live, dir })
}
