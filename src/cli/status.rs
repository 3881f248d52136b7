//! `containerfs status`.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::cli::args::Status;
use crate::cli::exit_codes::ExitCode;
use crate::cli::output;
use crate::daemon::asking::Connection;
use crate::daemon::control::Question;
use crate::fuse::mounts::{self, Entry};

/// Shows the mounts, once or again and again. One that was named and does not answer is a failure.
///
/// # Errors
/// The one that was named is none.
pub(super) fn status(args: &Status) -> Result<ExitCode> {
    let Some(every) = args.watch else {
        let all_answer = show(args, false)?;
        let failed = args.mountpoint.is_some() && !all_answer;
        return Ok(if failed { ExitCode::Failed } else { ExitCode::Success });
    };
    loop {
        show(args, true)?;
        std::thread::sleep(every);
    }
}

/// Returns whether every mount that is shown answers.
fn show(args: &Status, watched: bool) -> Result<bool> {
    let mut entries: Vec<Entry> = mounts::all()?.into_iter().filter(Entry::is_ours).collect();
    if let Some(wanted) = &args.mountpoint {
        let at = mounts::absolute(wanted)?;
        entries.retain(|entry| entry.mountpoint == at);
        if entries.is_empty() {
            bail!("{} is not a containerfs mount", wanted.display());
        }
    }
    let told: Vec<Value> = entries.iter().map(ask).collect();
    let text = match (args.json, watched) {
        (true, true) => serde_json::to_string(&told)?,
        (true, false) => serde_json::to_string_pretty(&told)?,
        (false, _) if told.is_empty() => "nothing is mounted".to_owned(),
        (false, _) => output::escaped_lines(&table(&told)),
    };
    if watched && !args.json && io::stdout().is_terminal() {
        // Home, then everything below: the screen does not flicker as it would if it were cleared first.
        output::print("\u{1b}[H\u{1b}[J")?;
    }
    if args.json {
        output::json(&text)?;
    } else {
        output::line(&text)?;
    }
    Ok(told.iter().all(|told| told.get("error").is_none()))
}

/// What is wrong with a mount that has died, and what to do about it; nothing if it has not.
pub(super) fn dead(entry: &Entry) -> Option<String> {
    // One that answers is not looked at: that would be a call to it.
    let is_dead = Connection::ask(entry, &Question::Status).is_err() && mounts::is_stale(&entry.mountpoint);
    is_dead.then(|| {
        let at = entry.mountpoint.display();
        format!(
            "the mount at {at} is dead: `containerfs unmount {at}` clears it, and so does mounting there again"
        )
    })
}

/// What a mount says of itself, with where it is; an `error` if it says nothing.
fn ask(entry: &Entry) -> Value {
    let answer = Connection::ask(entry, &Question::Status).and_then(|mut connection| connection.line());
    let mut told = match answer {
        Ok(Some(line)) => {
            serde_json::from_str(&line).unwrap_or_else(|_| json!({ "error": "it answers nonsense" }))
        }
        Ok(None) => json!({ "error": "it does not answer" }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let at = entry.mountpoint.display();
            json!({ "error": format!("{error}, and does not answer: `containerfs unmount --force {at}` takes the mount away") })
        }
        Err(_) if let Some(dead) = dead(entry) => json!({ "error": dead, "dead": true }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            json!({ "error": "it answers the user who mounted it, and nobody else" })
        }
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
        if table.row_count() > 0 {
            table.add_row([""]);
        }
        table.add_row(["mount".to_owned(), text("/mountpoint")]);
        if mount.get("error").is_some() {
            table.add_row(["error".to_owned(), text("/error")]);
            continue;
        }
        let number = |pointer: &str| mount.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        table.add_row(["server".to_owned(), text("/server")]);
        let up = Duration::from_secs(number("/uptime_seconds"));
        let ending = if mount["ending"] == json!(true) { ", ending: uploads go on" } else { "" };
        let since =
            format!("{} ({}{ending})", to_the_second(&text("/since")), humantime::format_duration(up));
        table.add_row(["since".to_owned(), since]);
        if mount.get("metrics").is_some() {
            table.add_row(["metrics".to_owned(), format!("http://{}/metrics", text("/metrics"))]);
        }
        table.add_row(["containers".to_owned(), text("/containers")]);
        let process = format!(
            "{} of memory, {} descriptors",
            HumanBytes(number("/process/resident_bytes")),
            number("/process/descriptors")
        );
        table.add_row(["daemon".to_owned(), process]);
        let cache = format!(
            "{} on disk, {} in memory, {}",
            HumanBytes(number("/cache/disk_bytes")),
            HumanBytes(number("/cache/memory_bytes")),
            hits(number("/cache/hits"), number("/cache/misses"))
        );
        table.add_row(["cache".to_owned(), cache]);
        if number("/prefetch/fetched") > 0 {
            let (fetched, read) = (number("/prefetch/fetched"), number("/prefetch/read"));
            table
                .add_row(["ahead".to_owned(), format!("{fetched} files fetched ahead, {read} of them read")]);
        }
        let traffic = format!(
            "{} down, {} up, {} retries, {} of {} connections in use",
            HumanBytes(number("/requests/bytes_down")),
            HumanBytes(number("/requests/bytes_up")),
            number("/requests/retries"),
            number("/requests/connections/in_use"),
            number("/requests/connections/most")
        );
        table.add_row(["traffic".to_owned(), traffic]);
        for (operation, of) in
            mount.pointer("/requests/operations").and_then(Value::as_object).into_iter().flatten()
        {
            let line = format!(
                "{} requests, {} failed, p50 {} ms, p95 {} ms, p99 {} ms",
                of["requests"], of["errors"], of["p50_ms"], of["p95_ms"], of["p99_ms"]
            );
            table.add_row([operation.clone(), line]);
        }
        for upload in mount["under_way"].as_array().into_iter().flatten() {
            let part = |field: &str| upload[field].as_u64().unwrap_or(0);
            let line = format!(
                "{}: {} of {}, {} s",
                output::escaped(upload["name"].as_str().unwrap_or_default()),
                HumanBytes(part("sent")),
                HumanBytes(part("bytes")),
                part("seconds")
            );
            table.add_row(["uploading".to_owned(), line]);
        }
        for (name, pointer) in [("pending", "/pending"), ("error", "/errors")] {
            for item in mount.pointer(pointer).and_then(Value::as_array).into_iter().flatten() {
                let part = |field: &str| {
                    output::escaped(item.get(field).and_then(Value::as_str).unwrap_or_default())
                };
                let line = if name == "pending" {
                    format!("{}: {}", part("name"), part("reason"))
                } else {
                    format!("{} {}: {}", to_the_second(&part("at")), part("operation"), part("message"))
                };
                table.add_row([name.to_owned(), line]);
            }
        }
    }
    table.trim_fmt()
}

/// A person does not read fractions of a second.
fn to_the_second(time: &str) -> String {
    match time.parse::<jiff::Timestamp>().and_then(|time| time.round(jiff::Unit::Second)) {
        Ok(time) => time.to_string(),
        Err(_) => time.to_owned(),
    }
}

fn hits(hits: u64, misses: u64) -> String {
    match (hits * 100).checked_div(hits + misses) {
        Some(percent) => format!("{percent} % of {} reads were hits", hits + misses),
        None => "not used yet".to_owned(),
    }
}
