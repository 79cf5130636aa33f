//! How a verb fails. `cri/status.rs` makes the gRPC code of each.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::SandboxId;
use crate::lsm::{apparmor, selinux};
use crate::undo::Leftovers;
use crate::{cdi, container, containerd, images, netns, network, sandbox, spec, userns};

/// A verb's failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request.
    #[error("{field}: {problem}")]
    Invalid {
        /// Name of the CRI field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// No object of that id.
    #[error("{kind} {id:?} is not there")]
    Missing {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// The id of the request.
        id: String,
    },
    /// A short id that stands for more than one object.
    #[error("{kind} id {id:?} is ambiguous")]
    Ambiguous {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// The id of the request.
        id: String,
    },
    /// The name is taken.
    #[error("{kind} {name} exists already with id {id}")]
    Exists {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its id.
        id: String,
    },
    /// An earlier request of the same name with another config is being taken back.
    #[error("an earlier request for {kind} {name} with another config is being rolled back; try again")]
    Conflict {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object's state forbids the verb.
    #[error("{kind} {id} is {state}, not {wanted}")]
    State {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// Its id.
        id: String,
        /// What it is.
        state: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Processes of the host in a container's root file system keep it from being unmounted.
    #[error("the root file system of container {id} cannot be unmounted, it is held by {holders}")]
    Held {
        /// The container.
        id: String,
        /// Which processes, and by what.
        holders: String,
    },
    /// containerd does not answer.
    #[error("containerd is away: no answer within {0:?}")]
    ContainerdAway(Duration),
    /// A command ran longer than its request allowed.
    #[error("command in container {id} timed out after {limit:?}")]
    ExecTimeout {
        /// The container.
        id: String,
        /// The request's timeout.
        limit: Duration,
    },
    /// Whoever asked for a command has left.
    #[error("the client of a command in container {id} has gone")]
    ClientGone {
        /// The container.
        id: String,
    },
    /// As many as may be are there already: of what, and which key says how many.
    #[error("too many {0}")]
    Exhausted(&'static str),
    /// An attached client that reads slower than the container writes.
    #[error("the client did not keep up with the output of container {id}, and misses some of it")]
    TooSlow {
        /// The container.
        id: String,
    },
    /// A call to containerd.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// The pod's network.
    #[error("network of sandbox {id}")]
    Network {
        /// The sandbox.
        id: String,
        /// Why.
        source: network::Error,
    },
    /// What the pod's config asks of its network.
    #[error(transparent)]
    Attachment(network::Error),
    /// The pod's network namespace.
    #[error("network namespace of sandbox {id}")]
    Netns {
        /// The sandbox.
        id: String,
        /// Why.
        source: netns::Error,
    },
    /// The pod's user namespace.
    #[error("user namespace of sandbox {id}")]
    Userns {
        /// The sandbox.
        id: String,
        /// Why.
        source: userns::Error,
    },
    /// A pod in a user namespace where there can be none.
    #[error(
        "config.linux.security_context.namespace_options.userns_options: runtime handler {handler} has no user namespaces: {why}"
    )]
    NoUserNamespaces {
        /// The handler's name.
        handler: String,
        /// What is missing.
        why: String,
    },
    /// The pod's files.
    #[error("files of sandbox {id}")]
    Files {
        /// The sandbox.
        id: String,
        /// Why.
        source: sandbox::FilesError,
    },
    /// The OCI spec could not be made of the request.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// What the request names on the host.
    #[error(transparent)]
    Host(#[from] container::HostError),
    /// A mount of the request.
    #[error(transparent)]
    Mounts(#[from] container::mounts::Error),
    /// The AppArmor profile that the container is to have.
    #[error("config.linux.security_context.apparmor")]
    AppArmor(#[from] apparmor::Error),
    /// No SELinux level is left for another pod.
    #[error(transparent)]
    Levels(#[from] selinux::Exhausted),
    /// A CDI device of the request.
    #[error(transparent)]
    Cdi(#[from] cdi::Error),
    /// The container's streams or log.
    #[error("streams of container {id}")]
    Io {
        /// The container.
        id: String,
        /// Why.
        source: container::io::Error,
    },
    /// The image.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// An image that is to be mounted; kubelet looks for the prefix.
    #[error("ImageVolumeMountFailed: config.mounts[{index}].{field}")]
    ImageVolume {
        /// The mount's place in the request.
        index: usize,
        /// Which field of it.
        field: &'static str,
        /// Why.
        source: images::Error,
    },
    /// The operating system's, on a path of ours.
    #[error("{operation} {path}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The operation failed and not all of it could be undone.
    #[error("{}; and could not be undone: {leftovers}", .cause.chain())]
    HalfUndone {
        /// Why it failed.
        cause: Box<Error>,
        /// What stays, listed, until it is stopped and removed.
        leftovers: Leftovers,
    },
    /// What was made of an object whose creation failed could not be taken back whole; this caller had joined that.
    #[error("{kind} {id} could not be taken back: {leftovers}")]
    NotTakenBack {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// Its id.
        id: String,
        /// What is left; a Stop or Remove tries it again.
        leftovers: Leftovers,
    },
    /// The failure of an operation that this caller had joined.
    #[error(transparent)]
    Joined(#[from] Arc<Error>),
}

impl Error {
    pub(super) fn missing_field(field: &'static str) -> Self {
        Self::Invalid { field, problem: "is required".to_owned() }
    }

    /// A field of the request is told as all are.
    pub(super) fn files(id: &SandboxId, source: sandbox::FilesError) -> Self {
        match source {
            sandbox::FilesError::Invalid { field, problem } => Self::Invalid { field, problem },
            io @ sandbox::FilesError::Io { .. } => Self::Files { id: id.to_string(), source: io },
        }
    }

    pub(super) fn system(operation: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::System { operation, path: path.display().to_string(), source }
    }

    /// The error with all its causes in one line, as logs and gRPC messages have it.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // A transparent wrapper repeats its source.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
