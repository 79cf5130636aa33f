//! containerd's answers become typed here, once.

use std::time::Duration;

use tonic::{Code, Status};

/// A call to containerd that failed: what was tried, on which object, and how it failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} {object}: {message}")]
pub struct Error {
    operation: &'static str,
    object: String,
    kind: Kind,
    message: String,
}

/// What a verb may decide on; never the message's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The object is not there.
    NotFound,
    /// An object of that name is there already.
    AlreadyExists,
    /// A field was refused.
    InvalidArgument,
    /// The object's state forbids it.
    FailedPrecondition,
    /// containerd could not be reached, or it is going down.
    Unavailable,
    /// A limit of containerd's was reached.
    Exhausted,
    /// This containerd does not have the call.
    Unimplemented,
    /// The registry, or the kernel, said no.
    Denied,
    /// The call was cancelled or ran out of time on containerd's side.
    Cancelled,
    /// Everything else; containerd gives most of its errors the code Unknown.
    Other,
}

impl Error {
    pub(crate) fn new(operation: &'static str, object: &str, kind: Kind, message: impl Into<String>) -> Self {
        Self { operation, object: object.to_owned(), kind, message: message.into() }
    }

    pub(super) fn status(operation: &'static str, object: &str, status: &Status) -> Self {
        // What containerd answered has no source; a connection that was lost over the call has one, and tonic gives that
        // no code of its own.
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

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the connection or containerd itself went, so that nobody knows whether the call was carried out.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Cancelled)
    }

    /// Whether the object is not there, which for an undo or a removal is as good as done.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }
}

/// Pause before a call is repeated.
const AGAIN: Duration = Duration::from_millis(50);

/// A removal, tried twice. It may be repeated, since what is not there is removed.
pub(super) async fn removal<F>(call: impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    twice(|| async { gone_is_fine(call().await) }).await
}

/// A call whose repetition changes nothing, tried twice: one that goes into a connection that just breaks is lost unsent,
/// and an undo has no other try.
pub(super) async fn twice<F>(call: impl Fn() -> F) -> Result<(), Error>
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

/// "Not there" as a success, for calls that remove.
pub(super) fn gone_is_fine<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(T::default()),
        other => other,
    }
}
