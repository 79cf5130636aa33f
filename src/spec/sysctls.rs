//! The sysctls of a pod: only namespaced ones, since others would change the host (CVE-2022-0532).

use std::collections::HashMap;

use super::{Error, is_node};
use crate::api::v1::{NamespaceOption, PodSandboxConfig};

const FIELD: &str = "config.linux.sysctls";
/// Sysctls of the IPC namespace, in addition to fs.mqueue.* (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The sysctls of a pod, including defaults that let its processes bind low ports and ping without capabilities.
pub(super) fn sandbox(config: &PodSandboxConfig, options: &NamespaceOption) -> Result<HashMap<String, String>, Error> {
    let mut all = HashMap::new();
    if !is_node(options.network()) {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        // In a user namespace, most of these groups are not mapped, which the kernel refuses.
        if super::user_namespace(options)?.is_none() {
            all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    let wanted = config.linux.as_ref().map(|linux| &linux.sysctls);
    for (key, value) in wanted.into_iter().flatten() {
        check(key, value, options)?;
        // Both spellings name the same file; runc takes dots.
        all.insert(key.replace('/', "."), value.clone());
    }
    Ok(all)
}

fn check(key: &str, value: &str, options: &NamespaceOption) -> Result<(), Error> {
    let field = || format!("{FIELD}[{key}]");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_./-".contains(c);
    if key.is_empty() || !key.chars().all(plain) || key.contains("..") {
        return Err(Error::invalid(field(), "is not the name of a sysctl"));
    }
    // A helper program once split its arguments at such characters (CVE-2022-0811).
    if value.chars().any(|c| c.is_control() && c != '\t') || value.contains(['+', '=']) {
        return Err(Error::invalid(field(), "has a control character, a + or a ="));
    }
    let dotted = key.replace('/', ".");
    if dotted.starts_with("net.") {
        return refuse_on_host(is_node(options.network()), field(), "network");
    }
    if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
        return refuse_on_host(is_node(options.ipc()), field(), "IPC");
    }
    // Limits of the pod's own user namespace (ucounts). In the node's namespace they would apply to every process.
    if dotted.starts_with("user.") {
        return refuse_on_host(super::user_namespace(options)?.is_none(), field(), "user");
    }
    // A pod with its own network namespace also has its own UTS namespace.
    if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        return refuse_on_host(is_node(options.network()), field(), "network");
    }
    Err(Error::invalid(field(), "is not namespaced: it would change the host"))
}

fn refuse_on_host(on_host: bool, field: String, namespace: &str) -> Result<(), Error> {
    if on_host {
        return Err(Error::invalid(
            field,
            format!("would change the host: the pod uses the host's {namespace} namespace"),
        ));
    }
    Ok(())
}
