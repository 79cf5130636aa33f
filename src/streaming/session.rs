//! The interface between the streaming protocols and the rest of Pontoon: the streams of one session.

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

/// One stream to the client. Dropping it closes the stream.
///
/// `send` resolves when the protocol has written the bytes or put them into its bounded buffer. So a task that copies a
/// container's output reads it no faster than the client does.
pub trait Sink: Send + 'static {
    /// Sends a piece of any length.
    fn send(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), Gone>>;

    /// Closes the stream. Nothing may be sent afterwards.
    fn finish(&mut self) -> BoxFuture<'_, ()>;
}

/// One stream from the client. Returns `None` when the client has half-closed the stream or has gone. The channel is
/// bounded: the protocol waits for queue space before it reads on.
pub type Input = mpsc::Receiver<Bytes>;

/// The streams of an exec or attach session.
pub struct Streams {
    /// `Some` if it was requested; the client has opened it.
    pub stdin: Option<Input>,
    /// Like `stdin`.
    pub stdout: Option<Box<dyn Sink>>,
    /// Like `stdin`; always `None` with a terminal.
    pub stderr: Option<Box<dyn Sink>>,
    /// Sizes of the client's terminal, oldest first. Nothing is sent without a terminal.
    pub resize: mpsc::Receiver<Size>,
    /// Cancelled when the client has gone, the session has been idle for too long, or the daemon stops.
    pub gone: CancellationToken,
}

/// The request for which an Exec URL was issued, already validated by the RPC.
#[derive(Clone, Debug)]
pub struct Exec {
    /// The sandbox of the container. The limits on sessions and URLs count per sandbox.
    pub sandbox: crate::ids::SandboxId,
    /// The full id.
    pub container: crate::ids::ContainerId,
    /// Not empty.
    pub command: Vec<String>,
    /// Whether the command gets a terminal.
    pub tty: bool,
    /// Whether the session has this stream.
    pub stdin: bool,
    /// Like `stdin`.
    pub stdout: bool,
    /// Like `stdin`; false with a terminal.
    pub stderr: bool,
}

/// The request for which an Attach URL was issued.
#[derive(Clone, Debug)]
pub struct Attach {
    /// As in [`Exec`].
    pub sandbox: crate::ids::SandboxId,
    /// The full id.
    pub container: crate::ids::ContainerId,
    pub tty: bool,
    /// Whether the session has this stream.
    pub stdin: bool,
    /// Like `stdin`.
    pub stdout: bool,
    /// Like `stdin`; false with a terminal.
    pub stderr: bool,
}

/// The request for which a PortForward URL was issued.
#[derive(Clone, Debug)]
pub struct PortForward {
    /// The full id.
    pub sandbox: crate::ids::SandboxId,
    /// The ports that the RPC named; the client names one for each connection. Empty means any port.
    pub ports: Vec<u16>,
}

/// One forwarded connection.
pub struct Duplex {
    pub from_client: Input,
    pub to_client: Box<dyn Sink>,
    /// As in [`Streams`].
    pub gone: CancellationToken,
}

/// Why a session failed: one sentence, which the client receives as a v1.Status with the reason InternalError.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// Connects streams to containers and sandboxes. Each future is a whole session. The server spawns it as tracked work
/// and never drops it before it completes; the future ends on its own soon after `gone` is cancelled.
///
/// A trait, because the module that implements it (`runtime`) is above this one, and for the tests' own backends.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command, and returns its exit code.
    fn exec(&self, ask: Exec, streams: Streams) -> BoxFuture<'static, Result<i32, Failure>>;

    /// Attaches to a container until the container ends or the client has gone.
    fn attach(&self, ask: Attach, streams: Streams) -> BoxFuture<'static, Result<(), Failure>>;

    /// Connects to a port in the sandbox's network namespace, and copies in both directions until both have ended.
    fn port_forward(
        &self,
        sandbox: crate::ids::SandboxId,
        port: u16,
        connection: Duplex,
    ) -> BoxFuture<'static, Result<(), Failure>>;
}
