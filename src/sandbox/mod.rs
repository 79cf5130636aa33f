//! The pod sandbox: a pod's namespaces and cgroup, held by a pause container.
//!
//! [`State`] defines which events a sandbox allows. Its durable form is a SandboxStore record in containerd
//! ([`Record`]). The verbs in `runtime` act on it. This module does not use containers.

mod files;
mod handle;
pub mod pause;
mod record;
mod resources;
mod state;

pub(crate) use files::hostname;
pub use files::{FilesError, SandboxPaths};
pub use handle::Sandbox;
pub use record::{Record, RecordError, Selinux};
pub use resources::Resources;
pub use state::{Denied, Event, State};
