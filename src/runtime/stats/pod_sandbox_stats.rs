//! PodSandboxStats: the usage of one pod.

use std::sync::Arc;

use crate::api::v1::{
    LinuxPodSandboxStats, PodSandboxAttributes, PodSandboxStats, PodSandboxStatsRequest, PodSandboxStatsResponse,
    ProcessUsage, UInt64Value,
};
use crate::cgroup::Buffer;
use crate::container::Container;
use crate::runtime::stats::usage::{self, Remote};
use crate::runtime::{Error, Node, Result};
use crate::sandbox::Sandbox;
use crate::stats::{self, Reading};

/// What a pod uses now, with its containers.
///
/// # Errors
/// [`Error::Missing`] for an unknown id; [`Error::State`] unless the pod is ready: otherwise its cgroup, with the
/// usage, is gone.
pub async fn pod_sandbox_stats(node: &Arc<Node>, request: &PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse> {
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    if !sandbox.state().is_ready() {
        return Err(Error::State {
            kind: "sandbox",
            id: sandbox.id().to_string(),
            state: "not ready".to_owned(),
            wanted: "ready",
        });
    }
    let containers = node.store.containers_of(sandbox.id());
    let remote = node.before_reading(&containers).await;
    let node = Arc::clone(node);
    let stats = usage::read(move |buffer| node.pod_stats_of(&sandbox, &containers, &remote, buffer)).await;
    Ok(PodSandboxStatsResponse { stats: Some(stats) })
}

impl Node {
    /// CRI's message for the usage of a ready pod. Reads files.
    pub(crate) fn pod_stats_of(
        &self,
        sandbox: &Sandbox,
        containers: &[Arc<Container>],
        remote: &Remote,
        buffer: &mut Buffer,
    ) -> PodSandboxStats {
        let readings: Vec<Reading> = containers.iter().map(|one| self.reading(one, remote, buffer)).collect();
        let pod = self.pod_reading(sandbox, &readings, buffer);
        let at = pod.usage.at;
        let of_containers = containers.iter().zip(&readings);
        let linux = LinuxPodSandboxStats {
            cpu: stats::cpu_usage(&pod),
            memory: stats::memory_usage(&pod.usage),
            network: stats::network_usage(at, &self.interfaces(sandbox)),
            process: pod
                .usage
                .tasks
                .map(|tasks| ProcessUsage { timestamp: at, process_count: Some(UInt64Value { value: tasks }) }),
            containers: of_containers.map(|(one, reading)| self.container_stats_of(one, reading)).collect(),
            io: stats::io_usage(&pod.usage),
        };
        let config = &sandbox.record.config;
        let attributes = PodSandboxAttributes {
            id: sandbox.id().to_string(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        PodSandboxStats { attributes: Some(attributes), linux: Some(linux), windows: None }
    }

    /// The usage of the pod's cgroup, which kubelet creates; without one, that of its containers and the pause
    /// container together.
    fn pod_reading(&self, sandbox: &Sandbox, containers: &[Reading], buffer: &mut Buffer) -> Reading {
        let id = sandbox.id().as_str();
        let parent = sandbox.record.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        match self.stats.pod(id, parent, buffer) {
            Some(reading) => reading,
            None => {
                let pause = self.stats.container(id, &sandbox.cgroups_path(id), buffer);
                usage::sum(containers.iter().chain([&pause]))
            }
        }
    }
}
