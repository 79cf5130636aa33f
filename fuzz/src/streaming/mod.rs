//! As `src/streaming/mod.rs`, without the server.

#[path = "../../../src/streaming/protocol.rs"]
pub mod protocol;
#[path = "../../../src/streaming/remote_status.rs"]
pub mod remote_status;
#[path = "../../../src/streaming/resize.rs"]
pub mod resize;
#[path = "../../../src/streaming/session.rs"]
mod session;
#[path = "../../../src/streaming/spdy/mod.rs"]
pub mod spdy;
pub mod websocket;

pub use session::{Attach, Backend, Duplex, Exec, Failure, Gone, Input, PortForward, Sink, Size, Streams};
