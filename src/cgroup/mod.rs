//! The only module that knows cgroup paths: the forms of both drivers, cgroup v1 and v2, and the contents of cgroup
//! files.
//!
//! It reads cgroup files, removes what an interrupted create has left, and thaws containers that are being killed.
//! kubelet creates the cgroups of pods, and the runtime those of containers. docs/adr/0027 says what cgroups-rs does
//! here, and why its other functions are not used.

mod counted;
#[cfg(test)]
mod fixture;
mod freezer;
mod group;
mod memory;
mod oom_score;
mod optional_limits;
mod path;
mod processes;
mod remove;
mod usage;

pub use counted::Counted;
pub use freezer::{Frozen, thaw};
pub use group::{Buffer, Group, Hierarchies};
pub use memory::{Level, OomKills, OomWatch};
pub use oom_score::set_oom_score;
pub use optional_limits::OptionalLimits;
pub use path::{cgroups_path, file_system_path};
pub use remove::remove;
pub use usage::{
    Cpu, CpuDetails, Details, Device, HugePages, Memory, MemoryDetails, Pressure, Stall, Swap, Throttling, Usage,
};

/// Whether this host uses the unified hierarchy (cgroup v2), as opposed to v1 or a hybrid: what is mounted at [`ROOT`]
/// decides, for runc too.
pub use cgroups_rs::fs::hierarchies::is_cgroup2_unified_mode as is_unified;

/// The mount point of the kernel's cgroup file systems.
pub const ROOT: &str = "/sys/fs/cgroup";
