//! What a shim holds, as far as it can be seen from outside.

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, SOON, until};
use crate::churn::held;
use crate::harness::Outcome;

/// Of what is asked of a shim until Go's collector has come: it comes when 4 MiB were allocated, or after two minutes.
const MOST_QUESTIONS: usize = 2000;

/// pid of the shim that has a container, or a pause container: the parent of its first process.
pub async fn shim_of(bed: &Bed, id: &str) -> anyhow::Result<u32> {
    let tasks = bed.ctr(&["task", "ls"]).await?;
    let task = tasks.lines().find(|line| line.starts_with(id)).with_context(|| format!("no task {id} in {tasks}"))?;
    let pid = task.split_whitespace().nth(1).context("pid")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("PPid")?;
    Ok(line.trim().parse()?)
}

/// Waits until Go's collector has closed the shim's pidfds, which are of runcs that it has run: its reaper waits for any child, so
/// that the wait of Go's os.Process finds none and leaves the descriptor to the collector. Each question allocates a little.
pub async fn collected(bed: &Bed, shim: u32, container: &str) -> Outcome {
    for _ in 0..MOST_QUESTIONS {
        if held(shim)?.pidfds == 0 {
            return Ok(());
        }
        bed.ctr(&["task", "metrics", container]).await?;
    }
    bail!("the shim keeps pidfds: {:?}", held(shim)?)
}

/// How many goroutines a shim has: by SIGUSR1 it writes the stack of each into containerd's log.
pub async fn goroutines(bed: &Bed, shim: u32) -> anyhow::Result<usize> {
    let log = bed.dir.join("logs/containerd.log");
    let before = std::fs::read_to_string(&log)?.len();
    kill(Pid::from_raw(shim.try_into()?), Signal::SIGUSR1)?;
    until(SOON, || async {
        let text = std::fs::read_to_string(&log)?;
        let (_, rest) = text[before..].split_once("=== BEGIN goroutine stack dump ===").context("no dump")?;
        let (dump, _) = rest.split_once("=== END goroutine stack dump ===").context("no end of the dump")?;
        // The log has it as one line.
        let number = dump.matches("\\ngoroutine ").count();
        ensure!(number > 0, "{dump}");
        Ok(number)
    })
    .await
}
