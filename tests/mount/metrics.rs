//! What an operator sees: metrics, `status`, logs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use containerfs::emulator::{Fault, Kind};
use serde_json::Value;

use crate::env::{Env, Mount, noise, on_openai, save, wait_until};

fn status(env: &Env, mount: &Mount) -> Value {
    let output = env.command(&["status", "--json"]).arg(&mount.dir).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told[0].clone()
}

/// The metrics of a mount, asked for as Prometheus does.
fn metrics(env: &Env, mount: &Mount) -> String {
    let address = status(env, mount)["metrics"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("text/plain"), "{reply}");
    reply
}

/// The value of one line.
fn value(metrics: &str, line: &str) -> f64 {
    let found = metrics.lines().find_map(|each| each.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in {metrics}")).parse().unwrap()
}

#[test]
fn metrics_count_requests_cache_prefetch_journal_and_calls_of_the_kernel() {
    on_openai(|env| {
        let id = env.container("c");
        for number in 0..30 {
            env.store().put_upload(&id, &format!("f{number:02}"), b"some bytes");
        }
        let mount = env.mount(&["--metrics-listen", "127.0.0.1:0", "--ttl", "1h"]);
        let before = metrics(env, &mount);
        assert_eq!(value(&before, "containerfs_prefetch_files_total"), 0.0);
        for number in 0..4 {
            assert_eq!(std::fs::read(mount.path(&format!("c/f{number:02}"))).unwrap(), b"some bytes");
        }
        assert_eq!(std::fs::read(mount.path("c/f00")).unwrap(), b"some bytes");
        assert!(std::fs::metadata(mount.path("c/absent")).is_err());
        assert_eq!(save(&mount.path("c/new"), b"12345"), Ok(()));
        env.status_fault(Kind::Upload, 500);
        assert!(save(&mount.path("c/unsent"), b"123").is_err());
        let told = metrics(env, &mount);
        let uploads = "containerfs_requests_total{operation=\"upload\",outcome=\"ok\"}";
        assert_eq!(value(&told, uploads), 1.0);
        assert!(value(&told, "containerfs_requests_total{operation=\"upload\",outcome=\"error\"}") >= 1.0);
        assert_eq!(
            value(&told, "containerfs_request_duration_seconds_bucket{operation=\"upload\",le=\"+Inf\"}"),
            value(&told, "containerfs_request_duration_seconds_count{operation=\"upload\"}")
        );
        let fetched = value(&told, "containerfs_prefetch_files_total");
        let hits = value(&told, "containerfs_prefetch_hits_total");
        assert!(fetched >= 2.0 && hits >= 1.0 && hits <= fetched, "{fetched} {hits}");
        assert_eq!(value(&told, "containerfs_prefetch_unread_files"), fetched - hits);
        let content = "containerfs_requests_total{operation=\"content\",outcome=\"ok\"}";
        assert_eq!(
            value(&told, "containerfs_cache_misses_total"),
            value(&told, content),
            "one miss, one request"
        );
        assert!(value(&told, "containerfs_cache_bytes{where=\"disk\"}") > 0.0);
        assert_eq!(value(&told, "containerfs_journal_files"), 1.0);
        assert_eq!(value(&told, "containerfs_journal_bytes"), 3.0);
        let reads = "containerfs_fuse_operation_duration_seconds_count{operation=\"read\"}";
        assert!(value(&told, reads) >= 4.0);
        assert!(value(&told, "containerfs_fuse_errors_total{operation=\"close\",errno=\"EIO\"}") >= 1.0);
        assert!(!told.contains("sk-test") && !told.contains("f00") && !told.contains(&id), "no names");
    });
}

#[test]
fn an_address_that_is_taken_is_told_at_the_start() {
    on_openai(|env| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let output =
            env.command(&["mount", "--metrics-listen", &address]).arg(env.mountpoint()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(&address), "{told}");
    });
}

#[test]
fn status_tells_uploads_under_way_latencies_and_what_waits() {
    on_openai(|env| {
        env.container("c");
        let mount = env.mount(&["--write-back", "--write-back-delay", "0s"]);
        assert_eq!(save(&mount.path("c/quick"), b"x"), Ok(()));
        wait_until("the quick one has arrived", || env.count(Kind::Upload) == 1);
        env.inject(Kind::Upload, Fault::Throttle { bytes_per_second: 400_000 });
        assert_eq!(save(&mount.path("c/slow"), &noise(2 << 20)), Ok(()));
        let mut seen = 0;
        wait_until("the upload is seen under way", || {
            let told = status(env, &mount);
            let upload = &told["under_way"][0];
            seen = upload["sent"].as_u64().unwrap_or(0);
            upload["name"] == "c/slow" && upload["bytes"] == 2 << 20 && seen > 0
        });
        let told = status(env, &mount);
        assert!(told["since"].as_str().unwrap().contains('T'));
        assert!(
            told["uploads"]["bytes_left"].as_u64().unwrap() <= (2 << 20) - seen,
            "what has gone is not left"
        );
        for percentile in ["p50_ms", "p95_ms", "p99_ms"] {
            assert!(told["requests"]["operations"]["upload"][percentile].is_u64());
        }
        let text = env.command(&["status"]).arg(&mount.dir).output().unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        for word in ["mount", "server", "since", "cache", "uploading", "slow", "pending", "p99"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        env.emulator.faults().clear();
    });
}

#[test]
fn status_is_watched_line_by_line() {
    on_openai(|env| {
        let mount = env.mount(&[]);
        let mut command = env.command(&["status", "--json", "--watch=100ms"]);
        let mut child = command.arg(&mount.dir).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let lines: Vec<String> = std::io::BufRead::lines(stdout).take(3).map(Result::unwrap).collect();
        // It ends when nobody reads any longer.
        assert_eq!(child.wait().unwrap().code(), Some(0));
        for line in lines {
            let told: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(told[0]["mountpoint"], mount.dir.to_str().unwrap());
        }
    });
}

#[test]
fn the_log_tells_each_call_with_its_latency_and_the_ids_of_both_sides() {
    on_openai(|env| {
        let id = env.container("c");
        env.store().put_upload(&id, "f", b"bytes");
        let mount = env.mount(&["--log-level", "debug", "--log-format", "json"]);
        assert_eq!(std::fs::read(mount.path("c/f")).unwrap(), b"bytes");
        assert_eq!(save(&mount.path("c/g"), b"mine"), Ok(()));
        // The last line comes after the answer.
        wait_until("the releases and the close are logged", || {
            let log = mount.log();
            let answered = |line: &str| line.contains("\"us\":") && line.contains("\"operation\":\"close\"");
            log.matches("\"release\"").count() >= 2 && log.lines().any(answered)
        });
        let log = mount.log();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let called = |operation: &str| {
            lines.iter().any(|line| {
                line["span"]["name"] == "fuse"
                    && line["span"]["operation"] == operation
                    && line["span"]["request"].as_u64().is_some_and(|id| id > 0)
                    && line["fields"]["us"].is_u64()
            })
        };
        for operation in ["lookup", "open", "read", "create", "close", "release"] {
            assert!(called(operation), "{operation}: {log}");
        }
        for (call, request) in [("close", "upload"), ("read", "content"), ("lookup", "list files")] {
            let found = lines.iter().any(|line| {
                let spans = line["spans"].as_array().cloned().unwrap_or_default();
                let sent =
                    spans.iter().find(|span| span["name"] == "request" && span["operation"] == request);
                spans.iter().any(|span| span["operation"] == call)
                    && sent.is_some_and(|span| span["id"].as_str().is_some_and(|id| id.starts_with("req_")))
            });
            assert!(found, "{call} → {request}: {log}");
        }
        assert!(log.contains("req_") && !log.contains("sk-test"));
    });
}
