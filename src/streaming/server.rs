//! The listener: connections, each with little time and little room until it has shown a token.

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
use crate::strangers::{Stranger, Strangers};

/// Connections that have not shown a token yet.
pub(super) const MOST_STRANGERS: usize = 256;
/// How long the header may be. kubectl's is a few hundred bytes; proxies add theirs.
const LONGEST_HEADER: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// A client that went without a word is noticed after about two minutes: nothing else would tell, before `idle_timeout`.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// A bound listener that answers nobody yet.
pub struct Server {
    pub(super) listener: TcpListener,
    pub(super) certificates: Option<Certificates>,
    pub(super) shared: Arc<Shared>,
}

/// One connection, as its request sees it.
pub(super) struct Visit {
    pub(super) shared: Arc<Shared>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) hangup: Hangup,
}

/// Binds; what is accepted inherits the keepalive.
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
        let strangers = Strangers::new(MOST_STRANGERS);
        let mut failing = false;
        loop {
            match stop.run_until_cancelled(self.listener.accept()).await {
                Some(Ok((stream, _))) => {
                    failing = false;
                    // Without a descriptor to watch it by, it is as if it had not come.
                    let _ = self.attend(stream, strangers.enter(), &backend);
                }
                // The client gave up before it was its turn.
                Some(Err(error)) if error.kind() == ErrorKind::ConnectionAborted => {}
                Some(Err(error)) => {
                    // Out of descriptors, most likely: said once, and tried again.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "streaming cannot accept connections");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                None => return,
            }
        }
    }

    fn attend(&self, stream: TcpStream, stranger: Stranger, backend: &Arc<dyn Backend>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let hangup = Hangup::of(&stream)?;
        let visit = Visit { shared: Arc::clone(&self.shared), backend: Arc::clone(backend), hangup };
        let stop = self.shared.stop.clone();
        let acceptor = self.certificates.as_ref().map(Certificates::acceptor);
        self.shared.tasks.background(async move {
            let patience = stranger.patience;
            let visit = async {
                match acceptor {
                    None => converse(stream, visit, patience).await,
                    Some(acceptor) => {
                        if let Ok(Ok(stream)) = tokio::time::timeout(patience, acceptor.accept(stream)).await {
                            converse(stream, visit, patience).await;
                        }
                    }
                }
            };
            stop.run_until_cancelled(stranger.displaced.run_until_cancelled(visit)).await;
            drop(stranger);
        });
        Ok(())
    }
}

/// One request: it becomes a session, which goes on by itself, or is refused.
async fn converse<T: Io>(stream: T, visit: Visit, patience: Duration) {
    let visit = Arc::new(visit);
    let service = service_fn(|request| {
        let visit = Arc::clone(&visit);
        async move { Ok::<_, std::convert::Infallible>(sessions::answer(request, &visit)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(LONGEST_HEADER)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // A client that does not speak HTTP, or is slow, is nobody's business: a log line for each would be a flood.
    let _ = tokio::time::timeout(2 * patience, connection).await;
}
