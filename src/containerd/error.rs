//! Converts containerd's statuses to typed errors, in this one place.

use std::time::Duration;

use tonic::{Code, Status};

/// A failed call to containerd: what was tried, on which object, and how it failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} {object}: {message}")]
pub struct Error {
    operation: &'static str,
    object: String,
    kind: Kind,
    message: String,
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
        Self { operation, object: object.to_owned(), kind, message: message.into() }
    }

    pub(super) fn status(operation: &'static str, object: &str, status: &Status) -> Self {
        // A status that containerd sent has no source. One from a connection that broke during the call has a source,
        // and tonic has no code of its own for that.
        let answered = std::error::Error::source(status).is_none();
        let kind = match status.code() {
            Code::Unknown | Code::Internal | Code::Cancelled if !answered => Kind::Unavailable,
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
