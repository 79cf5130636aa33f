//! The listener. Until a connection has shown a token, it gets little time and little memory.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};

use super::hangup::Hangup;
use super::sessions;
use super::tls::Certificates;
use super::websocket::Io;
use super::{Backend, Shared};
use crate::pending_connections::{Pending, PendingConnections};

/// Maximum number of connections that have not shown a token yet.
pub(super) const MAX_PENDING_CONNECTIONS: usize = 256;
/// Maximum size of a request's header in bytes. kubectl's header has a few hundred bytes; proxies add more.
const LONGEST_HEADER: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// Idle time, interval and number of keepalive probes. They detect a client that has disappeared without closing the
/// connection after about two minutes; before `idle_timeout`, nothing else would.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// A bound listener that does not respond to any client yet.
pub struct Server {
    pub(super) listener: TcpListener,
    pub(super) certificates: Option<Certificates>,
    pub(super) shared: Arc<Shared>,
}

/// A connection's context for handling its request.
pub(super) struct RequestContext {
    pub(super) shared: Arc<Shared>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) hangup: Hangup,
}

/// Binds the address. Accepted connections inherit the keepalive settings.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_socket_keepalive(&listener, true)?;
    sockopt::set_tcp_keepidle(&listener, idle)?;
    sockopt::set_tcp_keepintvl(&listener, interval)?;
    sockopt::set_tcp_keepcnt(&listener, count)?;
    TcpListener::from_std(listener)
}

impl Server {
    /// Serves until [`super::Streaming::shutdown`].
    pub fn serve(self, backend: Arc<dyn Backend>) {
        let tasks = self.shared.tasks.clone();
        tasks.background(self.accept(backend));
    }

    async fn accept(self, backend: Arc<dyn Backend>) {
        let stop = self.shared.stop.clone();
        let connections = PendingConnections::new(MAX_PENDING_CONNECTIONS);
        let mut failing = false;
        loop {
            match stop.run_until_cancelled(self.listener.accept()).await {
                Some(Ok((stream, _))) => {
                    failing = false;
                    // Without a descriptor to watch the connection by, the connection is dropped.
                    let _ = self.handle_connection(stream, connections.add(), &backend);
                }
                // The client gave up before its connection was accepted.
                Some(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {}
                Some(Err(error)) => {
                    // Most likely the process is out of descriptors. Log this once, and try again.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "streaming cannot accept connections");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                None => return,
            }
        }
    }

    fn handle_connection(&self, stream: TcpStream, pending: Pending, backend: &Arc<dyn Backend>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let hangup = Hangup::of(&stream)?;
        let request_context = RequestContext { shared: Arc::clone(&self.shared), backend: Arc::clone(backend), hangup };
        let stop = self.shared.stop.clone();
        let acceptor = self.certificates.as_ref().map(Certificates::acceptor);
        self.shared.tasks.background(async move {
            let time_limit = pending.time_limit;
            let handling = async {
                match acceptor {
                    None => serve_request(stream, request_context, time_limit).await,
                    Some(acceptor) => {
                        if let Ok(Ok(stream)) = tokio::time::timeout(time_limit, acceptor.accept(stream)).await {
                            serve_request(stream, request_context, time_limit).await;
                        }
                    }
                }
            };
            stop.run_until_cancelled(pending.displaced.run_until_cancelled(handling)).await;
            drop(pending);
        });
        Ok(())
    }
}

/// Handles one request: it becomes a session, which runs on its own, or is rejected.
async fn serve_request<T: Io>(stream: T, request_context: RequestContext, time_limit: Duration) {
    let request_context = Arc::new(request_context);
    let service = service_fn(|request| {
        let request_context = Arc::clone(&request_context);
        async move { Ok::<_, std::convert::Infallible>(sessions::answer(request, &request_context)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(time_limit)
        .max_buf_size(LONGEST_HEADER)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that is slow or does not speak HTTP is not logged: a log line for each would allow a flood.
    let _ = tokio::time::timeout(2 * time_limit, connection).await;
}
