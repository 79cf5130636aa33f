//! Connections to the two sockets of a daemon.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::admin::v1::admin_client::AdminClient;
use crate::api::v1::runtime_service_client::RuntimeServiceClient;

/// Largest answer; the server has the same.
const MESSAGE_LIMIT: usize = 16 << 20;
/// An answer that takes longer is as good as none to somebody who looks.
const DEADLINE: Duration = Duration::from_secs(10);

/// CRI, for lists and stats.
pub(super) fn cri(socket: &Path) -> RuntimeServiceClient<Channel> {
    RuntimeServiceClient::new(channel(socket)).max_decoding_message_size(MESSAGE_LIMIT)
}

/// Pontoon's own service.
pub(super) fn admin(socket: &Path) -> AdminClient<Channel> {
    AdminClient::new(channel(socket)).max_decoding_message_size(MESSAGE_LIMIT)
}

/// Dials when it is first used, and again when the daemon was restarted.
fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let dial = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://pontoon").timeout(DEADLINE).connect_with_connector_lazy(dial)
}
