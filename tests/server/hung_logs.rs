//! A pod whose log directory is on a file system that does not respond must not delay anything but itself.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use pontoon::api::v1::*;
use tonic::Code;

use crate::support::hung::Hung;
use crate::support::server::Node;
use crate::support::{requests, until};

/// How much longer a start may take than without the attack.
const LIMIT: Duration = Duration::from_secs(2);
/// How many containers are in a pod whose logs hang: their two streams each are more than the 256 threads that may wait
/// for logs in total.
const CONTAINERS: usize = 130;

async fn start_takes(node: &mut Node) -> Duration {
    node.kill();
    let start = Instant::now();
    node.spawn().await;
    start.elapsed()
}

fn has(log: &str, words: &str) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains(words))
}

/// Creates and starts more containers in a pod, up to [`CONTAINERS`].
async fn fill(node: &Node, sandbox: &str, pod: &RunPodSandboxRequest) {
    for number in 1..CONTAINERS {
        let id = node.create(&requests::container(sandbox, pod, &format!("c{number}"), &["fake"])).await;
        node.start_container(&id).await;
    }
}

/// Another pod runs, logs and ends as usual.
async fn others_are_well(node: &Node, name: &str) {
    let (sandbox, id) = node.run_with_container(name, &["fake", "out=as ever\n"]).await;
    let log = node.status(&id).await.log_path;
    until("another pod's log is written", || has(&log, "as ever")).await;
    node.remove(&sandbox).await;
}

/// Fails if recovery waits for a log to be opened, and if the logs of one pod may use the threads of all.
#[tokio::test(flavor = "multi_thread")]
async fn t8_a_log_directory_that_hangs_keeps_no_daemon_from_starting() {
    let mut node = Node::start().await;
    let (sandbox, stuck) = node.run_with_container("stuck", &["fake", "out=before\n"]).await;
    fill(&node, &sandbox, &node.pod("stuck")).await;
    let (_, well) = node.run_with_container("well", &["fake"]).await;
    let (stuck_log, well_log) = (node.status(&stuck).await.log_path, node.status(&well).await.log_path);
    until("it is logged", || has(&stuck_log, "before")).await;
    let usual = start_takes(&mut node).await;

    let hung = Hung::mount(&node.logs().join("stuck")).unwrap();
    let took = start_takes(&mut node).await;
    assert!(took < usual + LIMIT, "{took:?}, and {usual:?} without");
    assert_eq!(node.status(&stuck).await.state(), ContainerState::ContainerRunning);
    node.output(&well, "stdout").write_all(b"goes on\n").unwrap();
    until("the other log goes on", || has(&well_log, "goes on")).await;
    others_are_well(&node, "other").await;

    node.output(&stuck, "stdout").write_all(b"after\n").unwrap();
    assert!(!node.is_read(&stuck, "stdout"), "its output waits in the pipe");
    drop(hung);
    until("its log goes on too", || has(&stuck_log, "after")).await;
    node.remove_all().await;
    node.assert_clean("remove").await;
}

/// A pod whose log directory is in `parent`.
fn pod_below(node: &Node, parent: &Path, name: &str) -> RunPodSandboxRequest {
    let mut pod = node.pod(name);
    pod.config.as_mut().unwrap().log_directory = parent.join(name).display().to_string();
    pod
}

/// A tenant with /var/log/pods as a volume can replace its log directory by a symlink, which must not be followed. The
/// node's operator may have put /var/log/pods elsewhere by a symlink, which must be followed. Fails if recovery waits
/// there for a log to be opened.
#[tokio::test(flavor = "multi_thread")]
async fn t8_a_log_directory_is_not_followed_to_where_it_hangs() {
    let mut node = Node::start().await;
    let (sandbox, running) = node.run_with_container("stuck", &["fake", "out=before\n"]).await;
    let log = node.status(&running).await.log_path;
    let (nfs, elsewhere) = (tempfile::tempdir_in("/var/tmp").unwrap(), node.logs().join("elsewhere"));
    fs::create_dir(nfs.path().join("logs")).unwrap();
    symlink(nfs.path().join("logs"), &elsewhere).unwrap();
    let pod = pod_below(&node, &elsewhere, "operators");
    let operators = node.run(&pod).await;
    let operators = node.create(&requests::container(&operators, &pod, "main", &["fake", "out=before\n"])).await;
    node.start_container(&operators).await;
    let operators_log = node.status(&operators).await.log_path;
    until("both are logged", || has(&log, "before") && has(&operators_log, "before")).await;
    let usual = start_takes(&mut node).await;
    let (directory, kept) = (node.logs().join("stuck"), node.logs().join("kept"));
    let hung = Hung::mount(nfs.path()).unwrap();
    fs::rename(&directory, &kept).unwrap();
    symlink(nfs.path().join("share"), &directory).unwrap();

    let took = start_takes(&mut node).await;
    assert!(took < usual + LIMIT, "{took:?}, and {usual:?} without");
    let refused = start_another(&node, &sandbox, &directory).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().ends_with(&format!("log_directory {directory:?} is a symlink")), "{refused}");
    others_are_well(&node, "other").await;

    node.output(&running, "stdout").write_all(b"after\n").unwrap();
    node.output(&operators, "stdout").write_all(b"after\n").unwrap();
    fs::remove_file(&directory).unwrap();
    fs::rename(&kept, &directory).unwrap();
    until("its log goes on", || has(&log, "after")).await;
    assert!(!node.is_read(&operators, "stdout"), "its output waits in the pipe");
    drop(hung);
    until("the other log goes on", || has(&operators_log, "after")).await;
    node.remove_all().await;
    node.assert_clean("remove").await;
}

async fn start_another(node: &Node, sandbox: &str, log_directory: &Path) -> tonic::Status {
    let pod = node.pod(log_directory.file_name().unwrap().to_str().unwrap());
    let id = node.create(&requests::container(sandbox, &pod, "another", &["fake"])).await;
    node.cri().start_container(StartContainerRequest { container_id: id }).await.unwrap_err()
}
