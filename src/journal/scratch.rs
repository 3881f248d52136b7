//! Names of what tools write beside the file that a user edits. Such files stay here, or are sent only if
//! they are still there after a while.

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Never sent: swap files, backups, locks, what file managers strew about.
const LOCAL: [&str; 12] = [
    ".*.sw?",
    ".*.swpx",
    "*~",
    ".#*",
    "#*#",
    ".~lock.*#",
    ".goutputstream-*",
    ".nfs*",
    ".fuse_hidden*",
    ".DS_Store",
    "._*",
    ".Trash-*",
];

/// Probably renamed or removed in a moment: vim's probe, `sed -i`, rsync, and LibreOffice (`lu`, its process
/// and a token of letters and digits).
const DEFERRED: [&str; 4] = ["4913", "sed??????", ".*.??????", "lu[0-9]*[0-9a-z].tmp"];

/// What becomes of a file with a scratch name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It is never sent.
    Local,
    /// It is sent if it still has this name a while after its last close.
    Deferred,
}

/// The scratch names of a mount.
#[derive(Clone, Debug)]
pub struct Scratch {
    local: GlobSet,
    deferred: GlobSet,
}

impl Scratch {
    /// The names that everyone uses, and `further` ones, which stay local.
    ///
    /// # Errors
    /// One of them is no glob.
    pub fn new(further: &[String]) -> Result<Self, globset::Error> {
        let set = |globs: &mut dyn Iterator<Item = &str>| {
            let mut builder = GlobSetBuilder::new();
            for glob in globs {
                builder.add(Glob::new(glob)?);
            }
            builder.build()
        };
        let local = set(&mut LOCAL.into_iter().chain(further.iter().map(String::as_str)))?;
        Ok(Self { local, deferred: set(&mut DEFERRED.into_iter())? })
    }

    /// What `name`, the last component of a path, says.
    pub fn class(&self, name: &str) -> Option<Class> {
        if self.local.is_match(name) {
            Some(Class::Local)
        } else if self.deferred.is_match(name) {
            Some(Class::Deferred)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_strew_is_known_and_what_people_write_is_not() {
        let scratch = Scratch::new(&["*.bak".to_owned()]).unwrap();
        let local = [
            ".report.md.swp",
            ".a.swx",
            ".a.swpx",
            "report.md~",
            ".#notes",
            "#notes#",
            ".~lock.a.odt#",
            ".goutputstream-ABC123",
            ".DS_Store",
            "._a",
            ".nfs0001",
            ".Trash-1000",
            "x.bak",
        ];
        for name in local {
            assert_eq!(scratch.class(name), Some(Class::Local), "{name}");
        }
        for name in ["4913", "sedAb12_9", ".chart.png.x7Yz12", "lu12345abc0.tmp"] {
            assert_eq!(scratch.class(name), Some(Class::Deferred), "{name}");
        }
        let written =
            ["report.md", ".gitignore", "auto~1a2b3c4d", "sediment.csv", ".config.json", "a.swp", "#1"];
        for name in written.into_iter().chain(["luna.tmp", "lu1.tmp.csv", "lu.tmp"]) {
            assert_eq!(scratch.class(name), None, "{name}");
        }
    }
}
