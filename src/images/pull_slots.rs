//! Slots for pulls: only so many pulls run at a time, and a namespace may start another one only while it has fewer
//! than are free. A tenant may choose a slow registry, whose pulls may last as long as they make a little progress.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::reference::Reference;
use crate::api::v1::PodSandboxConfig;
use crate::slots::{Slot, Slots};

/// The owner that a pull counts for: the namespace of its pod, or without a pod its registry.
pub(super) fn owner(pod: Option<&PodSandboxConfig>, reference: &Reference) -> String {
    let namespace = pod.and_then(|pod| pod.metadata.as_ref()).map(|metadata| metadata.namespace.as_str());
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("namespace {namespace}"),
        Some(_) | None => format!("registry {}", reference.host()),
    }
}

/// Waits for a slot in the queues of all owners that requested the pull: a caller that joined a pull must not wait
/// behind the other pulls of the caller that started it.
pub(super) async fn wait_for_slot(slots: &Slots, mut owners: watch::Receiver<Vec<String>>) -> Slot {
    let (mut waiting, mut queued) = (FuturesUnordered::new(), 0);
    loop {
        let new = owners.borrow_and_update()[queued..].to_vec();
        queued += new.len();
        waiting.extend(new.into_iter().map(|owner| async move { slots.take(&owner, "").await }));
        tokio::select! {
            Some(slot) = waiting.next() => return slot.expect("any number may wait"),
            // The flight owns the sender, and this future is a part of the flight.
            Ok(()) = owners.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::api::v1::PodSandboxMetadata;
    use crate::slots::Bounds;

    fn owned_by(name: &str) -> watch::Sender<Vec<String>> {
        watch::Sender::new(vec![name.to_owned()])
    }

    #[test]
    fn a_pull_is_of_its_pods_namespace_else_of_its_registry() {
        let reference = Reference::parse("registry.example/a:1").unwrap();
        let pod = |namespace: &str| PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { namespace: namespace.to_owned(), ..PodSandboxMetadata::default() }),
            ..PodSandboxConfig::default()
        };
        assert_eq!(owner(Some(&pod("shop")), &reference), "namespace shop");
        for without in [None, Some(&pod("")), Some(&PodSandboxConfig::default())] {
            assert_eq!(owner(without, &reference), "registry registry.example");
        }
    }

    #[tokio::test]
    async fn t6_slow_pulls_of_one_namespace_leave_places_to_another() {
        let slots = Slots::new(Bounds::shared(64));
        let (one, other) = (owned_by("one"), owned_by("other"));
        let slow: Vec<Slot> = std::iter::from_fn(|| wait_for_slot(&slots, one.subscribe()).now_or_never()).collect();
        assert_eq!(slow.len(), 32);
        assert!(wait_for_slot(&slots, other.subscribe()).now_or_never().is_some());
    }

    #[tokio::test]
    async fn t6_a_caller_that_joins_a_waiting_pull_does_not_wait_behind_other_pulls_of_its_owner() {
        let slots = Slots::new(Bounds::shared(4));
        let slow = owned_by("slow");
        let held = [wait_for_slot(&slots, slow.subscribe()).await, wait_for_slot(&slots, slow.subscribe()).await];
        let popular = owned_by("slow");
        let mut pull = Box::pin(wait_for_slot(&slots, popular.subscribe()));
        assert!(pull.as_mut().now_or_never().is_none());
        popular.send_modify(|owners| owners.push("victim".to_owned()));
        let had = pull.as_mut().now_or_never().expect("it is the victim's turn");
        drop(pull);
        drop((held, had));
        assert_eq!(slots.free(), 4);
    }
}
