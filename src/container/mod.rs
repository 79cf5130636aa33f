//! The container: a process with its own root file system, in the namespaces of a pod sandbox.
//!
//! [`State`] defines which events a container allows. Its durable form is a container record in containerd
//! ([`Record`]). This module does not use the sandbox object, only its id.

pub mod devices;
mod handle;
mod holders;
mod host_paths;
pub mod io;
pub mod mounts;
mod record;
pub mod relabel;
pub mod seccomp_profile;
pub mod signal;
mod spec;
pub mod started;
mod state;
mod stop;

pub use handle::{Container, Root};
pub use holders::{Holder, holders};
pub use host_paths::Error as HostError;
pub use record::{Record, RecordError, Resolved, exit_extension, spec_any};
pub use spec::{LARGEST_WHOLE, SpecInMemory};
pub use state::{Denied, Event, Exit, Reason, State};
pub use stop::{Grace, Stop};
