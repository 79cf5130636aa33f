//! Metrics of a container.

use super::descriptors as is;
use super::sink::Sink;
use super::{DeviceNames, Filesystem, Labels, Limits};
use crate::api::v1::Metric;
use crate::cgroup::{Details, Pressure, Usage};
use crate::stats::{Descriptors, Layer};

/// cAdvisor's label value for the limit of open files.
const OPEN_FILES: &str = "max_open_files";
/// The `device` label of metrics about the root file system.
const ROOT: &str = "/";

/// All known values of a running container.
#[derive(Debug, Default)]
pub struct Container {
    pub labels: Labels,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    pub usage: Usage,
    /// A breakdown of the usage.
    pub details: Details,
    /// The number of its processes; `None` when it is unknown.
    pub processes: Option<u64>,
    /// The open files of its processes; `None` when they are unknown.
    pub descriptors: Option<Descriptors>,
    /// The limit of open files of its first process.
    pub open_files_limit: Option<u64>,
    pub limits: Limits,
    pub layer: Option<Layer>,
    /// The file system that the writable layer is on.
    pub filesystem: Option<Filesystem>,
}

#[must_use]
pub fn container(container: &Container, devices: &mut DeviceNames) -> Vec<Metric> {
    let mut sink = Sink::new(&container.labels);
    let seconds = |at: i64| u64::try_from(at / 1_000_000_000).unwrap_or(0);
    sink.add(&is::LAST_SEEN, seconds(container.usage.at));
    sink.add(&is::START_TIME, seconds(container.started_at));
    cpu(&mut sink, container);
    memory(&mut sink, container);
    pressures(&mut sink, &container.usage);
    io(&mut sink, &container.details, devices);
    filesystem(&mut sink, container);
    processes(&mut sink, container);
    limits(&mut sink, &container.limits);
    sink.metrics
}

fn cpu(sink: &mut Sink, container: &Container) {
    let parts = container.details.cpu;
    sink.seconds(&is::CPU_USAGE, container.usage.cpu.as_ref().map(|cpu| cpu.nanoseconds));
    sink.seconds(&is::CPU_USER, parts.user);
    sink.seconds(&is::CPU_SYSTEM, parts.system);
    sink.add(&is::CFS_PERIODS, parts.throttling.map(|throttling| throttling.periods));
    sink.add(&is::CFS_THROTTLED_PERIODS, parts.throttling.map(|throttling| throttling.throttled_periods));
    sink.seconds(&is::CFS_THROTTLED, parts.throttling.map(|throttling| throttling.nanoseconds));
}

fn memory(sink: &mut Sink, container: &Container) {
    if let Some(memory) = &container.usage.memory {
        sink.add(&is::MEMORY_USAGE, memory.usage);
        sink.add(&is::MEMORY_WORKING_SET, memory.working_set());
        sink.add(&is::MEMORY_RSS, memory.rss);
        // The counters include the child cgroups, which is the whole container. So both scopes have the same value.
        for scope in ["container", "hierarchy"] {
            sink.labelled(&is::MEMORY_FAILURES, &["pgfault", scope], memory.page_faults);
            sink.labelled(&is::MEMORY_FAILURES, &["pgmajfault", scope], memory.major_page_faults);
        }
    }
    sink.add(&is::MEMORY_SWAP, container.usage.swap.map(|swap| swap.usage));
    let parts = &container.details.memory;
    sink.add(&is::MEMORY_CACHE, parts.cache);
    sink.add(&is::MEMORY_KERNEL, parts.kernel);
    sink.add(&is::MEMORY_MAPPED_FILE, parts.mapped_file);
    sink.add(&is::MEMORY_FAILCNT, parts.limit_hits);
    sink.add(&is::MEMORY_MAX_USAGE, parts.max_usage);
    sink.add(&is::MEMORY_ACTIVE_FILE, parts.active_file);
    sink.add(&is::MEMORY_INACTIVE_FILE, parts.inactive_file);
    sink.add(&is::MEMORY_ACTIVE_ANON, parts.active_anon);
    sink.add(&is::MEMORY_INACTIVE_ANON, parts.inactive_anon);
    sink.add(&is::MEMORY_ANON_THP, parts.anon_thp);
    sink.add(&is::MEMORY_SHMEM_THP, parts.shmem_thp);
    sink.add(&is::MEMORY_FILE_THP, parts.file_thp);
    sink.add(&is::OOM_EVENTS, parts.oom_kills);
    for pages in &container.details.huge_pages {
        sink.labelled(&is::HUGETLB_USAGE, &[&pages.size], pages.usage);
        sink.labelled(&is::HUGETLB_MAX_USAGE, &[&pages.size], pages.max_usage);
    }
}

fn pressures(sink: &mut Sink, usage: &Usage) {
    let waiting =
        |pressure: Option<Pressure>| pressure.and_then(|pressure| pressure.some).map(|stall| stall.nanoseconds);
    let stalled =
        |pressure: Option<Pressure>| pressure.and_then(|pressure| pressure.full).map(|stall| stall.nanoseconds);
    let cpu = usage.cpu.as_ref().and_then(|cpu| cpu.pressure);
    let memory = usage.memory.as_ref().and_then(|memory| memory.pressure);
    sink.seconds(&is::PRESSURE_CPU_WAITING, waiting(cpu));
    sink.seconds(&is::PRESSURE_CPU_STALLED, stalled(cpu));
    sink.seconds(&is::PRESSURE_MEMORY_WAITING, waiting(memory));
    sink.seconds(&is::PRESSURE_MEMORY_STALLED, stalled(memory));
    sink.seconds(&is::PRESSURE_IO_WAITING, waiting(usage.io_pressure));
    sink.seconds(&is::PRESSURE_IO_STALLED, stalled(usage.io_pressure));
}

fn io(sink: &mut Sink, details: &Details, devices: &mut DeviceNames) {
    for device in &details.devices {
        let name = devices.of(device.major, device.minor);
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        sink.labelled(&is::FS_READ_BYTES, &[name], device.read_bytes);
        sink.labelled(&is::FS_READS, &[name], device.reads);
        sink.labelled(&is::FS_WRITTEN_BYTES, &[name], device.written_bytes);
        sink.labelled(&is::FS_WRITES, &[name], device.writes);
        sink.labelled(&is::BLKIO_USAGE, &[name, &major, &minor, "Read"], device.read_bytes);
        sink.labelled(&is::BLKIO_USAGE, &[name, &major, &minor, "Write"], device.written_bytes);
    }
}

fn filesystem(sink: &mut Sink, container: &Container) {
    if let Some(layer) = &container.layer {
        sink.of_time(&is::FS_USAGE, &[ROOT], layer.at, layer.bytes);
    }
    if let Some(filesystem) = container.filesystem {
        sink.labelled(&is::FS_LIMIT, &[ROOT], filesystem.bytes);
        sink.labelled(&is::FS_INODES, &[ROOT], filesystem.inodes);
        sink.labelled(&is::FS_INODES_FREE, &[ROOT], filesystem.inodes_free);
    }
}

fn processes(sink: &mut Sink, container: &Container) {
    sink.add(&is::PROCESSES, container.processes);
    sink.add(&is::FILE_DESCRIPTORS, container.descriptors.map(|descriptors| descriptors.files));
    sink.add(&is::SOCKETS, container.descriptors.and_then(|descriptors| descriptors.sockets));
    sink.add(&is::THREADS, container.usage.tasks);
    // In this metric 0 means no limit.
    sink.add(&is::THREADS_MAX, container.usage.tasks.map(|_| container.details.tasks_limit.unwrap_or(0)));
    sink.labelled(&is::ULIMITS_SOFT, &[OPEN_FILES], container.open_files_limit);
}

fn limits(sink: &mut Sink, limits: &Limits) {
    sink.add(&is::SPEC_CPU_PERIOD, limits.cpu_period);
    sink.add(&is::SPEC_CPU_QUOTA, limits.cpu_quota);
    sink.add(&is::SPEC_CPU_SHARES, limits.cpu_shares);
    sink.add(&is::SPEC_MEMORY_LIMIT, limits.memory);
    sink.add(&is::SPEC_MEMORY_RESERVATION, limits.memory_reservation);
    sink.add(&is::SPEC_MEMORY_SWAP, limits.memory_and_swap);
}
