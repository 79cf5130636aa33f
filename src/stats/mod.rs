//! What pods and containers use: numbers of the kernel, in CRI's words.
//!
//! Cgroups and networks are read from files that are kept open (`crate::cgroup`, `crate::netns`), writable
//! layers from containerd's snapshotters, in the background. Nothing is done while nobody asks: a call makes the sampler run,
//! which ends a minute after the last one, and takes descriptors with it. This room knows ids and paths, no objects:
//! `crate::runtime` asks it, and `crate::images` for the sizes of layers.
//!
//! ```text
//! call ──► usage of each cgroup, at once ──► answer
//!   │              └──► rate: against a reading at least a second older
//!   ├──► sampler (1 s, then every 10 s): readings in between; ends after 60 s without a call
//!   └──► layers: measured anew when they are no longer fresh; the answer has what is known
//! ```

mod convert;
mod kept;
mod layers;
pub mod metrics;
mod networks;
mod process;
mod rate;

pub use convert::{cpu_usage, filesystem_usage, io_usage, memory_usage, network_usage, swap_usage};
pub use kept::{Key, Reading, Stats};
pub use layers::{Layer, LayerId, Layers, Wanted};
pub use process::{Descriptors, descriptors, open_files_limit};
