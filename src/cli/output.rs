//! What a person sees.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use crate::vfs::Left;

/// Whether a character could garble a terminal: control characters, other ends of lines, and what reorders
/// text.
fn is_dangerous(c: char) -> bool {
    let ends_a_line = matches!(c, '\u{2028}' | '\u{2029}');
    let reorders = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || ends_a_line || reorders
}

/// Makes a text from outside safe for a terminal: what is dangerous there is escaped.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_dangerous(c) {
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The same for JSON, which it stays.
fn escaped_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // These and the next stand between tokens: in a string they are escaped already.
            '\n' | '\t' => safe.push(c),
            '\r' => safe.push(' '),
            c if is_dangerous(c) => {
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// The same, line by line.
pub(super) fn escaped_lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

/// Whether colours may go to a stream: a terminal, and nobody has said `NO_COLOR`.
pub(super) fn colours(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints a line; a reader that went away ends the program quietly.
///
/// # Errors
/// Whatever else stdout says.
pub(super) fn line(text: &str) -> io::Result<()> {
    print(&format!("{text}\n"))
}

/// Prints JSON: as it is, or on a terminal with what is dangerous there escaped.
///
/// # Errors
/// Whatever else stdout says.
pub(super) fn json(text: &str) -> io::Result<()> {
    if io::stdout().is_terminal() { line(&escaped_json(text)) } else { line(text) }
}

/// Prints text as it is.
///
/// # Errors
/// Whatever stdout says, a broken pipe apart.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => outcome,
    }
}

/// Names on stderr what is not on the server.
pub(super) fn tell_left(left: &[Left]) {
    eprintln!("containerfs: not on the server, and kept for the next mount:");
    for item in left {
        eprintln!("  {}: {}", escaped(&item.name), escaped(&item.reason));
    }
    eprintln!(
        "`containerfs pending` lists what is left, saves it elsewhere, sends it again, or throws it away"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_moves_the_cursor_or_reverses_text() {
        assert_eq!(escaped("a\u{1b}[2Jb\r\u{9b}c\u{202e}d"), "a\\u{1b}[2Jb\\r\\u{9b}c\\u{202e}d");
        assert_eq!(escaped("größe 図"), "größe 図");
        assert_eq!(escaped_lines("one\ntwo\u{7}"), "one\ntwo\\u{7}");
    }

    #[test]
    fn json_from_outside_is_harmless_and_stays_what_it_is() {
        let name = "a\u{1b}\u{7f}\u{9b}2J\u{85}\u{2028}\u{202e}\u{2066}\u{200f}\u{61c}ü図";
        let json = serde_json::to_string_pretty(&serde_json::json!({ "name": name })).unwrap();
        let safe = escaped_json(&json);
        assert!(safe.chars().all(|c| c == '\n' || !is_dangerous(c)), "{safe}");
        assert!(safe.contains("ü図") && safe.contains("\\u009b2J"), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap()["name"], name);
    }
}
