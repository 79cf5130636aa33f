use std::fs;
use std::os::unix::fs::symlink;

use nix::mount::{MntFlags, MsFlags, mount as mount_on, umount2};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, open, openat};

use super::*;
use crate::api::v1::Mount;
use crate::lsm::selinux::label_of;
use crate::sys::remove_tree::remove_tree;

/// Root can write labels even where the kernel does not interpret them.
const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";
const OTHER: &str = "system_u:object_r:container_file_t:s0:c3,c4";

fn label(path: &Path) -> Option<String> {
    label_of(open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap()).unwrap()
}

async fn relabel(path: &Path, label: &str) -> Result<(), Error> {
    trees(vec![path.to_owned()], label.to_owned()).await
}

fn mount(source: &str, selinux_relabel: bool) -> HostMount {
    HostMount { source: source.into(), mount: Mount { selinux_relabel, ..Mount::default() } }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_tree_is_labelled_whole_and_nothing_outside_of_it() {
    let outer = tempfile::tempdir().unwrap();
    let (top, secret) = (outer.path().join("volume"), outer.path().join("secret"));
    fs::create_dir_all(top.join("a/b/c")).unwrap();
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "").unwrap();
    fs::write(top.join("a/file"), "").unwrap();
    crate::sys::fifo::make(&top.join("a/b/fifo")).unwrap();
    symlink(&secret, top.join("out")).unwrap();
    symlink("../../secret/file", top.join("a/up")).unwrap();
    relabel(&top, LABEL).await.unwrap();
    for path in ["", "a", "a/b", "a/b/c", "a/file", "a/b/fifo", "out", "a/up"] {
        assert_eq!(label(&top.join(path)).as_deref(), Some(LABEL), "{path}");
    }
    assert_eq!([label(&secret), label(&secret.join("file"))], [None, None]);
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_top_that_has_the_label_says_that_all_has() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("file"), "").unwrap();
    relabel(top.path(), LABEL).await.unwrap();
    crate::lsm::selinux::label_path(&top.path().join("file"), OTHER).unwrap();
    relabel(top.path(), LABEL).await.unwrap();
    assert_eq!(label(&top.path().join("file")).as_deref(), Some(OTHER), "nothing was walked");
    relabel(top.path(), OTHER).await.unwrap();
    assert_eq!(label(top.path()).as_deref(), Some(OTHER));
}

/// A walk that did not finish must be repeated, so the top must not have the label yet.
#[tokio::test]
#[ignore = "needs root"]
async fn the_top_is_labelled_last() {
    let top = tempfile::tempdir().unwrap();
    let read_only = top.path().join("d/read-only");
    fs::create_dir_all(&read_only).unwrap();
    mount_on(Some("none"), &read_only, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    let error = relabel(top.path(), LABEL).await;
    umount2(&read_only, MntFlags::MNT_DETACH).unwrap();
    assert!(matches!(error, Err(Error::Io { operation: "setxattr", .. })), "{error:?}");
    assert_eq!(label(top.path()), None);
    assert_eq!(label(&top.path().join("d")).as_deref(), Some(LABEL));
}

/// After coming back up to a directory, the walk continues with its next entry, whatever their order.
#[tokio::test]
#[ignore = "needs root"]
async fn a_volume_of_any_depth_is_labelled_whole() {
    const DEPTH: usize = 6_000;
    let top = tempfile::tempdir().unwrap();
    let volume = top.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = open(&volume, directory, Mode::empty()).unwrap();
    for _ in 0..DEPTH {
        for name in ["a", "n", "z"] {
            mkdirat(&at, name, Mode::RWXU).unwrap();
        }
        at = openat(&at, "n", directory, Mode::empty()).unwrap();
    }
    relabel(&volume, LABEL).await.unwrap();
    let mut at = openat(CWD, &volume, directory, Mode::empty()).unwrap();
    for depth in 0..DEPTH {
        for name in ["a", "n", "z"] {
            let entry = openat(&at, name, OFlags::PATH, Mode::empty()).unwrap();
            assert_eq!(label_of(entry).unwrap().as_deref(), Some(LABEL), "{name} at {depth}");
        }
        at = openat(&at, "n", directory, Mode::empty()).unwrap();
    }
    // TempDir's own removal is recursive, which this depth does not allow.
    remove_tree(&volume).unwrap();
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_volume_may_be_one_file_and_a_file_system_without_labels_is_no_error() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("file"), "").unwrap();
    relabel(&top.path().join("file"), LABEL).await.unwrap();
    assert_eq!(label(&top.path().join("file")).as_deref(), Some(LABEL));
    assert_eq!(label(top.path()), None);
    relabel(Path::new("/proc/self/attr"), LABEL).await.unwrap();
}

/// CVE-2021-43816: a host file that a pod has mounted as its /etc/hosts must keep its label, so nothing may be
/// labelled unless requested.
#[test]
fn only_what_asks_for_it_is_relabelled() {
    let mounts = [mount("/etc/hosts", false), mount("/data", true)];
    assert_eq!(wanted(&mounts), [Path::new("/data")]);
}

#[test]
fn the_node_itself_is_not_relabelled() {
    for path in ["/", "/etc", "/usr", "/usr/bin", "/var/lib", "/etc/shadow"] {
        let error = check(&[mount("/data", true), mount(path, true)]).unwrap_err().to_string();
        assert!(error.starts_with("config.mounts[1].selinux_relabel: "), "{error}");
        check(&[mount(path, false)]).unwrap();
    }
    check(&[mount("/etc/app", true), mount("/var/lib/kubelet/pods/x", true)]).unwrap();
}
