//! The plugins of a network, operation by operation, like libcni's AddNetworkList and the related functions.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::config::{NetworkConfig, PluginConfig, Version};
use super::error::Error;
use super::exec::{Call, Operation, Plugins, path_value, truncated_text};
use crate::telemetry::{Metrics, Stage, detailed};

/// Since this version, DEL gets the result and CHECK exists.
const WITH_CHECK: Version = Version(0, 4, 0);
/// GC and STATUS exist since this version.
const WITH_STATUS: Version = Version(1, 1, 0);

/// The parameters of one attachment of a container to a network (libcni's RuntimeConf).
#[derive(Clone, Debug)]
pub(super) struct RuntimeConf {
    pub id: String,
    /// `None` when the network namespace is gone.
    pub netns: Option<PathBuf>,
    /// The interface in the container.
    pub interface: String,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// All capability arguments; each plugin gets those that its config asks for.
    pub capabilities: Map<String, Value>,
}

/// A network and where its plugins are.
pub(super) struct Chain<'a> {
    pub plugins: &'a Plugins,
    pub network: &'a NetworkConfig,
    /// For all plugins together.
    pub deadline: Instant,
    pub metrics: &'a Metrics,
}

impl Chain<'_> {
    /// Runs ADD, each plugin with the result of the previous one. Returns the result of the last plugin.
    pub(super) async fn add(&self, runtime: &RuntimeConf) -> Result<Value, Error> {
        let mut result = None;
        for plugin in &self.network.plugins {
            let config = self.config(plugin, result.as_ref(), runtime);
            let output = self.run(plugin, Operation::Add, config, Some(runtime)).await?;
            result = Some(self.parse(plugin, &output)?);
        }
        // A loaded network has at least one plugin.
        result.ok_or_else(|| Error::InvalidResult("the network has no plugins".to_owned()))
    }

    /// Runs DEL, the last plugin first. Stops at the first error, as libcni does: the plugins before it in the chain
    /// must not release what a later one still uses.
    pub(super) async fn del(&self, runtime: &RuntimeConf, result: Option<&Value>) -> Result<(), Error> {
        let result = result.filter(|_| self.network.version >= WITH_CHECK);
        for plugin in self.network.plugins.iter().rev() {
            let config = self.config(plugin, result, runtime);
            self.run(plugin, Operation::Del, config, Some(runtime)).await?;
        }
        Ok(())
    }

    /// Runs CHECK, if the spec version has it and the config does not disable it.
    pub(super) async fn check(&self, runtime: &RuntimeConf, result: &Value) -> Result<(), Error> {
        if self.network.version < WITH_CHECK || self.network.disable_check {
            return Ok(());
        }
        for plugin in &self.network.plugins {
            let config = self.config(plugin, Some(result), runtime);
            self.run(plugin, Operation::Check, config, Some(runtime)).await?;
        }
        Ok(())
    }

    /// Runs GC for all but the valid attachments, which are pairs of container id and interface. One plugin's failure
    /// does not stop the others.
    pub(super) async fn gc(&self, valid: &[(&str, &str)]) -> Result<(), Error> {
        if self.network.version < WITH_STATUS || self.network.disable_gc {
            return Ok(());
        }
        let attachment = |(id, interface): &(&str, &str)| json!({ "containerID": id, "ifname": interface });
        let valid = Value::Array(valid.iter().map(attachment).collect());
        let mut outcome = Ok(());
        for plugin in &self.network.plugins {
            let mut config = self.with_name_and_version(plugin);
            // The spec's text and its later correction use different keys (cni#1101).
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                config.insert(key.to_owned(), valid.clone());
            }
            outcome = outcome.and(self.run(plugin, Operation::Gc, config, None).await.map(drop));
        }
        outcome
    }

    /// Runs STATUS: whether ADD would work now.
    pub(super) async fn status(&self) -> Result<(), Error> {
        for plugin in &self.network.plugins {
            self.run(plugin, Operation::Status, self.with_name_and_version(plugin), None).await?;
        }
        Ok(())
    }

    /// The plugin's config with the network's name and version.
    fn with_name_and_version(&self, plugin: &PluginConfig) -> Map<String, Value> {
        let mut config = plugin.raw.clone();
        config.insert("name".to_owned(), json!(self.network.name));
        config.insert("cniVersion".to_owned(), json!(self.network.cni_version));
        config
    }

    fn config(&self, plugin: &PluginConfig, previous: Option<&Value>, runtime: &RuntimeConf) -> Map<String, Value> {
        let mut config = self.with_name_and_version(plugin);
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        let wanted = |name: &String| Some((name.clone(), runtime.capabilities.get(name)?.clone()));
        let granted: Map<_, _> = plugin.capabilities.iter().filter_map(wanted).collect();
        if !granted.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(granted));
        }
        config
    }

    async fn run(
        &self,
        plugin: &PluginConfig,
        operation: Operation,
        config: Map<String, Value>,
        runtime: Option<&RuntimeConf>,
    ) -> Result<Vec<u8>, Error> {
        let call = Call {
            plugin: &plugin.kind,
            operation,
            id: runtime.map(|runtime| runtime.id.as_str()),
            stdin: Value::Object(config).to_string().into_bytes(),
            environment: environment(runtime),
            deadline: self.deadline,
        };
        let start = Instant::now();
        // When a chain hangs, its user wants to know which plugin does.
        let part = format!("{operation} {}", plugin.kind);
        let result = detailed(Stage::Cni, part, self.plugins.run(call)).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(Error::TimedOut { .. }) => "timeout",
            Err(_) => "error",
        };
        self.metrics.cni(operation.name(), &plugin.kind, outcome, start.elapsed());
        result
    }

    /// Parses a result, which must be an object. A result without a version gets the config's version.
    fn parse(&self, plugin: &PluginConfig, output: &[u8]) -> Result<Value, Error> {
        let invalid_output = |reason: &str| Error::InvalidOutput {
            plugin: plugin.kind.clone(),
            operation: Operation::Add,
            reason: reason.to_owned(),
            output: truncated_text(output),
        };
        let mut result: Value = serde_json::from_slice(output).map_err(|_| invalid_output("its result is not JSON"))?;
        let fields = result.as_object_mut().ok_or_else(|| invalid_output("its result is not a JSON object"))?;
        let said = fields.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
        if said.is_empty() {
            fields.insert("cniVersion".to_owned(), json!(self.network.cni_version));
        }
        Ok(result)
    }
}

/// All variables of the spec, empty where they do not apply, so that none is inherited from this process.
fn environment(runtime: Option<&RuntimeConf>) -> Vec<(&'static str, OsString)> {
    let text = |value: Option<&String>| value.map(OsString::from).unwrap_or_default();
    let pairs = |runtime: &RuntimeConf| {
        let pairs: Vec<_> = runtime.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    };
    vec![
        ("CNI_CONTAINERID", text(runtime.map(|runtime| &runtime.id))),
        ("CNI_NETNS", path_value(runtime.and_then(|runtime| runtime.netns.as_deref()))),
        ("CNI_IFNAME", text(runtime.map(|runtime| &runtime.interface))),
        ("CNI_ARGS", OsString::from(runtime.map(pairs).unwrap_or_default())),
    ]
}
