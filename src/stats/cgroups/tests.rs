use std::path::Path;

use super::*;
use crate::containerd::Containerd;

fn stats(root: &Path) -> Stats {
    let containerd = Containerd::new(Path::new("/nobody/listens"), "test").unwrap();
    let layers = Layers::new(containerd, Tasks::default());
    Stats::with_hierarchies(Hierarchies::at(root, true, 100), layers, Tasks::default())
}

fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let cgroup = root.path().join("pods/c");
    std::fs::create_dir_all(&cgroup).unwrap();
    std::fs::write(cgroup.join("cpu.stat"), "usage_usec 1000000\n").unwrap();
    std::fs::write(cgroup.join("pids.current"), "3\n").unwrap();
    root
}

/// Advances the paused clock, and lets the sampler run.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    // The sampler reads files on another thread, and the paused clock does not wait for that thread.
    for _ in 0..100 {
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_when_nobody_has_asked_for_a_minute() {
    let root = tree();
    let stats = stats(root.path());
    stats.requested();
    let reading = stats.container("c", "/pods/c", &mut Buffer::default());
    assert_eq!(reading.usage.cpu.unwrap().nanoseconds, 1_000_000_000);
    assert_eq!(stats.inner.hierarchies.open(), 2);
    pass(Duration::from_secs(30)).await;
    assert_eq!(stats.inner.hierarchies.open(), 2);
    stats.requested();
    pass(Duration::from_secs(45)).await;
    assert_eq!(stats.inner.hierarchies.open(), 2);
    pass(Duration::from_secs(40)).await;
    assert_eq!(stats.inner.hierarchies.open(), 0);
    let state = stats.inner.lock();
    assert!(state.last_request.is_none() && state.cgroups.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_later_gets_a_sampler_again() {
    let root = tree();
    let stats = stats(root.path());
    stats.requested();
    pass(IDLE * 3).await;
    assert!(stats.inner.lock().last_request.is_none());
    stats.requested();
    assert!(stats.container("c", "/pods/c", &mut Buffer::default()).usage.cpu.is_some());
    pass(IDLE / 2).await;
    assert_eq!(stats.inner.hierarchies.open(), 2);
}

#[test]
fn a_cgroup_that_is_gone_is_forgotten_by_the_next_reading() {
    let root = tree();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _in_it = runtime.enter();
    let stats = stats(root.path());
    let _ = stats.container("c", "/pods/c", &mut Buffer::default());
    stats.inner.read_all();
    assert_eq!(stats.inner.lock().cgroups.len(), 1);
    // This stands for a removed cgroup, where reads of the open descriptor fail. A regular file that was only unlinked
    // could still be read.
    stats.inner.lock().cgroups.clear();
    std::fs::remove_dir_all(root.path().join("pods")).unwrap();
    let reading = stats.container("c", "/pods/c", &mut Buffer::default());
    assert_eq!(reading.usage.cpu, None);
    stats.inner.read_all();
    assert!(stats.inner.lock().cgroups.is_empty());
}

#[test]
fn a_pod_whose_parent_is_the_root_has_no_cgroup_of_its_own() {
    let root = tree();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _in_it = runtime.enter();
    let stats = stats(root.path());
    assert_eq!(stats.pod("p", "", &mut Buffer::default()), None);
    assert_eq!(stats.pod("p", "/pods/c", &mut Buffer::default()).unwrap().usage.tasks, Some(3));
}
