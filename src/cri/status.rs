//! Maps the errors of the verbs to gRPC codes. No other module does this.

use tonic::{Code, Status};

use crate::containerd::Kind;
use crate::lsm::apparmor;
use crate::{cdi, container, images, network, runtime, sandbox, spec, userns};

/// An error that has a gRPC code.
pub(super) trait ToStatus {
    /// The code of the error, with the whole chain of causes as the message.
    fn to_status(&self) -> Status;
}

impl ToStatus for runtime::Error {
    fn to_status(&self) -> Status {
        make(code(self), self.chain())
    }
}

impl ToStatus for images::Error {
    fn to_status(&self) -> Status {
        make(image_code(self), runtime::chain(self))
    }
}

impl ToStatus for std::convert::Infallible {
    fn to_status(&self) -> Status {
        match *self {}
    }
}

/// The status of a call whose deadline has passed.
pub(super) fn deadline_passed() -> Status {
    make(Code::DeadlineExceeded, "the deadline of the call has passed; what it began goes on".to_owned())
}

/// The status instead of a response that is longer than a client accepts. `stream` is the call, if there is one, that
/// returns the same in parts.
pub(super) fn too_long(bytes: usize, stream: Option<&str>) -> Status {
    let instead = stream.map(|call| format!("; {call} gives it in parts")).unwrap_or_default();
    let limit = super::MESSAGE_LIMIT;
    make(Code::ResourceExhausted, format!("the answer has {bytes} bytes, and a message takes {limit}{instead}"))
}

/// Largest length of a message, in bytes. It is sent as an HTTP/2 header: many clients accept 16 KiB, and a byte that
/// is not plain text is encoded as three. If the message repeated a longer field of the request, the response would not
/// arrive at all.
const LONGEST_MESSAGE: usize = 4 << 10;

#[allow(clippy::disallowed_methods, reason = "this is the one place that makes codes")]
fn make(code: Code, mut message: String) -> Status {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message += "...";
    }
    Status::new(code, message)
}

fn code(error: &runtime::Error) -> Code {
    use runtime::Error;
    match error {
        Error::Invalid { .. } | Error::Ambiguous { .. } | Error::NoUserNamespaces { .. } => Code::InvalidArgument,
        Error::Missing { .. } => Code::NotFound,
        Error::Exists { .. } | Error::Conflict { .. } => Code::AlreadyExists,
        Error::State { .. } | Error::RootBusy { .. } => Code::FailedPrecondition,
        Error::ContainerdAway { .. } => Code::Unavailable,
        Error::ExecTimeout { .. } => Code::DeadlineExceeded,
        Error::ClientGone { .. } => Code::Cancelled,
        Error::Exhausted(_) | Error::TooSlow { .. } => Code::ResourceExhausted,
        Error::Containerd(error) => containerd_code(error.kind()),
        Error::Network { source, .. } | Error::Attachment(source) => network_code(source),
        Error::Netns { .. } | Error::System { .. } | Error::RollbackIncomplete { .. } => Code::Internal,
        Error::Userns { source, .. } => userns_code(source),
        Error::Files { source, .. } => files_code(source),
        Error::Spec(error) => spec_code(error),
        Error::Host(error) => host_code(error),
        Error::Mounts(error) => mounts_code(error),
        Error::Cdi(error) => cdi_code(error),
        Error::AppArmor(error) => apparmor_code(error),
        Error::Levels(_) => Code::ResourceExhausted,
        Error::Io { source, .. } => io_code(source),
        Error::Image(error) | Error::ImageVolume { source: error, .. } => image_code(error),
        Error::HalfUndone { cause: error, .. } | Error::NotUndone { error, .. } | Error::Both { first: error, .. } => {
            code(error)
        }
        Error::Joined(error) => code(error),
    }
}

fn containerd_code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Unavailable => Code::Unavailable,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unimplemented | Kind::Cancelled | Kind::Other => Code::Internal,
    }
}

fn userns_code(error: &userns::Error) -> Code {
    use userns::Error;
    match error {
        // unshare(2): the user's limit of namespaces, or the node's, is reached.
        Error::Create { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::ResourceExhausted,
        Error::Create { .. } | Error::Pin { .. } | Error::Remove { .. } => Code::Internal,
    }
}

fn files_code(error: &sandbox::FilesError) -> Code {
    match error {
        sandbox::FilesError::Invalid { .. } => Code::InvalidArgument,
        sandbox::FilesError::Io { .. } => Code::Internal,
    }
}

fn network_code(error: &network::Error) -> Code {
    use network::Error;
    match error {
        Error::InvalidField { .. } | Error::InvalidPort { .. } | Error::InvalidHostIp { .. } | Error::Bandwidth(_) => {
            Code::InvalidArgument
        }
        Error::NotReady(_) => Code::FailedPrecondition,
        Error::TimedOut { .. } => Code::DeadlineExceeded,
        Error::PluginMissing { .. }
        | Error::PluginNotExecutable { .. }
        | Error::Run { .. }
        | Error::Plugin(_)
        | Error::OutputTooLarge { .. }
        | Error::InvalidOutput { .. }
        | Error::InvalidResult(_)
        | Error::NoAddress { .. }
        | Error::Cache { .. }
        | Error::Template { .. } => Code::Internal,
    }
}

fn io_code(error: &container::io::Error) -> Code {
    use container::io::Error;
    match error {
        Error::LogPath { .. } | Error::LogDirectory { .. } | Error::LogSymlink(_) | Error::LogNotRegular(_) => {
            Code::InvalidArgument
        }
        Error::Finished(_) => Code::FailedPrecondition,
        Error::LogStuck(_) => Code::DeadlineExceeded,
        Error::Log { .. } | Error::Fifo { .. } => Code::Internal,
    }
}

fn image_code(error: &images::Error) -> Code {
    use images::Kind;
    match error.kind() {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Unavailable => Code::Unavailable,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Internal => Code::Internal,
    }
}

fn apparmor_code(error: &apparmor::Error) -> Code {
    match error {
        apparmor::Error::NotLoaded(_) => Code::InvalidArgument,
        // These must be fixed on the node: no change of the request would help.
        apparmor::Error::List(_) | apparmor::Error::Load(_) => Code::FailedPrecondition,
    }
}

fn spec_code(error: &spec::Error) -> Code {
    match error {
        // Both name a field that the caller can change. Unimplemented would tell kubelet that the RPC does not exist.
        spec::Error::Invalid { .. } | spec::Error::Unsupported { .. } => Code::InvalidArgument,
    }
}

fn host_code(error: &container::HostError) -> Code {
    use container::HostError;
    match error {
        HostError::Invalid { .. } => Code::InvalidArgument,
        HostError::Stuck { .. } => Code::DeadlineExceeded,
        HostError::Io { .. } => Code::Internal,
    }
}

fn mounts_code(error: &container::mounts::Error) -> Code {
    use container::mounts::Error;
    match error {
        Error::Host(error) => host_code(error),
        Error::Image { .. } => Code::InvalidArgument,
    }
}

fn cdi_code(error: &cdi::Error) -> Code {
    match error {
        cdi::Error::Invalid { .. } => Code::InvalidArgument,
        cdi::Error::Unknown { .. } => Code::NotFound,
        cdi::Error::Host { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_fits_into_a_header() {
        let status = make(Code::NotFound, "\u{1f980}".repeat(30_000));
        assert!(status.message().ends_with("\u{1f980}...") && status.message().len() < LONGEST_MESSAGE + 4);
        assert_eq!(make(Code::NotFound, "short".to_owned()).message(), "short");
    }
}
