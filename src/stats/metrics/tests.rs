use std::collections::{HashMap, HashSet};

use super::*;
use crate::api::v1::MetricType;
use crate::cgroup::{
    Counted, Cpu, CpuDetails, Details, Device, HugePages, Memory, MemoryDetails, Pressure, Stall, Swap, Throttling,
    Usage,
};
use crate::netns::Traffic;
use crate::stats::{Descriptors, Layer};

fn labels() -> Labels {
    let [pod, namespace, container, id, image] = ["web", "default", "main", "0123", "busybox"].map(str::to_owned);
    Labels { pod, namespace, container, id, image }
}

/// A container with a value for every metric.
fn whole() -> Container {
    let stall = Some(Stall { nanoseconds: 7_000_000_000, ..Stall::default() });
    let pressure = Some(Pressure { some: stall, full: stall });
    let usage = Usage {
        at: 9_500_000_000,
        cpu: Some(Cpu { nanoseconds: 12_900_000_000, pressure }),
        memory: Some(Memory { usage: 100, inactive_file: 30, rss: 50, page_faults: 5, pressure, ..Memory::default() }),
        swap: Some(Swap { usage: 3, limit: None }),
        io_pressure: pressure,
        tasks: Some(4),
    };
    let one = Some(1);
    let details = Details {
        cpu: CpuDetails { user: one, system: one, throttling: Some(Throttling::default()) },
        memory: MemoryDetails {
            cache: one,
            kernel: one,
            mapped_file: one,
            max_usage: one,
            limit_hits: one,
            active_file: one,
            inactive_file: one,
            active_anon: one,
            inactive_anon: one,
            anon_thp: one,
            shmem_thp: one,
            file_thp: one,
            oom_kills: one,
        },
        devices: vec![Device { major: 999, minor: 1, read_bytes: 4096, ..Device::default() }],
        tasks_limit: None,
        huge_pages: vec![HugePages { size: "2MB".to_owned(), usage: 1, max_usage: one }],
    };
    Container {
        labels: labels(),
        started_at: 1_000_000_000,
        usage,
        details,
        processes: Some(2),
        descriptors: Some(Descriptors { files: 9, sockets: Some(3) }),
        open_files_limit: Some(1024),
        limits: Limits {
            cpu_period: one,
            cpu_quota: one,
            cpu_shares: one,
            memory: one,
            memory_reservation: one,
            memory_and_swap: one,
        },
        layer: Some(Layer { at: 77, bytes: 4096, inodes: 1, root: None }),
        filesystem: Some(Filesystem { bytes: 10, inodes: 5, inodes_free: 4 }),
    }
}

fn network() -> Vec<Interface> {
    let traffic = Traffic { bytes: 10, packets: 1, errors: 2, dropped: 3 };
    vec![Interface { name: "eth0".to_owned(), received: traffic, sent: traffic }]
}

#[test]
fn every_described_metric_is_returned_with_as_many_label_values_as_keys() {
    let mut all = pod(&labels(), &network());
    all.extend(container(&whole(), &mut DeviceNames::default()));
    let described = [false, true].into_iter().flat_map(|unified| descriptors(&Counted::everything(unified)));
    let keys: HashMap<String, usize> =
        described.map(|descriptor| (descriptor.name, descriptor.label_keys.len())).collect();
    for metric in &all {
        assert_eq!(Some(&metric.label_values.len()), keys.get(&metric.name), "{metric:?}");
        assert_eq!(metric.label_values[..5], ["web", "default", "main", "0123", "busybox"]);
    }
    // Prometheus' client library rejects a whole scrape that contains a metric twice.
    let unique: HashSet<_> = all.iter().map(|metric| (&metric.name, &metric.label_values)).collect();
    assert_eq!(unique.len(), all.len());
    let mut told: Vec<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), keys.len());
}

#[test]
fn values_are_in_the_unit_of_the_name() {
    let all = container(&whole(), &mut DeviceNames::default());
    let value = |name: &str| all.iter().find(|metric| metric.name == name).unwrap().value.unwrap().value;
    assert_eq!(value("container_cpu_usage_seconds_total"), 12);
    assert_eq!(value("container_pressure_io_waiting_seconds_total"), 7);
    assert_eq!(value("container_memory_working_set_bytes"), 70);
    assert_eq!(value("container_last_seen"), 9);
    assert_eq!(value("container_threads_max"), 0);
    let of = |name: &str| all.iter().find(|metric| metric.name == name).unwrap();
    assert_eq!(of("container_cpu_usage_seconds_total").metric_type(), MetricType::Counter);
    assert_eq!(of("container_memory_usage_bytes").metric_type(), MetricType::Gauge);
    // A timestamp of 0 means a current value. One that was measured earlier has its time.
    assert_eq!((of("container_memory_usage_bytes").timestamp, of("container_fs_usage_bytes").timestamp), (0, 77));
    let blkio = of("container_blkio_device_usage_total");
    assert_eq!(blkio.label_values[5..], ["999:1", "999", "1", "Read"]);
}

#[test]
fn what_is_not_known_is_left_out() {
    let nothing = Container { labels: labels(), ..Container::default() };
    let all = container(&nothing, &mut DeviceNames::default());
    let names: Vec<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, ["container_last_seen", "container_start_time_seconds"]);
    assert!(pod(&labels(), &[]).is_empty());
}
