//! One mount from its first request to its last upload.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;

use super::background::Reporter;
use super::control::{self, UnmountRequest};
use super::limits;
use super::metrics::Endpoint;
use super::settings::Settings;
use super::signals::Signals;
use crate::api::{Client, ErrorKind};
use crate::emulator::{self, Emulator, Profile};
use crate::fuse::{self, Session};
use crate::journal;
use crate::private;
use crate::vfs::{self, Deadline, Left, Vfs};

/// Threads of the runtime: they wait for the network and the disk, not for the processor.
const WORKERS: usize = 4;

/// How often it is looked whether an earlier mount has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long the kernel may take to let go of the mount.
const UNMOUNT_WAIT: Duration = Duration::from_secs(5);

/// Mounts, serves until the end, and drains. Returns what is not on the server.
///
/// # Errors
/// A sentence that says why the mount did not come about; it has been given to `report`, if there is one.
pub fn run(settings: Settings, report: Option<Reporter>) -> Result<Vec<Left>, String> {
    limits::take_all_descriptors();
    let runtime = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let left = runtime.block_on(async move {
        match start_or_interrupted(settings).await {
            Ok((mounted, signals)) => {
                if let Some(Err(error)) = report.map(Reporter::ready) {
                    tracing::warn!(%error, "the standard streams stay open");
                }
                tell_systemd(NotifyState::Ready);
                tell_systemd(NotifyState::Status(&format!("serving {}", mounted.server)));
                Ok(mounted.serve(signals).await)
            }
            Err(message) => {
                if let Some(report) = report {
                    report.failed(&message);
                }
                Err(message)
            }
        }
    });
    // A task that still waits for the network has nothing to lose: what is left is in the journal.
    runtime.shutdown_background();
    left
}

struct Mounted {
    server: String,
    vfs: Arc<Vfs>,
    session: Session,
    unmounts: mpsc::UnboundedReceiver<UnmountRequest>,
    drain_timeout: Duration,
    socket: Option<control::Socket>,
    demo: Option<Emulator>,
}

/// Starts, unless a signal comes first: a server may take its time with the first list.
async fn start_or_interrupted(settings: Settings) -> Result<(Mounted, Signals), String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    tokio::select! {
        // What has been mounted by now is not dropped: it ends as a mount does.
        biased;
        started = start(settings) => started.map(|mounted| (mounted, signals)),
        () = signals.next() => Err("interrupted before the mount answered".to_owned()),
    }
}

async fn start(mut settings: Settings) -> Result<Mounted, String> {
    // Before anything that it will tell of.
    let metrics = match settings.metrics {
        Some(address) => Some(
            Endpoint::bind(address)
                .await
                .map_err(|error| format!("cannot serve metrics on {address}: {error}"))?,
        ),
        None => None,
    };
    let demo = if settings.demo { Some(demo(&mut settings).await?) } else { None };
    let client = Client::new(&settings.client).map_err(|error| error.message)?;
    let mut config = settings.vfs;
    for (dir, flag) in [(&config.state_dir, "--state-dir"), (&config.cache_dir, "--cache-dir")] {
        private::base(dir)
            .map_err(|error| format!("cannot use {} ({error}): name another with {flag}", dir.display()))?;
    }
    config.cache_dir = config.cache_dir.join(client.account());
    config.state_dir = config.state_dir.join(client.account());
    let server = client.base_url().to_owned();
    if !config.read_only {
        wait_for_drains(&config.state_dir).await;
    }
    let vfs = Vfs::open(client, config).await.map_err(|error| refusal(&error, &server))?;
    let session = fuse::mount(&vfs, &settings.mountpoint, &settings.fuse, Handle::current())
        .map_err(|error| format!("cannot mount on {}: {error}", settings.mountpoint.display()))?;
    let metrics_address = metrics.as_ref().and_then(|endpoint| endpoint.address().ok());
    if let Some(endpoint) = metrics {
        endpoint.serve(vfs.clone());
    }
    let (asked, unmounts) = mpsc::unbounded_channel();
    let socket = control::listen(session.device(), vfs.clone(), metrics_address, asked);
    let socket =
        socket.inspect_err(|error| tracing::warn!(%error, "`status` and `unmount` cannot reach this mount"));
    let drain_timeout = settings.drain_timeout;
    Ok(Mounted { server, vfs, session, unmounts, drain_timeout, socket: socket.ok(), demo })
}

/// Waits until mounts of this account that are ending have sent what they have: it is shown by none twice.
async fn wait_for_drains(state_dir: &Path) {
    if !journal::is_draining(state_dir) {
        return;
    }
    eprintln!("containerfs: an earlier mount is still uploading; this one begins when it has ended");
    while journal::is_draining(state_dir) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl Mounted {
    /// Serves until somebody ends it, drains, and unmounts.
    async fn serve(mut self, mut signals: Signals) -> Vec<Left> {
        let mut asked = Vec::new();
        tokio::select! {
            () = self.session.ended() => tracing::info!("unmounted from outside"),
            () = signals.next() => tracing::info!("ended by a signal"),
            // Without a socket nobody will ever ask.
            Some(request) = self.unmounts.recv() => asked.push(request),
        }
        let within = asked.first().and_then(|request| request.within).unwrap_or(self.drain_timeout);
        tell_systemd(NotifyState::Stopping);
        // Its own patience may be shorter, and what it kills is not uploaded.
        let patience = u32::try_from((within + UNMOUNT_WAIT).as_micros()).unwrap_or(u32::MAX);
        tell_systemd(NotifyState::ExtendTimeoutUsec(patience));
        tell_systemd(NotifyState::Status("uploading what is not on the server yet"));
        self.tell_what_waits();
        let deadline = Deadline::after(within);
        let vfs = self.vfs.clone();
        self.hear(&mut signals, &deadline, &mut asked, vfs.drain(&deadline)).await;
        if let Err(error) = self.session.unmount() {
            tracing::warn!(%error, "cannot unmount");
        }
        // Until now it tells a new mount that this one is ending.
        drop(self.socket.take());
        // Who waits in the kernel for an upload that has had its time is not waited for: the bytes are in the
        // journal, and the end of the process lets the callers go with an error.
        let wait = if deadline.is_over() { Duration::ZERO } else { UNMOUNT_WAIT };
        let (deadline, session) = (Deadline::after(wait), self.session.clone());
        self.hear(&mut signals, &deadline, &mut asked, deadline.keep(session.ended())).await;
        // Only now can nobody close anything any more.
        let vfs = self.vfs.clone();
        let left = self.hear(&mut signals, &deadline, &mut asked, vfs.left_at_last(&deadline)).await;
        // Its server goes with it: nothing is lost that would not be lost on the server.
        let left = if self.demo.is_some() { Vec::new() } else { left };
        if !left.is_empty() {
            tell_systemd(NotifyState::Status(&format!("{} not on the server, and kept", left.len())));
        }
        for item in &left {
            tracing::warn!(name = ?item.name, reason = ?item.reason, "not on the server");
        }
        // Who asks from here on is told that there is nobody.
        self.unmounts.close();
        asked.extend(std::iter::from_fn(|| self.unmounts.try_recv().ok()));
        if !asked.is_empty() {
            for request in asked {
                let _ = request.left.send(left.clone());
            }
            // Their connections have to carry the answer before the process goes.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        left
    }

    /// Does a part of the end. Whoever asks for it meanwhile gets the same answer, and brings the deadline
    /// forward if he has less patience; a further signal has none.
    async fn hear<T>(
        &mut self,
        signals: &mut Signals,
        deadline: &Deadline,
        asked: &mut Vec<UnmountRequest>,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                () = signals.next() => deadline.bring_forward(Duration::ZERO),
                Some(request) = self.unmounts.recv() => {
                    if let Some(within) = request.within {
                        deadline.bring_forward(within);
                    }
                    asked.push(request);
                }
            }
        }
    }

    /// In the foreground somebody may watch, and wonder why it does not end. In the background nobody hears
    /// it.
    fn tell_what_waits(&self) {
        let waiting = self.vfs.progress();
        if waiting.files_left > 0 && self.demo.is_none() {
            eprintln!(
                "containerfs: uploading what is left ({} files, {} bytes); a second signal leaves it to the next mount",
                waiting.files_left, waiting.bytes_left
            );
        }
    }
}

/// A unit of `Type=notify` waits for this; without systemd it says nothing to nobody.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// An emulator inside the process, with sample containers.
async fn demo(settings: &mut Settings) -> Result<Emulator, String> {
    let listen = ([127, 0, 0, 1], 0).into();
    let emulator = Emulator::start(emulator::Config::new(Profile::Openai), listen).await;
    let emulator = emulator.map_err(|error| format!("cannot start the demo's server: {error}"))?;
    emulator::demo::populate(emulator.store());
    settings.client.base_url = emulator.base_url();
    settings.client.api_key = Some("sk-demo".to_owned().into());
    Ok(emulator)
}

/// Why the first call failed, and what to do about it.
pub(crate) fn refusal(error: &vfs::Error, server: &str) -> String {
    match error.api().map(|error| error.kind) {
        Some(ErrorKind::Unauthorized) => {
            format!("{server} refuses the API key: check OPENAI_API_KEY or --api-key-file ({error})")
        }
        Some(ErrorKind::Forbidden) => {
            format!(
                "{server} does not let this key list containers: check its permissions and project ({error})"
            )
        }
        Some(ErrorKind::Unreachable) => {
            format!("cannot reach {server}: check the network and OPENAI_BASE_URL ({error})")
        }
        Some(ErrorKind::Timeout) => {
            format!("{server} does not answer: try again, or raise --timeout ({error})")
        }
        Some(ErrorKind::NotFound | ErrorKind::Protocol) => {
            format!("{server} is no Containers API: check OPENAI_BASE_URL, which ends in /v1 ({error})")
        }
        Some(_) => format!("{server}: {error}"),
        None => error.to_string(),
    }
}
