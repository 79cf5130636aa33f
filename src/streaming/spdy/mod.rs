//! SPDY/3.1, the server's half: what kubelet, kubectl and crictl speak after the HTTP upgrade.
//!
//! ```text
//!            ┌─ Session::drive: one task ──────────────────┐
//! client ──► │ Parser ──► Table of streams ──► Input queue │──► Backend
//!        ◄── │ flush control frames ◄── Output ◄───────────│◄── StreamSink, directly
//!            └─────────────────────────────────────────────┘
//! ```
//! The clients are moby/spdystream, which has no flow control: it sends no WINDOW_UPDATE and ignores ours. So nothing
//! waits for a window. Backpressure is the connection's: towards the client a sink waits for the socket, from the
//! client the connection is read no faster than the streams' readers take ([`table`]).
//!
//! Everything that a client sends is bounded: lengths ([`frame`], [`headers`]), streams and bytes in queues
//! ([`table`]), and answers that it does not read ([`output`]).

mod dictionary;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod headers;
mod output;
mod port_forward;
mod remote_command;
mod session;
mod sink;
mod table;

#[cfg(test)]
pub(super) mod tests;

pub(super) use port_forward::port_forward;
pub(super) use remote_command::remote_command;

use std::time::Duration;

/// How long a client has to open the streams of its session, or the other half of a pair: what kubelet and containerd
/// give it.
const CREATION: Duration = Duration::from_secs(30);

/// How a client broke the protocol; the session ends with GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum ProtocolError {
    /// Another version in a control frame.
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    /// More than we take.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// Not what the specification says.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// zlib does not like a header block.
    #[error("header block cannot be inflated")]
    Compression,
    /// A stream id that is even, or not above all before.
    #[error("stream {0} is not a new one of a client")]
    StreamOrder(u32),
}
