//! The usage of pods and containers, for the verbs of stats and metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::api::v1::{ContainerAttributes, ContainerStats};
use crate::cgroup::Buffer;
use crate::container::{Container, State};
use crate::containerd::TaskMetrics;
use crate::joined::run_blocking;
use crate::log_keys::call_with_keys;
use crate::netns::Interface;
use crate::runtime::Node;
use crate::sandbox::Sandbox;
use crate::stats::{self, Key, LayerId, Reading, Wanted};

/// How long shims of virtual machines may take to respond. Usage that has not arrived by then is left out.
const REMOTE: Duration = Duration::from_secs(1);
/// How long a call waits for layers that were never measured. After that it returns without them.
const PATIENCE: Duration = Duration::from_millis(50);

/// What shims have reported of tasks whose cgroups are in virtual machines, by id.
pub(crate) type Remote = HashMap<String, TaskMetrics>;

/// Reads files on a thread that may block: the kernel sums up a cgroup's counters while they are read. All files of a
/// call are read in one hop, since a hop costs as much as dozens of reads.
pub(crate) async fn read<T: Send + 'static>(work: impl FnOnce(&mut Buffer) -> T + Send + 'static) -> T {
    run_blocking(move || work(&mut Buffer::default())).await
}

impl Node {
    /// Wakes the sampler, and has layers measured in the background. Queries shims only for containers in virtual
    /// machines.
    pub(crate) async fn before_reading(&self, containers: &[Arc<Container>]) -> Remote {
        self.stats.requested();
        let layers = containers.iter().map(|container| Wanted { id: layer_of(container), is_writable: true }).collect();
        let remote: Vec<String> = containers
            .iter()
            .filter(|container| is_running(container) && self.is_in_virtual_machine(container))
            .map(|container| container.id().to_string())
            .collect();
        let (remote, ()) = tokio::join!(self.query_shims(remote), self.stats.layers.refresh(layers, PATIENCE));
        remote
    }

    async fn query_shims(&self, ids: Vec<String>) -> Remote {
        if ids.is_empty() {
            return Remote::new();
        }
        match tokio::time::timeout(REMOTE, self.containerd.task_metrics(&ids)).await {
            Ok(Ok(metrics)) => metrics,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot get the usage of containers in virtual machines");
                Remote::new()
            }
            Err(_) => Remote::new(),
        }
    }

    pub(crate) fn is_in_virtual_machine(&self, container: &Container) -> bool {
        // Most nodes have no such handler, so that no container's sandbox has to be looked up.
        self.config.handlers.iter().any(|handler| handler.virtual_machine)
            && self.store.sandbox(container.sandbox()).is_some_and(|sandbox| {
                let handler = self.config.handlers.get(&sandbox.record.handler);
                handler.is_some_and(|handler| handler.virtual_machine)
            })
    }

    /// What a container uses now; empty if it is not running. Reads files.
    pub(crate) fn reading(&self, container: &Container, remote: &Remote, buffer: &mut Buffer) -> Reading {
        let id = container.id().as_str();
        if !is_running(container) {
            return Reading::default();
        }
        match remote.get(id) {
            Some(metrics) => self.stats.with_rate(Key::Container(id.to_owned()), metrics.usage.clone()),
            None if self.is_in_virtual_machine(container) => Reading::default(),
            None => self.stats.container(id, &container.root.cgroups_path, buffer),
        }
    }

    /// CRI's message for a reading. A container that is not running has only its writable layer, as with containerd's
    /// CRI plugin.
    pub(crate) fn container_stats_of(&self, container: &Container, reading: &Reading) -> ContainerStats {
        let config = &container.record.config;
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id().to_string(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: stats::cpu_usage(reading),
            memory: stats::memory_usage(&reading.usage),
            writable_layer: self.stats.layers.get(&layer_of(container)).as_ref().map(stats::filesystem_usage),
            swap: stats::swap_usage(&reading.usage),
            io: stats::io_usage(&reading.usage),
        }
    }

    /// The interfaces of a pod that has a network of its own. Reads files.
    pub(crate) fn interfaces(&self, sandbox: &Sandbox) -> Vec<Interface> {
        let (Some(path), Some(pid)) = (sandbox.netns(&self.config.netns_dir), sandbox.pause_pid()) else {
            return Vec::new();
        };
        self.stats.interfaces(sandbox.id().as_str(), &path, pid).unwrap_or_else(|error| {
            let log = || tracing::debug!(%error, "cannot read the counters of the pod's interfaces");
            call_with_keys(sandbox.log_keys().clone(), log);
            Vec::new()
        })
    }

    /// Containers by the id of their sandbox, in the order of creation.
    pub(crate) fn containers_by_sandbox(&self) -> HashMap<String, Vec<Arc<Container>>> {
        let mut all = self.store.containers.all();
        all.sort_by_key(|container| container.record.resolved.created_at);
        let mut by_sandbox: HashMap<String, Vec<Arc<Container>>> = HashMap::new();
        for container in all {
            by_sandbox.entry(container.sandbox().to_string()).or_default().push(container);
        }
        by_sandbox
    }
}

/// The snapshot that a container writes to.
pub(crate) fn layer_of(container: &Container) -> LayerId {
    LayerId { snapshotter: container.root.snapshotter.clone(), key: container.id().to_string() }
}

pub(crate) fn is_running(container: &Container) -> bool {
    matches!(container.state(), State::Running { .. })
}

/// The usage of several cgroups together, for a pod without a cgroup around them. Limits and pressures do not add up.
pub(crate) fn sum<'a>(readings: impl Iterator<Item = &'a Reading>) -> Reading {
    let mut sum = Reading::default();
    for reading in readings {
        let (all, one) = (&mut sum.usage, &reading.usage);
        all.at = all.at.max(one.at);
        if let Some(cpu) = &one.cpu {
            let is_first = all.cpu.is_none();
            all.cpu.get_or_insert_default().nanoseconds += cpu.nanoseconds;
            // A rate of only some of them would not be the rate of the pod.
            sum.nano_cores = if is_first { reading.nano_cores } else { add(sum.nano_cores, reading.nano_cores) };
        }
        if let Some(memory) = &one.memory {
            let all = all.memory.get_or_insert_default();
            all.usage += memory.usage;
            all.inactive_file += memory.inactive_file;
            all.rss += memory.rss;
            all.page_faults += memory.page_faults;
            all.major_page_faults += memory.major_page_faults;
        }
        if let Some(swap) = one.swap {
            all.swap.get_or_insert_default().usage += swap.usage;
        }
        if let Some(tasks) = one.tasks {
            *all.tasks.get_or_insert_default() += tasks;
        }
    }
    sum
}

fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    Some(a? + b?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Cpu, Memory, Swap, Usage};

    fn reading(at: i64, cpu: u64, nano_cores: Option<u64>) -> Reading {
        let memory = Memory { usage: 100, inactive_file: 30, limit: Some(200), ..Memory::default() };
        let usage = Usage {
            at,
            cpu: Some(Cpu { nanoseconds: cpu, pressure: None }),
            memory: Some(memory),
            swap: Some(Swap { usage: 1, limit: Some(9) }),
            io_pressure: None,
            tasks: Some(2),
        };
        Reading { usage, nano_cores }
    }

    #[test]
    fn a_pod_without_a_cgroup_uses_what_its_containers_use() {
        let sum = sum([reading(1, 10, Some(3)), Reading::default(), reading(2, 20, Some(4))].iter());
        assert_eq!((sum.usage.at, sum.nano_cores), (2, Some(7)));
        assert_eq!((sum.usage.cpu.unwrap().nanoseconds, sum.usage.tasks), (30, Some(4)));
        let memory = sum.usage.memory.unwrap();
        assert_eq!((memory.working_set(), memory.limit), (140, None));
        assert_eq!(sum.usage.swap, Some(Swap { usage: 2, limit: None }));
    }

    #[test]
    fn there_is_no_rate_of_some_of_the_containers() {
        let of = |rates: &[Option<u64>]| {
            let readings: Vec<Reading> = rates.iter().map(|rate| reading(1, 1, *rate)).collect();
            sum(readings.iter()).nano_cores
        };
        assert_eq!(of(&[Some(1), None]), None);
        assert_eq!(of(&[None, Some(1)]), None);
        assert_eq!(of(&[]), None);
    }
}
