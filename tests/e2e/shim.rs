//! What a shim holds, as far as it can be seen from outside.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use containerd_client::services::v1::MetricsRequest;
use containerd_client::services::v1::tasks_client::TasksClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, SOON, until};
use crate::churn::held;
use crate::harness::{Outcome, SLOWNESS};

/// How long calls are made to a shim at most until Go's collector runs. It runs when 4 MiB have been allocated, or after
/// two minutes.
const COLLECTION: Duration = Duration::from_secs(150);

/// The pid of the shim of a container or of a pause container: the parent of its first process.
pub async fn shim_of(bed: &Bed, id: &str) -> anyhow::Result<u32> {
    let tasks = bed.ctr(&["task", "ls"]).await?;
    let task = tasks.lines().find(|line| line.starts_with(id)).with_context(|| format!("no task {id} in {tasks}"))?;
    let pid = task.split_whitespace().nth(1).context("pid")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("PPid")?;
    Ok(line.trim().parse()?)
}

/// Waits until Go's collector has closed the shim's pidfds of the runc processes that it has run. The shim's reaper
/// waits for any child, so the wait of Go's os.Process finds none and leaves the descriptor to the collector. Each call
/// allocates a little memory in the shim.
pub async fn collected(bed: &Bed, shim: u32, container: &str) -> Outcome {
    // Not ctr: a process for each of hundreds of calls would take most of the time.
    let mut tasks = TasksClient::new(bed.containerd()?);
    let start = Instant::now();
    while held(shim)?.pidfds > 0 {
        ensure!(start.elapsed() < COLLECTION * *SLOWNESS, "the shim keeps pidfds: {:?}", held(shim)?);
        let mut request = tonic::Request::new(MetricsRequest { filters: vec![format!("id=={container}")] });
        request.metadata_mut().insert("containerd-namespace", "k8s.io".parse()?);
        let metrics = tasks.metrics(request).await.context("Tasks.Metrics")?.into_inner().metrics;
        ensure!(metrics.len() == 1, "metrics of {} tasks", metrics.len());
    }
    Ok(())
}

/// How many goroutines a shim has. On SIGUSR1 it writes the stacks of all of them to containerd's log.
pub async fn goroutines(bed: &Bed, shim: u32) -> anyhow::Result<usize> {
    let log = bed.dir.join("logs/containerd.log");
    let before = std::fs::read_to_string(&log)?.len();
    kill(Pid::from_raw(shim.try_into()?), Signal::SIGUSR1)?;
    until(SOON, || async {
        let text = std::fs::read_to_string(&log)?;
        let (_, rest) = text[before..].split_once("=== BEGIN goroutine stack dump ===").context("no dump")?;
        let (dump, _) = rest.split_once("=== END goroutine stack dump ===").context("no end of the dump")?;
        // The dump is one line of the log.
        let number = dump.matches("\\ngoroutine ").count();
        ensure!(number > 0, "{dump}");
        Ok(number)
    })
    .await
}
