//! Annotations of specs. The `io.kubernetes.cri.*` ones are built here from metadata: kata, gVisor and runc's grouping
//! read them. Annotations that tenants write are added only if an allow-list of the handler names them.

use std::collections::HashMap;

use super::{ContainerInput, Handler, SandboxInput};
use crate::api::v1::PodSandboxConfig;

const PREFIX: &str = "io.kubernetes.cri";
/// Prefixes of annotations that give orders to runtimes: they pass only if the glob itself starts with the prefix
/// (CVE-2024-3154).
const COMMANDS: [&str; 5] = ["org.systemd.property.", "run.oci.", "org.criu.", "io.containerd.", "cdi.k8s.io/"];

/// The annotations of a pause container.
pub(super) fn sandbox(input: &SandboxInput<'_>) -> HashMap<String, String> {
    let mut all = allowed(&input.config.annotations, &input.handler.pod_annotations);
    all.extend(common("sandbox", input.id.as_str(), input.config));
    all.insert(format!("{PREFIX}.sandbox-log-directory"), input.config.log_directory.clone());
    // A VM gets the size of its pod.
    if let Some(resources) = input.config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
        for (name, value) in [
            ("sandbox-cpu-period", resources.cpu_period),
            ("sandbox-cpu-quota", resources.cpu_quota),
            ("sandbox-cpu-shares", resources.cpu_shares),
            ("sandbox-memory", resources.memory_limit_in_bytes),
        ] {
            all.insert(format!("{PREFIX}.{name}"), value.to_string());
        }
    }
    all
}

/// The annotations of a container.
pub(super) fn container(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let mut all = allowed(&input.sandbox.annotations, &input.handler.pod_annotations);
    all.extend(allowed(&input.config.annotations, &input.handler.container_annotations));
    all.extend(common("container", input.sandbox_id.as_str(), input.sandbox));
    let name = input.config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    all.insert(format!("{PREFIX}.container-name"), name);
    all.insert(format!("{PREFIX}.image-name"), input.image_name.to_owned());
    all
}

/// The annotations that go with an update of a container's resources.
pub fn update_annotations(annotations: &HashMap<String, String>, handler: &Handler) -> HashMap<String, String> {
    allowed(annotations, &handler.container_annotations)
}

fn common(kind: &str, sandbox: &str, config: &PodSandboxConfig) -> HashMap<String, String> {
    let metadata = config.metadata.clone().unwrap_or_default();
    HashMap::from([
        (format!("{PREFIX}.container-type"), kind.to_owned()),
        (format!("{PREFIX}.sandbox-id"), sandbox.to_owned()),
        (format!("{PREFIX}.sandbox-name"), metadata.name),
        (format!("{PREFIX}.sandbox-namespace"), metadata.namespace),
        (format!("{PREFIX}.sandbox-uid"), metadata.uid),
    ])
}

fn allowed(annotations: &HashMap<String, String>, globs: &[String]) -> HashMap<String, String> {
    let passes = |key: &str| globs.iter().any(|glob| matches(glob, key) && may_command(glob, key));
    annotations.iter().filter(|(key, _)| passes(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn may_command(glob: &str, key: &str) -> bool {
    COMMANDS.iter().all(|prefix| !key.starts_with(prefix) || glob.starts_with(prefix))
}

/// `*` stands for any run of characters. Each part of the glob is matched where it first occurs, so that a long key,
/// which a tenant can write, is scanned only once.
fn matches(glob: &str, key: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else { return glob == key };
    let Some(mut key) = key.strip_prefix(head) else { return false };
    let mut parts = rest.split('*');
    let last = parts.next_back().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = key.split_once(part) else { return false };
        key = after;
    }
    key.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_literal_but_for_the_star() {
        assert!(matches("a.b/*", "a.b/c") && matches("*", "x") && matches("a*c*", "abcd"));
        assert!(!matches("a.b", "a.b/c") && !matches("a.*d", "a.c"));
        assert!(matches("*a*a", "aa") && matches("a**b", "ab") && matches("*.x/*y*", "a.x/.x/y"));
        assert!(!matches("*a*a", "a") && !matches("ab*b", "ab") && !matches("*x*", "abc"));
    }

    #[test]
    fn a_long_key_is_gone_through_once() {
        let (glob, key) = ("*a".repeat(20) + "*b", "a".repeat(1 << 20));
        assert!(!matches(&glob, &key) && matches(&glob, &(key + "b")));
    }

    #[test]
    fn a_star_lets_no_command_through() {
        let key = "org.systemd.property.DefaultDependencies".to_owned();
        let annotations = HashMap::from([(key.clone(), "true".to_owned()), ("team".to_owned(), "a".to_owned())]);
        assert_eq!(allowed(&annotations, &["*".to_owned()]), HashMap::from([("team".to_owned(), "a".to_owned())]));
        assert!(allowed(&annotations, &["org.systemd.property.*".to_owned()]).contains_key(&key));
        assert!(allowed(&annotations, &[]).is_empty());
        let handler = Handler { container_annotations: vec!["t*".to_owned()], ..Handler::default() };
        assert_eq!(update_annotations(&annotations, &handler).into_keys().collect::<Vec<_>>(), ["team"]);
    }
}
