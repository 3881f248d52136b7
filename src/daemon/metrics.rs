//! Metrics for Prometheus, at `--metrics-listen`: what happens is counted where it happens, what is there is
//! read from the status when somebody asks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use crate::vfs::{Status, Vfs};

/// Seconds; calls of the kernel are answered from memory or after a request.
const CALLS: [f64; 12] = [5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Seconds; requests take half a second to a second (API.md "Time and money").
const REQUESTS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// How often what was recorded is put into its buckets, so that it does not pile up when nobody asks.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// A listener and what it will tell.
pub struct Endpoint {
    listener: TcpListener,
    handle: PrometheusHandle,
}

impl Endpoint {
    /// Listens, and counts from now on. Once a process.
    ///
    /// # Errors
    /// The address cannot be had, or something counts already.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Prefix("containerfs_fuse".to_owned()), &CALLS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Prefix("containerfs_request".to_owned()), &REQUESTS)
            })
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(io::Error::other)?;
        describe();
        Ok(Self { listener, handle })
    }

    /// Where it listens; port 0 has become one that was free.
    ///
    /// # Errors
    /// The kernel's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers `GET /metrics` until the runtime ends.
    pub fn serve(self, vfs: Arc<Vfs>) {
        let (handle, tidied) = (self.handle.clone(), self.handle);
        let routes = Router::new().route(
            "/metrics",
            get(move || async move {
                note(&vfs.status());
                ([("content-type", "text/plain; version=0.0.4")], handle.render())
            }),
        );
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TIDY_EVERY).await;
                tidied.run_upkeep();
            }
        });
        tokio::spawn(async move {
            if let Err(error) = axum::serve(self.listener, routes).await {
                tracing::warn!(%error, "metrics are not served any longer");
            }
        });
    }
}

fn describe() {
    describe_histogram!("containerfs_request_duration_seconds", Unit::Seconds, "Requests to the server");
    describe_counter!("containerfs_requests_total", "Requests to the server, by their outcome");
    describe_counter!("containerfs_request_retries_total", "Requests that were sent again");
    describe_counter!("containerfs_received_bytes_total", Unit::Bytes, "Content received");
    describe_counter!("containerfs_sent_bytes_total", Unit::Bytes, "Content sent");
    describe_counter!("containerfs_cache_hits_total", "Files looked for in the cache and found");
    describe_counter!("containerfs_cache_misses_total", "Files that had to be fetched");
    describe_gauge!("containerfs_cache_bytes", Unit::Bytes, "Content in the cache");
    describe_gauge!("containerfs_cache_files", "Files in the cache on disk");
    describe_counter!("containerfs_prefetch_files_total", "Files fetched before they were read");
    describe_counter!("containerfs_prefetch_hits_total", "Files fetched ahead and then read");
    describe_gauge!("containerfs_prefetch_unread_files", "Files fetched ahead and not read: waste, so far");
    describe_gauge!("containerfs_journal_files", "Files that are not on the server yet");
    describe_gauge!("containerfs_journal_bytes", Unit::Bytes, "Bytes that are not on the server yet");
    describe_gauge!(
        "containerfs_pending",
        "What is not on the server, refused and unfinished things included"
    );
    describe_gauge!("containerfs_uploads", "Uploads under way");
    describe_gauge!("containerfs_downloads", "Downloads under way");
    describe_gauge!("containerfs_containers", "Live containers that are shown");
    describe_gauge!("containerfs_inodes", "Inodes in memory");
    describe_gauge!("containerfs_open_files", "Open file handles");
    describe_gauge!("containerfs_resident_bytes", Unit::Bytes, "Memory of the daemon that is resident");
    describe_gauge!("containerfs_descriptors", "Open descriptors of the daemon");
}

/// A gauge is a float; counts are exact in it up to 2^53.
fn note(status: &Status) {
    let (requests, cache, ahead) = (&status.requests, &status.cache, &status.prefetch);
    counter!("containerfs_request_retries_total").absolute(requests.retries);
    counter!("containerfs_received_bytes_total").absolute(requests.bytes_down);
    counter!("containerfs_sent_bytes_total").absolute(requests.bytes_up);
    counter!("containerfs_cache_hits_total").absolute(cache.hits);
    counter!("containerfs_cache_misses_total").absolute(cache.misses);
    gauge!("containerfs_cache_bytes", "where" => "disk").set(cache.disk_bytes as f64);
    gauge!("containerfs_cache_bytes", "where" => "memory").set(cache.memory_bytes as f64);
    gauge!("containerfs_cache_files").set(cache.files as f64);
    counter!("containerfs_prefetch_files_total").absolute(ahead.fetched);
    counter!("containerfs_prefetch_hits_total").absolute(ahead.read);
    gauge!("containerfs_prefetch_unread_files").set(ahead.fetched.saturating_sub(ahead.read) as f64);
    gauge!("containerfs_journal_files").set(status.uploads.files_left as f64);
    gauge!("containerfs_journal_bytes").set(status.uploads.bytes_left as f64);
    gauge!("containerfs_pending").set(status.pending.len() as f64);
    gauge!("containerfs_uploads").set(status.under_way.len() as f64);
    gauge!("containerfs_downloads").set(status.downloads as f64);
    gauge!("containerfs_containers").set(status.containers as f64);
    gauge!("containerfs_inodes").set(status.inodes as f64);
    gauge!("containerfs_open_files").set(status.open_files as f64);
    gauge!("containerfs_resident_bytes").set(status.process.resident_bytes as f64);
    gauge!("containerfs_descriptors").set(status.process.descriptors as f64);
}
