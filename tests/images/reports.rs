//! Images that users of other runtimes have reported: unusual ones, broken ones, and images whose blobs were deleted.
//! The numbers in the tests' names are those of the reports in the project's issue 14.

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{ListResourcesRequest, Resource};
use hyper_util::rt::TokioIo;
use pontoon::images::Kind;
use serde_json::json;
use tonic::Request;
use tonic::transport::Endpoint;

use super::bed::{Bed, until};
use super::odd::{CONFIG, LAYER, Repository, for_platform};

/// This host's architecture, another one that it can run, and one that it cannot run.
const ARCHITECTURES: [&str; 3] =
    if cfg!(target_arch = "aarch64") { ["arm64", "arm", "s390x"] } else { ["amd64", "386", "s390x"] };

async fn with_a_repository(path: &str) -> (Bed, Repository) {
    let mut bed = Bed::start(|settings, _| {
        let snapshotters = [("", "overlayfs"), ("other", "native")];
        settings.handler_snapshotters = snapshotters.map(|(name, of_it)| (name.to_owned(), of_it.to_owned())).into();
    })
    .await;
    let host = bed.registry(false).await;
    let repository = Repository::new(&bed, &host, path);
    (bed, repository)
}

/// Asserts that the image is unpacked, and that its /etc/passwd has this user.
async fn assert_runs(bed: &Bed, image: &str, user: &str) {
    let image = bed.images.resolve(image).unwrap();
    let (passwd, _) = bed.images.user_db(&image, "overlayfs").await.unwrap();
    assert_eq!(String::from_utf8(passwd).unwrap(), format!("{user}:x:1000:1000::/:/bin/sh\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r3_a_blob_that_is_no_layer_is_none() {
    let (bed, repository) = with_a_repository("a/wasm").await;
    let layer = repository.layer(LAYER, "one");
    let module = repository.blob("application/vnd.wasm.content.layer.v1+wasm", &[7; 5000]);
    let config = repository.config(ARCHITECTURES[0], &[&layer]);
    // In both orders.
    repository.manifest("after", &config, &[&layer, &module]);
    repository.manifest("before", &config, &[&module, &layer]);
    for tag in ["after", "before"] {
        let id = bed.pull(&repository.tag(tag)).await.unwrap();
        assert_eq!(Some(id.as_str()), config["digest"].as_str());
        assert_runs(&bed, &id, "one").await;
    }
    let size = bed.list()[0].size;
    assert!(size > layer["size"].as_u64().unwrap() + 5000, "the module takes space too: {size}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r4_a_config_may_leave_out_what_is_empty() {
    let (bed, repository) = with_a_repository("a/empty").await;
    let configs = [
        json!({}),
        json!({"architecture": ARCHITECTURES[0], "os": "linux"}),
        json!({"rootfs": null, "config": null}),
        json!({"rootfs": {}}),
        json!({"rootfs": {"type": "layers"}}),
        json!({"rootfs": {"type": "layers", "diff_ids": null}}),
        json!({"rootfs": {"type": "layers", "diff_ids": []}, "history": null}),
    ];
    for (number, config) in configs.iter().enumerate() {
        let config = repository.blob(CONFIG, config.to_string().as_bytes());
        repository.manifest(&number.to_string(), &config, &[]);
        let id = bed.pull(&repository.tag(&number.to_string())).await.unwrap();
        let image = bed.images.resolve(&id).unwrap();
        assert_eq!(image.chain_id, "", "no layer, so no root but an empty one");
    }
    assert_eq!(bed.list().len(), configs.len());
    let layer = repository.layer(LAYER, "one");
    let config = json!({"rootfs": {"diff_ids": [layer["digest"]]}});
    let config = repository.blob(CONFIG, config.to_string().as_bytes());
    repository.manifest("layer", &config, &[&layer]);
    let id = bed.pull(&repository.tag("layer")).await.unwrap();
    assert_runs(&bed, &id, "one").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r5_an_artefact_is_pulled_and_listed_and_no_container_is_made_of_it() {
    let (bed, repository) = with_a_repository("a/model").await;
    let config = repository.blob("application/vnd.oci.empty.v1+json", b"{}");
    let mut ids = Vec::new();
    for tag in ["one", "two"] {
        let data = repository.blob("application/octet-stream", tag.as_bytes());
        let manifest = repository.manifest(tag, &config, &[&data]);
        let id = bed.pull(&repository.tag(tag)).await.unwrap();
        assert_eq!(Some(id.as_str()), manifest["digest"].as_str(), "both have one config, and are not one image");
        assert!(bed.blobs().contains(&data["digest"].as_str().unwrap().to_owned()));
        for name in [&id, &repository.tag(tag)] {
            let error = bed.images.resolve(name).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("artefact") && text.contains("vnd.oci.empty.v1"), "{text}");
        }
        ids.push(id);
    }
    // The config of an artefact need not be JSON: it is not parsed.
    let config = repository.blob("application/x-tar", &[0, 1, 2]);
    repository.manifest("three", &config, &[]);
    bed.pull(&repository.tag("three")).await.unwrap();
    assert_eq!(bed.list().len(), 3);
    bed.remove(&repository.tag("one")).await;
    assert_eq!(bed.status(&ids[0]).await, None);
    let left = bed.status(&ids[1]).await.unwrap();
    assert_eq!((left.repo_tags, left.repo_digests.len()), (vec![repository.tag("two")], 1));
    // Also after a restart.
    bed.images.refresh().await.unwrap();
    assert_eq!(bed.list().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r6_of_an_index_what_the_host_can_run_is_run() {
    let (bed, repository) = with_a_repository("a/index").await;
    let [own, older, foreign] = ARCHITECTURES;
    let image = |architecture: &str, user: &str| {
        let layer = repository.layer(LAYER, user);
        let config = repository.config(architecture, &[&layer]);
        repository.manifest(user, &config, &[&layer])
    };
    let all = [(foreign, "foreign"), (older, "older"), (own, "own")];
    let manifests = all.map(|(architecture, user)| for_platform(image(architecture, user), architecture));
    repository.index("older", &manifests[..2]);
    bed.pull(&repository.tag("older")).await.unwrap();
    assert_runs(&bed, &repository.tag("older"), "older").await;
    repository.index("all", &manifests);
    bed.pull(&repository.tag("all")).await.unwrap();
    assert_runs(&bed, &repository.tag("all"), "own").await;
    // An index need not have the platforms of its manifests: their configs have them.
    repository.index("silent", &[image(foreign, "foreign"), image(own, "own")]);
    bed.pull(&repository.tag("silent")).await.unwrap();
    assert_runs(&bed, &repository.tag("silent"), "own").await;

    for name in bed.list() {
        bed.remove(&name.id).await;
    }
    repository.index("foreign", &[manifests[0].clone(), for_platform(image("riscv64", "riscv"), "riscv64")]);
    let error = bed.pull(&repository.tag("foreign")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let text = error.to_string();
    for part in [repository.tag("foreign").as_str(), "linux/s390x", "linux/riscv64", format!("linux/{own}").as_str()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(bed.list().is_empty() && bed.records().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r7_what_takes_space_is_listed_or_goes_with_the_pull_that_failed() {
    let (bed, repository) = with_a_repository("a/broken").await;
    let config = repository.blob(CONFIG, b"[1]");
    let manifest = repository.manifest("1", &config, &[]);
    let name = repository.tag("1");
    let error = bed.pull(&name).await.unwrap_err();
    assert!(error.to_string().contains(&name) && error.to_string().contains("malformed"), "{error}");
    assert!(bed.list().is_empty());
    assert_eq!((bed.records().await.len(), bed.blobs()), (0, vec![]));
    assert_eq!(bed.containerd.list_leases().await.unwrap(), Vec::<String>::new());

    // A tag that the registry moved to the malformed image keeps its old meaning, because the pull fails.
    let layer = repository.layer(LAYER, "one");
    repository.manifest("moves", &repository.config(ARCHITECTURES[0], &[&layer]), &[&layer]);
    let id = bed.pull(&repository.tag("moves")).await.unwrap();
    repository.manifest("moves", &config, &[]);
    bed.pull(&repository.tag("moves")).await.unwrap_err();
    assert_eq!(bed.status(&repository.tag("moves")).await.unwrap().id, id);
    bed.remove(&id).await;
    assert_eq!(bed.blobs(), Vec::<String>::new());

    // Another tool may have pulled the malformed image, or an earlier version of Pontoon may have left it.
    bed.ctr(&["content", "fetch", "--plain-http", &name]);
    until("it is listed", || async { !bed.list().is_empty() }).await;
    bed.images.refresh().await.unwrap();
    let list = bed.list();
    assert_eq!((list.len(), list[0].repo_tags.as_slice()), (1, [name.clone()].as_slice()), "{list:?}");
    assert_eq!(Some(list[0].id.as_str()), config["digest"].as_str());
    assert!(list[0].size >= manifest["size"].as_u64().unwrap());
    assert!(bed.images.resolve(&name).unwrap_err().to_string().contains(&name));
    bed.remove(&list[0].id).await;
    assert_eq!((bed.list().len(), bed.records().await.len(), bed.blobs()), (0, 0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r7_an_image_whose_documents_are_gone_is_listed_and_pulled_anew() {
    let (mut bed, repository) = with_a_repository("a/gone").await;
    let layer = repository.layer(LAYER, "one");
    let config = repository.config(ARCHITECTURES[0], &[&layer]);
    let manifest = repository.manifest("1", &config, &[&layer]);
    let name = repository.tag("1");
    let id = bed.pull(&name).await.unwrap();
    for document in [&config, &manifest] {
        bed.ctr(&["content", "rm", document["digest"].as_str().unwrap()]);
        bed.restart().await;
        let list = bed.list();
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!(bed.status(&name).await, None, "kubelet is to pull it");
        assert!(bed.status(&list[0].id).await.is_some(), "and can remove it");
        assert_eq!(bed.images.resolve(&name).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(bed.pull(&name).await.unwrap(), id);
        assert_runs(&bed, &name, "one").await;
        assert_eq!(bed.list().len(), 1);
    }
    bed.remove(&id).await;
    assert_eq!((bed.records().await.len(), bed.blobs()), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r8_a_pull_for_a_handler_with_another_snapshotter_unpacks_there() {
    let (bed, repository) = with_a_repository("a/native").await;
    for user in ["one", "two"] {
        let layer = repository.layer(LAYER, user);
        repository.manifest(user, &repository.config(ARCHITECTURES[0], &[&layer]), &[&layer]);
        let id = bed.pull_for(&repository.tag(user), "other").await.unwrap();
        let chain = bed.images.resolve(&id).unwrap().chain_id.clone();
        bed.containerd.stat_snapshot("native", &chain).await.unwrap();
        assert!(bed.containerd.stat_snapshot("overlayfs", &chain).await.unwrap_err().is_not_found());
        // Pulls for the default snapshotter work as before.
        bed.pull(&repository.tag(user)).await.unwrap();
        bed.containerd.stat_snapshot("overlayfs", &chain).await.unwrap();
        bed.ctr(&["content", "prune", "references"]);
        bed.containerd.stat_snapshot("native", &chain).await.unwrap();
    }
    let error = bed.pull_for(&repository.tag("none"), "other").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r9_a_pull_brings_back_layers_that_are_gone() {
    let (bed, repository) = with_a_repository("a/collected").await;
    let layers = ["one", "two"].map(|user| repository.layer(LAYER, user));
    let layers: Vec<_> = layers.iter().collect();
    repository.manifest("1", &repository.config(ARCHITECTURES[0], &layers), &layers);
    let name = repository.tag("1");
    let id = bed.pull(&name).await.unwrap();
    for layer in &layers {
        bed.ctr(&["content", "rm", layer["digest"].as_str().unwrap()]);
    }
    // The image stays unpacked for its snapshotter. Without the blobs of its layers it cannot be unpacked for another
    // one.
    assert_runs(&bed, &id, "two").await;
    let image = bed.images.resolve(&id).unwrap();
    let error = bed.images.ensure_unpacked(&image, "native").await.unwrap_err();
    assert!(error.to_string().contains("pull the image again"), "{error}");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");

    assert_eq!(bed.pull(&name).await.unwrap(), id);
    for layer in &layers {
        assert!(bed.blobs().contains(&layer["digest"].as_str().unwrap().to_owned()));
    }
    bed.images.ensure_unpacked(&image, "native").await.unwrap();
    bed.ctr(&["content", "prune", "references"]);
    bed.containerd.stat_snapshot("native", &image.chain_id).await.unwrap();
}

/// The resources of the leases whose names have this prefix.
async fn held(bed: &Bed, beginning: &str) -> Vec<Resource> {
    let socket = bed.dir.path().join("containerd.sock");
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let mut client = LeasesClient::new(Endpoint::from_static("http://containerd").connect_with_connector_lazy(connect));
    let mut found = Vec::new();
    let all = bed.containerd.list_leases().await.unwrap();
    for id in all.into_iter().filter(|id| id.starts_with(beginning)) {
        let mut request = Request::new(ListResourcesRequest { id });
        request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().unwrap());
        // A lease that was deleted meanwhile has no resources.
        found.extend(client.list_resources(request).await.into_iter().flat_map(|reply| reply.into_inner().resources));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r9_what_is_unpacked_already_is_held_while_the_rest_is_unpacked() {
    let (bed, repository) = with_a_repository("a/leased").await;
    let (below, above) =
        (repository.layer(LAYER, "below"), repository.layer("application/vnd.oci.image.layer.v1.slow", "above"));
    repository.manifest("below", &repository.config(ARCHITECTURES[0], &[&below]), &[&below]);
    repository.manifest("both", &repository.config(ARCHITECTURES[0], &[&below, &above]), &[&below, &above]);
    bed.pull_for(&repository.tag("below"), "other").await.unwrap();
    let hold = bed.dir.path().join("hold");
    std::fs::write(&hold, "").unwrap();

    let (name, images) = (repository.tag("both"), bed.images.clone());
    let pull = bed.pull_for(&name, "other");
    let look = async {
        until("the upper layer is being unpacked", || async {
            held(&bed, "pontoon-unpack-").await.iter().any(|one| one.id.starts_with("extract-"))
        })
        .await;
        let (unpacking, pulling) = (held(&bed, "pontoon-unpack-").await, held(&bed, "pontoon-pull-").await);
        std::fs::remove_file(&hold).unwrap();
        let has =
            |held: &[Resource], id: &serde_json::Value| held.iter().any(|one| Some(one.id.as_str()) == id.as_str());
        assert!(has(&unpacking, &below["digest"]), "its name is its digest, as it is the lowest: {unpacking:?}");
        assert!(has(&pulling, &above["digest"]), "{pulling:?}");
    };
    let (pulled, ()) = tokio::join!(pull, look);
    let id = pulled.unwrap();
    let image = images.resolve(&id).unwrap();
    bed.containerd.stat_snapshot("native", &image.chain_id).await.unwrap();
    assert_eq!(bed.containerd.list_leases().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn r11_a_filter_without_tag_and_digest_is_a_repository() {
    let (bed, repository) = with_a_repository("a/tools").await;
    let mut ids = Vec::new();
    for tag in ["1.36", "1.37"] {
        let layer = repository.layer(LAYER, &format!("u{}", &tag[2..]));
        repository.manifest(tag, &repository.config(ARCHITECTURES[0], &[&layer]), &[&layer]);
        ids.push(bed.pull(&repository.tag(tag)).await.unwrap());
    }
    ids.sort();
    assert_eq!(bed.filtered(&repository.name), ids);
    assert_eq!(bed.filtered(&repository.tag("1.36")).len(), 1);
    for nothing in
        [repository.name.trim_end_matches('s').to_owned(), repository.tag("latest"), format!("{}/x", repository.name)]
    {
        assert_eq!(bed.filtered(&nothing), Vec::<String>::new(), "{nothing}");
    }
    assert_eq!(bed.filtered(&ids[0]["sha256:".len()..][..12]), [ids[0].clone()], "a short id");
    // Docker's short names.
    bed.ctr(&["images", "tag", &repository.tag("1.36"), "docker.io/library/busybox:1.36"]);
    until("it is listed", || async { bed.status("busybox:1.36").await.is_some() }).await;
    for name in ["busybox", "docker.io/library/busybox", "library/busybox"] {
        assert_eq!(bed.filtered(name).len(), 1, "{name}");
    }
}
