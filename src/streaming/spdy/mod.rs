//! The server side of SPDY/3.1, which kubelet, kubectl and crictl speak after the HTTP upgrade.
//!
//! ```text
//!            ┌─ Driver::drive: one task ───────────────────┐
//! client ──► │ Parser ──► Table of streams ──► Input queue │──► Backend
//!        ◄── │ flush control frames ◄── Output ◄───────────│◄── StreamSink, directly
//!            └─────────────────────────────────────────────┘
//! ```
//! The clients use moby/spdystream, which has no flow control: it sends no WINDOW_UPDATE and ignores ours. So nothing
//! waits for a window, and backpressure comes from the connection: a sink waits until the socket accepts its data, and
//! the connection is read no faster than the readers of its streams take what the client sends ([`table`]).
//!
//! All resources that a client can use are bounded: lengths ([`frame`], [`headers`]), streams and queued bytes
//! ([`table`]), and replies that the client does not read ([`output`]).

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

/// How long a client may take to open the streams of its session, or the second stream of a pair. kubelet and
/// containerd allow the same time.
const CREATION: Duration = Duration::from_secs(30);

/// How a client broke the protocol; the session ends with GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum ProtocolError {
    /// A control frame has another version.
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    /// A part of a frame exceeds its limit.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// A part of a frame does not conform to the specification.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// zlib cannot inflate a header block.
    #[error("header block cannot be inflated")]
    Compression,
    /// A stream id is even, or not greater than all before it.
    #[error("stream id {0} is even, or not greater than the ids before it")]
    StreamOrder(u32),
}
