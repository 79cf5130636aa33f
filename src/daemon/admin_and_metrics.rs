//! What is served in addition to CRI: the admin service for our own commands, and the metrics page.

use anyhow::Context;

use super::listen;
use crate::cri::Cri;
use crate::runtime::Node;
use crate::tasks::Tasks;
use crate::telemetry::{self, Endpoint};

/// Serves both for as long as the process lives. It runs before recovery, so that a recovery that hangs can be
/// inspected.
pub(super) async fn serve(cri: &Cri, node: &Node, tasks: &Tasks) -> anyhow::Result<()> {
    let admin = listen::bind_for_root(&node.config.admin_socket).context("admin_socket")?;
    let service = cri.admin_service();
    tasks.background(async move {
        let serving = listen::server().add_service(service).serve_with_incoming(listen::connections(admin));
        if let Err(error) = serving.await {
            tracing::error!(%error, "commands such as `pontoon top` are not answered any more");
        }
    });
    if let Some(endpoint) = &node.config.metrics {
        let served = telemetry::serve(endpoint, node.tasks.operations().metrics().clone(), tasks).await;
        served.with_context(|| format!("metrics.address: serve {endpoint}"))?;
        tracing::info!(%endpoint, "serving metrics");
    }
    Ok(())
}

/// Removes the sockets when the daemon ends.
pub(super) fn remove_sockets(node: &Node) {
    let _ = std::fs::remove_file(&node.config.admin_socket);
    if let Some(Endpoint::Unix(path)) = &node.config.metrics {
        let _ = std::fs::remove_file(path);
    }
}
