//! The victim of an attack: a pod of another tenant, and a client that starts more pods, executes a probe and lists what
//! there is, as kubelet does. Its calls are timed without the attack and beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::restarts::restarted;
use super::times::{ALLOWED, Allowed, Comparison, LIMIT, Round, Times, within_limits};
use crate::bed::{Bed, Target};
use crate::harness::{Outcome, SLOWNESS};
use crate::node::Node;
use crate::scope::{Scope, sleeper};

/// How many rounds are measured without the attack, and at least how many beside it.
const ROUNDS: usize = 5;

pub struct Victim {
    scope: Arc<Scope>,
    /// The node before the test.
    before: Node,
    /// Runs all the time, for the probe.
    pub container: String,
    allowed: [Allowed; 3],
    /// The times without the attack.
    alone: Times,
}

impl Victim {
    /// Starts the victim's pod, and measures its calls. To be called before anything of the attack is prepared.
    pub async fn start(scope: &Arc<Scope>) -> anyhow::Result<Arc<Self>> {
        Self::start_with(scope, ALLOWED).await
    }

    /// Like [`Self::start`], for an attack that may have another effect.
    pub async fn start_with(scope: &Arc<Scope>, allowed: [Allowed; 3]) -> anyhow::Result<Arc<Self>> {
        let before = Node::look(&scope.bed).await?;
        let container = scope.pod().await?.start(sleeper("victim")).await?;
        let allowed = allowed.map(|Allowed { limit, more }| Allowed {
            limit: limit * *SLOWNESS,
            more: more.map(|more| more * *SLOWNESS),
        });
        let mut victim = Self { scope: Arc::clone(scope), before, container, allowed, alone: Times::default() };
        // Not counted: the first round fills caches.
        victim.round().await?;
        for _ in 0..ROUNDS {
            let round = victim.round().await?;
            victim.alone.add(round);
        }
        Ok(Arc::new(victim))
    }

    /// Repeats the attack until the victim has made [`ROUNDS`] rounds of calls beside it. Prints the victim's times, and
    /// fails if they are too long. Returns what each repetition of the attack returned.
    pub async fn beside<T, F>(self: &Arc<Self>, mut attack: impl FnMut() -> F) -> anyhow::Result<Vec<T>>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let (done, rounds) = watch::channel(0);
        // In a task of its own: what the attack computes in this process delays no call.
        let mut victim = JoinSet::new();
        victim.spawn(Arc::clone(self).rounds(done));
        let attacks = async move {
            let mut results = Vec::new();
            // The channel is closed if a round has failed.
            while *rounds.borrow() < ROUNDS && rounds.has_changed().is_ok() {
                results.push(attack().await?);
            }
            anyhow::Ok(results)
        };
        let results = attacks.await;
        // Also after a failed attack: a round must run to its end.
        let times = victim.join_next().await.context("the victim makes no calls")???;
        let results = results?;
        let comparison = Comparison { alone: &self.alone, beside: &times };
        println!("    the victim: {comparison}");
        // For the built-in CRI, the factor is only printed.
        if self.scope.bed.target == Target::Pontoon {
            comparison.judge(&self.allowed)?;
        }
        Ok(results)
    }

    /// Makes rounds of calls until the receiver of `done`, the number of rounds, is dropped: then the attack is over.
    async fn rounds(self: Arc<Self>, done: watch::Sender<usize>) -> anyhow::Result<Times> {
        let mut times = Times::default();
        while !done.is_closed() {
            let round = self.round().await?;
            // A part of the last round may not have been beside the attack.
            if !done.is_closed() {
                times.add(round);
                done.send_replace(times.rounds());
            }
        }
        Ok(times)
    }

    /// Makes each call once, one after the other, and removes the pod that it has started. It must run to its end: a
    /// RunPodSandbox whose client has left is rolled back only after minutes.
    async fn round(&self) -> anyhow::Result<Round> {
        let bed = &self.scope.bed;
        let start = Instant::now();
        let pod = self.scope.pod().await.context("the victim's pod")?;
        pod.start(sleeper("short")).await.context("the victim's pod")?;
        let pod_start = start.elapsed();
        let start = Instant::now();
        let probe = v1::ExecSyncRequest {
            container_id: self.container.clone(),
            cmd: vec!["true".to_owned()],
            timeout: (LIMIT * *SLOWNESS).as_secs().try_into()?,
        };
        bed.runtime().exec_sync(probe).await.context("the victim's probe")?;
        let exec = start.elapsed();
        let start = Instant::now();
        bed.runtime().list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.context("ListPodSandbox")?;
        bed.runtime().list_containers(v1::ListContainersRequest::default()).await.context("ListContainers")?;
        bed.images().list_images(v1::ListImagesRequest::default()).await.context("ListImages")?;
        let lists = start.elapsed();
        let start = Instant::now();
        pod.stop().await?;
        pod.remove().await?;
        let pod_end = start.elapsed();
        let round = [pod_start, exec, lists];
        within_limits(&round, &self.allowed)?;
        ensure!(pod_end < self.allowed[0].limit, "the end of the victim's pod took {pod_end:?}");
        Ok(round)
    }

    /// To be called at the end of a test, while everything that the attack has made exists: the daemon must start again
    /// in time and serve the victim, and nothing may be left when all pods are removed.
    pub async fn afterwards(&self) -> Outcome {
        // The built-in CRI is containerd, and cannot be restarted alone.
        if self.scope.bed.target == Target::Pontoon {
            restarted(&self.scope.bed).await?;
            self.round().await.context("after a restart")?;
        }
        self.nothing_is_left().await
    }

    /// Removes the test's pods, and waits until the node is as it was before the test.
    pub async fn nothing_is_left(&self) -> Outcome {
        let bed = &self.scope.bed;
        self.scope.remove_pods().await?;
        self.before.is_back_but_for(bed, |line| is_for_all_pods(bed, line)).await
    }
}

/// Whether a line about the node is something that all pods share. It is made when the first one needs it, and stays: a
/// directory of the daemon, a chain of iptables for published ports, or a layer of an image.
fn is_for_all_pods(bed: &Bed, line: &str) -> bool {
    let is_daemons = |path: &str| {
        let parent = Path::new(path).parent();
        parent.is_some_and(|parent| ["run", "root"].iter().any(|name| parent == bed.dir.join(name)))
    };
    // A chain CNI-DN-… belongs to one pod.
    let is_chain = line.contains("CNI-HOSTPORT-") && !line.contains("CNI-DN-");
    // A snapshot of a container has the container's id.
    let is_layer = line.starts_with("snapshots: sha256:");
    is_chain || is_layer || line.strip_prefix("file: ").is_some_and(is_daemons)
}
