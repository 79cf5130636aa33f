//! A bad request fails with a specific status code and the name of the field, and nothing is created.

use pontoon::api::v1::*;
use tonic::{Code, Status};

use crate::support::requests;
use crate::support::server::Node;

/// The start of the expected message, and the change that makes the request invalid.
type Edit<R> = (&'static str, fn(&mut R));

fn assert_begins(status: &Status, code: Code, words: &str) {
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().starts_with(words), "{words:?} is not the beginning of {:?}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_12_mebibytes_is_taken_and_one_of_17_is_refused() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    // A part of the request that is only compared with a retry may be as large as the message.
    let large = |mebibytes: usize| {
        let mut request = requests::container(&sandbox, &pod, "main", &["fake"]);
        let annotations = &mut request.sandbox_config.as_mut().unwrap().annotations;
        annotations.insert("large".to_owned(), "x".repeat(mebibytes << 20));
        container(&mut request).envs = vec![KeyValue { key: "A".to_owned(), value: vec![b'x'; 3 << 20] }];
        request
    };
    let error = node.cri().create_container(large(17)).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    let container_id = node.create(&large(12)).await;
    let request = ContainerStatusRequest { container_id, verbose: true };
    let info = node.cri().container_status(request).await.unwrap().into_inner().info;
    assert!(info["info"].len() < 64 << 10 && info["info"].contains("leftOut"), "{:.300}", info["info"]);
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pod_names_its_field() {
    let node = Node::start().await;
    let edits: [Edit<RunPodSandboxRequest>; 19] = [
        ("config: ", |r| r.config = None),
        ("config.metadata: ", |r| config(r).metadata = None),
        ("config.metadata.name: ", |r| metadata(r).name.clear()),
        ("config.metadata.uid: ", |r| metadata(r).uid.clear()),
        ("config.metadata.namespace: ", |r| metadata(r).namespace.clear()),
        ("config.metadata.name: ", |r| metadata(r).name = "a;B=c".to_owned()),
        ("config.metadata.namespace: ", |r| metadata(r).namespace = "a=b".to_owned()),
        ("config.metadata.uid: ", |r| metadata(r).uid = "a\nb".to_owned()),
        ("runtime_handler: ", |r| r.runtime_handler = "no-such".to_owned()),
        ("config.hostname: ", |r| config(r).hostname = "a/b".to_owned()),
        ("config.log_directory: ", |r| config(r).log_directory = "logs".to_owned()),
        ("config.log_directory: ", |r| config(r).log_directory = "/logs/..".to_owned()),
        ("config.dns_config.servers: ", |r| dns(r).servers = vec!["1.2.3.4\nnameserver 6.6.6.6".to_owned()]),
        ("config.dns_config.searches: ", |r| dns(r).searches = vec!["a\nnameserver 6.6.6.6".to_owned()]),
        ("config.dns_config.options: ", |r| dns(r).options = vec!["a\nnameserver 6.6.6.6".to_owned()]),
        ("config.annotations[kubernetes.io/egress-bandwidth]: ", |r| {
            let key = "kubernetes.io/egress-bandwidth".to_owned();
            config(r).annotations.insert(key, "fast".to_owned());
        }),
        ("config.port_mappings[0].host_port: ", |r| config(r).port_mappings = vec![port(0, -1)]),
        ("config.port_mappings[0].host_ip: ", |r| {
            config(r).port_mappings = vec![PortMapping { host_ip: "localhost".to_owned(), ..port(0, 80) }];
        }),
        ("config.port_mappings[0].protocol: ", |r| config(r).port_mappings = vec![port(4, 80)]),
    ];
    for (field, edit) in edits {
        let mut request = node.pod("web");
        edit(&mut request);
        let error = node.cri().run_pod_sandbox(request).await.expect_err(field);
        assert_begins(&error, Code::InvalidArgument, field);
        node.assert_clean(field).await;
    }
}

fn config(request: &mut RunPodSandboxRequest) -> &mut PodSandboxConfig {
    request.config.as_mut().unwrap()
}

fn dns(request: &mut RunPodSandboxRequest) -> &mut DnsConfig {
    config(request).dns_config.as_mut().unwrap()
}

fn port(protocol: i32, host_port: i32) -> PortMapping {
    PortMapping { protocol, container_port: 80, host_port, ..PortMapping::default() }
}

fn metadata(request: &mut RunPodSandboxRequest) -> &mut PodSandboxMetadata {
    config(request).metadata.as_mut().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_container_names_its_field() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let before = node.leftovers();
    let edits: [Edit<CreateContainerRequest>; 13] = [
        ("pod_sandbox_id: ", |r| r.pod_sandbox_id.clear()),
        ("config: ", |r| r.config = None),
        ("config.metadata: ", |r| container(r).metadata = None),
        ("config.metadata.name: ", |r| container(r).metadata.as_mut().unwrap().name.clear()),
        ("config.image.image: ", |r| container(r).image = None),
        ("config.image.runtime_handler: ", |r| image(r).runtime_handler = "no-such".to_owned()),
        ("ImageVolumeMountFailed: config.mounts[0].image.runtime_handler: ", |r| {
            let image = Some(ImageSpec { runtime_handler: "no-such".to_owned(), ..image(r).clone() });
            let container_path = "/image".to_owned();
            container(r).mounts = vec![Mount { container_path, readonly: true, image, ..Mount::default() }];
        }),
        ("config.mounts[0].container_path: ", |r| mount(r, "relative/path", "/etc")),
        ("config.mounts[0].host_path: ", |r| mount(r, "/data", "")),
        ("config.linux.security_context.namespace_options.network: ", |r| options(r).network = 2),
        ("config.linux.security_context.namespace_options.pid: ", |r| options(r).pid = 17),
        ("config.linux.security_context.namespace_options.target_id: ", |r| options(r).target_id = "x".to_owned()),
        ("config.linux.resources.oom_score_adj: ", |r| {
            let resources = LinuxContainerResources { oom_score_adj: 1001, ..LinuxContainerResources::default() };
            container(r).linux.as_mut().unwrap().resources = Some(resources);
        }),
    ];
    for (field, edit) in edits {
        let mut request = requests::container(&sandbox, &pod, "main", &["fake"]);
        edit(&mut request);
        let error = node.cri().create_container(request).await.expect_err(field);
        assert_begins(&error, Code::InvalidArgument, field);
        node.containerd.collect_garbage();
        assert_eq!(node.leftovers(), before, "{field}");
    }
}

fn container(request: &mut CreateContainerRequest) -> &mut ContainerConfig {
    request.config.as_mut().unwrap()
}

fn image(request: &mut CreateContainerRequest) -> &mut ImageSpec {
    container(request).image.as_mut().unwrap()
}

fn options(request: &mut CreateContainerRequest) -> &mut NamespaceOption {
    let linux = container(request).linux.as_mut().unwrap();
    linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

/// The target of a PID namespace must be a running container of the same pod, at create and again at start.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_a_running_container_of_the_pod() {
    const FIELD: &str = "config.linux.security_context.namespace_options.target_id: ";
    let node = Node::start().await;
    let pod = node.pod("web");
    let (sandbox, running) = node.run_with_container("web", &["fake"]).await;
    let created = node.create(&requests::container(&sandbox, &pod, "created", &["fake"])).await;
    let (_, other) = node.run_with_container("other", &["fake"]).await;
    let request = |target: &str| {
        let mut request = requests::container(&sandbox, &pod, "debug", &["fake"]);
        *options(&mut request) = NamespaceOption { pid: 3, target_id: target.to_owned(), ..NamespaceOption::default() };
        request
    };
    let unknown = "a".repeat(64);
    for (target, code, words) in [
        (&other, Code::InvalidArgument, format!("{FIELD}container {other} is in another sandbox")),
        (&unknown, Code::NotFound, format!("container {unknown:?} not found")),
        (&created, Code::FailedPrecondition, format!("container {created} is created, not running")),
    ] {
        assert_begins(&node.cri().create_container(request(target)).await.unwrap_err(), code, &words);
    }
    let debug = node.create(&request(&running)).await;
    let stop = StopContainerRequest { container_id: running.clone(), timeout: 0 };
    node.cri().stop_container(stop).await.unwrap();
    let start = StartContainerRequest { container_id: debug };
    let error = node.cri().start_container(start).await.unwrap_err();
    assert_begins(&error, Code::FailedPrecondition, &format!("container {running} is exited, not running"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_for_an_unknown_handler_is_refused() {
    let node = Node::start().await;
    let handler = "no-such".to_owned();
    let spec = ImageSpec { image: "docker.io/library/x".to_owned(), runtime_handler: handler, ..ImageSpec::default() };
    let pull = PullImageRequest { image: Some(spec), ..PullImageRequest::default() };
    let error = node.images().pull_image(pull).await.unwrap_err();
    assert_begins(&error, Code::InvalidArgument, "image.runtime_handler: no runtime handler \"no-such\"");
}

fn mount(request: &mut CreateContainerRequest, container_path: &str, host_path: &str) {
    let mount =
        Mount { container_path: container_path.to_owned(), host_path: host_path.to_owned(), ..Mount::default() };
    container(request).mounts.push(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_path_does_not_leave_its_directory() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let mut request = requests::container(&sandbox, &pod, "main", &["fake", "out=x\n", "exit=0"]);
    container(&mut request).log_path = "../../escaped.log".to_owned();
    let made = node.cri().create_container(request).await;
    let error = match made {
        Err(error) => error,
        Ok(reply) => {
            let start = StartContainerRequest { container_id: reply.into_inner().container_id };
            node.cri().start_container(start).await.expect_err("it must not start either")
        }
    };
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(!node.logs().parent().unwrap().join("escaped.log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_are_not_found_and_empty_ones_invalid() {
    let node = Node::start().await;
    let unknown = "a".repeat(64);
    for (id, code) in [(unknown.as_str(), Code::NotFound), ("", Code::InvalidArgument)] {
        let id = id.to_owned();
        let mut cri = node.cri();
        let answers = [
            cri.pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false })
                .await
                .map(drop),
            cri.container_status(ContainerStatusRequest { container_id: id.clone(), verbose: false }).await.map(drop),
            cri.start_container(StartContainerRequest { container_id: id.clone() }).await.map(drop),
            cri.reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() }).await.map(drop),
            cri.exec_sync(ExecSyncRequest { container_id: id.clone(), cmd: vec!["x".to_owned()], timeout: 1 })
                .await
                .map(drop),
            cri.update_container_resources(UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(LinuxContainerResources::default()),
                ..UpdateContainerResourcesRequest::default()
            })
            .await
            .map(drop),
        ];
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap_err().code(), code, "call {number} of id {id:?}");
        }
    }
    // These are idempotent: kubelet repeats them until they succeed.
    node.remove(&unknown).await;
    let stop = StopContainerRequest { container_id: unknown.clone(), timeout: 1 };
    node.cri().stop_container(stop).await.unwrap();
    node.cri().remove_container(RemoveContainerRequest { container_id: unknown }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_id_is_enough_when_it_is_one_object_s() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    assert_eq!(node.status(&id[..12]).await.id, id);
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox[..12].to_owned(), verbose: true };
    let reply = node.cri().pod_sandbox_status(request).await.unwrap().into_inner();
    assert_eq!(reply.status.unwrap().id, sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_unimplemented() {
    let node = Node::start().await;
    let error = node.cri().checkpoint_container(CheckpointContainerRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

/// Sends a call with a deadline as kubelet does, from a client that does not enforce the deadline itself. Returns the
/// headers of the response.
async fn timed(node: &Node, method: &str, timeout: &str, message: &impl prost::Message) -> http::HeaderMap {
    let socket = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(socket);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let message = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let request = http::Request::post(format!("http://pontoon/runtime.v1.RuntimeService/{method}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request = request.header("grpc-timeout", timeout).body(String::from_utf8(frame).unwrap()).unwrap();
    client.send_request(request).await.unwrap().headers().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_beyond_its_deadline_has_the_code_for_that_and_goes_on() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let gate = node.containerd.hang("Tasks/Kill", 1);
    let stop = StopContainerRequest { container_id: id.clone(), timeout: 0 };
    let headers = timed(&node, "StopContainer", "300m", &stop).await;
    assert_eq!(headers["grpc-status"], "4", "{headers:?}");
    gate.arrived().await;
    gate.open();
    node.ended(&id).await;
}
