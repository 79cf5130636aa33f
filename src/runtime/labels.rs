//! Labels of containerd's container records. Pontoon creates them from the request's metadata. It never copies labels
//! of the pod itself, since containerd acts on the labels of its objects.
//!
//! kubelet's cAdvisor reads them from containerd: `kind` says which container has the pod's network, and the others say
//! which pod and container the numbers belong to (k8s.io/kubelet/pkg/types, labels.go). Without them a pod has no
//! network in `/stats/summary`.

use std::collections::HashMap;

use crate::api::v1::{ContainerMetadata, PodSandboxMetadata};

/// containerd's limit for a key and its value together, in bytes (pkg/labels).
const LONGEST: usize = 4096;

/// Labels of a pause container.
pub(super) fn of_sandbox(pod: PodSandboxMetadata) -> HashMap<String, String> {
    made(&[("io.cri-containerd.kind", "sandbox")], &of_pod(&pod))
}

/// Labels of a container.
pub(super) fn of_container(pod: PodSandboxMetadata, container: &ContainerMetadata) -> HashMap<String, String> {
    let own = [("io.cri-containerd.kind", "container"), ("io.kubernetes.container.name", container.name.as_str())];
    made(&own, &of_pod(&pod))
}

fn of_pod(pod: &PodSandboxMetadata) -> [(&str, &str); 3] {
    [
        ("io.kubernetes.pod.name", pod.name.as_str()),
        ("io.kubernetes.pod.namespace", pod.namespace.as_str()),
        ("io.kubernetes.pod.uid", pod.uid.as_str()),
    ]
}

/// A name that does not fit into a label is left out; it is no reason to refuse the pod.
fn made(own: &[(&str, &str)], pod: &[(&str, &str)]) -> HashMap<String, String> {
    let all = own.iter().chain(pod).filter(|(key, value)| key.len() + value.len() <= LONGEST);
    all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_cadvisor_reads_and_no_value_is_too_long() {
        let pod = PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u".repeat(LONGEST),
            namespace: "default".to_owned(),
            attempt: 3,
        };
        let container = ContainerMetadata { name: "main".to_owned(), attempt: 1 };
        let mut labels: Vec<(String, String)> = of_container(pod.clone(), &container).into_iter().collect();
        labels.sort();
        let expected = [
            ("io.cri-containerd.kind", "container"),
            ("io.kubernetes.container.name", "main"),
            ("io.kubernetes.pod.name", "web"),
            ("io.kubernetes.pod.namespace", "default"),
        ];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(of_sandbox(pod)["io.cri-containerd.kind"], "sandbox");
    }
}
