//! GetContainerEvents: what happens to sandboxes and containers, each time with the current status of the whole pod.
//!
//! A subscriber first receives the status of each sandbox, and again whenever it was too slow for the events. Otherwise
//! kubelet would miss what happens between its list and its subscription: up to 1.36, it lists only every five minutes
//! while it is subscribed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::{Stream, stream};

use crate::api::v1::{ContainerEventResponse, ContainerEventType};
use crate::events::{Happening, Kind, Next, Subscription};
use crate::runtime::sandbox::pod_sandbox_status::status;
use crate::runtime::{Node, now};
use crate::sandbox::Sandbox;

/// Events from now on, until the subscriber leaves or the server stops. A subscriber that does not read delays nothing.
pub fn get_container_events(node: &Arc<Node>) -> impl Stream<Item = ContainerEventResponse> + Send + use<> {
    let mut subscriber = Subscriber {
        subscription: node.events.subscribe(),
        node: Arc::clone(node),
        told: BTreeMap::new(),
        due: VecDeque::new(),
    };
    // After the subscription: what happens from now on is sent, perhaps twice, but not lost.
    subscriber.catch_up();
    stream::unfold(subscriber, |mut subscriber| async move { Some((subscriber.next().await?, subscriber)) })
}

struct Subscriber {
    node: Arc<Node>,
    subscription: Subscription,
    /// The sandboxes that the client believes to exist.
    told: BTreeMap<Arc<str>, Arc<Sandbox>>,
    /// What has to be sent before anything new.
    due: VecDeque<Happening>,
}

impl Subscriber {
    async fn next(&mut self) -> Option<ContainerEventResponse> {
        loop {
            if let Some(happening) = self.due.pop_front() {
                return Some(self.node.event(&happening));
            }
            match self.subscription.next().await {
                Next::Happened(happening) => {
                    self.remember(&happening);
                    return Some(self.node.event(&happening));
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
        let before = std::mem::take(&mut self.told);
        self.told = listed.iter().map(|sandbox| (sandbox.id().as_str().into(), Arc::clone(sandbox))).collect();
        let gone = before.iter().filter(|(id, _)| !self.told.contains_key(*id));
        let gone = gone.map(|(_, sandbox)| Happening::of_sandbox(Kind::Deleted, sandbox));
        self.due = gone.chain(listed.iter().map(as_it_stands)).collect();
    }

    fn remember(&mut self, happening: &Happening) {
        let sandbox = &happening.sandbox;
        match happening.kind {
            Kind::Deleted if happening.is_of_sandbox() => drop(self.told.remove(&happening.id)),
            Kind::Created if happening.is_of_sandbox() => {
                self.told.insert(Arc::clone(&happening.id), Arc::clone(sandbox));
            }
            Kind::Created | Kind::Started | Kind::Stopped | Kind::Deleted => {}
        }
        // kubelet has one status per pod. An event of an old sandbox of the pod replaces or removes it.
        if let Some(newest) = self.node.newer_sandbox(sandbox) {
            self.due.push_back(as_it_stands(&newest));
        }
    }
}

fn as_it_stands(sandbox: &Arc<Sandbox>) -> Happening {
    let kind = if sandbox.state().is_ready() { Kind::Started } else { Kind::Stopped };
    Happening::of_sandbox(kind, sandbox)
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
    fn event(&self, happening: &Happening) -> ContainerEventResponse {
        let created_at = self.events.stamp(now());
        let sandbox = &happening.sandbox;
        let containers = self.store.containers_of(sandbox.id());
        ContainerEventResponse {
            container_id: happening.id.to_string(),
            container_event_type: event_type(happening.kind).into(),
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
