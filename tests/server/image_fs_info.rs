//! ImageFsInfo measures only layers that are new or may have changed.

use pontoon::api::v1::image_service_client::ImageServiceClient;
use pontoon::api::v1::*;

use crate::support::containerd::Fault;
use crate::support::server::Node;

async fn info(node: &Node) -> ImageFsInfoResponse {
    ImageServiceClient::new(node.channel()).image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner()
}

fn walks(node: &Node) -> usize {
    node.containerd.calls().iter().filter(|call| call.method == "Snapshots/Usage").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_new_snapshots_are_measured() {
    let node = Node::start().await;
    let first = info(&node).await;
    let layers = walks(&node);
    assert!(layers > 0 && first.image_filesystems[0].used_bytes.unwrap().value > 0, "{first:?}");
    assert_eq!(first.image_filesystems, first.container_filesystems);
    node.run_with_container("web", &["fake"]).await;
    let second = info(&node).await;
    assert_eq!(walks(&node), layers + 1, "the container's root, and no layer again");
    let bytes = |info: &ImageFsInfoResponse| info.image_filesystems[0].used_bytes.unwrap().value;
    assert!(bytes(&second) > bytes(&first));
    info(&node).await;
    assert_eq!(walks(&node), layers + 1, "and nothing within ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_hangs_delays_no_call() {
    let node = Node::start().await;
    let known = info(&node).await;
    let gate = node.containerd.hang("Snapshots/Usage", 1);
    node.run_with_container("web", &["fake"]).await;
    let start = std::time::Instant::now();
    let meanwhile = info(&node).await;
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(meanwhile.image_filesystems[0].used_bytes, known.image_filesystems[0].used_bytes);
    gate.open();
    node.containerd.fault("Snapshots/List", 0, Fault::Error(tonic::Code::Unavailable));
    assert!(info(&node).await.image_filesystems[0].used_bytes.is_some(), "what it was, while containerd is away");
}
