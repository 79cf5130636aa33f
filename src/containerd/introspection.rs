//! The Introspection and Version services: what this containerd is and can do.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;

use super::{Any, Containerd, Error, Result};

/// A plugin as containerd loaded it.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Its type, such as `io.containerd.grpc.v1`.
    pub kind: String,
    /// Its id, such as `cri`.
    pub id: String,
    /// What it tells of itself, such as a snapshotter's `root`.
    pub exports: HashMap<String, String>,
    /// Why it did not load; `None` when it did.
    pub init_error: Option<String>,
}

/// The containerd process.
#[derive(Clone, Debug)]
pub struct Server {
    /// Stays the same over restarts.
    pub uuid: String,
    /// Its PID in the PID namespace `pid_namespace`.
    pub pid: u64,
    /// Inode of its PID namespace.
    pub pid_namespace: u64,
    /// What its operator is told to stop using.
    pub deprecations: Vec<String>,
}

impl Containerd {
    /// containerd's version, such as `v2.4.2`.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] when nobody answers.
    pub async fn version(&self) -> Result<String> {
        let mut client = VersionClient::new(self.unary.clone());
        let reply = client.version(self.request(())).await;
        let reply = reply.map_err(|status| Error::status("version of", "containerd", &status))?;
        Ok(reply.into_inner().version)
    }

    /// All plugins that containerd was built with and did not disable.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] when nobody answers.
    pub async fn plugins(&self) -> Result<Vec<Plugin>> {
        let mut client = IntrospectionClient::new(self.unary.clone());
        let reply = client.plugins(self.request(pb::PluginsRequest::default())).await;
        let reply = reply.map_err(|status| Error::status("plugins of", "containerd", &status))?;
        Ok(reply.into_inner().plugins.into_iter().map(plugin).collect())
    }

    /// The containerd process itself.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] when nobody answers.
    pub async fn server(&self) -> Result<Server> {
        let mut client = IntrospectionClient::new(self.unary.clone());
        let reply = client.server(self.request(())).await;
        let reply = reply.map_err(|status| Error::status("introspection of", "containerd", &status))?.into_inner();
        Ok(Server {
            uuid: reply.uuid,
            pid: reply.pid,
            pid_namespace: reply.pidns,
            deprecations: reply.deprecations.into_iter().map(|warning| warning.message).collect(),
        })
    }

    /// What a runtime says of itself: the raw answer of the shim to `-info`, whose features are OCI's.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the shim's binary is not there.
    pub async fn runtime_info(&self, options: Option<Any>) -> Result<Option<Any>> {
        let mut client = IntrospectionClient::new(self.unary.clone());
        let request = pb::PluginInfoRequest {
            r#type: "io.containerd.runtime.v2".to_owned(),
            id: "task".to_owned(),
            options: options.map(Into::into),
        };
        let reply = client.plugin_info(self.request(request)).await;
        let reply = reply.map_err(|status| Error::status("info of", "the runtime", &status))?;
        Ok(reply.into_inner().extra.map(Any::from))
    }
}

fn plugin(plugin: pb::Plugin) -> Plugin {
    Plugin {
        kind: plugin.r#type,
        id: plugin.id,
        exports: plugin.exports,
        init_error: plugin.init_err.map(|status| status.message),
    }
}
