//! The container: a process with a root of its own in a sandbox's namespaces.
//!
//! The object decides what may happen to it ([`state`]); its durable form is a containerd
//! container record ([`record`]). It never knows of the sandbox object, only of its id.

pub mod devices;
mod handle;
mod holders;
mod host_paths;
pub mod io;
pub mod mounts;
pub mod profile;
mod record;
pub mod relabel;
pub mod signal;
mod spec;
pub mod started;
mod state;
mod stop;

pub use handle::{Container, Root};
pub use holders::{Holder, holders};
pub use host_paths::Error as HostError;
pub use record::{About, Record, RecordError, exit_extension, spec_any};
pub use spec::{KeptSpec, LARGEST_WHOLE};
pub use state::{Denied, Event, Exit, Reason, State};
pub use stop::{Grace, Stop};
