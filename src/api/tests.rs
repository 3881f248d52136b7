//! The client against the emulator, and against servers that misbehave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::{Part, UploadBody};
use super::model::{CreateContainer, ListParams};
use super::{Client, ClientConfig, Container, ContainerId, Cursors, ErrorKind, File, FileId, List};
use crate::emulator::{Config, Emulator, Fault, FaultRule, Kind, Profile};

mod moving;
mod replies;

const KEY: &str = "sk-test-0123456789";

fn client(base_url: &str) -> Client {
    let config = ClientConfig {
        base_url: base_url.to_owned(),
        api_key: Some(KEY.to_owned().into()),
        timeout: Duration::from_secs(5),
        ..ClientConfig::default()
    };
    Client::new(&config).unwrap()
}

async fn emulator() -> (Emulator, Client) {
    let emulator = Emulator::start(Config::new(Profile::Openai), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let client = client(&emulator.base_url());
    (emulator, client)
}

/// A server that gives each connection the next reply and keeps what it was sent.
fn canned(replies: Vec<impl AsRef<[u8]> + Send + 'static>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let requests = seen.clone();
    thread::spawn(move || {
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read_request(&mut stream);
            requests.lock().unwrap().push(request);
            stream.write_all(reply.as_ref()).unwrap();
        }
    });
    (url, seen)
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let got = stream.read(&mut buffer).unwrap();
        request.extend_from_slice(&buffer[..got]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if got == 0 || body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const FILE: &str = r#"{"id":"cfile_1","path":"/mnt/data/a","bytes":1,"source":"user","created_at":1}"#;

#[tokio::test]
async fn the_nine_operations_go_round() {
    let (_emulator, client) = emulator().await;
    let params =
        CreateContainer { name: "c".to_owned(), memory_limit: Some("4g".to_owned()), ..Default::default() };
    let container = client.create_container(&params).await.unwrap();
    assert_eq!(container.memory_limit.as_deref(), Some("4g"));
    assert_eq!(client.retrieve_container(&container.id).await.unwrap().name, "c");
    let file = client
        .upload(&container.id, "a.bin", UploadBody::Bytes(Bytes::from_static(b"\0\xff")))
        .await
        .unwrap();
    assert_eq!(file.bytes, Some(2));
    assert_eq!(client.retrieve_file(&container.id, &file.id).await.unwrap().path, file.path);
    let mut content = client.content(&container.id, &file.id, &Part::Whole).await.unwrap();
    assert_eq!(content.length, Some(2));
    assert_eq!(content.chunk().await.unwrap().unwrap(), b"\0\xff"[..]);
    assert!(content.chunk().await.unwrap().is_none());
    let page = client.list_files(&container.id, &ListParams::default()).await.unwrap();
    assert_eq!((page.data.len(), page.has_more), (1, false));
    client.delete_file(&container.id, &file.id).await.unwrap();
    let gone = client.retrieve_file(&container.id, &file.id).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::FileNotFound);
    assert!(gone.request_id.is_some());
    client.delete_container(&container.id).await.unwrap();
    let gone = client.upload(&container.id, "a", UploadBody::Bytes(Bytes::new())).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::ContainerGone);
    assert_eq!(client.all_containers().await.unwrap().len(), 0);
}

#[tokio::test]
async fn long_lists_are_walked_from_both_ends_and_merged() {
    let (emulator, client) = emulator().await;
    for (files, requests) in [(0, 1), (100, 1), (101, 3), (450, 5), (1000, 11)] {
        let id = emulator.store().create_container("c");
        emulator.store().put_many(&id, (0..files).map(|n| (format!("/mnt/data/{n}"), b"x")));
        emulator.forget_requests();
        let listed =
            client.all_files(&ContainerId::from(id.as_str()), &mut Cursors::default()).await.unwrap();
        let names: Vec<String> = listed.items.into_iter().map(|file| file.path).collect();
        let expected: Vec<String> = (0..files).rev().map(|n| format!("/mnt/data/{n}")).collect();
        assert_eq!(names, expected);
        assert!(
            emulator.requests().len() <= requests,
            "{files} files: {} requests",
            emulator.requests().len()
        );
    }
}

#[tokio::test]
async fn a_list_that_was_walked_is_walked_again_from_everywhere_at_once() {
    let (emulator, client) = emulator().await;
    let id = emulator.store().create_container("c");
    let (store, container) = (emulator.store(), ContainerId::from(id.as_str()));
    let right = |listed: &[File]| {
        let mut expected: Vec<String> = store.files(&id).into_iter().map(|file| file.id).collect();
        expected.reverse();
        assert!(listed.iter().map(|file| file.id.as_str()).eq(expected.iter().map(String::as_str)));
    };
    store.put_many(&id, (0..1000).map(|n| (format!("/mnt/data/{n}"), b"x")));
    let mut cursors = Cursors::default();
    let listed = client.all_files(&container, &mut cursors).await.unwrap().items;
    let delete = |file: &File| store.delete_file(&id, file.id.as_str());
    let (in_a_part, at_a_cursor) = (listed[300].clone(), listed[2 * 95 - 1].clone());
    // Nothing new; a few; more than a page; some gone; a cursor gone, which makes one plain walk; then as
    // before.
    let again = [
        (0, None, 11),
        (3, None, 11),
        (200, None, 13),
        (0, Some(in_a_part), 13),
        (1, Some(at_a_cursor), 13 + 14),
        (0, None, 13),
    ];
    for (step, (more, less, requests)) in again.into_iter().enumerate() {
        store.put_many(&id, (0..more).map(|n| (format!("/mnt/data/{step}-{n}"), b"x")));
        less.as_ref().map(delete);
        emulator.forget_requests();
        right(&client.all_files(&container, &mut cursors).await.unwrap().items);
        let count = emulator.requests().len();
        assert!(count <= requests, "step {step}: {count} requests instead of {requests}");
    }
}

#[tokio::test]
async fn what_has_expired_for_good_is_not_listed_again() {
    let (emulator, client) = emulator().await;
    let store = emulator.store();
    let old = store.create_container("alive all the same");
    for n in 0..500 {
        store.expire_container(&store.create_container(&format!("old {n}")));
    }
    store.create_container("new");
    let mut cursors = Cursors::default();
    let live = |listed: List<Container>| {
        listed
            .items
            .into_iter()
            .filter(Container::is_live)
            .map(|container| container.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(live(client.live_containers(&mut cursors).await.unwrap()), ["new", "alive all the same"]);
    for expected in [&["newer", "new", "alive all the same"][..], &["newest", "newer", "new"]] {
        store.create_container(expected[0]);
        emulator.forget_requests();
        assert_eq!(live(client.live_containers(&mut cursors).await.unwrap())[..expected.len()], *expected);
        assert_eq!(emulator.requests().len(), 2, "the newest and the part with the old one");
        store.expire_container(&old);
    }
    emulator.forget_requests();
    assert_eq!(live(client.live_containers(&mut cursors).await.unwrap()), ["newest", "newer", "new"]);
    assert_eq!(emulator.requests().len(), 1);
}

#[tokio::test]
async fn a_name_that_is_no_utf8_makes_no_list_unreadable() {
    let list = format!(r#"{{"data":[{FILE},{{"id":"cfile_2","path":"/mnt/data/?"}}]}}"#);
    let mut list = reply("200 OK", "", &list).into_bytes();
    list.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xff);
    let (url, _) = canned(vec![list]);
    let listed = client(&url).all_files(&"cntr_1".into(), &mut Cursors::default()).await.unwrap();
    let paths: Vec<_> = listed.items.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["/mnt/data/a", "/mnt/data/\u{fffd}"]);
    assert!(!listed.has_unread);
}

#[tokio::test]
async fn an_endless_list_ends() {
    let (emulator, client) = emulator().await;
    let id = emulator.store().create_container("c");
    emulator.store().put_upload(&id, "f", b"x");
    emulator.faults().inject(FaultRule::always(Kind::ListFiles, Fault::EndlessList));
    let error = client.all_files(&ContainerId::from(id.as_str()), &mut Cursors::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Protocol);
}

#[tokio::test]
async fn what_is_sent_is_what_the_api_wants() {
    let (url, seen) = canned(vec![reply("200 OK", "", FILE), reply("200 OK", "", FILE)]);
    let client = client(&url);
    let container = ContainerId::from("../a/b?c#d");
    let body = UploadBody::Bytes(Bytes::from_static(b"X"));
    client.upload(&container, "q\"\r\nX-Evil: 1\r\n ü.txt", body).await.unwrap();
    client.retrieve_file(&container, &FileId::from("..%2f")).await.unwrap();
    let seen = seen.lock().unwrap();
    let upload = &seen[0];
    assert!(upload.starts_with("POST /v1/containers/%2E%2E%2Fa%2Fb%3Fc%23d/files HTTP/1.1\r\n"), "{upload}");
    let (head, body) = upload.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.contains(&format!("authorization: bearer {KEY}")));
    assert!(head.contains("accept-encoding: identity"));
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    assert!(body.contains("name=\"file\"; filename=\"q%22%0D%0AX-Evil: 1%0D%0A ü.txt\"\r\n"), "{body}");
    assert!(
        seen[1].starts_with("GET /v1/containers/%2E%2E%2Fa%2Fb%3Fc%23d/files/%2E%2E%252f HTTP/1.1\r\n"),
        "{}",
        seen[1]
    );
}

#[tokio::test]
async fn an_id_that_would_climb_is_refused_here() {
    let (url, seen) = canned(Vec::<String>::new());
    for id in ["", ".", ".."] {
        let error = client(&url).retrieve_container(&ContainerId::from(id)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Config);
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_redirect_carries_the_key_nowhere() {
    let (elsewhere, stolen) = canned(vec![reply("200 OK", "", FILE)]);
    let (url, _) = canned(vec![reply("307 Temporary Redirect", &format!("Location: {elsewhere}/x\r\n"), "")]);
    let error = client(&url).retrieve_container(&"c".into()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Protocol);
    assert!(error.message.contains("redirect"), "{error}");
    assert!(stolen.lock().unwrap().is_empty());
}

#[test]
fn a_key_is_not_sent_in_the_clear() {
    let of = |base_url: &str, insecure_http| {
        Client::new(&ClientConfig { base_url: base_url.to_owned(), insecure_http, ..Default::default() })
    };
    let error = of("http://example.com/v1", false).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Config);
    assert!(error.message.contains("--insecure-http"));
    assert!(of("http://example.com/v1", true).is_ok());
    for loopback in ["http://127.0.0.1:1/v1", "http://[::1]/v1", "http://localhost/v1"] {
        assert!(of(loopback, false).is_ok());
    }
    for wrong in
        ["ftp://example.com", "not a url", "https://user:pass@example.com/v1", "http://127.0.0.1.evil.com/v1"]
    {
        assert!(of(wrong, false).is_err(), "{wrong}");
    }
}

#[test]
fn the_key_is_in_no_debug_output() {
    let config = ClientConfig { api_key: Some(KEY.to_owned().into()), ..Default::default() };
    let client = Client::new(&config).unwrap();
    assert!(!format!("{config:?} {client:?}").contains(KEY));
    let broken = ClientConfig { api_key: Some(format!("{KEY}\n").into()), ..Default::default() };
    let error = Client::new(&broken).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(KEY));
}

#[tokio::test]
async fn a_get_is_repeated_twice_and_a_post_is_not() {
    let failing = || reply("500 Internal Server Error", "retry-after-ms: 1\r\n", "{}");
    let (url, seen) = canned(vec![failing(), failing(), reply("200 OK", "", FILE)]);
    client(&url).retrieve_file(&"c".into(), &"f".into()).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 3);

    let (url, seen) = canned(vec![failing(), reply("200 OK", "", FILE)]);
    let body = UploadBody::Bytes(Bytes::from_static(b"X"));
    let error = client(&url).upload(&"c".into(), "a", body).await.unwrap_err();
    assert_eq!(
        (error.kind, error.may_have_happened, seen.lock().unwrap().len()),
        (ErrorKind::Server, true, 1)
    );
}

#[tokio::test]
async fn a_post_is_repeated_where_the_server_says_that_it_did_nothing() {
    for headers in ["retry-after-ms: 1\r\n", "x-should-retry: true\r\nretry-after-ms: 1\r\n"] {
        let (url, seen) =
            canned(vec![reply("429 Too Many Requests", headers, "{}"), reply("200 OK", "", FILE)]);
        let body = UploadBody::Bytes(Bytes::from_static(b"X"));
        client(&url).upload(&"c".into(), "a", body).await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), 2, "{headers}");
    }
    let (url, seen) = canned(vec![reply("429 Slow", "x-should-retry: false\r\n", "{}")]);
    let error = client(&url).retrieve_file(&"c".into(), &"f".into()).await.unwrap_err();
    assert_eq!((error.kind, seen.lock().unwrap().len()), (ErrorKind::RateLimited, 1));
}

#[tokio::test]
async fn a_post_that_may_have_happened_is_not_sent_again_blindly() {
    const ASKS: &str = "x-should-retry: true\r\nretry-after-ms: 1\r\n";
    const WAIT: &str = "retry-after-ms: 1\r\n";
    for (status, headers) in [
        ("408 Late", WAIT),
        ("408 Late", "x-should-retry: false\r\n"),
        ("503 Busy", "retry-after: 60\r\nx-should-retry: false\r\n"),
        ("409 Conflict", WAIT),
        ("503 Busy", WAIT),
        ("400 No", ASKS),
        ("409 Conflict", ASKS),
        ("500 Oops", ASKS),
    ] {
        let (url, seen) = canned(vec![reply(status, headers, "{}"), reply("200 OK", "", FILE)]);
        let client = client(&url);
        let body = UploadBody::Bytes(Bytes::from_static(b"X"));
        let error = client.upload(&"c".into(), "a", body).await.unwrap_err();
        assert!(error.may_have_happened && seen.lock().unwrap().len() == 1, "{status} {headers}");
        let may_repeat = !headers.contains("false");
        assert_eq!(client.wait_to_repeat(&error).await, may_repeat, "{status} {headers}");
    }
}

#[tokio::test]
async fn a_wait_that_is_longer_than_the_budget_is_not_begun() {
    let (url, _) = canned(vec![reply("429 Slow", "retry-after: 3600\r\n", "{}")]);
    let begun = Instant::now();
    let error = client(&url).retrieve_file(&"c".into(), &"f".into()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn replies_are_told_apart() {
    let error = |message: &str| {
        format!(r#"{{"error":{{"message":"{message}","type":"x","param":null,"code":null}}}}"#)
    };
    let cases = [
        ("401 No", error("Incorrect API key"), ErrorKind::Unauthorized),
        ("404 No", error("Container with id 'c' not found."), ErrorKind::ContainerGone),
        ("404 No", error("File cfile_1 not found on container c."), ErrorKind::FileNotFound),
        ("404 No", "<html>nothing here</html>".to_owned(), ErrorKind::NotFound),
        ("400 No", error("Container is expired"), ErrorKind::ContainerGone),
        ("404 No", error("Container is expired"), ErrorKind::ContainerGone),
        ("400 No", error("You uploaded an invalid file"), ErrorKind::Refused),
        ("413 No", String::new(), ErrorKind::TooLarge),
        ("200 OK", error("it went wrong"), ErrorKind::Protocol),
        ("200 OK", error("File cfile_1 not found on container c."), ErrorKind::FileNotFound),
        ("200 OK", r#"{"error":{"message":"gone","code":404}}"#.to_owned(), ErrorKind::FileNotFound),
        ("200 OK", r#"{"error":{"message":"slowly","code":"429"}}"#.to_owned(), ErrorKind::RateLimited),
        ("200 OK", r#"{"error":{"message":"odd","code":"200"}}"#.to_owned(), ErrorKind::Protocol),
        ("200 OK", "<html>log in</html>".to_owned(), ErrorKind::Protocol),
    ];
    for (status, body, expected) in cases {
        let (url, _) = canned(vec![reply(status, "x-request-id: req_7\r\nx-should-retry: false\r\n", &body)]);
        let error = client(&url).retrieve_file(&"c".into(), &"f".into()).await.unwrap_err();
        assert_eq!(error.kind, expected, "{status} {body}: {error}");
        if !status.starts_with("200") {
            assert_eq!(error.request_id.as_deref(), Some("req_7"));
        }
    }
}

#[tokio::test]
async fn a_message_from_a_server_is_bounded_and_harmless() {
    let body = format!(r#"{{"error":{{"message":"\u001b[2J{}"}}}}"#, "x".repeat(50_000));
    let (url, _) = canned(vec![reply("400 No", "", &body)]);
    let error = client(&url).retrieve_file(&"c".into(), &"f".into()).await.unwrap_err();
    assert!(error.message.len() < 2000 && !error.message.contains('\u{1b}'), "{error}");
}

#[tokio::test]
async fn an_empty_reply_to_a_delete_is_success() {
    let (url, _) = canned(vec!["HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned()]);
    client(&url).delete_file(&"c".into(), &"f".into()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_shorter_than_it_was_is_not_uploaded() {
    let (emulator, client) = emulator().await;
    let id = emulator.store().create_container("c");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, "short").unwrap();
    let body = UploadBody::File { path, len: 1 << 20 };
    client.upload(&ContainerId::from(id.as_str()), "f", body).await.unwrap_err();
    assert!(emulator.store().files(&id).is_empty());
}

#[tokio::test]
async fn a_stalled_body_is_given_up_and_a_slow_one_is_not() {
    let (emulator, _) = emulator().await;
    let id = emulator.store().create_container("c");
    let file = emulator.store().put_upload(&id, "f", &vec![7; 12_000]);
    let config =
        ClientConfig { base_url: emulator.base_url(), timeout: Duration::from_secs(1), ..Default::default() };
    let config = ClientConfig { api_key: Some(KEY.to_owned().into()), ..config };
    let client = Client::new(&config).unwrap();
    let (id, file) = (ContainerId::from(id.as_str()), FileId::from(file.as_str()));
    let whole = async || {
        let mut content = client.content(&id, &file, &Part::Whole).await?;
        let mut bytes = 0;
        while let Some(chunk) = content.chunk().await? {
            bytes += chunk.len();
        }
        Ok::<_, super::Error>(bytes)
    };
    emulator.faults().inject(FaultRule::once(Kind::Content, Fault::Throttle { bytes_per_second: 5000 }));
    assert_eq!(whole().await.unwrap(), 12_000);
    emulator.faults().inject(FaultRule::once(Kind::Content, Fault::HangMidBody { after: 100 }));
    assert_eq!(whole().await.unwrap_err().kind, ErrorKind::Timeout);
}

#[test]
fn custom_headers_are_lines_of_name_and_value() {
    let headers = ClientConfig::parse_custom_headers("X-One: 1\n\nnonsense\nX-Two:two: three\n");
    let expected = [("X-One", "1"), ("X-Two", "two: three")];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn a_server_that_repeats_the_key_does_not_make_us_tell_it() {
    let padding = "x".repeat(990);
    let replies = [
        reply("401 No", "", &format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}"}}}}"#)),
        reply("400 No", "", &format!(r#"{{"error":{{"message":"{padding}{KEY}"}}}}"#)),
        reply("400 No", "", &format!(r#"{{"error":{{"message":"\u0073{}"}}}}"#, &KEY[1..])),
        reply("400 No", &format!("x-request-id: {KEY}\r\n"), "{}"),
        reply("200 OK", "", &format!(r#"{{"error":{{"message":"{KEY}"}}}}"#)),
        reply("200 OK", "", &format!(r#"{{"id":"f","created_at":"{KEY}"}}"#)),
    ];
    for reply in replies {
        for raw in [false, true] {
            let (url, _) = canned(vec![reply.clone()]);
            let client = client(&url);
            let error = if raw {
                client.raw().retrieve_file(&"c".into(), &"f".into()).await.err()
            } else {
                client.retrieve_file(&"c".into(), &"f".into()).await.err()
            };
            // Passed on as JSON, an odd field is data and no error.
            let Some(error) = error else { continue };
            let told = format!("{error} {error:?}");
            assert!(!told.contains("sk-te"), "{told}");
        }
    }
}

#[test]
fn what_is_secret_is_in_no_debug_output() {
    let config = ClientConfig {
        base_url: "https://me:hush@example.com/v1".to_owned(),
        api_key: Some("sk-hush".to_owned().into()),
        custom_headers: ClientConfig::parse_custom_headers("api-key: hush"),
        ..ClientConfig::default()
    };
    let policy = serde_json::json!({"type": "allowlist", "domain_secrets": [{"domain": "a.org", "name": "K", "value": "hush"}]});
    let shown = format!("{config:?} {:?}", crate::api::NetworkPolicy(policy));
    assert!(!shown.contains("hush"), "{shown}");
    assert!(
        shown.contains("example.com") && shown.contains("api-key") && shown.contains("allowlist"),
        "{shown}"
    );
}
