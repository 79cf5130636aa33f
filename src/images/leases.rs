//! Leases of this room's own: what a look into an image or an unpacking makes is held by one while it lasts.

use super::Images;
use crate::containerd;
use crate::ids::ExecId;

const OURS: &str = "pontoon-";

/// A new name, for a lease and for the snapshot under it.
pub(super) fn name(purpose: &str) -> String {
    format!("{OURS}{purpose}-{}", ExecId::random())
}

impl Images {
    /// Ends what a process that was killed over its work has left, and has containerd collect what was under it: until
    /// their own end they would keep images from being removed. To be called at start, before this process has any.
    ///
    /// # Errors
    /// When they cannot be listed; what cannot be ended ends by itself later.
    pub async fn end_old_leases(&self) -> containerd::Result<()> {
        let all = self.inner.containerd.list_leases().await?;
        let old: Vec<String> = all.into_iter().filter(|id| id.starts_with(OURS)).collect();
        let images = self.clone();
        self.inner.tasks.background(async move {
            for (at, id) in old.iter().enumerate() {
                // One collection for all of them.
                let last = at + 1 == old.len();
                match images.inner.containerd.delete_lease(id, last).await {
                    Ok(()) => tracing::info!(lease = id, "ended the lease of a process before this one"),
                    Err(error) => tracing::warn!(lease = id, %error, "a lease stays until it ends"),
                }
            }
        });
        Ok(())
    }
}
