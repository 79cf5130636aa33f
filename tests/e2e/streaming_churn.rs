//! Sessions whose client goes away without a word, hundreds of them: nothing stays of any.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1::ContainerConfig;

use crate::bed::{Bed, Target};
use crate::churn::{Held, daemon, rss_anon, settled};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, shell, sleeper};
use crate::streaming::{STDIN, Session, TTY};

const ROUNDS: usize = 3;
/// What the shim may have open of its last exec: less than one a round.
const SHIM_FILES: usize = 8;
const SHIM_THREADS: usize = 4;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(cve_2022_23471_and_2025_64329_sessions_whose_client_drops_leave_nothing)
            .alone()
            .within(if number() > 100 { 3600 } else { 300 }),
    ]
}

/// Execs, and attaches, of a round: `E2E_SESSIONS` (`make churn-streaming` has 667, which is 2,000 in three).
fn number() -> usize {
    std::env::var("E2E_SESSIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(80)
}

/// pid of the shim that has a container: the parent of its first process.
pub async fn shim_of(bed: &Bed, id: &str) -> anyhow::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bed.pid_of(id).await?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("PPid")?;
    Ok(line.trim().parse()?)
}

/// What drops in a round: execs on a terminal, some of which cannot start; attaches; attaches to a dead container.
async fn round(scope: &Scope, ids: [&str; 4], number: usize) -> Outcome {
    let [main, quiet, talker, dead] = ids;
    let bed = &scope.bed;
    // The built-in lets the command run on.
    let sleep = if bed.target == Target::Pontoon { "1000" } else { "2" };
    let command = format!("echo here; exec sleep {sleep}");
    let command = ["sh", "-c", &command];
    let exec = || bed.exec_url(main, &command, TTY);
    bed.drop_sessions(&["-stdin", "-tty"], number, exec).await.context("execs")?;
    let missing = || bed.exec_url(main, &["/no/such/program"], TTY);
    bed.drop_sessions(&["-stdin", "-tty", "-quiet"], number / 10, missing).await.context("execs that fail")?;
    let attach = || bed.attach_url(quiet, STDIN);
    bed.drop_sessions(&["-kind", "attach", "-stdin", "-quiet"], number / 2, attach).await.context("quiet attaches")?;
    let attach = || bed.attach_url(talker, STDIN);
    bed.drop_sessions(&["-kind", "attach", "-stdin"], number - number / 2, attach).await.context("attaches")?;
    for _ in 0..number / 10 {
        ensure!(bed.attach_url(dead, STDIN).await.is_err(), "attached to a container that has ended");
    }
    Ok(())
}

async fn cve_2022_23471_and_2025_64329_sessions_whose_client_drops_leave_nothing(scope: Arc<Scope>) -> Outcome {
    let bed = &scope.bed;
    let pod = scope.pod().await?;
    let main = pod.start(sleeper("main")).await?;
    let quiet = pod.start(ContainerConfig { stdin: true, ..sleeper("quiet") }).await?;
    let talking = "trap 'exit 0' TERM; while :; do echo something; sleep 0.1; done";
    let talker = pod.start(ContainerConfig { stdin: true, ..shell("talker", talking) }).await?;
    let dead = pod.start(ContainerConfig { stdin: true, ..shell("dead", "exit 0") }).await?;
    bed.exited(&dead).await?;
    // One that was handed out while the container ran is no good afterwards.
    let late = pod.start(ContainerConfig { stdin: true, ..sleeper("late") }).await?;
    let url = bed.attach_url(&late, STDIN).await?;
    bed.stop(&late, 5).await?;
    let ended = Session::start(bed.tool("streamer").args(["attach", "-stdin", &url]))?.ends().await?;
    ensure!(ended.code != 0 || ended.stdout.is_empty(), "{ended:?}");

    let (server, shim) = (daemon(bed)?, shim_of(bed, &main).await?);
    let ids = [main.as_str(), &quiet, &talker, &dead];
    round(&scope, ids, number()).await.context("warming up")?;
    let mut rounds: Vec<(Held, Held, f64)> = Vec::new();
    for turn in 1..=ROUNDS {
        round(&scope, ids, number()).await.with_context(|| format!("round {turn}"))?;
        let (of_server, of_shim) = tokio::try_join!(settled(server), settled(shim))?;
        let memory = rss_anon(server)?;
        println!("    after round {turn}: {of_server:?}, the shim {of_shim:?}, {memory} KiB of memory");
        rounds.push((of_server, of_shim, memory));
    }
    let left = bed.sh(&main, "ps -o args | grep -c '[s]leep 1000$' || true").await?;
    if bed.target == Target::Pontoon {
        // Its own one.
        ensure!(left == "1", "{left} processes sleep in the container");
        ensure!(rounds.iter().all(|round| round.0 == rounds[0].0), "{rounds:?}");
        // The shim is Go: what it has let go of is closed when its collector runs, and it keeps threads.
        let (first, last) = (rounds[0].1, rounds[ROUNDS - 1].1);
        ensure!(last.files <= first.files + SHIM_FILES && last.threads <= first.threads + SHIM_THREADS, "{rounds:?}");
        let growth = rounds[ROUNDS - 1].2 / rounds[0].2;
        ensure!(growth < 1.05, "memory grew to {:.0} % of that after round 1", growth * 100.0);
    }
    Ok(())
}
