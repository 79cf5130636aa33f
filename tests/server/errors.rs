//! What is wrong with a request is told by code and by the field's name, and nothing is made.

use pontoon::api::v1::*;
use tonic::{Code, Status};

use crate::support::requests;
use crate::support::server::Node;

/// The field that is made wrong, and how.
type Edit<R> = (&'static str, fn(&mut R));

fn assert_is(status: &Status, code: Code, word: &str) {
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pod_names_its_field() {
    let node = Node::start().await;
    let edits: [Edit<RunPodSandboxRequest>; 8] = [
        ("config", |r| r.config = None),
        ("metadata", |r| config(r).metadata = None),
        ("metadata.name", |r| metadata(r).name.clear()),
        ("metadata.uid", |r| metadata(r).uid.clear()),
        ("metadata.namespace", |r| metadata(r).namespace.clear()),
        ("runtime_handler", |r| r.runtime_handler = "no-such".to_owned()),
        ("hostname", |r| config(r).hostname = "a/b".to_owned()),
        ("dns_config", |r| config(r).dns_config.as_mut().unwrap().searches = vec!["a\nnameserver 6.6.6.6".to_owned()]),
    ];
    for (field, edit) in edits {
        let mut request = node.pod("web");
        edit(&mut request);
        let error = node.cri().run_pod_sandbox(request).await.expect_err(field);
        assert_is(&error, Code::InvalidArgument, field);
        node.assert_clean(field).await;
    }
}

fn config(request: &mut RunPodSandboxRequest) -> &mut PodSandboxConfig {
    request.config.as_mut().unwrap()
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
    let edits: [Edit<CreateContainerRequest>; 7] = [
        ("pod_sandbox_id", |r| r.pod_sandbox_id.clear()),
        ("config", |r| r.config = None),
        ("metadata", |r| container(r).metadata = None),
        ("metadata.name", |r| container(r).metadata.as_mut().unwrap().name.clear()),
        ("image", |r| container(r).image = None),
        ("container_path", |r| mount(r, "relative/path", "/etc")),
        ("host_path", |r| mount(r, "/data", "")),
    ];
    for (field, edit) in edits {
        let mut request = requests::container(&sandbox, &pod, "main", &["fake"]);
        edit(&mut request);
        let error = node.cri().create_container(request).await.expect_err(field);
        assert_is(&error, Code::InvalidArgument, field);
        node.containerd.collect_garbage();
        assert_eq!(node.leftovers(), before, "{field}");
    }
}

fn container(request: &mut CreateContainerRequest) -> &mut ContainerConfig {
    request.config.as_mut().unwrap()
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
    // These two are idempotent: kubelet repeats them until they succeed.
    node.remove(&unknown).await;
    let stop = StopContainerRequest { container_id: unknown.clone(), timeout: 1 };
    node.cri().stop_container(stop).await.unwrap();
    node.cri().remove_container(RemoveContainerRequest { container_id: unknown }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_id_is_enough_when_it_is_one_object_s() {
    let node = Node::start().await;
    let (sandbox, id) = node.running("web", &["fake"]).await;
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
