//! The image that a container reports, and images from which no container can be created.

use std::time::Duration;

use pontoon::api::v1::*;
use serde_json::json;
use tonic::Code;

use crate::support::containerd::{CONFIG, IMAGE};
use crate::support::requests;
use crate::support::server::Node;

/// The image and its id, which ListContainers and ContainerStatus must both report.
async fn image_of(node: &Node, id: &str) -> (String, String) {
    let list = node.cri().list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
    let listed = list.decoded().unwrap().into_iter().find(|container| container.id == id).unwrap();
    let status = node.status(id).await;
    assert_eq!(listed.image, status.image);
    assert_eq!(listed.image_id, status.image_id);
    (status.image.unwrap().image, status.image_id)
}

/// The images that `crictl rmi --prune` keeps: those that ImageStatus returns for the `image` of each container.
async fn kept(node: &Node) -> Vec<String> {
    let list = node.cri().list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
    let mut kept = Vec::new();
    for container in list.decoded().unwrap() {
        kept.push(id_of(node, &container.image.unwrap().image).await);
    }
    kept.sort();
    kept.dedup();
    kept
}

async fn id_of(node: &Node, image: &str) -> String {
    let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    let request = ImageStatusRequest { image, verbose: false };
    node.images().image_status(request).await.unwrap().into_inner().image.map(|image| image.id).unwrap_or_default()
}

/// The server learns of the change from an event, so this polls.
async fn until_means(node: &Node, image: &str, id: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while id_of(node, image).await != id {
        assert!(tokio::time::Instant::now() < deadline, "{image} does not mean {id:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_a_containers_image_is_what_was_asked_for_and_never_another_one() {
    let mut node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let id = id_of(&node, IMAGE).await;
    let mut made = Vec::new();
    for (name, image) in [("id", id.as_str()), ("tag", IMAGE)] {
        let mut request = requests::container(&sandbox, &pod, name, &["fake"]);
        let spec = request.config.as_mut().and_then(|config| config.image.as_mut()).unwrap();
        image.clone_into(&mut spec.image);
        // The name that the pod's author wrote, as kubelet sends it.
        IMAGE.clone_into(&mut spec.user_specified_image);
        made.push(node.create(&request).await);
    }
    assert_eq!(image_of(&node, &made[0]).await, (id.clone(), id.clone()));
    assert_eq!(image_of(&node, &made[1]).await, (IMAGE.to_owned(), id.clone()));
    assert_eq!(kept(&node).await, std::slice::from_ref(&id));

    let other = node.containerd.tag_image(IMAGE, CONFIG, &json!({"config": {"Cmd": ["other"]}}));
    until_means(&node, IMAGE, &other).await;
    for _ in 0..2 {
        for container in &made {
            assert_eq!(image_of(&node, container).await, (id.clone(), id.clone()), "the tag means another image");
        }
        assert_eq!(kept(&node).await, std::slice::from_ref(&id));
        node.restart().await;
    }
    node.containerd.delete_image(IMAGE);
    until_means(&node, IMAGE, "").await;
    assert_eq!(kept(&node).await, [id]);
    node.remove(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_container_of_an_artefact_is_refused_by_name() {
    let node = Node::start().await;
    let (pod, name) = (node.pod("web"), "registry.example/model:1");
    let sandbox = node.run(&pod).await;
    let manifest = node.containerd.tag_image(name, "application/vnd.oci.empty.v1+json", &json!({}));
    until_means(&node, name, &manifest).await;
    let before = node.leftovers();
    let mut request = requests::container(&sandbox, &pod, "main", &["fake"]);
    let config = request.config.as_mut().unwrap();
    name.clone_into(&mut config.image.as_mut().unwrap().image);
    let error = node.cri().create_container(request.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().starts_with("config.image.image: ") && error.message().contains(name), "{error}");
    assert!(error.message().contains("artefact"), "{error}");

    // A mount of the artefact is refused too, as long as mounts of artefacts are not supported.
    let config = request.config.as_mut().unwrap();
    IMAGE.clone_into(&mut config.image.as_mut().unwrap().image);
    let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    config.mounts = vec![Mount { container_path: "/model".to_owned(), readonly: true, image, ..Mount::default() }];
    let error = node.cri().create_container(request).await.unwrap_err();
    assert!(error.message().starts_with("ImageVolumeMountFailed: config.mounts[0].image: "), "{error}");
    assert!(error.message().contains(name), "{error}");
    assert_eq!(node.leftovers(), before);
    node.remove(&sandbox).await;
}
