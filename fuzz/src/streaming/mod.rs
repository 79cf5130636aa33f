//! Replaces `src/streaming/mod.rs`: without the server.

#[path = "../../../src/streaming/life.rs"]
mod life;
#[path = "../../../src/streaming/protocol.rs"]
pub mod protocol;
#[path = "../../../src/streaming/remote_status.rs"]
pub mod remote_status;
#[path = "../../../src/streaming/resize.rs"]
pub mod resize;
#[path = "../../../src/streaming/session.rs"]
mod session;
#[path = "../../../src/streaming/settings.rs"]
mod settings;
#[path = "../../../src/streaming/spdy/mod.rs"]
pub mod spdy;
pub mod websocket;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use session::{Attach, Backend, Duplex, Exec, Failure, Gone, Input, PortForward, Sink, Size, Streams};
pub use settings::Settings;

/// The paths of the certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} needs TLS")]
    NeedsTls(SocketAddr),
}
