//! Resource limits: the values in the cgroup's files, before and after UpdateContainerResources.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use serde_json::json;

use crate::bed::{SOON, Target, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, resources, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(limits_are_in_the_cgroups_files),
        rule!(oom_score_adj_is_set),
        rule!(an_update_changes_a_running_containers_limits),
        rule!(an_update_of_a_created_container_holds_when_it_starts),
        rule!(an_update_keeps_what_it_does_not_name),
        rule!(an_update_of_an_exited_container_is_an_error).only_pontoon("the built-in takes it"),
        rule!(an_update_that_the_kernel_refuses_changes_nothing),
        rule!(an_update_changes_oom_score_adj_of_what_runs).only_pontoon("the built-in ignores it"),
        rule!(updates_at_the_same_time_lose_nothing).only_if(has_cpusets(), NO_CPUSETS),
        rule!(an_update_while_it_starts_holds).only_pontoon("the built-in refuses it, or loses it"),
        rule!(what_this_host_cannot_limit_is_refused).only_pontoon("the built-in ignores it"),
        rule!(cpusets_are_set_and_updated).only_if(has_cpusets(), NO_CPUSETS),
        // On cgroup v1, what_this_host_cannot_limit_is_refused applies instead.
        rule!(files_of_cgroup_v2_are_written_and_updated).only_if(cgroup2(), "it needs cgroup v2"),
        rule!(a_pods_resources_are_updated),
    ]
}

fn cgroup2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

const NO_CPUSETS: &str = "the kernel has no cgroup controller cpuset";

fn has_cpusets() -> bool {
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    Path::new("/sys/fs/cgroup/cpuset").is_dir() || v2.split_whitespace().any(|name| name == "cpuset")
}

/// Limits of a container, read from the files of cgroup v1 or v2.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    memory: i64,
    /// `cpu.shares`; on cgroup v2 the weight that was computed from it.
    shares: u64,
    quota: i64,
    period: i64,
}

/// Directory of a process's cgroup in the hierarchy of `controller`.
pub fn cgroup(pid: u64, controller: &str) -> anyhow::Result<PathBuf> {
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

    /// The values in the cgroup of a container with these resources.
    fn expected(shares: u64, wanted: &v1::LinuxContainerResources) -> Self {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Self {
            memory: wanted.memory_limit_in_bytes,
            shares: if v2 { weight(shares) } else { shares },
            quota: wanted.cpu_quota,
            period: wanted.cpu_period,
        }
    }
}

/// runc's conversion of shares to a weight since 1.3: quadratic in the logarithm, so that 1024 shares become weight
/// 100. Contains the results for the shares that the tests use. Other shares are converted by the older, linear
/// formula.
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

async fn reported(scope: &Scope, id: &str) -> anyhow::Result<v1::LinuxContainerResources> {
    scope.bed.status(id).await?.resources.and_then(|resources| resources.linux).context("resources in the status")
}

async fn an_update_that_the_kernel_refuses_changes_nothing(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    *resources(&mut config) = wanted(64 << 20, 512, 50_000);
    let id = pod.start(config).await?;
    let (before, told) = (Limits::of(&scope, &id).await?, reported(&scope, &id).await?);
    let pid = scope.bed.pid_of(&id).await?;
    let score = || std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    let scored = score()?;
    // No machine has that many processors.
    let impossible = v1::LinuxContainerResources {
        cpuset_cpus: "0-8191".into(),
        oom_score_adj: 555,
        ..wanted(96 << 20, 1024, 70_000)
    };
    let refused = update(&scope, &id, impossible.clone()).await;
    ensure!(refused.is_err(), "it succeeded");
    let after = Limits::of(&scope, &id).await?;
    ensure!(after == before, "{after:?} and not {before:?}");
    let status = reported(&scope, &id).await?;
    ensure!(status == told, "{status:?} and not {told:?}");
    ensure!(score()? == scored, "oom_score_adj was {scored} and is {}", score()?);
    // A refused update must not affect the next one either.
    let next = wanted(80 << 20, 512, 60_000);
    update(&scope, &id, next.clone()).await?;
    let found = Limits::of(&scope, &id).await?;
    ensure!(found == Limits::expected(512, &next), "{found:?}");
    Ok(())
}

async fn an_update_changes_oom_score_adj_of_what_runs(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "sleep 1000 & echo 990 >/proc/$!/oom_score_adj; sleep 1000 & wait");
    resources(&mut config).oom_score_adj = 777;
    let id = pod.start(config).await?;
    // Only the container's processes: runc gives those of the exec the value from the container's creation.
    let scores = "cat /proc/1/oom_score_adj; for p in /proc/[0-9]*; do \
                  grep -q '^sleep.1000' $p/cmdline && cat $p/oom_score_adj; done 2>/dev/null | sort";
    let are = async |expected: &str| {
        until(SOON, || async {
            let found = scope.bed.sh(&id, scores).await?.replace('\n', " ");
            ensure!(found == expected, "{found} and not {expected}");
            Ok(())
        })
        .await
    };
    are("777 777 990").await?;
    update(&scope, &id, v1::LinuxContainerResources { oom_score_adj: 888, ..Default::default() }).await?;
    are("888 888 990").await?;
    let told = reported(&scope, &id).await?.oom_score_adj;
    ensure!(told == 888, "{told}");
    Ok(())
}

async fn updates_at_the_same_time_lose_nothing(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    *resources(&mut config) = wanted(64 << 20, 512, 50_000);
    let id = pod.start(config).await?;
    let nothing = v1::LinuxContainerResources::default();
    let parts = [
        v1::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..nothing.clone() },
        v1::LinuxContainerResources { cpu_shares: 1024, ..nothing.clone() },
        v1::LinuxContainerResources { cpu_quota: 70_000, ..nothing.clone() },
        v1::LinuxContainerResources { cpuset_cpus: "0".into(), ..nothing },
    ];
    let done = parts.map(|part| update(&scope, &id, part));
    let [a, b, c, d] = done;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    a.and(b).and(c).and(d)?;
    let found = Limits::of(&scope, &id).await?;
    ensure!(found == Limits::expected(1024, &wanted(96 << 20, 1024, 70_000)), "{found:?}");
    let told = reported(&scope, &id).await?;
    ensure!(
        (told.memory_limit_in_bytes, told.cpu_shares, told.cpu_quota, told.cpuset_cpus.as_str())
            == (96 << 20, 1024, 70_000, "0"),
        "{told:?}"
    );
    Ok(())
}

async fn an_update_while_it_starts_holds(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for round in 0..4 {
        let mut config = sleeper(&format!("c{round}"));
        *resources(&mut config) = wanted(64 << 20, 512, 50_000);
        let id = pod.create(config).await?;
        let limits = wanted(96 << 20, 1024, 70_000);
        let later = async {
            tokio::time::sleep(std::time::Duration::from_millis(15 * round)).await;
            update(&scope, &id, limits.clone()).await
        };
        let (started, updated) = tokio::join!(scope.bed.start(&id), later);
        started?;
        updated?;
        let found = Limits::of(&scope, &id).await?;
        ensure!(found == Limits::expected(1024, &limits), "round {round}: {found:?}");
    }
    Ok(())
}

/// Huge pages if the kernel has no controller for them, and files of cgroup v2 on v1.
async fn what_this_host_cannot_limit_is_refused(scope: Arc<Scope>) -> Outcome {
    let root = PathBuf::from("/sys/fs/cgroup");
    let v2 = root.join("cgroup.controllers").exists();
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let pod = scope.pod().await?;
    let pages = |limit| vec![v1::HugepageLimit { page_size: "2MB".into(), limit }];
    if !root.join("hugetlb").exists() && !controllers.contains("hugetlb") {
        let mut config = sleeper("pages");
        resources(&mut config).hugepage_limits = pages(2 << 20);
        let error = pod.create(config).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains("config.linux.resources.hugepage_limits[0]"), "{error}");
        // kubelet sends a limit of 0 for every container.
        let mut config = sleeper("none");
        resources(&mut config).hugepage_limits = pages(0);
        pod.start(config).await?;
    }
    if !v2 {
        let mut config = sleeper("unified");
        resources(&mut config).unified = [("memory.high".to_owned(), "1000000000".to_owned())].into();
        let error = pod.create(config).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains("config.linux.resources.unified: needs cgroup v2"), "{error}");
    }
    Ok(())
}

/// The swap limit and `unified`, which cgroup v1 does not have in this form.
async fn files_of_cgroup_v2_are_written_and_updated(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    *resources(&mut config) = v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 96 << 20,
        unified: [("memory.high".to_owned(), (32 << 20).to_string())].into(),
        ..Default::default()
    };
    let id = pod.start(config).await?;
    let directory = cgroup(scope.bed.pid_of(&id).await?, "memory")?;
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).map(|text| text.trim().to_owned());
    ensure!(read("memory.high")? == (32 << 20).to_string(), "memory.high is {}", read("memory.high")?);
    if directory.join("memory.swap.max").exists() {
        ensure!(read("memory.swap.max")? == (32 << 20).to_string(), "memory.swap.max is {}", read("memory.swap.max")?);
    }
    let unified = [("memory.high".to_owned(), (48 << 20).to_string())].into();
    update(&scope, &id, v1::LinuxContainerResources { unified, ..Default::default() }).await?;
    ensure!(read("memory.high")? == (48 << 20).to_string(), "memory.high is {}", read("memory.high")?);
    let told = reported(&scope, &id).await?.unified;
    ensure!(told.get("memory.high").is_some_and(|value| *value == (48 << 20).to_string()), "{told:?}");
    Ok(())
}

async fn cpusets_are_set_and_updated(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    (resources(&mut config).cpuset_cpus, resources(&mut config).cpuset_mems) = ("0".into(), "0".into());
    let id = pod.start(config).await?;
    let allowed = "grep -E '^(Cpus|Mems)_allowed_list' /proc/1/status | tr -d '\\t' | tr '\\n' ' '";
    let said = scope.bed.sh(&id, allowed).await?;
    ensure!(said == "Cpus_allowed_list:0 Mems_allowed_list:0", "{said}");
    let last = std::thread::available_parallelism()?.get() - 1;
    update(&scope, &id, v1::LinuxContainerResources { cpuset_cpus: last.to_string(), ..Default::default() }).await?;
    let said = scope.bed.sh(&id, allowed).await?;
    ensure!(said == format!("Cpus_allowed_list:{last} Mems_allowed_list:0"), "{said}");
    Ok(())
}

async fn a_pods_resources_are_updated(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut runtime = scope.bed.runtime();
    let request = |id: &str| v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead: None,
        resources: Some(wanted(128 << 20, 2048, 100_000)),
    };
    runtime.update_pod_sandbox_resources(request(&pod.id)).await.context("UpdatePodSandboxResources")?;
    let unknown = runtime.update_pod_sandbox_resources(request(&"0".repeat(64))).await;
    ensure!(unknown.as_ref().is_err_and(|status| status.code() == tonic::Code::NotFound), "{unknown:?}");
    if scope.bed.target == Target::Pontoon {
        let info = pod.status().await?.info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").context("info")?)?;
        let shown = &info["config"]["linux"]["resources"];
        ensure!(shown["memory_limit_in_bytes"] == json!(128 << 20), "{shown}");
    }
    Ok(())
}
