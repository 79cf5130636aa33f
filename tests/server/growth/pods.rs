//! Verbs of pods.

use std::time::Duration;

use pontoon::api::v1::*;

use super::containers::{name, texts};
use super::{Growth, measured};
use crate::support::server::Node;

/// Puts a number of entries into one field of a config.
type Fill = (&'static str, fn(&mut PodSandboxConfig, usize));

const FILLS: [Fill; 7] = [
    ("labels", |config, count| config.labels = texts(count)),
    ("annotations", |config, count| config.annotations = texts(count)),
    ("port_mappings", |config, count| {
        let port =
            |number| PortMapping { container_port: i32::try_from(1 + number).unwrap(), ..PortMapping::default() };
        config.port_mappings = (0..count).map(port).collect();
    }),
    ("published ports", |config, count| {
        let port = |number| {
            let port = i32::try_from(1 + number).unwrap();
            PortMapping { container_port: port, host_port: port, ..PortMapping::default() }
        };
        config.port_mappings = (0..count).map(port).collect();
    }),
    ("dns_config", |config, count| {
        config.dns_config = Some(DnsConfig { searches: vec!["a.b".to_owned(); count], ..DnsConfig::default() });
    }),
    ("sysctls", |config, count| {
        let sysctls = (0..count).map(|number| (format!("net.x{number}"), "1".to_owned())).collect();
        config.linux.get_or_insert_default().sysctls = sysctls;
    }),
    ("supplemental_groups", |config, count| {
        let groups = (0..count).map(|number| i64::try_from(number).unwrap()).collect();
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.supplemental_groups = groups;
    }),
];

fn request(node: &Node, fill: impl FnOnce(&mut PodSandboxConfig)) -> RunPodSandboxRequest {
    let mut request = node.pod(&name());
    fill(request.config.as_mut().unwrap());
    request
}

async fn costs(node: &Node, fill: impl FnOnce(&mut PodSandboxConfig)) -> Duration {
    let request = request(node, fill);
    let (id, cost) = measured(node, node.run(&request)).await;
    node.remove(&id).await;
    cost
}

#[tokio::test(flavor = "multi_thread")]
async fn what_run_pod_sandbox_costs_is_linear_in_each_field() {
    let node = Node::start().await;
    let mut growth = Growth::default();
    for (name, fill) in FILLS {
        growth.of(name, async |count: usize| costs(&node, |config| fill(config, count)).await).await;
    }
    growth.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_verbs_cost_is_linear_in_what_their_pod_has() {
    let node = Node::start().await;
    let mut growth = Growth::default();
    let full = |count: usize| {
        move |config: &mut PodSandboxConfig| {
            for (_, fill) in FILLS {
                fill(config, count);
            }
        }
    };
    for verbose in [false, true] {
        let status = async |count: usize| {
            let id = node.run(&request(&node, full(count))).await;
            let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose };
            let (status, cost) = measured(&node, node.cri().pod_sandbox_status(request)).await;
            status.unwrap();
            node.remove(&id).await;
            cost
        };
        growth.of(&format!("PodSandboxStatus, verbose {verbose}"), status).await;
    }
    let id = node.run(&request(&node, full(10))).await;
    let update = async |count: usize| {
        let unified = texts(count);
        let resources = Some(LinuxContainerResources { unified, ..LinuxContainerResources::default() });
        let pod_sandbox_id = id.clone();
        let request = UpdatePodSandboxResourcesRequest { pod_sandbox_id, resources, ..Default::default() };
        let (updated, cost) = measured(&node, node.cri().update_pod_sandbox_resources(request)).await;
        updated.unwrap();
        cost
    };
    growth.of("UpdatePodSandboxResources", update).await;
    let selector = async |count: usize| {
        let filter = PodSandboxFilter { label_selector: texts(count), ..PodSandboxFilter::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let (listed, cost) = measured(&node, node.cri().list_pod_sandbox(request)).await;
        listed.unwrap();
        cost
    };
    growth.of("ListPodSandbox' label_selector", selector).await;
    let ports = async |count: usize| {
        let port = vec![80; count / 10];
        let request = PortForwardRequest { pod_sandbox_id: id.clone(), port };
        let (answer, cost) = measured(&node, node.cri().port_forward(request)).await;
        answer.unwrap();
        cost
    };
    growth.of("PortForward's port", ports).await;
    growth.finish();
}
