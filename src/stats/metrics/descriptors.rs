//! The list of metrics: those of containerd and of CRI-O, with cAdvisor's names. It does not change while the process
//! runs. A metric that the node's cgroups never count is not described, because critest expects a value of each metric
//! that is.

use crate::api::v1::{MetricDescriptor, MetricType};
use crate::cgroup::Counted;

/// The labels of every metric, in this order.
pub(super) const LABELS: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) name: &'static str,
    help: &'static str,
    /// The labels in addition to [`LABELS`].
    pub(super) labels: &'static [&'static str],
    pub(super) kind: MetricType,
    counted_by: CountedBy,
}

/// The cgroups that count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountedBy {
    Both,
    V1,
    V2,
    /// Those whose memory.stat has this key, in v2 and in v1.
    MemoryStat {
        v2: &'static str,
        v1: Option<&'static str>,
    },
}

impl Descriptor {
    const fn by(mut self, cgroups: CountedBy) -> Self {
        self.counted_by = cgroups;
        self
    }

    fn is_counted(&self, counted: &Counted) -> bool {
        match self.counted_by {
            CountedBy::Both => true,
            CountedBy::V1 => !counted.unified,
            CountedBy::V2 => counted.unified,
            CountedBy::MemoryStat { v2, .. } if counted.unified => counted.memory(v2),
            CountedBy::MemoryStat { v1, .. } => v1.is_some_and(|key| counted.memory(key)),
        }
    }
}

/// All metrics that a node can report whose cgroups count this, as ListMetricDescriptors returns them.
#[must_use]
pub fn descriptors(counted: &Counted) -> Vec<MetricDescriptor> {
    let descriptor = |descriptor: &&Descriptor| MetricDescriptor {
        name: descriptor.name.to_owned(),
        help: descriptor.help.to_owned(),
        label_keys: LABELS.iter().chain(descriptor.labels).map(ToString::to_string).collect(),
    };
    ALL.iter().filter(|descriptor| descriptor.is_counted(counted)).map(descriptor).collect()
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Descriptor {
    Descriptor { name, help, labels, kind: MetricType::Counter, counted_by: CountedBy::Both }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Descriptor {
    Descriptor { name, help, labels, kind: MetricType::Gauge, counted_by: CountedBy::Both }
}

// CPU.
pub(super) const CPU_USER: Descriptor =
    counter("container_cpu_user_seconds_total", "Cumulative user CPU time consumed in seconds.", &[]);
pub(super) const CPU_SYSTEM: Descriptor =
    counter("container_cpu_system_seconds_total", "Cumulative system CPU time consumed in seconds.", &[]);
pub(super) const CPU_USAGE: Descriptor =
    counter("container_cpu_usage_seconds_total", "Cumulative CPU time consumed in seconds.", &[]);
pub(super) const CFS_PERIODS: Descriptor =
    counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", &[]);
pub(super) const CFS_THROTTLED_PERIODS: Descriptor =
    counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", &[]);
pub(super) const CFS_THROTTLED: Descriptor =
    counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", &[]);

// Memory.
pub(super) const MEMORY_CACHE: Descriptor =
    gauge("container_memory_cache", "Number of bytes of page cache memory.", &[]);
pub(super) const MEMORY_RSS: Descriptor = gauge("container_memory_rss", "Size of RSS in bytes.", &[]);
pub(super) const MEMORY_KERNEL: Descriptor =
    gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", &[]);
pub(super) const MEMORY_MAPPED_FILE: Descriptor =
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", &[]);
pub(super) const MEMORY_SWAP: Descriptor = gauge("container_memory_swap", "Container swap usage in bytes.", &[]);
pub(super) const MEMORY_FAILCNT: Descriptor =
    counter("container_memory_failcnt", "Number of times memory usage has hit the limit.", &[]);
pub(super) const MEMORY_USAGE: Descriptor = gauge(
    "container_memory_usage_bytes",
    "Current memory usage in bytes, including all memory regardless of when it was accessed.",
    &[],
);
pub(super) const MEMORY_MAX_USAGE: Descriptor =
    gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", &[]);
pub(super) const MEMORY_WORKING_SET: Descriptor =
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", &[]);
pub(super) const MEMORY_ACTIVE_FILE: Descriptor =
    gauge("container_memory_total_active_file_bytes", "Current active page cache in bytes.", &[]);
pub(super) const MEMORY_INACTIVE_FILE: Descriptor =
    gauge("container_memory_total_inactive_file_bytes", "Current inactive page cache in bytes.", &[]);
pub(super) const MEMORY_ACTIVE_ANON: Descriptor =
    gauge("container_memory_active_anon_bytes", "Current active anonymous memory in bytes.", &[]);
pub(super) const MEMORY_INACTIVE_ANON: Descriptor =
    gauge("container_memory_inactive_anon_bytes", "Current inactive anonymous memory in bytes.", &[]);
pub(super) const MEMORY_ANON_THP: Descriptor =
    gauge("container_memory_anon_thp_bytes", "Anonymous memory in transparent huge pages, in bytes.", &[])
        .by(CountedBy::MemoryStat { v2: "anon_thp", v1: Some("total_rss_huge") });
pub(super) const MEMORY_SHMEM_THP: Descriptor =
    gauge("container_memory_shmem_thp_bytes", "Shared memory in transparent huge pages, in bytes.", &[])
        .by(CountedBy::MemoryStat { v2: "shmem_thp", v1: None });
pub(super) const MEMORY_FILE_THP: Descriptor =
    gauge("container_memory_file_thp_bytes", "Page cache in transparent huge pages, in bytes.", &[])
        .by(CountedBy::MemoryStat { v2: "file_thp", v1: None });
pub(super) const MEMORY_FAILURES: Descriptor = counter(
    "container_memory_failures_total",
    "Cumulative count of memory allocation failures.",
    &["failure_type", "scope"],
);
pub(super) const OOM_EVENTS: Descriptor =
    counter("container_oom_events_total", "Count of out of memory events observed for the container.", &[]);

// Huge pages.
pub(super) const HUGETLB_USAGE: Descriptor =
    gauge("container_hugetlb_usage_bytes", "Current hugepage usage in bytes.", &["pagesize"]);
pub(super) const HUGETLB_MAX_USAGE: Descriptor =
    gauge("container_hugetlb_max_usage_bytes", "Maximum hugepage usage recorded in bytes.", &["pagesize"])
        .by(CountedBy::V1);

// Pressure (PSI).
pub(super) const PRESSURE_CPU_WAITING: Descriptor = counter(
    "container_pressure_cpu_waiting_seconds_total",
    "Total time duration tasks in the container have waited due to CPU congestion.",
    &[],
)
.by(CountedBy::V2);
pub(super) const PRESSURE_CPU_STALLED: Descriptor = counter(
    "container_pressure_cpu_stalled_seconds_total",
    "Total time duration no tasks in the container could make progress due to CPU congestion.",
    &[],
)
.by(CountedBy::V2);
pub(super) const PRESSURE_MEMORY_WAITING: Descriptor = counter(
    "container_pressure_memory_waiting_seconds_total",
    "Total time duration tasks in the container have waited due to memory congestion.",
    &[],
)
.by(CountedBy::V2);
pub(super) const PRESSURE_MEMORY_STALLED: Descriptor = counter(
    "container_pressure_memory_stalled_seconds_total",
    "Total time duration no tasks in the container could make progress due to memory congestion.",
    &[],
)
.by(CountedBy::V2);
pub(super) const PRESSURE_IO_WAITING: Descriptor = counter(
    "container_pressure_io_waiting_seconds_total",
    "Total time duration tasks in the container have waited due to IO congestion.",
    &[],
)
.by(CountedBy::V2);
pub(super) const PRESSURE_IO_STALLED: Descriptor = counter(
    "container_pressure_io_stalled_seconds_total",
    "Total time duration no tasks in the container could make progress due to IO congestion.",
    &[],
)
.by(CountedBy::V2);

// Network. These are metrics of pods.
pub(super) const RECEIVED_BYTES: Descriptor =
    counter("container_network_receive_bytes_total", "Cumulative count of bytes received.", &["interface"]);
pub(super) const RECEIVED_PACKETS: Descriptor =
    counter("container_network_receive_packets_total", "Cumulative count of packets received.", &["interface"]);
pub(super) const RECEIVED_DROPPED: Descriptor = counter(
    "container_network_receive_packets_dropped_total",
    "Cumulative count of packets dropped while receiving.",
    &["interface"],
);
pub(super) const RECEIVED_ERRORS: Descriptor = counter(
    "container_network_receive_errors_total",
    "Cumulative count of errors encountered while receiving.",
    &["interface"],
);
pub(super) const SENT_BYTES: Descriptor =
    counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", &["interface"]);
pub(super) const SENT_PACKETS: Descriptor =
    counter("container_network_transmit_packets_total", "Cumulative count of packets transmitted.", &["interface"]);
pub(super) const SENT_DROPPED: Descriptor = counter(
    "container_network_transmit_packets_dropped_total",
    "Cumulative count of packets dropped while transmitting.",
    &["interface"],
);
pub(super) const SENT_ERRORS: Descriptor = counter(
    "container_network_transmit_errors_total",
    "Cumulative count of errors encountered while transmitting.",
    &["interface"],
);

// File systems and block devices.
pub(super) const FS_INODES_FREE: Descriptor =
    gauge("container_fs_inodes_free", "Number of available inodes.", &["device"]);
pub(super) const FS_INODES: Descriptor = gauge("container_fs_inodes_total", "Number of inodes.", &["device"]);
pub(super) const FS_LIMIT: Descriptor = gauge(
    "container_fs_limit_bytes",
    "Number of bytes that can be consumed by the container on this filesystem.",
    &["device"],
);
pub(super) const FS_USAGE: Descriptor = gauge(
    "container_fs_usage_bytes",
    "Number of bytes that are consumed by the container on this filesystem.",
    &["device"],
);
pub(super) const FS_READ_BYTES: Descriptor =
    counter("container_fs_reads_bytes_total", "Cumulative count of bytes read.", &["device"]);
pub(super) const FS_READS: Descriptor =
    counter("container_fs_reads_total", "Cumulative count of reads completed.", &["device"]);
pub(super) const FS_WRITTEN_BYTES: Descriptor =
    counter("container_fs_writes_bytes_total", "Cumulative count of bytes written.", &["device"]);
pub(super) const FS_WRITES: Descriptor =
    counter("container_fs_writes_total", "Cumulative count of writes completed.", &["device"]);
pub(super) const BLKIO_USAGE: Descriptor = counter(
    "container_blkio_device_usage_total",
    "Blkio device bytes usage.",
    &["device", "major", "minor", "operation"],
);

// Processes.
pub(super) const PROCESSES: Descriptor =
    gauge("container_processes", "Number of processes running inside the container.", &[]);
pub(super) const FILE_DESCRIPTORS: Descriptor =
    gauge("container_file_descriptors", "Number of open file descriptors for the container.", &[]);
pub(super) const SOCKETS: Descriptor = gauge("container_sockets", "Number of open sockets for the container.", &[]);
pub(super) const THREADS: Descriptor =
    gauge("container_threads", "Number of threads running inside the container.", &[]);
pub(super) const THREADS_MAX: Descriptor = gauge(
    "container_threads_max",
    "Maximum number of threads allowed inside the container, infinity if value is zero.",
    &[],
);
pub(super) const ULIMITS_SOFT: Descriptor = gauge(
    "container_ulimits_soft",
    "Soft ulimit values for the container root process; absent if unlimited.",
    &["ulimit"],
);

// Times and limits.
pub(super) const LAST_SEEN: Descriptor =
    gauge("container_last_seen", "Last time a container was seen by the exporter.", &[]);
pub(super) const START_TIME: Descriptor =
    gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", &[]);
pub(super) const SPEC_CPU_PERIOD: Descriptor = gauge("container_spec_cpu_period", "CPU period of the container.", &[]);
pub(super) const SPEC_CPU_QUOTA: Descriptor =
    gauge("container_spec_cpu_quota", "CPU quota of the container; absent if unlimited.", &[]);
pub(super) const SPEC_CPU_SHARES: Descriptor = gauge("container_spec_cpu_shares", "CPU share of the container.", &[]);
pub(super) const SPEC_MEMORY_LIMIT: Descriptor =
    gauge("container_spec_memory_limit_bytes", "Memory limit for the container; zero if unlimited.", &[]);
pub(super) const SPEC_MEMORY_RESERVATION: Descriptor = gauge(
    "container_spec_memory_reservation_limit_bytes",
    "Memory reservation limit for the container; zero if unlimited.",
    &[],
);
pub(super) const SPEC_MEMORY_SWAP: Descriptor = gauge(
    "container_spec_memory_swap_limit_bytes",
    "Limit of memory and swap for the container; zero if unlimited.",
    &[],
);

const ALL: &[&Descriptor] = &[
    &CPU_USER,
    &CPU_SYSTEM,
    &CPU_USAGE,
    &CFS_PERIODS,
    &CFS_THROTTLED_PERIODS,
    &CFS_THROTTLED,
    &MEMORY_CACHE,
    &MEMORY_RSS,
    &MEMORY_KERNEL,
    &MEMORY_MAPPED_FILE,
    &MEMORY_SWAP,
    &MEMORY_FAILCNT,
    &MEMORY_USAGE,
    &MEMORY_MAX_USAGE,
    &MEMORY_WORKING_SET,
    &MEMORY_ACTIVE_FILE,
    &MEMORY_INACTIVE_FILE,
    &MEMORY_ACTIVE_ANON,
    &MEMORY_INACTIVE_ANON,
    &MEMORY_ANON_THP,
    &MEMORY_SHMEM_THP,
    &MEMORY_FILE_THP,
    &MEMORY_FAILURES,
    &OOM_EVENTS,
    &HUGETLB_USAGE,
    &HUGETLB_MAX_USAGE,
    &PRESSURE_CPU_WAITING,
    &PRESSURE_CPU_STALLED,
    &PRESSURE_MEMORY_WAITING,
    &PRESSURE_MEMORY_STALLED,
    &PRESSURE_IO_WAITING,
    &PRESSURE_IO_STALLED,
    &RECEIVED_BYTES,
    &RECEIVED_PACKETS,
    &RECEIVED_DROPPED,
    &RECEIVED_ERRORS,
    &SENT_BYTES,
    &SENT_PACKETS,
    &SENT_DROPPED,
    &SENT_ERRORS,
    &FS_INODES_FREE,
    &FS_INODES,
    &FS_LIMIT,
    &FS_USAGE,
    &FS_READ_BYTES,
    &FS_READS,
    &FS_WRITTEN_BYTES,
    &FS_WRITES,
    &BLKIO_USAGE,
    &PROCESSES,
    &FILE_DESCRIPTORS,
    &SOCKETS,
    &THREADS,
    &THREADS_MAX,
    &ULIMITS_SOFT,
    &LAST_SEEN,
    &START_TIME,
    &SPEC_CPU_PERIOD,
    &SPEC_CPU_QUOTA,
    &SPEC_CPU_SHARES,
    &SPEC_MEMORY_LIMIT,
    &SPEC_MEMORY_RESERVATION,
    &SPEC_MEMORY_SWAP,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The metrics of containerd 2.4.2. CRI-O has more (cri-contract: 49 and 56).
    const CONTAINERD: usize = 49;

    #[test]
    fn each_name_is_there_once() {
        let mut names: Vec<&str> = ALL.iter().map(|descriptor| descriptor.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        // hugetlb 2, pressure 6, spec_cpu_quota 1; anonymous memory and huge pages 5.
        assert_eq!(names.len(), CONTAINERD + 9 + 5);
    }

    #[test]
    fn what_the_nodes_cgroups_never_count_is_not_described() {
        let names =
            |unified| descriptors(&Counted::everything(unified)).into_iter().map(|one| one.name).collect::<Vec<_>>();
        let (v1, v2) = (names(false), names(true));
        for name in ["container_memory_shmem_thp_bytes", "container_memory_file_thp_bytes"] {
            assert!(v2.iter().any(|one| one == name) && !v1.iter().any(|one| one == name), "{name}");
        }
        let of_v1: Vec<_> = v1.iter().filter(|name| !v2.contains(name)).collect();
        assert_eq!(of_v1, ["container_hugetlb_max_usage_bytes"]);
        let pressure = |names: &[String]| names.iter().filter(|name| name.starts_with("container_pressure_")).count();
        assert_eq!((pressure(&v1), pressure(&v2)), (0, 6));
    }

    #[test]
    fn without_transparent_huge_pages_they_are_not_described() {
        for unified in [false, true] {
            let all = descriptors(&Counted::without_huge_pages(unified));
            let thp: Vec<_> = all.iter().filter(|one| one.name.contains("_thp_")).collect();
            assert!(thp.is_empty() && all.len() > CONTAINERD - 3, "{thp:?}");
        }
    }

    #[test]
    fn labels_follow_those_of_every_metric() {
        let all = descriptors(&Counted::everything(true));
        let of = |name: &str| all.iter().find(|descriptor| descriptor.name == name).unwrap().label_keys.clone();
        assert_eq!(of("container_memory_cache"), LABELS);
        assert_eq!(of("container_network_receive_bytes_total")[5..], ["interface"]);
        assert_eq!(of("container_blkio_device_usage_total")[5..], ["device", "major", "minor", "operation"]);
    }
}
