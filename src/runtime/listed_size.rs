//! Limits what a pod may contribute to lists. kubelet accepts responses of at most 16 MiB, and requests all pods, or
//! all containers, of the node in one response. A longer one would blind its PLEG and its garbage collection for every
//! tenant. docs/adr/0026 has the arithmetic.

use std::collections::HashMap;

use prost::Message;
use prost::encoding::{hash_map, message, string};

use super::{Error, Node, Result};
use crate::api::v1::{ContainerConfig, PodSandboxConfig};
use crate::ids::SandboxId;

/// Limit for a pod's labels and annotations together, in bytes of keys and values. Kubernetes allows 256 KiB of
/// annotations, and kubelet passes all of them on; the rest is for labels.
const POD_LIMIT: usize = 320 << 10;
/// What a container may always have in a list, in bytes: kubelet's own labels and annotations, and ids, take about 1.5
/// KiB.
const UNCOUNTED: usize = 4 << 10;
/// What the containers of a pod may have together beyond that: 110 such pods, kubelet's default maximum, fit into a
/// response. The largest values that kubelet sends are a container's ports and its preStop hook.
const CONTAINERS_LIMIT: usize = 128 << 10;

/// Refuses a pod that would take too much space in a list.
///
/// # Errors
/// [`Error::Invalid`] names the field that is the largest.
pub(super) fn check_sandbox(config: &PodSandboxConfig) -> Result<()> {
    let fields = [("config.annotations", texts(&config.annotations)), ("config.labels", texts(&config.labels))];
    let all = fields[0].1 + fields[1].1;
    if all <= POD_LIMIT {
        return Ok(());
    }
    let problem = format!("is most of {all} bytes of labels and annotations, and a pod may have {POD_LIMIT}");
    Err(Error::Invalid { field: largest(&fields), problem })
}

/// Refuses a container if the containers of its pod would take too much space in a list.
///
/// # Errors
/// As [`check_sandbox`].
pub(super) fn check_container(node: &Node, sandbox: &SandboxId, config: &ContainerConfig) -> Result<()> {
    check(config, || {
        let containers = node.store.containers_of(sandbox);
        others(config, containers.iter().map(|container| (container.metadata().name, container.listed.len())))
    })
}

fn check(config: &ContainerConfig, others: impl FnOnce() -> usize) -> Result<()> {
    let own = listed(config);
    // Nearly all containers are that small.
    if own <= UNCOUNTED {
        return Ok(());
    }
    let others = others();
    if others + (own - UNCOUNTED) <= CONTAINERS_LIMIT {
        return Ok(());
    }
    let problem = format!(
        "is most of {own} bytes that a list says of this container; all of a pod may have {CONTAINERS_LIMIT} beyond \
         {UNCOUNTED} each, and its others have {others}"
    );
    let fields = [
        ("config.annotations", texts(&config.annotations)),
        ("config.labels", texts(&config.labels)),
        ("config.image", config.image.as_ref().map_or(0, Message::encoded_len)),
        ("config.metadata.name", config.metadata.as_ref().map_or(0, Message::encoded_len)),
    ];
    Err(Error::Invalid { field: largest(&fields), problem })
}

/// Refuses annotations of an update that are too large for any container.
///
/// # Errors
/// [`Error::Invalid`] names `annotations`.
pub(super) fn check_annotations(annotations: &HashMap<String, String>) -> Result<()> {
    let all = texts(annotations);
    if all <= CONTAINERS_LIMIT {
        return Ok(());
    }
    Err(Error::Invalid { field: "annotations", problem: format!("have {all} bytes, more than {CONTAINERS_LIMIT}") })
}

/// What the pod's other containers have beyond [`UNCOUNTED`] each. Of several attempts of one container, only the
/// largest counts. Attempts of this container do not count: if one was accepted, the next is not refused.
fn others(config: &ContainerConfig, listed: impl Iterator<Item = (String, usize)>) -> usize {
    let own = config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    let mut sizes: HashMap<String, usize> = HashMap::new();
    for (name, size) in listed.filter(|(name, _)| name != own) {
        let largest = sizes.entry(name).or_default();
        *largest = size.saturating_sub(UNCOUNTED).max(*largest);
    }
    sizes.values().sum()
}

/// Bytes of a container in ListContainers, without its ids.
fn listed(config: &ContainerConfig) -> usize {
    let ContainerConfig { metadata, image, labels, annotations, .. } = config;
    let texts = |field, map| hash_map::encoded_len(string::encoded_len, string::encoded_len, field, map);
    // The numbers of the fields in api.proto.
    metadata.as_ref().map_or(0, |metadata| message::encoded_len(3, metadata))
        + image.as_ref().map_or(0, |image| message::encoded_len(4, image))
        + texts(8, labels)
        + texts(9, annotations)
}

/// Bytes of all keys and values.
pub(super) fn texts(map: &HashMap<String, String>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The name of the largest field.
pub(super) fn largest(fields: &[(&'static str, usize)]) -> &'static str {
    fields.iter().max_by_key(|(_, size)| *size).map_or("config", |(field, _)| field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::{ContainerMetadata, ImageSpec};

    /// Largest response, in bytes.
    const ANSWER: usize = 16 << 20;
    /// kubelet's default for `maxPods`.
    const PODS: usize = 110;

    fn map(key: &str, bytes: usize) -> HashMap<String, String> {
        HashMap::from([(key.to_owned(), "x".repeat(bytes))])
    }

    fn container(annotation: usize) -> ContainerConfig {
        let metadata = Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 });
        ContainerConfig { metadata, annotations: map("a", annotation), ..ContainerConfig::default() }
    }

    fn error_text(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn t9_a_pod_may_have_all_annotations_that_kubernetes_allows_and_many_labels() {
        let labels: HashMap<_, _> = (0..100).map(|number| (format!("{number:0317}"), "x".repeat(63))).collect();
        let pod = PodSandboxConfig { annotations: map("a", (256 << 10) - 1), labels, ..PodSandboxConfig::default() };
        assert!(check_sandbox(&pod).is_ok());
        let large = PodSandboxConfig { annotations: map("a", POD_LIMIT), ..pod.clone() };
        assert!(error_text(check_sandbox(&large)).starts_with("config.annotations: is most of 3656"), "{large:?}");
        let large = PodSandboxConfig { labels: map("a", POD_LIMIT), ..PodSandboxConfig::default() };
        assert!(error_text(check_sandbox(&large)).starts_with("config.labels: is most of 327681 bytes"));
    }

    #[test]
    fn t9_a_list_of_110_pods_whose_containers_say_the_most_is_an_answer() {
        let mut largest = container(CONTAINERS_LIMIT + UNCOUNTED - 100);
        assert!(check(&largest, || 0).is_ok());
        let item = crate::api::encode_container(&crate::api::v1::Container {
            id: "a".repeat(64),
            pod_sandbox_id: "b".repeat(64),
            image_ref: "c".repeat(71),
            image_id: "c".repeat(71),
            annotations: largest.annotations.clone(),
            metadata: largest.metadata.clone(),
            ..Default::default()
        });
        assert!(PODS * (item.len() + 8) <= ANSWER, "{}", item.len());
        largest.annotations = map("a", CONTAINERS_LIMIT + UNCOUNTED);
        assert!(error_text(check(&largest, || 0)).starts_with("config.annotations: is most of 1351"));
    }

    #[test]
    fn t9_each_part_of_a_list_counts_and_is_named() {
        let labels = ContainerConfig { labels: map("a", 1_400_000), ..container(0) };
        assert!(error_text(check(&labels, || 0)).starts_with("config.labels: "));
        let user_specified_image = "x".repeat(1_400_000);
        let image = Some(ImageSpec { user_specified_image, ..ImageSpec::default() });
        assert!(error_text(check(&ContainerConfig { image, ..container(0) }, || 0)).starts_with("config.image: "));
        let many: HashMap<_, _> = (0..20_000).map(|number| (number.to_string(), String::new())).collect();
        let many = ContainerConfig { annotations: many, ..container(0) };
        assert!(error_text(check(&many, || 0)).starts_with("config.annotations: "));
        let ContainerConfig { metadata, image, labels, annotations, .. } = many.clone();
        let message = crate::api::v1::Container { metadata, image, labels, annotations, ..Default::default() };
        assert_eq!(listed(&many), message.encoded_len());
    }

    #[test]
    fn t9_what_all_containers_of_a_pod_say_counts_and_the_usual_is_never_refused() {
        let listed = |name: &str, size| (name.to_owned(), size);
        let pod =
            [listed("side", 70 << 10), listed("side", 60 << 10), listed("main", 120 << 10), listed("small", 1500)];
        assert_eq!(others(&container(0), pod.into_iter()), 66 << 10);
        assert!(check(&container(60 << 10), || 66 << 10).is_ok());
        let refused = error_text(check(&container(70 << 10), || 66 << 10));
        assert!(
            refused.ends_with("all of a pod may have 131072 beyond 4096 each, and its others have 67584"),
            "{refused}"
        );
        assert!(check(&container(3000), || panic!("they are not looked at")).is_ok());
    }
}
