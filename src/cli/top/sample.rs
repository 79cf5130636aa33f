//! The daemon's state at one moment.

use anyhow::Context;
use tonic::transport::Channel;

use crate::admin::v1::admin_client::AdminClient;
use crate::admin::v1::{Operation, OperationsRequest};
use crate::api::v1::runtime_service_client::RuntimeServiceClient;
use crate::api::v1::*;
use crate::cli::client;
use crate::config::Config;

/// Where samples come from. Clones share the connections.
#[derive(Clone)]
pub(super) struct Source {
    cri: RuntimeServiceClient<Channel>,
    admin: AdminClient<Channel>,
    sockets: (String, String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) pods: Vec<PodSandbox>,
    pub(super) containers: Vec<Container>,
    /// `None` when the daemon reports no stats.
    pub(super) stats: Option<Vec<PodSandboxStats>>,
    /// `None` when we may not query the admin socket.
    pub(super) operations: Option<Vec<Operation>>,
    /// Messages about the parts that could not be fetched, for the user.
    pub(super) problems: Vec<String>,
}

impl Source {
    pub(super) fn new(config: &Config) -> Self {
        let shown = |path: &std::path::Path| path.display().to_string();
        Self {
            cri: client::cri(&config.socket),
            admin: client::admin(&config.admin_socket),
            sockets: (shown(&config.socket), shown(&config.admin_socket)),
        }
    }

    /// Queries all parts in parallel.
    pub(super) async fn sample(&mut self) -> anyhow::Result<Sample> {
        let (mut lists, mut containers, mut stats) = (self.cri.clone(), self.cri.clone(), self.cri.clone());
        let (pods, containers, stats, operations) = tokio::join!(
            lists.list_pod_sandbox(ListPodSandboxRequest::default()),
            containers.list_containers(ListContainersRequest::default()),
            stats.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()),
            self.admin.operations(OperationsRequest {}),
        );
        let mut problems = Vec::new();
        let stats = stats.map(|reply| reply.into_inner().stats);
        let stats = stats.inspect_err(|status| problems.push(format!("no stats: {}", status.message())));
        let operations = operations.map(|reply| reply.into_inner().operations);
        let operations = operations.inspect_err(|status| {
            let words = format!("operations in flight are not known: {} at {}", status.message(), self.sockets.1);
            problems.push(words);
        });
        let answer = || format!("query CRI at {}", self.sockets.0);
        Ok(Sample {
            pods: pods.with_context(answer)?.into_inner().decoded().with_context(answer)?,
            containers: containers.with_context(answer)?.into_inner().decoded().with_context(answer)?,
            stats: stats.ok(),
            operations: operations.ok(),
            problems,
        })
    }
}

impl Sample {
    pub(super) fn has_stats(&self) -> bool {
        self.stats.is_some()
    }

    pub(super) fn stats_of(&self, pod: &str) -> Option<&PodSandboxStats> {
        self.stats.iter().flatten().find(|stats| stats.attributes.as_ref().is_some_and(|about| about.id == pod))
    }
}
