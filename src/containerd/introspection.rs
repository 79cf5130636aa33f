//! The Introspection and Version services: what this containerd is, and what it supports.

use std::collections::HashMap;

use containerd_client::services::v1 as pb;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::types;
use prost::Message;

use super::{Any, Containerd, Result};

/// A plugin as containerd loaded it.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Its type, such as `io.containerd.grpc.v1`.
    pub kind: String,
    /// Its id, such as `cri`.
    pub id: String,
    /// What it supports, in words defined for its type, such as a snapshotter's `remap-ids`.
    pub capabilities: Vec<String>,
    /// Values that it publishes, such as a snapshotter's `root`.
    pub exports: HashMap<String, String>,
    /// Why it was not loaded; `None` if it was.
    pub init_error: Option<String>,
}

/// Features of a runtime that pods may request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// Mounts that are read-only including all mounts below them.
    pub recursive_read_only_mounts: bool,
    /// Mounts whose ids differ from those of their source.
    pub id_mapped_mounts: bool,
    pub user_namespaces: bool,
    /// The version of runc: major, minor, patch; `None` for other runtimes.
    pub runc: Option<[u64; 3]>,
}

/// The containerd process.
#[derive(Clone, Debug)]
pub struct Server {
    /// Does not change when containerd restarts.
    pub uuid: String,
    /// Its PID in the PID namespace `pid_namespace`.
    pub pid: u64,
    /// Inode of its PID namespace.
    pub pid_namespace: u64,
    /// What containerd advises its operator to stop using.
    pub deprecations: Vec<String>,
}

impl Containerd {
    /// containerd's version, such as `v2.4.2`.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] when containerd does not respond.
    pub async fn version(&self) -> Result<String> {
        let mut client = VersionClient::new(self.unary.channel());
        let reply = client.version(self.request(())).await;
        let reply = reply.map_err(|status| self.error("version of", "containerd", &status))?;
        Ok(reply.into_inner().version)
    }

    /// All plugins that containerd was built with and that are not disabled.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] when containerd does not respond.
    pub async fn plugins(&self) -> Result<Vec<Plugin>> {
        let mut client = IntrospectionClient::new(self.unary.channel());
        let reply = client.plugins(self.request(pb::PluginsRequest::default())).await;
        let reply = reply.map_err(|status| self.error("plugins of", "containerd", &status))?;
        Ok(reply.into_inner().plugins.into_iter().map(plugin).collect())
    }

    /// Facts about the containerd process.
    ///
    /// # Errors
    /// [`super::Kind::Unavailable`] when containerd does not respond.
    pub async fn server(&self) -> Result<Server> {
        let mut client = IntrospectionClient::new(self.unary.channel());
        let reply = client.server(self.request(())).await;
        let reply = reply.map_err(|status| self.error("introspection of", "containerd", &status))?.into_inner();
        Ok(Server {
            uuid: reply.uuid,
            pid: reply.pid,
            pid_namespace: reply.pidns,
            deprecations: reply.deprecations.into_iter().map(|warning| warning.message).collect(),
        })
    }

    /// The features that a runtime reports: to find them, containerd executes the shim with `-info`.
    ///
    /// # Errors
    /// [`super::Kind::NotFound`] when the shim's binary does not exist.
    pub async fn runtime_features(&self, runtime: &str, options: Any) -> Result<RuntimeFeatures> {
        let mut client = IntrospectionClient::new(self.unary.channel());
        let wanted = types::RuntimeRequest { runtime_path: runtime.to_owned(), options: Some(options.into()) };
        let request = pb::PluginInfoRequest {
            r#type: "io.containerd.runtime.v2".to_owned(),
            id: "task".to_owned(),
            options: Some(containerd_client::to_any(&wanted)),
        };
        let reply = client.plugin_info(self.request(request)).await;
        let reply = reply.map_err(|status| self.error("features of runtime", runtime, &status))?.into_inner();
        let info = reply.extra.and_then(|any| types::RuntimeInfo::decode(any.value.as_slice()).ok());
        let features = info.and_then(|info| info.features).map(|any| any.value).unwrap_or_default();
        Ok(RuntimeFeatures::parse(&features))
    }
}

impl RuntimeFeatures {
    /// Parses an OCI features document (runtime-spec, features.md); one that cannot be parsed has no features.
    fn parse(document: &[u8]) -> Self {
        let document: serde_json::Value = serde_json::from_slice(document).unwrap_or_default();
        let mount_options = document["mountOptions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let id_mapped = document["linux"]["mountExtensions"]["idmap"]["enabled"].as_bool().unwrap_or(false);
        let namespaces = document["linux"]["namespaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        let runc = document["annotations"]["org.opencontainers.runc.version"].as_str();
        Self {
            recursive_read_only_mounts: mount_options.iter().any(|option| option == "rro"),
            id_mapped_mounts: id_mapped,
            user_namespaces: namespaces.iter().any(|namespace| namespace == "user"),
            runc: runc.and_then(version),
        }
    }
}

/// The three numbers of a version such as `1.5.3` or `1.5.0-rc.1+dev`.
fn version(text: &str) -> Option<[u64; 3]> {
    let numbers = text.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

fn plugin(plugin: pb::Plugin) -> Plugin {
    Plugin {
        kind: plugin.r#type,
        id: plugin.id,
        capabilities: plugin.capabilities,
        exports: plugin.exports,
        init_error: plugin.init_err.map(|status| status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_can_what_it_says_and_no_more() {
        let all = br#"{"mountOptions":["ro","rro"],"linux":{"namespaces":["mount","user"],"mountExtensions":{"idmap":{"enabled":true}}},
            "annotations":{"org.opencontainers.runc.version":"1.5.3"}}"#;
        let can = RuntimeFeatures {
            recursive_read_only_mounts: true,
            id_mapped_mounts: true,
            user_namespaces: true,
            runc: Some([1, 5, 3]),
        };
        assert_eq!(RuntimeFeatures::parse(all), can);
        let user_only = br#"{"linux":{"namespaces":["user"],"mountExtensions":{"idmap":{"enabled":false}}}}"#;
        assert_eq!(RuntimeFeatures::parse(user_only), RuntimeFeatures { user_namespaces: true, ..Default::default() });
        assert_eq!(RuntimeFeatures::parse(b"not JSON"), RuntimeFeatures::default());
    }

    #[test]
    fn a_version_is_its_three_numbers() {
        let read = ["1.5.3", "1.5.0-rc.1+dev", "1.10.0+dev", "1.5", "main", ""].map(version);
        assert_eq!(read, [Some([1, 5, 3]), Some([1, 5, 0]), Some([1, 10, 0]), None, None, None]);
    }
}
