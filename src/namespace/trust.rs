//! How far the bytes of a file that a model wrote can be trusted.
//!
//! Whether such a file gets another id when it is written again is unknown (API.md "Objects"), so its bytes
//! are trusted for a while only. What was handed out the kernel may keep, and show to whoever opens the
//! inode next.

use std::time::Instant;

use crate::namespace::inode::FileNode;

/// What is known of the bytes that were asked for.
#[derive(Debug, Default)]
pub struct Trust {
    /// When they were last asked for.
    pub asked: Option<Instant>,
    /// Whether any were handed to a program.
    pub handed_out: bool,
    /// Those that were handed out, if the server may have others by now.
    pub doubt: Option<Doubt>,
    /// The length that the kernel was told, if the first bytes came with a lesser one.
    pub promised: Option<u64>,
    /// The server has others: this is for those who have it open.
    pub past: bool,
}

/// Bytes that may have been replaced under the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// How many they are.
    pub len: Option<u64>,
    /// Their checksum, if all of them were here.
    pub sum: Option<String>,
}

impl Doubt {
    /// Whether `len` bytes with checksum `sum` are the same; `None` if that cannot be told.
    pub fn is_about(&self, len: u64, sum: Option<&str>) -> Option<bool> {
        if self.len.is_some_and(|before| before != len) {
            return Some(false);
        }
        Some(self.sum.as_deref()? == sum?)
    }
}

impl FileNode {
    /// Whether the version on the server cannot change under its id, or does not matter any more.
    pub fn is_for_good(&self) -> bool {
        let is_users = self.server.as_ref().is_none_or(|server| server.source == "user");
        is_users || self.size_is_ours || self.trust.past
    }

    /// Whether the kernel may expect bytes behind the end at `offset`. What is answered there it takes for
    /// the end, and shows zeros up to it.
    pub fn is_missing(&self, offset: u64) -> bool {
        let (Some(promised), Some((len, _))) = (self.trust.promised, self.size) else { return false };
        len < offset && offset < promised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_if_length_and_checksum_are() {
        let doubt = Doubt { len: Some(3), sum: Some("a".to_owned()) };
        assert_eq!(doubt.is_about(3, Some("a")), Some(true));
        assert_eq!(doubt.is_about(3, Some("b")), Some(false));
        assert_eq!(doubt.is_about(4, None), Some(false));
        assert_eq!(doubt.is_about(3, None), None);
        let seen_in_part = Doubt { len: None, sum: None };
        assert_eq!(seen_in_part.is_about(3, Some("a")), None);
    }
}
