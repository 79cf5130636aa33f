//! Operations in flight: what each is, on which object, and which of its stages it is in since when.
//!
//! An operation carries itself through its task: whatever runs below it says [`during`] which stage it works, without
//! being handed anything. Two stages of one operation may be open at a time (CNI ADD beside the pause container).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Metrics;

tokio::task_local! {
    static CURRENT: Arc<InFlight>;
}

/// Makes an enum of names that are a label's values and a column of `pontoon top`.
macro_rules! names {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As it is shown.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

names! {
    /// What an operation is: the CRI verb that began it, or what one of them has to be done with.
    Verb {
        /// RunPodSandbox.
        RunPodSandbox = "RunPodSandbox",
        /// StopPodSandbox.
        StopPodSandbox = "StopPodSandbox",
        /// RemovePodSandbox.
        RemovePodSandbox = "RemovePodSandbox",
        /// A task about which a call has failed: it is asked for, ended or deleted until that succeeds.
        SettleTask = "SettleTask",
        /// What was made of an object whose creation failed, or that nobody took, is taken back.
        TakeBack = "TakeBack",
        /// CreateContainer.
        CreateContainer = "CreateContainer",
        /// StartContainer.
        StartContainer = "StartContainer",
        /// StopContainer.
        StopContainer = "StopContainer",
        /// RemoveContainer.
        RemoveContainer = "RemoveContainer",
        /// UpdateContainerResources.
        UpdateContainerResources = "UpdateContainerResources",
        /// UpdatePodSandboxResources.
        UpdatePodSandboxResources = "UpdatePodSandboxResources",
        /// ExecSync.
        ExecSync = "ExecSync",
        /// PullImage.
        PullImage = "PullImage",
        /// An image that Transfer did not unpack for a snapshotter.
        UnpackImage = "UnpackImage",
        /// RemoveImage.
        RemoveImage = "RemoveImage",
    }
}

names! {
    /// A part of an operation that can take long, or hang.
    Stage {
        /// What the request names is resolved: image, mounts, devices, user.
        Plan = "plan",
        /// A record of containerd's is written or deleted.
        Record = "record",
        /// The pod's files and mounts of its own.
        Files = "files",
        /// Network and user namespaces.
        Netns = "netns",
        /// CNI ADD or DEL.
        Cni = "cni",
        /// The root of a container.
        Snapshot = "snapshot",
        /// Volumes of the image, images as volumes.
        Volumes = "volumes",
        /// FIFOs and the log.
        Streams = "streams",
        /// Tasks.Create: the shim, runc create.
        TaskCreate = "task_create",
        /// Tasks.Get: an answer was lost, and what there is has to be asked.
        TaskGet = "task_get",
        /// Tasks.Start.
        TaskStart = "task_start",
        /// Between the stop signal and the end of the grace period.
        Grace = "grace",
        /// After SIGKILL.
        Kill = "kill",
        /// Until containerd has deleted the task.
        TaskDelete = "task_delete",
        /// What is to be removed ends first.
        Stop = "stop",
        /// The containers of a sandbox.
        Containers = "containers",
        /// The pause task.
        Pause = "pause",
        /// What failed is taken back.
        Undo = "undo",
        /// A command runs.
        Command = "command",
        /// A place among others is waited for: among pulls, or runs of CNI plugins.
        Queue = "queue",
        /// containerd resolves, downloads and unpacks.
        Transfer = "transfer",
        /// We unpack.
        Unpack = "unpack",
    }
}

/// The operations in flight of one process. Clones are the same.
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
struct InFlight {
    verb: Verb,
    object: String,
    since: Instant,
    /// Those that are open, in the order in which they began.
    stages: Mutex<Vec<(Stage, Instant)>>,
    metrics: Metrics,
}

/// One operation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// What it is.
    pub verb: Verb,
    /// A sandbox's or container's id; the name of one that is being made; a reference of an image.
    pub object: String,
    /// How long it runs.
    pub age: Duration,
    /// Its open stages, and how long each has been.
    pub stages: Vec<(Stage, Duration)>,
}

impl Operations {
    /// None runs; durations of stages go to `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { running: Arc::default(), metrics }
    }

    /// Where durations of stages go.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The same work, seen while it runs.
    pub fn track<F: Future>(&self, verb: Verb, object: String, work: F) -> impl Future<Output = F::Output> + use<F> {
        let all = self.clone();
        async move {
            let one = InFlight {
                verb,
                object,
                since: Instant::now(),
                stages: Mutex::default(),
                metrics: all.metrics.clone(),
            };
            let one = Arc::new(one);
            let _listed = Listed::new(all, &one);
            CURRENT.scope(one, work).await
        }
    }

    /// What runs now, the oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<Running> {
        let all: Vec<Arc<InFlight>> = lock(&self.running).operations.values().cloned().collect();
        all.iter().map(|one| one.now()).collect()
    }
}

/// An operation's place in the table; also a panic gives it up.
struct Listed {
    operations: Operations,
    number: u64,
}

impl Listed {
    fn new(operations: Operations, one: &Arc<InFlight>) -> Self {
        let mut table = lock(&operations.running);
        table.last += 1;
        let number = table.last;
        table.operations.insert(number, Arc::clone(one));
        drop(table);
        Self { operations, number }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.operations.running).operations.remove(&self.number);
    }
}

/// Does `work` as a stage of the operation that this task is; of none, it just does it.
pub async fn during<F: Future>(stage: Stage, work: F) -> F::Output {
    let open = CURRENT.try_with(|operation| Open::new(operation, stage)).ok();
    let output = super::traces::in_stage(stage, work).await;
    drop(open);
    output
}

/// A stage that is open until this is dropped.
struct Open {
    operation: Arc<InFlight>,
    stage: Stage,
    since: Instant,
}

impl Open {
    fn new(operation: &Arc<InFlight>, stage: Stage) -> Self {
        let since = Instant::now();
        lock(&operation.stages).push((stage, since));
        Self { operation: Arc::clone(operation), stage, since }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut stages = lock(&self.operation.stages);
        // Two of the same name that began in the same instant are alike: either may go.
        if let Some(at) = stages.iter().position(|one| *one == (self.stage, self.since)) {
            stages.remove(at);
        }
        drop(stages);
        self.operation.metrics.stage(self.operation.verb, self.stage, self.since.elapsed());
    }
}

impl InFlight {
    fn now(&self) -> Running {
        let stages = lock(&self.stages).iter().map(|(stage, since)| (*stage, since.elapsed())).collect();
        Running { verb: self.verb, object: self.object.clone(), age: self.since.elapsed(), stages }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
                seen.push((running[0].age.as_secs(), running[0].stages.iter().map(|(s, _)| *s).collect::<Vec<_>>()));
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
        // Work of no operation has no stage, and is done all the same.
        assert_eq!(during(Stage::Cni, async { 7 }).await, 7);
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
