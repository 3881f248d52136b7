//! `containerfs status`.

use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::cli::args::Status;
use crate::cli::exit_codes::ExitCode;
use crate::cli::output;
use crate::daemon::control::{Connection, Question};
use crate::fuse::mounts::{self, Entry};

/// Shows the mounts that answer.
///
/// # Errors
/// The one that was named is none, or does not answer.
pub(super) fn status(args: &Status) -> Result<ExitCode> {
    let mut entries: Vec<Entry> = mounts::all()?.into_iter().filter(Entry::is_ours).collect();
    if let Some(wanted) = &args.mountpoint {
        let at = mounts::absolute(wanted)?;
        entries.retain(|entry| entry.mountpoint == at);
        if entries.is_empty() {
            bail!("{} is not a containerfs mount", wanted.display());
        }
    }
    let told: Vec<Value> = entries.iter().map(ask).collect();
    if args.json {
        output::line(&serde_json::to_string_pretty(&told)?)?;
    } else if told.is_empty() {
        output::line("nothing is mounted")?;
    } else {
        output::line(&output::escaped_lines(&table(&told)))?;
    }
    Ok(ExitCode::Success)
}

/// What a mount says of itself, with where it is; an `error` if it says nothing.
fn ask(entry: &Entry) -> Value {
    let answer =
        Connection::ask(entry.device, &Question::Status).and_then(|mut connection| connection.line());
    let mut told = match answer {
        Ok(Some(line)) => {
            serde_json::from_str(&line).unwrap_or_else(|_| json!({ "error": "it answers nonsense" }))
        }
        Ok(None) => json!({ "error": "it does not answer" }),
        Err(error) => json!({ "error": format!("it does not answer: {error}") }),
    };
    told["mountpoint"] = json!(entry.mountpoint.to_string_lossy());
    told["source"] = json!(entry.source);
    told
}

/// Whether a mount says that it is ending.
pub(super) fn is_ending(entry: &Entry) -> bool {
    ask(entry)["ending"] == json!(true)
}

fn table(told: &[Value]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for mount in told {
        let text = |pointer: &str| match mount.pointer(pointer) {
            Some(Value::String(text)) => output::escaped(text),
            Some(value) => value.to_string(),
            None => "-".to_owned(),
        };
        table.add_row(["mount".to_owned(), text("/mountpoint")]);
        if mount.get("error").is_some() {
            table.add_row(["error".to_owned(), text("/error")]);
            continue;
        }
        table.add_row(["server".to_owned(), text("/server")]);
        table.add_row(["up".to_owned(), format!("{} s", text("/uptime_seconds"))]);
        table.add_row(["containers".to_owned(), text("/containers")]);
        let bytes = |pointer: &str| mount.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let cache = format!(
            "{} on disk, {} in memory",
            indicatif::HumanBytes(bytes("/cache/disk_bytes")),
            indicatif::HumanBytes(bytes("/cache/memory_bytes"))
        );
        table.add_row(["cache".to_owned(), cache]);
        for (operation, of) in
            mount.pointer("/requests/operations").and_then(Value::as_object).into_iter().flatten()
        {
            let line = format!(
                "{} requests, {} failed, p50 {} ms, p95 {} ms",
                of["requests"], of["errors"], of["p50_ms"], of["p95_ms"]
            );
            table.add_row([operation.clone(), line]);
        }
        for (name, pointer) in [("pending", "/pending"), ("error", "/errors")] {
            for item in mount.pointer(pointer).and_then(Value::as_array).into_iter().flatten() {
                let part = |field: &str| {
                    output::escaped(item.get(field).and_then(Value::as_str).unwrap_or_default())
                };
                let line = if name == "pending" {
                    format!("{}: {}", part("name"), part("reason"))
                } else {
                    format!("{} {}: {}", part("at"), part("operation"), part("message"))
                };
                table.add_row([name.to_owned(), line]);
            }
        }
    }
    table.trim_fmt()
}
