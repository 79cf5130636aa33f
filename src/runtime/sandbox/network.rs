//! CNI operations on a pod's network, for the verbs.

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::v1::PodSandboxConfig;
use crate::network::{Attachment, Cached, Network, Prepared, Recalled, check_ports};
use crate::runtime::{Error, Node, Result, chain};
use crate::sandbox::Sandbox;
use crate::undo::Undo;

/// The interface of a pod's first network.
const INTERFACE: &str = "eth0";

impl Node {
    /// Pushes CNI DEL: it runs even if ADD has returned no result, and never under the caller's deadline.
    pub(crate) fn push_network_undo(self: &Arc<Self>, sandbox: &Arc<Sandbox>, undo: &mut Undo) {
        let (node, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        undo.push("detach network", async move { node.detach_network(&sandbox).await.map_err(|error| error.chain()) });
    }

    /// Writes what CNI ADD will be called with to the CNI cache, before the pause task exists. So if a pause task has
    /// no attachment in the cache, that was lost later. Returns `None` on the host's network.
    pub(crate) async fn prepare_network(&self, sandbox: &Sandbox) -> Result<Option<Prepared>> {
        let Some(attachment) = self.attachment(sandbox) else { return Ok(None) };
        let prepared = self.network(sandbox).prepare(&attachment).await;
        prepared.map(Some).map_err(|source| Error::Network { id: sandbox.id().to_string(), source })
    }

    /// Runs CNI ADD; returns the pod's addresses, the primary one first. There are none on the host's network.
    pub(crate) async fn attach_network(&self, sandbox: &Sandbox, prepared: Option<Prepared>) -> Result<Vec<IpAddr>> {
        let Some(prepared) = prepared else { return Ok(Vec::new()) };
        match self.network(sandbox).attach(prepared).await {
            Ok(attached) => Ok(attached.ips),
            Err(source) => Err(Error::Network { id: sandbox.id().to_string(), source }),
        }
    }

    /// Runs CNI DEL, with the path of the network namespace only while it is pinned.
    pub(crate) async fn detach_network(&self, sandbox: &Sandbox) -> Result<()> {
        let Some(mut attachment) = self.attachment(sandbox) else { return Ok(()) };
        attachment.netns = attachment.netns.filter(|path| crate::netns::is_pinned(path));
        let detached = self.network(sandbox).detach(&attachment).await;
        detached.map_err(|source| Error::Network { id: sandbox.id().to_string(), source })
    }

    /// Refuses a config that cannot be passed to any plugin, before anything is created.
    pub(crate) fn check_network(&self, sandbox: &Sandbox) -> Result<()> {
        check_ports(&sandbox.record.config.port_mappings).map_err(Error::Attachment)?;
        let Some(attachment) = self.attachment(sandbox) else { return Ok(()) };
        attachment.validate().map_err(Error::Attachment)
    }

    /// The pod's addresses after a restart: from the cache entry of the attachment or, if that was lost, from the
    /// interface itself (docs/rulings.md 13). `None` for a pod whose attachment did not finish: a part of its chain is
    /// missing, for example host ports.
    pub(crate) async fn recovered_addresses(&self, sandbox: &Sandbox) -> Option<Vec<IpAddr>> {
        let Some(netns) = sandbox.netns(&self.config.netns_dir) else { return Some(Vec::new()) };
        let network = self.network(sandbox);
        match network.recall(sandbox.id()).await {
            Ok(Recalled::Attached(attached)) => Some(attached.ips),
            Ok(Recalled::Unfinished) => None,
            Ok(Recalled::Nothing) | Err(_) => {
                let addresses = crate::netns::addresses(&netns, INTERFACE).await.unwrap_or_default();
                (!addresses.is_empty()).then(|| network.in_order(addresses))
            }
        }
    }

    /// Attachments of ours whose sandbox is gone hold addresses: DEL releases them (docs/rulings.md 13). One whose network
    /// namespace is still pinned is left alone: its pod may be running, whatever happened to its record.
    pub(crate) fn release_stale_attachments(self: &Arc<Self>, cached: Cached) {
        if !cached.others.is_empty() {
            tracing::info!(count = cached.others.len(), "network attachments of other instances are left alone");
        }
        let gone = cached.ours.into_iter().filter(|(id, _)| self.store.sandbox(id).is_none());
        let (pinned, stale): (Vec<_>, Vec<_>) =
            gone.partition(|(_, netns)| netns.iter().any(|path| crate::netns::is_pinned(path)));
        for (sandbox, _) in pinned {
            tracing::warn!(%sandbox, "a network attachment without a sandbox stays: its network namespace is still pinned");
        }
        let node = Arc::clone(self);
        self.tasks.background(async move {
            for (sandbox, _) in stale {
                let attachment = Attachment::new(&sandbox, &PodSandboxConfig::default(), None, None);
                match node.networks.default_network().detach(&attachment).await {
                    Ok(()) => tracing::info!(%sandbox, "released a stale network attachment"),
                    Err(error) => {
                        tracing::warn!(%sandbox, error = chain(&error), "cannot release a stale network attachment");
                    }
                }
            }
        });
    }

    /// The network of the pod's runtime handler.
    pub(crate) fn network(&self, sandbox: &Sandbox) -> &Network {
        self.networks.of(&sandbox.record.handler)
    }

    fn attachment(&self, sandbox: &Sandbox) -> Option<Attachment> {
        let netns = sandbox.netns(&self.config.netns_dir)?;
        let cgroups_path = sandbox.cgroups_path(sandbox.id().as_str());
        Some(Attachment::new(sandbox.id(), &sandbox.record.config, Some(netns), Some(cgroups_path)))
    }
}
