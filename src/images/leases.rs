//! Leases of this module: a pull, an unpacking, or an access to an image's root holds what it creates by a lease.

use super::Images;
use crate::containerd;
use crate::ids::ExecId;

const OURS: &str = "pontoon-";

/// A new name for a lease, and for the snapshot under it.
pub(super) fn name(purpose: &str) -> String {
    format!("{OURS}{purpose}-{}", ExecId::random())
}

impl Images {
    /// Ends the leases that a daemon left when it was killed, and has containerd collect what they held: until they
    /// expire, they would keep images from being removed. To be called at start, before this process has any leases.
    ///
    /// # Errors
    /// When the leases cannot be listed. A lease that cannot be ended expires later.
    pub async fn end_old_leases(&self) -> containerd::Result<()> {
        let all = self.inner.containerd.list_leases().await?;
        let old: Vec<String> = all.into_iter().filter(|id| id.starts_with(OURS)).collect();
        let images = self.clone();
        self.inner.tasks.background(async move {
            for (at, id) in old.iter().enumerate() {
                // Only the last deletion waits for a garbage collection, which covers all leases.
                let last = at + 1 == old.len();
                match images.inner.containerd.delete_lease(id, last).await {
                    Ok(()) => tracing::info!(lease = id, "deleted the lease of an earlier process"),
                    Err(error) => {
                        tracing::warn!(lease = id, %error, "cannot delete a lease; it stays until it expires")
                    }
                }
            }
        });
        Ok(())
    }
}
