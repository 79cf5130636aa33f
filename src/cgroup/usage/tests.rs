use super::super::Hierarchies;
use super::super::fixture::tree;
use super::*;

fn read(files: &[(&str, &str)], unified: bool) -> (Usage, Details) {
    let root = tree(files);
    let mut group = Hierarchies::at(root.path(), unified, 100).group("/p/c");
    let mut buffer = Buffer::default();
    (group.usage(&mut buffer), group.details(&mut buffer))
}

const V1: &[(&str, &str)] = &[
    ("cpuacct/p/c/cpuacct.usage", "123456789012\n"),
    ("cpuacct/p/c/cpuacct.stat", "user 1000\nsystem 234\n"),
    ("cpu/p/c/cpu.stat", "nr_periods 7\nnr_throttled 3\nthrottled_time 5000000\n"),
    ("memory/p/c/memory.usage_in_bytes", "1000\n"),
    ("memory/p/c/memory.limit_in_bytes", "4096\n"),
    ("memory/p/c/memory.memsw.limit_in_bytes", "5000\n"),
    ("memory/p/c/memory.kmem.usage_in_bytes", "50\n"),
    ("memory/p/c/memory.max_usage_in_bytes", "1100\n"),
    ("memory/p/c/memory.failcnt", "9\n"),
    ("memory/p/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    (
        "memory/p/c/memory.stat",
        "cache 1\nrss 2\ninactive_file 3\nhierarchical_memory_limit 4096\ntotal_cache 400\ntotal_rss 500\n\
         total_rss_huge 64\ntotal_mapped_file 40\ntotal_swap 70\ntotal_pgfault 11\ntotal_pgmajfault 12\n\
         total_inactive_anon 13\ntotal_active_anon 14\ntotal_inactive_file 300\ntotal_active_file 100\n",
    ),
    ("pids/p/c/pids.current", "6\n"),
    ("pids/p/c/pids.max", "max\n"),
    (
        "blkio/p/c/blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 0\n8:16 Read 1\n8:16 Write 2\n8:0 Total 12288\nTotal 12291\n",
    ),
    ("blkio/p/c/blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n"),
    ("hugetlb/p/c/hugetlb.2MB.usage_in_bytes", "2097152\n"),
    ("hugetlb/p/c/hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
    ("hugetlb/p/c/hugetlb.2MB.rsvd.usage_in_bytes", "1\n"),
];

#[test]
fn v1_is_read() {
    let (usage, details) = read(V1, false);
    assert_eq!(usage.cpu, Some(Cpu { nanoseconds: 123_456_789_012, pressure: None }));
    let memory = usage.memory.unwrap();
    assert_eq!((memory.usage, memory.working_set(), memory.rss), (1000, 700, 500));
    assert_eq!((memory.page_faults, memory.major_page_faults, memory.limit), (11, 12, Some(4096)));
    assert_eq!(usage.swap, Some(Swap { usage: 70, limit: Some(904) }));
    assert_eq!((usage.tasks, usage.io_pressure), (Some(6), None));
    assert!(usage.at > 1_700_000_000_000_000_000);

    let throttling = Some(Throttling { periods: 7, throttled_periods: 3, nanoseconds: 5_000_000 });
    assert_eq!(details.cpu, CpuDetails { user: Some(10_000_000_000), system: Some(2_340_000_000), throttling });
    let memory = details.memory;
    assert_eq!((memory.cache, memory.mapped_file, memory.kernel), (Some(400), Some(40), Some(50)));
    assert_eq!((memory.max_usage, memory.limit_hits, memory.oom_kills), (Some(1100), Some(9), Some(2)));
    assert_eq!((memory.active_file, memory.inactive_file), (Some(100), Some(300)));
    assert_eq!((memory.active_anon, memory.inactive_anon), (Some(14), Some(13)));
    assert_eq!((memory.anon_thp, memory.shmem_thp), (Some(64), None));
    let first = Device { major: 8, minor: 0, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 };
    let second = Device { major: 8, minor: 16, read_bytes: 1, written_bytes: 2, reads: 0, writes: 0 };
    assert_eq!(details.devices, [first, second]);
    assert_eq!(details.tasks_limit, None);
    let huge = HugePages { size: "2MB".to_owned(), usage: 2 << 20, max_usage: Some(4 << 20) };
    assert_eq!(details.huge_pages, [huge]);
}

const V2: &[(&str, &str)] = &[
    (
        "p/c/cpu.stat",
        "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\nnr_periods 7\nnr_throttled 3\nthrottled_usec 5\n",
    ),
    (
        "p/c/cpu.pressure",
        "some avg10=1.50 avg60=0.25 avg300=0.05 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=66\n",
    ),
    ("p/c/memory.current", "1000\n"),
    ("p/c/memory.max", "4096\n"),
    ("p/c/memory.peak", "1100\n"),
    ("p/c/memory.swap.current", "70\n"),
    ("p/c/memory.swap.max", "max\n"),
    ("p/c/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"),
    ("p/c/memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"),
    (
        "p/c/memory.stat",
        "anon 500\nfile 400\nkernel 50\nkernel_stack 1\nslab 2\nfile_mapped 40\nanon_thp 64\nshmem_thp 65\nfile_thp 66\n\
         inactive_anon 13\nactive_anon 14\ninactive_file 300\nactive_file 100\npgfault 11\npgmajfault 12\n",
    ),
    (
        "p/c/io.pressure",
        "some avg10=0.00 avg60=0.00 avg300=2.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n",
    ),
    ("p/c/io.stat", "8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:0 \n"),
    ("p/c/pids.current", "6\n"),
    ("p/c/pids.max", "100\n"),
    ("p/c/hugetlb.2MB.current", "2097152\n"),
    ("p/c/hugetlb.2MB.rsvd.current", "1\n"),
];

#[test]
fn v2_is_read() {
    let (usage, details) = read(V2, true);
    let cpu = usage.cpu.unwrap();
    assert_eq!(cpu.nanoseconds, 1_234_000);
    let some = Stall { nanoseconds: 77_000, avg10: 1.5, avg60: 0.25, avg300: 0.05 };
    let full = Stall { nanoseconds: 66_000, ..Stall::default() };
    assert_eq!(cpu.pressure, Some(Pressure { some: Some(some), full: Some(full) }));
    let memory = usage.memory.unwrap();
    assert_eq!((memory.usage, memory.working_set(), memory.rss), (1000, 700, 500));
    assert_eq!((memory.page_faults, memory.major_page_faults, memory.limit), (11, 12, Some(4096)));
    assert_eq!(memory.pressure.unwrap().full, None);
    assert_eq!(usage.swap, Some(Swap { usage: 70, limit: None }));
    assert_eq!((usage.tasks, usage.io_pressure.unwrap().some.unwrap().avg300), (Some(6), 2.0));

    let throttling = Some(Throttling { periods: 7, throttled_periods: 3, nanoseconds: 5000 });
    assert_eq!(details.cpu, CpuDetails { user: Some(1_000_000), system: Some(234_000), throttling });
    let memory = details.memory;
    assert_eq!((memory.cache, memory.mapped_file, memory.kernel), (Some(400), Some(40), Some(50)));
    assert_eq!((memory.max_usage, memory.limit_hits, memory.oom_kills), (Some(1100), Some(9), Some(2)));
    assert_eq!((memory.anon_thp, memory.shmem_thp, memory.file_thp), (Some(64), Some(65), Some(66)));
    let first = Device { major: 8, minor: 16, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 };
    let second = Device { major: 8, minor: 0, ..Device::default() };
    assert_eq!(details.devices, [first, second]);
    assert_eq!(details.tasks_limit, Some(100));
    let huge = HugePages { size: "2MB".to_owned(), usage: 2 << 20, max_usage: None };
    assert_eq!(details.huge_pages, [huge]);
}

#[test]
fn a_cgroup_that_is_gone_has_no_values() {
    for unified in [false, true] {
        let (usage, details) = read(&[], unified);
        assert_eq!(usage, Usage { at: usage.at, ..Usage::default() });
        assert_eq!(details, Details::default());
    }
}

#[test]
fn no_limit_is_no_number_in_both_versions() {
    let mut files = V1.to_vec();
    files.retain(|(name, _)| !name.contains("limit_in_bytes"));
    files.push(("memory/p/c/memory.limit_in_bytes", "9223372036854771712\n"));
    files.push(("memory/p/c/memory.memsw.limit_in_bytes", "9223372036854771712\n"));
    let (usage, _) = read(&files, false);
    assert_eq!((usage.memory.unwrap().limit, usage.swap.unwrap().limit), (None, None));
    let v2 = read(&[("p/c/memory.current", "1"), ("p/c/memory.max", "max"), ("p/c/memory.stat", "")], true);
    assert_eq!(v2.0.memory.unwrap().limit, None);
}

#[test]
fn where_swap_is_not_counted_there_is_none() {
    let mut files = V1.to_vec();
    files.retain(|(name, _)| !name.contains("memsw"));
    assert_eq!(read(&files, false).0.swap, None);
}

#[test]
fn garbage_is_not_a_number() {
    let (usage, _) =
        read(&[("p/c/cpu.stat", "usage_usec x\n"), ("p/c/memory.current", "-1"), ("p/c/pids.current", "")], true);
    assert_eq!(usage, Usage { at: usage.at, ..Usage::default() });
    assert_eq!(keyed::pressure("some avg10=x total=1\nnonsense\n"), None);
}
