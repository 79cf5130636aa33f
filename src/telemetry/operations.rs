//! Operations in flight: the verb and object of each, its current stages, and when each stage began.
//!
//! An operation is a task-local value. The code that runs in its task reports its stage with [`during`], and needs no
//! handle for that. An operation may be in two stages at once (CNI ADD in parallel with the pause container). A stage
//! that consists of several parts shows the one that runs now ([`detailed`]).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Metrics;
use super::calls::{self, Outcome, millis};
use super::names::{Stage, Verb};
use crate::log_keys::{LogKeys, SharedKeys};
use crate::mutex::Mutex;

tokio::task_local! {
    static CURRENT: Arc<InFlight>;
}

/// The operations in flight of this process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Operations {
    running: Arc<Mutex<Table>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    operations: BTreeMap<u64, Arc<InFlight>>,
}

#[derive(Debug)]
pub(super) struct InFlight {
    verb: Verb,
    object: String,
    since: Instant,
    /// The open stages, in the order in which they began.
    stages: Mutex<Vec<OpenStage>>,
    metrics: Metrics,
    /// The keys of its log lines.
    keys: SharedKeys,
    end: Mutex<End>,
}

/// What the log has to know about the end of an operation. A client that leaves gets no response, so then the log says
/// how the operation ended.
#[derive(Debug, Default)]
struct End {
    client_left: bool,
    /// When it has ended: after how long, and why it failed, if it did. Empty again once it was logged.
    outcome: Option<(Duration, Option<String>)>,
}

#[derive(Debug)]
struct OpenStage {
    stage: Stage,
    since: Instant,
    detail: Option<String>,
}

/// A snapshot of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub verb: Verb,
    /// The id of a sandbox or container; the name of one that is being created; an image reference.
    pub object: String,
    /// How long it has been running.
    pub age: Duration,
    /// Its open stages, in the order in which they began.
    pub stages: Vec<RunningStage>,
    /// The keys of its log lines.
    pub keys: LogKeys,
}

/// A snapshot of one open stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningStage {
    pub stage: Stage,
    /// How long it has been open.
    pub age: Duration,
    /// The part of it that runs now, such as `ADD bridge`. It is no label of a metric, so any text may be in it.
    pub detail: Option<String>,
}

impl Operations {
    /// Starts empty. Durations of stages go to `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { running: Arc::default(), metrics }
    }

    /// The metrics that durations of stages go to.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Wraps `work` so that it is listed as an operation from now until it has ended. Its log keys begin as those of the
    /// current task.
    pub fn track<F>(&self, verb: Verb, object: String, work: F) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future<Output: Outcome>,
    {
        let one = Arc::new(InFlight {
            verb,
            object,
            since: Instant::now(),
            stages: Mutex::default(),
            metrics: self.metrics.clone(),
            keys: SharedKeys::copy_of_current(),
            end: Mutex::default(),
        });
        calls::wait_for(&one);
        let entry = TableEntry::new(self.clone(), &one);
        // Boxed, because each future that contains this one would hold its state more than once, and is moved on the
        // stack.
        let work = Box::pin(work);
        async move {
            let _entry = entry;
            let (keys, current) = (one.keys.clone(), Arc::clone(&one));
            let work = async {
                let output = work.await;
                one.has_ended(output.failure());
                output
            };
            keys.scope(CURRENT.scope(current, work)).await
        }
    }

    /// The latest operation of this verb and object, if one is in flight.
    pub(super) fn find(&self, verb: Verb, object: &str) -> Option<Arc<InFlight>> {
        let table = self.running.lock();
        table.operations.values().rev().find(|one| one.verb == verb && one.object == object).cloned()
    }

    /// The operations in flight, oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<Running> {
        let all: Vec<Arc<InFlight>> = self.running.lock().operations.values().cloned().collect();
        all.iter().map(|one| one.now()).collect()
    }
}

/// An operation's entry in the table. Dropping it removes the entry, also on a panic.
struct TableEntry {
    operations: Operations,
    number: u64,
}

impl TableEntry {
    fn new(operations: Operations, one: &Arc<InFlight>) -> Self {
        let mut table = operations.running.lock();
        table.last += 1;
        let number = table.last;
        table.operations.insert(number, Arc::clone(one));
        drop(table);
        Self { operations, number }
    }
}

impl Drop for TableEntry {
    fn drop(&mut self) {
        self.operations.running.lock().operations.remove(&self.number);
    }
}

/// Runs `work` as a stage of the current task's operation. In a task without an operation it only runs `work`.
pub fn during<F: Future>(stage: Stage, work: F) -> impl Future<Output = F::Output> {
    // Boxed before the future around it is made, which would contain `work` twice: as what it was given, and as what
    // it awaits. Stages are nested, and their futures are moved over the stack.
    let work = Box::pin(work);
    async move {
        let open = CURRENT.try_with(|operation| Open::new(operation, stage)).ok();
        let output = super::traces::in_stage(stage, work).await;
        drop(open);
        output
    }
}

/// Runs `work` as a part of an open stage of the current task's operation, which shows `detail` meanwhile. In a task
/// without such a stage it only runs `work`.
pub fn detailed<F: Future>(stage: Stage, detail: String, work: F) -> impl Future<Output = F::Output> {
    // Boxed as in `during`.
    let work = Box::pin(work);
    async move {
        let shown = CURRENT.try_with(|operation| Detail::new(operation, stage, detail)).ok();
        let output = work.await;
        drop(shown);
        output
    }
}

/// The detail of a stage, which is shown until this value is dropped.
struct Detail {
    operation: Arc<InFlight>,
    stage: Stage,
}

impl Detail {
    fn new(operation: &Arc<InFlight>, stage: Stage, detail: String) -> Self {
        operation.show(stage, Some(detail));
        Self { operation: Arc::clone(operation), stage }
    }
}

impl Drop for Detail {
    fn drop(&mut self) {
        self.operation.show(self.stage, None);
    }
}

/// A stage that is open until this value is dropped.
struct Open {
    operation: Arc<InFlight>,
    stage: Stage,
    since: Instant,
}

impl Open {
    fn new(operation: &Arc<InFlight>, stage: Stage) -> Self {
        let since = Instant::now();
        operation.stages.lock().push(OpenStage { stage, since, detail: None });
        Self { operation: Arc::clone(operation), stage, since }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut stages = self.operation.stages.lock();
        // Two equal stages that began at the same instant cannot be told apart, so either entry may be removed.
        if let Some(at) = stages.iter().position(|one| (one.stage, one.since) == (self.stage, self.since)) {
            stages.remove(at);
        }
        drop(stages);
        self.operation.metrics.stage(self.operation.verb, self.stage, self.since.elapsed());
    }
}

impl InFlight {
    fn now(&self) -> Running {
        let now = |open: &OpenStage| RunningStage {
            stage: open.stage,
            age: open.since.elapsed(),
            detail: open.detail.clone(),
        };
        let stages = self.stages.lock().iter().map(now).collect();
        let (object, age) = (self.object.clone(), self.since.elapsed());
        Running { verb: self.verb, object, age, stages, keys: self.log_keys() }
    }

    /// The keys of its log lines.
    pub(super) fn log_keys(&self) -> LogKeys {
        self.keys.get()
    }

    /// Sets the detail of a stage: of the one that was opened last, if the operation is in it more than once.
    fn show(&self, stage: Stage, detail: Option<String>) {
        let mut stages = self.stages.lock();
        if let Some(open) = stages.iter_mut().rfind(|open| open.stage == stage) {
            open.detail = detail;
        }
    }

    /// What it is doing, for the log.
    pub(super) fn stage(&self) -> String {
        if self.end.lock().outcome.is_some() {
            return "ended".to_owned();
        }
        self.now().stage()
    }

    /// Called in its own task, so that the line has its keys.
    fn has_ended(&self, failure: Option<String>) {
        let mut end = self.end.lock();
        end.outcome = Some((self.since.elapsed(), failure));
        self.log_if_left(&mut end);
    }

    /// Called in the task of the client's call.
    pub(super) fn client_left(&self) {
        let mut end = self.end.lock();
        end.client_left = true;
        self.log_if_left(&mut end);
    }

    fn log_if_left(&self, end: &mut End) {
        if !end.client_left {
            return;
        }
        let Some((took, failure)) = end.outcome.take() else { return };
        let (method, ms) = (self.verb.name(), millis(took));
        match failure {
            None => tracing::info!(%method, result = %"OK", ms, "the operation ended after its client had left"),
            Some(error) => {
                tracing::warn!(%method, result = %"failed", error, ms, "the operation ended after its client had left");
            }
        }
    }
}

impl Running {
    /// Its open stages, joined by `+`; `running` between two stages.
    #[must_use]
    pub fn stage(&self) -> String {
        let names: Vec<&str> = self.stages.iter().map(|open| open.stage.name()).collect();
        if names.is_empty() { "running".to_owned() } else { names.join("+") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_operation_shows_the_stages_it_is_in() {
        let operations = Operations::default();
        let work = async {
            during(Stage::Record, tokio::time::sleep(SECOND)).await;
            tokio::join!(
                during(Stage::Cni, tokio::time::sleep(SECOND * 5)),
                during(Stage::TaskCreate, tokio::time::sleep(SECOND * 2))
            );
        };
        let tracked = operations.track(Verb::RunPodSandbox, "web".to_owned(), work);
        let seen = async {
            let mut seen = Vec::new();
            tokio::time::sleep(SECOND / 2).await;
            for _ in 0..3 {
                let running = operations.running();
                seen.push((
                    running[0].age.as_secs(),
                    running[0].stages.iter().map(|open| open.stage).collect::<Vec<_>>(),
                ));
                tokio::time::sleep(SECOND * 2).await;
            }
            seen
        };
        let ((), seen) = tokio::join!(tracked, seen);
        let expected = [(0, vec![Stage::Record]), (2, vec![Stage::Cni, Stage::TaskCreate]), (4, vec![Stage::Cni])];
        assert_eq!(seen, expected);
        assert_eq!(operations.running(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_in_the_middle_is_not_in_flight_any_more() {
        let operations = Operations::default();
        let work = during(Stage::Cni, std::future::pending::<()>());
        let tracked = operations.track(Verb::RunPodSandbox, "web".to_owned(), work);
        assert!(tokio::time::timeout(SECOND, tracked).await.is_err());
        assert_eq!(operations.running(), []);
        // Work outside an operation has no stage, and runs all the same.
        assert_eq!(during(Stage::Cni, async { 7 }).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_shows_the_part_that_runs() {
        let operations = Operations::default();
        let part = |text: &str| detailed(Stage::Cni, text.to_owned(), tokio::time::sleep(SECOND * 2));
        let work = async {
            let chain = async {
                part("ADD bridge").await;
                part("ADD portmap").await;
                tokio::time::sleep(SECOND * 2).await;
            };
            tokio::join!(during(Stage::Cni, chain), during(Stage::TaskCreate, tokio::time::sleep(SECOND * 9)));
        };
        let tracked = operations.track(Verb::RunPodSandbox, "web".to_owned(), work);
        let seen = async {
            let mut seen = Vec::new();
            tokio::time::sleep(SECOND).await;
            for _ in 0..4 {
                let stages = operations.running().remove(0).stages;
                seen.push(stages.into_iter().map(|open| (open.stage, open.detail)).collect::<Vec<_>>());
                tokio::time::sleep(SECOND * 2).await;
            }
            seen
        };
        let ((), seen) = tokio::join!(tracked, seen);
        let cni = |detail: Option<&str>| vec![(Stage::Cni, detail.map(str::to_owned)), (Stage::TaskCreate, None)];
        let no_more_cni = vec![(Stage::TaskCreate, None)];
        assert_eq!(seen, [cni(Some("ADD bridge")), cni(Some("ADD portmap")), cni(None), no_more_cni]);
        // Work outside of an operation, or of the stage, has no detail, and runs all the same.
        assert_eq!(detailed(Stage::Cni, "ADD".to_owned(), async { 7 }).await, 7);
        let elsewhere = detailed(Stage::Cni, "ADD".to_owned(), async { Ok::<_, std::fmt::Error>(8) });
        assert_eq!(operations.track(Verb::RunPodSandbox, "web".to_owned(), elsewhere).await, Ok(8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_finished_stage_is_measured() {
        let metrics = Metrics::on();
        let operations = Operations::new(metrics.clone());
        let work = during(Stage::Netns, tokio::time::sleep(SECOND));
        operations.track(Verb::RunPodSandbox, "web".to_owned(), work).await;
        let text = metrics.text().unwrap();
        let sum = "pontoon_stage_duration_seconds_sum{operation=\"RunPodSandbox\",stage=\"netns\"} 1.0";
        assert!(text.contains(sum), "{text}");
    }
}
