//! Status: conditions, runtime handlers, features. It never waits for containerd.

use std::collections::HashMap;

use serde_json::json;

use crate::api::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use crate::runtime::Node;

/// kubelet requests this every 5 seconds. If RuntimeReady or NetworkReady is false, it makes the node NotReady.
#[must_use]
pub fn status(node: &Node, request: &StatusRequest) -> StatusResponse {
    StatusResponse {
        status: Some(RuntimeStatus {
            conditions: vec![runtime_ready(node), network_ready(node), runtimes_supported(node)],
        }),
        info: if request.verbose { info(node) } else { HashMap::new() },
        runtime_handlers: handlers(node),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: true,
            mount_options: true,
        }),
    }
}

fn runtime_ready(node: &Node) -> RuntimeCondition {
    let address = node.config.containerd.address.display();
    let (reason, message) = match (node.availability.is_up(), node.availability.silence()) {
        (true, _) => ("", String::new()),
        (false, None) => ("ContainerdAway", format!("no answer from containerd at {address}")),
        // containerd is running, and hangs.
        (false, Some(silence)) => {
            ("ContainerdSilent", format!("no answer for {} s from containerd at {address}", silence.as_secs()))
        }
    };
    RuntimeCondition {
        r#type: "RuntimeReady".to_owned(),
        status: message.is_empty(),
        reason: reason.to_owned(),
        message,
    }
}

fn network_ready(node: &Node) -> RuntimeCondition {
    let ready = node.networks.default_network().ready();
    RuntimeCondition {
        r#type: "NetworkReady".to_owned(),
        status: ready.is_ok(),
        reason: ready.as_ref().err().map(|not| not.reason.to_owned()).unwrap_or_default(),
        message: ready.err().map(|not| not.message).unwrap_or_default(),
    }
}

/// Reports outdated runtimes. This does not make the node NotReady: kubelet acts only on the other two conditions.
fn runtimes_supported(node: &Node) -> RuntimeCondition {
    let handlers = node.config.handlers.iter().map(|handler| handler.name.as_str());
    let outdated = |name| Some(format!("handler {name}: {}", node.host.features.get(name)?.outdated.as_ref()?));
    let message = handlers.filter_map(outdated).collect::<Vec<_>>().join("; ");
    RuntimeCondition {
        r#type: "RuntimesSupported".to_owned(),
        status: message.is_empty(),
        reason: if message.is_empty() { String::new() } else { "RuntimeOutdated".to_owned() },
        message,
    }
}

/// Each handler under its name, and the default handler also under the empty name.
fn handlers(node: &Node) -> Vec<RuntimeHandler> {
    let default = (String::new(), node.config.handlers.default_handler());
    let named = node.config.handlers.iter().map(|handler| (handler.name.clone(), handler));
    let all = std::iter::once(default).chain(named);
    all.map(|(name, handler)| RuntimeHandler { name, features: Some(features(node, &handler.name)) }).collect()
}

/// The features that kubelet may use for pods of the handler.
fn features(node: &Node, handler: &str) -> RuntimeHandlerFeatures {
    let features = node.host.features(handler);
    RuntimeHandlerFeatures {
        recursive_read_only_mounts: features.recursive_read_only_mounts,
        user_namespaces: features.user_namespaces.is_ok(),
    }
}

fn info(node: &Node) -> HashMap<String, String> {
    let config = json!({
        "root": node.config.root,
        "state": node.config.state,
        "socket": node.config.socket,
        "containerd": { "address": node.config.containerd.address, "namespace": node.config.containerd.namespace },
        "cni": { "confDir": node.config.cni.conf_dir, "binDirs": node.config.cni.bin_dirs },
        "snapshotter": node.config.images.snapshotter,
        "registryConfigPath": node.config.images.registry_config_path,
        "operationsInFlight": node.tasks.in_flight(),
    });
    let mut info = HashMap::from([
        ("config".to_owned(), config.to_string()),
        ("cniconfig".to_owned(), node.networks.default_network().config_json().to_string()),
        ("runtimeVersion".to_owned(), json!(env!("CARGO_PKG_VERSION")).to_string()),
    ]);
    for (handler, network) in node.networks.own() {
        let mut config = network.config_json();
        // For the default network, the condition NetworkReady has this.
        config["NotReady"] = json!(network.ready().err().map(|not| not.message));
        info.insert(format!("cniconfig.{handler}"), config.to_string());
    }
    info
}
