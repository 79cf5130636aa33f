//! The pod's network, as the verbs use it.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Error, Node, Result};
use crate::network::{Attachment, Network, check_ports};
use crate::sandbox::Sandbox;
use crate::telemetry::{Stage, during};
use crate::undo::Undo;

/// The interface of a pod's first network.
const INTERFACE: &str = "eth0";

impl Node {
    /// CNI DEL on failure: always, even when ADD gave no result, and never under the caller's deadline.
    pub(super) fn push_network_undo(self: &Arc<Self>, sandbox: &Arc<Sandbox>, undo: &mut Undo) {
        let (node, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        undo.push("detach network", async move { node.detach_network(&sandbox).await.map_err(|error| error.chain()) });
    }

    /// CNI ADD; gives the pod's addresses, the primary first. Nothing on the host's network.
    pub(super) async fn attach_network(&self, sandbox: &Sandbox) -> Result<Vec<IpAddr>> {
        let Some(attachment) = self.attachment(sandbox) else { return Ok(Vec::new()) };
        match during(Stage::Cni, self.network(sandbox).attach(&attachment)).await {
            Ok(attached) => Ok(attached.ips),
            Err(source) => Err(Error::Network { id: sandbox.id().to_string(), source }),
        }
    }

    /// CNI DEL, with the network namespace's path only while it is pinned.
    pub(super) async fn detach_network(&self, sandbox: &Sandbox) -> Result<()> {
        let Some(mut attachment) = self.attachment(sandbox) else { return Ok(()) };
        attachment.netns = attachment.netns.filter(|path| crate::netns::is_pinned(path));
        let detached = during(Stage::Cni, self.network(sandbox).detach(&attachment)).await;
        detached.map_err(|source| Error::Network { id: sandbox.id().to_string(), source })
    }

    /// Refuses a config that no plugin could be given, before anything is made.
    pub(super) fn check_network(&self, sandbox: &Sandbox) -> Result<()> {
        check_ports(&sandbox.record.config.port_mappings).map_err(Error::Attachment)?;
        let Some(attachment) = self.attachment(sandbox) else { return Ok(()) };
        attachment.validate().map_err(Error::Attachment)
    }

    /// The pod's addresses after a restart: from the cache of the attachment, or, when that was lost, from the interface
    /// itself (rulings.md 13).
    pub(super) async fn recovered_addresses(&self, sandbox: &Sandbox) -> Vec<IpAddr> {
        let Some(netns) = sandbox.netns(&self.config.netns_dir) else { return Vec::new() };
        let network = self.network(sandbox);
        if let Ok(Some(attached)) = network.attached(sandbox.id()).await {
            return attached.ips;
        }
        match crate::netns::addresses(&netns, INTERFACE).await {
            Ok(addresses) => network.in_order(addresses),
            Err(_) => Vec::new(),
        }
    }

    /// The network of the pod's runtime handler.
    pub(super) fn network(&self, sandbox: &Sandbox) -> &Network {
        self.networks.of(&sandbox.record.handler)
    }

    fn attachment(&self, sandbox: &Sandbox) -> Option<Attachment> {
        let netns = sandbox.netns(&self.config.netns_dir)?;
        let cgroups_path = sandbox.cgroups_path(sandbox.id().as_str());
        Some(Attachment::new(sandbox.id(), &sandbox.record.config, Some(netns), Some(cgroups_path)))
    }
}
