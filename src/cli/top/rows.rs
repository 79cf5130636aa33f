//! From two samples to rows: one a pod, and one for each thing in flight that no listed pod is concerned with.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};

use super::sample::Sample;
use crate::admin::v1::Operation;
use crate::api::v1::*;

/// A line of the table. `None` is what is not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) state: &'static str,
    /// Running, and all; none for what is no pod.
    pub(super) containers: Option<(usize, usize)>,
    /// Cores.
    pub(super) cpu: Option<f64>,
    /// Bytes of the working set.
    pub(super) memory: Option<u64>,
    /// Bytes a second.
    pub(super) received: Option<f64>,
    pub(super) sent: Option<f64>,
    pub(super) restarts: Option<u32>,
    /// Verb, stages and age of each, the oldest first; none when it is not known whether there are any.
    pub(super) doing: Option<Vec<String>>,
    /// Of the oldest, in nanoseconds.
    pub(super) busy: u64,
}

/// What the table is ordered by.
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
    /// Bytes a second, both ways.
    pub(super) fn network(&self) -> Option<f64> {
        Some(self.received? + self.sent?)
    }
}

/// The rows of `now`; rates are those since `before`.
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
    let running = containers.iter().filter(|one| one.state() == ContainerState::ContainerRunning).count();
    let (new, old) = (now.stats_of(&pod.id), before.and_then(|before| before.stats_of(&pod.id)));
    let (received, sent) = network(old, new);
    Row {
        namespace: printable(&metadata.namespace),
        pod: printable(&metadata.name),
        state: match pod.state() {
            PodSandboxState::SandboxReady => "ready",
            PodSandboxState::SandboxNotready => "notready",
        },
        containers: Some((running, containers.len())),
        cpu: cpu(old, new),
        memory: new.and_then(linux).and_then(|stats| Some(stats.memory.as_ref()?.working_set_bytes?.value)),
        received,
        sent,
        restarts: Some(restarts(&containers)),
        ..Row::default()
    }
}

/// kubelet counts a container's starts in its attempt; older ones may have been removed.
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

/// Cores: what the daemon says, else how much the counter grew.
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

/// Bytes a second, received and sent, by the pod's default interface.
fn network(old: Option<&PodSandboxStats>, new: Option<&PodSandboxStats>) -> (Option<f64>, Option<f64>) {
    let usage = |stats: Option<&PodSandboxStats>| {
        let network = stats.and_then(linux)?.network.as_ref()?;
        Some((network.timestamp, network.default_interface.clone()?))
    };
    let Some(((then, old), (at, new))) = usage(old).zip(usage(new)) else { return (None, None) };
    let rate = |was: Option<UInt64Value>, is: Option<UInt64Value>| rate((then, was?.value), (at, is?.value));
    (rate(old.rx_bytes, new.rx_bytes), rate(old.tx_bytes, new.tx_bytes))
}

/// Growth of a counter a second, between two readings with their times in nanoseconds.
fn rate((then, was): (i64, u64), (at, is): (i64, u64)) -> Option<f64> {
    let took = u64::try_from(at.checked_sub(then)?).ok().filter(|took| *took > 0)?;
    // Less than before: another pod of the same id is out of the question, a counter that began anew is not.
    Some(float(is.checked_sub(was)?) / float(took) * 1e9)
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn float(value: u64) -> f64 {
    value as f64
}

/// What is in flight, by the pod that it is about.
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
        // A container that is being made has a name with its pod's id in it.
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

    /// Age of the oldest, and all of them in words.
    fn of(&mut self, pod: &str) -> (u64, Option<Vec<String>>) {
        let operations = self.of_pods.remove(pod).unwrap_or_default();
        let oldest = operations.iter().map(|one| one.age_ns).max().unwrap_or_default();
        (oldest, self.known.then(|| operations.iter().map(words).collect()))
    }

    /// Pods that are being made, images, and what else is no listed pod's.
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

/// `RunPodSandbox cni+task_create 3s`
fn words(operation: &Operation) -> String {
    let stages: Vec<&str> = operation.stages.iter().map(|stage| stage.name.as_str()).collect();
    let stages = if stages.is_empty() { "-".to_owned() } else { stages.join("+") };
    printable(&format!("{} {stages} {}s", operation.verb, operation.age_ns / 1_000_000_000))
}

/// Without what a terminal would take for a command: names are written by tenants.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
