//! Exec, attach and port-forward: byte streams between a client's HTTP connection and a container.
//!
//! An RPC of CRI gets a URL from [`Streaming`]; kubelet, or crictl, connects to it with SPDY/3.1 or WebSocket. This
//! module knows HTTP, tokens and the two protocols. Only the [`Backend`], which `runtime` implements, knows what a
//! stream is connected to: this module must not name a container's state, containerd or CRI's services.
//!
//! ```text
//! runtime ──url()──► tokens ◄──GET, POST── server ──► spdy | websocket ──► Backend (runtime)
//! ```

mod answer;
mod hangup;
mod life;
pub mod protocol;
pub mod remote_status;
pub mod resize;
mod routes;
mod server;
mod session;
mod sessions;
mod settings;
pub mod spdy;
mod tls;
mod tokens;
pub mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use server::Server;
pub use session::{Attach, Backend, Duplex, Exec, Failure, Gone, Input, PortForward, Sink, Size, Streams};
pub use settings::Settings;
pub use tls::{TlsError, TlsFiles};
pub use tokens::Full;

use crate::slots::{Bounds, Slots};
use crate::tasks::Tasks;
use tls::Certificates;
use tokens::{PendingRequest, Tokens};

/// Maximum number of sessions on the node; a pod gets one more only while it has fewer than are free. Above it: 503.
const MOST_SESSIONS: usize = 1000;

/// Why streams cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anyone who can reach this address could read and change what the streams carry.
    #[error(
        "streaming on {0}, which is not a loopback address, needs TLS: set streaming.tls_cert_file and \
         streaming.tls_key_file, or leave streaming.address at 127.0.0.1"
    )]
    NeedsTls(SocketAddr),
    /// The certificate cannot be used.
    #[error("load TLS certificate and key for streaming")]
    Tls(#[from] TlsError),
    /// The address is in use, or is not an address of this node.
    #[error("bind {address} for streaming")]
    Bind {
        /// As configured; the port may be 0.
        address: SocketAddr,
        source: io::Error,
    },
}

/// Issues URLs, and ends the sessions that were started with them. Clones share the same state.
#[derive(Clone)]
pub struct Streaming {
    shared: Arc<Shared>,
}

/// The state that a [`Streaming`] and its [`Server`] share.
struct Shared {
    /// For example `http://127.0.0.1:34567`.
    base: String,
    tokens: Tokens,
    idle: Duration,
    tasks: Tasks,
    slots: Slots,
    sessions: TaskTracker,
    /// Parent of each session's `gone`.
    stop: CancellationToken,
}

impl Streaming {
    /// Binds the address. Clients can connect at once, but get no response until [`Server::serve`] has been called with
    /// the backend.
    ///
    /// # Errors
    /// [`Error`], worded for the operator.
    pub fn bind(settings: &Settings, tasks: Tasks) -> Result<(Self, Server), Error> {
        settings.check()?;
        let address = settings.address;
        let certificates = settings.tls.clone().map(Certificates::load).transpose()?;
        let unbound = |source| Error::Bind { address, source };
        let listener = server::listen(address).map_err(unbound)?;
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            base: format!("{scheme}://{}", listener.local_addr().map_err(unbound)?),
            tokens: Tokens::default(),
            idle: settings.idle_timeout,
            tasks,
            slots: Slots::new(Bounds::shared(MOST_SESSIONS)),
            sessions: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        Ok((Self { shared: Arc::clone(&shared) }, Server { listener, certificates, shared }))
    }

    /// The start of every URL, for example `http://127.0.0.1:34567`.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.shared.base
    }

    /// Returns a URL that runs this command. It works once, and for a minute.
    ///
    /// # Errors
    /// [`Full`]: ResourceExhausted.
    pub fn exec_url(&self, request: Exec) -> Result<String, Full> {
        self.url("exec", PendingRequest::Exec(request))
    }

    /// Returns a URL that attaches to this container. It works once, and for a minute.
    ///
    /// # Errors
    /// [`Full`]: ResourceExhausted.
    pub fn attach_url(&self, request: Attach) -> Result<String, Full> {
        self.url("attach", PendingRequest::Attach(request))
    }

    /// Returns a URL that forwards ports of this sandbox. It works for one session, which has to begin within a minute.
    ///
    /// # Errors
    /// [`Full`]: ResourceExhausted.
    pub fn port_forward_url(&self, request: PortForward) -> Result<String, Full> {
        self.url("portforward", PendingRequest::PortForward(request))
    }

    fn url(&self, verb: &str, request: PendingRequest) -> Result<String, Full> {
        Ok(format!("{}/{verb}/{}", self.shared.base, self.shared.tokens.put(request)?))
    }

    /// The number of sessions that are running.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions.len()
    }

    /// Stops accepting clients, makes every session end, and waits for them for at most `within`.
    pub async fn shutdown(&self, within: Duration) {
        self.shared.stop.cancel();
        self.shared.sessions.close();
        if tokio::time::timeout(within, self.shared.sessions.wait()).await.is_err() {
            tracing::warn!(sessions = self.sessions(), "not all streaming sessions ended within {within:?}");
        }
    }
}

#[cfg(test)]
mod tests;
