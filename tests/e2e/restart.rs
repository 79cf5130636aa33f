//! Restarts of the daemon and of containerd, by SIGKILL, SIGABRT and SIGTERM: no pod notices them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pontoon::api::v1;
use pontoon::api::v1::{ContainerState, ContainerStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::bed::{Bed, SOON, output, until};
use crate::harness::{Outcome, SLOWNESS, Test, rule};
use crate::logs;
use crate::node::Node;
use crate::scope::{Pod, Scope, shell, sleeper};
use crate::streaming::{How, STDIN, TTY};

pub const BUILTIN: &str = "the built-in CRI is containerd: it cannot be killed alone";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(after_a_kill_everything_is_as_it_was).alone().within(240).only_pontoon(BUILTIN),
        rule!(after_a_sigterm_pods_run_on).alone().only_pontoon(BUILTIN),
        rule!(an_exit_while_the_daemon_is_away_is_reported).alone().only_pontoon(BUILTIN),
        rule!(a_kill_in_the_middle_of_runs_leaves_nothing_that_cannot_be_removed)
            .alone()
            .within(180)
            .only_pontoon(BUILTIN),
        rule!(a_kill_in_the_middle_of_stops_leaves_nothing_that_cannot_be_removed)
            .alone()
            .within(180)
            .only_pontoon(BUILTIN),
        rule!(after_aborts_in_the_middle_of_runs_everything_goes_on).alone().within(240).only_pontoon(BUILTIN),
        rule!(a_shim_that_containerd_has_forgotten_ends_with_its_pod).alone().within(120).only_pontoon(BUILTIN),
        rule!(sessions_end_when_the_daemon_is_stopped).alone().within(120).only_pontoon(BUILTIN),
        rule!(sessions_end_when_the_daemon_is_killed).alone().within(120).only_pontoon(BUILTIN),
        rule!(when_containerd_is_killed_and_back_pods_run_on).alone().within(120).only_pontoon(BUILTIN),
        rule!(f5_when_containerd_hangs_and_goes_on_pods_run_on).alone().within(120).only_pontoon(BUILTIN),
    ]
}

impl Bed {
    /// Runs `bed.sh daemon|containerd NAME start|stop|kill|abort`.
    pub async fn daemon(&self, daemon: &str, verb: &str) -> anyhow::Result<()> {
        output(self.script("bed.sh").args([daemon, &self.name, verb])).await.map(drop)
    }

    /// Runs `body` with `tables` added to the daemon's configuration. Restores the configuration for the next test,
    /// even if `body` fails.
    pub async fn configured(&self, tables: &str, body: impl Future<Output = Outcome>) -> Outcome {
        let file = self.dir.join("pontoon.toml");
        let before = std::fs::read_to_string(&file)?;
        let again = || async {
            self.daemon("daemon", "stop").await?;
            self.daemon("daemon", "start").await
        };
        std::fs::write(&file, format!("{before}\n{tables}"))?;
        let outcome = match again().await {
            Ok(()) => body.await,
            Err(error) => Err(error),
        };
        std::fs::write(&file, before)?;
        again().await?;
        outcome
    }

    /// Starts the daemon. Returns the time from the start of its process to its first response to ListPodSandbox, and
    /// the pods in that response.
    pub async fn start_and_list(&self) -> anyhow::Result<(Duration, Vec<v1::PodSandbox>)> {
        let started = async { self.daemon("daemon", "start").await };
        let listed = async {
            until(SOON, || async { self.pid("pontoon") }).await?;
            let start = Instant::now();
            let pods = until(SOON, || async {
                Ok(self
                    .runtime()
                    .list_pod_sandbox(v1::ListPodSandboxRequest { filter: None })
                    .await?
                    .into_inner()
                    .decoded()?)
            });
            anyhow::Ok((pods.await?, start.elapsed()))
        };
        let (started, listed) = tokio::join!(started, listed);
        started?;
        let (pods, took) = listed?;
        Ok((took, pods))
    }
}

/// Everything that CRI reports about a test's pods and containers, by id.
#[derive(Debug, PartialEq)]
struct Seen {
    pods: BTreeMap<String, v1::PodSandboxStatus>,
    containers: BTreeMap<String, ContainerStatus>,
}

impl Seen {
    async fn now(scope: &Scope) -> anyhow::Result<Self> {
        let mut seen = Self { pods: BTreeMap::new(), containers: BTreeMap::new() };
        for pod in scope.pods().await? {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
            let response = scope.bed.runtime().pod_sandbox_status(request).await?.into_inner();
            seen.pods.insert(pod.id.clone(), response.status.context("status")?);
            let filter = Some(v1::ContainerFilter { pod_sandbox_id: pod.id, ..Default::default() });
            let listed = scope.bed.runtime().list_containers(v1::ListContainersRequest { filter }).await?.into_inner();
            for container in listed.decoded()? {
                let status = scope.bed.status(&container.id).await?;
                seen.containers.insert(container.id, status);
            }
        }
        Ok(seen)
    }

    /// Fails with a description of the first difference.
    fn same(&self, later: &Self) -> Outcome {
        let ids = |seen: &Self| -> Vec<String> { seen.pods.keys().chain(seen.containers.keys()).cloned().collect() };
        ensure!(ids(self) == ids(later), "ids: {:?} and then {:?}", ids(self), ids(later));
        for (id, pod) in &self.pods {
            ensure!(*pod == later.pods[id], "pod {pod:?} and then {:?}", later.pods[id]);
        }
        for (id, container) in &self.containers {
            ensure!(*container == later.containers[id], "container {container:?} and then {:?}", later.containers[id]);
        }
        Ok(())
    }
}

/// A container that counts on stdout, five times a second.
fn counter(name: &str) -> v1::ContainerConfig {
    shell(name, "trap 'exit 0' TERM; i=0; while :; do echo $i; i=$((i + 1)); sleep 0.2; done")
}

/// Checks that a counter's log has every number from 0 on, each exactly once. Returns how many there are.
fn counted(log: &Path) -> anyhow::Result<usize> {
    let text = logs::text(log)?;
    for (expected, line) in text.lines().enumerate() {
        ensure!(line == expected.to_string(), "{}: {line} where {expected} should be", log.display());
    }
    Ok(text.lines().count())
}

/// Starts pods with one counting container each, in parallel. Returns the pods and the paths of the containers' logs.
/// Every fourth container has stdin, so that its streams are set up differently.
async fn counting_pods(scope: &Arc<Scope>, number: usize) -> anyhow::Result<(Vec<Pod>, Vec<PathBuf>)> {
    let mut runs = JoinSet::new();
    for turn in 0..number {
        let scope = scope.clone();
        runs.spawn(async move {
            let pod = scope.pod().await?;
            let mut config = counter("counter");
            config.stdin = turn % 4 == 3;
            let log = pod.log(&config);
            pod.start(config).await?;
            anyhow::Ok((pod, log))
        });
    }
    Ok(runs.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip())
}

async fn after_a_kill_everything_is_as_it_was(scope: Arc<Scope>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    let (pods, logs) = counting_pods(&scope, 20).await?;
    for (pod, code) in pods.iter().zip([0, 1, 7, 137, 255]) {
        let id = pod.start(shell("ended", &format!("echo last words; exit {code}"))).await?;
        ensure!(scope.bed.exited(&id).await?.exit_code == code, "exit code");
    }
    let seen = Seen::now(&scope).await?;
    ensure!(seen.pods.len() == 20 && seen.containers.len() == 25, "{} and {}", seen.pods.len(), seen.containers.len());

    scope.bed.daemon("daemon", "kill").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (took, listed) = scope.bed.start_and_list().await?;
    println!("    first list {} ms after the start, {} pods", took.as_millis(), listed.len());
    ensure!(took < Duration::from_secs(1) * *SLOWNESS, "the first list took {took:?}");
    seen.same(&Seen::now(&scope).await?)?;

    let so_far = logs.iter().map(|log| counted(log)).collect::<anyhow::Result<Vec<_>>>()?;
    for (log, so_far) in logs.iter().zip(so_far) {
        until(SOON, || async {
            ensure!(counted(log)? >= so_far + 5, "{} does not go on", log.display());
            Ok(())
        })
        .await?;
    }
    for pod in &pods {
        pod.stop().await?;
    }
    for log in &logs {
        counted(log)?;
    }
    scope.remove_pods().await?;
    before.is_back(&scope.bed).await
}

async fn after_a_sigterm_pods_run_on(scope: Arc<Scope>) -> Outcome {
    let (_pods, logs) = counting_pods(&scope, 4).await?;
    let seen = Seen::now(&scope).await?;
    scope.bed.daemon("daemon", "stop").await?;
    scope.bed.daemon("daemon", "start").await?;
    seen.same(&Seen::now(&scope).await?)?;
    for log in &logs {
        let so_far = counted(log)?;
        until(SOON, || async {
            ensure!(counted(log)? >= so_far + 5, "{} does not go on", log.display());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn an_exit_while_the_daemon_is_away_is_reported(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "while [ ! -e /data/go ]; do sleep 0.05; done; exit 17");
    config.mounts = vec![v1::Mount {
        host_path: volume.display().to_string(),
        container_path: "/data".into(),
        ..Default::default()
    }];
    let id = pod.start(config).await?;
    let pid = scope.bed.pid_of(&id).await?;
    scope.bed.daemon("daemon", "kill").await?;
    std::fs::write(volume.join("go"), "")?;
    let gone = || async {
        ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "it still runs");
        Ok(())
    };
    until(SOON, gone).await?;
    scope.bed.daemon("daemon", "start").await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 17 && status.reason == "Error", "{} {}", status.exit_code, status.reason);
    ensure!(status.finished_at > status.started_at, "finished_at {}", status.finished_at);
    // Once more: now the daemon has the exit only from the container's record.
    scope.bed.daemon("daemon", "kill").await?;
    scope.bed.daemon("daemon", "start").await?;
    let again = scope.bed.status(&id).await?;
    ensure!(again == status, "{status:?} and then {again:?}");
    Ok(())
}

/// Whether a leftover is excused, because it is containerd's own. When a client dies, containerd cancels its calls
/// halfway. A shim's socket or a task's directory can then remain, and containerd itself does not know about it until
/// it is restarted. No process may remain.
fn containerds(line: &str) -> bool {
    line.contains("/containerd/state/") || line.contains("/s/")
}

/// How long calls run before the daemon is killed, in milliseconds.
const MOMENTS: [u64; 4] = [20, 80, 200, 500];

/// Kills the daemon while `calls` run, at four different moments. Afterwards everything that is listed must be
/// removable.
async fn killed_in_the_middle<F>(scope: &Arc<Scope>, mut calls: impl FnMut(Arc<Scope>) -> F) -> Outcome
where
    F: Future<Output = anyhow::Result<JoinSet<()>>>,
{
    let before = Node::look(&scope.bed).await?;
    for after in MOMENTS {
        let running = calls(scope.clone()).await?;
        tokio::time::sleep(Duration::from_millis(after)).await;
        scope.bed.daemon("daemon", "kill").await?;
        drop(running);
        scope.bed.daemon("daemon", "start").await?;
        scope.remove_pods().await.with_context(|| format!("killed after {after} ms"))?;
        let back = before.is_back_but_for(&scope.bed, containerds).await;
        back.with_context(|| format!("killed after {after} ms"))?;
    }
    Ok(())
}

async fn a_kill_in_the_middle_of_runs_leaves_nothing_that_cannot_be_removed(scope: Arc<Scope>) -> Outcome {
    killed_in_the_middle(&scope, |scope| async move { Ok(runs(&scope)) }).await
}

/// Starts to create six pods with a container each. They may fail.
fn runs(scope: &Arc<Scope>) -> JoinSet<()> {
    let mut running = JoinSet::new();
    for _ in 0..6 {
        let scope = scope.clone();
        running.spawn(async move {
            if let Ok(pod) = scope.pod().await {
                let _ = pod.start(sleeper("main")).await;
            }
        });
    }
    running
}

/// A panic ends the daemon by SIGABRT (docs/adr/0028). Pods that run do not notice it, a new pod can be created at once,
/// and the pods that were being created can be removed.
async fn after_aborts_in_the_middle_of_runs_everything_goes_on(scope: Arc<Scope>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    let (_pods, logs) = counting_pods(&scope, 4).await?;
    let seen = Seen::now(&scope).await?;
    for after in MOMENTS {
        let running = runs(&scope);
        tokio::time::sleep(Duration::from_millis(after)).await;
        scope.bed.daemon("daemon", "abort").await?;
        drop(running);
        scope.bed.daemon("daemon", "start").await?;
        let others = async {
            scope.pod().await?.start(sleeper("main")).await?;
            for pod in scope.pods().await?.into_iter().filter(|pod| !seen.pods.contains_key(&pod.id)) {
                scope.remove_pod(pod.id).await?;
            }
            seen.same(&Seen::now(&scope).await?)
        };
        others.await.with_context(|| format!("aborted after {after} ms"))?;
    }
    for log in &logs {
        let so_far = counted(log)?;
        until(SOON, || async {
            ensure!(counted(log)? >= so_far + 5, "{} does not go on", log.display());
            Ok(())
        })
        .await?;
    }
    scope.remove_pods().await?;
    before.is_back_but_for(&scope.bed, containerds).await
}

async fn a_kill_in_the_middle_of_stops_leaves_nothing_that_cannot_be_removed(scope: Arc<Scope>) -> Outcome {
    killed_in_the_middle(&scope, |scope| async move {
        let mut pods = Vec::new();
        for _ in 0..4 {
            let pod = scope.pod().await?;
            pod.start(sleeper("main")).await?;
            pods.push(pod);
        }
        let mut running = JoinSet::new();
        for pod in pods {
            running.spawn(async move {
                let _ = pod.stop().await;
                let _ = pod.remove().await;
            });
        }
        Ok(running)
    })
    .await
}

/// Creates on purpose what a cancelled Create or Delete can leave: a shim whose task directory is missing, so that
/// containerd does not find it again when it starts.
async fn a_shim_that_containerd_has_forgotten_ends_with_its_pod(scope: Arc<Scope>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    let pod = scope.pod().await?;
    let container = pod.start(sleeper("main")).await?;
    for daemon in ["daemon", "containerd"] {
        scope.bed.daemon(daemon, "kill").await?;
    }
    let tasks = scope.bed.dir.join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    for id in [&pod.id, &container] {
        output(tokio::process::Command::new("umount").arg(tasks.join(id).join("rootfs"))).await.ok();
        std::fs::remove_dir_all(tasks.join(id)).context("the task's directory")?;
    }
    for daemon in ["containerd", "daemon"] {
        scope.bed.daemon(daemon, "start").await?;
    }
    scope.remove_pods().await?;
    // runc's own state is for containerd to remove, and containerd does not know the container any more.
    let runc = format!("file: {}/runc/", scope.bed.dir.display());
    before.is_back_but_for(&scope.bed, |line| containerds(line) || line.starts_with(&runc)).await
}

async fn runtime_ready(bed: &Bed) -> anyhow::Result<bool> {
    let status =
        bed.runtime().status(v1::StatusRequest { verbose: false }).await?.into_inner().status.context("status")?;
    Ok(status.conditions.iter().any(|condition| condition.r#type == "RuntimeReady" && condition.status))
}

async fn when_containerd_is_killed_and_back_pods_run_on(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(counter("counter")).await?;
    let seen = Seen::now(&scope).await?;
    scope.bed.daemon("containerd", "kill").await?;
    let away = away(&scope, &id).await;
    scope.bed.daemon("containerd", "start").await?;
    away?;
    until(SOON, || async {
        ensure!(runtime_ready(&scope.bed).await?, "still not ready");
        Ok(())
    })
    .await?;
    seen.same(&Seen::now(&scope).await?)?;
    scope.bed.stop(&id, 5).await?;
    let status = scope.bed.status(&id).await?;
    ensure!(status.state() == ContainerState::ContainerExited && status.exit_code == 0, "{status:?}");
    counted(&pod.log(&counter("counter")))?;
    scope.pod().await.context("a new pod")?;
    Ok(())
}

async fn f5_when_containerd_hangs_and_goes_on_pods_run_on(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(counter("counter")).await?;
    let seen = Seen::now(&scope).await?;
    let containerd = Pid::from_raw(scope.bed.pid("containerd")?.try_into()?);
    kill(containerd, Signal::SIGSTOP)?;
    let start = Instant::now();
    let hung = async {
        while runtime_ready(&scope.bed).await? {
            ensure!(start.elapsed() < Duration::from_secs(10), "still ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        away(&scope, &id).await
    };
    let hung = hung.await;
    kill(containerd, Signal::SIGCONT)?;
    hung?;
    until(SOON, || async {
        ensure!(runtime_ready(&scope.bed).await?, "still not ready");
        Ok(())
    })
    .await?;
    seen.same(&Seen::now(&scope).await?)?;
    scope.pod().await.context("a new pod")?;
    Ok(())
}

/// Checks, while containerd is away, that reads succeed and that writes are refused in time.
async fn away(scope: &Scope, id: &str) -> Outcome {
    until(SOON, || async {
        ensure!(!runtime_ready(&scope.bed).await?, "still ready");
        Ok(())
    })
    .await?;
    scope.bed.status(id).await.context("while containerd is away")?;
    ensure!(scope.pods().await?.len() == 1, "the pod is not listed while containerd is away");
    let start = Instant::now();
    let Err(error) = scope.pod().await else { bail!("a pod ran without containerd") };
    let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    ensure!(code == Some(tonic::Code::Unavailable), "{error:#}");
    ensure!(start.elapsed() < Duration::from_secs(8), "after {:?}", start.elapsed());
    Ok(())
}

async fn sessions_end_when_the_daemon_is_stopped(scope: Arc<Scope>) -> Outcome {
    sessions_end_with_the_daemon(scope, "stop").await
}

async fn sessions_end_when_the_daemon_is_killed(scope: Arc<Scope>) -> Outcome {
    sessions_end_with_the_daemon(scope, "kill").await
}

/// Clients see the end of their sessions, pods and containers are not affected, and nothing of the sessions remains.
async fn sessions_end_with_the_daemon(scope: Arc<Scope>, how: &str) -> Outcome {
    const EXECS: [How; 3] = [How { stdin: false, tty: false }, STDIN, TTY];
    let bed = &scope.bed;
    let pod = scope.pod().await?;
    let talker = "trap 'exit 0' TERM; nc -ll -p 8000 -e cat & while read line; do echo \"said $line\"; done";
    let config = v1::ContainerConfig { stdin: true, ..shell("main", talker) };
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    let before = (Seen::now(&scope).await?, Node::look(bed).await?);
    let mut sessions = Vec::new();
    for how in EXECS {
        let mut session = bed.exec_session("spdy", &id, &["sh", "-c", "echo here; sleep 4321"], how).await?;
        session.shows("here").await?;
        sessions.push(session);
    }
    for protocol in bed.protocols() {
        let mut session = bed.attach_session(protocol, &id, STDIN).await?;
        session.send("something\n").await?;
        session.shows("said something\n").await?;
        sessions.push(session);
    }
    let forward = bed.forward("spdy", &pod.id, &[8000]).await?;
    let mut connection = forward.connect(0).await?;
    connection.write_all(b"early").await?;
    connection.read_exact(&mut [0; 5]).await?;

    bed.daemon("daemon", how).await?;
    let mut ended = Vec::new();
    for session in sessions {
        ended.push(tokio::time::timeout(SOON, session.ends()).await);
    }
    let closed = tokio::time::timeout(SOON, connection.read_to_end(&mut Vec::new())).await;
    bed.daemon("daemon", "start").await?;
    for (number, ended) in ended.into_iter().enumerate() {
        let ended = ended.with_context(|| format!("session {number} goes on"))??;
        // An attach may end with success, as it does when its container ends. An exec may not, because its command was
        // killed. When the connection just ends, as after a kill of the daemon, kubectl's library reports success.
        ensure!(how == "kill" || number >= EXECS.len() || ended.code != 0, "session {number}: {ended:?}");
    }
    // The connection may end by a FIN or by a reset.
    ensure!(closed.is_ok(), "a forwarded connection goes on");
    forward.ends().await?;
    // Each command has its own time to end, then its output is drained for up to ten seconds; the rest is a margin.
    until(3 * SOON, || async {
        let left = bed.sh(&id, "ps -o args | grep -c '[s]leep 4321' || true").await?;
        ensure!(left == "0", "{left} commands of execs are left");
        Ok(())
    })
    .await?;
    before.0.same(&Seen::now(&scope).await?)?;
    before.1.is_back(bed).await?;
    let mut session = bed.attach_session("spdy", &id, STDIN).await?;
    session.send("again\n").await?;
    session.shows("said again\n").await?;
    // Attached clients and the log get the output independently, so the log may be later.
    until(SOON, || async {
        ensure!(logs::text(&log)?.ends_with("said again\n"), "the log has not what was said");
        Ok(())
    })
    .await
}
