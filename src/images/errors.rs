//! The errors of image operations.

use super::platform;
use crate::containerd::{self, Platform};

/// A failed image operation: what was tried, on what, and why.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is invalid.
    #[error("{field}: {reason}")]
    Invalid {
        /// The name of the field in CRI.
        field: &'static str,
        reason: String,
    },
    /// The image is not on this node.
    #[error("image {0:?} is not on this node")]
    NotFound(String),
    /// The registry does not have the image.
    #[error("pull {reference}: not found: {message}")]
    NotInRegistry {
        /// The normalised reference.
        reference: String,
        /// containerd's message.
        message: String,
    },
    /// The registry refuses these credentials, or requires some.
    #[error("pull {reference}: {host} denies access: {message}")]
    Denied {
        /// The normalised reference.
        reference: String,
        /// The registry's host.
        host: String,
        /// containerd's message.
        message: String,
    },
    /// The registry cannot be reached. kubelet looks for the prefix of the message.
    #[error("RegistryUnavailable: pull {reference}: {message}")]
    RegistryUnavailable {
        /// The normalised reference.
        reference: String,
        /// containerd's message.
        message: String,
    },
    /// An image verifier refused the image. kubelet looks for the prefix of the message.
    #[error("SignatureValidationFailed: pull {reference}: {message}")]
    SignatureValidationFailed {
        /// The normalised reference.
        reference: String,
        /// containerd's message.
        message: String,
    },
    /// The download was too slow.
    #[error("pull {reference}: less than {bytes_per_second} bytes a second over {seconds} s; waiting for {waiting}")]
    TooSlow {
        /// The normalised reference.
        reference: String,
        /// The minimum rate.
        bytes_per_second: u64,
        /// The length of the window over which the rate is measured.
        seconds: u64,
        /// The blobs that were still missing.
        waiting: String,
    },
    /// The pull was cancelled because no caller waited for it any more.
    #[error("pull {0}: cancelled, because no client waited for it any more")]
    Abandoned(String),
    /// A limit of containerd was reached, or its disk is full.
    #[error("pull {reference}: {message}")]
    Exhausted {
        /// The normalised reference.
        reference: String,
        /// containerd's message.
        message: String,
    },
    /// A pull that failed in some other way.
    #[error("pull {reference}: {message}")]
    Pull {
        /// The normalised reference.
        reference: String,
        /// containerd's message.
        message: String,
    },
    /// containerd refused the pull: the image has an old format, or containerd cannot unpack it.
    #[error("pull {reference}: {message}")]
    InvalidPull {
        /// The normalised reference.
        reference: String,
        /// containerd's message.
        message: String,
    },
    /// containerd does not respond, or says that it cannot serve the call now. The text says what was tried.
    #[error("{0}")]
    ContainerdUnavailable(String),
    /// The image is on this node, or was just pulled, but no container can be created from it.
    #[error("image {image:?} cannot be used: {why}")]
    Unusable {
        /// The image as the caller named it.
        image: String,
        why: Box<Unusable>,
    },
    /// A layer has to be unpacked, but its archive is not on this node.
    #[error("unpack layer {layer} for {snapshotter}: it is not on this node any more: pull the image again")]
    LayerMissing {
        /// Digest of the layer's archive.
        layer: String,
        snapshotter: String,
    },
    /// A document or an image is malformed.
    #[error("image {digest} is malformed: {reason}")]
    Malformed {
        /// Digest of the document or image.
        digest: String,
        reason: String,
    },
    /// A call to containerd failed.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// A layer's content is not what the config says.
    #[error("unpack layer {layer}: its content is {found}, the config says {expected}")]
    WrongLayer {
        /// The layer's digest.
        layer: String,
        /// Digest of the unpacked content.
        found: String,
        /// The diff id in the config.
        expected: String,
    },
    /// The requested directory in an image cannot be used.
    #[error("{problem}, in image {image}")]
    SubPath {
        /// The image's id.
        image: String,
        /// What is wrong with the directory.
        problem: String,
    },
    /// An operation on the image's root file system failed.
    #[error("{operation} {path} of image {image}: {message}")]
    Root {
        /// What was tried.
        operation: &'static str,
        /// The path in the image.
        path: String,
        /// The image's id.
        image: String,
        /// The kernel's error message.
        message: String,
    },
}

/// Why no container can be created from an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not a container image: its manifest names data of another kind.
    #[error("it is an artefact (its config is of type {config:?}) and has no root file system")]
    Artefact {
        /// Media type of its config.
        config: String,
    },
    /// It has no manifest for this host's platform.
    #[error("it has no manifest for {}; it has {}", platform::text(host), names(available))]
    Platform {
        /// The platforms that it has.
        available: Vec<Platform>,
        /// The platform of this host.
        host: Platform,
    },
    /// Its content was deleted; a pull fetches it again.
    #[error("its content {digest} is not on this node any more: pull it again")]
    Missing {
        /// Digest of the first document that is missing.
        digest: String,
        /// The platform of the missing manifest, if an index names it: a pull tries the host's own platform first, so
        /// the manifest of another platform that the host runs has not been fetched.
        platform: Option<Platform>,
    },
    /// One of its documents is malformed.
    #[error("{digest} is malformed: {reason}")]
    Malformed {
        /// Digest of the document.
        digest: String,
        reason: String,
    },
}

fn names(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(platform::text).collect();
    if names.is_empty() { "no platform at all".to_owned() } else { names.join(", ") }
}

/// The kind of a failure, which the gRPC edge maps to a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A field of the request is invalid.
    InvalidArgument,
    /// No such image.
    NotFound,
    /// The caller should try again later.
    Unavailable,
    /// The caller needs other credentials, or another image.
    PermissionDenied,
    /// A limit was reached.
    ResourceExhausted,
    /// The operation took too long.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// Everything else.
    Internal,
}

impl Kind {
    /// The kind as a label value in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl Error {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::SubPath { .. } => Kind::InvalidArgument,
            Self::NotFound(_) | Self::NotInRegistry { .. } => Kind::NotFound,
            Self::Denied { .. } | Self::SignatureValidationFailed { .. } => Kind::PermissionDenied,
            Self::RegistryUnavailable { .. } | Self::ContainerdUnavailable(_) => Kind::Unavailable,
            Self::TooSlow { .. } => Kind::DeadlineExceeded,
            Self::Abandoned(_) => Kind::Cancelled,
            Self::Exhausted { .. } => Kind::ResourceExhausted,
            Self::Unusable { why, .. } => match **why {
                Unusable::Artefact { .. } => Kind::InvalidArgument,
                Unusable::Platform { .. } | Unusable::Missing { .. } => Kind::NotFound,
                Unusable::Malformed { .. } => Kind::Internal,
            },
            Self::LayerMissing { .. } => Kind::NotFound,
            Self::Pull { .. }
            | Self::InvalidPull { .. }
            | Self::Malformed { .. }
            | Self::WrongLayer { .. }
            | Self::Root { .. } => Kind::Internal,
            Self::Containerd(error) => match error.kind() {
                containerd::Kind::Unavailable => Kind::Unavailable,
                containerd::Kind::Exhausted => Kind::ResourceExhausted,
                containerd::Kind::Cancelled => Kind::Cancelled,
                containerd::Kind::NotFound
                | containerd::Kind::AlreadyExists
                | containerd::Kind::InvalidArgument
                | containerd::Kind::FailedPrecondition
                | containerd::Kind::Unimplemented
                | containerd::Kind::Denied
                | containerd::Kind::Other => Kind::Internal,
            },
        }
    }

    pub(super) fn image(reason: impl Into<String>) -> Self {
        Self::Invalid { field: "image.image", reason: reason.into() }
    }
}
