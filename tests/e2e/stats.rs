//! Statistics of pods and containers, compared with the counters of their cgroups and interfaces.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::NamespaceMode;
use tonic::Code;

use crate::bed::{SOON, Target, until};
use crate::container_resources::cgroup;
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, namespaces, resources, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(what_a_container_uses_lies_between_two_reads_of_its_cgroup),
        rule!(what_a_pod_uses_lies_between_two_reads_of_its_cgroup),
        rule!(a_rate_is_what_was_used_in_its_time),
        rule!(bytes_of_the_network_are_counted),
        rule!(a_pod_on_the_hosts_network_has_no_network_of_its_own),
        rule!(the_writable_layer_grows).within(120),
        rule!(what_does_not_run_is_listed_and_uses_nothing),
        rule!(stats_of_what_is_not_there_are_an_error),
        rule!(attributes_are_those_of_the_config),
        rule!(pressure_is_reported).only_if(cgroup2() && has_pressure(), "it needs cgroup v2, and a kernel with PSI"),
        rule!(swap_is_reported).only_pontoon("the built-in does not tell it"),
        rule!(metrics_are_described_and_lie_between_two_reads),
        rule!(files_of_a_cgroup_are_kept_open_and_let_go_when_it_is_gone).only_pontoon("it asks shims"),
    ]
}

fn cgroup2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether the kernel measures pressure (PSI). User Mode Linux may be built without it.
fn has_pressure() -> bool {
    Path::new("/proc/pressure/cpu").exists()
}

/// Uses CPU time all the time. Has some anonymous memory and some page cache, and keeps both.
const LOAD: &str = "head -c 8000000 /dev/zero >/cache; x=$(head -c 4000000 /dev/zero | tr '\\0' x); echo ready >/ready; \
                    while :; do :; done";

/// The kernel's counters of a cgroup.
#[derive(Debug, Clone, Copy)]
struct Direct {
    cpu: u64,
    memory: u64,
    working_set: u64,
    rss: u64,
    faults: u64,
    tasks: u64,
}

impl Direct {
    /// Reads the cgroup of a process; with `up`, the cgroup above it.
    fn of(pid: u64, up: bool) -> anyhow::Result<Self> {
        let read = |controller: &str, file: &str| -> anyhow::Result<String> {
            let directory = cgroup(pid, controller)?;
            let directory = if up { directory.parent().context("no parent")? } else { &directory };
            Ok(std::fs::read_to_string(directory.join(file))?)
        };
        let number =
            |controller: &str, file: &str| -> anyhow::Result<u64> { Ok(read(controller, file)?.trim().parse()?) };
        let value = |text: &str, key: &str| -> anyhow::Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            Ok(line.with_context(|| key.to_owned())?.parse()?)
        };
        let stat = read("memory", "memory.stat")?;
        let v2 = cgroup2();
        let memory = number("memory", if v2 { "memory.current" } else { "memory.usage_in_bytes" })?;
        let cpu = if v2 {
            value(&read("cpu", "cpu.stat")?, "usage_usec")? * 1000
        } else {
            number("cpuacct", "cpuacct.usage")?
        };
        let total = |key: &str| value(&stat, &if v2 { key.to_owned() } else { format!("total_{key}") });
        Ok(Self {
            cpu,
            memory,
            working_set: memory.saturating_sub(total("inactive_file")?),
            rss: if v2 { value(&stat, "anon")? } else { value(&stat, "total_rss")? },
            faults: total("pgfault")?,
            tasks: number("pids", "pids.current")?,
        })
    }
}

/// Memory that may be charged but not counted yet: the kernel counts in batches of 64 pages a CPU. Here for four CPUs.
const BATCHES: u64 = 4 * 64 * 4096;

fn between(what: &str, value: Option<v1::UInt64Value>, [before, after]: [u64; 2], slack: u64) -> Outcome {
    let value = value.with_context(|| format!("no {what}"))?.value;
    println!("{what}: {before} .. {value} .. {after}");
    let (least, most) = (before.min(after).saturating_sub(slack), before.max(after) + slack);
    ensure!((least..=most).contains(&value), "{what} is {value}, not between {least} and {most}");
    Ok(())
}

fn check(cpu: &v1::CpuUsage, memory: &v1::MemoryUsage, [before, after]: [Direct; 2]) -> Outcome {
    ensure!(cpu.timestamp > 0 && memory.timestamp > 0, "no time of reading");
    between("processor time", cpu.usage_core_nano_seconds, [before.cpu, after.cpu], 0)?;
    between("memory", memory.usage_bytes, [before.memory, after.memory], BATCHES)?;
    between("working set", memory.working_set_bytes, [before.working_set, after.working_set], BATCHES)?;
    between("rss", memory.rss_bytes, [before.rss, after.rss], BATCHES)?;
    between("page faults", memory.page_faults, [before.faults, after.faults], 0)
}

impl Scope {
    async fn container_stats(&self, id: &str) -> anyhow::Result<v1::ContainerStats> {
        let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
        let reply = self.bed.runtime().container_stats(request).await.context("ContainerStats")?;
        reply.into_inner().stats.context("no stats")
    }

    async fn listed(&self, filter: v1::ContainerStatsFilter) -> anyhow::Result<Vec<v1::ContainerStats>> {
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        Ok(self.bed.runtime().list_container_stats(request).await.context("ListContainerStats")?.into_inner().stats)
    }

    async fn pod_stats(&self, pod: &Pod) -> anyhow::Result<v1::LinuxPodSandboxStats> {
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let reply = self.bed.runtime().pod_sandbox_stats(request).await.context("PodSandboxStats")?;
        reply.into_inner().stats.and_then(|stats| stats.linux).context("no stats")
    }

    /// Starts a container that uses CPU time and has allocated all its memory. Returns its ID and pid.
    async fn load(&self, pod: &Pod) -> anyhow::Result<(String, u64)> {
        let mut config = shell("load", LOAD);
        resources(&mut config).memory_limit_in_bytes = 100 << 20;
        let id = pod.start(config).await?;
        until(SOON, || async { self.bed.sh(&id, "test -e /ready").await }).await?;
        let pid = self.bed.pid_of(&id).await?;
        Ok((id, pid))
    }
}

async fn what_a_container_uses_lies_between_two_reads_of_its_cgroup(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (id, pid) = scope.load(&pod).await?;
    for turn in 0..3 {
        let before = Direct::of(pid, false)?;
        let stats = if turn == 0 {
            scope.container_stats(&id).await?
        } else {
            let filter = v1::ContainerStatsFilter { id: id.clone(), ..Default::default() };
            scope.listed(filter).await?.pop().context("not listed")?
        };
        let after = Direct::of(pid, false)?;
        let (cpu, memory) = (stats.cpu.context("no cpu")?, stats.memory.context("no memory")?);
        check(&cpu, &memory, [before, after])?;
        let left = |direct: Direct| (100 << 20) - direct.working_set;
        between("available", memory.available_bytes, [left(before), left(after)], BATCHES)?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

async fn what_a_pod_uses_lies_between_two_reads_of_its_cgroup(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (id, pid) = scope.load(&pod).await?;
    let before = Direct::of(pid, true)?;
    let stats = scope.pod_stats(&pod).await?;
    let after = Direct::of(pid, true)?;
    check(&stats.cpu.context("no cpu")?, &stats.memory.context("no memory")?, [before, after])?;
    // The built-in counts the containers' tasks without the pause container.
    let process = stats.process.context("no process")?;
    between("tasks", process.process_count, [before.tasks, after.tasks], 1)?;
    ensure!(stats.containers.len() == 1 && stats.containers[0].attributes.as_ref().is_some_and(|one| one.id == id));
    let request = v1::ListPodSandboxStatsRequest {
        filter: Some(v1::PodSandboxStatsFilter { id: pod.id.clone(), ..Default::default() }),
    };
    let listed = scope.bed.runtime().list_pod_sandbox_stats(request).await?.into_inner().stats;
    ensure!(listed.len() == 1, "listed: {listed:?}");
    Ok(())
}

async fn a_rate_is_what_was_used_in_its_time(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (id, pid) = scope.load(&pod).await?;
    let sample = || async {
        let cpu = scope.container_stats(&id).await?.cpu.context("no cpu")?;
        anyhow::Ok((cpu.timestamp, cpu.usage_core_nano_seconds.context("no usage")?.value, cpu.usage_nano_cores))
    };
    let first = sample().await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let request = v1::ContainerStatsFilter { id: id.clone(), ..Default::default() };
    let cpu = scope.listed(request).await?.pop().and_then(|stats| stats.cpu).context("no cpu")?;
    let rate = cpu.usage_nano_cores.context("no rate at the second question")?.value;
    let used = cpu.usage_core_nano_seconds.context("no usage")?.value - first.1;
    let mean = used * 1_000_000_000 / u64::try_from(cpu.timestamp - first.0)?;
    println!("rate {rate}, mean of 4 s {mean}, of the cgroup {}", Direct::of(pid, false)?.cpu);
    // The sampler may have read in between, and on a loaded machine the rate varies from second to second.
    ensure!(rate > mean / 4 && rate < mean * 4, "rate {rate}, mean {mean}");
    until(SOON, || async {
        let cpu = scope.pod_stats(&pod).await?.cpu.context("no cpu of the pod")?;
        ensure!(cpu.usage_nano_cores.is_some_and(|rate| rate.value > 0), "{cpu:?}");
        Ok(())
    })
    .await
}

/// Received and sent bytes of eth0, as /proc/PID/net/dev shows them for a process.
fn eth0(pid: u64) -> anyhow::Result<[u64; 2]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok([numbers[0], numbers[8]])
}

async fn bytes_of_the_network_are_counted(scope: Arc<Scope>) -> Outcome {
    let (server, client) = (scope.pod().await?, scope.pod().await?);
    server.start(shell("main", "head -c 1000000 /dev/zero >/tmp/big; httpd -f -p 8000 -h /tmp")).await?;
    let ip = server.ips().await?.remove(0);
    let id = client.start(sleeper("main")).await?;
    let pid = scope.bed.pid_of(&id).await?;
    let get = format!("printf 'GET /big HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {ip} 8000 | wc -c");
    until(SOON, || async {
        let got: u64 = scope.bed.sh(&id, &get).await?.trim().parse()?;
        ensure!(got > 1_000_000, "{got} bytes");
        Ok(())
    })
    .await?;
    let before = eth0(pid)?;
    let network = scope.pod_stats(&client).await?.network.context("no network")?;
    let after = eth0(pid)?;
    ensure!(network.timestamp > 0);
    let default = network.default_interface.context("no default interface")?;
    ensure!(default.name == "eth0", "{default:?}");
    ensure!(default.rx_bytes.is_some_and(|bytes| bytes.value > 1_000_000), "{default:?}");
    between("received", default.rx_bytes, [before[0], after[0]], 0)?;
    between("sent", default.tx_bytes, [before[1], after[1]], 0)?;
    ensure!(!network.interfaces.iter().any(|interface| interface.name == "lo"));
    if scope.bed.target == Target::Pontoon {
        // As the proto says: "all found network interfaces, excluding the default".
        ensure!(network.interfaces.is_empty(), "{:?}", network.interfaces);
    }
    Ok(())
}

async fn a_pod_on_the_hosts_network_has_no_network_of_its_own(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options =
        Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    let pod = scope.run(config).await?;
    let stats = scope.pod_stats(&pod).await?;
    ensure!(stats.network.is_none(), "{:?}", stats.network);
    Ok(())
}

async fn the_writable_layer_grows(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let layer = || async {
        let layer = scope.container_stats(&id).await?.writable_layer.context("no writable layer")?;
        ensure!(layer.timestamp > 0, "not measured yet");
        Ok(layer)
    };
    let before = until(Duration::from_secs(30), layer).await?;
    let root = before.fs_id.clone().context("no fs_id")?.mountpoint;
    ensure!(Path::new(&root).is_dir(), "{root} is not a directory");
    scope.bed.sh(&id, "head -c 4194304 /dev/zero >/big; for i in 1 2 3; do : >/file$i; done; sync").await?;
    let grown = until(Duration::from_secs(60), || async {
        let now = layer().await?;
        let bytes = now.used_bytes.context("no bytes")?.value - before.used_bytes.context("no bytes")?.value;
        ensure!(bytes >= 4 << 20, "{bytes} bytes more");
        Ok(now)
    });
    let grown = grown.await?;
    let inodes = grown.inodes_used.context("no inodes")?.value - before.inodes_used.context("no inodes")?.value;
    ensure!(inodes >= 4, "{inodes} inodes more");
    ensure!(grown.timestamp > before.timestamp);
    Ok(())
}

async fn what_does_not_run_is_listed_and_uses_nothing(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let created = pod.create(sleeper("created")).await?;
    let exited = pod.start(shell("exited", "exit 3")).await?;
    scope.bed.exited(&exited).await?;
    let filter = v1::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    // The built-in deletes the task a moment after it reports the exit.
    until(SOON, || async {
        let listed = scope.listed(filter.clone()).await?;
        for id in [&created, &exited] {
            let stats = listed.iter().find(|stats| stats.attributes.as_ref().is_some_and(|one| one.id == *id));
            let stats = stats.with_context(|| format!("{id} is not listed"))?;
            ensure!(stats.cpu.is_none() && stats.memory.is_none(), "{stats:?}");
            ensure!(stats.writable_layer.is_some(), "{stats:?}");
        }
        Ok(())
    })
    .await
}

async fn stats_of_what_is_not_there_are_an_error(scope: Arc<Scope>) -> Outcome {
    let id = "0".repeat(64);
    let request = v1::ContainerStatsRequest { container_id: id.clone() };
    let error = scope.bed.runtime().container_stats(request).await.err().context("stats of no container")?;
    ensure!(error.code() == Code::NotFound, "{error}");
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: id };
    let error = scope.bed.runtime().pod_sandbox_stats(request).await.err().context("stats of no pod")?;
    ensure!(error.code() == Code::NotFound, "{error}");
    Ok(())
}

async fn attributes_are_those_of_the_config(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    config.annotations = HashMap::from([("of/pod".to_owned(), "kept as it is\n".to_owned())]);
    let pod = scope.run(config).await?;
    let mut container = sleeper("main");
    container.annotations = HashMap::from([("of/container".to_owned(), "{}".to_owned())]);
    let id = pod.start(container.clone()).await?;
    let attributes = scope.container_stats(&id).await?.attributes.context("no attributes")?;
    ensure!(attributes.metadata == container.metadata && attributes.labels == container.labels, "{attributes:?}");
    ensure!(attributes.annotations == container.annotations, "{attributes:?}");
    let filter = v1::PodSandboxStatsFilter { label_selector: pod.config.labels.clone(), ..Default::default() };
    let request = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
    let listed = scope.bed.runtime().list_pod_sandbox_stats(request).await?.into_inner().stats;
    let attributes = listed.into_iter().find_map(|stats| stats.attributes.filter(|one| one.id == pod.id));
    let attributes = attributes.context("not listed")?;
    ensure!(attributes.metadata == pod.config.metadata && attributes.labels == pod.config.labels, "{attributes:?}");
    ensure!(attributes.annotations == pod.config.annotations, "{attributes:?}");
    Ok(())
}

async fn pressure_is_reported(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (id, _) = scope.load(&pod).await?;
    let stats = scope.container_stats(&id).await?;
    for psi in
        [stats.cpu.and_then(|cpu| cpu.psi), stats.memory.and_then(|memory| memory.psi), stats.io.and_then(|io| io.psi)]
    {
        let psi = psi.context("no pressure")?;
        ensure!(psi.some.is_some(), "{psi:?}");
    }
    Ok(())
}

async fn swap_is_reported(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let pid = scope.bed.pid_of(&id).await?;
    let file = if cgroup2() { "memory.swap.current" } else { "memory.memsw.limit_in_bytes" };
    let swap = scope.container_stats(&id).await?.swap;
    if cgroup(pid, "memory")?.join(file).exists() {
        let swap = swap.context("no swap")?;
        ensure!(swap.timestamp > 0 && swap.swap_usage_bytes.is_some_and(|bytes| bytes.value < 1 << 30), "{swap:?}");
    } else {
        ensure!(swap.is_none(), "{swap:?}");
    }
    Ok(())
}

async fn metrics_are_described_and_lie_between_two_reads(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (id, pid) = scope.load(&pod).await?;
    let mut cri = scope.bed.runtime();
    let described = cri.list_metric_descriptors(v1::ListMetricDescriptorsRequest {}).await?.into_inner().descriptors;
    let keys: HashMap<&str, &[String]> =
        described.iter().map(|descriptor| (descriptor.name.as_str(), descriptor.label_keys.as_slice())).collect();
    // The first call only starts the measurement of the writable layer, so its response need not contain it.
    until(SOON, || async {
        let request = v1::ListPodSandboxMetricsRequest {};
        let pods = scope.bed.runtime().list_pod_sandbox_metrics(request).await?.into_inner().pod_metrics;
        let mut containers = pods.iter().flat_map(|pod| &pod.container_metrics);
        let container = containers.find(|one| one.container_id == id).context("the container has no metrics")?;
        ensure!(container.metrics.iter().any(|metric| metric.name == "container_fs_usage_bytes"), "no file system");
        Ok(())
    })
    .await?;
    let before = (Direct::of(pid, false)?, eth0(pid)?);
    let pods = cri.list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).await?.into_inner().pod_metrics;
    let after = (Direct::of(pid, false)?, eth0(pid)?);
    let told = pods.iter().find(|one| one.pod_sandbox_id == pod.id).context("the pod has no metrics")?;
    let containers = &told.container_metrics;
    let container = containers.iter().find(|one| one.container_id == id).context("the container has no metrics")?;
    for metric in told.metrics.iter().chain(&container.metrics) {
        let keys = keys.get(metric.name.as_str()).with_context(|| format!("{} is not described", metric.name))?;
        ensure!(metric.label_values.len() == keys.len(), "{metric:?}: {keys:?}");
    }
    let value =
        |metrics: &[v1::Metric], name: &str| metrics.iter().find(|one| one.name == name).and_then(|one| one.value);
    let of = |name: &str| value(&container.metrics, name);
    let (b, a) = (before.0, after.0);
    let seconds = [b.cpu / 1_000_000_000, a.cpu / 1_000_000_000];
    between("container_cpu_usage_seconds_total", of("container_cpu_usage_seconds_total"), seconds, 0)?;
    between("container_memory_usage_bytes", of("container_memory_usage_bytes"), [b.memory, a.memory], BATCHES)?;
    between("container_memory_rss", of("container_memory_rss"), [b.rss, a.rss], BATCHES)?;
    between("container_threads", of("container_threads"), [b.tasks, a.tasks], 0)?;
    between("container_spec_memory_limit_bytes", of("container_spec_memory_limit_bytes"), [100 << 20; 2], 0)?;
    for name in [
        "container_file_descriptors",
        "container_processes",
        "container_fs_limit_bytes",
        "container_start_time_seconds",
    ] {
        ensure!(of(name).is_some_and(|value| value.value > 0), "{name}: {:?}", of(name));
    }
    let received = value(&told.metrics, "container_network_receive_bytes_total");
    between("container_network_receive_bytes_total", received, [before.1[0], after.1[0]], 0)?;
    println!("{} descriptors, {} metrics of a container", described.len(), container.metrics.len());
    if scope.bed.target == Target::Pontoon {
        // A kernel without transparent huge pages has none of their metrics: up to three.
        let has_huge_pages = Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        let least = if cgroup2() { 62 } else { 55 } - if has_huge_pages { 0 } else { 3 };
        ensure!(described.len() >= least, "{}", described.len());
    }
    Ok(())
}

async fn files_of_a_cgroup_are_kept_open_and_let_go_when_it_is_gone(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let daemon = scope.bed.pid("pontoon")?;
    let kept = || -> anyhow::Result<Vec<String>> {
        let files = std::fs::read_dir(format!("/proc/{daemon}/fd"))?.flatten();
        let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        let names = targets.map(|target| target.display().to_string());
        Ok(names.filter(|name| name.starts_with("/sys/fs/cgroup") && name.contains(&id)).collect())
    };
    // The file that counts the container's OOM kills is open as long as the container runs.
    let before = kept()?;
    ensure!(before.len() <= 2 && before.iter().all(|name| name.contains("/memory.")), "{before:?}");
    scope.container_stats(&id).await?;
    let first = kept()?;
    ensure!(first.len() >= before.len() + 4, "{first:?}");
    for _ in 0..3 {
        scope.container_stats(&id).await?;
    }
    ensure!(kept()? == first, "{first:?}, then {:?}", kept()?);
    pod.stop().await?;
    // The sampler reads every ten seconds, and closes the files when the cgroup is gone.
    until(Duration::from_secs(20), || async {
        let kept = kept()?;
        ensure!(kept.is_empty(), "{kept:?}");
        Ok(())
    })
    .await
}
