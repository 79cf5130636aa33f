//! Converts containerd's statuses to typed errors, in this one place.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};

use super::Containerd;

/// A failed call to containerd: what was tried, on which object, and how it failed.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    operation: &'static str,
    object: Box<str>,
    kind: Kind,
    message: Box<str>,
    /// containerd's socket, if no response came from it. Without it, "No such file or directory" would be taken for an
    /// error about the object.
    unanswered_at: Option<Arc<Path>>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, object, message, .. } = self;
        match &self.unanswered_at {
            Some(socket) => write!(f, "{operation} {object}: {}", no_answer(socket, message)),
            None => write!(f, "{operation} {object}: {message}"),
        }
    }
}

/// What a verb may base a decision on; never the text of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The object does not exist.
    NotFound,
    /// An object of that name exists already.
    AlreadyExists,
    /// A field is invalid.
    InvalidArgument,
    /// The state of the object forbids the call.
    FailedPrecondition,
    /// containerd cannot be reached, or is shutting down.
    Unavailable,
    /// A limit of containerd was reached.
    Exhausted,
    /// This version of containerd does not have the call.
    Unimplemented,
    /// The registry or the kernel denied access.
    Denied,
    /// The call was cancelled or timed out on containerd's side.
    Cancelled,
    /// Everything else; containerd gives most of its errors the code Unknown.
    Other,
}

impl Error {
    pub(crate) fn new(operation: &'static str, object: &str, kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into().into_boxed_str();
        Self { operation, object: object.into(), kind, message, unanswered_at: None }
    }

    /// The error of a call for which no response came from the socket.
    pub(super) fn unanswered(
        socket: &Arc<Path>,
        operation: &'static str,
        object: &str,
        reason: impl Into<String>,
    ) -> Self {
        let unanswered_at = Some(Arc::clone(socket));
        Self { unanswered_at, ..Self::new(operation, object, Kind::Unavailable, reason) }
    }

    pub(super) fn status(socket: &Arc<Path>, operation: &'static str, object: &str, status: &Status) -> Self {
        if let Some(reason) = connection_error(status) {
            return Self::unanswered(socket, operation, object, reason);
        }
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::AlreadyExists => Kind::AlreadyExists,
            Code::InvalidArgument | Code::OutOfRange => Kind::InvalidArgument,
            Code::FailedPrecondition => Kind::FailedPrecondition,
            Code::Unavailable => Kind::Unavailable,
            Code::ResourceExhausted => Kind::Exhausted,
            Code::Unimplemented => Kind::Unimplemented,
            Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
            Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => Kind::Cancelled,
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Kind::Other,
        };
        Self::new(operation, object, kind, status.message())
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why the call failed, without what was tried and without the address.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.message
    }

    /// Whether the connection broke or containerd stopped, so that it is unknown whether the call was carried out.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Cancelled)
    }

    /// Whether the object does not exist, which counts as success for an undo or a removal.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }
}

impl Containerd {
    /// The error of a call that ended with `status`.
    pub(super) fn error(&self, operation: &'static str, object: &str, status: &Status) -> Error {
        Error::status(&self.socket, operation, object, status)
    }
}

/// Why a call got no response from containerd; `None` if containerd responded. A status that containerd sent has no
/// source. One from a connection that could not be made, or that broke during the call, has a source, and tonic has no
/// code of its own for the latter.
pub(super) fn connection_error(status: &Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    if !matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled) {
        return None;
    }
    // The outer errors say no more than "transport error".
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}

/// The text about a containerd from which no response came.
pub(super) fn no_answer(socket: &Path, reason: &str) -> String {
    format!("containerd does not answer at {}: {reason}", socket.display())
}

/// Pause before a call is repeated.
const AGAIN: Duration = Duration::from_millis(50);

/// Runs a removal, and repeats it once if the connection breaks. That is safe, since to remove a missing object
/// succeeds.
pub(super) async fn removal<F>(call: impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    retry_once(|| async { not_found_is_ok(call().await) }).await
}

/// Runs a call that may be repeated without effect, and repeats it once if the connection breaks: a call on a
/// connection that is just breaking is lost before it is sent, and an undo is not tried again later.
pub(super) async fn retry_once<F>(call: impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    match call().await {
        Err(error) if error.kind == Kind::Unavailable => {
            tokio::time::sleep(AGAIN).await;
            call().await
        }
        other => other,
    }
}

/// Turns "not found" into success, for calls that remove.
pub(super) fn not_found_is_ok<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(T::default()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// First nothing listens on the socket; then each connection breaks.
    #[tokio::test]
    async fn a_call_without_a_response_says_what_was_tried_and_at_which_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("containerd.sock");
        let containerd = Containerd::new(&path, "k8s.io").unwrap();
        let nothing = containerd.get_task("some-id", "").await.unwrap_err();
        let listener = UnixListener::bind(&path).unwrap();
        let closing = async {
            loop {
                drop(listener.accept().await);
            }
        };
        let broken = tokio::select! {
            reply = containerd.get_task("some-id", "") => reply.unwrap_err(),
            _ = closing => unreachable!("it accepts for ever"),
        };
        let address = format!("get task some-id: containerd does not answer at {}: ", path.display());
        for error in [&nothing, &broken] {
            assert!(error.to_string().starts_with(&address), "{error}");
            assert_eq!(error.kind(), Kind::Unavailable);
            assert!(!error.reason().contains("containerd"), "{error}");
        }
        assert!(nothing.reason().starts_with("No such file or directory"), "{nothing}");
    }

    /// containerd itself may respond with Unavailable, for example if a shim does not answer.
    #[test]
    fn a_status_that_containerd_sent_is_repeated_as_it_is() {
        let socket: Arc<Path> = Path::new("/run/c.sock").into();
        let error = Error::status(&socket, "get task", "some-id", &Status::unavailable("ttrpc: closed"));
        assert_eq!((error.to_string().as_str(), error.kind()), ("get task some-id: ttrpc: closed", Kind::Unavailable));
    }
}
