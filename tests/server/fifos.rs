//! The server starts even if another process put a FIFO where recovery expects a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use pontoon::api::v1::*;

use crate::support::server::Node;
use crate::support::until;

/// How much longer a start may take than without a FIFO.
const LIMIT: Duration = Duration::from_secs(2);

/// Replaces what is at `path` by a FIFO.
fn plant(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir_all(path);
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
}

/// Paths of files of the daemon, for a sandbox and a container.
type Places = fn(&Node, &str, &str) -> Vec<PathBuf>;

/// Each path is tested by itself, so that a failure names the path at which the server waits.
#[tokio::test(flavor = "multi_thread")]
async fn t12_a_fifo_in_a_files_place_keeps_no_server_from_starting() {
    let mut node = Node::start().await;
    let places: [(&str, Places); 8] = [
        ("the note of a start", |node, _, id| vec![node.state("started").join(id)]),
        ("the directory of a command", |node, _, id| vec![node.state("exec").join(format!("{id}.{id}"))]),
        ("among the commands", |node, _, _| vec![node.state("exec/fifo")]),
        ("the directory of commands", |node, _, _| vec![node.state("exec")]),
        ("the directory of image volumes", |node, _, _| vec![node.state("image-volumes")]),
        ("where a line is", |node, _, id| vec![node.state("io").join(id).join("stdout.line")]),
        ("the cni cache", |node, sandbox, _| {
            let results = node.cni.cache_dir().join("results");
            let (own, other) = (format!("fake-{sandbox}-eth0"), format!("fake-{}-eth0", "f".repeat(64)));
            [own, other, format!(".fake-{sandbox}-eth0.tmp")].map(|name| results.join(name)).into()
        }),
        ("the pin of a network namespace, with the cache lost", |node, sandbox, _| {
            let _ = fs::remove_dir_all(node.cni.cache_dir());
            vec![node.netns(sandbox)]
        }),
    ];
    let usual = start_takes(&mut node).await;
    for (number, (what, paths)) in places.into_iter().enumerate() {
        let (sandbox, id) = node.run_with_container(&format!("web-{number}"), &["fake"]).await;
        node.kill();
        let planted = paths(&node, &sandbox, &id);
        planted.iter().for_each(|path| plant(path));
        let took = start_takes(&mut node).await;
        assert!(took < usual + LIMIT, "{what}: {took:?}, and {usual:?} without");
        assert!(node.sandboxes().await.iter().any(|(listed, _)| *listed == sandbox), "{what}");
        assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning, "{what}");
        let log = node.status(&id).await.log_path;
        use std::io::Write as _;
        node.output(&id, "stdout").write_all(b"logged\n").unwrap();
        until(what, || fs::read_to_string(&log).is_ok_and(|log| log.contains("logged"))).await;
        node.remove(&sandbox).await;
        for path in planted {
            let _ = fs::remove_file(path);
        }
    }
    until("nothing is left of any", || node.containerd.leftovers().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_a_fifo_in_the_locks_place_is_refused() {
    let mut node = Node::start().await;
    node.kill();
    let lock = node.socket().with_extension("lock");
    plant(&lock);
    let refusal = node.refused().await;
    assert!(refusal.contains(&format!("open {}: not a regular file", lock.display())), "{refusal}");
}

async fn start_takes(node: &mut Node) -> Duration {
    node.kill();
    let start = Instant::now();
    node.spawn().await;
    start.elapsed()
}
