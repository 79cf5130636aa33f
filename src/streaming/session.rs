//! What the protocols and the rest of Pontoon agree on: the streams of one session.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The client has gone, or has closed this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct Gone;

/// One stream towards the client. Dropping it closes the stream.
///
/// `send` resolves when the protocol has taken the bytes (written, or in its bounded buffer), so that whoever
/// reads a container's output reads no faster than the client.
pub trait Sink: Send + 'static {
    /// Sends a piece, of any length.
    fn send(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), Gone>>;

    /// Says that no more comes. Nothing may be sent afterwards.
    fn finish(&mut self) -> BoxFuture<'_, ()>;
}

/// One stream from the client: `None` when it was half-closed or the client has gone. Bounded: a protocol waits
/// for room before it reads on.
pub type Input = mpsc::Receiver<Bytes>;

/// The streams of an exec or attach session.
pub struct Streams {
    /// Asked for and opened.
    pub stdin: Option<Input>,
    /// Asked for and opened.
    pub stdout: Option<Box<dyn Sink>>,
    /// Asked for and opened; never with a terminal.
    pub stderr: Option<Box<dyn Sink>>,
    /// Sizes of the client's terminal, latest last. Never sent to without a terminal.
    pub resize: mpsc::Receiver<Size>,
    /// Cancelled when the client has gone, the session was idle too long, or the daemon stops.
    pub gone: CancellationToken,
}

/// What an Exec URL was handed out for; checked by the RPC.
#[derive(Clone, Debug)]
pub struct Exec {
    /// Whose container it is: its sessions and URLs share what there is.
    pub sandbox: crate::ids::SandboxId,
    /// Full id.
    pub container: crate::ids::ContainerId,
    /// Not empty.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Which streams there are.
    pub stdin: bool,
    /// As `stdin`.
    pub stdout: bool,
    /// As `stdin`; false with a terminal.
    pub stderr: bool,
}

/// What an Attach URL was handed out for.
#[derive(Clone, Debug)]
pub struct Attach {
    /// As in [`Exec`].
    pub sandbox: crate::ids::SandboxId,
    /// Full id.
    pub container: crate::ids::ContainerId,
    /// As the request has it.
    pub tty: bool,
    /// Which streams there are.
    pub stdin: bool,
    /// As `stdin`.
    pub stdout: bool,
    /// As `stdin`; false with a terminal.
    pub stderr: bool,
}

/// What a PortForward URL was handed out for.
#[derive(Clone, Debug)]
pub struct PortForward {
    /// Full id.
    pub sandbox: crate::ids::SandboxId,
    /// The ports that the RPC named; the client names one a connection. Empty: any.
    pub ports: Vec<u16>,
}

/// One forwarded connection.
pub struct Duplex {
    /// What the client sends.
    pub from_client: Input,
    /// What the client gets.
    pub to_client: Box<dyn Sink>,
    /// As in [`Streams`].
    pub gone: CancellationToken,
}

/// Why a session failed: one sentence for the client, who gets it as a v1.Status with reason InternalError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// What streams are connected to. Each future is a whole session; it is spawned by the server as tracked work and
/// is never dropped half-way: it ends by itself soon after `gone`.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command; its exit code.
    fn exec(&self, ask: Exec, streams: Streams) -> BoxFuture<'static, Result<i32, Failure>>;

    /// Follows a container until it ends or the client has gone.
    fn attach(&self, ask: Attach, streams: Streams) -> BoxFuture<'static, Result<(), Failure>>;

    /// Connects to a port in the sandbox's network namespace, and copies both ways until both are at their end.
    fn port_forward(
        &self,
        sandbox: crate::ids::SandboxId,
        port: u16,
        connection: Duplex,
    ) -> BoxFuture<'static, Result<(), Failure>>;
}
