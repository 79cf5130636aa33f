//! Metrics of a container.

use super::descriptors as metric;
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
    sink.add(&metric::LAST_SEEN, seconds(container.usage.at));
    sink.add(&metric::START_TIME, seconds(container.started_at));
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
    sink.add_as_seconds(&metric::CPU_USAGE, container.usage.cpu.as_ref().map(|cpu| cpu.nanoseconds));
    sink.add_as_seconds(&metric::CPU_USER, parts.user);
    sink.add_as_seconds(&metric::CPU_SYSTEM, parts.system);
    sink.add(&metric::CFS_PERIODS, parts.throttling.map(|throttling| throttling.periods));
    sink.add(&metric::CFS_THROTTLED_PERIODS, parts.throttling.map(|throttling| throttling.throttled_periods));
    sink.add_as_seconds(&metric::CFS_THROTTLED, parts.throttling.map(|throttling| throttling.nanoseconds));
}

fn memory(sink: &mut Sink, container: &Container) {
    if let Some(memory) = &container.usage.memory {
        sink.add(&metric::MEMORY_USAGE, memory.usage);
        sink.add(&metric::MEMORY_WORKING_SET, memory.working_set());
        sink.add(&metric::MEMORY_RSS, memory.rss);
        // The counters include the child cgroups, which is the whole container. So both scopes have the same value.
        for scope in ["container", "hierarchy"] {
            sink.labelled(&metric::MEMORY_FAILURES, &["pgfault", scope], memory.page_faults);
            sink.labelled(&metric::MEMORY_FAILURES, &["pgmajfault", scope], memory.major_page_faults);
        }
    }
    sink.add(&metric::MEMORY_SWAP, container.usage.swap.map(|swap| swap.usage));
    let parts = &container.details.memory;
    sink.add(&metric::MEMORY_CACHE, parts.cache);
    sink.add(&metric::MEMORY_KERNEL, parts.kernel);
    sink.add(&metric::MEMORY_MAPPED_FILE, parts.mapped_file);
    sink.add(&metric::MEMORY_FAILCNT, parts.limit_hits);
    sink.add(&metric::MEMORY_MAX_USAGE, parts.max_usage);
    sink.add(&metric::MEMORY_ACTIVE_FILE, parts.active_file);
    sink.add(&metric::MEMORY_INACTIVE_FILE, parts.inactive_file);
    sink.add(&metric::MEMORY_ACTIVE_ANON, parts.active_anon);
    sink.add(&metric::MEMORY_INACTIVE_ANON, parts.inactive_anon);
    sink.add(&metric::MEMORY_ANON_THP, parts.anon_thp);
    sink.add(&metric::MEMORY_SHMEM_THP, parts.shmem_thp);
    sink.add(&metric::MEMORY_FILE_THP, parts.file_thp);
    sink.add(&metric::OOM_EVENTS, parts.oom_kills);
    for pages in &container.details.huge_pages {
        sink.labelled(&metric::HUGETLB_USAGE, &[&pages.size], pages.usage);
        sink.labelled(&metric::HUGETLB_MAX_USAGE, &[&pages.size], pages.max_usage);
    }
}

fn pressures(sink: &mut Sink, usage: &Usage) {
    let waiting =
        |pressure: Option<Pressure>| pressure.and_then(|pressure| pressure.some).map(|stall| stall.nanoseconds);
    let stalled =
        |pressure: Option<Pressure>| pressure.and_then(|pressure| pressure.full).map(|stall| stall.nanoseconds);
    let cpu = usage.cpu.as_ref().and_then(|cpu| cpu.pressure);
    let memory = usage.memory.as_ref().and_then(|memory| memory.pressure);
    sink.add_as_seconds(&metric::PRESSURE_CPU_WAITING, waiting(cpu));
    sink.add_as_seconds(&metric::PRESSURE_CPU_STALLED, stalled(cpu));
    sink.add_as_seconds(&metric::PRESSURE_MEMORY_WAITING, waiting(memory));
    sink.add_as_seconds(&metric::PRESSURE_MEMORY_STALLED, stalled(memory));
    sink.add_as_seconds(&metric::PRESSURE_IO_WAITING, waiting(usage.io_pressure));
    sink.add_as_seconds(&metric::PRESSURE_IO_STALLED, stalled(usage.io_pressure));
}

fn io(sink: &mut Sink, details: &Details, devices: &mut DeviceNames) {
    for device in &details.devices {
        let name = devices.of(device.major, device.minor);
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        sink.labelled(&metric::FS_READ_BYTES, &[name], device.read_bytes);
        sink.labelled(&metric::FS_READS, &[name], device.reads);
        sink.labelled(&metric::FS_WRITTEN_BYTES, &[name], device.written_bytes);
        sink.labelled(&metric::FS_WRITES, &[name], device.writes);
        sink.labelled(&metric::BLKIO_USAGE, &[name, &major, &minor, "Read"], device.read_bytes);
        sink.labelled(&metric::BLKIO_USAGE, &[name, &major, &minor, "Write"], device.written_bytes);
    }
}

fn filesystem(sink: &mut Sink, container: &Container) {
    if let Some(layer) = &container.layer {
        sink.add_at(&metric::FS_USAGE, &[ROOT], layer.at, layer.bytes);
    }
    if let Some(filesystem) = container.filesystem {
        sink.labelled(&metric::FS_LIMIT, &[ROOT], filesystem.bytes);
        sink.labelled(&metric::FS_INODES, &[ROOT], filesystem.inodes);
        sink.labelled(&metric::FS_INODES_FREE, &[ROOT], filesystem.inodes_free);
    }
}

fn processes(sink: &mut Sink, container: &Container) {
    sink.add(&metric::PROCESSES, container.processes);
    sink.add(&metric::FILE_DESCRIPTORS, container.descriptors.map(|descriptors| descriptors.files));
    sink.add(&metric::SOCKETS, container.descriptors.and_then(|descriptors| descriptors.sockets));
    sink.add(&metric::THREADS, container.usage.tasks);
    // In this metric 0 means no limit.
    sink.add(&metric::THREADS_MAX, container.usage.tasks.map(|_| container.details.tasks_limit.unwrap_or(0)));
    sink.labelled(&metric::ULIMITS_SOFT, &[OPEN_FILES], container.open_files_limit);
}

fn limits(sink: &mut Sink, limits: &Limits) {
    sink.add(&metric::SPEC_CPU_PERIOD, limits.cpu_period);
    sink.add(&metric::SPEC_CPU_QUOTA, limits.cpu_quota);
    sink.add(&metric::SPEC_CPU_SHARES, limits.cpu_shares);
    sink.add(&metric::SPEC_MEMORY_LIMIT, limits.memory);
    sink.add(&metric::SPEC_MEMORY_RESERVATION, limits.memory_reservation);
    sink.add(&metric::SPEC_MEMORY_SWAP, limits.memory_and_swap);
}
