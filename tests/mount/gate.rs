//! What lies between a mount and its server: a TLS gate that can be shut, that can show a stranger's
//! certificate, and whose name can be forgotten.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A name that no server of names knows.
const NAME: &str = "containers.test";

/// The gate.
pub(crate) struct Gate {
    at: SocketAddr,
    upstream: SocketAddr,
    runtime: Runtime,
    ours: TlsAcceptor,
    strangers: TlsAcceptor,
    /// Ends the listener and every connection.
    open: Mutex<CancellationToken>,
    /// The listener and the connections.
    under_way: TaskTracker,
    dir: PathBuf,
}

impl Gate {
    /// A gate before `upstream`, which leaves its files in `dir`.
    pub(crate) fn before(upstream: SocketAddr, dir: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let (ours, pem) = acceptor(NAME, &[]);
        let (strangers, _) = acceptor(NAME, &[]);
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let at = listener.local_addr().unwrap();
        fs::write(dir.join("ca.pem"), pem).unwrap();
        let token = CancellationToken::new();
        let gate = Self {
            at,
            upstream,
            runtime,
            ours,
            strangers,
            open: Mutex::new(token.clone()),
            under_way: TaskTracker::new(),
            dir: dir.to_owned(),
        };
        gate.remember_the_name();
        fs::write(dir.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        gate.listen(listener, gate.ours.clone(), token);
        gate
    }

    /// Where a mount has to go.
    pub(crate) fn base_url(&self) -> String {
        format!("https://{NAME}:{}/v1", self.at.port())
    }

    /// Leads `command` here: the certificate is believed, and the name is known, to this process alone.
    pub(crate) fn lead(&self, command: &Command) -> Command {
        let script = "mount --make-private / && { mount --make-private /etc/hosts; mount --make-private /etc/resolv.conf; \
                      mount --bind \"$GATE/hosts\" /etc/hosts && mount --bind \"$GATE/resolv.conf\" /etc/resolv.conf; } \
                      2>/dev/null && exec \"$@\"";
        let mut led = Command::new("unshare");
        led.args(["-m", "--propagation", "unchanged", "sh", "-c", script, "sh"]);
        led.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => led.env(name, value),
                None => led.env_remove(name),
            };
        }
        led.env("GATE", &self.dir).env("SSL_CERT_FILE", self.dir.join("ca.pem"));
        led.env_remove("SSL_CERT_DIR").env("OPENAI_BASE_URL", self.base_url());
        led
    }

    /// Connections are refused; those that stood have been cut, and their other end has had time to notice: what is
    /// sent over one that breaks may have arrived.
    pub(crate) fn refuse(&self) {
        self.open.lock().unwrap().cancel();
        self.under_way.close();
        self.runtime.block_on(async {
            self.under_way.wait().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
    }

    /// Somebody else answers.
    pub(crate) fn impersonate(&self) {
        self.refuse();
        self.reopen(self.strangers.clone());
    }

    /// Nobody knows the name.
    pub(crate) fn forget_the_name(&self) {
        self.refuse();
        self.reopen(self.ours.clone());
        fs::write(self.dir.join("hosts"), "").unwrap();
    }

    /// All is well again.
    pub(crate) fn restore(&self) {
        self.refuse();
        self.remember_the_name();
        self.reopen(self.ours.clone());
    }

    fn remember_the_name(&self) {
        fs::write(self.dir.join("hosts"), format!("127.0.0.1 localhost {NAME}\n")).unwrap();
    }

    fn reopen(&self, acceptor: TlsAcceptor) {
        let token = CancellationToken::new();
        let listener = self.runtime.block_on(async {
            for _ in 0..500 {
                if let Ok(listener) = TcpListener::bind(self.at).await {
                    return listener;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("the port {} is somebody else's", self.at);
        });
        *self.open.lock().unwrap() = token.clone();
        self.listen(listener, acceptor, token);
    }

    fn listen(&self, listener: TcpListener, acceptor: TlsAcceptor, token: CancellationToken) {
        let (upstream, under_way) = (self.upstream, self.under_way.clone());
        let listens = async move {
            loop {
                let stream = tokio::select! {
                    () = token.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (acceptor, token) = (acceptor.clone(), token.clone());
                under_way.spawn(async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = pass(stream, acceptor, upstream) => {}
                    }
                });
            }
        };
        self.under_way.spawn_on(listens, self.runtime.handle());
    }
}

async fn pass(stream: TcpStream, acceptor: TlsAcceptor, upstream: SocketAddr) {
    let Ok(mut outer) = acceptor.accept(stream).await else { return };
    let Ok(mut inner) = TcpStream::connect(upstream).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
}

/// Someone with a certificate for `name` who speaks one of `protocols`, and that certificate.
pub(crate) fn acceptor(name: &str, protocols: &[&str]) -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}
