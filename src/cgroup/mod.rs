//! The only room that knows a cgroup path: both drivers' forms, cgroup v1 and v2, and what their files say.
//!
//! It reads, removes what an interrupted create left, and thaws what is being killed; pods' cgroups are made by kubelet and containers' by the runtime.

#[cfg(test)]
mod fixture;
mod freezer;
mod group;
mod memory;
mod oom_score;
mod path;
mod processes;
mod remove;
mod usage;

pub use freezer::{Frozen, thaw};
pub use group::{Buffer, Group, Hierarchies};
pub use memory::{Level, OomKills, OomWatch};
pub use oom_score::set_oom_score;
pub use path::{cgroups_path, file_system_path};
pub use remove::remove;
pub use usage::{
    Cpu, CpuDetails, Details, Device, HugePages, Memory, MemoryDetails, Pressure, Stall, Swap, Throttling, Usage,
};

use std::path::Path;

/// Where the kernel's cgroup file systems are mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Whether this host has the unified hierarchy (cgroup v2) and not v1 or a hybrid.
#[must_use]
pub fn is_unified() -> bool {
    // Only the unified root has this file (cgroup-v2.rst, "Controllers").
    Path::new(ROOT).join("cgroup.controllers").exists()
}
