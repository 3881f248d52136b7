//! Server path ↔ shown name (DESIGN §2, API.md "Paths").
//!
//! A server's names are hostile input. [`shown_path`] turns any of them into components that are safe on a
//! Unix filesystem and on a terminal; what had to be changed carries a hash of what it was, so that two
//! different paths never meet and a path always gets the same name.

use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use crate::api::File;

/// The longest component a Linux filesystem takes, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// The longest path below a container, in bytes: what Linux takes in one call (`PATH_MAX`, with its NUL).
pub const PATH_MAX: usize = 4095;

/// The most components of a path below a container. Each is a directory that is kept in memory, and a server
/// could name thousands in one path.
pub const DEPTH_MAX: usize = 128;

/// Where the model's files are; hidden in shown paths.
pub const DATA_DIR: &str = "/mnt/data/";

/// Why a name cannot be created here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Invalid UTF-8, a control character, one that reorders text, or `%2F`.
    #[error("the service cannot hold this name")]
    Invalid,
    /// Longer than [`NAME_MAX`].
    #[error("the name is longer than 255 bytes")]
    TooLong,
    /// Longer than [`PATH_MAX`], or deeper than [`DEPTH_MAX`].
    #[error("the path is longer than 4095 bytes, or deeper than 128 directories")]
    TooDeep,
}

/// Checks a name that a user wants to create.
///
/// # Errors
/// [`BadName`] if the service could not hold it or a mount could not show it again.
pub fn creatable(name: &std::ffi::OsStr) -> Result<&str, BadName> {
    let name = name.to_str().ok_or(BadName::Invalid)?;
    if name.len() > NAME_MAX {
        return Err(BadName::TooLong);
    }
    if name.to_ascii_uppercase().contains("%2F") || !is_safe(name) {
        return Err(BadName::Invalid);
    }
    Ok(name)
}

/// Checks a path below a container at which a user wants to create something.
///
/// # Errors
/// [`BadName::TooDeep`] if a mount would not show it there again.
pub fn check_place(path: &str) -> Result<(), BadName> {
    if is_bounded(path.len(), path.split('/').count()) { Ok(()) } else { Err(BadName::TooDeep) }
}

/// The components under which a file is shown below its container.
pub fn shown_path(file: &File) -> Vec<String> {
    let rest =
        file.path.strip_prefix(DATA_DIR).unwrap_or_else(|| file.path.strip_prefix('/').unwrap_or(&file.path));
    let rest = if file.source == "user" { without_prefix(rest) } else { rest.to_owned() };
    if file.source == "user"
        && let Some(parts) = decoded_slashes(&rest)
    {
        return parts;
    }
    bounded(rest.split('/'), &file.path)
}

/// Splits a remembered relative path, which was checked when it was created.
pub fn components(path: &str) -> Vec<String> {
    bounded(path.split('/'), path)
}

/// Reads a path below a container that was written down here. A file in the state directory may be torn, or
/// somebody else's: what no mount would have written is made safe as a server's paths are.
///
/// # Errors
/// It is no string.
pub fn remembered<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(components(&String::deserialize(deserializer)?).join("/"))
}

/// Reads such a path, or that of the container itself, which is empty.
///
/// # Errors
/// It is no string.
pub fn remembered_or_root<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let path = String::deserialize(deserializer)?;
    Ok(if path.is_empty() { path } else { components(&path).join("/") })
}

/// The components, made safe. A path that is too long or too deep is shown by its last component alone.
fn bounded<'a>(parts: impl DoubleEndedIterator<Item = &'a str> + Clone, origin: &str) -> Vec<String> {
    if parts.clone().count() <= DEPTH_MAX {
        let safe: Vec<String> = parts.clone().map(|part| safe_component(part, origin)).collect();
        if is_bounded(safe.iter().map(|part| part.len() + 1).sum::<usize>() - 1, safe.len()) {
            return safe;
        }
    }
    vec![marked(parts.last().unwrap_or_default(), origin)]
}

fn is_bounded(len: usize, parts: usize) -> bool {
    len <= PATH_MAX && parts <= DEPTH_MAX
}

/// A component that is safe to show: itself where possible, else changed and marked with a hash of `origin`.
pub fn safe_component(part: &str, origin: &str) -> String {
    if is_safe(part) && part.len() <= NAME_MAX {
        return part.to_owned();
    }
    marked(part, origin)
}

/// A safe form of `part`, marked with a hash of it and of `origin`.
fn marked(part: &str, origin: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(origin.as_bytes());
    digest.update([0]);
    digest.update(part.as_bytes());
    let tag = hex::encode(&digest.finalize()[..4]);
    let cleaned: String = part.chars().map(|c| if c == '/' || is_unsafe(c) { '_' } else { c }).collect();
    let cleaned = match cleaned.as_str() {
        "" | "." | ".." => "_".repeat(cleaned.len().max(1)),
        _ => cleaned,
    };
    tagged(&cleaned, &tag)
}

/// `stem~<tag>.ext`, shortened to [`NAME_MAX`] bytes in its stem.
pub fn tagged(name: &str, tag: &str) -> String {
    let (stem, ext) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 32 => name.split_at(dot),
        _ => (name, ""),
    };
    let room = NAME_MAX - ext.len() - tag.len() - 1;
    let mut end = stem.len().min(room);
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{tag}{ext}", &stem[..end])
}

/// The `<8 hex>` that tells an id from others: its own first digits, or of its SHA-256 where it is not hex.
pub fn short_id(id: &str) -> String {
    let digits = id.rsplit('_').next().unwrap_or(id);
    if digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        digits[..8].to_ascii_lowercase()
    } else {
        hashed_id(id)
    }
}

/// The `<8 hex>` for ids whose first digits are taken.
pub fn hashed_id(id: &str) -> String {
    hex::encode(&Sha256::digest(id.as_bytes())[..4])
}

/// The filename that an upload of the relative path `path` is sent under.
pub fn upload_name(path: &str, server_keeps_directories: bool) -> String {
    if server_keeps_directories { path.to_owned() } else { path.replace('/', "%2F") }
}

/// Hides `<32 hex>-` and `file-<20 or more letters or digits>-`, which the service puts before uploads.
fn without_prefix(rest: &str) -> String {
    let (dir, base) = match rest.rfind('/') {
        Some(slash) => rest.split_at(slash + 1),
        None => ("", rest),
    };
    if let Some(stripped) = strip_upload_prefix(rest) {
        return stripped.to_owned();
    }
    match strip_upload_prefix(base) {
        Some(stripped) => format!("{dir}{stripped}"),
        None => rest.to_owned(),
    }
}

fn strip_upload_prefix(name: &str) -> Option<&str> {
    let hex_prefix = || {
        let (head, tail) = name.split_at_checked(32)?;
        head.bytes().all(|b| b.is_ascii_hexdigit()).then(|| tail.strip_prefix('-'))?
    };
    let file_prefix = || {
        let rest = name.strip_prefix("file-")?;
        let (id, tail) = rest.split_once('-')?;
        (id.len() >= 20 && id.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(tail)
    };
    hex_prefix().or_else(file_prefix).filter(|tail| !tail.is_empty() && !tail.starts_with('/'))
}

/// `a%2Fb` as `a`, `b`: what an upload into a directory looks like where the server drops directories.
fn decoded_slashes(rest: &str) -> Option<Vec<String>> {
    if !rest.to_ascii_uppercase().contains("%2F") {
        return None;
    }
    let decoded = rest.replace("%2F", "/").replace("%2f", "/");
    let parts: Vec<&str> = decoded.split('/').collect();
    let fits = is_bounded(decoded.len(), parts.len());
    (fits && parts.iter().all(|part| is_safe(part) && part.len() <= NAME_MAX))
        .then(|| parts.into_iter().map(str::to_owned).collect())
}

fn is_safe(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains('/') && !part.chars().any(is_unsafe)
}

/// Whether a character has no place in a name: control characters (category Cc), and those that reorder the
/// text after them on a terminal (bidirectional embeddings, overrides and isolates). What joins, separates or
/// marks characters has one: emoji and words of many scripts are made with it.
pub fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn file(path: &str, source: &str) -> File {
        File {
            id: "cfile_0".into(),
            path: path.to_owned(),
            bytes: None,
            source: source.to_owned(),
            created_at: 0,
        }
    }

    #[test]
    fn the_prefix_of_an_upload_is_hidden_and_that_of_the_model_is_not() {
        let path = "/mnt/data/0123456789abcdef0123456789abcdef-x.txt";
        assert_eq!(shown_path(&file(path, "user")), ["x.txt"]);
        assert_eq!(shown_path(&file(path, "assistant")), ["0123456789abcdef0123456789abcdef-x.txt"]);
        let attached = "/mnt/data/file-abcdefghijklmnopqrst-x.txt";
        assert_eq!(shown_path(&file(attached, "user")), ["x.txt"]);
        assert_eq!(shown_path(&file("/mnt/data/file-short-x.txt", "user")), ["file-short-x.txt"]);
    }

    #[test]
    fn a_prefix_alone_is_a_name() {
        let path = "/mnt/data/0123456789abcdef0123456789abcdef-";
        assert_eq!(shown_path(&file(path, "user")), ["0123456789abcdef0123456789abcdef-"]);
    }

    #[test]
    fn encoded_slashes_are_directories_for_uploads_alone() {
        assert_eq!(shown_path(&file("/mnt/data/a%2Fb", "user")), ["a", "b"]);
        assert_eq!(shown_path(&file("/mnt/data/a%2Fb", "assistant")), ["a%2Fb"]);
        assert_eq!(shown_path(&file("/mnt/data/..%2Fb", "user")), ["..%2Fb"]);
    }

    #[test]
    fn other_absolute_paths_show_their_components() {
        assert_eq!(shown_path(&file("/tmp/out/x", "assistant")), ["tmp", "out", "x"]);
    }

    #[test]
    fn hostile_names_are_safe_distinct_and_stable() {
        let long = "x".repeat(300);
        let hostile = [
            "../..",
            "a\0b",
            "a\x1bb",
            &long,
            "",
            ".",
            "..",
            "a\nb",
            "a//b",
            "\u{202e}txt.exe",
            "x/../y",
            "a\tb",
        ];
        let mut seen = HashSet::new();
        for name in hostile {
            let parts = shown_path(&file(&format!("/mnt/data/{name}"), "assistant"));
            for part in &parts {
                assert!(is_safe(part) && part.len() <= NAME_MAX, "{name:?} became {part:?}");
            }
            assert!(seen.insert(parts.clone()), "{name:?} is not distinct");
            assert_eq!(parts, shown_path(&file(&format!("/mnt/data/{name}"), "assistant")));
        }
    }

    #[test]
    fn a_path_that_no_call_can_name_is_shown_by_its_end() {
        for (path, end) in [("a/".repeat(100_000) + "x.txt", "x~"), ("long/".repeat(1000) + "..", "__~")] {
            for parts in [components(&path), shown_path(&file(&format!("/mnt/data/{path}"), "assistant"))] {
                let [name] = parts.as_slice() else { panic!("{} parts", parts.len()) };
                assert!(name.starts_with(end), "{name}");
                assert_eq!(components(name), parts);
            }
            assert_eq!(check_place(&path), Err(BadName::TooDeep));
        }
        let deepest = vec!["d"; DEPTH_MAX].join("/");
        assert_eq!(components(&deepest).join("/"), deepest);
        assert_eq!(check_place(&deepest), Ok(()));
        let encoded = "a%2F".repeat(1000) + "x";
        assert_eq!(shown_path(&file(&encoded, "user")).len(), 1);
    }

    #[test]
    fn what_the_service_cannot_hold_is_refused() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        for bad in [&b"a\nb"[..], b"a%2fb", b"\xff", b"a\x7fb"] {
            assert_eq!(creatable(OsStr::from_bytes(bad)), Err(BadName::Invalid));
        }
        assert_eq!(creatable(OsStr::new(&"x".repeat(256))), Err(BadName::TooLong));
        for reordering in ["\u{202a}", "\u{202e}", "\u{2066}", "\u{2069}"] {
            assert_eq!(creatable(OsStr::new(reordering)), Err(BadName::Invalid));
        }
        for good in
            ["-rf", "👩\u{200d}👧", "می\u{200c}خواهم", "\u{feff}", "\u{200e}\u{200f}", "\u{2028}\u{2029}"]
        {
            assert_eq!(creatable(OsStr::new(good)), Ok(good));
            assert_eq!(safe_component(good, "origin"), good, "what can be made is shown as it is");
        }
    }

    #[test]
    fn a_tag_goes_before_the_extension() {
        assert_eq!(tagged("report.csv", "0a1b2c3d"), "report~0a1b2c3d.csv");
        assert_eq!(tagged(".profile", "0a1b2c3d"), ".profile~0a1b2c3d");
        assert_eq!(tagged(&"é".repeat(200), "0a1b2c3d").len(), 255);
        assert_eq!(short_id("cfile_ABCDEF0123"), "abcdef01");
        assert_eq!(short_id("weird").len(), 8);
    }
}
