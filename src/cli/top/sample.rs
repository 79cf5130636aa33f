//! The daemon's state at one moment.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use futures_util::future::join_all;
use tonic::transport::Channel;

use super::running::{Exit, may_be_done};
use crate::admin::v1::admin_client::AdminClient;
use crate::admin::v1::{Operation, OperationsRequest};
use crate::api::v1::runtime_service_client::RuntimeServiceClient;
use crate::api::v1::*;
use crate::cli::client::{self, reason};
use crate::config::Config;

/// Where samples come from. Clones share the connections.
#[derive(Clone)]
pub(super) struct Source {
    cri: RuntimeServiceClient<Channel>,
    admin: AdminClient<Channel>,
    sockets: (String, String),
    /// Exits that the last sample needed. An exit does not change, so each is queried only once.
    exits: Arc<Mutex<HashMap<String, Exit>>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) pods: Vec<PodSandbox>,
    pub(super) containers: Vec<Container>,
    /// The exits of those containers that may be done, by id. One that could not be queried is missing.
    pub(super) exits: HashMap<String, Exit>,
    /// `None` when the daemon reports no stats.
    pub(super) stats: Option<Vec<PodSandboxStats>>,
    /// `None` when we may not query the admin socket.
    pub(super) operations: Option<Vec<Operation>>,
    /// Messages about the parts that could not be fetched, for the user.
    pub(super) problems: Vec<String>,
}

impl Source {
    pub(super) fn new(config: &Config) -> Self {
        let shown = |path: &Path| path.display().to_string();
        Self {
            cri: client::cri(&config.socket),
            admin: client::admin(&config.admin_socket),
            sockets: (shown(&config.socket), shown(&config.admin_socket)),
            exits: Arc::default(),
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
        let stats =
            stats.inspect_err(|status| problems.push(format!("no stats: {}", reason(status, status.message()))));
        let operations = operations.map(|reply| reply.into_inner().operations);
        let operations = operations.inspect_err(|status| {
            let why = reason(status, status.message());
            problems.push(format!("operations in flight are not known: query {}: {why}", self.sockets.1));
        });
        let query = || format!("query CRI at {}", self.sockets.0);
        let failed = |error: &(dyn Error + 'static), said: &str| anyhow!("{}: {}", query(), reason(error, said));
        let pods = pods.map_err(|status| failed(&status, status.message()))?.into_inner();
        let containers = containers.map_err(|status| failed(&status, status.message()))?.into_inner();
        let containers = containers.decoded().with_context(query)?;
        Ok(Sample {
            pods: pods.decoded().with_context(query)?,
            exits: self.exits(&containers).await,
            containers,
            stats: stats.ok(),
            operations: operations.ok(),
            problems,
        })
    }

    /// The exits of the containers that may be done.
    async fn exits(&self, containers: &[Container]) -> HashMap<String, Exit> {
        let known = self.exits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queries = may_be_done(containers).into_iter().map(|id| {
            let (known, mut cri) = (known.get(id).copied(), self.cri.clone());
            async move {
                if let Some(exit) = known {
                    return Some((id.to_owned(), exit));
                }
                let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
                // It fails if the container has been removed meanwhile.
                let status = cri.container_status(request).await.ok()?.into_inner().status?;
                Some((id.to_owned(), Exit { code: status.exit_code, finished_at: status.finished_at }))
            }
        });
        let exits: HashMap<String, Exit> = join_all(queries).await.into_iter().flatten().collect();
        // Exits of removed containers are forgotten.
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&exits);
        exits
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
