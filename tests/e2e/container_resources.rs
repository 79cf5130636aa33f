//! Limits: in the cgroup's files, before and after UpdateContainerResources.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;

use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, resources, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(limits_are_in_the_cgroups_files),
        rule!(oom_score_adj_is_set),
        rule!(an_update_changes_a_running_containers_limits),
        rule!(an_update_of_a_created_container_holds_when_it_starts),
        rule!(an_update_keeps_what_it_does_not_name),
        rule!(an_update_of_an_exited_container_is_an_error).only_pontoon("the built-in takes it"),
    ]
}

/// Limits of a container, read from the cgroup files of either version.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    memory: i64,
    /// `cpu.shares`, or what v2's weight was made from, roughly.
    shares: u64,
    quota: i64,
    period: i64,
}

/// Directory of a process's cgroup with `controller`.
fn cgroup(pid: u64, controller: &str) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == controller) {
            return Ok(PathBuf::from("/sys/fs/cgroup").join(controller).join(path));
        }
        let v2 = PathBuf::from("/sys/fs/cgroup").join(path);
        if controllers.is_empty() && v2.join("memory.max").exists() {
            return Ok(v2);
        }
    }
    anyhow::bail!("no {controller} in {text}")
}

impl Limits {
    async fn of(scope: &Scope, id: &str) -> anyhow::Result<Self> {
        let pid = scope.bed.pid_of(id).await?;
        let (memory, cpu) = (cgroup(pid, "memory")?, cgroup(pid, "cpu")?);
        let read = |file: PathBuf| -> anyhow::Result<String> {
            Ok(std::fs::read_to_string(&file).with_context(|| file.display().to_string())?.trim().to_owned())
        };
        if memory.join("memory.max").exists() {
            let max = read(cpu.join("cpu.max"))?;
            let (quota, period) = max.split_once(' ').context("cpu.max")?;
            let weight: u64 = read(cpu.join("cpu.weight"))?.parse()?;
            return Ok(Self {
                memory: read(memory.join("memory.max"))?.parse().unwrap_or(-1),
                shares: weight,
                quota: quota.parse().unwrap_or(-1),
                period: period.parse()?,
            });
        }
        Ok(Self {
            memory: read(memory.join("memory.limit_in_bytes"))?.parse()?,
            shares: read(cpu.join("cpu.shares"))?.parse()?,
            quota: read(cpu.join("cpu.cfs_quota_us"))?.parse()?,
            period: read(cpu.join("cpu.cfs_period_us"))?.parse()?,
        })
    }

    /// What a container with these resources has.
    fn expected(shares: u64, wanted: &v1::LinuxContainerResources) -> Self {
        let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Self {
            memory: wanted.memory_limit_in_bytes,
            shares: if v2 { weight(shares) } else { shares },
            quota: wanted.cpu_quota,
            period: wanted.cpu_period,
        }
    }
}

/// runc's conversion since 1.3: quadratic in the logarithm, so that 1024 shares are weight 100.
fn weight(shares: u64) -> u64 {
    match shares {
        1024 => 100,
        512 => 59,
        _ => 1 + ((shares - 2) * 9999) / 262_142,
    }
}

fn wanted(memory: i64, shares: i64, quota: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_shares: shares,
        cpu_quota: quota,
        cpu_period: 100_000,
        ..Default::default()
    }
}

async fn update(scope: &Scope, id: &str, linux: v1::LinuxContainerResources) -> anyhow::Result<()> {
    let request =
        v1::UpdateContainerResourcesRequest { container_id: id.to_owned(), linux: Some(linux), ..Default::default() };
    scope.bed.runtime().update_container_resources(request).await.context("UpdateContainerResources")?;
    Ok(())
}

async fn limits_are_in_the_cgroups_files(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let limits = wanted(64 << 20, 512, 50_000);
    let mut config = sleeper("main");
    *resources(&mut config) = limits.clone();
    let id = pod.start(config).await?;
    let found = Limits::of(&scope, &id).await?;
    ensure!(found == Limits::expected(512, &limits), "{found:?}");
    let status = scope.bed.status(&id).await?.resources.and_then(|r| r.linux).context("resources in the status")?;
    ensure!(
        status.memory_limit_in_bytes == 64 << 20 && status.cpu_quota == 50_000 && status.cpu_shares == 512,
        "{status:?}"
    );
    Ok(())
}

async fn oom_score_adj_is_set(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    resources(&mut config).oom_score_adj = 777;
    let id = pod.start(config).await?;
    let found = scope.bed.sh(&id, "cat /proc/1/oom_score_adj").await?;
    ensure!(found == "777", "{found}");
    Ok(())
}

async fn an_update_changes_a_running_containers_limits(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    *resources(&mut config) = wanted(64 << 20, 512, 50_000);
    let id = pod.start(config).await?;
    let limits = wanted(96 << 20, 1024, 70_000);
    update(&scope, &id, limits.clone()).await?;
    let found = Limits::of(&scope, &id).await?;
    ensure!(found == Limits::expected(1024, &limits), "{found:?}");
    let status = scope.bed.status(&id).await?.resources.and_then(|r| r.linux).context("resources in the status")?;
    ensure!(status.memory_limit_in_bytes == 96 << 20 && status.cpu_quota == 70_000, "{status:?}");
    Ok(())
}

async fn an_update_of_a_created_container_holds_when_it_starts(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    *resources(&mut config) = wanted(64 << 20, 512, 50_000);
    let id = pod.create(config).await?;
    let limits = wanted(96 << 20, 1024, 70_000);
    update(&scope, &id, limits.clone()).await?;
    scope.bed.start(&id).await?;
    let found = Limits::of(&scope, &id).await?;
    ensure!(found == Limits::expected(1024, &limits), "{found:?}");
    Ok(())
}

async fn an_update_keeps_what_it_does_not_name(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    let mut limits = wanted(64 << 20, 512, 50_000);
    *resources(&mut config) = limits.clone();
    let id = pod.start(config).await?;
    update(&scope, &id, v1::LinuxContainerResources { cpu_quota: 60_000, ..Default::default() }).await?;
    limits.cpu_quota = 60_000;
    let found = Limits::of(&scope, &id).await?;
    ensure!(found == Limits::expected(512, &limits), "{found:?}");
    Ok(())
}

async fn an_update_of_an_exited_container_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    scope.bed.stop(&id, 5).await?;
    let updated = update(&scope, &id, wanted(96 << 20, 1024, 70_000)).await;
    ensure!(updated.is_err(), "it succeeded");
    Ok(())
}
