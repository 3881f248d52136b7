//! Replies as JSON, as lines, or as a table.

use std::io::{self, IsTerminal};

use anyhow::Result;
use comfy_table::{Table, presets};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cli::args::{Format, FormatKind};
use crate::cli::{json, output};

/// Columns of a table, if the items have them.
const COLUMNS: [&str; 7] = ["id", "name", "status", "path", "bytes", "source", "created_at"];

impl Format {
    /// What was asked for, or what fits where stdout goes.
    pub(super) fn kind(self) -> FormatKind {
        let default = if io::stdout().is_terminal() { FormatKind::Table } else { FormatKind::Json };
        self.format.unwrap_or(default)
    }
}

/// Prints a reply.
///
/// # Errors
/// Stdout's, or for a table that the reply cannot be read.
pub(super) fn print(reply: &RawValue, kind: FormatKind) -> Result<()> {
    match kind {
        FormatKind::Json => output::json(&json::pretty(reply.get()))?,
        FormatKind::Raw => output::json(reply.get())?,
        FormatKind::Jsonl => output::json(&json::in_one_line(reply.get()))?,
        FormatKind::Table => output::line(&table(&serde_json::from_str(reply.get())?))?,
    }
    Ok(())
}

fn table(reply: &Value) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if let Some(items) = reply.get("data").and_then(Value::as_array) {
        let shown: Vec<&str> = COLUMNS
            .into_iter()
            .filter(|column| items.iter().any(|item| item.get(column).is_some()))
            .collect();
        table.set_header(shown.iter().map(|column| column.to_uppercase()));
        for item in items {
            table.add_row(shown.iter().map(|column| cell(column, item.get(column))));
        }
    } else {
        for (name, value) in reply.as_object().into_iter().flatten() {
            table.add_row([output::escaped(name), cell(name, Some(value))]);
        }
    }
    table.trim_fmt()
}

fn cell(column: &str, value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => output::escaped(text),
        Some(Value::Number(number)) if column.ends_with("_at") => {
            let seconds = number.as_i64().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            seconds.map_or_else(|| number.to_string(), |time| time.to_string())
        }
        Some(other) => output::escaped(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_harmless_and_has_the_columns_that_there_are() {
        let reply = serde_json::json!({ "data": [{ "id": "a\u{1b}[2J", "bytes": null, "created_at": 0 }] });
        let table = table(&reply);
        assert!(table.contains("ID") && table.contains("BYTES") && !table.contains("STATUS"), "{table}");
        assert!(table.contains("1970-01-01T00:00:00Z") && !table.contains('\u{1b}'), "{table}");
    }
}
