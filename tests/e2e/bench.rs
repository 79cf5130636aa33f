//! The measurements of bench-stats.sh on one bed: `--bench stats|idle`, with `PONTOON_BED`. Prints a line for each
//! figure, as `name<TAB>value`: times and the CPU of a call in ms, the CPU of a period in s, memory in KiB. The script
//! compares the figures of two CRI servers.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pontoon::api::v1;

use crate::bed::{Bed, Target};
use crate::scope::Scope;
use crate::standing;

/// How many calls are made to get a median.
const CALLS: usize = 50;
/// How many slow calls are made to get a median: the built-in takes ten seconds for one with a hundred pods.
const SLOW_CALLS: usize = 3;
/// How long containerd is watched while no CRI server calls it, to get what it uses by itself.
const ALONE: Duration = Duration::from_secs(60);

/// Runs a benchmark and removes its pods.
pub fn main(what: &str) -> anyhow::Result<()> {
    let env = std::env::var_os("PONTOON_BED").context("PONTOON_BED is not set")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let bed = Arc::new(Bed::open(env.as_ref())?);
        bed.pull_test_image().await?;
        let scope = Arc::new(Scope::new(bed, "bench")?);
        let pods = number("PODS", 100)?;
        standing::fill(&scope, pods).await?;
        tell("pods", pods);
        let measured = match what {
            "stats" => stats(&scope).await,
            "idle" => idle(&scope, Duration::from_secs(number("SECONDS_IDLE", 300)?.try_into()?)).await,
            _ => bail!("--bench stats or idle, not {what}"),
        };
        measured.and(scope.sweep().await)
    })
}

/// A number from an environment variable.
pub fn number(variable: &str, default: usize) -> anyhow::Result<usize> {
    std::env::var(variable).map_or(Ok(default), |value| value.parse().with_context(|| variable.to_owned()))
}

fn tell(name: &str, value: impl std::fmt::Display) {
    println!("{name}\t{value}");
}

/// Makes `calls` calls, one after the other, and prints the median and the 90th percentile of their milliseconds. One
/// more call comes first, for which nothing is cached; it is printed separately. On a machine that is not idle, compare
/// the CPU time of a call, which is that of containerd and Pontoon.
async fn timed<F>(bed: &Bed, name: &str, calls: usize, mut call: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<usize>>,
{
    let mut times = Vec::new();
    let before = cpu(bed)?;
    for _ in 0..=calls {
        let start = Instant::now();
        let items = call().await.with_context(|| name.to_owned())?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        if times.len() == 1 {
            tell(&format!("{name} items"), items);
        }
    }
    tell(&format!("{name} first"), format!("{:.3}", times.remove(0)));
    times.sort_by(f64::total_cmp);
    tell(name, format!("{:.3}", times[times.len() / 2]));
    tell(&format!("{name} p90"), format!("{:.3}", times[times.len() * 9 / 10]));
    tell(&format!("{name} CPU"), format!("{:.2}", (cpu(bed)? - before) * 1000.0 / (calls + 1) as f64));
    Ok(())
}

async fn stats(scope: &Scope) -> anyhow::Result<()> {
    let bed = &scope.bed;
    // For a while there is no call: then the built-in's collector has settled, and Pontoon has nothing cached.
    tokio::time::sleep(Duration::from_secs(5)).await;
    timed(bed, "ListContainerStats", CALLS, || async {
        let request = v1::ListContainerStatsRequest::default();
        Ok(bed.runtime().list_container_stats(request).await?.into_inner().stats.len())
    })
    .await?;
    timed(bed, "ListPodSandboxStats", CALLS, || async {
        let request = v1::ListPodSandboxStatsRequest::default();
        Ok(bed.runtime().list_pod_sandbox_stats(request).await?.into_inner().stats.len())
    })
    .await?;
    let calls = if bed.target == Target::Pontoon { CALLS } else { SLOW_CALLS };
    timed(bed, "ListPodSandboxMetrics", calls, || async {
        let request = v1::ListPodSandboxMetricsRequest::default();
        let pods = bed.runtime().list_pod_sandbox_metrics(request).await?.into_inner().pod_metrics;
        Ok(pods.iter().flat_map(|pod| &pod.container_metrics).map(|one| one.metrics.len()).sum())
    })
    .await?;
    memory(bed)
}

/// Prints the memory of the daemon that serves CRI, and the number of its open files.
fn memory(bed: &Bed) -> anyhow::Result<()> {
    let pid = bed.pid(bed.server())?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    for key in ["RssAnon", "VmRSS"] {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).context(key)?;
        tell(key, line.trim().trim_end_matches(" kB"));
    }
    tell("files", std::fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    Ok(())
}

/// CPU seconds of a process with all its threads, without its children.
fn used(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<f64> { Ok(fields.get(at).context("stat")?.parse()?) };
    // utime and stime. The children that were waited for are shims and plugins from the start of the pods.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// CPU seconds of containerd, and of Pontoon if it serves CRI.
fn cpu(bed: &Bed) -> anyhow::Result<f64> {
    let ours = if bed.target == Target::Pontoon { used(bed.pid("pontoon")?)? } else { 0.0 };
    Ok(ours + used(bed.pid("containerd")?)?)
}

/// CPU seconds of all shims of the bed.
fn shims(bed: &Bed) -> anyhow::Result<f64> {
    let mut all = 0.0;
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        if command.contains("containerd-shim") && command.contains(&*bed.dir.to_string_lossy()) {
            all += used(pid).unwrap_or(0.0);
        }
    }
    Ok(all)
}

/// Makes the calls of kubelet: lists every second, Status every five, stats every ten.
async fn poll(bed: &Bed, for_so_long: Duration) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for second in 0..for_so_long.as_secs() {
        ticks.tick().await;
        bed.runtime().list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?;
        bed.runtime().list_containers(v1::ListContainersRequest::default()).await?;
        if second % 5 == 0 {
            bed.runtime().status(v1::StatusRequest::default()).await?;
        }
        if second % 10 == 0 {
            bed.runtime().list_container_stats(v1::ListContainerStatsRequest::default()).await?;
        }
    }
    Ok(())
}

async fn idle(scope: &Scope, for_so_long: Duration) -> anyhow::Result<()> {
    let bed = &scope.bed;
    // The work that remains after the start of the pods must not count as idle.
    poll(bed, Duration::from_secs(15)).await?;
    let (before, before_shims) = (cpu(bed)?, shims(bed)?);
    poll(bed, for_so_long).await?;
    let seconds = for_so_long.as_secs_f64();
    tell("seconds", seconds);
    tell("CPU polled", format!("{:.2}", cpu(bed)? - before));
    tell("CPU of shims", format!("{:.2}", shims(bed)? - before_shims));
    memory(bed)?;
    if bed.target == Target::Pontoon {
        tell("CPU of containerd alone", format!("{:.2}", containerd_alone(bed).await? * seconds));
    }
    Ok(())
}

/// CPU seconds per second of containerd while no server calls it: the daemon is stopped by SIGSTOP meanwhile.
async fn containerd_alone(bed: &Bed) -> anyhow::Result<f64> {
    let daemon = nix::unistd::Pid::from_raw(bed.pid("pontoon")?.try_into()?);
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGSTOP)?;
    let watched = async {
        let before = used(bed.pid("containerd")?)?;
        tokio::time::sleep(ALONE).await;
        anyhow::Ok((used(bed.pid("containerd")?)? - before) / ALONE.as_secs_f64())
    };
    let watched = watched.await;
    nix::sys::signal::kill(daemon, nix::sys::signal::Signal::SIGCONT)?;
    watched
}
