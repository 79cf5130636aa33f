//! Turns two samples into rows: one for each pod, and one for each operation that belongs to no listed pod.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};

use super::running;
use super::sample::Sample;
use crate::admin::v1::{Operation, Stage};
use crate::api::v1::*;

/// A row of the table. A value that is `None` is unknown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) state: &'static str,
    /// Running containers, and all that are not done (`running.rs`); `None` in a row that is not a pod.
    pub(super) containers: Option<(usize, usize)>,
    /// Cores.
    pub(super) cpu: Option<f64>,
    /// Bytes of the working set.
    pub(super) memory: Option<u64>,
    /// Bytes per second, as is `sent`.
    pub(super) received: Option<f64>,
    pub(super) sent: Option<f64>,
    pub(super) restarts: Option<u32>,
    /// Verb, stages and age of each operation, oldest first; `None` when operations are unknown.
    pub(super) doing: Option<Vec<String>>,
    /// The age of the oldest operation, in nanoseconds.
    pub(super) busy: u64,
}

/// The column that the table is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortKey {
    Name,
    Cpu,
    Memory,
    Network,
    Restarts,
    Busy,
}

impl Row {
    /// Bytes per second, received and sent together.
    pub(super) fn network(&self) -> Option<f64> {
        Some(self.received? + self.sent?)
    }
}

/// The rows of `now`. Rates are those since `before`.
pub(super) fn rows(before: Option<&Sample>, now: &Sample, by: SortKey) -> Vec<Row> {
    let mut doing = Doing::new(now);
    let mut rows: Vec<Row> = now
        .pods
        .iter()
        .map(|pod| {
            let mut row = row(before, now, pod);
            (row.busy, row.doing) = doing.of(&pod.id);
            row
        })
        .collect();
    rows.extend(doing.rest());
    sort(&mut rows, by);
    rows
}

fn sort(rows: &mut [Row], by: SortKey) {
    let largest = |a: Option<f64>, b: Option<f64>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
    #[allow(clippy::cast_precision_loss, reason = "an order of what is shown with three digits")]
    let bytes = |row: &Row| row.memory.map(|bytes| bytes as f64);
    rows.sort_by(|a, b| {
        let first = match by {
            SortKey::Name => Ordering::Equal,
            SortKey::Cpu => largest(a.cpu, b.cpu),
            SortKey::Memory => largest(bytes(a), bytes(b)),
            SortKey::Network => largest(a.network(), b.network()),
            SortKey::Restarts => Reverse(a.restarts).cmp(&Reverse(b.restarts)),
            SortKey::Busy => Reverse(a.busy).cmp(&Reverse(b.busy)),
        };
        first.then_with(|| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)))
    });
}

fn row(before: Option<&Sample>, now: &Sample, pod: &PodSandbox) -> Row {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let containers: Vec<&Container> = now.containers.iter().filter(|one| one.pod_sandbox_id == pod.id).collect();
    let (new, old) = (now.stats_of(&pod.id), before.and_then(|before| before.stats_of(&pod.id)));
    let (received, sent) = network(old, new);
    Row {
        namespace: printable(&metadata.namespace),
        pod: printable(&metadata.name),
        state: match pod.state() {
            PodSandboxState::SandboxReady => "ready",
            PodSandboxState::SandboxNotready => "notready",
        },
        containers: Some(running::count(&containers, &now.exits)),
        cpu: cpu(old, new),
        memory: new.and_then(linux).and_then(|stats| Some(stats.memory.as_ref()?.working_set_bytes?.value)),
        received,
        sent,
        restarts: Some(restarts(&containers)),
        ..Row::default()
    }
}

/// kubelet counts a container's restarts in `attempt`, so the highest is taken: older attempts may have been removed.
fn restarts(containers: &[&Container]) -> u32 {
    let mut newest: BTreeMap<&str, u32> = BTreeMap::new();
    for metadata in containers.iter().filter_map(|one| one.metadata.as_ref()) {
        let attempt = newest.entry(&metadata.name).or_default();
        *attempt = metadata.attempt.max(*attempt);
    }
    newest.values().sum()
}

fn linux(stats: &PodSandboxStats) -> Option<&LinuxPodSandboxStats> {
    stats.linux.as_ref()
}

/// Cores: the rate that the daemon reports, or else the growth of the counter.
fn cpu(old: Option<&PodSandboxStats>, new: Option<&PodSandboxStats>) -> Option<f64> {
    let usage = |stats: Option<&PodSandboxStats>| stats.and_then(linux).and_then(|stats| stats.cpu);
    let new = usage(new)?;
    if let Some(cores) = new.usage_nano_cores {
        return Some(float(cores.value) / 1e9);
    }
    let old = usage(old)?;
    let (was, is) = (old.usage_core_nano_seconds?.value, new.usage_core_nano_seconds?.value);
    rate((old.timestamp, was), (new.timestamp, is)).map(|a_second| a_second / 1e9)
}

/// Bytes per second, received and sent, of the pod's default interface.
fn network(old: Option<&PodSandboxStats>, new: Option<&PodSandboxStats>) -> (Option<f64>, Option<f64>) {
    let usage = |stats: Option<&PodSandboxStats>| {
        let network = stats.and_then(linux)?.network.as_ref()?;
        Some((network.timestamp, network.default_interface.clone()?))
    };
    let Some(((then, old), (at, new))) = usage(old).zip(usage(new)) else { return (None, None) };
    let rate = |was: Option<UInt64Value>, is: Option<UInt64Value>| rate((then, was?.value), (at, is?.value));
    (rate(old.rx_bytes, new.rx_bytes), rate(old.tx_bytes, new.tx_bytes))
}

/// The growth of a counter per second, between two readings with their times in nanoseconds.
fn rate((then, was): (i64, u64), (at, is): (i64, u64)) -> Option<f64> {
    let took = u64::try_from(at.checked_sub(then)?).ok().filter(|took| *took > 0)?;
    // If the value is lower than before, the counter was reset. It cannot be another pod, since ids are not reused.
    Some(float(is.checked_sub(was)?) / float(took) * 1e9)
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn float(value: u64) -> f64 {
    value as f64
}

/// The operations in flight, by the pod that they belong to.
struct Doing {
    known: bool,
    of_pods: HashMap<String, Vec<Operation>>,
    others: Vec<Operation>,
}

impl Doing {
    fn new(now: &Sample) -> Self {
        let pods: HashMap<&str, &str> = now.pods.iter().map(|pod| (pod.id.as_str(), pod.id.as_str())).collect();
        let containers = now.containers.iter().map(|one| (one.id.as_str(), one.pod_sandbox_id.as_str()));
        let objects: HashMap<&str, &str> = containers.chain(pods.iter().map(|(id, pod)| (*id, *pod))).collect();
        // The name of a container that is being created contains its pod's id.
        let owner = |object: &str| {
            objects.get(object).copied().or_else(|| object.split('_').find_map(|part| pods.get(part).copied()))
        };
        let mut all = Self { known: now.operations.is_some(), of_pods: HashMap::new(), others: Vec::new() };
        for one in now.operations.iter().flatten() {
            match owner(&one.object) {
                Some(pod) => all.of_pods.entry(pod.to_owned()).or_default().push(one.clone()),
                None => all.others.push(one.clone()),
            }
        }
        all
    }

    /// The age of the oldest operation of a pod, and a description of each.
    fn of(&mut self, pod: &str) -> (u64, Option<Vec<String>>) {
        let operations = self.of_pods.remove(pod).unwrap_or_default();
        let oldest = operations.iter().map(|one| one.age_ns).max().unwrap_or_default();
        (oldest, self.known.then(|| operations.iter().map(words).collect()))
    }

    /// Rows for operations that belong to no listed pod: pods that are being created, images, and others.
    fn rest(self) -> impl Iterator<Item = Row> {
        self.others.into_iter().map(|one| {
            let (namespace, pod, state) = match one.object.split('_').collect::<Vec<_>>()[..] {
                [name, namespace, _, _] if one.verb == "RunPodSandbox" => (namespace, name, "creating"),
                _ => ("-", one.object.as_str(), "-"),
            };
            Row {
                namespace: printable(namespace),
                pod: printable(pod),
                state,
                doing: Some(vec![words(&one)]),
                busy: one.age_ns,
                ..Row::default()
            }
        })
    }
}

/// `RunPodSandbox cni(ADD bridge)+task_create 3s`
fn words(operation: &Operation) -> String {
    let stage = |stage: &Stage| match stage.detail.as_str() {
        "" => stage.name.clone(),
        detail => format!("{}({detail})", stage.name),
    };
    let stages: Vec<String> = operation.stages.iter().map(stage).collect();
    let stages = if stages.is_empty() { "-".to_owned() } else { stages.join("+") };
    printable(&format!("{} {stages} {}s", operation.verb, operation.age_ns / 1_000_000_000))
}

/// Replaces control characters, which a terminal would interpret: names are chosen by tenants.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
