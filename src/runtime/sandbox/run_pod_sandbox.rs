//! RunPodSandbox: record → files and namespaces → network in parallel with the pause task → ready.

use std::sync::{Arc, OnceLock};

use futures_util::FutureExt as _;

use crate::api::v1::{PodSandboxConfig, RunPodSandboxRequest, RunPodSandboxResponse};
use crate::config::Handler;
use crate::container::io::LogPath;
use crate::events::Kind;
use crate::ids::SandboxId;
use crate::joined::run_blocking;
use crate::log_keys::{LogKeys, add_keys};
use crate::netns;
use crate::runtime::container::create_container::require_ready;
use crate::runtime::error::both;
use crate::runtime::rollback::Creatable;
use crate::runtime::{Error, Node, Repeatable, Result, chain, listed_size, now};
use crate::sandbox::{self, Event, Record, Sandbox, State};
use crate::spec;
use crate::store::{Creation, Key, ListTarget, Outcome, sandbox_name};
use crate::telemetry::{Stage, Verb, during};
use crate::undo::Undo;
use crate::userns;

/// Creates and starts a sandbox. An identical request that arrives meanwhile joins this one and gets the same id.
///
/// # Errors
/// [`Error::Exists`] if the name is in the store; [`Error::Invalid`] names a field; otherwise the cause of the failure,
/// after everything was rolled back.
pub async fn run_pod_sandbox(node: &Arc<Node>, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
    if let Some(pod) = request.config.as_ref().and_then(|config| config.metadata.as_ref()) {
        add_keys(&LogKeys::of_pod(&pod.namespace, &pod.name));
    }
    node.availability.ready(Verb::RunPodSandbox).await?;
    let record = record(node, request.clone())?;
    let name = sandbox_name(&record.config.metadata.clone().unwrap_or_default());
    if let Some(sandbox) = node.store.sandboxes.named(&name) {
        return Err(Error::Exists { kind: "sandbox", name, id: sandbox.id().to_string() });
    }
    let key = Key { name: &name, request };
    let start = || node.tasks.run_named(Verb::RunPodSandbox, name.clone(), make(Arc::clone(node), record).boxed());
    let made = node.in_flight.new_sandboxes.run(key, node, start);
    match node.tasks.operations().waiting_for(Verb::RunPodSandbox, &name, made).await {
        Outcome::Made(sandbox) => {
            add_keys(sandbox.log_keys());
            Ok(RunPodSandboxResponse { pod_sandbox_id: sandbox.id().to_string() })
        }
        Outcome::Failed(error) => Err(error.into()),
        Outcome::Conflict => Err(Error::Conflict { kind: "sandbox", name }),
    }
}

/// Checks the request as far as that is possible without side effects.
fn record(node: &Node, request: RunPodSandboxRequest) -> Result<Record> {
    let config = request.config.ok_or(Error::missing_field("config"))?;
    let metadata = config.metadata.as_ref().ok_or(Error::missing_field("config.metadata"))?;
    for (field, value) in [
        ("config.metadata.name", &metadata.name),
        ("config.metadata.namespace", &metadata.namespace),
        ("config.metadata.uid", &metadata.uid),
    ] {
        if value.is_empty() {
            return Err(Error::missing_field(field));
        }
    }
    if !config.log_directory.is_empty()
        && let Err(reason) = LogPath::check_directory(config.log_directory.as_ref())
    {
        let problem = format!("{:?} {reason}", config.log_directory);
        return Err(Error::Invalid { field: "config.log_directory", problem });
    }
    spec::check_sandbox_enums(&config)?;
    spec::check_sandbox_bounds(&config)?;
    listed_size::check_sandbox(&config)?;
    let handler = node.handler(&request.runtime_handler)?.name.clone();
    Ok(Record { id: SandboxId::random(), config, handler, created_at: now(), selinux: None })
}

async fn make(node: Arc<Node>, mut record: Record) -> Result<Creation<Sandbox>> {
    // The labels are part of the record, which is written before any file has them.
    record.selinux = node.label_pod(&record.config)?;
    let sandbox = Arc::new(Sandbox::new(record, State::Creating, Vec::new()));
    add_keys(sandbox.log_keys());
    let mut undo = Undo::new();
    match steps(&node, &sandbox, &mut undo).await {
        Ok(()) => Ok(Creation { object: sandbox, undo }),
        Err(cause) => Err(node.roll_back_after(sandbox, undo, cause).await),
    }
}

/// The steps of the verb. Each step pushes its undo before it starts.
async fn steps(node: &Arc<Node>, sandbox: &Arc<Sandbox>, undo: &mut Undo) -> Result<()> {
    let handler = node.handler(&sandbox.record.handler)?;
    let hostname = sandbox::hostname(&sandbox.record.config).map_err(|source| Error::files(sandbox.id(), source))?;
    // The spec is built first: a config that cannot be run leaves no trace.
    let spec = node.pause_spec(sandbox, handler, &hostname).await?;
    node.check_network(sandbox)?;
    if sandbox.mapping().is_some() {
        node.check_user_namespace(handler)?;
    }

    during(Stage::Record, node.write_sandbox_record(sandbox, handler, undo)).await?;
    during(Stage::Files, node.make_files(sandbox, hostname, undo)).await?;
    during(Stage::Netns, node.make_namespaces(sandbox, undo)).await?;
    node.push_network_undo(sandbox, undo);
    let prepared = node.prepare_network(sandbox).await?;
    node.push_pause_undo(sandbox, undo);
    let addresses = if network_comes_first(handler, &sandbox.record.config) {
        let addresses = node.attach_network(sandbox, prepared).await?;
        node.start_pause(sandbox, handler, spec).await?;
        addresses
    } else {
        // `join!`, not `try_join!`: when one fails, the other must not be dropped half-way.
        let (network, pause) =
            tokio::join!(node.attach_network(sandbox, prepared), node.start_pause(sandbox, handler, spec));
        both(pause, network)?.1
    };
    sandbox.set_addresses(addresses);
    // The pause process may have ended meanwhile.
    require_ready(sandbox).map(drop)
}

/// Whether CNI ADD must finish before the pause task is created. VM handlers read the network when the VM starts;
/// runc's init writes net.* sysctls, whose interfaces must exist (docs/rulings.md 7).
fn network_comes_first(handler: &Handler, config: &PodSandboxConfig) -> bool {
    let sysctls = config.linux.as_ref().map(|linux| &linux.sysctls);
    handler.virtual_machine
        || sysctls.is_some_and(|all| all.keys().any(|key| key.starts_with("net.") || key.starts_with("net/")))
}

impl Node {
    async fn write_sandbox_record(&self, sandbox: &Sandbox, handler: &Handler, undo: &mut Undo) -> Result<()> {
        let (containerd, id) = (self.containerd.clone(), sandbox.id().clone());
        let deleted = async move { containerd.delete_sandbox(id.as_str()).await.map_err(|error| chain(&error)) };
        undo.push_record("delete sandbox record", deleted);
        let record = sandbox.record.encode(handler.kind.clone(), handler.options.any());
        Ok(self.containerd.create_sandbox(record).await?)
    }

    /// Creates the namespaces that exist before the first process: network and user. The latter is pinned among the
    /// pod's files, and removed with them.
    async fn make_namespaces(&self, sandbox: &Sandbox, undo: &mut Undo) -> Result<()> {
        let id = || sandbox.id().to_string();
        let path = sandbox.netns(&self.config.netns_dir);
        let owned = match sandbox.mapping() {
            Some(mapping) => userns::create(&self.paths(sandbox).userns, mapping, path.is_some())
                .await
                .map_err(|source| Error::Userns { id: id(), source })?,
            None => None,
        };
        let Some(path) = path else { return Ok(()) };
        let pinned = path.clone();
        let removed = async move { netns::remove(&pinned).await.map_err(|error| chain(&error)) };
        undo.push("remove network namespace", removed);
        let made = match owned {
            Some(owned) => netns::adopt(&path, owned).await,
            None => netns::create(&path).await,
        };
        made.map_err(|source| Error::Netns { id: id(), source })
    }

    async fn make_files(&self, sandbox: &Arc<Sandbox>, hostname: String, undo: &mut Undo) -> Result<()> {
        let paths = self.paths(sandbox);
        let made = paths.clone();
        let removed = async move { run_blocking(move || made.remove()).await.map_err(|error| chain(&error)) };
        undo.push("remove sandbox files", removed);
        let config = Arc::clone(sandbox);
        let owner = sandbox.mapping().map(|mapping| (mapping.uids.host, mapping.gids.host));
        run_blocking(move || paths.create(&config.record.config, &hostname, owner))
            .await
            .map_err(|source| Error::files(sandbox.id(), source))?;
        match &sandbox.record.selinux {
            Some(selinux) => self.label_files(sandbox, selinux.labels.mount.to_string()).await,
            None => Ok(()),
        }
    }
}

impl ListTarget<Sandbox> for Node {
    fn list(&self, sandbox: &Arc<Sandbox>) {
        self.store.sandboxes.insert(Arc::clone(sandbox));
        self.announce_sandbox(sandbox, Kind::Created);
        if sandbox.state().is_ready() {
            self.announce_sandbox(sandbox, Kind::Started);
        } else {
            // If the sandbox ended before it was in the store, subscribers have not been notified yet.
            self.announce_end(sandbox);
        }
    }

    async fn roll_back(self: Arc<Self>, sandbox: Arc<Sandbox>, undo: Undo) {
        self.roll_back_unclaimed(sandbox, undo).await;
    }
}

impl Creatable for Sandbox {
    const KIND: &str = "sandbox";

    fn id(&self) -> &str {
        self.record.id.as_str()
    }

    fn keys(&self) -> &LogKeys {
        self.log_keys()
    }

    fn operations(&self) -> [Repeatable; 2] {
        [Repeatable::RemoveSandbox(self.record.id.clone()), Repeatable::StopSandbox(self.record.id.clone())]
    }

    fn creation_error(&self) -> &OnceLock<Box<str>> {
        &self.creation_error
    }

    fn list(self: &Arc<Self>, node: &Node) {
        // Allowed in every state. From then on the sandbox can only be stopped and removed.
        let _ = self.on(Event::Incomplete);
        ListTarget::list(node, self);
    }

    fn forget(self: &Arc<Self>, node: &Node) {
        node.store.sandboxes.remove(self.id().as_str());
        node.announce_sandbox(self, Kind::Deleted);
        node.owner.hints.forget(self.id().as_str());
    }
}
