//! Clients of the daemon's two sockets.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::admin::v1::admin_client::AdminClient;
use crate::api::v1::runtime_service_client::RuntimeServiceClient;

/// The largest accepted reply; the server has the same limit.
const MESSAGE_LIMIT: usize = 16 << 20;
/// The deadline of a call. A later reply is of no use to a user who is watching.
const DEADLINE: Duration = Duration::from_secs(10);

/// CRI, for lists and stats.
pub(super) fn cri(socket: &Path) -> RuntimeServiceClient<Channel> {
    RuntimeServiceClient::new(channel(socket)).max_decoding_message_size(MESSAGE_LIMIT)
}

pub(super) fn admin(socket: &Path) -> AdminClient<Channel> {
    AdminClient::new(channel(socket)).max_decoding_message_size(MESSAGE_LIMIT)
}

/// Connects when it is first used, and again after the daemon was restarted.
fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let dial = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://pontoon").timeout(DEADLINE).connect_with_connector_lazy(dial)
}
