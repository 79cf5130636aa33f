//! Labels of containerd's container records. They are made by us, of the request's metadata: containerd acts on labels of its objects,
//! so none of a pod's own is ever copied.
//!
//! kubelet's cAdvisor reads them from containerd: `kind` says whose network is the pod's, and the others say whose numbers
//! these are (k8s.io/kubelet/pkg/types, labels.go). Without them a pod has no network in `/stats/summary`.

use std::collections::HashMap;

use crate::api::v1::{ContainerMetadata, PodSandboxMetadata};

/// containerd's limit of a key and its value together (pkg/labels).
const LONGEST: usize = 4096;

/// Of a pause container.
pub(super) fn of_sandbox(pod: PodSandboxMetadata) -> HashMap<String, String> {
    made(&[("io.cri-containerd.kind", "sandbox")], &of_pod(&pod))
}

/// Of a container.
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

/// A name that no label can hold is no reason to refuse the pod.
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
