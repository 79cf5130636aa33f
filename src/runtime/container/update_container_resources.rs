//! UpdateContainerResources: changes the spec in the record, then oom_score_adj of the processes, which no cgroup has,
//! then the running task; all of these or none.

use std::collections::HashMap;
use std::sync::Arc;

use oci_spec::runtime::Spec;

use crate::api::v1::{LinuxContainerResources, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};
use crate::cgroup;
use crate::container::{Container, SpecInMemory, State, spec_any};
use crate::containerd;
use crate::joined::run_blocking;
use crate::runtime::large::{WholeSpec, unreadable};
use crate::runtime::sandbox::pause::{encode, spec_handler};
use crate::runtime::{Error, Node, Result, chain, listed_size, record_size};
use crate::spec;
use crate::telemetry::Verb;
use crate::undo::Undo;

/// Changes the resources of a created or running container. The runtime also receives the annotations that its handler
/// allows for containers.
///
/// # Errors
/// [`Error::State`] in another state; [`Error::Spec`] names a field; [`Error::HalfUndone`] if a failed update could not
/// be undone. On any other error nothing has changed.
pub async fn update_container_resources(
    node: &Arc<Node>,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse> {
    let container = node.container(&request.container_id)?;
    node.availability.ready(Verb::UpdateContainerResources).await?;
    listed_size::check_annotations(&request.annotations)?;
    let update = request.linux.clone().ok_or(Error::missing_field("linux"))?;
    let shared = Arc::clone(node);
    let id = container.id().to_string();
    let work = async move { shared.update(&container, &update, &request).await };
    node.in_flight.operation(Verb::UpdateContainerResources, id, work).await?;
    Ok(UpdateContainerResourcesResponse {})
}

/// A spec before and after.
struct SpecUpdate {
    old: WholeSpec,
    new: Vec<u8>,
    /// The new resources for the task, as JSON.
    resources: Vec<u8>,
    /// The resources that undo the update of the task, as JSON.
    before: Vec<u8>,
    /// oom_score_adj before and after, if it changes.
    oom_score: Option<(i32, i32)>,
}

impl SpecUpdate {
    fn new(old: WholeSpec, update: &LinuxContainerResources, host: &spec::Host) -> Result<Self> {
        let mut spec: Spec = serde_json::from_slice(&old.json).map_err(|error| unreadable("decode", error))?;
        let unchanged = spec.clone();
        let scored = oom_score(&spec);
        spec::update_resources(&mut spec, update, host)?;
        let after = oom_score(&spec);
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
        let resources = serde_json::to_vec(&resources).map_err(|error| unreadable("encode", error))?;
        let before = serde_json::to_vec(&spec::resources_before(&unchanged, &spec));
        let before = before.map_err(|error| unreadable("encode", error))?;
        let oom_score = (scored != after).then_some((scored, after));
        Ok(Self { new: encode(&spec)?, old, resources, before, oom_score })
    }
}

/// The oom_score_adj of a spec, or 0 if it has none: the value that processes inherit from containerd's shims.
fn oom_score(spec: &Spec) -> i32 {
    spec.process().as_ref().and_then(|process| process.oom_score_adj()).unwrap_or(0)
}

impl Node {
    async fn update(
        self: &Arc<Self>,
        container: &Arc<Container>,
        update: &LinuxContainerResources,
        request: &UpdateContainerResourcesRequest,
    ) -> Result<()> {
        // kubelet's CPU manager and a resize may update at the same time. If both began with the same spec, the first
        // would be lost.
        let _lock = container.lock_spec().await;
        let change = SpecUpdate::new(self.whole_spec(container).await?, update, &self.host.facts)?;
        record_size::check_update(&container.record, &change.new)?;
        let mut undo = Undo::new();
        match self.apply(container, &change, request, &mut undo).await {
            Ok(()) => {
                undo.commit();
                container.set_spec(SpecInMemory::of(change.new));
                Ok(())
            }
            Err(cause) => match undo.roll_back().await {
                Ok(()) => Err(cause),
                Err(leftovers) => Err(Error::HalfUndone { cause: Box::new(cause), leftovers }),
            },
        }
    }

    async fn apply(
        self: &Arc<Self>,
        container: &Arc<Container>,
        change: &SpecUpdate,
        request: &UpdateContainerResourcesRequest,
        undo: &mut Undo,
    ) -> Result<()> {
        let running = match container.state() {
            // A start waits for the lock of the container's spec before it creates the task.
            State::Created | State::Starting => false,
            State::Running { .. } => true,
            state @ (State::Exited(_) | State::Unknown | State::Removing { .. }) => {
                return Err(Error::State {
                    kind: "container",
                    id: container.id().to_string(),
                    state: state.name().to_owned(),
                    wanted: "created or running",
                });
            }
        };
        let (node, object, old) = (Arc::clone(self), Arc::clone(container), Arc::clone(&change.old));
        let restored = async move { node.write_spec(&object, &old.json).await.map_err(|error| error.chain()) };
        undo.push("restore the record's spec", restored);
        self.write_spec(container, &change.new).await?;
        if !running {
            return Ok(());
        }
        let sandbox = self.sandbox(container.sandbox().as_str())?;
        let handler = self.handler(&sandbox.record.handler)?;
        // The processes of a virtual machine are not in a cgroup of the host.
        if let Some((from, to)) = change.oom_score.filter(|_| !handler.virtual_machine) {
            let (node, object) = (Arc::clone(self), Arc::clone(container));
            let restored = async move { node.set_oom_score(&object, to, from).await.map_err(|error| error.chain()) };
            undo.push("restore oom_score_adj", restored);
            self.set_oom_score(container, from, to).await?;
        }
        let annotations = spec::update_annotations(&request.annotations, &spec_handler(self, handler));
        // On cgroup v2, when the kernel refuses a value, runc does not restore those that it has already changed.
        let (task, before) = (container.task(), change.before.clone());
        let restored = async move { task.update(before, HashMap::new()).await.map_err(|error| chain(&error)) };
        undo.push("restore the task's resources", restored);
        Ok(container.task().update(change.resources.clone(), annotations).await?)
    }

    async fn set_oom_score(&self, container: &Container, from: i32, to: i32) -> Result<()> {
        let (path, unified) = (container.root.cgroups_path.clone(), self.host.facts.cgroup_v2);
        let done = run_blocking(move || cgroup::set_oom_score(&path, unified, from, to)).await;
        let object = || format!("of the processes of container {} to {to}", container.id());
        done.map_err(|source| Error::System { operation: "set oom_score_adj", path: object(), source })
    }

    async fn write_spec(&self, container: &Container, spec: &[u8]) -> Result<()> {
        let record = containerd::Container {
            id: container.id().to_string(),
            spec: Some(spec_any(spec)),
            ..containerd::Container::default()
        };
        Ok(self.containerd.update_container(record, &["spec"]).await?)
    }
}
