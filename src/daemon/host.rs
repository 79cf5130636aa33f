//! Facts about this host that OCI specs depend on, read once.

use std::fs;
use std::path::Path;

use crate::cgroup::{self, OptionalLimits};
use crate::config::Config;
use crate::containerd::Server;
use crate::lsm;
use crate::spec::Host;
use crate::sys::mountinfo;

/// The bit of CAP_SYS_RESOURCE (capabilities(7)). A process with it may lower an oom_score_adj.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Reads the facts. `server` is containerd: its shims start runc, which writes oom_score_adj.
pub(super) fn facts(server: &Server, config: &Config) -> Host {
    let limits = OptionalLimits::of_this_host();
    Host {
        cgroup_v2: cgroup::is_unified(),
        capabilities: effective_capabilities(server).unwrap_or(u64::MAX),
        oom_score_floor: oom_score_floor(server),
        swap: limits.swap,
        hugetlb: limits.huge_pages,
        apparmor: config.apparmor.enabled && lsm::apparmor::is_enabled(),
        selinux: config.selinux.enabled.then(lsm::selinux::contexts).flatten(),
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        kernel: kernel(),
        cgroup_flags: fs::read("/proc/self/mountinfo").map(|table| cgroup_flags(&table)).unwrap_or_default(),
        cpu_count: possible_cpus(),
    }
}

/// The lowest oom_score_adj that runc may write: any value with CAP_SYS_RESOURCE, otherwise not below containerd's own.
fn oom_score_floor(server: &Server) -> i32 {
    if effective_capabilities(server).is_none_or(|caps| caps & CAP_SYS_RESOURCE != 0) {
        return -1000;
    }
    let own = fs::read_to_string(format!("/proc/{}/oom_score_adj", server.pid))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let floor = own.unwrap_or(0);
    tracing::warn!(floor, "containerd lacks CAP_SYS_RESOURCE: lower values of oom_score_adj are raised to its own");
    floor
}

/// The capabilities that containerd's shims, and therefore runc, start with.
fn effective_capabilities(server: &Server) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid)).ok()?;
    status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
}

/// The options of the unified hierarchy's file system. Of mounts on top of each other, the last is visible.
fn cgroup_flags(mountinfo: &[u8]) -> Vec<String> {
    const FLAGS: [&str; 2] = ["nsdelegate", "memory_recursiveprot"];
    let mount = mountinfo::mounts(mountinfo).rfind(|mount| *mount.point == *Path::new(cgroup::ROOT));
    let options = mount.map(|mount| mount.super_options).unwrap_or_default();
    let options = options.split(|byte| *byte == b',').filter_map(|option| str::from_utf8(option).ok());
    options.filter(|option| FLAGS.contains(option)).map(str::to_owned).collect()
}

/// Includes CPUs that may be plugged in later. Our own CPU affinity does not limit which CPUs' files a container could
/// read.
fn possible_cpus() -> usize {
    let ranges = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    last_cpu(&ranges).map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |last| last + 1)
}

/// The last number of a list such as `0-3,8-11`.
fn last_cpu(ranges: &str) -> Option<usize> {
    ranges.trim().rsplit([',', '-']).next()?.parse().ok()
}

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_cgroup_mount_are_the_superblocks() {
        let table =
            b"29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n\
                      30 23 0:27 / /sys/fs/cgroup/x rw - tmpfs tmpfs rw\n";
        assert_eq!(cgroup_flags(table), ["nsdelegate", "memory_recursiveprot"]);
        assert!(cgroup_flags(b"25 23 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n").is_empty());
    }

    #[test]
    fn the_last_possible_processor_counts() {
        assert_eq!(["0", "0-3\n", "0-3,8-11", ""].map(last_cpu), [Some(0), Some(3), Some(11), None]);
    }
}
