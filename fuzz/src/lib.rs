//! The parsers' source, without the rest of the daemon: it builds in a minute with a sanitizer, not in ten.

#![allow(dead_code, unused_imports, reason = "what is used of the source is what a target drives")]

#[path = "../../src/ids.rs"]
pub mod ids;
#[path = "../../src/tasks.rs"]
pub mod tasks;

/// As `src/streaming/mod.rs`, without the server.
pub mod streaming {
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

    pub use session::{Attach, Backend, Duplex, Exec, Failure, Gone, Input, PortForward, Sink, Size, Streams};
}
