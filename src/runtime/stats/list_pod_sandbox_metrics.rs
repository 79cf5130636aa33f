//! ListPodSandboxMetrics: everything that can be read, in one response. What cannot be read is left out and is no
//! error.

use std::sync::Arc;

use crate::api::v1::{ContainerMetrics, Metric, PodSandboxMetrics};
use crate::cgroup::Buffer;
use crate::container::{Container, State};
use crate::runtime::stats::usage::{self, Remote, is_running, layer_of};
use crate::runtime::{Node, now};
use crate::sandbox::Sandbox;
use crate::stats::metrics::{self, DeviceNames, Filesystems, Labels, Limits};
use crate::stats::{descriptors, open_files_limit};

/// What is read once for all containers of a call.
#[derive(Default)]
struct Shared {
    remote: Remote,
    devices: DeviceNames,
    filesystems: Filesystems,
}

/// Metrics of ready pods and their running containers.
pub async fn list_pod_sandbox_metrics(node: &Arc<Node>) -> Vec<PodSandboxMetrics> {
    let mut by_sandbox = node.containers_by_sandbox();
    let mut pods = Vec::new();
    for sandbox in node.store.sandboxes.all() {
        if sandbox.state().is_ready() {
            let mut containers = by_sandbox.remove(sandbox.id().as_str()).unwrap_or_default();
            containers.retain(|container| is_running(container));
            pods.push((sandbox, containers));
        }
    }
    let containers: Vec<_> = pods.iter().flat_map(|(_, containers)| containers).cloned().collect();
    let remote = node.before_reading(&containers).await;
    let node = Arc::clone(node);
    usage::read(move |buffer| {
        let mut shared = Shared { remote, ..Shared::default() };
        let all = pods.iter().map(|(sandbox, containers)| node.pod_metrics(sandbox, containers, &mut shared, buffer));
        all.collect()
    })
    .await
}

impl Node {
    fn pod_metrics(
        &self,
        sandbox: &Sandbox,
        containers: &[Arc<Container>],
        shared: &mut Shared,
        buffer: &mut Buffer,
    ) -> PodSandboxMetrics {
        let labels = labels_of(sandbox);
        let container_metrics = containers.iter().map(|container| ContainerMetrics {
            container_id: container.id().to_string(),
            metrics: self.container_metrics(container, &labels, shared, buffer),
        });
        PodSandboxMetrics {
            pod_sandbox_id: sandbox.id().to_string(),
            container_metrics: container_metrics.collect(),
            metrics: metrics::pod(&labels, &self.interfaces(sandbox)),
        }
    }

    fn container_metrics(
        &self,
        container: &Container,
        pod: &Labels,
        shared: &mut Shared,
        buffer: &mut Buffer,
    ) -> Vec<Metric> {
        let State::Running { pid, started_at } = container.state() else { return Vec::new() };
        let mut usage = self.reading(container, &shared.remote, buffer).usage;
        usage.at = if usage.at == 0 { now() } else { usage.at };
        let layer = self.stats.layers.get(&layer_of(container));
        let root = self.stats.layers.root(&container.root.snapshotter);
        let mut known = metrics::Container {
            labels: Labels {
                container: container.metadata().name,
                id: container.id().to_string(),
                image: image_of(container),
                ..pod.clone()
            },
            started_at,
            usage,
            limits: Limits::of_spec(&container.spec().json),
            filesystem: root.and_then(|root| shared.filesystems.of(&root)),
            layer,
            ..metrics::Container::default()
        };
        match shared.remote.get(container.id().as_str()) {
            Some(remote) => known.details = remote.details.clone(),
            // Its cgroup and its processes are inside the virtual machine.
            None if self.is_in_virtual_machine(container) => {}
            None => {
                let (details, pids) = self.stats.details(container.id().as_str(), &container.root.cgroups_path, buffer);
                known.details = details;
                if !pids.is_empty() {
                    known.processes = u64::try_from(pids.len()).ok();
                    known.descriptors = Some(descriptors(&pids));
                    known.open_files_limit = open_files_limit(pid);
                }
            }
        }
        metrics::container(&known, &mut shared.devices)
    }
}

fn labels_of(sandbox: &Sandbox) -> Labels {
    let metadata = sandbox.metadata();
    Labels { pod: metadata.name, namespace: metadata.namespace, id: sandbox.id().to_string(), ..Labels::default() }
}

/// The image as the pod's author wrote it, which is what dashboards show, or else as the container's record has it.
fn image_of(container: &Container) -> String {
    let config = container.record.config.image.as_ref();
    let written = config.map(|image| image.user_specified_image.clone()).filter(|image| !image.is_empty());
    written.unwrap_or_else(|| container.record.resolved.image.clone())
}
