//! The only module that speaks containerd's API.
//!
//! Each file wraps one service in plain types of ours: no protobuf message leaves this module. It makes no decisions:
//! verbs decide what an error means. It never sets a deadline on a mutating call: containerd cancels such a call in the
//! middle and leaks a shim.

mod connect;
mod containers;
mod content;
mod diff;
mod error;
mod events;
mod images;
mod introspection;
mod leases;
mod metrics;
mod mount;
mod options;
mod paged_list;
mod sandboxes;
mod shims;
mod snapshots;
mod streaming;
mod tasks;
mod transfer;

use std::path::Path;
use std::sync::Arc;

use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

use crate::telemetry::Metrics;

use connect::{Channel, Renewable, Timing};
pub use containers::Container;
pub use error::{Error, Kind};
pub use events::{Event, Events};
pub use images::{Descriptor, ImageRecord};
pub use introspection::{Plugin, RuntimeFeatures, Server};
pub use metrics::TaskMetrics;
pub use mount::Mount;
pub use options::{OTHER_OPTIONS, Options, OptionsError, RUNC_OPTIONS};
pub use paged_list::{Entry, PagedList};
pub use sandboxes::Sandbox;
pub use snapshots::{SnapshotInfo, SnapshotKind, Usage, id_labels};
pub use tasks::{CreateTask, ExecTask, Exit, Process, ProcessStatus, Stdio};
pub use transfer::{Login, Platform, Progress, Pull, PullError, PullFailure, Step};

/// Largest message in either direction; kubelet has the same limit.
const MESSAGE_LIMIT: usize = 16 << 20;

/// The result of a call of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An opaque value in a containerd record: the name of its type and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Any {
    /// The name of the type in containerd's typeurl registry.
    pub type_url: String,
    pub value: Vec<u8>,
}

/// containerd's API in one namespace. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Short calls.
    unary: Arc<Renewable>,
    /// Calls that block as long as a task or a subscription lives: Wait, Subscribe.
    watch: Channel,
    /// Calls that block until a command ends. They do not use `watch`: a connection with a call on it is never closed.
    commands: Arc<Renewable>,
    /// Calls that move bytes: Transfer, Content, Diff.
    bulk: Channel,
    /// The address of all connections, for errors.
    socket: Arc<Path>,
    namespace: AsciiMetadataValue,
    name: Arc<str>,
    /// The lease that holds whatever a call creates.
    lease: Option<AsciiMetadataValue>,
}

impl Containerd {
    /// Connects lazily to containerd's socket: the first call dials, and so does the first call after a lost
    /// connection.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when the namespace cannot be sent as a header.
    pub fn new(socket: &Path, namespace: &str) -> Result<Self> {
        let value = namespace.parse().map_err(|_| {
            Error::new("connect to containerd", namespace, Kind::InvalidArgument, "the namespace is not ASCII")
        })?;
        Ok(Self {
            unary: Arc::new(Renewable::new(socket, &Metrics::default(), Timing::Measured)),
            watch: connect::lazy(socket),
            commands: Arc::new(Renewable::new(socket, &Metrics::default(), Timing::CountOnly)),
            bulk: connect::lazy(socket),
            socket: socket.into(),
            namespace: value,
            name: namespace.into(),
            lease: None,
        })
    }

    /// Reports each call to `metrics`. Calls that last as long as a task or a command are only counted, not timed.
    #[must_use]
    pub fn measured(self, metrics: &Metrics) -> Self {
        Self {
            unary: Arc::new(self.unary.measured(metrics)),
            watch: connect::measured(self.watch, metrics, Timing::CountOnly),
            commands: Arc::new(self.commands.measured(metrics)),
            bulk: connect::measured(self.bulk, metrics, Timing::Measured),
            ..self
        }
    }

    /// Replaces the connections of short calls and of commands. Calls in progress end on the old connections, which
    /// then close. The other connections stay open, with the calls that wait on them.
    pub fn renew(&self) {
        self.unary.renew();
        self.commands.renew();
    }

    /// The containerd namespace of all calls of this client.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.name
    }

    /// containerd's socket, as it is configured.
    #[must_use]
    pub fn address(&self) -> &Path {
        &self.socket
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }
}

impl From<prost_types::Any> for Any {
    fn from(any: prost_types::Any) -> Self {
        Self { type_url: any.type_url, value: any.value }
    }
}

impl From<Any> for prost_types::Any {
    fn from(any: Any) -> Self {
        Self { type_url: any.type_url, value: any.value }
    }
}

/// A protobuf timestamp in nanoseconds since the epoch; 0 if there is none.
fn nanoseconds(at: Option<prost_types::Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(at.nanos)))
}
