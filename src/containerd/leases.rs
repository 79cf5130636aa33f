//! The Leases service: what is created under a lease is safe from containerd's garbage collector until the lease
//! expires, so interrupted work leaks nothing.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::leases_client::LeasesClient;

use super::error::removal;
use super::{Containerd, Error, Kind, Result};

impl Containerd {
    /// Creates a lease that expires at `expires` (RFC 3339), and returns a client whose calls are under it.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] when a lease with this id exists.
    pub async fn leased(&self, id: &str, expires: &str) -> Result<Self> {
        let lease =
            id.parse().map_err(|_| Error::new("create lease", id, Kind::InvalidArgument, "the id is not ASCII"))?;
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expires.to_owned())]);
        let request = pb::CreateRequest { id: id.to_owned(), labels };
        let reply = LeasesClient::new(self.unary.channel()).create(self.request(request)).await;
        reply.map_err(|status| self.error("create lease", id, &status))?;
        Ok(Self { lease: Some(lease), ..self.clone() })
    }

    /// The ids of all leases of the namespace.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] while containerd does not respond.
    pub async fn list_leases(&self) -> Result<Vec<String>> {
        let reply = LeasesClient::new(self.unary.channel()).list(self.request(pb::ListRequest::default())).await;
        let reply = reply.map_err(|status| self.error("list leases of", self.namespace(), &status))?;
        Ok(reply.into_inner().leases.into_iter().map(|lease| lease.id).collect())
    }

    /// Ends a lease. Succeeds if it does not exist. With `synchronous`, waits for the garbage collection that frees
    /// what only this lease held.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] while containerd does not respond.
    pub async fn delete_lease(&self, id: &str, synchronous: bool) -> Result<()> {
        removal(|| async {
            let request = pb::DeleteRequest { id: id.to_owned(), sync: synchronous };
            let reply = LeasesClient::new(self.unary.channel()).delete(self.request(request)).await;
            reply.map(drop).map_err(|status| self.error("delete lease", id, &status))
        })
        .await
    }
}
