//! cgroup v2 (Documentation/admin-guide/cgroup-v2.rst). Every number includes the descendants of the cgroup.

use super::keyed::{device_numbers, flat, limit, pressure, single, value};
use super::v1::throttling;
use super::{Buffer, Cpu, CpuDetails, Details, Device, Group, HugePages, Memory, MemoryDetails, Swap, Usage, now};

pub(super) fn usage(group: &mut Group, buffer: &mut Buffer) -> Usage {
    let nanoseconds = cpu_nanoseconds(group, buffer);
    let at = now();
    let cpu = nanoseconds.map(|nanoseconds| {
        let pressure = group.read("cpu.pressure", buffer).and_then(pressure);
        Cpu { nanoseconds, pressure }
    });
    Usage {
        at,
        cpu,
        memory: memory(group, buffer),
        swap: swap(group, buffer),
        io_pressure: group.read("io.pressure", buffer).and_then(pressure),
        tasks: group.read("pids.current", buffer).and_then(single),
    }
}

pub(super) fn cpu_nanoseconds(group: &mut Group, buffer: &mut Buffer) -> Option<u64> {
    let microseconds = group.read("cpu.stat", buffer).and_then(|text| value(text, "usage_usec"))?;
    Some(microseconds.saturating_mul(1000))
}

fn memory(group: &mut Group, buffer: &mut Buffer) -> Option<Memory> {
    let usage = group.read("memory.current", buffer).and_then(single)?;
    let mut memory = Memory { usage, ..Memory::default() };
    memory.limit = group.read("memory.max", buffer).and_then(limit);
    for (key, value) in flat(group.read("memory.stat", buffer)?) {
        match key {
            "inactive_file" => memory.inactive_file = value,
            "anon" => memory.rss = value,
            "pgfault" => memory.page_faults = value,
            "pgmajfault" => memory.major_page_faults = value,
            _ => {}
        }
    }
    memory.pressure = group.read("memory.pressure", buffer).and_then(pressure);
    Some(memory)
}

/// `None` if the kernel does not count swap.
fn swap(group: &mut Group, buffer: &mut Buffer) -> Option<Swap> {
    let usage = group.read("memory.swap.current", buffer).and_then(single)?;
    Some(Swap { usage, limit: group.read("memory.swap.max", buffer).and_then(limit) })
}

pub(super) fn details(group: &mut Group, buffer: &mut Buffer) -> Details {
    Details {
        cpu: group.read("cpu.stat", buffer).map(cpu_details).unwrap_or_default(),
        memory: memory_details(group, buffer),
        devices: group.read_once("io.stat", buffer).map(devices).unwrap_or_default(),
        tasks_limit: group.read_once("pids.max", buffer).and_then(single),
        huge_pages: huge_pages(group, buffer),
    }
}

fn cpu_details(text: &str) -> CpuDetails {
    let nanoseconds = |key| value(text, key).map(|microseconds| microseconds.saturating_mul(1000));
    CpuDetails {
        user: nanoseconds("user_usec"),
        system: nanoseconds("system_usec"),
        throttling: throttling(text, "throttled_usec", 1000),
    }
}

fn memory_details(group: &mut Group, buffer: &mut Buffer) -> MemoryDetails {
    let mut memory = MemoryDetails::default();
    let (mut kernel, mut parts) = (None, 0u64);
    for (key, value) in group.read("memory.stat", buffer).into_iter().flat_map(flat) {
        match key {
            "file" => memory.cache = Some(value),
            "file_mapped" => memory.mapped_file = Some(value),
            "active_file" => memory.active_file = Some(value),
            "inactive_file" => memory.inactive_file = Some(value),
            "active_anon" => memory.active_anon = Some(value),
            "inactive_anon" => memory.inactive_anon = Some(value),
            "anon_thp" => memory.anon_thp = Some(value),
            "shmem_thp" => memory.shmem_thp = Some(value),
            "file_thp" => memory.file_thp = Some(value),
            "kernel" => kernel = Some(value),
            // These add up to `kernel`, which exists since Linux 5.18.
            "kernel_stack" | "pagetables" | "percpu" | "vmalloc" | "slab" => parts = parts.saturating_add(value),
            _ => {}
        }
    }
    memory.kernel = kernel.or_else(|| memory.cache.map(|_| parts));
    // memory.peak exists since Linux 5.19.
    memory.max_usage = group.read_once("memory.peak", buffer).and_then(single);
    if let Some(events) = group.read_once("memory.events", buffer) {
        memory.limit_hits = value(events, "max");
        memory.oom_kills = value(events, "oom_kill");
    }
    memory
}

/// Parses lines of the form `8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn devices(text: &str) -> Vec<Device> {
    let device = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = device_numbers(words.next()?)?;
        let mut device = Device { major, minor, ..Device::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Some(value) = single(value) else { continue };
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
        Some(device)
    };
    text.lines().filter_map(device).collect()
}

fn huge_pages(group: &mut Group, buffer: &mut Buffer) -> Vec<HugePages> {
    let files = group.files("hugetlb");
    // There is `hugetlb.2MB.current`, and also `hugetlb.2MB.rsvd.current`, which is skipped.
    let sizes = files.iter().filter_map(|file| file.strip_prefix("hugetlb.")?.strip_suffix(".current"));
    let sizes = sizes.filter(|size| !size.contains('.'));
    let mut read = |size: &str| {
        let usage = group.read_once(&format!("hugetlb.{size}.current"), buffer).and_then(single)?;
        Some(HugePages { size: size.to_owned(), usage, max_usage: None })
    };
    sizes.filter_map(&mut read).collect()
}
