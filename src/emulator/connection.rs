//! Connections: accepted here and not by axum, because a fault must be able to reset one.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::router::{self, App};

/// A stopping server waits so long for replies in progress; hanging ones would never come.
const GRACE: Duration = Duration::from_secs(1);

/// The handle by which a request ends its connection.
#[derive(Clone)]
pub(crate) struct Reset(CancellationToken);

impl Reset {
    /// Resets the connection. The caller goes with it.
    pub(crate) async fn now<T>(&self) -> T {
        self.0.cancel();
        std::future::pending().await
    }
}

/// Accepts connections until `stop`.
pub(crate) async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(serve(stream, Arc::clone(&app), stop.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: some will come back.
                tracing::warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, app: Arc<App>, stop: CancellationToken) {
    // Small replies must not wait for acknowledgements.
    let _ = stream.set_nodelay(true);
    let reset = Reset(CancellationToken::new());
    let io = TokioIo::new(Resettable { stream, reset: reset.clone() });
    let service = {
        let reset = reset.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            let (app, reset) = (Arc::clone(&app), reset.clone());
            async move { Ok::<_, Infallible>(router::serve(&app, &reset, request.map(Body::new)).await) }
        })
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut deadline: Option<Instant> = None;
    loop {
        let due = deadline.unwrap_or_else(Instant::now);
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "a connection ended");
                }
                return;
            }
            () = reset.0.cancelled() => return,
            () = stop.cancelled(), if deadline.is_none() => {
                connection.as_mut().graceful_shutdown();
                deadline = Some(Instant::now() + GRACE);
            }
            () = sleep_until(due), if deadline.is_some() => return,
        }
    }
}

/// A stream that, once reset was asked for, closes with RST and not with FIN.
struct Resettable {
    stream: TcpStream,
    reset: Reset,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.0.is_cancelled() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
