//! Takes secrets out of what a server says: a proxy that repeats the key must not make us print it.
//!
//! This happens before a text is shortened or escaped, so that no half of a key is left at the edge.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

use crate::api::client::ClientConfig;

/// What stands in the place of a secret.
const MASK: &str = "[redacted]";

/// Values of custom headers shorter than this are words, and no secrets.
const SHORTEST: usize = 8;

/// A beginning of a secret that is shorter than this tells nothing.
const TELLING: usize = 3;

/// The secrets of a client.
pub(super) struct Redactor(Vec<SecretString>);

impl Redactor {
    /// The key, and the values of custom headers: other servers take their key there.
    pub(super) fn new(config: &ClientConfig) -> Self {
        let headers = config.custom_headers.iter().map(|(_, value)| value.as_str());
        let headers = headers.filter(|value| value.len() >= SHORTEST);
        let key = config.api_key.as_ref().map(|key| key.expose_secret()).filter(|key| !key.is_empty());
        let mut secrets: Vec<&str> = key.into_iter().chain(headers).collect();
        // A secret that is part of another must not leave the rest of it.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets.into_iter().map(SecretString::from).collect())
    }

    /// `text` without any secret.
    pub(super) fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose_secret(), MASK))
    }

    /// A text that was cut somewhere, without the beginning of a secret at its end.
    pub(super) fn uncut<'a>(&self, text: &'a str) -> &'a str {
        let halves = self.0.iter().flat_map(|secret| {
            let secret = secret.expose_secret();
            secret
                .char_indices()
                .map(|(at, _)| &secret[..at])
                .filter(|half| half.len() >= TELLING && text.ends_with(half))
        });
        &text[..text.len() - halves.map(str::len).max().unwrap_or(0)]
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_long_header_values_are_taken_out_and_words_stay() {
        let config = ClientConfig {
            api_key: Some("sk-secret".to_owned().into()),
            custom_headers: vec![
                ("api-key".to_owned(), "sk-secret-and-more".to_owned()),
                ("x-mode".to_owned(), "fast".to_owned()),
            ],
            ..ClientConfig::default()
        };
        let redactor = Redactor::new(&config);
        assert_eq!(redactor.text("fast: sk-secret, sk-secret-and-more"), "fast: [redacted], [redacted]");
        assert!(!format!("{redactor:?}").contains("sk-"));
    }
}
