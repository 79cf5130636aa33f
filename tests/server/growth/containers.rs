//! Verbs of containers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon::api::v1::*;
use serde_json::{Value, json};

use super::{Growth, SIZES, measured};
use crate::support::containerd::CONFIG;
use crate::support::requests;
use crate::support::server::Node;

/// Puts a number of entries into one field of a config.
type Fill = (&'static str, fn(&mut ContainerConfig, usize));

const FILLS: [Fill; 13] = [
    ("envs", |config, count| config.envs = envs(count)),
    ("envs of one name", |config, count| {
        config.envs = vec![KeyValue { key: "A".to_owned(), value: b"x".to_vec() }; count];
    }),
    ("mounts", |config, count| config.mounts = mounts(count)),
    ("devices", |config, count| {
        let device = |number| Device {
            container_path: format!("/dev/d{number}"),
            host_path: "/dev/null".to_owned(),
            permissions: "rw".to_owned(),
        };
        config.devices = (0..count).map(device).collect();
    }),
    ("labels", |config, count| config.labels = texts(count)),
    ("annotations", |config, count| config.annotations = texts(count)),
    ("command", |config, count| config.command = words(count)),
    ("args", |config, count| config.args = words(count)),
    ("supplemental_groups", |config, count| {
        security(config).supplemental_groups = (0..count).map(|number| i64::try_from(number).unwrap()).collect();
    }),
    ("masked_paths", |config, count| security(config).masked_paths = words(count)),
    ("readonly_paths", |config, count| security(config).readonly_paths = words(count)),
    ("capabilities", |config, count| {
        let names = vec!["NET_ADMIN".to_owned(); count];
        let (add_capabilities, drop_capabilities) = (names.clone(), names);
        security(config).capabilities = Some(Capability { add_capabilities, drop_capabilities, ..Default::default() });
    }),
    ("CDI_devices", |config, count| {
        config.cdi_devices =
            (0..count).map(|number| CdiDevice { name: format!("vendor.example/class=d{number}") }).collect();
    }),
];

fn envs(count: usize) -> Vec<KeyValue> {
    (0..count).map(|number| KeyValue { key: format!("V{number}"), value: b"x".to_vec() }).collect()
}

fn mounts(count: usize) -> Vec<Mount> {
    let mount =
        |number| Mount { container_path: format!("/m/{number}"), host_path: "/var/tmp".to_owned(), ..Mount::default() };
    (0..count).map(mount).collect()
}

pub(super) fn texts(count: usize) -> HashMap<String, String> {
    (0..count).map(|number| (number.to_string(), String::new())).collect()
}

fn words(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("/w/{number}")).collect()
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A name that was not used before.
pub(super) fn name() -> String {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    format!("n{}", LAST.fetch_add(1, Ordering::Relaxed))
}

/// A node with one pod.
struct Bed {
    node: Node,
    pod: RunPodSandboxRequest,
    sandbox: String,
}

impl Bed {
    async fn start(more: &str) -> Self {
        let node = Node::start_with(more).await;
        let pod = node.pod("web");
        let sandbox = node.run(&pod).await;
        Self { node, pod, sandbox }
    }

    fn request(&self, fill: impl FnOnce(&mut ContainerConfig)) -> CreateContainerRequest {
        let mut request = requests::container(&self.sandbox, &self.pod, &name(), &["fake"]);
        fill(request.config.as_mut().unwrap());
        request
    }

    /// Measures CreateContainer. The container is not removed.
    async fn create(&self, fill: impl FnOnce(&mut ContainerConfig)) -> (String, Duration) {
        let request = self.request(fill);
        measured(&self.node, self.node.create(&request)).await
    }

    async fn remove(&self, container_id: String) {
        self.node.cri().remove_container(RemoveContainerRequest { container_id }).await.unwrap();
    }

    async fn costs(&self, fill: impl FnOnce(&mut ContainerConfig)) -> Duration {
        let (id, cost) = self.create(fill).await;
        self.remove(id).await;
        cost
    }
}

/// A CDI spec of one vendor, with as many devices as the largest test requests.
fn cdi_spec() -> tempfile::TempDir {
    let device = |number| {
        json!({
            "name": format!("d{number}"),
            "containerEdits": {
                "deviceNodes": [{ "path": format!("/dev/d{number}"), "hostPath": "/dev/null" }],
                "mounts": [{ "hostPath": "/var/tmp", "containerPath": format!("/m/{number}") }],
                "env": [format!("D{number}=x")],
                "additionalGids": [number + 1],
            },
        })
    };
    let devices: Vec<Value> = (0..SIZES[2]).map(device).collect();
    let spec = json!({ "cdiVersion": "1.0.0", "kind": "vendor.example/class", "devices": devices });
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("vendor.json"), spec.to_string()).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn what_create_container_costs_is_linear_in_each_field() {
    let cdi = cdi_spec();
    let bed = Bed::start(&format!("[cdi]\nspec_dirs = [{:?}]\n", cdi.path())).await;
    let mut growth = Growth::default();
    for (name, fill) in FILLS {
        growth.of(name, async |count: usize| bed.costs(|config| fill(config, count)).await).await;
    }
    growth.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_create_container_costs_is_linear_in_what_its_image_says() {
    let bed = Bed::start("").await;
    let volume = |number: usize| (format!("/v/{number}"), json!({}));
    let says = |what: &str, count: usize| match what {
        "Env" => json!({ "Env": (0..count).map(|number| format!("V{number}=x")).collect::<Vec<_>>() }),
        "Cmd" => json!({ "Cmd": words(count) }),
        // More than a thousand volumes are refused.
        _ => json!({ "Volumes": (0..count / 10).map(volume).collect::<serde_json::Map<_, _>>() }),
    };
    let mut growth = Growth::default();
    for what in ["Env", "Cmd", "Volumes"] {
        for count in SIZES {
            let name = format!("registry.example/{}:{count}", what.to_lowercase());
            let config = json!({ "architecture": "amd64", "os": "linux", "config": says(what, count) });
            bed.node.containerd.tag_image(&name, CONFIG, &config);
        }
        for count in SIZES {
            known(&bed.node, &format!("registry.example/{}:{count}", what.to_lowercase())).await;
        }
        let image = |count| format!("registry.example/{}:{count}", what.to_lowercase());
        let asked = |count| Some(ImageSpec { image: image(count), ..ImageSpec::default() });
        let cost = async |count: usize| {
            let of_image = |config: &mut ContainerConfig| {
                config.image = asked(count);
                if what != "Cmd" {
                    config.command = vec!["fake".to_owned()];
                } else {
                    config.command.clear();
                }
            };
            bed.costs(of_image).await
        };
        growth.of(&format!("the image's {what}"), cost).await;
        let status = async |count: usize| {
            let request = ImageStatusRequest { image: asked(count), verbose: true };
            measured(&bed.node, bed.node.images().image_status(request)).await.1
        };
        growth.of(&format!("ImageStatus of the image's {what}"), status).await;
    }
    growth.finish();
}

/// Waits until the server knows an image.
async fn known(node: &Node, name: &str) {
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        let reply = node.images().image_status(ImageStatusRequest { image, verbose: false }).await.unwrap();
        if reply.into_inner().image.is_some() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} is not seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_verbs_cost_is_linear_in_what_their_container_has() {
    let bed = Bed::start("").await;
    let mut growth = Growth::default();
    let full = |count: usize| {
        move |config: &mut ContainerConfig| {
            (config.envs, config.mounts) = (envs(count), mounts(count));
            (config.labels, config.annotations) = (texts(count / 2), texts(count / 2));
        }
    };
    let start = async |count: usize| {
        let (id, _) = bed.create(full(count)).await;
        let ((), cost) = measured(&bed.node, bed.node.start_container(&id)).await;
        bed.remove(id).await;
        cost
    };
    growth.of("StartContainer", start).await;
    for verbose in [false, true] {
        let status = async |count: usize| {
            let (container_id, _) = bed.create(full(count)).await;
            let request = ContainerStatusRequest { container_id: container_id.clone(), verbose };
            let (status, cost) = measured(&bed.node, bed.node.cri().container_status(request)).await;
            status.unwrap();
            bed.remove(container_id).await;
            cost
        };
        growth.of(&format!("ContainerStatus, verbose {verbose}"), status).await;
    }
    let update = async |count: usize| {
        let (container_id, _) = bed.create(full(count)).await;
        let linux = Some(LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
        let request = UpdateContainerResourcesRequest {
            container_id: container_id.clone(),
            linux,
            annotations: texts(count),
            ..UpdateContainerResourcesRequest::default()
        };
        let (updated, cost) = measured(&bed.node, bed.node.cri().update_container_resources(request)).await;
        updated.unwrap();
        bed.remove(container_id).await;
        cost
    };
    growth.of("UpdateContainerResources", update).await;
    growth.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_costs_is_linear_in_its_arguments_and_its_container() {
    let bed = Bed::start("").await;
    let mut growth = Growth::default();
    let (id, _) = bed.create(|_| {}).await;
    bed.node.start_container(&id).await;
    let exec = async |container_id: &str, words: usize| {
        let mut cmd = vec!["fake".to_owned(), "exit=0".to_owned()];
        cmd.extend(vec!["out=".to_owned(); words]);
        let request = ExecSyncRequest { container_id: container_id.to_owned(), cmd, timeout: 10 };
        let (answer, cost) = measured(&bed.node, bed.node.cri().exec_sync(request)).await;
        assert_eq!(answer.unwrap().into_inner().exit_code, 0);
        cost
    };
    growth.of("ExecSync's cmd", async |count: usize| exec(&id, count).await).await;
    let in_large = async |count: usize| {
        let (id, _) = bed.create(|config| config.envs = envs(count)).await;
        bed.node.start_container(&id).await;
        let cost = exec(&id, 0).await;
        bed.remove(id).await;
        cost
    };
    growth.of("ExecSync in a container of many envs", in_large).await;
    let url = async |count: usize| {
        let cmd = words(count);
        let request = ExecRequest { container_id: id.clone(), cmd, stdout: true, ..Default::default() };
        let (answer, cost) = measured(&bed.node, bed.node.cri().exec(request)).await;
        answer.unwrap();
        cost
    };
    growth.of("Exec's cmd", url).await;
    growth.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_list_of_containers_costs_is_linear_in_them_and_in_its_filter() {
    let mut bed = Bed::start("").await;
    let (template, _) = bed.create(|_| {}).await;
    let mut growth = Growth::default();
    let selector = async |count: usize| {
        let filter = ContainerFilter { label_selector: texts(count), ..ContainerFilter::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let (listed, cost) = measured(&bed.node, bed.node.cri().list_containers(request)).await;
        listed.unwrap();
        cost
    };
    growth.of("ListContainers' label_selector", selector).await;
    let record = bed.node.containerd.container(&template).unwrap();
    let mut costs = HashMap::new();
    for count in [10, 100, 1000] {
        for number in 0..count {
            let id = format!("{number:064x}");
            bed.node.containerd.edit_container(&id, |copy| {
                copy.clone_from(&record);
                copy.id.clone_from(&id);
            });
        }
        bed.node.restart().await;
        let list = || async {
            let (listed, cost) =
                measured(&bed.node, bed.node.cri().list_containers(ListContainersRequest::default())).await;
            assert_eq!(listed.unwrap().into_inner().items.len(), count + 1);
            cost
        };
        let best = [list().await, list().await, list().await];
        costs.insert(count, best.into_iter().min().unwrap());
    }
    growth.of_sizes("ListContainers of many", [10, 100, 1000], async |count: usize| costs[&count]).await;
    growth.finish();
}
