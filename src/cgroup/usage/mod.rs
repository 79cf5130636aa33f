//! What a cgroup uses: plain numbers, the same for v1 and v2. What a kernel or a version does not count is `None`, never 0.
//!
//! [`Group::usage`] is what stats are made of, and reads kept files; [`Group::details`] is what only metrics have.

pub(super) mod keyed;
mod v1;
mod v2;

use jiff::Timestamp;

use super::{Buffer, Group};

/// What a cgroup uses at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Swap.
    pub swap: Option<Swap>,
    /// What its tasks waited for input and output; v2 alone.
    pub io_pressure: Option<Pressure>,
    /// Tasks, which are threads, in it and below.
    pub tasks: Option<u64>,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Of all cores together.
    pub nanoseconds: u64,
    /// What its tasks waited for a core; v2 alone.
    pub pressure: Option<Pressure>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// All that is charged.
    pub usage: u64,
    /// Page cache that can go at once.
    pub inactive_file: u64,
    /// The cgroup's own limit; `None` for none.
    pub limit: Option<u64>,
    /// Anonymous memory: `total_rss` on v1, `anon` on v2, as cAdvisor has it.
    pub rss: u64,
    /// Minor and major faults.
    pub page_faults: u64,
    /// Those that read from a disk.
    pub major_page_faults: u64,
    /// What its tasks waited for memory; v2 alone.
    pub pressure: Option<Pressure>,
}

/// Swap, in bytes, without the memory that v1 counts with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// What is swapped out.
    pub usage: u64,
    /// How much may be; `None` for no limit.
    pub limit: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some task waited.
    pub some: Option<Stall>,
    /// All tasks waited.
    pub full: Option<Stall>,
}

/// One line of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// In all.
    pub nanoseconds: u64,
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
}

/// What only metrics have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Processor time, in parts.
    pub cpu: CpuDetails,
    /// Memory, in parts.
    pub memory: MemoryDetails,
    /// Input and output, by device.
    pub devices: Vec<Device>,
    /// How many tasks there may be; `None` for no limit.
    pub tasks_limit: Option<u64>,
    /// Huge pages, by size.
    pub huge_pages: Vec<HugePages>,
}

/// Processor time, in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuDetails {
    /// Nanoseconds outside the kernel.
    pub user: Option<u64>,
    /// Nanoseconds in the kernel.
    pub system: Option<u64>,
    /// What the quota did.
    pub throttling: Option<Throttling>,
}

/// What a quota did (Documentation/scheduler/sched-bwc.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which it ran.
    pub periods: u64,
    /// Those in which it was stopped.
    pub throttled_periods: u64,
    /// For how long.
    pub nanoseconds: u64,
}

/// Memory, in parts, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryDetails {
    /// Page cache.
    pub cache: Option<u64>,
    /// The kernel's own on its behalf.
    pub kernel: Option<u64>,
    /// Page cache that is mapped.
    pub mapped_file: Option<u64>,
    /// The most it ever was.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: Option<u64>,
    /// Page cache in use.
    pub active_file: Option<u64>,
    /// Page cache not in use.
    pub inactive_file: Option<u64>,
    /// Anonymous memory in use.
    pub active_anon: Option<u64>,
    /// Anonymous memory not in use.
    pub inactive_anon: Option<u64>,
    /// Anonymous memory in huge pages.
    pub anon_thp: Option<u64>,
    /// Shared memory in huge pages; v2 alone.
    pub shmem_thp: Option<u64>,
    /// Page cache in huge pages; v2 alone.
    pub file_thp: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// Input and output of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its major number.
    pub major: u64,
    /// Its minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size as the kernel writes it: `2MB`.
    pub size: String,
    /// What is used.
    pub usage: u64,
    /// The most it ever was; v1 alone.
    pub max_usage: Option<u64>,
}

impl Group {
    /// What it uses now. All is `None` when the cgroup is not there.
    pub fn usage(&mut self, buffer: &mut Buffer) -> Usage {
        if self.is_unified() { v2::usage(self, buffer) } else { v1::usage(self, buffer) }
    }

    /// Its processor time, and when that was read, in nanoseconds since the epoch.
    pub fn cpu_nanoseconds(&mut self, buffer: &mut Buffer) -> Option<(i64, u64)> {
        let used =
            if self.is_unified() { v2::cpu_nanoseconds(self, buffer) } else { v1::cpu_nanoseconds(self, buffer) };
        used.map(|used| (now(), used))
    }

    /// What only metrics have.
    pub fn details(&mut self, buffer: &mut Buffer) -> Details {
        if self.is_unified() { v2::details(self, buffer) } else { v1::details(self, buffer) }
    }
}

impl Memory {
    /// What cannot be taken back at once; kubelet evicts by it.
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
