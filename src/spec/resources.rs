//! CPU, memory and huge pages: converts CRI's numbers to OCI's. 0 means "not given". Two kinds of limit are not
//! available on every host. Where swap is not counted, a swap limit is ignored, since kubelet always sends one. Where
//! huge pages are not counted, a limit of 0 on them is ignored, since kubelet sends it for every container; any other
//! limit is an error.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, Spec};

use super::{Error, Host, linux_of, oom_score, process_of};
use crate::api::v1::{HugepageLimit, LinuxContainerResources};

/// The kernel's range (proc_pid_oom_score_adj(5)).
const OOM_SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

const NO_LIMIT: i64 = -1;
/// Most sizes of huge pages in a request: no processor has more than five.
const PAGE_SIZES: usize = 64;
/// The values of a new cgroup (Documentation/scheduler/sched-bwc.rst, cgroup-v1/cpusets.rst).
const KERNELS_PERIOD: u64 = 100_000;
const KERNELS_SHARES: u64 = 1024;

/// The resources of a new container, on top of those in its handler's spec.
pub(super) fn container(
    base: Option<LinuxResources>,
    wanted: Option<&LinuxContainerResources>,
    host: &Host,
) -> Result<LinuxResources, Error> {
    let mut resources = base.unwrap_or_else(bare);
    if let Some(wanted) = wanted {
        apply(&mut resources, wanted, host, "config.linux.resources")?;
    }
    Ok(resources)
}

/// Changes a spec as UpdateContainerResources requests: a field that is 0 or empty does not change.
///
/// # Errors
/// [`Error`] names the field.
pub fn update_resources(spec: &mut Spec, update: &LinuxContainerResources, host: &Host) -> Result<(), Error> {
    apply(linux_of(spec).resources_mut().get_or_insert_with(bare), update, host, "linux")?;
    if update.oom_score_adj != 0 {
        process_of(spec).set_oom_score_adj(Some(oom_score(update.oom_score_adj, host)));
    }
    Ok(())
}

/// The resources that undo the update of a task: the old ones, or the kernel's own defaults where there were none.
/// cpusets and `unified` files of cgroup v2 that were not set before are not undone: there is no value that stands for
/// their defaults.
#[must_use]
pub fn resources_before(old: &Spec, new: &Spec) -> LinuxResources {
    let of = |spec: &Spec| spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    let mut before = of(old).unwrap_or_else(bare);
    let changed = of(new).unwrap_or_else(bare);
    if let Some(changed) = *changed.memory() {
        let mut memory = before.memory().unwrap_or_default();
        memory.set_limit(memory.limit().or(changed.limit().map(|_| NO_LIMIT)));
        memory.set_swap(memory.swap().or(changed.swap().map(|_| NO_LIMIT)));
        before.set_memory(Some(memory));
    }
    if let Some(changed) = changed.cpu() {
        let mut cpu = before.cpu().clone().unwrap_or_default();
        cpu.set_quota(cpu.quota().or(changed.quota().map(|_| NO_LIMIT)));
        cpu.set_period(cpu.period().or(changed.period().map(|_| KERNELS_PERIOD)));
        cpu.set_shares(cpu.shares().or(changed.shares().map(|_| KERNELS_SHARES)));
        before.set_cpu(Some(cpu));
    }
    before
}

/// oci-spec's default has a rule about devices; this one is empty.
fn bare() -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources
}

fn apply(
    resources: &mut LinuxResources,
    wanted: &LinuxContainerResources,
    host: &Host,
    field: &str,
) -> Result<(), Error> {
    if !OOM_SCORES.contains(&wanted.oom_score_adj) {
        let (least, most) = (OOM_SCORES.start(), OOM_SCORES.end());
        let problem = format!("{} is not between {least} and {most}", wanted.oom_score_adj);
        return Err(Error::invalid(format!("{field}.oom_score_adj"), problem));
    }
    resources.set_cpu(Some(cpu(resources.cpu().clone().unwrap_or_default(), wanted, field)?));
    resources.set_memory(Some(memory(*resources.memory(), wanted, host, field)?));
    if wanted.hugepage_limits.len() > PAGE_SIZES {
        let problem = format!("{} limits, more than {PAGE_SIZES}", wanted.hugepage_limits.len());
        return Err(Error::invalid(format!("{field}.hugepage_limits"), problem));
    }
    if !wanted.hugepage_limits.is_empty() {
        let base = resources.hugepage_limits().clone().unwrap_or_default();
        let limits = all_huge_pages(base, &wanted.hugepage_limits, host, field)?;
        resources.set_hugepage_limits(Some(limits).filter(|limits| !limits.is_empty()));
    }
    if !wanted.unified.is_empty() {
        if !host.cgroup_v2 {
            return Err(Error::unsupported(format!("{field}.unified"), "needs cgroup v2"));
        }
        if let Some(key) = wanted.unified.keys().find(|key| key.is_empty() || key.contains('/')) {
            return Err(Error::invalid(format!("{field}.unified"), format!("{key:?} is not a file of a cgroup")));
        }
        resources.unified_mut().get_or_insert_default().extend(wanted.unified.clone());
    }
    Ok(())
}

fn cpu(mut cpu: LinuxCpu, wanted: &LinuxContainerResources, field: &str) -> Result<LinuxCpu, Error> {
    let positive = |name: &str, value: i64| {
        u64::try_from(value).map_err(|_| Error::invalid(format!("{field}.{name}"), format!("{value} is negative")))
    };
    if wanted.cpu_period != 0 {
        cpu.set_period(Some(positive("cpu_period", wanted.cpu_period)?));
    }
    if wanted.cpu_shares != 0 {
        cpu.set_shares(Some(positive("cpu_shares", wanted.cpu_shares)?));
    }
    // -1 means no quota.
    if wanted.cpu_quota < -1 {
        return Err(Error::invalid(format!("{field}.cpu_quota"), format!("{} is below -1", wanted.cpu_quota)));
    }
    if wanted.cpu_quota != 0 {
        cpu.set_quota(Some(wanted.cpu_quota));
    }
    if !wanted.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(wanted.cpuset_cpus.clone()));
    }
    if !wanted.cpuset_mems.is_empty() {
        cpu.set_mems(Some(wanted.cpuset_mems.clone()));
    }
    Ok(cpu)
}

/// memory_swap_limit_in_bytes counts memory and swap together, as OCI's swap does.
fn memory(
    memory: Option<LinuxMemory>,
    wanted: &LinuxContainerResources,
    host: &Host,
    field: &str,
) -> Result<LinuxMemory, Error> {
    let mut memory = memory.unwrap_or_default();
    let limit = wanted.memory_limit_in_bytes;
    if limit < -1 {
        return Err(Error::invalid(format!("{field}.memory_limit_in_bytes"), format!("{limit} is below -1")));
    }
    if limit != 0 {
        memory.set_limit(Some(limit));
    }
    let swap = wanted.memory_swap_limit_in_bytes;
    if swap < -1 || limit > 0 && (1..limit).contains(&swap) {
        let problem = format!("{swap} is neither -1 nor at least memory_limit_in_bytes, which it contains");
        return Err(Error::invalid(format!("{field}.memory_swap_limit_in_bytes"), problem));
    }
    if host.swap && swap != 0 {
        // The kernel cannot limit swap without limiting memory, and runc would report that only when the container
        // starts.
        if swap > 0 && memory.limit().is_none_or(|limit| limit <= 0) {
            let problem = format!("{swap} is a limit of memory and swap together, and needs memory_limit_in_bytes");
            return Err(Error::invalid(format!("{field}.memory_swap_limit_in_bytes"), problem));
        }
        memory.set_swap(Some(swap));
    } else if host.swap && limit > 0 {
        // No swap unless the request allows some.
        memory.set_swap(Some(limit));
    }
    Ok(memory)
}

/// Each limit replaces an earlier one for the same page size.
fn all_huge_pages(
    mut all: Vec<LinuxHugepageLimit>,
    wanted: &[HugepageLimit],
    host: &Host,
    field: &str,
) -> Result<Vec<LinuxHugepageLimit>, Error> {
    for (index, limit) in wanted.iter().enumerate() {
        let field = format!("{field}.hugepage_limits[{index}]");
        let made = huge_pages(limit, &field)?;
        match all.iter_mut().find(|other| other.page_size() == made.page_size()) {
            _ if !host.hugetlb && limit.limit == 0 => {}
            _ if !host.hugetlb => return Err(Error::unsupported(field, "this host has no cgroup controller hugetlb")),
            Some(other) => *other = made,
            None => all.push(made),
        }
    }
    Ok(all)
}

fn huge_pages(limit: &HugepageLimit, field: &str) -> Result<LinuxHugepageLimit, Error> {
    let digits = limit.page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &limit.page_size[digits.len()..];
    if digits.is_empty() || digits.parse::<u64>().is_err() || !["KB", "MB", "GB"].contains(&unit) {
        return Err(Error::invalid(
            format!("{field}.page_size"),
            format!("{:?} is not a size such as 2MB", limit.page_size),
        ));
    }
    let mut oci = LinuxHugepageLimit::default();
    oci.set_page_size(limit.page_size.clone()).set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
    Ok(oci)
}
