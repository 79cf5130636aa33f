//! Clients of the daemon's two sockets.

use std::error::Error;
use std::io::{self, ErrorKind};
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

/// Why a call failed, for the user: what the daemon said, or the cause that kept the call from reaching it. The texts of
/// the errors between, which the libraries add, have codes and Rust's debug form.
pub(super) fn reason(error: &(dyn Error + 'static), said: &str) -> String {
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(Error::source) {
        cause = Some(deeper);
    }
    let Some(cause) = cause else { return said.to_owned() };
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            "nobody listens there; is Pontoon running?".to_owned()
        }
        Some(ErrorKind::PermissionDenied) => "permission denied; this command needs root".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::admin::v1::OperationsRequest;

    #[tokio::test]
    async fn the_error_for_a_daemon_that_does_not_run_is_a_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let missing = admin(&socket).operations(OperationsRequest {}).await.unwrap_err();
        assert_eq!(reason(&missing, missing.message()), "nobody listens there; is Pontoon running?");
        // The state after kill -9.
        drop(UnixListener::bind(&socket).unwrap());
        let stale = admin(&socket).operations(OperationsRequest {}).await.unwrap_err();
        assert_eq!(reason(&stale, stale.message()), "nobody listens there; is Pontoon running?");
    }

    #[test]
    fn what_the_daemon_says_is_passed_on_and_other_causes_have_no_debug_text() {
        let said = tonic::Status::internal("containerd does not respond");
        assert_eq!(reason(&said, said.message()), "containerd does not respond");
        let of = |kind: ErrorKind| {
            let status = tonic::Status::from_error(Box::new(io::Error::from(kind)));
            reason(&status, status.message())
        };
        assert_eq!(of(ErrorKind::PermissionDenied), "permission denied; this command needs root");
        assert_eq!(of(ErrorKind::BrokenPipe), "broken pipe");
    }
}
