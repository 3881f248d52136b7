//! What a person sees.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use crate::vfs::Left;

/// Makes a text from outside safe for a terminal: control characters and those that reorder text are escaped.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let reorders =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders {
            let _ = write!(safe, "{}", c.escape_default());
        } else {
            safe.push(c);
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
}
