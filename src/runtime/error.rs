//! Errors of the verbs. `cri/status.rs` maps each to a gRPC code.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::SandboxId;
use crate::lsm::{apparmor, selinux};
use crate::telemetry::Verb;
pub use crate::telemetry::chain;
use crate::undo::RollbackFailed;
use crate::{cdi, container, containerd, images, netns, network, sandbox, spec, userns};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is invalid.
    #[error("{field}: {problem}")]
    Invalid {
        /// Name of the CRI field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The store has no object with this id.
    #[error("{kind} {id:?} not found")]
    Missing {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// The id in the request.
        id: String,
    },
    /// The ids of several objects start with this short id.
    #[error("{kind} id {id:?} is ambiguous")]
    Ambiguous {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// The id in the request.
        id: String,
    },
    /// The store has an object with this name.
    #[error("{kind} {name} exists already with id {id}")]
    Exists {
        /// `sandbox` or `container`.
        kind: &'static str,
        name: String,
        /// Id of the existing object.
        id: String,
    },
    /// An earlier request with the same name and another config is being rolled back.
    #[error("an earlier request for {kind} {name} with another config is being rolled back; try again")]
    Conflict {
        /// `sandbox` or `container`.
        kind: &'static str,
        name: String,
    },
    /// The object's state does not allow the verb.
    #[error("{kind} {id} is {state}, not {wanted}")]
    State {
        /// `sandbox` or `container`.
        kind: &'static str,
        id: String,
        /// The object's state.
        state: String,
        /// The state that the verb needs.
        wanted: &'static str,
    },
    /// Processes on the host hold a container's root file system, so it cannot be unmounted.
    #[error("the root file system of container {id} cannot be unmounted, it is held by {holders}")]
    RootBusy {
        /// Id of the container.
        id: String,
        /// The processes, and what each holds the root file system by.
        holders: String,
    },
    /// containerd does not respond, so the verb was not begun.
    #[error(
        "containerd does not answer at {}: {} waited {waited:?} for it, and has changed nothing",
        address.display(),
        verb.name()
    )]
    ContainerdAway {
        /// containerd's socket.
        address: PathBuf,
        verb: Verb,
        /// How long it has waited.
        waited: Duration,
    },
    /// A command ran longer than its request allowed.
    #[error("command in container {id} timed out after {limit:?}")]
    ExecTimeout {
        /// Id of the container.
        id: String,
        /// The request's timeout.
        limit: Duration,
    },
    /// The client that requested a command has left.
    #[error("the client of a command in container {id} has gone")]
    ClientGone {
        /// Id of the container.
        id: String,
    },
    /// A limit is reached: for what, and which keys of the configuration set it.
    #[error("too many {0}")]
    Exhausted(&'static str),
    /// An attached client reads more slowly than the container writes.
    #[error("the client did not keep up with the output of container {id}, and misses some of it")]
    TooSlow {
        /// Id of the container.
        id: String,
    },
    /// A call to containerd failed.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// An operation on the pod's network failed.
    #[error("set up or remove the network of sandbox {id}")]
    Network {
        /// Id of the sandbox.
        id: String,
        source: network::Error,
    },
    /// What the pod's config requests for its network is invalid, or an operation on the node's network failed.
    #[error(transparent)]
    Attachment(network::Error),
    /// An operation on the pod's network namespace failed.
    #[error("set up or remove the network namespace of sandbox {id}")]
    Netns {
        /// Id of the sandbox.
        id: String,
        source: netns::Error,
    },
    /// An operation on the pod's user namespace failed.
    #[error("set up the user namespace of sandbox {id}")]
    Userns {
        /// Id of the sandbox.
        id: String,
        source: userns::Error,
    },
    /// A pod requests a user namespace, and its runtime handler has none.
    #[error(
        "config.linux.security_context.namespace_options.userns_options: runtime handler {handler} has no user namespaces: {why}"
    )]
    NoUserNamespaces {
        handler: String,
        /// What is missing.
        why: String,
    },
    /// An operation on the pod's files failed.
    #[error("set up or remove the files of sandbox {id}")]
    Files {
        /// Id of the sandbox.
        id: String,
        source: sandbox::FilesError,
    },
    /// The OCI spec could not be built from the request.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// A host path that the request names cannot be used.
    #[error(transparent)]
    Host(#[from] container::HostError),
    /// A mount of the request cannot be used.
    #[error(transparent)]
    Mounts(#[from] container::mounts::Error),
    /// The container's AppArmor profile cannot be used.
    #[error("config.linux.security_context.apparmor")]
    AppArmor(#[from] apparmor::Error),
    /// No SELinux level is free for another pod.
    #[error(transparent)]
    Levels(#[from] selinux::Exhausted),
    /// A CDI device of the request cannot be used.
    #[error(transparent)]
    Cdi(#[from] cdi::Error),
    /// An operation on the container's streams or log failed.
    #[error("set up the streams or the log of container {id}")]
    Io {
        /// Id of the container.
        id: String,
        source: container::io::Error,
    },
    /// An operation on an image failed.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// An image volume could not be mounted. kubelet looks for the prefix of the message.
    #[error("ImageVolumeMountFailed: config.mounts[{index}].{field}")]
    ImageVolume {
        /// Index of the mount in the request.
        index: usize,
        /// The field of the mount.
        field: &'static str,
        source: images::Error,
    },
    /// An operation on a path, or on another object of the node, failed.
    #[error("{operation} {path}")]
    System {
        operation: &'static str,
        /// The path, or another name of the object.
        path: String,
        source: std::io::Error,
    },
    /// The operation failed, and not all of it could be undone.
    #[error("{}", with_leftovers(&cause.chain(), &leftovers.to_string()))]
    HalfUndone {
        /// Why the operation failed.
        cause: Box<Error>,
        /// What is left. The object stays in the store until it is stopped and removed.
        leftovers: RollbackFailed,
    },
    /// A failed creation could not be rolled back completely. This caller had joined the rollback.
    #[error("{kind} {id} could not be rolled back: {leftovers}")]
    RollbackIncomplete {
        /// `sandbox` or `container`.
        kind: &'static str,
        id: String,
        /// What is left. A Stop or Remove tries again.
        leftovers: RollbackFailed,
    },
    /// A stop or removal failed, of an object that exists only because its creation failed and could not be undone. The
    /// cause of that tells the user more than what the attempts to clean up say.
    #[error("{kind} {id} could not be created: {}", with_leftovers(cause, &error.chain()))]
    NotUndone {
        /// `sandbox` or `container`.
        kind: &'static str,
        id: String,
        /// Why its creation failed.
        cause: Box<str>,
        /// Why the stop or removal failed.
        error: Box<Error>,
    },
    /// Two operations ran in parallel, and both failed.
    #[error("{}; at the same time: {}", shortened(&first.chain()), shortened(&second.chain()))]
    Both { first: Box<Error>, second: Box<Error> },
    /// The failure of an operation that this caller had joined.
    #[error(transparent)]
    Joined(#[from] Arc<Error>),
}

impl Error {
    pub(super) fn missing_field(field: &'static str) -> Self {
        Self::Invalid { field, problem: "is required".to_owned() }
    }

    /// An invalid field of the request becomes [`Error::Invalid`], as elsewhere.
    pub(super) fn files(id: &SandboxId, source: sandbox::FilesError) -> Self {
        match source {
            sandbox::FilesError::Invalid { field, problem } => Self::Invalid { field, problem },
            io @ sandbox::FilesError::Io { .. } => Self::Files { id: id.to_string(), source: io },
        }
    }

    pub(super) fn system(operation: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::System { operation, path: path.display().to_string(), source }
    }

    /// The error with all its causes in one line, as logs and gRPC messages show it.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// Longest text, in bytes, of each of two errors in one message. A gRPC message has 4 KiB (`cri/status.rs`), and a long
/// first text must not push out the second one.
const LONGEST_OF_TWO: usize = 1900;

/// An error, and what cleaning up after it has left.
fn with_leftovers(cause: &str, leftovers: &str) -> String {
    format!("{}; and what could not be undone: {}", shortened(cause), shortened(leftovers))
}

/// The beginning of a text that is one of two in a message.
pub(super) fn shortened(text: &str) -> String {
    if text.len() <= LONGEST_OF_TWO {
        return text.to_owned();
    }
    format!("{}...", &text[..text.floor_char_boundary(LONGEST_OF_TWO)])
}

/// The results of two operations that ran in parallel. If both failed, the error has both causes, and the code of the
/// first.
///
/// # Errors
/// The error of either, or [`Error::Both`].
pub(super) fn both<A, B>(first: super::Result<A>, second: super::Result<B>) -> super::Result<(A, B)> {
    match (first, second) {
        (Ok(first), Ok(second)) => Ok((first, second)),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        (Err(first), Err(second)) => Err(Error::Both { first: Box::new(first), second: Box::new(second) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(problem: &str) -> Error {
        Error::Invalid { field: "field", problem: problem.to_owned() }
    }

    fn half_undone(cause: &str, leftovers: &[&str]) -> String {
        let leftovers = RollbackFailed(leftovers.iter().map(|left| (*left).to_owned()).collect());
        Error::HalfUndone { cause: Box::new(failed(cause)), leftovers }.chain()
    }

    #[test]
    fn the_cause_comes_first_and_then_what_could_not_be_undone() {
        assert_eq!(
            half_undone("no address is free", &["detach network: etcd is not there", "remove files: busy"]),
            "field: no address is free; and what could not be undone: detach network: etcd is not there; remove files: busy"
        );
        let stop = Error::NotUndone {
            kind: "sandbox",
            id: "a1".to_owned(),
            cause: "no address is free".into(),
            error: Box::new(failed("etcd is not there")),
        };
        assert_eq!(
            stop.chain(),
            "sandbox a1 could not be created: no address is free; and what could not be undone: field: etcd is not there"
        );
    }

    /// A CNI plugin may print several KiB, and a gRPC message has 4 KiB.
    #[test]
    fn a_long_cause_does_not_push_out_what_could_not_be_undone() {
        let (cause, left) = ("c".repeat(9000), "\u{1f980}".repeat(3000));
        let text = half_undone(&cause, &[&left]);
        assert!(text.len() < 4000, "{}", text.len());
        assert!(text.starts_with("field: ccc") && text.ends_with("\u{1f980}..."), "{text}");
        assert!(text.contains("...; and what could not be undone: \u{1f980}"), "{text}");
    }

    #[test]
    fn both_failures_are_in_the_error() {
        let text = |first, second| both::<(), ()>(first, second).map(drop).map_err(|error| error.chain());
        assert_eq!(text(Err(failed("a")), Err(failed("b"))), Err("field: a; at the same time: field: b".to_owned()));
        assert_eq!(text(Ok(()), Err(failed("b"))), Err("field: b".to_owned()));
        assert_eq!(text(Ok(()), Ok(())), Ok(()));
    }
}
