//! Plugins that a killed daemon left running.

use std::process::{Command, Stdio};

use super::*;

fn running(node: &Node) -> Running {
    Running::new(node.settings.state_dir.clone())
}

fn named(node: &Node) -> Vec<String> {
    let all = fs::read_dir(&node.settings.state_dir).into_iter().flatten();
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_del_waits_for_the_add_of_a_killed_daemon() {
    let node = Node::with_chain("1.0.0");
    let (network, sandbox) = (node.start(), sandbox());
    // The script is started like a plugin; then its daemon, and with it our end of the pipe, is gone.
    let (ours, theirs) = running(&node).stderr(Some(sandbox.id.as_str())).unwrap();
    let script = format!("sleep 0.7; echo 'ADD by another x' >>{}", node.path("log").display());
    let mut add = Command::new("sh").args(["-c", &script]).stderr(Stdio::from(theirs)).spawn().unwrap();
    drop(ours);
    network.detach(&sandbox).await.unwrap();
    assert_eq!(node.log(), ["ADD by another", "DEL second eth0 [/n]", "DEL first eth0 [/n]"]);
    assert_eq!(named(&node), [""; 0]);
    add.wait().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_never_ends_does_not_keep_its_sandbox() {
    let node = Node::new();
    let (ours, _theirs) = running(&node).stderr(Some("hangs")).unwrap();
    drop(ours);
    let start = Instant::now();
    running(&node).wait_until_ended("hangs").await;
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(named(&node), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn one_that_has_ended_is_not_waited_for() {
    let node = Node::new();
    let mut waits = Vec::new();
    // A child that another test forks while the pipe is open has the pipe too, until it calls exec: then the wait is a
    // wait for that child. So it need not succeed at the first attempt.
    while waits.last() != Some(&Duration::ZERO) {
        assert!(waits.len() < 10, "{waits:?}");
        drop(running(&node).stderr(Some("ended")).unwrap());
        assert_eq!(named(&node), ["ended"]);
        let start = Instant::now();
        for id in ["ended", "never-was"] {
            running(&node).wait_until_ended(id).await;
        }
        waits.push(start.elapsed());
        assert_eq!(named(&node), [""; 0]);
    }
}

#[tokio::test]
async fn nothing_is_left_of_plugins_that_end() {
    let node = Node::with_chain("1.0.0");
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    assert_eq!(named(&node), [""; 0]);
    network.detach(&sandbox).await.unwrap();
    assert_eq!(named(&node), [""; 0]);
}

#[tokio::test]
async fn without_a_place_for_it_a_plugin_runs_all_the_same() {
    let mut node = Node::with_chain("1.0.0");
    node.settings.state_dir = "/proc/none".into();
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    network.detach(&sandbox).await.unwrap();
}
