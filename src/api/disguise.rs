//! What comes with 200 in the place of a file's bytes and is none of them: the page of a portal or a proxy, an error
//! that a gateway passes on as a success (API.md "Wire").
//!
//! The type of the reply has to say so, and the file not to be named like one of that type. Then a length that is known
//! of the file, told by a list or learnt from an earlier reply, decides; where none is, what the body begins with.

use crate::api::redact::Redactor;
use crate::api::told::Told;

/// A page tells within so many bytes that it is one.
const PAGE_BEGINS: usize = 512;

/// No error is longer.
const ERROR_MAX: usize = 16 << 10;

/// What a reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disguise {
    Page,
    Error,
}

impl Disguise {
    /// What a body of a type may be that ought to be the content of the file at `path`.
    pub(super) fn of(content_type: &str, path: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let (disguise, extensions): (_, &[&str]) = match essence.as_str() {
            "text/html" => (Self::Page, &["html", "htm", "xhtml"]),
            "application/json" => (Self::Error, &["json", "jsonl", "ipynb"]),
            _ => return None,
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
        let is_named_so = extension.is_some_and(|extension| extensions.contains(&extension.as_str()));
        (!is_named_so).then_some(disguise)
    }

    /// Bytes of its beginning that tell.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Page => PAGE_BEGINS,
            Self::Error => ERROR_MAX,
        }
    }

    /// Why a body that begins so is no content, if it is none; `is_all` of it.
    pub(super) fn unmasked(self, body: &[u8], is_all: bool, redactor: &Redactor) -> Option<String> {
        match self {
            Self::Page => {
                let beginning =
                    String::from_utf8_lossy(&body[..body.len().min(PAGE_BEGINS)]).to_ascii_lowercase();
                let beginning = beginning.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
                let is_page = beginning.starts_with("<!doctype html") || beginning.starts_with("<html");
                is_page.then(|| "the server sent a page of HTML in place of the content".to_owned())
            }
            Self::Error => {
                let keys = serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(body);
                let is_alone = is_all && keys.is_ok_and(|keys| keys.len() == 1);
                let told = Told::parse(body, redactor);
                (is_alone && told.is_api)
                    .then(|| format!("the server sent an error in place of the content: {}", told.message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ClientConfig;

    fn why(content_type: &str, path: &str, body: &str) -> Option<String> {
        let redactor = Redactor::new(&ClientConfig::default());
        Disguise::of(content_type, path)?.unmasked(body.as_bytes(), true, &redactor)
    }

    #[test]
    fn a_page_is_one_by_its_type_its_beginning_and_the_name_of_the_file() {
        let page = "\n <!DOCTYPE HTML><title>Sign in</title>";
        assert!(why("text/html; charset=utf-8", "/mnt/data/a.csv", page).is_some());
        assert!(why("Text/HTML", "/mnt/data/html/a", "<html lang=en>").is_some());
        assert_eq!(why("text/html", "/mnt/data/report.HTML", page), None);
        assert_eq!(why("text/html", "/mnt/data/a.csv", "a,b\n1,<html>"), None);
        assert_eq!(why("application/octet-stream", "/mnt/data/a.csv", page), None);
        assert_eq!(why("", "/mnt/data/a.csv", page), None);
    }

    #[test]
    fn an_error_is_one_if_it_is_nothing_else() {
        let error = r#"{"error": {"message": "Container is expired", "type": "invalid_request_error"}}"#;
        assert!(why("application/json", "/mnt/data/a", error).unwrap().ends_with("Container is expired"));
        assert_eq!(why("application/json", "/mnt/data/a.json", error), None);
        assert_eq!(why("application/octet-stream", "/mnt/data/a", error), None);
        for other in [r#"{"error": null}"#, r#"{"error": {"message": "x"}, "rows": 1}"#, "[]", "{", "5"] {
            assert_eq!(why("application/json", "/mnt/data/a", other), None, "{other}");
        }
    }
}
