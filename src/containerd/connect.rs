//! Channels to containerd's UNIX socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// A channel that dials when it is first used and again whenever the connection is gone.
/// No HTTP/2 keepalive: containerd answers pings it finds too frequent with GOAWAY.
pub(super) fn lazy(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The authority is not looked at on a UNIX socket, but h2 wants one that parses.
    Endpoint::from_static("http://containerd").connect_with_connector_lazy(service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}
