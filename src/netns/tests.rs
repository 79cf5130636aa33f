use std::fs;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;

/// A directory whose mounts are removed together with it. These tests need root.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn netns(&self, name: &str) -> PathBuf {
        self.dir.path().join("netns").join(name)
    }

    fn mounts(&self) -> usize {
        let below = self.dir.path().to_str().unwrap().to_owned();
        fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&below)).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while umount2(&self.dir.path().join("netns"), MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn net_inode(path: &str) -> String {
    fs::read_link(path).unwrap().display().to_string()
}

#[tokio::test]
async fn a_created_netns_is_new_pinned_and_has_loopback() {
    let place = Place::new();
    let path = place.netns("a");
    create(&path).await.unwrap();
    assert!(is_pinned(&path));
    let inside = enter(&path, || net_inode("/proc/thread-self/ns/net")).await.unwrap();
    assert_ne!(inside, net_inode("/proc/self/ns/net"), "the caller's thread stays where it was");
    let bound = enter(&path, || std::net::TcpListener::bind("127.0.0.1:0").map(|_| ())).await.unwrap();
    bound.unwrap();
    let up = enter(&path, || {
        let one = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        one.send_to(b"x", one.local_addr().unwrap()).map(|_| ())
    });
    up.await.unwrap().unwrap();
    remove(&path).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn the_directory_becomes_a_shared_mount_once() {
    let place = Place::new();
    for name in ["a", "b", "c"] {
        create(&place.netns(name)).await.unwrap();
    }
    // One mount per namespace, and at most one for the directory (none if it is on a shared mount already).
    assert!((3..=4).contains(&place.mounts()), "{}", place.mounts());
    for name in ["a", "b", "c"] {
        remove(&place.netns(name)).await.unwrap();
    }
    assert!(place.mounts() <= 1);
}

#[tokio::test]
async fn creating_at_once_does_not_stack_mounts() {
    let place = Place::new();
    let paths: Vec<_> = (0..8).map(|index| place.netns(&index.to_string())).collect();
    let all = futures_util::future::join_all(paths.iter().map(|path| create(path))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert!((8..=9).contains(&place.mounts()), "{}", place.mounts());
}

#[tokio::test]
async fn a_taken_path_is_left_alone() {
    let place = Place::new();
    let path = place.netns("a");
    create(&path).await.unwrap();
    let refused = create(&path).await.unwrap_err();
    assert!(matches!(&refused, Error::Create { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
    assert!(is_pinned(&path));
}

#[tokio::test]
async fn removing_is_idempotent_whatever_is_there() {
    let place = Place::new();
    let path = place.netns("a");
    remove(&path).await.unwrap();
    create(&path).await.unwrap();
    // Stack two more mounts of the same namespace.
    for _ in 0..2 {
        mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    remove(&path).await.unwrap();
    remove(&path).await.unwrap();
    assert!(!path.exists());
    fs::write(&path, "not a namespace").unwrap();
    assert!(!is_pinned(&path));
    assert!(matches!(enter(&path, || ()).await, Err(Error::Enter { .. })));
    remove(&path).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_netns_that_is_gone_cannot_be_entered() {
    let place = Place::new();
    assert!(matches!(enter(&place.netns("none"), || ()).await, Err(Error::Enter { .. })));
    assert!(matches!(addresses(&place.netns("none"), "eth0").await, Err(Error::Enter { .. })));
}

#[tokio::test]
async fn addresses_are_the_global_ones_of_the_interface() {
    let place = Place::new();
    let path = place.netns("a");
    create(&path).await.unwrap();
    assert_eq!(addresses(&path, "lo").await.unwrap(), Vec::<IpAddr>::new(), "host scope does not count");
    assert!(matches!(addresses(&path, "eth0").await, Err(Error::Link { .. })));
    let script = "ip link add eth0 type bridge && ip addr add 10.9.8.7/24 dev eth0 && ip link set eth0 up \
                  && ip -6 addr add fd00::7/64 dev eth0 nodad";
    let made = enter(&path, move || std::process::Command::new("sh").args(["-c", script]).status()).await;
    assert!(made.unwrap().unwrap().success());
    let expected: Vec<IpAddr> = vec!["10.9.8.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    assert_eq!(addresses(&path, "eth0").await.unwrap(), expected);
}
