//! Everything that an image operation can fail with.

use super::platform;
use crate::containerd::{self, Platform};

/// A failed image operation: what was tried, on what, and why.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request was refused.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as CRI spells it.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// The image is not on this node.
    #[error("image {0:?} is not here")]
    NotFound(String),
    /// The registry does not have the image.
    #[error("pull {reference}: not found: {message}")]
    NotInRegistry {
        /// The normalised reference.
        reference: String,
        /// containerd's words.
        message: String,
    },
    /// The registry refuses these credentials, or asks for some.
    #[error("pull {reference}: {host} denies access: {message}")]
    Denied {
        /// The normalised reference.
        reference: String,
        /// The registry.
        host: String,
        /// containerd's words.
        message: String,
    },
    /// The registry cannot be reached. kubelet looks for the prefix.
    #[error("RegistryUnavailable: pull {reference}: {message}")]
    RegistryUnavailable {
        /// The normalised reference.
        reference: String,
        /// containerd's words.
        message: String,
    },
    /// An image verifier said no. kubelet looks for the prefix.
    #[error("SignatureValidationFailed: pull {reference}: {message}")]
    SignatureValidationFailed {
        /// The normalised reference.
        reference: String,
        /// containerd's words.
        message: String,
    },
    /// A download that came in too slowly.
    #[error("pull {reference}: less than {bytes_per_second} bytes a second over {seconds} s; waiting for {waiting}")]
    TooSlow {
        /// The normalised reference.
        reference: String,
        /// The least rate.
        bytes_per_second: u64,
        /// Over how long.
        seconds: u64,
        /// The blobs that had not come.
        waiting: String,
    },
    /// Nobody waited for the pull any more.
    #[error("pull {0}: cancelled, nobody waited for it")]
    Abandoned(String),
    /// A limit, of containerd's or of ours.
    #[error("pull {reference}: {message}")]
    Exhausted {
        /// The normalised reference.
        reference: String,
        /// containerd's words.
        message: String,
    },
    /// A pull that failed in some other way.
    #[error("pull {reference}: {message}")]
    Pull {
        /// The normalised reference.
        reference: String,
        /// containerd's words.
        message: String,
    },
    /// A pull of what containerd refuses: an image of an old form, or one that it cannot unpack.
    #[error("pull {reference}: {message}")]
    InvalidPull {
        /// The normalised reference.
        reference: String,
        /// containerd's words.
        message: String,
    },
    /// containerd is away.
    #[error("containerd is away: {0}")]
    Away(String),
    /// An image that is here, or was just pulled, and of which no container can be made.
    #[error("image {image:?} cannot be used: {why}")]
    Unusable {
        /// As it was asked for.
        image: String,
        /// Why.
        why: Box<Unusable>,
    },
    /// A layer that has to be unpacked and is not here.
    #[error("unpack layer {layer} for {snapshotter}: it is not here any more: pull the image again")]
    LayerGone {
        /// The layer's digest.
        layer: String,
        /// The snapshotter.
        snapshotter: String,
    },
    /// A document or an image that is not what it should be.
    #[error("image {digest} is malformed: {reason}")]
    Malformed {
        /// The document.
        digest: String,
        /// Why.
        reason: String,
    },
    /// A call to containerd.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// A layer's content is not what the config says.
    #[error("unpack layer {layer}: its content is {found}, the config says {expected}")]
    WrongLayer {
        /// The layer's digest.
        layer: String,
        /// Digest of what was unpacked.
        found: String,
        /// The diff id.
        expected: String,
    },
    /// The directory of an image that is asked for.
    #[error("in image {image} it {problem}")]
    SubPath {
        /// The image's id.
        image: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Looking into an image's root.
    #[error("{operation} {path} of image {image}: {message}")]
    Root {
        /// What was tried.
        operation: &'static str,
        /// On which path in the image.
        path: String,
        /// The image's id.
        image: String,
        /// The kernel's words.
        message: String,
    },
}

/// Why no container can be made of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is none: its manifest names data of another kind.
    #[error("it is an artefact (its config is of type {config:?}) and has no root file system")]
    Artefact {
        /// Media type of its config.
        config: String,
    },
    /// It is for other hosts.
    #[error("there is nothing for {} in it: it has {}", platform::text(host), names(there))]
    Platform {
        /// What it is for.
        there: Vec<Platform>,
        /// This host.
        host: Platform,
    },
    /// Somebody took its content away; a pull brings it back.
    #[error("its content {digest} is not here any more: pull it again")]
    Gone {
        /// What is missing first.
        digest: String,
        /// What it is for, if it is a manifest that an index says this of: a pull takes the host's own platform first, and
        /// so has not fetched another one that the host runs.
        of: Option<Platform>,
    },
    /// A document of it is not what it should be.
    #[error("{digest} is malformed: {reason}")]
    Malformed {
        /// The document.
        digest: String,
        /// Why.
        reason: String,
    },
}

fn names(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(platform::text).collect();
    if names.is_empty() { "no platform at all".to_owned() } else { names.join(", ") }
}

/// What the gRPC edge makes a code of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A field of the request.
    InvalidArgument,
    /// No such image.
    NotFound,
    /// Try again later.
    Unavailable,
    /// Other credentials, or another image.
    PermissionDenied,
    /// A limit.
    ResourceExhausted,
    /// Took too long.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// Everything else.
    Internal,
}

impl Kind {
    /// As it is counted.
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
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } | Self::SubPath { .. } => Kind::InvalidArgument,
            Self::NotFound(_) | Self::NotInRegistry { .. } => Kind::NotFound,
            Self::Denied { .. } | Self::SignatureValidationFailed { .. } => Kind::PermissionDenied,
            Self::RegistryUnavailable { .. } | Self::Away(_) => Kind::Unavailable,
            Self::TooSlow { .. } => Kind::DeadlineExceeded,
            Self::Abandoned(_) => Kind::Cancelled,
            Self::Exhausted { .. } => Kind::ResourceExhausted,
            Self::Unusable { why, .. } => match **why {
                Unusable::Artefact { .. } => Kind::InvalidArgument,
                Unusable::Platform { .. } | Unusable::Gone { .. } => Kind::NotFound,
                Unusable::Malformed { .. } => Kind::Internal,
            },
            Self::LayerGone { .. } => Kind::NotFound,
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

    pub(super) fn malformed(digest: &str, reason: impl Into<String>) -> Self {
        Self::Malformed { digest: digest.to_owned(), reason: reason.into() }
    }
}
