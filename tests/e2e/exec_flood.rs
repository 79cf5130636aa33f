//! More concurrent ExecSync calls than any node has: they wait for slots, their replies wait for memory, and nothing is
//! left of any call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use pontoon::api::v1::runtime_service_client::RuntimeServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::bed::{Bed, SOON, until};
use crate::churn::{daemon, rss_anon, settled};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, sleeper};
use crate::shim::shim_of;

const CALLS: usize = 500;
/// Of this many calls, one times out and one leaves a child process.
const KINDS: usize = 10;
const MIB: usize = 1 << 20;
/// How much each command writes, in each of the floods. They run one after the other, and memory must be released after
/// each. The first one's replies are as large as replies can be, and leave more behind than smaller ones. The second one
/// has as many calls, and shows what grows with their number.
const FLOODS: [usize; 2] = [20 * MIB, 2 * MIB];
/// How much of it ExecSync returns at most: kubelet's message limit, less 64 KiB for the other fields.
const REPLY: usize = 16 * MIB - (64 << 10);
/// How many seconds output may stay open after the command's end.
const DRAIN: f64 = 10.0;
/// In KiB: 128 MiB for `exec_reply_budget`, and 64 MiB for everything else.
const MOST_MEMORY: f64 = ((128 + 64) << 10) as f64;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(five_hundred_execs_at_once_take_turns_and_leave_nothing)
            .alone()
            .within(900)
            .only_pontoon("the built-in runs all at once, and keeps the output of each"),
    ]
}

/// What a command does after its output.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    TimesOut,
    LeavesAChild,
}

impl Kind {
    fn of(number: usize) -> Self {
        match number % KINDS {
            3 => Self::TimesOut,
            7 => Self::LeavesAChild,
            _ => Self::Plain,
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Plain => "exit 4",
            Self::TimesOut => "exec sleep 1234",
            Self::LeavesAChild => "sleep 321 & exit 5",
        }
    }

    /// The request's timeout in seconds, which includes the wait for a slot.
    fn timeout(self) -> i64 {
        if self == Self::TimesOut { 5 } else { 300 }
    }
}

/// Makes one call and checks its result. Returns how many seconds it took.
async fn call(
    mut runtime: RuntimeServiceClient<Channel>,
    container_id: String,
    number: usize,
    output: usize,
) -> anyhow::Result<f64> {
    let kind = Kind::of(number);
    // Not head: busybox's reads single bytes and writes 4 KiB at a time, which takes ten times as long.
    let script = format!("dd if=/dev/zero bs={MIB} count={} 2>/dev/null; {}", output / MIB, kind.script());
    let cmd = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let start = Instant::now();
    let answer = runtime.exec_sync(v1::ExecSyncRequest { container_id, cmd, timeout: kind.timeout() }).await;
    let took = start.elapsed().as_secs_f64();
    match (kind, answer) {
        (Kind::TimesOut, Err(status)) if status.code() == tonic::Code::DeadlineExceeded => {}
        (Kind::Plain | Kind::LeavesAChild, Ok(answer)) => {
            let answer = answer.into_inner();
            let code = if kind == Kind::Plain { 4 } else { 5 };
            ensure!(answer.exit_code == code, "exit code {}", answer.exit_code);
            ensure!(answer.stdout.len() == output.min(REPLY), "{} bytes", answer.stdout.len());
        }
        (_, Ok(_)) => bail!("{kind:?} ended well"),
        (_, Err(status)) => bail!("{kind:?}, after {took:.1} s: {status}"),
    }
    let most = kind.timeout() as f64 + DRAIN;
    ensure!(took < most + 5.0, "{kind:?} took {took:.1} s, more than {most} s");
    Ok(took)
}

/// Reads RssAnon every 50 ms and returns the highest value. It has a thread of its own, since the tests' threads are
/// busy.
fn watch(pid: u32, until: Arc<AtomicBool>) -> std::thread::JoinHandle<anyhow::Result<f64>> {
    std::thread::spawn(move || {
        let mut highest = 0.0_f64;
        while !until.load(Ordering::Relaxed) {
            highest = highest.max(rss_anon(pid)?);
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(highest)
    })
}

/// The zombies among the children of these processes.
fn zombies(parents: &[u32]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The format is PID (NAME) STATE PPID. A name may contain spaces.
        let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
        let mut words = rest.split(' ');
        let (state, parent) = (words.next(), words.next().and_then(|word| word.parse().ok()));
        if state == Some("Z") && parent.is_some_and(|parent| parents.contains(&parent)) {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// Makes `calls` calls at once. Returns how many seconds each took.
async fn flood(scope: &Scope, id: &str, calls: usize, output: usize) -> anyhow::Result<Vec<f64>> {
    let mut running = JoinSet::new();
    // An HTTP/2 connection allows at most 200 calls at once.
    let mut runtime = scope.bed.another_runtime()?;
    for number in 0..calls {
        if number % 100 == 99 {
            runtime = scope.bed.another_runtime()?;
        }
        let call = call(runtime.clone(), id.to_owned(), number, output);
        running.spawn(async move { call.await.with_context(|| format!("call {number}")) });
    }
    let (mut took, mut failed) = (Vec::new(), Vec::new());
    while let Some(done) = running.join_next().await {
        match done? {
            Ok(seconds) => took.push(seconds),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    ensure!(
        failed.is_empty(),
        "{} calls of {calls} failed, such as {:#?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    Ok(took)
}

/// The daemon's memory in KiB, after it has released what it can: when nothing has happened for 5 s. A shim delays Delete
/// by 10 s if a child is left, and a command's directory stays until then.
async fn memory(bed: &Bed, server: u32) -> anyhow::Result<f64> {
    let commands = bed.dir.join("run/exec");
    until(6 * SOON, || async {
        let left = std::fs::read_dir(&commands).map_or(0, Iterator::count);
        ensure!(left == 0, "{left} commands are not deleted");
        Ok(())
    })
    .await?;
    // Waits for 12 s in which nothing changes.
    settled(server).await?;
    rss_anon(server)
}

/// Runs one flood. Returns the highest memory use of the daemon meanwhile, in KiB.
async fn watched(scope: &Scope, id: &str, server: u32, output: usize) -> anyhow::Result<f64> {
    let (start, done) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let watching = watch(server, done.clone());
    let outcome = flood(scope, id, CALLS, output).await;
    done.store(true, Ordering::Relaxed);
    let highest = tokio::task::spawn_blocking(move || watching.join()).await?;
    let highest = highest.map_err(|_| anyhow::anyhow!("the sampler panicked"))??;
    let mut took = outcome?;
    took.sort_by(f64::total_cmp);
    println!(
        "    {CALLS} calls of {} MiB in {:.1} s, each {:.1} s (median), at most {:.1} s",
        output / MIB,
        start.elapsed().as_secs_f64(),
        took[took.len() / 2],
        took[took.len() - 1],
    );
    Ok(highest)
}

async fn five_hundred_execs_at_once_take_turns_and_leave_nothing(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let server = daemon(&scope.bed)?;
    let parents = [server, scope.bed.pid("containerd")?, shim_of(&scope.bed, &id).await?];
    // Run each kind of call once: the first run touches pages that stay in use afterwards.
    flood(&scope, &id, KINDS, FLOODS[0]).await?;
    let mut kept = vec![memory(&scope.bed, server).await?];
    for output in FLOODS {
        let highest = watched(&scope, &id, server, output).await?;
        let before = kept[kept.len() - 1];
        kept.push(memory(&scope.bed, server).await?);
        println!("    KiB of memory: at most {highest}; before, and after each flood: {kept:?}");
        ensure!(highest <= MOST_MEMORY, "{highest} KiB of memory, more than {MOST_MEMORY}");
        let growth = kept[kept.len() - 1] / before;
        ensure!(growth <= 1.05, "memory grew to {:.1} % of what it was before", growth * 100.0);
    }
    let log = std::fs::read_to_string(scope.bed.dir.join("logs/pontoon.log"))?;
    ensure!(log.contains("a command waited for others"), "the wait for a turn is not reported");
    until(3 * SOON, || async {
        let dead = zombies(&parents)?;
        ensure!(dead.is_empty(), "zombies: {dead:?}");
        Ok(())
    })
    .await
}
