//! GetContainerEvents: what happens to sandboxes and containers, each time with the current status of the whole pod.
//!
//! A subscriber first receives the status of each sandbox, and again whenever it was too slow for the events. Otherwise
//! kubelet would miss what happens between its list and its subscription: up to 1.36, it lists only every five minutes
//! while it is subscribed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::{Stream, stream};

use crate::api::v1::{ContainerEventResponse, ContainerEventType};
use crate::events::{Kind, Next, ObjectEvent, Subscription};
use crate::runtime::sandbox::pod_sandbox_status::status;
use crate::runtime::{Node, now};
use crate::sandbox::Sandbox;

/// Events from now on, until the subscriber leaves or the server stops. A subscriber that does not read delays nothing.
pub fn get_container_events(node: &Arc<Node>) -> impl Stream<Item = ContainerEventResponse> + Send + use<> {
    let mut subscriber = Subscriber {
        subscription: node.events.subscribe(),
        node: Arc::clone(node),
        known: BTreeMap::new(),
        queue: VecDeque::new(),
    };
    // After the subscription: what happens from now on is sent, perhaps twice, but not lost.
    subscriber.catch_up();
    stream::unfold(subscriber, |mut subscriber| async move { Some((subscriber.next().await?, subscriber)) })
}

struct Subscriber {
    node: Arc<Node>,
    subscription: Subscription,
    /// The sandboxes that the client believes to exist.
    known: BTreeMap<Arc<str>, Arc<Sandbox>>,
    /// What has to be sent before anything new.
    queue: VecDeque<ObjectEvent>,
}

impl Subscriber {
    async fn next(&mut self) -> Option<ContainerEventResponse> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(self.node.event(&event));
            }
            match self.subscription.next().await {
                Next::Event(event) => {
                    self.track(&event);
                    return Some(self.node.event(&event));
                }
                Next::Missed => self.catch_up(),
                Next::Closed => return None,
            }
        }
    }

    /// Queues the deletions of sandboxes that are gone, then the current state of all others, oldest first.
    fn catch_up(&mut self) {
        let mut listed = self.node.store.sandboxes.all();
        listed.sort_by_key(|sandbox| sandbox.record.created_at);
        let before = std::mem::take(&mut self.known);
        self.known = listed.iter().map(|sandbox| (sandbox.id().as_str().into(), Arc::clone(sandbox))).collect();
        let gone = before.iter().filter(|(id, _)| !self.known.contains_key(*id));
        let gone = gone.map(|(_, sandbox)| ObjectEvent::of_sandbox(Kind::Deleted, sandbox));
        self.queue = gone.chain(listed.iter().map(current_state)).collect();
    }

    fn track(&mut self, event: &ObjectEvent) {
        let sandbox = &event.sandbox;
        match event.kind {
            Kind::Deleted if event.is_of_sandbox() => drop(self.known.remove(&event.id)),
            Kind::Created if event.is_of_sandbox() => {
                self.known.insert(Arc::clone(&event.id), Arc::clone(sandbox));
            }
            Kind::Created | Kind::Started | Kind::Stopped | Kind::Deleted => {}
        }
        // kubelet has one status per pod. An event of an old sandbox of the pod replaces or removes it.
        if let Some(newest) = self.node.newer_sandbox(sandbox) {
            self.queue.push_back(current_state(&newest));
        }
    }
}

fn current_state(sandbox: &Arc<Sandbox>) -> ObjectEvent {
    let kind = if sandbox.state().is_ready() { Kind::Started } else { Kind::Stopped };
    ObjectEvent::of_sandbox(kind, sandbox)
}

fn pod_uid(sandbox: &Sandbox) -> Option<&str> {
    sandbox.record.config.metadata.as_ref().map(|metadata| metadata.uid.as_str())
}

fn event_type(kind: Kind) -> ContainerEventType {
    match kind {
        Kind::Created => ContainerEventType::ContainerCreatedEvent,
        Kind::Started => ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => ContainerEventType::ContainerDeletedEvent,
    }
}

impl Node {
    /// An event with the current status of the pod. The time is taken first: kubelet orders events by it.
    fn event(&self, event: &ObjectEvent) -> ContainerEventResponse {
        let created_at = self.events.stamp(now());
        let sandbox = &event.sandbox;
        let containers = self.store.containers_of(sandbox.id());
        ContainerEventResponse {
            container_id: event.id.to_string(),
            container_event_type: event_type(event.kind).into(),
            created_at,
            pod_sandbox_status: Some(status(sandbox)),
            containers_statuses: containers.iter().map(|container| self.status_of(container)).collect(),
        }
    }

    /// The newest sandbox of the same pod in the store, if it is newer than `old`.
    fn newer_sandbox(&self, old: &Sandbox) -> Option<Arc<Sandbox>> {
        let pod = pod_uid(old).filter(|uid| !uid.is_empty())?;
        let snapshot = self.store.sandboxes.snapshot();
        let newer = snapshot.objects().filter(|other| other.record.created_at > old.record.created_at);
        let of_pod = newer.filter(|other| pod_uid(other) == Some(pod));
        of_pod.max_by_key(|other| other.record.created_at).cloned()
    }
}
