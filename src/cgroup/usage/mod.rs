//! The resource usage of a cgroup: plain numbers, in the same form for v1 and v2. A value that the kernel or the cgroup
//! version does not count is `None`, never 0.
//!
//! [`Group::usage`] gives the numbers of the stats calls and holds its files open; [`Group::details`] gives those that
//! only the metrics have.

pub(super) mod keyed;
mod v1;
mod v2;

use jiff::Timestamp;

use super::{Buffer, Group};

/// The usage of a cgroup at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds since the epoch.
    pub at: i64,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub swap: Option<Swap>,
    /// The time that its tasks waited for I/O; v2 only.
    pub io_pressure: Option<Pressure>,
    /// The number of tasks, which are threads, in the cgroup and its descendants.
    pub tasks: Option<u64>,
}

/// CPU time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Total of all cores.
    pub nanoseconds: u64,
    /// The time that its tasks waited for a core; v2 only.
    pub pressure: Option<Pressure>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// All memory that is charged to the cgroup.
    pub usage: u64,
    /// Page cache that can be reclaimed at once.
    pub inactive_file: u64,
    /// The cgroup's own limit; `None` if it has none.
    pub limit: Option<u64>,
    /// Anonymous memory: `total_rss` on v1, `anon` on v2, as in cAdvisor.
    pub rss: u64,
    /// Minor and major faults together.
    pub page_faults: u64,
    /// Faults that needed a read from disk.
    pub major_page_faults: u64,
    /// The time that its tasks waited for memory; v2 only.
    pub pressure: Option<Pressure>,
}

/// Swap, in bytes. v1 counts memory and swap together; here the memory is subtracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// Swap in use.
    pub usage: u64,
    /// `None` if there is no limit.
    pub limit: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Times when at least one task waited.
    pub some: Option<Stall>,
    /// Times when all tasks waited.
    pub full: Option<Stall>,
}

/// One line of pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// The total time.
    pub nanoseconds: u64,
    /// Percentage over the last 10 s.
    pub avg10: f64,
    /// Percentage over the last 60 s.
    pub avg60: f64,
    /// Percentage over the last 300 s.
    pub avg300: f64,
}

/// The numbers that only the metrics have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub cpu: CpuDetails,
    pub memory: MemoryDetails,
    /// I/O by device.
    pub devices: Vec<Device>,
    /// The maximum number of tasks; `None` if there is no limit.
    pub tasks_limit: Option<u64>,
    /// Huge pages by size.
    pub huge_pages: Vec<HugePages>,
}

/// CPU time by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuDetails {
    /// Nanoseconds in user mode.
    pub user: Option<u64>,
    /// Nanoseconds in kernel mode.
    pub system: Option<u64>,
    pub throttling: Option<Throttling>,
}

/// The effect of a CPU quota (Documentation/scheduler/sched-bwc.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which the cgroup ran.
    pub periods: u64,
    /// Periods in which it was throttled.
    pub throttled_periods: u64,
    /// Total time for which it was throttled.
    pub nanoseconds: u64,
}

/// Memory by kind, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryDetails {
    /// Page cache.
    pub cache: Option<u64>,
    /// Kernel memory that is charged to the cgroup.
    pub kernel: Option<u64>,
    /// Page cache that is mapped.
    pub mapped_file: Option<u64>,
    /// The highest usage so far.
    pub max_usage: Option<u64>,
    /// How often the limit was reached.
    pub limit_hits: Option<u64>,
    /// Page cache on the active list.
    pub active_file: Option<u64>,
    /// Page cache on the inactive list.
    pub inactive_file: Option<u64>,
    /// Anonymous memory on the active list.
    pub active_anon: Option<u64>,
    /// Anonymous memory on the inactive list.
    pub inactive_anon: Option<u64>,
    /// Anonymous memory in huge pages.
    pub anon_thp: Option<u64>,
    /// Shared memory in huge pages; v2 only.
    pub shmem_thp: Option<u64>,
    /// Page cache in huge pages; v2 only.
    pub file_thp: Option<u64>,
    /// Processes that the OOM killer has killed.
    pub oom_kills: Option<u64>,
}

/// I/O of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// Number of read operations.
    pub reads: u64,
    /// Number of write operations.
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The page size as the kernel writes it: `2MB`.
    pub size: String,
    pub usage: u64,
    /// The highest usage so far; v1 only.
    pub max_usage: Option<u64>,
}

impl Group {
    /// The current usage. All fields are `None` when the cgroup does not exist.
    pub fn usage(&mut self, buffer: &mut Buffer) -> Usage {
        if self.is_unified() { v2::usage(self, buffer) } else { v1::usage(self, buffer) }
    }

    /// The CPU time, and when it was read in nanoseconds since the epoch (first).
    pub fn cpu_nanoseconds(&mut self, buffer: &mut Buffer) -> Option<(i64, u64)> {
        let used =
            if self.is_unified() { v2::cpu_nanoseconds(self, buffer) } else { v1::cpu_nanoseconds(self, buffer) };
        used.map(|used| (now(), used))
    }

    /// The numbers that only the metrics have.
    pub fn details(&mut self, buffer: &mut Buffer) -> Details {
        if self.is_unified() { v2::details(self, buffer) } else { v1::details(self, buffer) }
    }
}

impl Memory {
    /// The memory that cannot be reclaimed at once; kubelet uses it for eviction.
    #[must_use]
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file)
    }
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
