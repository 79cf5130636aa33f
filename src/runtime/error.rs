//! Errors of the verbs. `cri/status.rs` maps each to a gRPC code.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::SandboxId;
use crate::lsm::{apparmor, selinux};
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
    /// containerd does not respond.
    #[error("containerd does not respond: no answer within {0:?}")]
    ContainerdAway(Duration),
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
    #[error("{}; the rollback is not complete: {leftovers}", .cause.chain())]
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
