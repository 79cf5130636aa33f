//! Pods that run on the bed while something else is tested or measured.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use tokio::task::JoinSet;

use crate::scope::{Scope, sleeper};

const AT_A_TIME: usize = 4;

/// Starts that many pods with one container each.
pub async fn fill(scope: &Arc<Scope>, pods: usize) -> anyhow::Result<()> {
    let (mut running, mut left) = (JoinSet::new(), pods);
    while left > 0 || !running.is_empty() {
        while running.len() < AT_A_TIME && left > 0 {
            left -= 1;
            let scope = Arc::clone(scope);
            running.spawn(async move { scope.pod().await?.start(sleeper("main")).await });
        }
        running.join_next().await.context("nothing runs")???;
    }
    Ok(())
}

/// Fails unless all of the pods are ready and their containers run.
pub async fn expect_standing(scope: &Scope, pods: usize) -> anyhow::Result<()> {
    let ready = v1::PodSandboxState::SandboxReady;
    let sandboxes = scope.pods().await?;
    let alive: Vec<_> = sandboxes.iter().filter(|pod| pod.state() == ready).map(|pod| pod.id.as_str()).collect();
    ensure!(alive.len() == pods, "{} of {pods} pods are ready", alive.len());
    let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() });
    let filter = Some(v1::ContainerFilter { state, ..v1::ContainerFilter::default() });
    let containers =
        scope.bed.runtime().list_containers(v1::ListContainersRequest { filter }).await?.into_inner().decoded()?;
    let running = containers.iter().filter(|one| alive.contains(&one.pod_sandbox_id.as_str())).count();
    ensure!(running == pods, "{running} of {pods} containers run");
    Ok(())
}
