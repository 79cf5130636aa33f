//! Port-forward over SPDY (portforward.k8s.io): one session has many connections, each with a pair of streams, one for
//! data and one for an error.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::CREATION;
use super::session::{Incoming, Session};
use super::sink::StreamSink;
use crate::streaming::life::SessionContext;
use crate::streaming::{Backend, Duplex, Input, PortForward};

/// Maximum number of streams in a session at a time; each connection uses two.
const MOST_STREAMS: usize = 1024;

/// Serves a port-forward on a connection that was upgraded to SPDY/3.1, until the client goes or `context` ends the
/// session. Returns when all its forwarded connections have ended.
pub(in crate::streaming) async fn port_forward<T>(
    io: T,
    context: &SessionContext,
    backend: Arc<dyn Backend>,
    forward: PortForward,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut session = Session::start(io, MOST_STREAMS, context);
    let mut halves = Halves::default();
    let mut connections: FuturesUnordered<JoinHandle<()>> = FuturesUnordered::new();
    loop {
        let expiry = halves.expiry();
        tokio::select! {
            incoming = session.accept() => {
                let Some(incoming) = incoming else { break };
                if let Some(pair) = halves.add(incoming) {
                    connections.push(context.tasks.operation(pair.serve(Arc::clone(&backend), forward.clone())));
                }
            }
            Some(_) = connections.next() => {}
            () = until(expiry) => halves.expire(Instant::now()).await,
        }
    }
    drop(halves);
    // The session's token is cancelled, so each connection ends soon.
    while connections.next().await.is_some() {}
    session.close().await;
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// One stream of a pair.
struct Half {
    request: Box<str>,
    port: u16,
    kind: Kind,
    deadline: Instant,
    input: Input,
    sink: StreamSink,
}

impl Half {
    /// Reads request id, port and kind from the headers. `None` refuses the stream.
    fn read(incoming: &Incoming) -> Option<(Box<str>, u16, Kind)> {
        let headers = incoming.headers();
        let kind = match headers.get("streamtype")? {
            "data" => Kind::Data,
            "error" => Kind::Error,
            _ => return None,
        };
        let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
        let request = headers.get("requestid").filter(|id| !id.is_empty());
        // Clients before Kubernetes 1.2 send no id. They open the error stream and then the data stream.
        let request = request.map_or_else(
            || match kind {
                Kind::Error => incoming.id().to_string(),
                Kind::Data => incoming.id().wrapping_sub(2).to_string(),
            },
            str::to_owned,
        );
        Some((request.into(), port, kind))
    }
}

/// Streams that wait for the other stream of their pair, oldest first. There are never more than the session's streams.
#[derive(Default)]
struct Halves(VecDeque<Half>);

impl Halves {
    /// Accepts a stream, and returns the pair if this completes one. Refuses a second stream of the same kind.
    fn add(&mut self, incoming: Incoming) -> Option<Pair> {
        let (request, port, kind) = Half::read(&incoming)?;
        let other = self.0.iter().position(|half| half.request == request);
        if other.is_some_and(|at| self.0[at].kind == kind) {
            return None;
        }
        let (input, sink) = incoming.accept()?;
        let half = Half { request, port, kind, deadline: Instant::now() + CREATION, input, sink };
        let Some(other) = other.and_then(|at| self.0.remove(at)) else {
            self.0.push_back(half);
            return None;
        };
        let (data, error) = if kind == Kind::Data { (half, other) } else { (other, half) };
        Some(Pair { port: data.port, from_client: data.input, to_client: data.sink, error: error.sink })
    }

    fn expiry(&self) -> Option<Instant> {
        self.0.front().map(|half| half.deadline)
    }

    /// Closes the streams that have waited too long.
    async fn expire(&mut self, now: Instant) {
        while let Some(half) = self.0.pop_front_if(|half| half.deadline <= now) {
            if half.kind == Kind::Error {
                let request = &half.request;
                half.sink.send_last(format!("timed out waiting for the data stream of request {request}").into()).await;
            }
        }
    }
}

/// The streams of one connection.
struct Pair {
    port: u16,
    from_client: Input,
    to_client: StreamSink,
    error: StreamSink,
}

impl Pair {
    async fn serve(self, backend: Arc<dyn Backend>, forward: PortForward) {
        let Self { port, from_client, to_client, error } = self;
        let result = if forward.ports.is_empty() || forward.ports.contains(&port) {
            let gone = to_client.gone();
            let connection = Duplex { from_client, to_client: Box::new(to_client), gone };
            backend.port_forward(forward.sandbox.clone(), port, connection).await.map_err(|failure| failure.0)
        } else {
            Err("the port is not among the requested ones".to_owned())
        };
        // Empty without a failure: kubectl reads the error stream to its end.
        let message = result.err().map_or_else(String::new, |failure| {
            format!("error forwarding port {port} to sandbox {}: {failure}", forward.sandbox)
        });
        error.send_last(message.into()).await;
    }
}
