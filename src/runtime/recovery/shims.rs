//! Shims of our sandboxes that containerd has forgotten: after it was killed during Tasks.Create or Tasks.Delete, it
//! does not always find every shim again.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::joined::run_blocking;
use crate::log_keys::with_keys;
use crate::runtime::Node;
use crate::sandbox::{Sandbox, State};

impl Node {
    /// Ends forgotten shims each time containerd comes back.
    pub fn follow_outages(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.background(async move {
            let mut health = node.availability.watch();
            // Runs until the daemon stops.
            while health.wait_for(|up| !*up).await.is_ok() && health.wait_for(|up| *up).await.is_ok() {
                node.end_forgotten_shims();
            }
        });
    }

    /// Ends every shim of a sandbox of ours for which containerd has no task. This is done in the background, since
    /// some may be about to end by themselves. Shims of other clients are left alone: they serve no sandbox in our
    /// records.
    pub(crate) fn end_forgotten_shims(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.background(async move {
            let containerd = node.containerd.clone();
            for id in run_blocking(move || containerd.shims()).await {
                let Some(sandbox) = node.store.sandboxes.get(&id) else { continue };
                let work = async {
                    if let Err(error) = node.end_shim_without_task(&sandbox).await {
                        tracing::warn!(%error, "a forgotten shim stays until the sandbox is stopped");
                    }
                };
                with_keys(sandbox.log_keys().clone(), work).await;
            }
        });
    }

    async fn end_shim_without_task(&self, sandbox: &Sandbox) -> crate::containerd::Result<()> {
        // The operation that creates or stops a sandbox takes care of its shim.
        if !matches!(sandbox.state(), State::Broken | State::Stopped) {
            return Ok(());
        }
        let mut tasks: Vec<_> = self.store.containers_of(sandbox.id()).iter().map(|one| one.task()).collect();
        tasks.push(sandbox.pause());
        if tasks.iter().any(|task| task.may_live_on()) {
            return Ok(());
        }
        join_all(tasks.iter().map(async |task| task.gone().await)).await;
        match self.containerd.get_task(sandbox.id().as_str(), "").await {
            Err(error) if error.is_not_found() => self.containerd.end_forgotten_shim(sandbox.id().as_str()).await,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
