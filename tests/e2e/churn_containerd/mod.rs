//! Kills containerd, and in one test also Pontoon, again and again while pods come and go. CRI must report to kubelet
//! what has happened, no container may run twice, and nothing may be left.
//!
//! `make churn-containerd` kills 60 times, the suite five times. The findings are printed by kind, and are complete in
//! the logs.

mod calls;
mod findings;
mod outages;
mod pod;
mod starts;
mod verdict;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{bail, ensure};
use pontoon::api::v1;
use tokio::task::JoinSet;

use crate::bed::{Bed, Target};
use crate::harness::{Outcome, Test, rule};
use crate::node::Node;
use crate::scope::{Scope, cgroup_hierarchies};

use calls::{Calls, Deadlines};
use findings::{Findings, Kind};
use outages::{Daemon, Outages, Random, now};
use pod::{Pod, UID};

/// The number of clients. Each runs one pod after the other.
const CLIENTS: u64 = 4;
/// The label of all pods of a churn. Its value is the churn's name.
const LABEL: &str = "churn";
/// How long the clients may take after the last kill to finish their current pods.
const FINISH: Duration = Duration::from_secs(300);
/// How long the last try to remove a pod that is still listed may take.
const LAST_TRY: Duration = Duration::from_secs(60);

pub fn tests() -> Vec<Test> {
    let seconds = if kills() > 10 { 1500 } else { 600 };
    vec![
        rule!(containerd_is_killed_while_pods_come_and_go).alone().within(seconds),
        rule!(containerd_and_pontoon_are_killed_while_pods_come_and_go)
            .alone()
            .within(seconds)
            .only_pontoon("the built-in CRI is containerd: both are killed in the other churn"),
    ]
}

/// How often each daemon is killed: `E2E_KILLS`, or else 5. `make churn-containerd` sets 60.
fn kills() -> u64 {
    crate::harness::from_environment("E2E_KILLS").unwrap_or(5)
}

/// The seed for the times of the kills and the kinds of the pods. `E2E_SEED` repeats those of an earlier run.
fn seed() -> u64 {
    let given = crate::harness::from_environment("E2E_SEED");
    given.unwrap_or_else(|| u64::from(std::process::id()) * 1000)
}

async fn containerd_is_killed_while_pods_come_and_go(scope: Arc<Scope>) -> Outcome {
    churn(scope, "churn-containerd", &[Daemon::Containerd]).await
}

async fn containerd_and_pontoon_are_killed_while_pods_come_and_go(scope: Arc<Scope>) -> Outcome {
    churn(scope, "churn-both", &[Daemon::Containerd, Daemon::Pontoon]).await
}

/// What the clients of a churn share.
struct Churn {
    scope: Arc<Scope>,
    name: &'static str,
    outages: Arc<Outages>,
    findings: Arc<Findings>,
    /// The last kill is over: clients start no more pods.
    over: AtomicBool,
    /// How many pods the clients have begun.
    begun: AtomicUsize,
    /// Pods that their clients have finished with. They are checked at the end, when a container that wrongly kept
    /// running has written more lines.
    done: Mutex<Vec<Pod>>,
}

async fn churn(scope: Arc<Scope>, name: &'static str, daemons: &[Daemon]) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    let seed = seed();
    println!("    {name}: {} kills of each of {daemons:?}, E2E_SEED={seed}", kills());
    let churn = Arc::new(Churn {
        scope,
        name,
        outages: Arc::default(),
        findings: Arc::default(),
        over: AtomicBool::new(false),
        begun: AtomicUsize::new(0),
        done: Mutex::default(),
    });
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let churn = churn.clone();
        clients.spawn(async move { churn.client(client, Random::new(seed + client)).await });
    }
    let kills = daemons.iter().zip(1..).map(|(daemon, turn)| {
        let churn = &churn;
        let mut random = Random::new(seed.wrapping_mul(31) + turn);
        async move { outages::kill(&churn.scope.bed, &churn.outages, *daemon, kills(), &mut random).await }
    });
    let killed = futures_util::future::try_join_all(kills).await;
    churn.over.store(true, Ordering::Relaxed);
    let over = now();
    let finished = tokio::time::timeout(FINISH, async {
        while let Some(client) = clients.join_next().await {
            client??;
        }
        anyhow::Ok(())
    });
    match finished.await {
        Ok(finished) => finished?,
        Err(_) => churn.findings.add(Kind::VerbNeverDone, &format!("clients are not done {FINISH:?} after it"), &[]),
    }
    println!("    the last pods went {:.1} s after the last kill", now() - over);
    killed?;
    churn.remove_what_is_listed().await?;
    churn.remove_cgroups();
    churn.compare(&before).await;
    churn.judge(daemons)
}

impl Churn {
    async fn client(&self, client: u64, mut random: Random) -> Outcome {
        let runtime = self.scope.bed.another_runtime()?;
        let deadlines = if client.is_multiple_of(2) { Deadlines::KUBELET } else { Deadlines::SHORT };
        for number in 0.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let calls = Calls::new(runtime.clone(), self.outages.clone(), deadlines);
            let mut pod = self.pod(format!("{}-{client}-{number}", self.name), calls)?;
            pod.works = verdict::works(number, &mut random);
            pod.removes_containers = random.below(2) == 0;
            self.begun.fetch_add(1, Ordering::Relaxed);
            pod.live().await;
            self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pod);
        }
        Ok(())
    }

    fn pod(&self, uid: String, calls: Calls) -> anyhow::Result<Pod> {
        let starts = self.scope.volume(&format!("starts-{uid}"))?;
        std::fs::set_permissions(&starts, std::fs::Permissions::from_mode(0o777))?;
        let mut config = self.scope.pod_config();
        // These replace the label by which the harness removes pods: this test removes its pods itself, and counts
        // those that it cannot remove.
        config.labels = [(UID.to_owned(), uid.clone()), (LABEL.to_owned(), self.name.to_owned())].into();
        config.metadata =
            Some(v1::PodSandboxMetadata { name: uid.clone(), uid: uid.clone(), namespace: "e2e".into(), attempt: 0 });
        config.linux.get_or_insert_default().cgroup_parent = format!("{}/{uid}.pod", self.scope.bed.cgroup_parent);
        std::fs::create_dir_all(&config.log_directory)?;
        for name in ["job", "server"] {
            std::fs::create_dir_all(PathBuf::from(&config.log_directory).join(name))?;
        }
        Ok(Pod {
            uid,
            config,
            starts,
            calls,
            works: Vec::new(),
            findings: self.findings.clone(),
            outages: self.outages.clone(),
            removes_containers: false,
        })
    }

    /// Tries once more to remove the pods that the clients could not remove, all at the same time as `crictl rmp --all`
    /// does.
    async fn remove_what_is_listed(&self) -> Outcome {
        let bed = &self.scope.bed;
        let calls = Arc::new(Calls::new(bed.another_runtime()?, self.outages.clone(), Deadlines::KUBELET));
        let listed = calls.sandboxes((LABEL, self.name)).await?;
        let mut tries = JoinSet::new();
        for sandbox in listed {
            let calls = calls.clone();
            tries.spawn(async move {
                let uid = sandbox.labels.get(UID).cloned().unwrap_or_default();
                let tried = tokio::time::timeout(LAST_TRY, async {
                    calls.stop_sandbox(&sandbox.id).await?;
                    calls.remove_sandbox(&sandbox.id).await
                });
                let how = match tried.await {
                    Ok(Ok(())) => return None,
                    Ok(Err(error)) => format!("{:?}: {}", error.code(), error.message()),
                    Err(_) => format!("no answer within {LAST_TRY:?}"),
                };
                Some((uid, sandbox.id, how))
            });
        }
        while let Some(tried) = tries.join_next().await {
            if let Some((uid, id, how)) = tried? {
                let lines = self.logged(&[&id]);
                self.findings.add(Kind::StillListed, &format!("sandbox {id} of {uid}: {how}"), &lines);
            }
        }
        Ok(())
    }

    /// Removes the cgroups of removed pods, as kubelet does. `compare` reports those that are not empty and so remain.
    fn remove_cgroups(&self) {
        for hierarchy in cgroup_hierarchies() {
            let parent = hierarchy.join(self.scope.bed.cgroup_parent.trim_start_matches('/'));
            for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().ends_with(".pod") {
                    let _ = std::fs::remove_dir(entry.path());
                }
            }
        }
    }

    /// Reports what is left on the node, with all evidence about the pods that are named in it.
    async fn compare(&self, before: &Node) {
        let bed = &self.scope.bed;
        let sockets = bed.dir.join("s").display().to_string();
        let excused = |line: &str| {
            let abandoned = line.strip_prefix("file: ").filter(|path| path.starts_with(&sockets)).map(is_abandoned);
            // Daemons and registries of other tests, which do not use this bed, may come and go at the same time.
            let of_others =
                (line.starts_with("processes: ") && line.ends_with(" pontoon")) || line.contains("/pt-images.");
            abandoned.unwrap_or(of_others || is_half_removed(line))
        };
        if let Err(error) = before.is_back_but_for(bed, excused).await {
            let left = format!("{error:#}");
            let pods = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let logs = bed.dir.join("logs");
            let mut evidence = Vec::new();
            for (pid, id) in shims(bed) {
                evidence.push(format!("- shim {pid} has the id {id}:"));
                evidence.extend(self.logged(&[&id]));
            }
            for pod in pods.iter().filter(|pod| pod.is_named_in(&left)) {
                evidence.push(format!("- of {}:", pod.uid));
                evidence.extend(pod.evidence());
                evidence.extend(verdict::logged(pod, &logs, daemons_of(bed)));
            }
            self.findings.add(Kind::LeftOnTheNode, &left, &evidence);
        }
        let names = std::fs::read_dir(&sockets).into_iter().flatten().flatten();
        for path in names.map(|entry| entry.path().display().to_string()).filter(|path| is_abandoned(path)) {
            self.findings.add(Kind::SocketLeftByAShim, &path, &[]);
        }
        let bundles = std::fs::read_dir(bed.dir.join("containerd/state").join(BUNDLES)).into_iter().flatten().flatten();
        for path in bundles.map(|entry| entry.path().display().to_string()).filter(|path| is_half_removed(path)) {
            self.findings.add(Kind::BundleLeftByContainerd, &path, &[]);
        }
    }

    fn logged(&self, ids: &[&str]) -> Vec<String> {
        let logs = self.scope.bed.dir.join("logs");
        daemons_of(&self.scope.bed).iter().flat_map(|daemon| findings::log_lines(&logs, daemon, ids)).collect()
    }

    fn judge(&self, daemons: &[Daemon]) -> Outcome {
        let logs = self.scope.bed.dir.join("logs");
        let pods = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut longest = (0.0, String::new());
        for pod in pods.iter() {
            let call = pod.calls.longest();
            longest = if call.0 > longest.0 { call } else { longest };
            for (kind, about) in verdict::of(pod, &logs) {
                let mut evidence = pod.evidence();
                evidence.extend(verdict::logged(pod, &logs, daemons_of(&self.scope.bed)));
                self.findings.add(kind, &format!("{}: {about}", pod.uid), &evidence);
            }
        }
        let attempts: usize = pods.iter().flat_map(|pod| &pod.works).map(|work| work.attempts.len()).sum();
        let killed = daemons.iter().map(|daemon| {
            let (times, longest) = self.outages.of(*daemon);
            format!("{daemon:?} killed {times} times, away for up to {longest:.1} s")
        });
        let about = format!(
            "{}; {} pods, {attempts} containers; longest call {:.1} s with all daemons there ({})",
            killed.collect::<Vec<_>>().join(", "),
            self.begun.load(Ordering::Relaxed),
            longest.0,
            longest.1
        );
        self.findings.report(&logs, self.name, &about)?;
        let wrong = self.findings.wrong();
        if self.scope.bed.target == Target::Builtin {
            println!("    the built-in: {wrong} anomalies, for comparison");
            return Ok(());
        }
        ensure!(pods.len() == self.begun.load(Ordering::Relaxed), "{} of the pods are not done", pods.len());
        if wrong > 0 {
            bail!("{wrong} anomalies, above");
        }
        Ok(())
    }
}

/// The pids of the bed's running shims, and the ids that they were started for. containerd may not know them any more.
fn shims(bed: &Bed) -> Vec<(String, String)> {
    let address = bed.dir.join("containerd.sock").display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let shim = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let of_bed = words.first()?.ends_with("containerd-shim-runc-v2") && words.iter().any(|word| *word == address);
        let id = words.iter().skip_while(|word| *word != "-id").nth(1)?;
        of_bed.then(|| (entry.file_name().to_string_lossy().into_owned(), id.clone().into_owned()))
    };
    processes.filter_map(shim).collect()
}

/// The directory of containerd's bundles, below its state directory.
const BUNDLES: &str = "io.containerd.runtime.v2.task/k8s.io";

/// Whether a line names a bundle that containerd renamed to `.ID` and did not remove, because it was killed then. At
/// its next start containerd ignores it, as it ignores all hidden directories.
fn is_half_removed(line: &str) -> bool {
    line.contains(&format!("/{BUNDLES}/."))
}

/// Whether no process listens on a shim's socket. Its file remains if containerd is killed while it starts the shim.
fn is_abandoned(socket: &str) -> bool {
    !std::fs::read_to_string("/proc/net/unix").unwrap_or_default().lines().any(|line| line.ends_with(socket))
}

/// The daemons whose logs mention containers.
fn daemons_of(bed: &Bed) -> &'static [&'static str] {
    match bed.target {
        Target::Pontoon => &["pontoon", "containerd"],
        Target::Builtin => &["containerd"],
    }
}
