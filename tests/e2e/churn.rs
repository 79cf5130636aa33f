//! Many pods come and go: nothing fails, nothing is left, nothing grows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;

use crate::bed::{Bed, Target};
use crate::harness::{Outcome, Test, rule};
use crate::node::Node;
use crate::scope::{Scope, sleeper};

const PODS: usize = 100;
const AT_A_TIME: usize = 8;
const ROUNDS: usize = 3;
/// How many pods warm up the daemon. Each thread's cache of freed memory counts as used, and it grows at first: by 75,
/// 58, 44 and 10 KiB a round, and then no more.
const WARM_UP: usize = 2 * PODS;
/// How long nothing may change. tokio's threads for blocking calls end after 10 s of idleness.
const SETTLED: Duration = Duration::from_secs(12);

pub fn tests() -> Vec<Test> {
    vec![rule!(a_hundred_pods_come_and_go_three_times).alone().within(900)]
}

/// The resources that a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Open files, without the pidfds.
    pub files: usize,
    pub pidfds: usize,
    pub threads: usize,
}

/// Files and pidfds are counted in one pass: a pidfd that is closed between two passes would be missing from one of
/// them.
pub fn held(pid: u32) -> anyhow::Result<Held> {
    let entries = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}"));
    let links = entries("fd")?.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let (pidfds, files): (Vec<_>, Vec<_>) = links.partition(|link| link.as_os_str() == "anon_inode:[pidfd]");
    Ok(Held { files: files.len(), pidfds: pidfds.len(), threads: entries("task")?.count() })
}

/// What a process holds when that has not changed for [`SETTLED`], or at the latest after five times as long.
pub async fn settled(pid: u32) -> anyhow::Result<Held> {
    let start = Instant::now();
    let (mut last, mut since) = (held(pid)?, Instant::now());
    while since.elapsed() < SETTLED && start.elapsed() < 5 * SETTLED {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = held(pid)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

/// The anonymous memory of a process, in KiB.
pub fn rss_anon(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// How long each step of one pod took.
#[derive(Clone, Copy)]
struct Times([Duration; 4]);

const STEPS: [&str; 4] = ["run", "create and start", "stop", "remove"];

async fn one_pod(scope: &Scope) -> anyhow::Result<Times> {
    let mut times = [Duration::ZERO; 4];
    let mut start = Instant::now();
    let mut lap = |step: usize| {
        times[step] = start.elapsed();
        start = Instant::now();
    };
    let pod = scope.pod().await?;
    lap(0);
    pod.start(sleeper("main")).await?;
    lap(1);
    pod.stop().await?;
    lap(2);
    pod.remove().await?;
    lap(3);
    Ok(Times(times))
}

async fn round(scope: &Arc<Scope>, number: usize, pods: usize) -> Outcome {
    let start = Instant::now();
    let mut waiting: VecDeque<_> = (0..pods).collect();
    let (mut running, mut all) = (JoinSet::new(), Vec::new());
    loop {
        while running.len() < AT_A_TIME && waiting.pop_front().is_some() {
            let scope = scope.clone();
            running.spawn(async move { one_pod(&scope).await });
        }
        let Some(done) = running.join_next().await else { break };
        all.push(done??);
    }
    let took = start.elapsed().as_secs_f64();
    print!("    round {number}: {:.2} pods/s;", all.len() as f64 / took);
    for (step, name) in STEPS.iter().enumerate() {
        let mut times: Vec<_> = all.iter().map(|times| times.0[step].as_millis()).collect();
        times.sort_unstable();
        print!(" {name} {} ms (at most {});", times[times.len() / 2], times[times.len() - 1]);
    }
    println!();
    scope.remove_pods().await
}

/// The pid of the daemon that serves CRI.
pub fn daemon(bed: &Bed) -> anyhow::Result<u32> {
    bed.pid(if bed.target == Target::Pontoon { "pontoon" } else { "containerd" })
}

async fn a_hundred_pods_come_and_go_three_times(scope: Arc<Scope>) -> Outcome {
    let pid = daemon(&scope.bed)?;
    // Before round 1 the daemon must have what it keeps for its busiest moment (buffers, its heap).
    round(&scope, 0, WARM_UP).await.context("warming up")?;
    let before = Node::look(&scope.bed).await?;
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        round(&scope, number, PODS).await.with_context(|| format!("round {number}"))?;
        before.is_back(&scope.bed).await.with_context(|| format!("after round {number}"))?;
        let (held, memory) = (settled(pid).await?, rss_anon(pid)?);
        println!("    after it: {held:?}, {memory} KiB of memory");
        rounds.push((held, memory));
    }
    ensure!(daemon(&scope.bed)? == pid, "the daemon was started again meanwhile");
    // The built-in is a part of containerd, and Go's collector may release memory at any time.
    if scope.bed.target == Target::Pontoon {
        ensure!(rounds.iter().all(|(held, _)| *held == rounds[0].0), "{rounds:?}");
        let growth = rounds[ROUNDS - 1].1 / rounds[0].1;
        ensure!(growth < 1.05, "memory grew to {:.0} % of that after round 1", growth * 100.0);
    }
    Ok(())
}
