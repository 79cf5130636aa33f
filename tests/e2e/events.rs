//! GetContainerEvents, the source of kubelet's evented PLEG.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerEventResponse, ContainerEventType, ContainerState, PodSandboxState};
use tonic::Streaming;

use crate::bed::SOON;
use crate::harness::{Outcome, SLOWNESS, Test, rule};
use crate::scope::{Scope, shell};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(the_events_of_a_pods_life_are_sent),
        rule!(the_end_of_a_pause_process_is_reported),
        rule!(a_stalled_subscriber_delays_no_call)
            .only_pontoon("its queue waits for a subscriber that does not read, and every call for the queue"),
    ]
}

type Events = Streaming<ContainerEventResponse>;

async fn subscribe(scope: &Scope) -> anyhow::Result<Events> {
    Ok(scope.bed.runtime().get_container_events(v1::GetEventsRequest {}).await?.into_inner())
}

/// Reads events of the objects `of`, until the first of them has an event of type `last`. Skips the events of other
/// tests' pods.
async fn read(
    events: &mut Events,
    of: &[&str],
    last: ContainerEventType,
) -> anyhow::Result<Vec<ContainerEventResponse>> {
    let mut heard: Vec<ContainerEventResponse> = Vec::new();
    loop {
        let event = tokio::time::timeout(SOON * *SLOWNESS, events.message()).await;
        let event =
            event.with_context(|| format!("heard until now: {:?}", types(&heard)))??.context("the stream ended")?;
        if !of.contains(&event.container_id.as_str()) {
            continue;
        }
        let is_last = event.container_id == of[0] && event.container_event_type() == last;
        heard.push(event);
        if is_last {
            return Ok(heard);
        }
    }
}

fn types(events: &[ContainerEventResponse]) -> Vec<(&str, ContainerEventType)> {
    events.iter().map(|event| (event.container_id.as_str(), event.container_event_type())).collect()
}

async fn the_events_of_a_pods_life_are_sent(scope: Arc<Scope>) -> Outcome {
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
        ContainerStoppedEvent as Stopped,
    };
    let mut events = subscribe(&scope).await?;
    let pod = scope.pod().await?;
    let id = pod.start(shell("main", "sleep 1; exit 3")).await?;
    // An event contains the state at the time when it is sent, without objects that were removed before. So read these
    // first.
    let mut heard = read(&mut events, &[&id, &pod.id], Stopped).await?;
    scope.bed.remove(&id).await?;
    pod.stop().await?;
    pod.remove().await?;

    heard.extend(read(&mut events, &[&pod.id, &id], Deleted).await?);
    let (sandbox, main) = (pod.id.as_str(), id.as_str());
    let life = [
        (sandbox, Created),
        (sandbox, Started),
        (main, Created),
        (main, Started),
        (main, Stopped),
        (main, Deleted),
        (sandbox, Stopped),
        (sandbox, Deleted),
    ];
    ensure!(types(&heard) == life, "{:?}", types(&heard));
    ensure!(heard.is_sorted_by(|one, next| one.created_at < next.created_at), "times");
    for event in &heard {
        let status = event.pod_sandbox_status.as_ref().context("kubelet drops an event without the pod's status")?;
        let uid = status.metadata.as_ref().map(|metadata| metadata.uid.as_str());
        ensure!(status.id == pod.id && uid == pod.config.metadata.as_ref().map(|m| m.uid.as_str()), "{status:?}");
    }
    let started = heard[3].containers_statuses.first().context("the container's status")?;
    ensure!(started.state() != ContainerState::ContainerCreated && started.started_at > 0, "{started:?}");
    let stopped = heard[4].containers_statuses.first().context("the container's status")?;
    ensure!(stopped.state() == ContainerState::ContainerExited && stopped.exit_code == 3, "{stopped:?}");
    let ended = heard[7].pod_sandbox_status.as_ref().map(|status| status.state());
    ensure!(ended == Some(PodSandboxState::SandboxNotready), "{ended:?}");
    Ok(())
}

async fn the_end_of_a_pause_process_is_reported(scope: Arc<Scope>) -> Outcome {
    let mut events = subscribe(&scope).await?;
    let pod = scope.pod().await?;
    let info = pod.status().await?.info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("info")?)?;
    let pid = info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("pid")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    let heard = read(&mut events, &[&pod.id], ContainerEventType::ContainerStoppedEvent).await?;
    let last = heard.last().and_then(|event| event.pod_sandbox_status.as_ref()).context("status")?;
    ensure!(last.state() == PodSandboxState::SandboxNotready, "{last:?}");
    Ok(())
}

async fn a_stalled_subscriber_delays_no_call(scope: Arc<Scope>) -> Outcome {
    // Nothing reads this stream, so its flow-control window fills up.
    let _stalled = subscribe(&scope).await?;
    let mut config = scope.pod_config();
    config.annotations.insert("large".to_owned(), "x".repeat(200_000));
    let pod = scope.run(config).await?;
    let mut events = subscribe(&scope).await?;
    for number in 0..20 {
        let work = async {
            let id = pod.start(shell(&format!("c{number}"), "exit 0")).await?;
            let heard = read(&mut events, &[&id], ContainerEventType::ContainerStoppedEvent).await?;
            ensure!(heard.len() == 3, "{:?}", types(&heard));
            scope.bed.remove(&id).await
        };
        tokio::time::timeout(Duration::from_secs(10) * *SLOWNESS, work).await.context("a call waits")??;
    }
    Ok(())
}
