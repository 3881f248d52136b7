//! Writes `records.jsonl` anew with what still counts, when nobody else has it open.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::namespace::records::{Fact, Records};
use crate::private;

/// A file with fewer bytes is left as it is.
const SMALL: u64 = 256 << 10;

/// It is written anew if that makes it this many times as short.
const WORTH_IT: usize = 2;

/// Deletions that are remembered: a list may lag, but not for long.
const DELETIONS: usize = 1000;

/// Opens the file for appending, with a shared lock that goes with it.
///
/// # Errors
/// The disk's.
pub(super) fn share(path: &Path) -> io::Result<File> {
    loop {
        let file = open(path)?;
        private::share(&file)?;
        if is_still_there(&file, path)? {
            return Ok(file);
        }
    }
}

/// Writes the file anew if that is worth it and nobody else has it open. Returns whether nobody has.
///
/// # Errors
/// The disk's; the file is as it was.
pub(super) fn if_alone(path: &Path) -> io::Result<bool> {
    let file = open(path)?;
    if !private::lock(&file)? || !is_still_there(&file, path)? {
        return Ok(false);
    }
    if file.metadata()?.len() < SMALL {
        return Ok(true);
    }
    let (mut lines, mut deleted) = (0, VecDeque::new());
    let records = Records::of(file, |fact| {
        lines += 1;
        if let Fact::Deleted { container, id, .. } = fact {
            deleted.push_back((container.clone(), id.clone()));
            if deleted.len() > DELETIONS {
                deleted.pop_front();
            }
        }
    })?;
    let deleted: HashSet<_> = deleted.into_iter().collect();
    let counts = |fact: &Fact| match fact {
        Fact::Deleted { container, id, .. } => deleted.contains(&(container.clone(), id.clone())),
        _ => true,
    };
    let facts: Vec<_> = records.facts().filter(counts).collect();
    if facts.len() * WORTH_IT > lines {
        return Ok(true);
    }
    let new = path.with_extension("jsonl.new");
    let written = write(&new, &facts).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map(|()| true)
}

fn write(path: &Path, facts: &[Fact]) -> io::Result<()> {
    // Left by a crash.
    let _ = fs::remove_file(path);
    let file = private::open(path, OpenOptions::new().write(true).create_new(true))?;
    let mut out = BufWriter::new(file);
    for fact in facts {
        serde_json::to_writer(&mut out, fact)?;
        out.write_all(b"\n")?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn open(path: &Path) -> io::Result<File> {
    private::open(path, OpenOptions::new().read(true).append(true).create(true))
}

/// Whether `path` still leads to `file`: somebody may have written it anew.
fn is_still_there(file: &File, path: &Path) -> io::Result<bool> {
    let (opened, there) = (file.metadata()?, fs::symlink_metadata(path));
    Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ContainerId, FileId};
    use crate::namespace::records::Attributes;

    fn size(dir: &Path) -> u64 {
        fs::metadata(dir.join("records.jsonl")).unwrap().len()
    }

    /// As many saves of one file, each of which replaces the one before.
    fn save(records: &mut Records, container: &ContainerId, times: usize) {
        for number in 0..times {
            let id = |number: usize| FileId::from(format!("file_{number}").as_str());
            let attributes = Attributes { mtime: Some(1), ..Attributes::default() };
            records.remember_file(container, &id(number + 1), Some("a/b".to_owned()), attributes);
            records.bury(container, &id(number));
        }
    }

    #[test]
    fn what_counts_no_more_goes_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let container = ContainerId::from("c");
        let mut records = Records::open(dir.path()).unwrap();
        records.set_directory(&container, "empty", true);
        records.set_directories_kept(true);
        let attributes = Attributes { mode: Some(0o700), ..Attributes::default() };
        records.set_directory_attributes(&container, "", attributes);
        save(&mut records, &container, 5000);
        let before = size(dir.path());
        drop(records);

        let records = Records::open(dir.path()).unwrap();
        assert!(size(dir.path()) * 2 < before);
        let known = records.container(&container).unwrap();
        assert_eq!(known.paths[&FileId::from("file_5000")], "a/b");
        assert_eq!(known.attributes[&FileId::from("file_5000")].mtime, Some(1));
        assert_eq!(known.paths.len(), 1);
        assert!(known.directories.contains("empty"));
        assert_eq!(records.directory_attributes(&container, ""), attributes);
        assert_eq!(records.directories_kept(), Some(true));
        let is_buried =
            |number: usize| records.is_buried(&container, &FileId::from(format!("file_{number}").as_str()));
        assert!(is_buried(4999) && is_buried(4000) && !is_buried(3999));
    }

    #[test]
    fn nothing_is_left_of_a_container_that_was_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::open(dir.path()).unwrap();
        for container in ["stays", "goes"].map(ContainerId::from) {
            for number in 0..3000 {
                let id = FileId::from(format!("file_{number}").as_str());
                records.remember_file(&container, &id, Some(format!("f{number}")), Attributes::default());
            }
        }
        records.forget(&"goes".into());
        records.forget(&"unknown".into());
        drop(records);
        assert!(size(dir.path()) > SMALL);
        let records = Records::open(dir.path()).unwrap();
        assert!(records.container(&"goes".into()).is_none());
        assert_eq!(records.container(&"stays".into()).unwrap().paths.len(), 3000);
        let left = fs::read_to_string(dir.path().join("records.jsonl")).unwrap();
        assert!(!left.contains("goes") && left.lines().count() == 3000);
    }

    #[test]
    fn nothing_is_taken_from_under_another_mount() {
        let dir = tempfile::tempdir().unwrap();
        let container = ContainerId::from("c");
        let mut first = Records::open(dir.path()).unwrap();
        save(&mut first, &container, 5000);
        let before = size(dir.path());
        let second = Records::open(dir.path()).unwrap();
        assert_eq!(size(dir.path()), before);
        drop(second);
        first.set_directory(&container, "later", true);
        drop(first);
        let third = Records::open(dir.path()).unwrap();
        assert!(size(dir.path()) < before);
        assert!(third.container(&container).unwrap().directories.contains("later"));
    }
}
