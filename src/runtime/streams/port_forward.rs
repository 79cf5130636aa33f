//! PortForward: connections to ports of a sandbox, created in its network namespace.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use crate::api::v1::{PortForwardRequest, PortForwardResponse};
use crate::ids::SandboxId;
use crate::netns;
use crate::runtime::container::create_container::require_ready;
use crate::runtime::read_size::ReadSize;
use crate::runtime::streams::exec::TOO_MANY_UNCLAIMED;
use crate::runtime::{Error, Node, Result, chain};
use crate::slots::Slot;
use crate::streaming::{self, Duplex, Failure, Input, Sink, Streaming};
use crate::telemetry::Stream;

/// How long a port may take to accept; in a network namespace only a firewall causes a delay.
const CONNECT: Duration = Duration::from_secs(10);
/// How many ports one request may name; kubelet names none, and crictl a few.
const MOST_PORTS: usize = 1000;
/// What [`Error::Exhausted`] says there are too many of.
const TOO_MANY_CONNECTIONS: &str = "connections are forwarded (limits.streams, limits.streams_per_object)";

/// Returns the URL at which the client finds the sandbox's ports.
///
/// # Errors
/// [`Error::Invalid`] for a number that is not a port, and for too many; [`Error::State`] unless the sandbox is ready;
/// [`Error::Exhausted`] if too many connections are forwarded, or too many URLs are unused.
pub fn port_forward(node: &Node, streaming: &Streaming, request: PortForwardRequest) -> Result<PortForwardResponse> {
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    if request.port.len() > MOST_PORTS {
        let problem = format!("{} ports, more than {MOST_PORTS}", request.port.len());
        return Err(Error::Invalid { field: "port", problem });
    }
    let ports = request.port.into_iter().map(port).collect::<Result<Vec<u16>>>()?;
    require_ready(&sandbox)?;
    take_slot(node, sandbox.id())?;
    let request = streaming::PortForward { sandbox: sandbox.id().clone(), ports };
    let url = streaming.port_forward_url(request).map_err(|_| Error::Exhausted(TOO_MANY_UNCLAIMED))?;
    Ok(PortForwardResponse { url })
}

fn take_slot(node: &Node, sandbox: &SandboxId) -> Result<Slot> {
    node.limits.streams.try_take(sandbox.as_str(), sandbox.as_str()).ok_or(Error::Exhausted(TOO_MANY_CONNECTIONS))
}

fn port(number: i32) -> Result<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| Error::Invalid { field: "port", problem: format!("{number} is not between 1 and 65535") })
}

/// Forwards one connection until both of its ends have sent everything, or the client leaves.
pub(crate) async fn forward(
    node: Arc<Node>,
    sandbox: SandboxId,
    port: u16,
    connection: Duplex,
) -> std::result::Result<(), Failure> {
    let _alive = node.tasks.operations().metrics().stream(Stream::PortForward);
    let gone = connection.gone.clone();
    let work = async {
        let failed = |error: &Error| Failure(error.chain());
        let sandbox = node.sandbox(sandbox.as_str()).map_err(|error| failed(&error))?;
        require_ready(&sandbox).map_err(|error| failed(&error))?;
        let _slot = take_slot(&node, sandbox.id()).map_err(|error| failed(&error))?;
        let netns = sandbox.netns(&node.config.netns_dir);
        let stream = connect(netns.as_deref(), sandbox.id(), port).await?;
        copy(stream, connection.from_client, connection.to_client).await;
        Ok(())
    };
    tokio::select! {
        result = work => result,
        () = gone.cancelled() => Ok(()),
    }
}

/// Tries 127.0.0.1, then ::1: a server may listen on only one of them. If both
/// refuse, the error has the words of containerd's CRI plugin.
async fn connect(path: Option<&Path>, id: &SandboxId, port: u16) -> std::result::Result<TcpStream, Failure> {
    let make = || [TcpSocket::new_v4(), TcpSocket::new_v6()];
    let place = path.unwrap_or(Path::new("host"));
    let failed = |why: &str| Failure(format!("failed to execute portforward in network namespace {place:?}: {why}"));
    // A socket stays in the namespace that it was created in, so only its creation needs a thread there.
    let [v4, v6] = match path {
        Some(path) => netns::enter(path, make).await.map_err(|error| failed(&chain(&error)))?,
        None => make(),
    };
    let v4 = match dial(v4, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    dial(v6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.map_err(|v6| {
        failed(&format!("failed to connect to localhost:{port} inside namespace \"{id}\", IPv4: {v4} IPv6 {v6}"))
    })
}

async fn dial(socket: std::io::Result<TcpSocket>, address: SocketAddr) -> std::result::Result<TcpStream, String> {
    let connected = async { socket?.connect(address).await };
    let error = match tokio::time::timeout(CONNECT, connected).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CONNECT:?}"),
    };
    Err(format!("dial tcp {address}: connect: {error}"))
}

/// Copies both directions at once, each to its own end.
async fn copy(stream: TcpStream, from_client: Input, to_client: Box<dyn Sink>) {
    // A client that sends small pieces usually waits for a response.
    let _ = stream.set_nodelay(true);
    let (from_port, to_port) = stream.into_split();
    join(to_the_port(from_client, to_port), to_the_client(from_port, to_client)).await;
}

/// Passes the end of the client's input on to the port, whose response may still come.
async fn to_the_port(mut from: Input, mut to: OwnedWriteHalf) {
    while let Some(bytes) = from.recv().await {
        // The port is closed and reads no more.
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Passes the end of the port's output on to the client, which may still send.
async fn to_the_client(mut from: OwnedReadHalf, mut to: Box<dyn Sink>) {
    let (mut buffer, mut read_size) = (BytesMut::new(), ReadSize::default());
    loop {
        read_size.reserve(&mut buffer);
        match from.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => {
                read_size.adapt_to(count);
                if to.send(buffer.split().freeze()).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a forwarded connection broke");
                break;
            }
        }
    }
    to.finish().await;
}

#[cfg(test)]
mod tests;
