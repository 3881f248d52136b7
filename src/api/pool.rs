//! The connections to the server, and others once these are silent.
//!
//! A connection that a network has forgotten (a laptop that slept, a router that restarted) says nothing for
//! ever, and over HTTP/2 it is the only one: each request would wait for its deadline in vain. So when an
//! answer stays away, the requests that follow go over new connections; those under way keep theirs.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Bytes of one body that a server may send before we take them, over HTTP/2: what 1 Gbit/s carries in 60 ms.
const BODY_WINDOW: u32 = 8 << 20;

/// The same of all bodies together.
const CONNECTION_WINDOW: u32 = 16 << 20;

type Make = dyn Fn() -> reqwest::Result<reqwest::Client> + Send + Sync;

/// All connections to one server.
pub(super) struct Pool {
    make: Box<Make>,
    present: RwLock<Present>,
}

struct Present {
    client: reqwest::Client,
    /// Counts how often they were left.
    number: u64,
}

impl Pool {
    /// Connections that a client of `settings` makes.
    ///
    /// # Errors
    /// There can be no such client.
    pub(super) fn new(
        settings: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> reqwest::Result<Self> {
        let make = move || {
            settings()
                .http2_initial_stream_window_size(BODY_WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .build()
        };
        let client = make()?;
        Ok(Self { make: Box::new(make), present: RwLock::new(Present { client, number: 0 }) })
    }

    /// For the next request.
    pub(super) fn client(&self) -> reqwest::Client {
        self.read().client.clone()
    }

    /// Which these are, for [`Pool::leave`].
    pub(super) fn number(&self) -> u64 {
        self.read().number
    }

    /// Nothing has come over those with this number: later requests go over others.
    pub(super) fn leave(&self, number: u64) {
        // Held while there are no others yet: whoever went on with these meanwhile would wait in vain.
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        if present.number != number {
            return;
        }
        present.number += 1;
        match (self.make)() {
            Ok(client) => {
                tracing::debug!("no answer: the next requests go over new connections");
                present.client = client;
            }
            Err(error) => tracing::warn!(%error, "the old connections stay: there can be no others"),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Present> {
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server says that it has done nothing with a request, over HTTP/2: it refused it, or was about
/// to close the connection when the request came (RFC 9113, 6.8 and 8.7).
pub(super) fn is_refused(error: &reqwest::Error) -> bool {
    let mut at: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let closing = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (closing || refused);
        }
        at = error.source();
    }
    false
}
