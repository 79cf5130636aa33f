//! The module `images` with a real containerd and real registries.
//!
//! Needs root, docker-registry and skopeo, and containerd and ctr in the directory `PONTOON_BIN_DIR`. Therefore these tests
//! run only with `--include-ignored`, as `make test` runs them.

#![allow(clippy::unwrap_used, reason = "a test's helper may fail the test")]

#[path = "images/bed.rs"]
mod bed;
#[path = "images/odd.rs"]
mod odd;
#[path = "images/records.rs"]
mod records;
#[path = "images/reports.rs"]
mod reports;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use bed::{Bed, build, free_port, install_verifier, small, spec, until};
use futures_util::StreamExt as _;
use futures_util::future::select_all;
use futures_util::stream::FuturesUnordered;
use pontoon::api::v1 as cri;
use pontoon::images::{Kind, Pace};
use serde_json::json;

const MANAGED: &str = "io.cri-containerd.image";
const PINNED: &str = "io.cri-containerd.pinned";

/// A bed with a pulled image. Returns the bed, the registry's host, and the image's tag and id.
async fn with_an_image() -> (Bed, String, String, String) {
    let mut bed = Bed::start(|_, _| {}).await;
    let host = bed.registry(false).await;
    let tag = format!("{host}/a/b:1");
    bed.push(&small(&bed, "one"), &tag);
    let id = bed.pull(&tag).await.unwrap();
    (bed, host, tag, id)
}

/// The reference of an image in a registry that accepts connections and never responds, and the registry's listener.
async fn silent() -> (String, tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    (format!("{}/a:1", listener.local_addr().unwrap()), listener)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn a_pulled_image_is_listed_found_and_removed() {
    let (bed, host, tag, id) = with_an_image().await;

    let list = bed.list();
    assert_eq!(list.len(), 1, "{list:?}");
    let image = &list[0];
    assert_eq!((image.id.as_str(), image.repo_tags.as_slice()), (id.as_str(), [tag.clone()].as_slice()));
    assert!(image.size > 0 && image.uid.is_none() && image.username == "one" && !image.pinned && image.spec.is_some());
    let digest = image.repo_digests[0].clone();
    for name in [&tag, &digest, &id, &id["sha256:".len()..][..12].to_owned()] {
        assert_eq!(bed.status(name).await.map(|image| image.id), Some(id.clone()), "{name}");
        let filter = cri::ImageFilter { image: Some(spec(name)) };
        let filtered = bed.images.list_images(cri::ListImagesRequest { filter: Some(filter) }).unwrap();
        assert_eq!(filtered.images.len(), 1, "{name}");
    }
    assert_eq!(bed.status("nothing/here").await, None);
    let verbose = cri::ImageStatusRequest { image: Some(spec(&id)), verbose: true };
    let info = bed.images.image_status(verbose).await.unwrap().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert!(info["chainID"].is_string() && info["imageSpec"]["config"]["User"] == "one", "{info}");

    let records = bed.records().await;
    assert_eq!(records.len(), 3, "{records:?}");
    for labels in records.values() {
        assert_eq!(labels.keys().collect::<Vec<_>>(), [MANAGED], "no label of the image is on a record");
    }

    // A second name of the same image is removed together with the first.
    let other = format!("{host}/c:2");
    bed.push(&small(&bed, "one"), &other);
    assert_eq!(bed.pull(&other).await.unwrap(), id);
    assert_eq!(bed.list()[0].repo_tags.len(), 2);
    let snapshot = bed.images.resolve(&id).unwrap().chain_id.clone();
    bed.containerd.stat_snapshot("overlayfs", &snapshot).await.unwrap();
    bed.remove(&tag).await;
    assert!(bed.list().is_empty() && bed.records().await.is_empty());
    assert!(bed.containerd.stat_snapshot("overlayfs", &snapshot).await.unwrap_err().is_not_found());
    bed.remove(&tag).await;

    // A pull by digest sets no tag.
    assert_eq!(bed.pull(&digest).await.unwrap(), id);
    let image = bed.status(&id).await.unwrap();
    assert_eq!((image.repo_tags, image.repo_digests), (vec![], vec![digest]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn what_a_killed_process_held_is_let_go() {
    let (bed, _, _, id) = with_an_image().await;
    let chain = bed.images.resolve(&id).unwrap().chain_id.clone();
    for name in ["pontoon-look-0", "somebody-else"] {
        let leased = bed.containerd.leased(name, "2099-01-01T00:00:00Z").await.unwrap();
        leased.view_snapshot("overlayfs", name, &chain, Default::default()).await.unwrap();
    }

    bed.images.end_old_leases().await.unwrap();
    let containerd = &bed.containerd;
    until(
        "its view is collected",
        || async move { containerd.stat_snapshot("overlayfs", "pontoon-look-0").await.is_err() },
    )
    .await;
    assert_eq!(bed.containerd.list_leases().await.unwrap(), ["somebody-else"]);
    bed.containerd.stat_snapshot("overlayfs", "somebody-else").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn each_failure_of_a_registry_has_its_kind() {
    let mut bed = Bed::start(|_, _| {}).await;
    install_verifier(&bed);
    let guarded = bed.registry(true).await;
    let tag = format!("{guarded}/a:1");
    bed.push(&small(&bed, "one"), &tag);
    bed.push(&small(&bed, "two"), &format!("{guarded}/refused:1"));

    let id = bed.pull_as(&tag, Some("hunter22")).await.unwrap();
    for password in [Some("wrong-password"), None] {
        // The image is on the node already, but each pull asks the registry.
        let error = bed.pull_as(&tag, password).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(&guarded) && !error.to_string().contains("wrong-password"), "{error}");
    }
    assert_eq!(bed.status(&tag).await.unwrap().id, id);

    let error = bed.pull_as(&format!("{guarded}/b:1"), Some("hunter22")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let error = bed.pull_as(&format!("{guarded}/refused:1"), Some("hunter22")).await.unwrap_err();
    assert!(error.to_string().starts_with("SignatureValidationFailed"), "{error}");
    let error = bed.pull(&format!("127.0.0.1:{}/a:1", free_port())).await.unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable") && error.kind() == Kind::Unavailable, "{error}");
    let error = bed.pull("no-such-host.invalid/a:1").await.unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable"), "{error}");
    for bad in ["", "reg.example/../evil/x", "reg.example/a?token=s"] {
        let error = bed.pull(bad).await.unwrap_err();
        assert!(error.kind() == Kind::InvalidArgument && error.to_string().starts_with("image.image"), "{error}");
    }
    assert_eq!(bed.images.pulls_in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn a_mirror_is_used_and_gets_the_credentials() {
    let mut bed = Bed::start(|settings, path| {
        // Several directories, as in the default configuration; one of them has the host.
        settings.registry_config_path = format!("/does/not/exist:{}", path.join("certs.d").display());
    })
    .await;
    let mirror = bed.registry(true).await;
    bed.push(&small(&bed, "one"), &format!("{mirror}/library/a:1"));
    let directory = bed.dir.path().join("certs.d/registry.example");
    std::fs::create_dir(&directory).unwrap();
    let file = format!(
        "server = \"https://registry.invalid\"\n[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
    );
    std::fs::write(directory.join("hosts.toml"), file).unwrap();
    bed.pull_as("registry.example/library/a:1", Some("hunter22")).await.unwrap();
    assert_eq!(bed.list()[0].repo_tags, ["registry.example/library/a:1"]);
    let error = bed.pull_as("registry.example/library/a:1", Some("wrong-password")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn many_pulls_of_one_image_are_one_and_a_dead_registry_is_left() {
    let mut bed = Bed::start(|settings, _| {
        settings.pace = Pace { bytes_per_second: 1024, window: Duration::from_secs(3) };
        // Long enough for a busy machine to see that the pull of a caller that has left still runs.
        settings.patience = Duration::from_secs(3);
    })
    .await;
    let host = bed.registry(false).await;
    let tag = format!("{host}/a:1");
    bed.push(&small(&bed, "one"), &tag);
    let pulls = (0..8).map(|_| bed.pull(&tag));
    let ids: Vec<String> = futures_util::future::try_join_all(pulls).await.unwrap();
    assert!(ids.iter().all(|id| *id == ids[0]));

    let (dead, _silent) = silent().await;
    let start = Instant::now();
    let error = bed.pull(&dead).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded, "{error}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());

    // No caller waits any more: the pull is cancelled, and its key is free.
    let left = tokio::time::timeout(Duration::from_millis(300), bed.pull(&dead)).await;
    assert!(left.is_err());
    assert_eq!(bed.images.pulls_in_flight(), 1);
    until("the pull that nobody waits for is gone", || async { bed.images.pulls_in_flight() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn no_more_pulls_than_may_run_at_once() {
    let bed = Bed::start(|settings, _| {
        settings.max_concurrent_pulls = 1;
        settings.patience = Duration::from_millis(50);
    })
    .await;
    // Registries that accept connections and never respond.
    let registries = [silent().await, silent().await];
    let [first, second] = registries.each_ref().map(|(tag, _)| bed.pull(tag));
    let (mut first, mut second) = (Box::pin(first), Box::pin(second));
    // Returns the pull's connection, which must stay open: the pull ends if its registry closes the connection.
    let dialled = async |registry: usize, pull: &mut (dyn Future<Output = _> + Unpin), seconds: u64| {
        let dialled = tokio::time::timeout(Duration::from_secs(seconds), registries[registry].1.accept());
        tokio::select! {
            dialled = dialled => dialled.ok(),
            ended = pull => panic!("it ended: {ended:?}"),
        }
    };
    let _connection = dialled(0, &mut first, 10).await.expect("it has a place");
    assert!(dialled(1, &mut second, 2).await.is_none(), "it has no place");
    drop(first);
    assert!(dialled(1, &mut second, 10).await.is_some(), "the place came free");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn t6_pulls_of_one_namespace_from_registries_that_hang_leave_places_to_another() {
    let mut bed = Bed::start(|settings, _| settings.max_concurrent_pulls = 8).await;
    let host = bed.registry(false).await;
    let tag = format!("{host}/a:1");
    bed.push(&small(&bed, "one"), &tag);
    let mut registries = Vec::new();
    for _ in 0..20 {
        registries.push(silent().await);
    }
    let mut hanging: Vec<_> = registries.iter().map(|(tag, _)| Box::pin(bed.pull_in("one", tag))).collect();
    // Pulls begin in any order. Once these have all places that their namespace may have, the next pull waits.
    let mut dialled: FuturesUnordered<_> = registries.iter().map(|(_, listener)| listener.accept()).collect();
    let mut connections = Vec::new();
    while connections.len() < 4 {
        tokio::select! {
            Some(connection) = dialled.next() => connections.push(connection.unwrap()),
            (ended, _, _) = select_all(&mut hanging) => panic!("it ended: {ended:?}"),
        }
    }
    // This one is for the image that the other namespace pulls too.
    hanging.push(Box::pin(bed.pull_in("one", &tag)));
    let ended = tokio::time::timeout(Duration::from_secs(2), select_all(&mut hanging)).await;
    assert!(ended.is_err(), "{:?}", ended.map(|(ended, _, _)| ended));
    let pulled = tokio::time::timeout(Duration::from_secs(10), bed.pull_in("another", &tag)).await;
    pulled.expect("it waits behind the other namespace's").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn what_other_tools_do_shows_within_a_second() {
    let bed = Bed::start(|_, _| {}).await;
    let image = small(&bed, "one");
    let archive = bed.dir.path().join("one.tar");
    let tar = std::process::Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&image.layout).arg(".").status();
    assert!(tar.unwrap().success());
    bed.ctr(&[
        "images",
        "import",
        "--no-unpack",
        "--index-name",
        "docker.io/library/foreign:1",
        &archive.display().to_string(),
    ]);
    let deadline = Instant::now() + Duration::from_secs(1);
    until("it is listed", || async { bed.status("foreign:1").await.is_some() }).await;
    let id = bed.status("foreign:1").await.unwrap().id;
    assert!(Instant::now() < deadline);
    until("it is adopted", || async {
        bed.records().await.get(&id).is_some_and(|labels| labels.contains_key(MANAGED))
    })
    .await;

    // The import did not unpack the image: CreateContainer does, for each snapshotter.
    let image = bed.images.resolve(&id).unwrap();
    for snapshotter in ["overlayfs", "native"] {
        let (passwd, group) = bed.images.user_db(&image, snapshotter).await.unwrap();
        assert!(String::from_utf8(passwd).unwrap().contains("one:x:1000") && !group.is_empty());
        let left = bed.containerd.list_snapshots(snapshotter).await.unwrap();
        assert_eq!(left.len(), 1, "the view is gone: {left:?}");
    }
    bed.ctr(&["content", "prune", "references"]);
    bed.containerd.stat_snapshot("native", &image.chain_id).await.expect("the collector keeps it");

    let names: Vec<String> = bed.records().await.into_keys().collect();
    for name in names {
        bed.ctr(&["images", "rm", &name]);
    }
    // Not from before ctr's runs, which take long on a busy machine.
    let deadline = Instant::now() + Duration::from_secs(1);
    until("it is gone", || async { bed.list().is_empty() }).await;
    assert!(Instant::now() < deadline);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn a_configured_name_is_pinned_whoever_brought_it() {
    let port = free_port();
    let name = format!("127.0.0.1:{port}/pinned:1");
    let mut bed = Bed::start(|settings, _| {
        settings.pinned_images = vec![name.clone(), "docker.io/library/imported:1".to_owned()];
    })
    .await;
    bed.registry_at(port, false).await;
    bed.push(&small(&bed, "one"), &name);
    let other = format!("127.0.0.1:{port}/other:1");
    bed.push(&small(&bed, "two"), &other);
    let (id, other_id) = (bed.pull(&name).await.unwrap(), bed.pull(&other).await.unwrap());
    for (id, pinned) in [(&id, true), (&other_id, false)] {
        assert_eq!(bed.status(id).await.unwrap().pinned, pinned, "{id}");
        assert_eq!(bed.list().iter().find(|image| image.id == *id).unwrap().pinned, pinned, "{id}");
    }
    // Only the records of the image with the configured name have the label: those of its name, digest and id.
    for (record, labels) in bed.records().await {
        assert_eq!(
            labels.contains_key(PINNED),
            record == name || record == id || record.contains("/pinned@"),
            "{record}"
        );
    }
    bed.ctr(&["images", "tag", &other, "docker.io/library/imported:1"]);
    until("what ctr named so is pinned", || async { bed.status(&other_id).await.unwrap().pinned }).await;
    bed.ctr(&["images", "rm", "docker.io/library/imported:1"]);
    until("and no more without the name", || async { !bed.status(&other_id).await.unwrap().pinned }).await;
    // An image that another tool labels is pinned too. RemoveImage removes pinned images nevertheless; kubelet does not
    // call it for them.
    bed.ctr(&["images", "label", &other, "io.cri-containerd.pinned=pinned"]);
    until("what is labelled so is pinned", || async { bed.status(&other_id).await.unwrap().pinned }).await;
    bed.remove(&id).await;
    assert_eq!(bed.status(&id).await, None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn the_file_system_is_reported() {
    let mut bed = Bed::start(|_, _| {}).await;
    let host = bed.registry(false).await;
    bed.push(&small(&bed, "one"), &format!("{host}/a:1"));
    let id = bed.pull(&format!("{host}/a:1")).await.unwrap();
    let info = bed.images.image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap();
    let usage = &info.image_filesystems[0];
    let mountpoint = &usage.fs_id.as_ref().unwrap().mountpoint;
    assert!(std::path::Path::new(mountpoint).is_dir(), "{mountpoint}");
    assert!(usage.used_bytes.unwrap().value > 0 && usage.inodes_used.unwrap().value > 0 && usage.timestamp > 0);
    assert_eq!(info.container_filesystems.len(), 1);
    bed.remove(&id).await;
    let info = bed.images.image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap();
    assert_eq!(info.image_filesystems[0].used_bytes.unwrap().value, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn a_hostile_root_shows_nothing_of_the_host() {
    let mut bed = Bed::start(|_, _| {}).await;
    let host = bed.registry(false).await;
    let root = bed.dir.path().join("evil");
    let fresh = |name: &str| {
        let path = root.join(name);
        std::fs::create_dir_all(path.join("etc")).unwrap();
        path
    };
    let secret = bed.dir.path().join("host-secret");
    std::fs::write(&secret, "of the host").unwrap();

    let device = fresh("device");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        device.join("etc/passwd"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    let fifo = fresh("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, fifo.join("etc/passwd"), rustix::fs::Mode::RUSR).unwrap();
    let huge = fresh("huge");
    std::fs::File::create(huge.join("etc/passwd")).unwrap().set_len(11 << 20).unwrap();
    for (name, path) in [("device", &device), ("fifo", &fifo), ("huge", &huge)] {
        let tag = format!("{host}/{name}:1");
        bed.push(&build(&bed.dir.path().join(format!("layout-{name}")), std::slice::from_ref(path), &json!({})), &tag);
        let image = bed.images.resolve(&bed.pull(&tag).await.unwrap()).unwrap();
        let start = Instant::now();
        let error = bed.images.user_db(&image, "overlayfs").await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2), "{name}: {error}");
    }

    let links = fresh("links");
    std::fs::create_dir(links.join("real")).unwrap();
    std::fs::write(links.join("real/passwd"), "in the image").unwrap();
    symlink("/real/passwd", links.join("etc/passwd")).unwrap();
    symlink(format!("../../../../..{}", secret.display()), links.join("etc/group")).unwrap();
    symlink("/../../real", links.join("lnk")).unwrap();
    std::os::unix::fs::chown(links.join("real"), Some(1234), Some(5)).unwrap();
    std::fs::set_permissions(links.join("real"), PermissionsExt::from_mode(0o1770)).unwrap();
    bed.push(&build(&bed.dir.path().join("layout-links"), &[links], &json!({})), &format!("{host}/links:1"));
    let id = bed.pull(&format!("{host}/links:1")).await.unwrap();
    let image = bed.images.resolve(&id).unwrap();
    let (passwd, group) = bed.images.user_db(&image, "overlayfs").await.unwrap();
    assert_eq!((passwd.as_slice(), group.as_slice()), (b"in the image".as_slice(), b"".as_slice()));

    let volume = |path: &str, to: &tempfile::TempDir| vec![(path.to_owned(), to.path().to_owned())];
    for path in ["/real", "/lnk", "/../../../real"] {
        let to = tempfile::tempdir().unwrap();
        bed.images.copy_volumes(&image, "overlayfs", volume(path, &to)).await.unwrap();
        assert_eq!(std::fs::read_to_string(to.path().join("passwd")).unwrap(), "in the image", "{path}");
        let meta = std::fs::metadata(to.path()).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 5, 0o1770));
    }
    let to = tempfile::tempdir().unwrap();
    let outside = format!("/../../../..{}", bed.dir.path().display());
    bed.images.copy_volumes(&image, "overlayfs", volume(&outside, &to)).await.unwrap();
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0, "the host's directory is not the image's");
    bed.images.copy_volumes(&image, "overlayfs", volume("/real/passwd", &to)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, docker-registry, skopeo, and a containerd: PONTOON_BIN_DIR"]
async fn an_image_of_a_hundred_layers_can_be_looked_into() {
    let mut bed = Bed::start(|_, _| {}).await;
    let host = bed.registry(false).await;
    let layers: Vec<_> = (0..100)
        .map(|number| {
            let path = bed.dir.path().join(format!("layer-{number}"));
            std::fs::create_dir_all(path.join("etc")).unwrap();
            std::fs::write(path.join("etc/passwd"), format!("u{number}:x:{number}:0::/:/bin/sh\n")).unwrap();
            path
        })
        .collect();
    bed.push(&build(&bed.dir.path().join("layout"), &layers, &json!({})), &format!("{host}/deep:1"));
    let id = bed.pull(&format!("{host}/deep:1")).await.unwrap();
    let image = bed.images.resolve(&id).unwrap();
    let (passwd, _) = bed.images.user_db(&image, "overlayfs").await.unwrap();
    assert_eq!(passwd, b"u99:x:99:0::/:/bin/sh\n");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&bed.dir.path().display().to_string()), "no mount is left on the host");
}
