//! Hundreds of sessions whose client disconnects without closing them: nothing is left of any session.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use pontoon::api::v1::ContainerConfig;

use crate::bed::{Bed, Target};
use crate::churn::{Held, daemon, held, rss_anon, settled};
use crate::harness::{Outcome, Test, rule};
use crate::metrics::value;
use crate::scope::{Scope, shell, sleeper};
use crate::shim::{collected, goroutines, shim_of};
use crate::streaming::{STDIN, Session, TTY};

const ROUNDS: usize = 3;
/// How many rounds run at once to warm up.
const AT_ONCE: usize = 16;
/// Each of them has this fraction (1/8) of a normal round's sessions.
const PART: usize = 8;
/// How often they run at most. They stop earlier when the shim has started no threads twice in a row.
const WARM_UPS: usize = 8;
/// Limits that are not reached here: a slot is free only after containerd has deleted the command, some time after its
/// client disconnected.
const NO_LIMITS: &str = "[limits]\nexecs = 2048\nexecs_per_container = 2048\n";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(cve_2022_23471_and_2025_64329_sessions_whose_client_drops_leave_nothing)
            .alone()
            .within(if number() > 100 { 3600 } else { 300 }),
    ]
}

/// How many execs, and how many attaches, a round has: `E2E_SESSIONS`. `make churn-streaming` sets 667, which makes
/// 2,000 in three rounds.
fn number() -> usize {
    crate::harness::from_environment("E2E_SESSIONS").unwrap_or(80)
}

/// The sessions of a round: execs on a terminal, some of which cannot start; attaches; attaches to a dead container.
async fn round(scope: &Scope, ids: [&str; 4], number: usize) -> Outcome {
    let [main, quiet, talker, dead] = ids;
    let bed = &scope.bed;
    // The built-in does not kill the command, so it must end soon by itself.
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

/// Runs many rounds at once, so that what is kept for the busiest moment exists before the first round: Go never ends a
/// thread, and starts one when all others happen to be in the kernel.
async fn warm_up(scope: &Scope, ids: [&str; 4], shim: u32) -> Outcome {
    let (mut threads, mut quiet) = (Vec::new(), 0);
    while threads.len() < WARM_UPS && quiet < 2 {
        let before = held(shim)?.threads;
        try_join_all((0..AT_ONCE).map(|_| round(scope, ids, number() / PART))).await?;
        let after = held(shim)?.threads;
        quiet = if after > before { 0 } else { quiet + 1 };
        threads.push(after);
    }
    println!("    threads of the shim while warming up: {threads:?}");
    // What the concurrent rounds leave in the daemon's heap is not what a single round leaves.
    round(scope, ids, number()).await
}

async fn cve_2022_23471_and_2025_64329_sessions_whose_client_drops_leave_nothing(scope: Arc<Scope>) -> Outcome {
    match scope.bed.target {
        // The metrics report how many tasks the daemon has.
        Target::Pontoon => scope.bed.measured(NO_LIMITS, nothing_stays(&scope)).await,
        Target::Builtin => nothing_stays(&scope).await,
    }
}

async fn nothing_stays(scope: &Scope) -> Outcome {
    let bed = &scope.bed;
    let pod = scope.pod().await?;
    let main = pod.start(sleeper("main")).await?;
    let quiet = pod.start(ContainerConfig { stdin: true, ..sleeper("quiet") }).await?;
    let talking = "trap 'exit 0' TERM; while :; do echo something; sleep 0.1; done";
    let talker = pod.start(ContainerConfig { stdin: true, ..shell("talker", talking) }).await?;
    let dead = pod.start(ContainerConfig { stdin: true, ..shell("dead", "exit 0") }).await?;
    bed.exited(&dead).await?;
    // A URL that was returned while the container ran must not work after its end.
    let late = pod.start(ContainerConfig { stdin: true, ..sleeper("late") }).await?;
    let url = bed.attach_url(&late, STDIN).await?;
    bed.stop(&late, 5).await?;
    let ended = Session::start(bed.tool("streamer").args(["attach", "-stdin", &url]))?.ends().await?;
    ensure!(ended.code != 0 || ended.stdout.is_empty(), "{ended:?}");

    let (server, shim) = (daemon(bed)?, shim_of(bed, &main).await?);
    let ids = [main.as_str(), &quiet, &talker, &dead];
    warm_up(scope, ids, shim).await.context("warming up")?;
    let mut rounds = Vec::new();
    for turn in 1..=ROUNDS {
        round(scope, ids, number()).await.with_context(|| format!("round {turn}"))?;
        collected(bed, shim, &main).await?;
        let after = After::settled(bed, server, shim).await?;
        println!("    after round {turn}: {after:?}");
        rounds.push(after);
    }
    let left = bed.sh(&main, "ps -o args | grep -c '[s]leep 1000$' || true").await?;
    if bed.target == Target::Pontoon {
        // The one that is left is the container's own.
        ensure!(left == "1", "{left} processes sleep in the container");
        judge(&rounds)?;
    }
    Ok(())
}

/// What the daemon and the shim hold after a round.
#[derive(Debug)]
struct After {
    server: Held,
    /// The daemon's asynchronous tasks.
    tasks: f64,
    shim: Held,
    goroutines: usize,
    /// The daemon's memory, in KiB.
    memory: f64,
}

impl After {
    async fn settled(bed: &Bed, server: u32, shim: u32) -> anyhow::Result<Self> {
        let (held_by_server, held_by_shim) = tokio::try_join!(settled(server), settled(shim))?;
        let memory = rss_anon(server)?;
        let tasks = match bed.target {
            Target::Pontoon => value(&bed.scrape().await?, "pontoon_tokio_alive_tasks")?,
            Target::Builtin => 0.0,
        };
        Ok(Self { server: held_by_server, tasks, shim: held_by_shim, goroutines: goroutines(bed, shim).await?, memory })
    }

    /// Everything but the memory.
    fn counts(&self) -> (Held, f64, Held, usize) {
        (self.server, self.tasks, self.shim, self.goroutines)
    }
}

/// Checks the requirements, and prints a line for each.
fn judge(rounds: &[After]) -> Outcome {
    let (first, last) = (&rounds[0], &rounds[ROUNDS - 1]);
    let growth = last.memory / first.memory * 100.0 - 100.0;
    let gates = [
        (
            "files, threads and tasks of the daemon and of the shim are the same after each",
            rounds.iter().all(|after| after.counts() == first.counts()),
        ),
        ("the daemon's memory after the third is within 5 % of that after the first", growth.abs() < 5.0),
    ];
    for (gate, held) in gates {
        println!("    {}: {gate}", if held { "PASS" } else { "FAIL" });
    }
    println!("    {growth:+.1} % of memory from the first round to the third");
    ensure!(gates.iter().all(|(_, held)| *held), "{rounds:#?}");
    Ok(())
}
