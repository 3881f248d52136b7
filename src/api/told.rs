//! What an error's body tells, read leniently.

use crate::api::redact::Redactor;

/// Bytes of a message in a body that is not whole that are looked at, more than are kept.
const BEGINNING: usize = 8 << 10;

/// An error body.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) message: String,
    pub(super) code: String,
    /// Whether it has the API's shape.
    pub(super) is_api: bool,
}

impl Told {
    pub(super) fn parse(body: &[u8], redactor: &Redactor) -> Self {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return Self::default() };
        let error = match value.get("error") {
            Some(serde_json::Value::Null) | None => return Self::default(),
            Some(error) => error,
        };
        let text = |name: &str| match error.get(name) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let message = error.as_str().map_or_else(|| text("message"), str::to_owned);
        let message = if message.is_empty() { error.to_string() } else { message };
        Self { message: redactor.text(&message), code: text("code"), is_api: true }
    }

    /// The same of a body that may have been cut, or was too long: the beginning of its message.
    pub(super) fn parse_beginning(body: &[u8], redactor: &Redactor) -> Self {
        let told = Self::parse(body, redactor);
        if told.is_api { told } else { Self::beginning(body, redactor).unwrap_or_default() }
    }

    fn beginning(body: &[u8], redactor: &Redactor) -> Option<Self> {
        let body = String::from_utf8_lossy(body);
        let after = |text: &str, name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\""))?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start().to_owned())
        };
        if !body.trim_start().starts_with('{') {
            return None;
        }
        let error = after(&body, "error").filter(|error| !error.starts_with("null"))?;
        let message = if error.starts_with('"') { Some(error) } else { after(&error, "message") };
        let message = message.and_then(|message| string(&message)).unwrap_or_default();
        let (message, whole) = message;
        let message = if whole { message } else { redactor.uncut(&message).to_owned() };
        Some(Self { message: redactor.text(&message), code: String::new(), is_api: true })
    }
}

/// The JSON string at the beginning of a text, as far as it is there, and whether it is whole.
fn string(text: &str) -> Option<(String, bool)> {
    let text = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = text.char_indices().find(|(at, c)| {
        let ends = *at > BEGINNING || (*c == '"' && !escaped);
        escaped = *c == '\\' && !escaped;
        ends
    });
    let (inside, whole) = match end {
        Some((at, c)) => (&text[..at], c == '"'),
        None => (text, false),
    };
    // What was cut may end in half an escape, or in the first of the two that make one character.
    let ends = inside.char_indices().rev().map(|(at, _)| at);
    let ends = std::iter::once(inside.len()).chain(ends).take(12);
    let parsed = |end: usize| serde_json::from_str(&format!("\"{}\"", &inside[..end])).ok();
    ends.filter_map(parsed).next().map(|text| (text, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ClientConfig;

    fn told(body: &str) -> Told {
        let key = Some("sk-secret".to_owned().into());
        Told::parse_beginning(
            body.as_bytes(),
            &Redactor::new(&ClientConfig { api_key: key, ..Default::default() }),
        )
    }

    #[test]
    fn a_body_that_is_not_whole_tells_the_beginning_of_its_message() {
        let cases = [
            (r#"{"error":{"message":"too bad","type":"x"#, "too bad"),
            (r#"{"error" : {"type":"x","message" : "too b"#, "too b"),
            (r#"{"error":"too \"bad\" \u00e"#, "too \"bad\" "),
            (r#"{"error":{"message":"no \ud83d\u"#, "no "),
            (r#"{"error":{"message":"wrong key sk-sec"#, "wrong key "),
            (r#"{"error":{"message":"wrong key sk-secret, and"#, "wrong key [redacted], and"),
            (r#"{"error":{"mess"#, ""),
        ];
        for (body, message) in cases {
            let told = told(body);
            assert_eq!((told.message.as_str(), told.is_api), (message, true), "{body}");
        }
        let long = told(&format!(r#"{{"error":{{"message":"{}"#, "x".repeat(100_000)));
        assert!((1000..10_000).contains(&long.message.len()));
    }

    #[test]
    fn what_is_no_error_of_the_api_tells_nothing() {
        for body in ["", "<html>\"error\":{\"message\":\"x\"}", "{\"object\":\"li", "{}", "null", "7"] {
            let told = told(body);
            assert_eq!((told.message.as_str(), told.is_api), ("", false), "{body}");
        }
    }
}
