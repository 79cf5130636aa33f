//! Limits pods that publish many host ports. The portmap plugin calls iptables for each port, and all iptables
//! processes of a node wait for one kernel lock, in no order. Forty pods with a hundred ports each made the network
//! setup of another tenant's pod, which needs only a few calls, wait for two minutes. Therefore only a few such pods
//! are attached or detached at a time, and those that wait hold no slot that other pods need.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use crate::slots::{Bounds, Slots};
use crate::telemetry::{Stage, during};

/// Most published ports of an ordinary pod.
const MANY: usize = 16;
/// How many pods with more ports are attached or detached at a time. Namespaces share these slots: one namespace alone
/// gets half of them.
const AT_ONCE: usize = 4;
/// How long such a pod holds its slot if its plugin hangs. A pod with 400 ports takes 15 s by itself.
const TURN: Duration = Duration::from_secs(30);

/// The slots, for ADD and DEL together.
pub(super) struct ManyPorts(Slots);

impl Default for ManyPorts {
    fn default() -> Self {
        Self(Slots::new(Bounds::shared(AT_ONCE)))
    }
}

impl ManyPorts {
    /// Runs `work` for a pod that publishes `ports` ports, waiting for a slot of its namespace if there are many.
    pub(super) async fn run<T>(&self, ports: usize, namespace: &str, work: impl Future<Output = T>) -> T {
        if ports <= MANY {
            return work.await;
        }
        // The queue is unbounded, so taking a slot waits but never fails.
        let slot = during(Stage::Queue, self.0.take(namespace, "")).await;
        tokio::pin!(work);
        if let Ok(done) = timeout(TURN, &mut work).await {
            return done;
        }
        drop(slot);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn t7_few_pods_of_many_ports_run_at_once_and_all_others_do() {
        let many = ManyPorts::default();
        let mut slow = [Box::pin(many.run(400, "slow", pending::<()>())), Box::pin(many.run(400, "slow", pending()))];
        for run in &mut slow {
            assert!(run.as_mut().now_or_never().is_none());
        }
        assert!(many.run(400, "slow", ready(())).now_or_never().is_none(), "it waits");
        assert!(many.run(MANY, "slow", ready(())).now_or_never().is_some(), "an ordinary one does not");
        assert!(many.run(400, "other", ready(())).now_or_never().is_some(), "nor does another namespace");
        let start = tokio::time::Instant::now();
        tokio::select! {
            () = many.run(400, "slow", ready(())) => assert_eq!(start.elapsed(), TURN),
            _ = futures_util::future::join_all(slow) => unreachable!("they hang"),
        }
    }
}
