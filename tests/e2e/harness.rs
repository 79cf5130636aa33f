//! Runs the tests: first those that can share the node, some at a time, then those that need it for themselves, one
//! after the other. The time of each is printed; tests/run.sh lists the slowest of all stages.
//!
//! This is not libtest, because a test can be skipped with a reason here, has a deadline, and can have the node for
//! itself.

use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tokio::task::JoinSet;

use crate::bed::{Bed, Target};
use crate::scope::{Scope, sleeper};
use crate::standing;

/// How many tests run at the same time, in addition to those that mostly sleep. Most of them wait, for a grace period or
/// a log line.
const TOGETHER: usize = 4;

/// How many times longer everything may take: `E2E_SLOWNESS`, for a kernel that runs as a process (cgroup2.sh).
pub static SLOWNESS: LazyLock<u32> = LazyLock::new(|| from_environment("E2E_SLOWNESS").unwrap_or(1));

/// How many more pods run in parallel with the tests: `E2E_STANDING`. At the end all of them must still run.
static STANDING: LazyLock<usize> = LazyLock::new(|| from_environment("E2E_STANDING").unwrap_or(0));

/// A setting from the environment; `None` if it is missing or no such value.
pub fn from_environment<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The result of a test. The error says what was expected and what happened.
pub type Outcome = anyhow::Result<()>;

type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

pub struct Test {
    name: String,
    body: fn(Arc<Scope>) -> Running,
    alone: bool,
    sleeps: bool,
    deadline: Duration,
    only_pontoon: Option<&'static str>,
    missing: Option<&'static str>,
}

impl Test {
    /// Only for the macro [`rule`].
    pub fn new(name: &str, body: fn(Arc<Scope>) -> Running) -> Self {
        let name = name.strip_prefix("e2e::").unwrap_or(name).to_owned();
        let deadline = Duration::from_secs(90);
        Self { name, body, alone: false, sleeps: false, deadline, only_pontoon: None, missing: None }
    }

    /// Runs no other test at the same time, because this one compares the node before and after, or stops a daemon.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Starts before the others and runs in addition to [`TOGETHER`], because this test sleeps nearly all of its time.
    pub fn sleeps(mut self) -> Self {
        self.sleeps = true;
        self
    }

    /// Sets another deadline than 90 s.
    pub fn within(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Skips the test on the built-in CRI, for this reason.
    pub fn only_pontoon(mut self, why: &'static str) -> Self {
        self.only_pontoon = Some(why);
        self
    }

    /// Skips the test on a node that lacks what it needs. `lack` says what that is.
    pub fn only_if(mut self, there: bool, lack: &'static str) -> Self {
        self.missing = (!there).then_some(lack);
        self
    }

    fn skipped(&self, target: Target) -> Option<&'static str> {
        let left_out = std::env::var("E2E_SKIP").unwrap_or_default();
        if left_out.split(' ').any(|name| !name.is_empty() && self.name.contains(name)) {
            return Some("left out by E2E_SKIP");
        }
        self.missing.or(self.only_pontoon.filter(|_| target == Target::Builtin))
    }
}

/// A [`Test`] of an `async fn(Arc<Scope>) -> Outcome`, named after the function.
macro_rules! rule {
    ($body:ident) => {
        $crate::harness::Test::new(concat!(module_path!(), "::", stringify!($body)), |scope| Box::pin($body(scope)))
    };
}
pub(crate) use rule;

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

/// Runs the tests that the arguments select, and prints their results as `cargo test` does.
pub fn main(tests: Vec<Test>) -> ExitCode {
    // Options of libtest, which `cargo test` may pass, have no meaning here.
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let all = tests.len();
    let tests: Vec<Test> =
        tests.into_iter().filter(|test| filters.is_empty() || filters.iter().any(|f| test.name.contains(f))).collect();
    let filtered = all - tests.len();
    println!("\nrunning {} tests", tests.len());
    let start = Instant::now();
    let counts = match run_all(tests) {
        Ok(counts) => counts,
        Err(error) => {
            println!("the tests cannot run: {error:#}");
            Counts { failed: vec!["setup".into()], ..Counts::default() }
        }
    };
    let verdict = if counts.failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        counts.passed,
        counts.failed.len(),
        counts.skipped,
        start.elapsed().as_secs_f64()
    );
    if counts.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_all(tests: Vec<Test>) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let Some(env) = std::env::var_os("PONTOON_BED") else {
        for test in &tests {
            println!("test {} ... ignored, PONTOON_BED is not set", test.name);
        }
        counts.skipped = tests.len();
        return Ok(counts);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let bed = Arc::new(Bed::open(env.as_ref()).with_context(|| format!("PONTOON_BED={}", env.display()))?);
        println!("on {:?}", bed.target);
        bed.pull_test_image().await?;
        warm_up(&bed).await.context("a first pod")?;
        let beside = match *STANDING {
            0 => None,
            pods => {
                let scope = Arc::new(Scope::new(bed.clone(), "standing")?);
                standing::fill(&scope, pods).await.context("the pods that stand beside the tests")?;
                Some(scope)
            }
        };
        let (alone, together): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.alone);
        run_together(&bed, together, &mut counts).await;
        for test in alone {
            report(&mut counts, run_one(bed.clone(), test).await);
        }
        if let Some(scope) = beside {
            report(&mut counts, standing_to_the_end(&scope).await);
        }
        anyhow::Ok(())
    })?;
    if !counts.failed.is_empty() {
        println!("\nfailures:\n    {}", counts.failed.join("\n    "));
    }
    Ok(counts)
}

/// Runs a first pod. A bridge, the CNI plugins' chains and some directories stay once they are created, and must not be
/// taken for a leak of the first test.
async fn warm_up(bed: &Arc<Bed>) -> Outcome {
    let scope = Scope::new(bed.clone(), "warm-up")?;
    let pod = scope.pod().await?;
    pod.start(sleeper("main")).await?;
    scope.sweep().await
}

async fn standing_to_the_end(scope: &Scope) -> Report {
    let start = Instant::now();
    let stand = standing::expect_standing(scope, *STANDING).await.and(scope.sweep().await);
    let verdict = stand.map_or_else(Verdict::Failed, |()| Verdict::Passed);
    Report { name: format!("harness::{}_pods_stand_to_the_end", *STANDING), verdict, took: start.elapsed() }
}

async fn run_together(bed: &Arc<Bed>, tests: Vec<Test>, counts: &mut Counts) {
    let (sleeping, tests): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.sleeps);
    let sleepers: JoinSet<_> = sleeping.into_iter().map(|test| run_one(bed.clone(), test)).collect();
    let mut running = JoinSet::new();
    for test in tests {
        if running.len() == TOGETHER {
            next(&mut running, counts).await;
        }
        running.spawn(run_one(bed.clone(), test));
    }
    for mut left in [running, sleepers] {
        while !left.is_empty() {
            next(&mut left, counts).await;
        }
    }
}

async fn next(running: &mut JoinSet<Report>, counts: &mut Counts) {
    if let Some(Ok(done)) = running.join_next().await {
        report(counts, done);
    }
}

struct Report {
    name: String,
    verdict: Verdict,
    took: Duration,
}

enum Verdict {
    Passed,
    Failed(anyhow::Error),
    Skipped(&'static str),
}

async fn run_one(bed: Arc<Bed>, test: Test) -> Report {
    let start = Instant::now();
    let verdict = match test.skipped(bed.target) {
        Some(why) => Verdict::Skipped(why),
        None => match run_body(bed, &test).await {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(error),
        },
    };
    Report { name: test.name, verdict, took: start.elapsed() }
}

/// Runs a test in a task of its own, so that a panic is a failure of this test only. Its pods are always removed, and
/// the test fails if they cannot be.
async fn run_body(bed: Arc<Bed>, test: &Test) -> Outcome {
    let scope = Arc::new(Scope::new(bed, &test.name)?);
    let mut body = JoinSet::new();
    body.spawn((test.body)(scope.clone()));
    let outcome = match tokio::time::timeout(test.deadline * *SLOWNESS, body.join_next()).await {
        Ok(Some(Ok(outcome))) => outcome,
        Ok(Some(Err(panic))) => Err(anyhow!("{panic}")),
        Ok(None) => Err(anyhow!("did not run")),
        Err(_) => Err(anyhow!("not done within {:?}", test.deadline * *SLOWNESS)),
    };
    body.shutdown().await;
    let swept = tokio::time::timeout(Duration::from_secs(120) * *SLOWNESS, scope.sweep()).await;
    let swept = swept.unwrap_or_else(|_| Err(anyhow!("not done in time"))).context("removing the test's pods");
    match (outcome, swept) {
        (Ok(()), swept) => swept,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(sweep)) => Err(error.context(format!("(and {sweep:#})"))),
    }
}

fn report(counts: &mut Counts, done: Report) {
    let seconds = done.took.as_secs_f64();
    match done.verdict {
        Verdict::Passed => {
            counts.passed += 1;
            println!("test {} ... ok ({seconds:.1} s)", done.name);
        }
        Verdict::Skipped(why) => {
            counts.skipped += 1;
            println!("test {} ... ignored, {why}", done.name);
        }
        Verdict::Failed(error) => {
            println!("test {} ... FAILED ({seconds:.1} s)\n    {error:#}", done.name);
            counts.failed.push(done.name);
        }
    }
    let _ = std::io::stdout().flush();
}
