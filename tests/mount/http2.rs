//! What the real service speaks: TLS, and HTTP/2 over it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use containerfs::emulator::Kind::{Content, DeleteFile, Upload};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::server::TlsStream;

use crate::env::{Env, Mount, noise, on_openai, save, wait_until};
use crate::gate::acceptor;

/// What stands before the server, and what it has seen.
struct Front {
    at: SocketAddr,
    certificate: PathBuf,
    seen: Arc<Seen>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Seen {
    /// What was spoken on each connection.
    spoken: Mutex<Vec<String>>,
    /// As many connections are silent, the first ones.
    silent: AtomicUsize,
    /// So many requests are refused.
    refuses: AtomicUsize,
    /// Connections that were closed in good order.
    closed: AtomicUsize,
}

impl Front {
    /// Hands on bytes, whatever they are.
    fn of_bytes(env: &Env, protocols: &[&str]) -> Self {
        let upstream = env.emulator.addr();
        Self::new(env, protocols, move |stream, number, seen| async move {
            let upstream = TcpStream::connect(upstream).await.unwrap();
            let (outer, inner) = (tokio::io::split(stream), upstream.into_split());
            let there = pass(outer.0, inner.1, number, seen.clone());
            tokio::join!(there, pass(inner.0, outer.1, number, seen));
        })
    }

    /// A server of HTTP/2 that hands on whole requests, refuses some, and closes each connection after a few.
    fn of_requests(env: &Env) -> Self {
        let upstream = format!("http://{}", env.emulator.addr());
        Self::new(env, &["h2"], move |stream, _, seen| {
            let upstream = upstream.clone();
            async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut taken = 0;
                while let Some(Ok((request, mut reply))) = connection.accept().await {
                    let refused =
                        seen.refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                    if refused.is_ok() {
                        reply.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    taken += 1;
                    if taken == 5 {
                        seen.closed.fetch_add(1, Ordering::SeqCst);
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(hand_on(request, reply, upstream.clone()));
                }
            }
        })
    }

    fn new<Serving: Future<Output = ()> + Send>(
        env: &Env,
        protocols: &[&str],
        serve: impl Fn(TlsStream<TcpStream>, usize, Arc<Seen>) -> Serving + Clone + Send + 'static,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let (acceptor, pem) = acceptor("localhost", protocols);
        let certificate = env.dir.path().join("front.pem");
        fs::write(&certificate, pem).unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let (at, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let told = seen.clone();
        runtime.spawn(async move {
            loop {
                let (acceptor, told, serve) = (acceptor.clone(), told.clone(), serve.clone());
                let stream = listener.accept().await.unwrap().0;
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let spoken = stream.get_ref().1.alpn_protocol().unwrap_or(b"none");
                    let number = {
                        let mut all = told.spoken.lock().unwrap();
                        all.push(String::from_utf8_lossy(spoken).into_owned());
                        all.len()
                    };
                    serve(stream, number, told).await;
                });
            }
        });
        Self { at, certificate, seen, _runtime: runtime }
    }

    fn mount(&self, env: &Env, flags: &[&str]) -> Mount {
        let url = format!("https://localhost:{}/v1", self.at.port());
        env.mount_with(
            flags,
            &[("OPENAI_BASE_URL", url.as_str()), ("SSL_CERT_FILE", self.certificate.to_str().unwrap())],
        )
    }

    fn spoken(&self) -> Vec<String> {
        self.seen.spoken.lock().unwrap().clone()
    }

    /// The connections that there are say nothing any more; new ones do.
    fn silence(&self) {
        self.seen.silent.store(self.spoken().len(), Ordering::SeqCst);
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    number: usize,
    seen: Arc<Seen>,
) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(got @ 1..) = from.read(&mut piece).await {
        if number <= seen.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if to.write_all(&piece[..got]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn hand_on(
    request: hyper::Request<h2::RecvStream>,
    mut reply: h2::server::SendResponse<Bytes>,
    upstream: String,
) {
    let (parts, mut body) = request.into_parts();
    let mut sent = Vec::new();
    while let Some(Ok(chunk)) = body.data().await {
        body.flow_control().release_capacity(chunk.len()).unwrap();
        sent.extend_from_slice(&chunk);
    }
    let url = format!("{upstream}{}", parts.uri.path_and_query().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.request(parts.method, url).headers(parts.headers).body(sent).send().await.unwrap();
    let mut head = hyper::Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        // Those of a connection have no place in HTTP/2.
        if !["connection", "transfer-encoding", "keep-alive"].contains(&name.as_str()) {
            head = head.header(name, value);
        }
    }
    let bytes = answer.bytes().await.unwrap();
    let Ok(mut stream) = reply.send_response(head.body(()).unwrap(), bytes.is_empty()) else { return };
    if !bytes.is_empty() {
        let _ = stream.send_data(bytes, true);
    }
}

#[test]
fn everything_goes_over_one_connection_where_the_server_has_http_2() {
    on_openai(|env| {
        let id = env.container("c");
        for number in 0..40 {
            env.store().put_model_file(&id, &format!("/mnt/data/f{number:02}"), &noise(number * 100));
        }
        let large = noise(20 << 20);
        env.store().put_model_file(&id, "/mnt/data/large", &large);
        let front = Front::of_bytes(env, &["h2", "http/1.1"]);
        let mount = front.mount(env, &[]);
        assert_eq!(mount.names("c").len(), 41);
        for number in 0..40 {
            assert!(fs::read(mount.path(&format!("c/f{number:02}"))).unwrap() == noise(number * 100));
        }
        assert!(fs::read(mount.path("c/large")).unwrap() == large);
        let changes = env.changes_of(|| {
            save(&mount.path("c/new"), &large).unwrap();
            save(&mount.path("c/f01"), b"over").unwrap();
            fs::rename(mount.path("c/f02"), mount.path("c/moved")).unwrap();
            fs::remove_file(mount.path("c/f03")).unwrap();
        });
        assert_eq!(changes, [Upload, Upload, DeleteFile, Upload, DeleteFile, DeleteFile]);
        assert_eq!(mount.unmount(env), (0, 0));
        assert!(env.bytes_on_server(&id, "new") == large);
        assert_eq!(env.bytes_on_server(&id, "f01"), b"over");
        let spoken = front.spoken();
        // Requests that begin at once may each begin with a connection of their own.
        assert!(spoken.iter().all(|spoken| spoken == "h2") && spoken.len() < 8, "{spoken:?}");
    });
}

#[test]
fn connections_that_a_network_has_forgotten_are_left() {
    for protocols in [&["h2"][..], &["http/1.1"]] {
        on_openai(|env| {
            let id = env.container("c");
            // Their lengths are known: nothing but a read fetches them.
            for number in 0..20 {
                env.store().put_upload(&id, &format!("f{number:02}"), &noise(1000 + number));
            }
            let front = Front::of_bytes(env, protocols);
            let mount = front.mount(env, &["--timeout", "2s", "--ttl", "1h", "--no-prefetch"]);
            env.emulator.set_latency(Duration::from_millis(100));
            // At once, over several connections where each carries one request.
            mount.sh("c", "ls > /dev/null; for f in f0*; do cat $f > /dev/null & done; wait");
            assert_eq!(env.count(Content), 10);
            front.silence();
            // This one is lost, unless the kernel asks a third time.
            let _ = fs::read(mount.path("c/f10"));
            for number in 11..20 {
                let path = mount.path(&format!("c/f{number:02}"));
                assert!(fs::read(path).unwrap() == noise(1000 + number), "{protocols:?} {number}");
            }
            assert!(front.spoken().iter().all(|spoken| *spoken == protocols[0]), "{:?}", front.spoken());
            assert_eq!(mount.unmount(env), (0, 0));
        });
    }
}

#[test]
fn what_a_server_of_http_2_refuses_or_closes_before_is_sent_again() {
    on_openai(|env| {
        let id = env.container("c");
        let front = Front::of_requests(env);
        let mount = front.mount(env, &[]);
        assert!(mount.names("c").is_empty());
        for number in 0..30 {
            if number % 3 == 0 {
                front.seen.refuses.store(1, Ordering::SeqCst);
            }
            let name = format!("f{number:02}");
            assert_eq!(save(&mount.path("c").join(&name), &noise(number * 1000)), Ok(()), "{name}");
        }
        wait_until("all of them were met", || front.seen.refuses.load(Ordering::SeqCst) == 0);
        assert!(front.seen.closed.load(Ordering::SeqCst) > 3);
        assert_eq!(mount.unmount(env), (0, 0));
        assert_eq!(env.store().files(&id).len(), 30);
        for number in 0..30 {
            assert!(env.bytes_on_server(&id, &format!("f{number:02}")) == noise(number * 1000), "{number}");
        }
    });
}
