use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::api::v1::{IdMapping, ImageSpec};

fn mount(host_path: &Path) -> Mount {
    Mount { container_path: "/data".to_owned(), host_path: host_path.display().to_string(), ..Mount::default() }
}

async fn refused(mount: Mount) -> String {
    let good = self::mount(Path::new("/"));
    resolve(&[good, mount], MissingHostPath::Error).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_missing_host_path_is_made_with_its_parents() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let found = resolve(&[mount(&path)], MissingHostPath::Create).await.unwrap();
    assert_eq!(found[0].source, path.canonicalize().unwrap());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7700, 0o700);
}

#[tokio::test]
async fn a_missing_host_path_is_refused_where_it_is_not_to_be_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing");
    assert_eq!(refused(mount(&path)).await, format!("config.mounts[1].host_path: {} does not exist", path.display()));
    assert!(!path.exists());
}

#[tokio::test]
async fn nothing_is_made_when_another_mount_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing");
    let bad = Mount { container_path: "data".to_owned(), ..mount(directory.path()) };
    assert!(resolve(&[mount(&path), bad], MissingHostPath::Create).await.is_err());
    assert!(!path.exists());
}

#[tokio::test]
async fn symlinks_of_the_source_are_followed_and_files_are_sources_too() {
    let directory = tempfile::tempdir().unwrap();
    let (file, link) = (directory.path().join("file"), directory.path().join("link"));
    std::fs::write(&file, "").unwrap();
    symlink("file", &link).unwrap();
    let wanted = Mount { container_path: "//etc/x/../hosts".to_owned(), readonly: true, ..mount(&link) };
    let found = resolve(std::slice::from_ref(&wanted), MissingHostPath::Error).await.unwrap();
    assert_eq!(found[0].source, file.canonicalize().unwrap());
    assert_eq!(found[0].mount, Mount { container_path: "/etc/hosts".to_owned(), ..wanted });
}

#[tokio::test]
async fn a_symlink_to_nowhere_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    symlink("nowhere", &link).unwrap();
    let error = resolve(&[mount(&link)], MissingHostPath::Create).await.unwrap_err();
    assert!(matches!(error, Error::Host(HostError::Io { operation: "create directory", path, .. }) if path == link));
}

#[tokio::test]
async fn paths_are_absolute_on_both_sides() {
    let container = |path: &str| Mount { container_path: path.to_owned(), ..mount(Path::new("/")) };
    assert_eq!(refused(container("")).await, "config.mounts[1].container_path: is required");
    assert_eq!(refused(container("a/b")).await, "config.mounts[1].container_path: is not absolute");
    assert_eq!(refused(mount(Path::new(""))).await, "config.mounts[1].host_path: is required");
    assert_eq!(refused(mount(Path::new("var"))).await, "config.mounts[1].host_path: is not absolute");
}

#[tokio::test]
async fn ids_are_mapped_of_users_and_groups_together() {
    let ids = |host_id, length| vec![IdMapping { host_id, container_id: 0, length }];
    let base = mount(Path::new("/"));
    let uids = Mount { uid_mappings: ids(1, 1), ..base.clone() };
    assert!(refused(uids).await.starts_with("config.mounts[1].gidMappings: is empty"));
    let gids = Mount { gid_mappings: ids(1, 1), ..base.clone() };
    assert!(refused(gids).await.starts_with("config.mounts[1].uidMappings: is empty"));
    for (host, length) in [(1, 0), (u32::MAX, 2)] {
        let bad = Mount { uid_mappings: ids(1, 1), gid_mappings: ids(host, length), ..base.clone() };
        assert!(refused(bad).await.starts_with("config.mounts[1].gidMappings[0]: maps no id"));
    }
    let good = Mount { uid_mappings: ids(1, 1), gid_mappings: ids(1, 1), ..base };
    assert_eq!(resolve(std::slice::from_ref(&good), MissingHostPath::Error).await.unwrap()[0].mount, good);
}

fn image(sub_path: &str) -> Mount {
    Mount {
        container_path: "/data".to_owned(),
        readonly: true,
        image: Some(ImageSpec { image: "sha256:0a".to_owned(), ..ImageSpec::default() }),
        image_sub_path: sub_path.to_owned(),
        propagation: MountPropagation::PropagationHostToContainer.into(),
        selinux_relabel: true,
        ..Mount::default()
    }
}

#[tokio::test]
async fn an_image_is_found_by_its_place_and_its_source_is_left_open() {
    let mounts = [mount(Path::new("/")), image("./a//b/")];
    let found = resolve(&mounts, MissingHostPath::Error).await.unwrap();
    assert_eq!(found[1].source, PathBuf::new());
    assert!(!found[1].mount.selinux_relabel, "it is read-only");
    let expected =
        ImageMount { index: 1, reference: "sha256:0a".to_owned(), handler: String::new(), sub_path: "a/b".into() };
    assert_eq!(images(&mounts).unwrap(), [expected]);
    assert!(
        images(&[image("a/../b")]).unwrap_err().to_string().starts_with("ImageVolumeMountFailed: config.mounts[0]")
    );
}

#[test]
fn an_images_owners_are_its_pods_or_nothing() {
    let range = |host| crate::userns::Range { host, length: 9 };
    let pod = crate::userns::Mapping { uids: range(70), gids: range(80) };
    let ids = |host_id, length| vec![IdMapping { host_id, container_id: 0, length }];
    let with = |uid_mappings, gid_mappings| [Mount { uid_mappings, gid_mappings, ..image("") }];
    let refused = |mounts: &[Mount], pod| check_owners(mounts, pod).unwrap_err().to_string();
    check_owners(&with(ids(70, 9), ids(80, 9)), Some(pod)).unwrap();
    check_owners(&with(Vec::new(), Vec::new()), Some(pod)).unwrap();
    check_owners(&with(Vec::new(), Vec::new()), None).unwrap();
    let start = "ImageVolumeMountFailed: config.mounts[0].";
    assert!(refused(&with(ids(71, 9), ids(80, 9)), Some(pod)).starts_with(&format!("{start}uidMappings: is not")));
    assert!(refused(&with(ids(70, 9), ids(80, 8)), Some(pod)).starts_with(&format!("{start}gidMappings: is not")));
    assert!(refused(&with(ids(70, 9), ids(80, 9)), None).starts_with(&format!("{start}uidMappings: is not")));
    let of_the_host = Mount { uid_mappings: ids(1, 1), gid_mappings: ids(1, 1), ..mount(Path::new("/")) };
    check_owners(&[of_the_host], None).unwrap();
}

#[tokio::test]
async fn recursive_read_only_is_readonly_and_private() {
    let rro = Mount { recursive_read_only: true, readonly: true, ..mount(Path::new("/")) };
    assert!(resolve(std::slice::from_ref(&rro), MissingHostPath::Error).await.is_ok());
    let writable = Mount { readonly: false, ..rro.clone() };
    assert_eq!(refused(writable).await, "config.mounts[1].recursive_read_only: requires readonly");
    let shared = Mount { propagation: MountPropagation::PropagationBidirectional.into(), ..rro };
    assert_eq!(refused(shared).await, "config.mounts[1].recursive_read_only: requires PROPAGATION_PRIVATE");
}

#[tokio::test]
async fn an_unknown_propagation_is_not_taken_for_private() {
    assert!(
        refused(Mount { propagation: 7, ..mount(Path::new("/")) }).await.starts_with("config.mounts[1].propagation: 7")
    );
}

#[test]
fn propagation_needs_a_mount_that_propagates() {
    let check = |optional: &str, propagation: MountPropagation| {
        // The table does not contain the real mount's id, so the path decides.
        let text = format!("0 0 0:1 / / rw {optional}- tmpfs t rw\n");
        let table: Vec<_> = mountinfo::mounts(text.as_bytes()).collect();
        let mount = Mount { propagation: propagation.into(), ..mount(Path::new("/")) };
        check_propagation(&Progress::default(), &table, 3, &HostMount { source: "/".into(), mount })
    };
    let all = |propagation| ["", "master:1 ", "shared:1 "].map(|optional| check(optional, propagation).is_ok());
    assert_eq!(all(MountPropagation::PropagationPrivate), [true, true, true]);
    assert_eq!(all(MountPropagation::PropagationHostToContainer), [false, true, true]);
    assert_eq!(all(MountPropagation::PropagationBidirectional), [false, false, true]);
    let error = check("", MountPropagation::PropagationBidirectional).unwrap_err().to_string();
    assert_eq!(
        error,
        "config.mounts[3].propagation: PROPAGATION_BIDIRECTIONAL: / is on /, which is not a shared mount"
    );
}

#[test]
fn the_error_for_a_stuck_call_looks_like_a_call() {
    let error = Error::from(HostError::Stuck { operation: "stat", path: "/mnt/nfs".into() });
    assert_eq!(error.to_string(), "stat(/mnt/nfs) does not return: the file system does not answer");
}
