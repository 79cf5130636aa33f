//! Converts a spec back to what ContainerStatus reports.

use oci_spec::runtime::Spec;

use crate::api::v1::{ContainerResources, ContainerUser, HugepageLimit, LinuxContainerResources, LinuxContainerUser};

/// The resources in a spec.
#[must_use]
pub fn reported_resources(spec: &Spec) -> ContainerResources {
    let mut linux = LinuxContainerResources::default();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    if let Some(cpu) = resources.cpu() {
        let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
        linux.cpu_period = number(cpu.period());
        linux.cpu_shares = number(cpu.shares());
        linux.cpu_quota = cpu.quota().unwrap_or(0);
        linux.cpuset_cpus = cpu.cpus().clone().unwrap_or_default();
        linux.cpuset_mems = cpu.mems().clone().unwrap_or_default();
    }
    if let Some(memory) = resources.memory() {
        linux.memory_limit_in_bytes = memory.limit().unwrap_or(0);
        linux.memory_swap_limit_in_bytes = memory.swap().unwrap_or(0);
    }
    linux.hugepage_limits = resources
        .hugepage_limits()
        .iter()
        .flatten()
        .map(|limit| HugepageLimit {
            page_size: limit.page_size().clone(),
            limit: u64::try_from(limit.limit()).unwrap_or(0),
        })
        .collect();
    linux.unified = resources.unified().clone().unwrap_or_default();
    linux.oom_score_adj = spec.process().as_ref().and_then(|process| process.oom_score_adj()).map_or(0, i64::from);
    ContainerResources { linux: Some(linux), windows: None }
}

/// The user that the process of a spec runs as.
#[must_use]
pub fn reported_user(spec: &Spec) -> ContainerUser {
    let Some(process) = spec.process() else { return ContainerUser::default() };
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid().into(),
            gid: user.gid().into(),
            supplemental_groups: groups.into_iter().map(i64::from).collect(),
        }),
    }
}
