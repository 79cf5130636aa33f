//! F1: containerd is killed at each mutating call of each verb. The call is carried out or not, its reply is lost
//! either way, and containerd is away for some time. Each such combination is a cell of a matrix. In each, every object
//! that was begun has an owner all the time, and can soon afterwards be retried or removed.
//!
//! `PONTOON_F1=WORDS` runs only the cells whose names contain the words, and shows the server's log of those that fail.

mod kubelet;
mod witness;

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use pontoon::api::v1::*;
use tonic::Code;

use self::kubelet::{Answer, Kubelet, Limit};
use self::witness::{Witness, ownerless};
use crate::support::containerd::{Call, Done};
use crate::support::server::Node;

/// How many seconds containerd is away, and how many such cells run at once. Cells spend most of their time waiting.
const COLUMNS: [(u64, usize); 4] = [(0, 2), (1, 3), (5, 5), (20, 14)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    /// The process exits by itself soon afterwards.
    StartContainerThatEnds,
    StopContainer,
    /// The process has to be stopped with SIGKILL.
    StopContainerThatIgnoresTerm,
    RemoveContainer,
    StopPodSandbox,
    RemovePodSandbox,
    ExecSync,
    /// The command has to be killed.
    ExecSyncThatTakesTooLong,
}

const VERBS: [Verb; 11] = [
    Verb::RunPodSandbox,
    Verb::CreateContainer,
    Verb::StartContainer,
    Verb::StartContainerThatEnds,
    Verb::StopContainer,
    Verb::StopContainerThatIgnoresTerm,
    Verb::RemoveContainer,
    Verb::StopPodSandbox,
    Verb::RemovePodSandbox,
    Verb::ExecSync,
    Verb::ExecSyncThatTakesTooLong,
];

/// How many problems of a cell are shown.
const SHOWN: usize = 6;

/// The exit code of a process that exits by itself.
const OWN_CODE: i32 = 3;

impl Verb {
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::StartContainerThatEnds => &["fake", "out=done\n", "exit=3", "after=100"],
            Self::StopContainerThatIgnoresTerm => &["fake", "ignores=term"],
            _ => &["fake"],
        }
    }

    /// Creates the objects that the verb needs.
    async fn prepare(self, kubelet: &Kubelet<'_>) -> Answer<Objects> {
        let mut objects = Objects::default();
        if self == Self::RunPodSandbox {
            return Ok(objects);
        }
        objects.sandbox = kubelet.run().await?;
        if self == Self::CreateContainer {
            return Ok(objects);
        }
        objects.container = kubelet.create(&objects.sandbox, self.command()).await?;
        if !matches!(self, Self::StartContainer | Self::StartContainerThatEnds) {
            kubelet.start(&objects.container).await?;
        }
        Ok(objects)
    }

    /// The call, or the calls that kubelet makes after it has failed.
    async fn call(self, kubelet: &Kubelet<'_>, on: &Objects) -> Answer<()> {
        match self {
            Self::RunPodSandbox => kubelet.run().await.map(drop),
            Self::CreateContainer => {
                let id = kubelet.create(&on.sandbox, self.command()).await?;
                kubelet.start(&id).await
            }
            Self::StartContainer if on.is_first_call() => kubelet.start(&on.container).await,
            Self::StartContainer => kubelet.have_running(&on.sandbox, self.command()).await,
            Self::StartContainerThatEnds => start_to_its_end(kubelet, on).await,
            Self::StopContainer => kubelet.stop(&on.container, 30).await,
            Self::StopContainerThatIgnoresTerm => kubelet.stop(&on.container, 1).await,
            Self::RemoveContainer => kubelet.remove(&on.container).await,
            Self::StopPodSandbox => kubelet.stop_pod(&on.sandbox).await,
            Self::RemovePodSandbox => kubelet.remove_pod(&on.sandbox).await,
            Self::ExecSync => {
                let code = kubelet.exec(&on.container, &["fake", "out=hello", "exit=0"], 10).await?.exit_code;
                if code == 0 { Ok(()) } else { Err(tonic::Status::internal(format!("it ended with {code}"))) }
            }
            Self::ExecSyncThatTakesTooLong => match kubelet.exec(&on.container, &["fake"], 1).await {
                Err(status) if status.code() == Code::DeadlineExceeded => Ok(()),
                Err(status) => Err(status),
                Ok(reply) => Err(tonic::Status::internal(format!("it ended with {}", reply.exit_code))),
            },
        }
    }

    /// Checks what must hold when the call has succeeded.
    async fn wrong_after_success(self, kubelet: &Kubelet<'_>, on: &Objects) -> Option<String> {
        if matches!(self, Self::StopContainer | Self::StopContainerThatIgnoresTerm) {
            let state = kubelet.status(&on.container).await.map(|status| status.state());
            if !matches!(state, Ok(ContainerState::ContainerExited)) {
                return Some(format!("{self:?} succeeded, and the container's state is {state:?}"));
            }
        }
        let running = kubelet.node.containerd.running();
        let must_be_over: &[&String] = match self {
            Self::StopContainer | Self::StopContainerThatIgnoresTerm | Self::RemoveContainer => &[&on.container],
            Self::StopPodSandbox | Self::RemovePodSandbox => &[&on.container, &on.sandbox],
            _ => &[],
        };
        must_be_over.iter().any(|id| running.contains(id)).then(|| format!("{self:?} succeeded around a live process"))
    }
}

/// The only success is the end of the task. If StartContainer has succeeded, the exit code must be the process's own.
async fn start_to_its_end(kubelet: &Kubelet<'_>, on: &Objects) -> Answer<()> {
    let status = kubelet.status(&on.container).await?;
    match status.state() {
        ContainerState::ContainerExited if *on.started.lock().unwrap() && status.exit_code != OWN_CODE => {
            Err(tonic::Status::internal(format!("it started, and ended with {}", status.exit_code)))
        }
        ContainerState::ContainerExited if kubelet.node.containerd.tasks().contains(&on.container) => {
            Err(tonic::Status::internal("its task is not deleted"))
        }
        ContainerState::ContainerExited => Ok(()),
        ContainerState::ContainerCreated => {
            kubelet.start(&on.container).await?;
            *on.started.lock().unwrap() = true;
            Err(tonic::Status::internal("it has not ended"))
        }
        state => Err(tonic::Status::internal(format!("it is {state:?}"))),
    }
}

/// The objects of a verb's call.
#[derive(Default)]
struct Objects {
    sandbox: String,
    container: String,
    called: Mutex<bool>,
    started: Mutex<bool>,
}

impl Objects {
    /// Whether this is the first call.
    fn is_first_call(&self) -> bool {
        !std::mem::replace(&mut *self.called.lock().unwrap(), true)
    }
}

#[derive(Clone, Debug)]
struct Cell {
    verb: Verb,
    method: String,
    nth: usize,
    done: Done,
    seconds: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, method, nth, done, seconds } = self;
        let done = match done {
            Done::Yes => "done",
            Done::No => "not done",
            Done::Missed => "done and missed by its shim",
        };
        write!(f, "{verb:?}, {method} number {nth}, {done}, away {seconds} s")
    }
}

/// A node that has run one container already, so that the first read of the image is not part of the matrix.
async fn warm_node() -> Arc<Node> {
    let node = Node::start().await;
    let (sandbox, container) = node.run_with_container("warm", &["fake"]).await;
    Kubelet::new(&node).exec(&container, &["fake", "exit=0"], 10).await.unwrap();
    node.remove(&sandbox).await;
    node.containerd.collect_garbage();
    node.assert_clean("the first pod").await;
    Arc::new(node)
}

/// The mutating calls to containerd of a verb, as (method, its number).
async fn steps(node: &Node, verb: Verb) -> Vec<(String, usize)> {
    let kubelet = Kubelet::new(node);
    let objects = verb.prepare(&kubelet).await.unwrap();
    let start = quiet(node).await;
    Limit::from_now().repeat("an undisturbed call", async || verb.call(&kubelet, &objects).await).await.unwrap();
    // Some calls come after the reply.
    quiet(node).await;
    let calls = node.containerd.calls().split_off(start);
    let mut steps: Vec<(String, usize)> = Vec::new();
    for call in calls.into_iter().filter(Call::is_mutating) {
        let before = steps.iter().filter(|(method, _)| *method == call.method).count();
        steps.push((call.method, before + 1));
    }
    node.remove_all().await;
    node.assert_clean("an undisturbed pod").await;
    steps
}

/// Waits until no call has come for a while. Returns the number of calls.
async fn quiet(node: &Node) -> usize {
    let mut count = node.containerd.calls().len();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = node.containerd.calls().len();
        if now == count {
            return now;
        }
        count = now;
    }
}

async fn all_cells() -> Vec<Cell> {
    let node = warm_node().await;
    let mut cells = Vec::new();
    for verb in VERBS {
        let steps = steps(&node, verb).await;
        assert!(!steps.is_empty(), "{verb:?} changes nothing");
        for (method, nth) in steps {
            let may_be_missed = method == "Tasks/Start";
            for done in [Done::Yes, Done::No, Done::Missed].into_iter().take(if may_be_missed { 3 } else { 2 }) {
                cells.extend(COLUMNS.map(|(seconds, _)| Cell { verb, method: method.clone(), nth, done, seconds }));
            }
        }
    }
    cells
}

/// Returns what is wrong in a cell; `None` when the call at which containerd is to be killed did not come.
async fn run(node: &Arc<Node>, cell: &Cell) -> Option<Vec<String>> {
    let kubelet = Kubelet::new(node);
    let objects = match cell.verb.prepare(&kubelet).await {
        Ok(objects) => objects,
        Err(status) => return Some(vec![format!("it cannot be prepared: {status}")]),
    };
    let outage = node.containerd.outage(&cell.method, cell.nth, cell.done, Duration::from_secs(cell.seconds));
    let witness = Witness::new(node);
    let limit = Limit::Of(outage.clone());
    let mut wrong = Vec::new();

    let name = format!("{:?} or its repetition", cell.verb);
    // A longer timeout than the outage's, for a cell in which that call never comes.
    let asked = limit.repeat(&name, async || cell.verb.call(&kubelet, &objects).await);
    match tokio::time::timeout(Duration::from_secs(cell.seconds + 60), asked).await {
        Ok(Ok(())) => wrong.extend(cell.verb.wrong_after_success(&kubelet, &objects).await),
        Ok(Err(said)) => wrong.push(said),
        Err(_) => wrong.push("the calls go on for ever without the one that is to be hit".to_owned()),
    }
    let met = tokio::time::timeout(Duration::from_secs(2), async {
        while !outage.has_begun() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let met = met.await.is_ok();
    if met {
        outage.over().await;
        wrong.extend(limit.settle(async || ownerless(node).await).await);
    }
    node.containerd.heal();

    wrong.extend(Limit::from_now().repeat("Stop and Remove of all", async || kubelet.remove_all().await).await.err());
    let dirty = async || {
        node.containerd.collect_garbage();
        let mut left = node.leftovers();
        left.extend(node.containerd.running().iter().map(|id| format!("process {id} runs")));
        left
    };
    let left = Limit::from_now().settle(dirty).await;
    wrong.extend(witness.tell(node).await);
    wrong.extend(left.into_iter().map(|left| format!("in the end, {left}")));
    (met || !wrong.is_empty()).then_some(wrong)
}

/// The results of the cells.
#[derive(Default)]
struct Results {
    passed: usize,
    not_met: Vec<String>,
    failed: Vec<String>,
}

/// Runs cells one after the other. A node on which a cell failed is not used again.
async fn work(cells: Arc<Mutex<VecDeque<Cell>>>, results: Arc<Mutex<Results>>, log: bool) {
    let mut node = None;
    loop {
        let Some(cell) = cells.lock().unwrap().pop_front() else { return };
        let current = match node.take() {
            Some(node) => node,
            None => warm_node().await,
        };
        let ran = AssertUnwindSafe(run(&current, &cell)).catch_unwind().await;
        let mut results = results.lock().unwrap();
        match ran {
            Ok(Some(wrong)) if wrong.is_empty() => {
                results.passed += 1;
                node = Some(current);
            }
            Ok(None) => {
                results.not_met.push(cell.to_string());
                node = Some(current);
            }
            Ok(Some(wrong)) => {
                let server = if log { current.log() } else { String::new() };
                let (shown, more) = wrong.split_at(wrong.len().min(SHOWN));
                let more = if more.is_empty() { String::new() } else { format!("\n    and {} more", more.len()) };
                results.failed.push(format!("{cell}:\n    {}{more}\n{server}", shown.join("\n    ")));
            }
            // The panic has printed the reason.
            Err(_) => results.failed.push(format!("{cell}: it panicked")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_containerd_may_be_killed_at_any_call_of_any_verb() {
    let words = std::env::var("PONTOON_F1").unwrap_or_default();
    let cells: Vec<Cell> = all_cells().await.into_iter().filter(|cell| cell.to_string().contains(&words)).collect();
    let results = Arc::<Mutex<Results>>::default();
    let workers = COLUMNS.iter().flat_map(|(seconds, workers)| {
        let of_column: VecDeque<Cell> = cells.iter().filter(|cell| cell.seconds == *seconds).cloned().collect();
        let of_column = Arc::new(Mutex::new(of_column));
        std::iter::repeat_n(of_column, *workers)
    });
    let work = workers.map(|of_column| work(of_column, Arc::clone(&results), !words.is_empty()));
    futures_util::future::join_all(work).await;
    let results = results.lock().unwrap();
    println!("f1 matrix: {} cells, {} pass, {} fail", cells.len(), results.passed, results.failed.len());
    for cell in &results.not_met {
        println!("f1 matrix: the call did not come: {cell}");
    }
    assert!(results.failed.is_empty(), "{} cells fail:\n{}", results.failed.len(), results.failed.join("\n"));
    assert!(results.not_met.len() * 20 <= cells.len(), "too many cells in which the call did not come");
}
