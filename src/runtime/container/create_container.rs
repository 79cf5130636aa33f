//! CreateContainer: image, user, mounts and devices → spec → record → root file system → volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;
use prost::Message as _;

use crate::api::v1::{ContainerConfig, CreateContainerRequest, CreateContainerResponse, NamespaceMode};
use crate::cdi;
use crate::config::Handler;
use crate::container::io::LogPath;
use crate::container::{
    Container, LARGEST_WHOLE, Record, Resolved, Root, SpecInMemory, State, devices, mounts, seccomp_profile, signal,
    spec_any,
};
use crate::containerd;
use crate::ids::ContainerId;
use crate::images::{self, Image};
use crate::log_keys::{LogKeys, add_keys};
use crate::runtime::container::image_volumes;
use crate::runtime::container::volumes;
use crate::runtime::container::volumes::{Volumes, remove_directory};
use crate::runtime::large::Permit;
use crate::runtime::sandbox::pause::{encode, files, spec_handler};
use crate::runtime::threads::{block_in_place_if, block_in_place_if_large};
use crate::runtime::{Error, Node, Result, chain, labels, listed_size, now, record_size};
use crate::sandbox::Sandbox;
use crate::spec;
use crate::store::{Creation, Key, Outcome, container_name};
use crate::telemetry::{Stage, Verb, during};
use crate::undo::Undo;

/// Creates a container in a ready sandbox. An identical request that arrives meanwhile joins this one and gets the same
/// id.
///
/// # Errors
/// [`Error::Exists`] if the name is in the store; [`Error::Invalid`] names a field; otherwise the cause of the failure,
/// after everything was rolled back.
pub async fn create_container(node: &Arc<Node>, request: CreateContainerRequest) -> Result<CreateContainerResponse> {
    // Only for the log, if containerd does not respond. The sandbox may be gone when it does.
    let _ = node.sandbox(&request.pod_sandbox_id);
    node.availability.ready(Verb::CreateContainer).await?;
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    require_ready(&sandbox)?;
    let config = checked(request.clone())?;
    listed_size::check_container(node, sandbox.id(), &config)?;
    let metadata = config.metadata.clone().unwrap_or_default();
    add_keys(&LogKeys::of_container_name(&metadata.name));
    let name = container_name(sandbox.id(), &metadata);
    if let Some(container) = node.store.containers.named(&name) {
        return Err(Error::Exists { kind: "container", name, id: container.id().to_string() });
    }
    let key = Key { name: &name, request };
    // Boxed, because the calls below move it several times.
    let work = make(Arc::clone(node), Arc::clone(&sandbox), config).boxed();
    let start = || node.tasks.run_named(Verb::CreateContainer, name.clone(), work);
    let made = node.in_flight.new_containers.run(key, node, start);
    match node.tasks.operations().waiting_for(Verb::CreateContainer, &name, made).await {
        Outcome::Made(container) => {
            add_keys(node.log_keys(&container));
            Ok(CreateContainerResponse { container_id: container.id().to_string() })
        }
        Outcome::Failed(error) => Err(error.into()),
        Outcome::Conflict => Err(Error::Conflict { kind: "container", name }),
    }
}

fn checked(request: CreateContainerRequest) -> Result<ContainerConfig> {
    let config = request.config.ok_or(Error::missing_field("config"))?;
    let metadata = config.metadata.as_ref().ok_or(Error::missing_field("config.metadata"))?;
    if metadata.name.is_empty() {
        return Err(Error::missing_field("config.metadata.name"));
    }
    if config.image.as_ref().is_none_or(|image| image.image.is_empty()) {
        return Err(Error::missing_field("config.image.image"));
    }
    if !signal::is_known(config.stop_signal) {
        let problem = format!("{} is not a value of Signal", config.stop_signal);
        return Err(Error::Invalid { field: "config.stop_signal", problem });
    }
    spec::check_container_enums(&config)?;
    spec::check_container_bounds(&config)?;
    Ok(config)
}

pub(crate) fn require_ready(sandbox: &Sandbox) -> Result<u32> {
    sandbox.pause_pid().ok_or_else(|| not_ready(sandbox))
}

/// The error of a verb that creates or starts a container in a sandbox that is not ready.
pub(crate) fn not_ready(sandbox: &Sandbox) -> Error {
    Error::State { kind: "sandbox", id: sandbox.id().to_string(), state: "not ready".to_owned(), wanted: "ready" }
}

async fn make(node: Arc<Node>, sandbox: Arc<Sandbox>, config: ContainerConfig) -> Result<Creation<Container>> {
    let mut undo = Undo::new();
    // Everything that can be refused is checked before anything is created.
    let plan = during(Stage::Plan, plan(&node, &sandbox, config)).await?;
    let container = Arc::clone(&plan.container);
    add_keys(container.log_keys(|| sandbox.log_keys().clone()));
    match steps(&node, &sandbox, plan, &mut undo).await {
        Ok(()) => Ok(Creation { object: container, undo }),
        Err(cause) => Err(node.roll_back_after(container, undo, cause).await),
    }
}

/// A container that is about to be created.
struct Plan {
    container: Arc<Container>,
    /// Its record for containerd, always complete; `container` holds only a part of a large one.
    record: containerd::Container,
    image: Arc<Image>,
    /// The image's VOLUMEs that no mount covers, each with its directory on the host.
    volumes: Volumes,
    permit: Permit,
}

/// Resolves everything that the request names, and builds the spec. Creates nothing that would have to be undone.
async fn plan(node: &Node, sandbox: &Sandbox, config: ContainerConfig) -> Result<Plan> {
    let pause_pid = require_ready(sandbox)?;
    let handler = node.handler(&sandbox.record.handler)?;
    let snapshotter = handler.snapshotter.clone().unwrap_or_else(|| node.config.images.snapshotter.clone());
    let requested = config.image.clone().unwrap_or_default();
    if let Err(problem) = node.known_handler(&requested.runtime_handler) {
        return Err(Error::Invalid { field: "config.image.runtime_handler", problem });
    }
    let image = node.images.resolve(&requested.image).map_err(|error| match error {
        error @ images::Error::Unusable { .. } if error.kind() == images::Kind::InvalidArgument => {
            Error::Invalid { field: "config.image.image", problem: error.to_string() }
        }
        error => error.into(),
    })?;
    node.images.ensure_unpacked(&image, &snapshotter).await?;

    let permit = node.limits.large.permit(image.is_large() || config.encoded_len() > LARGEST_WHOLE).await;
    let image_config = node.images.config(&image).await?;
    let stop_signal = image_config.config().as_ref().and_then(|config| config.stop_signal().as_deref());
    let image_volumes = node.resolve_image_volumes(&config, sandbox.mapping())?;
    let resolved = resolved(sandbox, &config, &image, &requested.user_specified_image, stop_signal)?;
    let resolved = Resolved { boot: node.host.boot.clone(), image_volumes, ..resolved };
    let record = Record::new(ContainerId::random(), sandbox.id().clone(), config, resolved);
    let image_config = block_in_place_if(permit.is_some(), || spec::ImageConfig::from(&*image_config));
    let volumes = volumes::of_image(node, &record, &image_config)?;
    let draft = Draft {
        record: &record,
        image: &image,
        image_config: &image_config,
        volumes: &volumes,
        snapshotter: &snapshotter,
        pause_pid,
        permit: &permit,
    };
    let spec = container_spec(node, sandbox, handler, draft).await?;
    let spec = block_in_place_if(permit.is_some(), || encode(&spec))?;
    record_size::check_container(&record.config, &spec)?;
    let root =
        Root { snapshotter, chain_id: image.chain_id.clone(), cgroups_path: sandbox.cgroups_path(record.id.as_str()) };
    let stored = containerd_record(sandbox, &record, &root, handler, spec_any(&spec));
    let kept = block_in_place_if_large(spec.len(), || SpecInMemory::of(spec));
    let container = Arc::new(Container::new(record, root, kept, State::Created));
    Ok(Plan { container, record: stored, image, volumes, permit })
}

struct Draft<'a> {
    record: &'a Record,
    image: &'a Image,
    image_config: &'a spec::ImageConfig,
    volumes: &'a [(String, PathBuf)],
    snapshotter: &'a str,
    pause_pid: u32,
    /// Held if the request or the image's config is so large that the spec takes long to build.
    permit: &'a Permit,
}

async fn container_spec(
    node: &Node,
    sandbox: &Sandbox,
    handler: &Handler,
    draft: Draft<'_>,
) -> Result<oci_spec::runtime::Spec> {
    let config = &draft.record.config;
    let missing = if node.config.create_missing_host_path {
        mounts::MissingHostPath::Create
    } else {
        mounts::MissingHostPath::Error
    };
    let handler_facts = spec_handler(node, handler);
    spec::check_mounts(&config.mounts, &handler_facts)?;
    let mut host_mounts = mounts::resolve(&config.mounts, missing).await?;
    node.place_image_volumes(&draft.record.id, &mut host_mounts);
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let privileged = context.is_some_and(|context| context.privileged);
    let owner = if node.config.own_devices { devices::Owner::of(context) } else { devices::Owner::default() };
    let all_devices = privileged && !handler.privileged_without_host_devices;
    let host_devices = devices::resolve(&config.devices, all_devices, owner).await?;
    let cdi = cdi::resolve(&node.config.cdi.spec_dirs, cdi::requests(config, node.config.cdi.annotations)?).await?;
    let (passwd, group) = node.images.user_db(draft.image, draft.snapshotter).await?;
    let user = block_in_place_if_large(passwd.len() + group.len(), || {
        spec::user(spec::UserDb::new(&passwd, &group), &draft.image_config.user, context)
    })?;
    let seccomp = seccomp_profile::read(&node.config.seccomp_profile_roots, spec::seccomp_file(context)?).await?;
    let labels = node.label_container(sandbox, config)?;
    let netns = sandbox.netns(&node.config.netns_dir);
    let hostname = crate::sandbox::hostname(&sandbox.record.config);
    let hostname = hostname.map_err(|source| Error::files(sandbox.id(), source))?;
    let input = spec::ContainerInput {
        id: &draft.record.id,
        sandbox_id: sandbox.id(),
        config,
        sandbox: &sandbox.record.config,
        hostname: &hostname,
        sandbox_pid: draft.pause_pid,
        netns: netns.as_deref(),
        mapping: sandbox.mapping(),
        target_pid: node.target_pid(sandbox, config)?,
        image: draft.image_config,
        seccomp: seccomp.as_deref(),
        selinux: labels.as_ref(),
        image_name: &draft.record.resolved.image,
        user: &user,
        files: &files(node.paths(sandbox)),
        mounts: &host_mounts,
        devices: &host_devices,
        cdi: &cdi,
        volumes: draft.volumes,
        host: &node.host.facts,
        handler: &handler_facts,
        cgroup_path: sandbox.cgroups_path(draft.record.id.as_str()),
    };
    let spec = block_in_place_if(draft.permit.is_some(), || spec::container(&input))?;
    node.require_profile(&spec).await?;
    if let Some(labels) = labels {
        // The last step, after everything that can be refused was checked: labels are not undone.
        node.relabel(sandbox, &labels, &host_mounts).await?;
    }
    Ok(spec)
}

/// The steps of the verb. Each step pushes its undo before it starts.
async fn steps(node: &Arc<Node>, sandbox: &Sandbox, plan: Plan, undo: &mut Undo) -> Result<()> {
    let Plan { container, record, image, volumes, permit } = plan;
    let id = container.id().to_string();
    let root = &container.root;

    let (containerd, key) = (node.containerd.clone(), id.clone());
    let deleted = async move { containerd.delete_container(&key).await.map_err(|error| chain(&error)) };
    undo.push_record("delete container record", deleted);
    during(Stage::Record, node.containerd.create_container(record)).await?;
    drop(permit);

    let (containerd, key, snapshotter) = (node.containerd.clone(), id.clone(), root.snapshotter.clone());
    let removed = async move { containerd.remove_snapshot(&snapshotter, &key).await.map_err(|error| chain(&error)) };
    undo.push("remove snapshot", removed);
    let prepared = node.containerd.prepare_snapshot(&root.snapshotter, &id, &root.chain_id, sandbox.mapping());
    during(Stage::Snapshot, prepared).await?;

    let directory = node.container_directory(container.id());
    let removed = async move { remove_directory(directory).await.map_err(|error| error.chain()) };
    undo.push("remove container directory", removed);
    during(Stage::Volumes, async {
        node.fill_volumes(&container, &image, volumes).await?;
        node.mount_image_volumes(&container, sandbox.mapping(), undo).await
    })
    .await?;
    // Checked again: a Stop of the sandbox that began meanwhile has not seen this container.
    require_ready(sandbox).map(drop)
}

fn containerd_record(
    sandbox: &Sandbox,
    record: &Record,
    root: &Root,
    handler: &Handler,
    spec: containerd::Any,
) -> containerd::Container {
    let labels = labels::of_container(sandbox.metadata(), &record.config.metadata.clone().unwrap_or_default());
    containerd::Container {
        id: record.id.to_string(),
        labels: labels.into_iter().chain(image_volumes::labels(record, &root.snapshotter)).collect(),
        image: record.resolved.image.clone(),
        runtime: handler.kind.clone(),
        runtime_options: Some(handler.options.any()),
        spec: Some(spec),
        snapshotter: root.snapshotter.clone(),
        snapshot_key: record.id.to_string(),
        extensions: record.extensions(),
        // Makes containerd run this container in the pause container's shim: no second shim is started.
        sandbox: record.sandbox.to_string(),
        created_at: 0,
    }
}

fn resolved(
    sandbox: &Sandbox,
    config: &ContainerConfig,
    image: &Image,
    user_specified: &str,
    stop_signal: Option<&str>,
) -> Result<Resolved> {
    let by_tag = image.tags.iter().find(|tag| tag.as_str() == user_specified).or(image.tags.first());
    let by_digest = image.repo_digests.first();
    let fallback = image.id.clone();
    let signal =
        signal::from_cri(config.stop_signal).or_else(|| signal::parse(stop_signal?)).unwrap_or(signal::SIGTERM);
    Ok(Resolved {
        sandbox: sandbox.id().to_string(),
        image: by_tag.or(by_digest).cloned().unwrap_or_else(|| fallback.clone()),
        image_ref: by_digest.cloned().unwrap_or_else(|| fallback.clone()),
        image_id: fallback,
        log_path: log_path(sandbox, config)?,
        stop_signal: signal,
        created_at: now(),
        boot: String::new(),
        image_volumes: BTreeMap::new(),
    })
}

/// The path of the log; empty if the pod has no log directory or the container no log path. A path that climbs out of
/// the directory (CVE-2025-0750) is refused here, and not only by StartContainer, which opens the file.
fn log_path(sandbox: &Sandbox, config: &ContainerConfig) -> Result<String> {
    let path = LogPath::new(&sandbox.record.config.log_directory, &config.log_path)
        .map_err(|error| Error::Invalid { field: "config.log_path", problem: error.to_string() })?;
    Ok(path.map(|path| path.full().display().to_string()).unwrap_or_default())
}

impl Node {
    /// Host PID of the container whose PID namespace is requested (namespace mode TARGET).
    pub(crate) fn target_pid(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<u32>> {
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let Some(options) = context.and_then(|context| context.namespace_options.as_ref()) else { return Ok(None) };
        if options.pid() != NamespaceMode::Target {
            return Ok(None);
        }
        let target = self.other_container(&options.target_id)?;
        match target.state() {
            State::Running { pid, .. } if target.sandbox() == sandbox.id() => Ok(Some(pid)),
            State::Running { .. } => Err(Error::Invalid {
                field: "config.linux.security_context.namespace_options.target_id",
                problem: format!("container {} is in another sandbox", target.id()),
            }),
            state @ (State::Created | State::Starting | State::Exited(_) | State::Unknown | State::Removing { .. }) => {
                Err(Error::State {
                    kind: "container",
                    id: target.id().to_string(),
                    state: state.name().to_owned(),
                    wanted: "running",
                })
            }
        }
    }

    /// Requires that the AppArmor profile of a spec is loaded; otherwise the container would fail later, and less
    /// clearly.
    pub(crate) async fn require_profile(&self, spec: &oci_spec::runtime::Spec) -> Result<()> {
        match spec.process().as_ref().and_then(|process| process.apparmor_profile().as_ref()) {
            Some(profile) => Ok(self.host.apparmor.require(profile).await?),
            None => Ok(()),
        }
    }
}
