//! Resource usage of pods and containers: the kernel's counters, converted to CRI messages.
//!
//! Cgroups and networks are read from files that are held open (`crate::cgroup`, `crate::netns`). Writable layers are
//! measured by containerd's snapshotters, in the background. Nothing runs without requests: a call starts the sampler,
//! which ends a minute after the last call and then closes the files. This module knows ids and paths, but no objects.
//! Its callers are `crate::runtime`, and `crate::images` for the sizes of layers.
//!
//! ```text
//! call ──► usage of each cgroup, read at once ──► reply
//!   │              └──► rate: against a reading at least a second older
//!   ├──► sampler (after 1 s, then every 10 s): readings in between; ends after 60 s without a call
//!   └──► layers: measured again when out of date; the reply has the last known sizes
//! ```

mod cgroups;
mod convert;
mod layers;
pub mod metrics;
mod networks;
mod process;
mod rate;

pub use cgroups::{Key, Reading, Stats};
pub use convert::{cpu_usage, filesystem_usage, io_usage, memory_usage, network_usage, swap_usage};
pub use layers::{Layer, LayerId, Layers, Wanted};
pub use process::{Descriptors, descriptors, open_files_limit};
