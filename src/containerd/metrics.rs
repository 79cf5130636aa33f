//! Tasks.Metrics: what shims report about their tasks' cgroups. Used for tasks whose cgroup is not in this host's
//! kernel; all other cgroups are read directly.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use prost::Message;

use super::{Containerd, Result, nanoseconds};
use crate::cgroup::{
    Cpu, CpuDetails, Details, Device, HugePages, Memory, MemoryDetails, Pressure, Stall, Swap, Throttling, Usage,
};

mod v1 {
    #![allow(missing_docs, dead_code, reason = "generated code")]
    #![allow(clippy::all, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/io.containerd.cgroups.v1.rs"));
}
mod v2 {
    #![allow(missing_docs, dead_code, reason = "generated code")]
    #![allow(clippy::all, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/io.containerd.cgroups.v2.rs"));
}

/// A limit this large means no limit, as in containerd and cAdvisor.
const UNLIMITED: u64 = 1 << 62;

/// What a task uses, as its shim counts it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskMetrics {
    /// The values that stats report.
    pub usage: Usage,
    /// The values that only metrics report.
    pub details: Details,
}

impl Containerd {
    /// What tasks use, by id. A task is missing if its shim does not respond, or if the response cannot be read.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] while containerd does not respond.
    pub async fn task_metrics(&self, ids: &[String]) -> Result<HashMap<String, TaskMetrics>> {
        let filters = ids.iter().map(|id| format!("id=={id}")).collect();
        let reply = self.tasks().metrics(self.request(pb::MetricsRequest { filters })).await;
        let reply = reply.map_err(|status| self.error("metrics of tasks of", self.namespace(), &status))?;
        let known = reply.into_inner().metrics.into_iter().filter_map(|metric| {
            let mut read = decode(&metric.data?)?;
            read.usage.at = nanoseconds(metric.timestamp);
            Some((metric.id, read))
        });
        Ok(known.collect())
    }
}

fn decode(data: &prost_types::Any) -> Option<TaskMetrics> {
    // typeurl omits the prefix; other encoders write it.
    match data.type_url.rsplit('/').next()? {
        "io.containerd.cgroups.v1.Metrics" => v1::Metrics::decode(data.value.as_slice()).ok().map(of_v1),
        "io.containerd.cgroups.v2.Metrics" => v2::Metrics::decode(data.value.as_slice()).ok().map(of_v2),
        _ => None,
    }
}

fn limit(value: u64) -> Option<u64> {
    (value > 0 && value < UNLIMITED).then_some(value)
}

fn of_v1(metrics: v1::Metrics) -> TaskMetrics {
    let cpu = metrics.cpu.unwrap_or_default();
    let time = cpu.usage;
    let memory = metrics.memory;
    let of_memory = memory.as_ref().and_then(|memory| {
        let usage = memory.usage.as_ref()?;
        Some(Memory {
            usage: usage.usage,
            inactive_file: memory.total_inactive_file,
            limit: limit(usage.limit),
            rss: memory.total_rss,
            page_faults: memory.total_pg_fault,
            major_page_faults: memory.total_pg_maj_fault,
            pressure: None,
        })
    });
    let details = Details {
        cpu: CpuDetails {
            user: time.as_ref().map(|time| time.user),
            system: time.as_ref().map(|time| time.kernel),
            throttling: cpu.throttling.map(|quota| Throttling {
                periods: quota.periods,
                throttled_periods: quota.throttled_periods,
                nanoseconds: quota.throttled_time,
            }),
        },
        memory: v1_memory(memory.as_ref(), metrics.memory_oom_control.as_ref()),
        devices: v1_devices(&metrics.blkio.unwrap_or_default()),
        tasks_limit: metrics.pids.as_ref().and_then(|pids| limit(pids.limit)),
        huge_pages: metrics.hugetlb.into_iter().map(v1_huge_pages).collect(),
    };
    let usage = Usage {
        at: 0,
        cpu: time.map(|time| Cpu { nanoseconds: time.total, pressure: None }),
        memory: of_memory,
        // v1 counts swap together with memory, and a shim does not report how much of it is swap.
        swap: None,
        io_pressure: None,
        tasks: metrics.pids.map(|pids| pids.current),
    };
    TaskMetrics { usage, details }
}

fn v1_huge_pages(pages: v1::HugetlbStat) -> HugePages {
    HugePages { size: pages.pagesize, usage: pages.usage, max_usage: Some(pages.max) }
}

fn v1_memory(memory: Option<&v1::MemoryStat>, oom: Option<&v1::MemoryOomControl>) -> MemoryDetails {
    let Some(memory) = memory else { return MemoryDetails::default() };
    MemoryDetails {
        cache: Some(memory.total_cache),
        kernel: memory.kernel.as_ref().map(|kernel| kernel.usage),
        mapped_file: Some(memory.total_mapped_file),
        max_usage: memory.usage.as_ref().map(|usage| usage.max),
        limit_hits: memory.usage.as_ref().map(|usage| usage.failcnt),
        active_file: Some(memory.total_active_file),
        inactive_file: Some(memory.total_inactive_file),
        active_anon: Some(memory.total_active_anon),
        inactive_anon: Some(memory.total_inactive_anon),
        anon_thp: Some(memory.total_rss_huge),
        shmem_thp: None,
        file_thp: None,
        oom_kills: oom.map(|oom| oom.oom_kill),
    }
}

fn v1_devices(counters: &v1::BlkIoStat) -> Vec<Device> {
    let mut devices: HashMap<(u64, u64), Device> = HashMap::new();
    let bytes = counters.io_service_bytes_recursive.iter().map(|entry| (entry, true));
    for (entry, is_bytes) in bytes.chain(counters.io_serviced_recursive.iter().map(|entry| (entry, false))) {
        let (major, minor) = (entry.major, entry.minor);
        let device = devices.entry((major, minor)).or_insert(Device { major, minor, ..Device::default() });
        match (entry.op.to_ascii_lowercase().as_str(), is_bytes) {
            ("read", true) => device.read_bytes = entry.value,
            ("write", true) => device.written_bytes = entry.value,
            ("read", false) => device.reads = entry.value,
            ("write", false) => device.writes = entry.value,
            _ => {}
        }
    }
    let mut devices: Vec<Device> = devices.into_values().collect();
    devices.sort_by_key(|device| (device.major, device.minor));
    devices
}

fn of_v2(metrics: v2::Metrics) -> TaskMetrics {
    let cpu = metrics.cpu;
    let memory = metrics.memory;
    let details = Details {
        cpu: cpu.as_ref().map(v2_cpu).unwrap_or_default(),
        memory: v2_memory(memory.as_ref(), metrics.memory_events.as_ref()),
        devices: metrics.io.as_ref().map(v2_devices).unwrap_or_default(),
        tasks_limit: metrics.pids.as_ref().and_then(|pids| limit(pids.limit)),
        huge_pages: metrics.hugetlb.into_iter().map(v2_huge_pages).collect(),
    };
    let swap = memory.as_ref().map(|memory| Swap { usage: memory.swap_usage, limit: limit(memory.swap_limit) });
    let usage = Usage {
        at: 0,
        cpu: cpu.map(|cpu| Cpu { nanoseconds: cpu.usage_usec.saturating_mul(1000), pressure: pressure(cpu.psi) }),
        memory: memory.map(|memory| Memory {
            usage: memory.usage,
            inactive_file: memory.inactive_file,
            limit: limit(memory.usage_limit),
            rss: memory.anon,
            page_faults: memory.pgfault,
            major_page_faults: memory.pgmajfault,
            pressure: pressure(memory.psi),
        }),
        swap,
        io_pressure: metrics.io.and_then(|io| pressure(io.psi)),
        tasks: metrics.pids.map(|pids| pids.current),
    };
    TaskMetrics { usage, details }
}

fn v2_huge_pages(pages: v2::HugeTlbStat) -> HugePages {
    HugePages { size: pages.pagesize, usage: pages.current, max_usage: None }
}

fn v2_cpu(cpu: &v2::CpuStat) -> CpuDetails {
    CpuDetails {
        user: Some(cpu.user_usec.saturating_mul(1000)),
        system: Some(cpu.system_usec.saturating_mul(1000)),
        throttling: Some(Throttling {
            periods: cpu.nr_periods,
            throttled_periods: cpu.nr_throttled,
            nanoseconds: cpu.throttled_usec.saturating_mul(1000),
        }),
    }
}

fn v2_memory(memory: Option<&v2::MemoryStat>, events: Option<&v2::MemoryEvents>) -> MemoryDetails {
    let Some(memory) = memory else { return MemoryDetails::default() };
    MemoryDetails {
        cache: Some(memory.file),
        kernel: Some(memory.kernel_stack.saturating_add(memory.slab)),
        mapped_file: Some(memory.file_mapped),
        // 0 if the kernel does not report it.
        max_usage: Some(memory.max_usage).filter(|usage| *usage > 0),
        limit_hits: events.map(|events| events.max),
        active_file: Some(memory.active_file),
        inactive_file: Some(memory.inactive_file),
        active_anon: Some(memory.active_anon),
        inactive_anon: Some(memory.inactive_anon),
        anon_thp: Some(memory.anon_thp),
        shmem_thp: None,
        file_thp: None,
        oom_kills: events.map(|events| events.oom_kill),
    }
}

fn v2_devices(io: &v2::IoStat) -> Vec<Device> {
    let device = |entry: &v2::IoEntry| Device {
        major: entry.major,
        minor: entry.minor,
        read_bytes: entry.rbytes,
        written_bytes: entry.wbytes,
        reads: entry.rios,
        writes: entry.wios,
    };
    io.usage.iter().map(device).collect()
}

fn pressure(stats: Option<v2::PsiStats>) -> Option<Pressure> {
    let stall = |data: v2::PsiData| Stall {
        nanoseconds: data.total.saturating_mul(1000),
        avg10: data.avg10,
        avg60: data.avg60,
        avg300: data.avg300,
    };
    stats.map(|stats| Pressure { some: stats.some.map(stall), full: stats.full.map(stall) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shim_of_either_version_says_is_read() {
        let cpu = v1::CpuUsage { total: 9, user: 4, kernel: 5, per_cpu: Vec::new() };
        let v1 = v1::Metrics {
            cpu: Some(v1::CpuStat { usage: Some(cpu), throttling: None }),
            pids: Some(v1::PidsStat { current: 3, limit: 0 }),
            ..v1::Metrics::default()
        };
        let any = |name: &str, value| prost_types::Any { type_url: name.to_owned(), value };
        let read = decode(&any("io.containerd.cgroups.v1.Metrics", v1.encode_to_vec())).unwrap();
        assert_eq!((read.usage.cpu.unwrap().nanoseconds, read.usage.tasks), (9, Some(3)));
        assert_eq!((read.details.cpu.user, read.details.tasks_limit), (Some(4), None));

        let memory = v2::MemoryStat {
            usage: 10,
            inactive_file: 4,
            usage_limit: u64::MAX,
            psi: Some(v2::PsiStats { some: Some(v2::PsiData { total: 2, ..v2::PsiData::default() }), full: None }),
            ..v2::MemoryStat::default()
        };
        let v2 = v2::Metrics { memory: Some(memory), ..v2::Metrics::default() };
        let read = decode(&any("types/io.containerd.cgroups.v2.Metrics", v2.encode_to_vec())).unwrap();
        let memory = read.usage.memory.unwrap();
        assert_eq!((memory.working_set(), memory.limit), (6, None));
        assert_eq!(memory.pressure.unwrap().some.unwrap().nanoseconds, 2000);
        assert!(decode(&any("io.containerd.other", Vec::new())).is_none());
    }
}
