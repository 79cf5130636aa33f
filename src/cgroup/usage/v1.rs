//! cgroup v1 (Documentation/admin-guide/cgroup-v1/). In memory.stat, only the `total_` numbers include the descendants
//! of the cgroup.

use nix::unistd::{SysconfVar, sysconf};

use super::keyed::{device_numbers, flat, limit, single, value};
use super::{
    Buffer, Cpu, CpuDetails, Details, Device, Group, HugePages, Memory, MemoryDetails, Swap, Throttling, Usage, now,
};

pub(super) fn usage(group: &mut Group, buffer: &mut Buffer) -> Usage {
    let nanoseconds = cpu_nanoseconds(group, buffer);
    let at = now();
    let (memory, swapped) = match memory(group, buffer) {
        Some((memory, swapped)) => (Some(memory), swapped),
        None => (None, None),
    };
    let with_swap = group.read("memory.memsw.limit_in_bytes", buffer).map(limit);
    // `None` if swap is not counted: the kernel then has no memsw files.
    let swap = swapped.zip(with_swap).map(|(usage, with_swap)| {
        // One limit is for memory plus swap, the other for memory alone. Without both, no limit for swap can be
        // computed.
        let limits = with_swap.zip(memory.as_ref().and_then(|memory| memory.limit));
        Swap { usage, limit: limits.map(|(with_swap, memory)| with_swap.saturating_sub(memory)) }
    });
    Usage {
        at,
        cpu: nanoseconds.map(|nanoseconds| Cpu { nanoseconds, pressure: None }),
        memory,
        swap,
        io_pressure: None,
        tasks: group.read("pids.current", buffer).and_then(single),
    }
}

pub(super) fn cpu_nanoseconds(group: &mut Group, buffer: &mut Buffer) -> Option<u64> {
    group.read("cpuacct.usage", buffer).and_then(single)
}

/// The memory, and the number of bytes that are swapped out.
fn memory(group: &mut Group, buffer: &mut Buffer) -> Option<(Memory, Option<u64>)> {
    let usage = group.read("memory.usage_in_bytes", buffer).and_then(single)?;
    let mut memory = Memory { usage, ..Memory::default() };
    memory.limit = group.read("memory.limit_in_bytes", buffer).and_then(limit);
    let mut swapped = None;
    for (key, value) in flat(group.read("memory.stat", buffer)?) {
        match key {
            "total_inactive_file" => memory.inactive_file = value,
            "total_rss" => memory.rss = value,
            "total_pgfault" => memory.page_faults = value,
            "total_pgmajfault" => memory.major_page_faults = value,
            "total_swap" => swapped = Some(value),
            _ => {}
        }
    }
    Some((memory, swapped))
}

pub(super) fn details(group: &mut Group, buffer: &mut Buffer) -> Details {
    Details {
        cpu: cpu_details(group, buffer),
        memory: memory_details(group, buffer),
        devices: devices(group, buffer),
        tasks_limit: group.read_once("pids.max", buffer).and_then(single),
        huge_pages: huge_pages(group, buffer),
    }
}

fn cpu_details(group: &mut Group, buffer: &mut Buffer) -> CpuDetails {
    let mut cpu = CpuDetails::default();
    if let Some(text) = group.read_once("cpuacct.stat", buffer) {
        // In ticks; there are 100 per second on all relevant machines.
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        let tick = 1_000_000_000 / ticks.filter(|ticks| *ticks > 0).unwrap_or(100);
        cpu.user = value(text, "user").map(|user| user.saturating_mul(tick));
        cpu.system = value(text, "system").map(|system| system.saturating_mul(tick));
    }
    if let Some(text) = group.read_once("cpu.stat", buffer) {
        cpu.throttling = throttling(text, "throttled_time", 1);
    }
    cpu
}

/// Parses cpu.stat of either version; the name and unit of the time differ.
pub(super) fn throttling(text: &str, time: &str, unit: u64) -> Option<Throttling> {
    Some(Throttling {
        periods: value(text, "nr_periods")?,
        throttled_periods: value(text, "nr_throttled")?,
        nanoseconds: value(text, time)?.saturating_mul(unit),
    })
}

fn memory_details(group: &mut Group, buffer: &mut Buffer) -> MemoryDetails {
    let mut memory = MemoryDetails::default();
    for (key, value) in group.read("memory.stat", buffer).into_iter().flat_map(flat) {
        match key {
            "total_cache" => memory.cache = Some(value),
            "total_mapped_file" => memory.mapped_file = Some(value),
            "total_active_file" => memory.active_file = Some(value),
            "total_inactive_file" => memory.inactive_file = Some(value),
            "total_active_anon" => memory.active_anon = Some(value),
            "total_inactive_anon" => memory.inactive_anon = Some(value),
            "total_rss_huge" => memory.anon_thp = Some(value),
            _ => {}
        }
    }
    memory.kernel = group.read_once("memory.kmem.usage_in_bytes", buffer).and_then(single);
    memory.max_usage = group.read_once("memory.max_usage_in_bytes", buffer).and_then(single);
    memory.limit_hits = group.read_once("memory.failcnt", buffer).and_then(single);
    memory.oom_kills = group.read_once("memory.oom_control", buffer).and_then(|text| value(text, "oom_kill"));
    memory
}

/// Parses lines of the form `8:0 Read 4096`, with a total at the end. The throttling files count all I/O of a device,
/// even if no I/O scheduler counts it.
fn devices(group: &mut Group, buffer: &mut Buffer) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    let mut add = |text: &str, set: fn(&mut Device, bool, u64)| {
        for line in text.lines() {
            let mut words = line.split(' ');
            let Some(numbers) = words.next().and_then(device_numbers) else { continue };
            let (Some(operation), Some(value)) = (words.next(), words.next().and_then(single)) else { continue };
            let is_read = match operation {
                "Read" => true,
                "Write" => false,
                _ => continue,
            };
            let known = devices.iter().position(|device| (device.major, device.minor) == numbers);
            let at = known.unwrap_or_else(|| {
                devices.push(Device { major: numbers.0, minor: numbers.1, ..Device::default() });
                devices.len() - 1
            });
            set(&mut devices[at], is_read, value);
        }
    };
    if let Some(text) = group.read_once("blkio.throttle.io_service_bytes_recursive", buffer) {
        add(text, |device, read, value| *if read { &mut device.read_bytes } else { &mut device.written_bytes } = value);
    }
    if let Some(text) = group.read_once("blkio.throttle.io_serviced_recursive", buffer) {
        add(text, |device, read, value| *if read { &mut device.reads } else { &mut device.writes } = value);
    }
    devices
}

fn huge_pages(group: &mut Group, buffer: &mut Buffer) -> Vec<HugePages> {
    let files = group.files("hugetlb");
    // There is `hugetlb.2MB.usage_in_bytes`, and also `hugetlb.2MB.rsvd.usage_in_bytes`, which is skipped.
    let sizes = files.iter().filter_map(|file| file.strip_prefix("hugetlb.")?.strip_suffix(".usage_in_bytes"));
    let sizes = sizes.filter(|size| !size.contains('.'));
    let mut read = |size: &str| {
        let usage = group.read_once(&format!("hugetlb.{size}.usage_in_bytes"), buffer).and_then(single)?;
        let max_usage = group.read_once(&format!("hugetlb.{size}.max_usage_in_bytes"), buffer).and_then(single);
        Some(HugePages { size: size.to_owned(), usage, max_usage })
    };
    sizes.filter_map(&mut read).collect()
}
