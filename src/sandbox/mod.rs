//! The sandbox: a pod's namespaces and cgroup, held by a pause container.
//!
//! The object decides what may happen to it ([`state`]); its durable form is a SandboxStore
//! record ([`record`]). The verbs in `runtime` act on it. It never knows of containers.

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
