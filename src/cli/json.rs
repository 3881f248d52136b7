//! JSON laid out anew without being read: numbers keep every digit, and fields their order.

/// Each field on a line of its own.
pub(super) fn pretty(json: &str) -> String {
    lay_out(json, true)
}

/// All of it in one line.
pub(super) fn in_one_line(json: &str) -> String {
    lay_out(json, false)
}

/// `json` is valid; only what lies between its tokens is made anew, and how strings are escaped.
fn lay_out(json: &str, pretty: bool) -> String {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0;
    let line = |out: &mut String, depth: usize| {
        if pretty {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
    };
    let mut rest = json.trim_ascii();
    while let Some(token) = rest.chars().next() {
        let len = if token == '"' { string_len(rest) } else { token.len_utf8() };
        let after = rest[len..].trim_ascii_start();
        match token {
            '"' => out.push_str(&written_anew(&rest[..len])),
            '{' | '[' => {
                out.push(token);
                if !after.starts_with(['}', ']']) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                if !out.ends_with(['{', '[']) {
                    depth -= 1;
                    line(&mut out, depth);
                }
                out.push(token);
            }
            ',' => {
                out.push(',');
                line(&mut out, depth);
            }
            ':' => out.push_str(if pretty { ": " } else { ":" }),
            _ => out.push(token),
        }
        rest = after;
    }
    out
}

/// The length of the string that `json` begins with, quotes included.
fn string_len(json: &str) -> usize {
    let mut escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

/// A string with its characters as they are, where they need no escape.
fn written_anew(string: &str) -> String {
    let read: Option<String> = serde_json::from_str(string).ok();
    read.and_then(|read| serde_json::to_string(&read).ok()).unwrap_or_else(|| string.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~ü\u{9b}\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z\\\\\"{,]{0,3}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_laid_out_is_what_serde_writes(value in value()) {
            let (short, long) = (value.to_string(), serde_json::to_string_pretty(&value).unwrap());
            for text in [&short, &long] {
                prop_assert_eq!(&pretty(text), &long);
                prop_assert_eq!(&in_one_line(text), &short);
            }
        }
    }

    #[test]
    fn numbers_keep_every_digit_and_strings_are_readable() {
        let text = r#" {"a" : [1.10,123456789012345678901234567890, -0.0e+1 ], "\u00fc": "\u001b[\ud800" } "#;
        assert_eq!(
            in_one_line(text),
            r#"{"a":[1.10,123456789012345678901234567890,-0.0e+1],"ü":"\u001b[\ud800"}"#
        );
        assert_eq!(pretty("7"), "7");
        assert_eq!(pretty(&json!({ "a": [], "b": {} }).to_string()), "{\n  \"a\": [],\n  \"b\": {}\n}");
    }
}
