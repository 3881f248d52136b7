//! Uploads to a server that reads as slowly as it likes, or no more.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::api::client::UploadBody;
use crate::api::{Client, ClientConfig, ErrorKind};

/// Bytes that the server reads at once.
const STEP: usize = 16 << 10;

/// A server that takes the first `most` bytes of an upload at `pace` a step, and answers when it has them all.
fn slow_server(most: usize, pace: Duration) -> (String, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The connections have it from here.
    setsockopt(&listener.as_fd(), sockopt::RcvBuf, &(32 << 10)).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (end, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut taken, mut buffer) = (0, vec![0; STEP]);
        while taken < most {
            let got = stream.read(&mut buffer).unwrap();
            taken += got;
            if got == 0 || buffer[..got].ends_with(b"--\r\n") {
                let _ = stream.write_all(super::reply("200 OK", "", super::FILE).as_bytes());
                return;
            }
            thread::sleep(pace);
        }
        let _ = ended.recv();
    });
    (url, end)
}

fn client(base_url: String) -> Client {
    Client::new(&ClientConfig { base_url, timeout: Duration::from_secs(1), ..ClientConfig::default() })
        .unwrap()
}

fn body(length: usize) -> UploadBody {
    UploadBody::Bytes(vec![7; length].into())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_kernel_has_taken_and_that_moves_is_not_cut() {
    for length in [200_000, 2_000_000] {
        let (url, _end) = slow_server(usize::MAX, Duration::from_millis(40));
        client(url).upload(&"c".into(), "f", body(length)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_kernel_has_taken_and_that_stalls_is_cut() {
    for taken in [0, 500_000] {
        let (url, _end) = slow_server(taken, Duration::from_millis(20));
        let (client, container) = (client(url), "c".into());
        let upload = client.upload(&container, "f", body(2_000_000));
        let error = tokio::time::timeout(Duration::from_secs(60), upload).await.unwrap().unwrap_err();
        assert_eq!((error.kind, error.may_have_happened), (ErrorKind::Timeout, true));
    }
}
