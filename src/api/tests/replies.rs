//! Replies that are not what was asked for, are not whole, or say no.

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::{FILE, canned, client, read_request, reply};
use crate::api::client::{Part, UploadBody};
use crate::api::{Error, ErrorKind};

const REQUEST: &str = "x-request-id: req_7\r\nx-should-retry: false\r\n";

/// A server that sends each connection the next reply and then keeps it open, saying nothing more.
fn silent_after(replies: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut open = Vec::new();
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&mut stream);
            stream.write_all(reply.as_bytes()).unwrap();
            open.push(stream);
        }
        thread::sleep(Duration::from_secs(60));
    });
    url
}

async fn upload(url: &str) -> Error {
    let body = UploadBody::Bytes(Bytes::from_static(b"X"));
    client(url).upload(&"c".into(), "a", body).await.unwrap_err()
}

async fn retrieve(url: &str) -> Error {
    client(url).retrieve_file(&"c".into(), &"f".into()).await.unwrap_err()
}

#[tokio::test]
async fn a_post_whose_reply_is_useless_may_have_happened() {
    let whole = |body: &str| reply("200 OK", REQUEST, body);
    let chunked = |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let cases = [
        ("too long", whole(&format!("{}{FILE}", " ".repeat(33 << 20)))),
        ("HTML", whole("<html>it worked</html>")),
        ("of a wrong shape", whole(r#"{"ok":true}"#)),
        ("with garbage behind it", whole(&format!("{FILE}garbage"))),
        ("empty", whole("")),
        ("an error", whole(r#"{"error":{"message":"boo"}}"#)),
        ("encoded", reply("200 OK", "Content-Encoding: gzip\r\n", "\u{1f}\u{8}")),
        ("cut", whole(FILE).replace("Content-Length: ", "Content-Length: 1")),
        ("in broken chunks", chunked("zz\r\n{}\r\n0\r\n\r\n")),
        ("behind too many headers", reply("200 OK", &"x-more: more\r\n".repeat(1000), FILE)),
        ("elsewhere", reply("303 See Other", "Location: /v1/elsewhere\r\n", "")),
        ("of the server's error", reply("500 No", REQUEST, "{}")),
    ];
    for (name, reply) in cases {
        let (url, seen) = canned(vec![reply.clone(), reply]);
        let error = upload(&url).await;
        assert!(error.may_have_happened, "{name}: {error}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{name} was repeated");
    }
    for status in ["400 No", "404 No", "413 No", "307 Temporary Redirect"] {
        let (url, _) = canned(vec![reply(status, REQUEST, "")]);
        assert!(!upload(&url).await.may_have_happened, "{status}");
    }
}

/// What comes of a part of a file to which the server replies so.
async fn content(part: &Part, reply: String) -> Result<(u64, Vec<u8>), Error> {
    let (url, _) = canned(vec![reply]);
    let mut content = client(&url).content(&"c".into(), &"f".into(), part).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = content.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok((content.start, bytes))
}

#[tokio::test]
async fn only_what_was_asked_for_is_content() {
    let parts = [Part::Whole, Part::From(5), Part::Range(5..10)];
    for part in &parts {
        let whole = content(part, reply("200 OK", "Content-Encoding: identity\r\n", "0123456789")).await;
        assert_eq!(whole.unwrap(), (0, b"0123456789".to_vec()), "{part:?}");
        for (status, headers) in [
            ("204 No Content", ""),
            ("202 Accepted", ""),
            ("203 Changed", ""),
            ("206 Partial Content", ""),
            ("206 Partial Content", "Content-Range: bytes 0-4/10\r\n"),
            ("206 Partial Content", "Content-Range: bytes 4-9/10\r\n"),
            ("206 Partial Content", "Content-Range: bytes 5-8/10\r\n"),
            ("206 Partial Content", "Content-Range: bytes 5-12/20\r\n"),
            ("200 OK", "Content-Encoding: gzip\r\n"),
        ] {
            let body = if status.starts_with("204") { "" } else { "56789" };
            let error = content(part, reply(status, &format!("{headers}{REQUEST}"), body)).await;
            let error = error.expect_err(&format!("{part:?}: {status} {headers}"));
            assert_eq!(error.kind, ErrorKind::Protocol, "{part:?}: {error}");
            assert_eq!(error.request_id.as_deref(), Some("req_7"));
        }
    }
    for part in &parts[1..] {
        let right = reply("206 Partial Content", "Content-Range: bytes 5-9/10\r\n", "56789");
        assert_eq!(content(part, right).await.unwrap(), (5, b"56789".to_vec()), "{part:?}");
    }
    let at_the_end = reply("206 Partial Content", "Content-Range: bytes 5-7/8\r\n", "567");
    assert_eq!(content(&parts[2], at_the_end).await.unwrap(), (5, b"567".to_vec()));
}

#[tokio::test]
async fn what_has_the_type_of_something_else_is_content_if_it_has_the_known_length() {
    let json = "Content-Type: application/json\r\n";
    let other = r#"{"foo":[1,2]}"#;
    let cases = [
        (json, "a.txt", Some(3000), None, false),
        (json, "a.txt", None, Some(3000), false),
        ("Content-Type: text/html\r\n", "a.txt", None, Some(3000), false),
        (json, "a.txt", Some(13), None, true),
        (json, "a.txt", None, Some(13), true),
        (json, "a.txt", None, None, true),
        (json, "a.json", None, Some(3000), true),
        // A model may have written it again.
        ("Content-Type: text/plain\r\n", "a.txt", Some(3000), Some(3000), true),
        ("", "a.txt", Some(3000), None, true),
    ];
    for (headers, name, told, learnt, is_content) in cases {
        let case = format!("{headers:?} {name} {told:?} {learnt:?}");
        let path = format!("/mnt/data/{name}");
        let file = serde_json::json!({ "id": "f", "bytes": told, "path": path, "source": "assistant" });
        let file = serde_json::from_value(file).unwrap();
        let chunked = format!(
            "HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\n\r\nd\r\n{other}\r\n0\r\n\r\n"
        );
        let (url, _) = canned(vec![reply("200 OK", headers, other), chunked]);
        let client = client(&url);
        let mut content = client.content(&"c".into(), &"f".into(), &Part::Whole).await.unwrap();
        let checked = content.check(&file, learnt).await;
        assert_eq!(
            checked.err().map(|error| error.kind),
            (!is_content).then_some(ErrorKind::Protocol),
            "{case}"
        );
        drop(content);
        let mut content = client.content(&"c".into(), &"f".into(), &Part::Whole).await.unwrap();
        content.check(&file, learnt).await.unwrap();
        let expected = content.expected_len(&file, learnt);
        assert_eq!(expected.is_none_or(|expected| expected == 13), is_content, "in chunks: {case}");
    }
}

#[tokio::test]
async fn a_deletion_that_the_server_denies_is_no_success() {
    let cases = [
        ("", true),
        ("{}", true),
        ("null", true),
        (r#"{"id":"f","object":"container.file.deleted","deleted":true}"#, true),
        (r#"{"object":"container.file.deleted"}"#, true),
        (r#"{"deleted":true,"object":null}"#, true),
        (r#"{"deleted":false}"#, false),
        (r#"{"id":"f","object":"container.file.deleted","deleted":false}"#, false),
        (r#"{"id":"f"}"#, false),
    ];
    for (body, done) in cases {
        let (url, _) = canned(vec![reply("200 OK", REQUEST, body)]);
        match client(&url).delete_file(&"c".into(), &"f".into()).await {
            Ok(_) => assert!(done, "{body}"),
            Err(error) => {
                assert!(!done, "{body}: {error}");
                assert_eq!((error.kind, error.request_id.as_deref()), (ErrorKind::Protocol, Some("req_7")));
            }
        }
    }
}

#[tokio::test]
async fn every_error_of_a_reply_has_the_servers_request_id() {
    let long = format!(r#"{{"error":{{"message":"the words {}","type":"x"}}}}"#, "x".repeat(100_000));
    let cases = [
        ("200 OK", r#"{"error":{"message":"boo"}}"#.to_owned(), ErrorKind::Protocol, "boo"),
        ("400 No", long.clone(), ErrorKind::Refused, "the words"),
        ("404 No", long, ErrorKind::FileNotFound, "the words"),
        ("200 OK", "<html>log in</html>".to_owned(), ErrorKind::Protocol, "base URL"),
        ("302 Found", String::new(), ErrorKind::Protocol, "redirect"),
    ];
    for (status, body, kind, words) in cases {
        let (url, _) = canned(vec![reply(status, REQUEST, &body); 2]);
        let error = retrieve(&url).await;
        assert_eq!((error.kind, error.request_id.as_deref()), (kind, Some("req_7")), "{status}: {error}");
        assert!(error.message.contains(words) && error.message.len() < 2000, "{status}: {error}");
        let raw = client(&url).raw().retrieve_file(&"c".into(), &"f".into()).await.unwrap_err();
        assert_eq!(raw.request_id.as_deref(), Some("req_7"), "{status}: {raw}");
    }
}

#[tokio::test]
async fn an_error_body_that_does_not_end_costs_no_more_than_the_message() {
    let begun = r#"{"error":{"message":"Container is"#;
    let head = format!("HTTP/1.1 400 No\r\n{REQUEST}Content-Length: 1000\r\n\r\n");
    for body in ["", begun] {
        let url = silent_after(vec![format!("{head}{body}"); 4]);
        let error = upload(&url).await;
        assert_eq!((error.kind, error.status), (ErrorKind::Refused, Some(400)), "{error}");
        assert!(body.is_empty() || error.message == "Container is", "{error}");
        assert_eq!(retrieve(&url).await.kind, ErrorKind::Refused);
    }
    // What is cut may be whole the next time.
    let cut = format!("HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n{begun}");
    let whole = reply("404 No", "", r#"{"error":{"message":"Container is expired"}}"#);
    let (url, _) = canned(vec![cut, whole]);
    assert_eq!(retrieve(&url).await.kind, ErrorKind::ContainerGone);
}

#[tokio::test]
async fn a_gateway_that_gives_up_is_the_servers_error() {
    let failing = reply("504 Gateway Timeout", "retry-after-ms: 1\r\n", "{}");
    let (url, seen) = canned(vec![failing.clone(), failing.clone(), failing]);
    assert_eq!(retrieve(&url).await.kind, ErrorKind::Server);
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_no_http_is_no_reply_of_the_api_but_may_be_the_rest_of_another() {
    let garbled = ["\0\u{7f}garbage\r\n\r\n", "<html>it worked</html>", "SSH-2.0-OpenSSH_9.2\r\n"];
    let lengths = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}";
    let headers = reply("200 OK", &"x-more: more\r\n".repeat(1000), FILE);
    for reply in garbled.into_iter().chain([lengths, &headers]) {
        let (url, seen) = canned(vec![reply.to_owned(); 9]);
        let error = retrieve(&url).await;
        assert_eq!(error.kind, ErrorKind::Protocol, "{reply:?}: {error}");
        assert!(seen.lock().unwrap().len() > 1, "{reply:?} is asked for once more");
        let (url, seen) = canned(vec![reply.to_owned(); 9]);
        let error = upload(&url).await;
        assert_eq!(error.kind, ErrorKind::Protocol, "{reply:?}: {error}");
        assert!(error.may_have_happened && seen.lock().unwrap().len() == 1, "{reply:?}");
    }
}
