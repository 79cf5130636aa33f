//! Pods that publish many ports of the node. The portmap plugin calls iptables for each port, and all iptables of a node
//! wait for one lock of the kernel's, in no order: forty pods of a hundred ports kept the network of a pod of another
//! tenant, which needs a few calls, waiting for two minutes. So of such pods few are attached or detached at a time, and
//! those that wait hold nobody else's turn.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use crate::slots::{Bounds, Slots};
use crate::telemetry::{Stage, during};

/// Published ports of a pod that is an ordinary one.
const MANY: usize = 32;
/// How many pods with more are in their turn. They are shared by namespaces: alone, one has half of them.
const AT_ONCE: usize = 4;
/// How long one of them counts, should its plugin hang. A pod of 400 ports takes 15 s by itself.
const TURN: Duration = Duration::from_secs(30);

/// Those in their turn, of ADD and DEL together.
pub(super) struct ManyPorts(Slots);

impl Default for ManyPorts {
    fn default() -> Self {
        Self(Slots::new(Bounds::shared(AT_ONCE)))
    }
}

impl ManyPorts {
    /// Does the work for a pod that publishes so many ports, when it is its namespace's turn.
    pub(super) async fn run<T>(&self, ports: usize, namespace: &str, work: impl Future<Output = T>) -> T {
        if ports <= MANY {
            return work.await;
        }
        // Any number may wait, so there always is a slot in the end.
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
