//! GetContainerEvents: every subscriber receives every event in order, and a slow subscriber delays nothing.

use std::time::Duration;

use pontoon::api::v1::*;
use tokio::task::JoinSet;
use tonic::Streaming;

use crate::support::server::Node;
use crate::support::{PATIENCE, requests};

use ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
    ContainerStoppedEvent as Stopped,
};

type Events = Streaming<ContainerEventResponse>;

async fn subscribe(node: &Node) -> Events {
    node.cri().get_container_events(GetEventsRequest {}).await.unwrap().into_inner()
}

async fn next(events: &mut Events) -> ContainerEventResponse {
    let event = tokio::time::timeout(PATIENCE, events.message()).await.expect("an event").unwrap().expect("no end");
    let pod = event.pod_sandbox_status.as_ref().expect("kubelet drops an event without it");
    assert!(pod.metadata.is_some() && !pod.id.is_empty(), "{event:?}");
    event
}

/// Reads events up to the first for which `is_last` is true. Their times must increase.
async fn read(
    events: &mut Events,
    mut is_last: impl FnMut(&ContainerEventResponse) -> bool,
) -> Vec<ContainerEventResponse> {
    let mut all: Vec<ContainerEventResponse> = Vec::new();
    loop {
        let event = next(events).await;
        assert!(all.last().is_none_or(|last| last.created_at < event.created_at), "{event:?} after {:?}", all.last());
        let done = is_last(&event);
        all.push(event);
        if done {
            return all;
        }
    }
}

fn is(event: &ContainerEventResponse, id: &str, kind: ContainerEventType) -> bool {
    event.container_id == id && event.container_event_type() == kind
}

fn names(events: &[ContainerEventResponse]) -> Vec<(&str, ContainerEventType)> {
    events.iter().map(|event| (event.container_id.as_str(), event.container_event_type())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_gets_the_events_of_a_pod_in_order() {
    let node = Node::start().await;
    let mut subscribers = [subscribe(&node).await, subscribe(&node).await];
    let mut heard = [Vec::new(), Vec::new()];
    // An event has the pod's status at the time when it is sent. So the next call is made when all have the events of the
    // one before.
    let mut hear = async |id: &str, kind: ContainerEventType| {
        for (events, heard) in subscribers.iter_mut().zip(&mut heard) {
            heard.extend(read(events, |event| is(event, id, kind)).await);
        }
    };
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    hear(&sandbox, Started).await;
    let container = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    hear(&container, Created).await;
    node.start_container(&container).await;
    hear(&container, Started).await;
    node.containerd.end(&container, 3);
    hear(&container, Stopped).await;
    let remove = RemoveContainerRequest { container_id: container.clone() };
    node.cri().remove_container(remove).await.unwrap();
    hear(&container, Deleted).await;
    node.remove(&sandbox).await;
    hear(&sandbox, Deleted).await;
    for events in heard {
        assert!(events.is_sorted_by(|one, next| one.created_at < next.created_at), "{:?}", names(&events));
        let (pod, main) = (sandbox.as_str(), container.as_str());
        let expected = [
            (pod, Created),
            (pod, Started),
            (main, Created),
            (main, Started),
            (main, Stopped),
            (main, Deleted),
            (pod, Stopped),
            (pod, Deleted),
        ];
        assert_eq!(names(&events), expected);
        let of_pod = |event: &ContainerEventResponse| event.pod_sandbox_status.as_ref().unwrap().clone();
        let states: Vec<_> = events.iter().map(|event| of_pod(event).state()).collect();
        let (ready, not_ready) = (PodSandboxState::SandboxReady, PodSandboxState::SandboxNotready);
        assert_eq!(states, [ready, ready, ready, ready, ready, ready, not_ready, not_ready]);
        assert!(events.iter().all(|event| of_pod(event).id == sandbox));
        let statuses: Vec<_> = events.iter().map(|event| event.containers_statuses.clone()).collect();
        assert!([0, 1, 5, 6, 7].iter().all(|at| statuses[*at].is_empty()), "{statuses:?}");
        let states: Vec<_> = statuses[2..5].iter().map(|all| all[0].state()).collect();
        assert_eq!(
            states,
            [ContainerState::ContainerCreated, ContainerState::ContainerRunning, ContainerState::ContainerExited]
        );
        assert_eq!((statuses[4][0].exit_code, statuses[4][0].reason.as_str()), (3, "Error"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_pod_statuses_are_of_one_clock() {
    let node = Node::start().await;
    let mut events = subscribe(&node).await;
    let (sandbox, container) = node.run_with_container("web", &["fake"]).await;
    let started = read(&mut events, |event| is(event, &container, Started)).await;
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let status = node.cri().pod_sandbox_status(request).await.unwrap().into_inner();
    node.containerd.end(&sandbox, 137);
    let ended = read(&mut events, |event| is(event, &sandbox, Stopped)).await;
    assert!(started.last().unwrap().created_at < status.timestamp && status.timestamp < ended[0].created_at);
    assert_eq!(started.last().unwrap().pod_sandbox_status, status.status);
    assert_eq!(started.last().unwrap().containers_statuses, status.containers_statuses);
    let pod = ended.last().unwrap().pod_sandbox_status.as_ref().unwrap();
    assert_eq!(pod.state(), PodSandboxState::SandboxNotready, "its pause process ended by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscriber_first_gets_the_state_of_each_sandbox() {
    let node = Node::start().await;
    let (old, _) = node.run_with_container("old", &["fake"]).await;
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: old.clone() }).await.unwrap();
    let (new, container) = node.run_with_container("new", &["fake"]).await;
    let mut events = subscribe(&node).await;
    let events = [next(&mut events).await, next(&mut events).await];
    assert_eq!(names(&events), [(old.as_str(), Stopped), (new.as_str(), Started)]);
    assert_eq!(events[1].containers_statuses[0].id, container);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_pods_old_sandbox_is_followed_by_the_state_of_the_new_one() {
    let node = Node::start().await;
    let mut request = node.pod("web");
    let old = node.run(&request).await;
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: old.clone() }).await.unwrap();
    request.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt = 1;
    let new = node.run(&request).await;
    let mut events = subscribe(&node).await;
    read(&mut events, |event| is(event, &new, Started)).await;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: old.clone() };
    node.cri().remove_pod_sandbox(remove).await.unwrap();
    let events = read(&mut events, |event| is(event, &new, Started)).await;
    assert_eq!(names(&events), [(old.as_str(), Deleted), (new.as_str(), Started)]);
}

/// Causes more events than a subscriber's buffer holds, with containers that are created, started and removed.
async fn storm(node: &Node, sandbox: &str, pod: &RunPodSandboxRequest) {
    const WORKERS: usize = 8;
    const EACH: usize = 36;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (mut cri, sandbox, pod) = (node.cri(), sandbox.to_owned(), pod.clone());
        workers.spawn(async move {
            for number in 0..EACH {
                let name = format!("c{worker}-{number}");
                let request = requests::container(&sandbox, &pod, &name, &["fake", "exit=0"]);
                let container_id = cri.create_container(request).await.unwrap().into_inner().container_id;
                cri.start_container(StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
                cri.remove_container(RemoveContainerRequest { container_id }).await.unwrap();
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_delays_no_call_and_catches_up() {
    let node = Node::start().await;
    // The events are too large for the socket's buffers, so the server has to buffer what the client does not read.
    let mut pod = node.pod("stays");
    pod.config.as_mut().unwrap().annotations.insert("large".to_owned(), "x".repeat(40_000));
    let stays = node.run(&pod).await;
    let goes = node.run(&node.pod("goes")).await;
    let (mut stalled, mut reader) = (subscribe(&node).await, subscribe(&node).await);
    next(&mut stalled).await;
    let end = goes.clone();
    let reading = tokio::spawn(async move { read(&mut reader, |event| is(event, &end, Deleted)).await });
    storm(&node, &stays, &pod).await;
    node.remove(&goes).await;

    // The other subscriber has received everything: four events per container.
    let heard = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    assert!(heard.len() > 1024, "{}", heard.len());

    // The stalled subscriber receives the removal of a pod, although that event was dropped, and then the state of the
    // pod that exists.
    let mut gone = false;
    let caught_up = read(&mut stalled, |event| {
        gone |= is(event, &goes, Deleted);
        gone && is(event, &stays, Started)
    });
    let caught_up = caught_up.await;
    assert!(caught_up.len() < heard.len() / 2, "{} of {} events were kept for him", caught_up.len(), heard.len());
    assert!(caught_up.last().unwrap().containers_statuses.is_empty());

    // It then receives new events as usual.
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: stays.clone() }).await.unwrap();
    read(&mut stalled, |event| is(event, &stays, Stopped)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_lets_its_subscribers_go() {
    let mut node = Node::start().await;
    let mut events = subscribe(&node).await;
    let stopped = node.terminate();
    assert_eq!(tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap(), None);
    tokio::time::timeout(PATIENCE, stopped).await.expect("it stops");
}

/// The streamed list has the same content as the unary one, with the same filter.
#[tokio::test(flavor = "multi_thread")]
async fn streamed_lists_are_the_lists() {
    let node = Node::start().await;
    let mut cri = node.cri();
    let empty = cri.stream_containers(StreamContainersRequest::default()).await.unwrap().into_inner();
    assert!(all(empty).await.is_empty(), "an empty list has no message");
    let (one, _) = node.run_with_container("one", &["fake"]).await;
    node.run_with_container("two", &["fake"]).await;

    for pod_sandbox_id in [String::new(), one.clone()] {
        let filter = Some(ContainerFilter { pod_sandbox_id, ..ContainerFilter::default() });
        let list = cri.list_containers(ListContainersRequest { filter: filter.clone() }).await.unwrap().into_inner();
        let stream = cri.stream_containers(StreamContainersRequest { filter }).await.unwrap().into_inner();
        let streamed: Vec<_> = all(stream).await.iter().flat_map(|reply| reply.decoded().unwrap()).collect();
        assert_eq!(streamed, list.decoded().unwrap());
    }
    for id in [String::new(), one.clone()] {
        let filter = Some(PodSandboxFilter { id, ..PodSandboxFilter::default() });
        let list = cri.list_pod_sandbox(ListPodSandboxRequest { filter: filter.clone() }).await.unwrap().into_inner();
        let stream = cri.stream_pod_sandboxes(StreamPodSandboxesRequest { filter }).await.unwrap().into_inner();
        let streamed: Vec<_> = all(stream).await.iter().flat_map(|reply| reply.decoded().unwrap()).collect();
        assert_eq!(streamed, list.decoded().unwrap());
    }
    let mut images = node.images();
    let list = images.list_images(ListImagesRequest::default()).await.unwrap().into_inner().images;
    let stream = images.stream_images(StreamImagesRequest::default()).await.unwrap().into_inner();
    let streamed: Vec<_> = all(stream).await.into_iter().flat_map(|reply| reply.images).collect();
    assert!(!list.is_empty() && streamed == list, "{streamed:?}");
}

async fn all<T>(mut stream: Streaming<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        all.push(message);
    }
    all
}
