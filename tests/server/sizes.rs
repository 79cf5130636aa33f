//! T9: no text that a pod or an image contains can break a reply that lists all pods or images. What is too large is
//! refused with the name of its field.

use std::collections::HashMap;

use pontoon::api::v1::*;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::support::containerd::CONFIG;
use crate::support::requests;
use crate::support::server::Node;

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, words: &str) {
    let error = answer.expect_err(words);
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().starts_with(words), "{words:?} is not the beginning of {:?}", error.message());
}

fn one(bytes: usize) -> HashMap<String, String> {
    [("large".to_owned(), "x".repeat(bytes))].into()
}

async fn run(node: &Node, name: &str, edit: impl FnOnce(&mut PodSandboxConfig)) -> Result<String, Status> {
    let mut pod = node.pod(name);
    edit(pod.config.as_mut().unwrap());
    Ok(node.cri().run_pod_sandbox(pod).await?.into_inner().pod_sandbox_id)
}

/// A container of the pod `web`.
async fn create(
    (node, sandbox): (&Node, &str),
    name: &str,
    edit: impl FnOnce(&mut ContainerConfig),
) -> Result<String, Status> {
    let mut request = requests::container(sandbox, &node.pod("web"), name, &["fake"]);
    edit(request.config.as_mut().unwrap());
    Ok(node.cri().create_container(request).await?.into_inner().container_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_a_pod_says_no_more_than_kubernetes_allows_it() {
    let node = Node::start().await;
    refused(run(&node, "web", |config| config.annotations = one(330_000)).await, "config.annotations: is most of");
    refused(run(&node, "web", |config| config.labels = one(330_000)).await, "config.labels: is most of");
    node.assert_clean("what was refused").await;
    let most = |config: &mut PodSandboxConfig| config.annotations = one((256 << 10) - 5);
    let id = run(&node, "web", most).await.unwrap();
    let request = PodSandboxStatusRequest { pod_sandbox_id: id, verbose: true };
    let status = node.cri().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.annotations["large"].len(), (256 << 10) - 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_the_containers_of_110_pods_are_listed_whatever_they_say() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    let pod = (&node, sandbox.as_str());
    for number in 0..12 {
        let name = format!("n{number}");
        let large = |config: &mut ContainerConfig| config.annotations = one(1_400_000);
        refused(create(pod, &name, large).await, "config.annotations: is most of 14000");
    }
    refused(create(pod, "main", |config| config.labels = one(1_400_000)).await, "config.labels: is most of");
    let image = |config: &mut ContainerConfig| {
        config.image.get_or_insert_default().user_specified_image = "x".repeat(1_400_000);
    };
    refused(create(pod, "main", image).await, "config.image: is most of");
    let half = |config: &mut ContainerConfig| config.annotations = one(70 << 10);
    create(pod, "main", half).await.unwrap();
    refused(create(pod, "side", half).await, "config.annotations: is most of");
    // The next attempt of an accepted container is accepted, and so are annotations of the size that kubelet sends.
    let next = |config: &mut ContainerConfig| {
        half(config);
        config.metadata.get_or_insert_default().attempt = 1;
    };
    create(pod, "main", next).await.unwrap();
    create(pod, "side", |config| config.annotations = one(3000)).await.unwrap();
    assert_eq!(node.containers().await.len(), 3);
    let update = UpdateContainerResourcesRequest {
        container_id: node.containers().await[0].0.clone(),
        linux: Some(LinuxContainerResources::default()),
        annotations: one(132_000),
        ..UpdateContainerResourcesRequest::default()
    };
    refused(node.cri().update_container_resources(update).await, "annotations: have 132005 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn t9_what_an_image_says_is_bounded_where_images_are_listed() {
    let node = Node::start().await;
    let user = "u".repeat(7 << 20);
    for number in 0..3 {
        let config =
            json!({ "architecture": "amd64", "os": "linux", "created_by": number, "config": { "User": user } });
        node.containerd.tag_image(&format!("registry.example/large:{number}"), CONFIG, &config);
    }
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let images = node.images().list_images(ListImagesRequest::default()).await.unwrap().into_inner().images;
        assert!(images.iter().all(|image| image.username.len() <= 256));
        if images.iter().filter(|image| image.username.starts_with("uuu")).count() == 3 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{images:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_or_a_manifest_of_too_many_entries_is_malformed() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    let digest = format!("sha256:{}", "a".repeat(64));
    let entry = json!({ "digest": digest, "size": 1, "mediaType": "application/vnd.oci.image.layer.v1.tar" });
    let platform = |number: usize| json!({ "digest": digest, "platform": { "os": "linux", "architecture": format!("x{number}") } });
    let index = |count: usize| json!({ "manifests": (0..count).map(platform).collect::<Vec<_>>() });
    let config = json!({ "digest": digest, "size": 1, "mediaType": CONFIG });
    let manifest = json!({ "config": config, "layers": vec![entry; 1001] });
    let documents: [(&str, Value, &str); 3] = [
        ("index:1001", index(1001), "an index of 1001 entries, more than 1000"),
        ("index:1000", index(1000), "linux/x1"),
        ("layers:1001", manifest, "1001 layers, more than 1000"),
    ];
    for (name, document, words) in documents {
        let name = format!("registry.example/{name}");
        node.containerd.tag_document(&name, &document);
        let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
        let error = loop {
            let of_image = |config: &mut ContainerConfig| config.image.get_or_insert_default().image = name.clone();
            let error = create((&node, &sandbox), "main", of_image).await.unwrap_err();
            if error.message().contains(words) || tokio::time::Instant::now() > deadline {
                break error;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert!(error.message().contains(words), "{name}: {:.300}", error.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_too_many_names_its_field() {
    let node = Node::start().await;
    let metadata = |config: &mut PodSandboxConfig| config.metadata.get_or_insert_default().name = "x".repeat(2000);
    refused(run(&node, "web", metadata).await, "config.metadata.name: has 2000 bytes");
    let searches = |config: &mut PodSandboxConfig| {
        config.dns_config = Some(DnsConfig { searches: vec!["a.b".to_owned(); 20_000], ..DnsConfig::default() });
    };
    refused(run(&node, "web", searches).await, "config.dns_config: has 80000 bytes");
    let ports = |config: &mut PodSandboxConfig| config.port_mappings = vec![PortMapping::default(); 200_001];
    refused(run(&node, "web", ports).await, "config.port_mappings: 200001 of them");
    let (sandbox, running) = node.run_with_container("web", &["fake"]).await;
    let pod = (&node, sandbox.as_str());
    let limit = HugepageLimit { page_size: "2MB".to_owned(), limit: 0 };
    let pages = |config: &mut ContainerConfig| {
        let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
        resources.hugepage_limits = vec![limit; 65];
    };
    refused(create(pod, "other", pages).await, "config.linux.resources.hugepage_limits: 65 limits");
    let mount = |host_path: String| Mount { container_path: "/data".to_owned(), host_path, ..Mount::default() };
    let long = format!("{}{}", node.logs().display(), "/a".repeat(2048));
    let mounts = |config: &mut ContainerConfig| config.mounts = vec![mount(long)];
    refused(create(pod, "other", mounts).await, "config.mounts[0].host_path: has more than 4095 bytes");
    let name = format!("{}/missing/{}", node.logs().display(), "n".repeat(256));
    let mounts = |config: &mut ContainerConfig| config.mounts = vec![mount(name)];
    refused(create(pod, "other", mounts).await, "config.mounts[0].host_path: has a name that is too long");
    let image = Some(ImageSpec { image: "sha256:0a".to_owned(), ..ImageSpec::default() });
    let image = Mount { container_path: "/i".to_owned(), readonly: true, image, ..Mount::default() };
    let images = |config: &mut ContainerConfig| config.mounts = vec![image; 1001];
    refused(create(pod, "other", images).await, "config.mounts: 1001 of them are images");
    let log = |config: &mut ContainerConfig| config.log_path = "n".repeat(256);
    refused(create(pod, "other", log).await, "config.log_path: ");
    let cmd = vec!["x".repeat(1 << 20); 7];
    let exec = ExecSyncRequest { container_id: running.clone(), cmd: cmd.clone(), timeout: 1 };
    refused(node.cri().exec_sync(exec).await, "cmd: has 7340039 bytes");
    let exec = ExecRequest { container_id: running, cmd, stdout: true, ..ExecRequest::default() };
    refused(node.cri().exec(exec).await, "cmd: has 7340039 bytes");
    let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![80; 1001] };
    refused(node.cri().port_forward(request).await, "port: 1001 ports");
    let cpuset_cpus = "1,".repeat(1 << 20);
    let resources = Some(LinuxContainerResources { cpuset_cpus, ..LinuxContainerResources::default() });
    let update = UpdatePodSandboxResourcesRequest { pod_sandbox_id: sandbox, resources, ..Default::default() };
    refused(node.cri().update_pod_sandbox_resources(update).await, "resources: is most of");
}

/// A path with two thousand directories is created, without a stack overflow on any thread.
#[tokio::test(flavor = "multi_thread")]
async fn the_deepest_host_path_that_there_can_be_is_made() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    let below = node.logs().display().to_string();
    let deep = below.clone() + &"/a".repeat((4095 - below.len()) / 2);
    let mount = Mount { container_path: "/data".to_owned(), host_path: deep, ..Mount::default() };
    create((&node, &sandbox), "main", |config| config.mounts = vec![mount]).await.unwrap();
    node.remove_all().await;
    node.clear_logs();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_message_carries_ends_no_stream() {
    let node = Node::start().await;
    let mut events = node.cri().get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
    let sandbox = node.run(&node.pod("web")).await;
    let mount = |number: usize| Mount {
        container_path: format!("/{number}/{}", "x".repeat(4000)),
        host_path: "/var/tmp".to_owned(),
        ..Mount::default()
    };
    for number in 0..18 {
        let many = |config: &mut ContainerConfig| config.mounts = (0..250).map(mount).collect();
        create((&node, &sandbox), &format!("n{number}"), many).await.unwrap();
    }
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: false };
    let error = node.cri().pod_sandbox_status(request).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    let other = node.run(&node.pod("other")).await;
    let heard = async {
        while let Some(event) = events.message().await.unwrap() {
            if event.container_id == other {
                return;
            }
        }
        panic!("the stream has ended");
    };
    tokio::time::timeout(crate::support::PATIENCE, heard).await.expect("another pod's event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_the_log_is_short_whatever_the_request_says() {
    let node = Node::start().await;
    let container_id = "x".repeat(1 << 20);
    let stop = StopContainerRequest { container_id, timeout: 0 };
    // Stopping an unknown container does nothing; only the log line matters here.
    let _ = node.cri().stop_container(stop).await;
    let name = |config: &mut PodSandboxConfig| config.metadata.get_or_insert_default().name = "y".repeat(1 << 20);
    refused(run(&node, "web", name).await, "config.metadata.name: ");
    let log = node.log();
    let longest = log.lines().map(str::len).max().unwrap_or_default();
    assert!(log.contains("xxx...") && log.contains("yyy...") && longest < 8 << 10, "{longest} bytes");
}
