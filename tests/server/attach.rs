//! Attach: several clients at once, and the container's log waits for none of them.

use std::time::Duration;

use pontoon::api::v1::*;
use tonic::{Code, Status};

use crate::support::server::Node;
use crate::support::streams::{STDIN, STDOUT, Session};
use crate::support::{requests, until};

fn request(id: &str) -> AttachRequest {
    AttachRequest { container_id: id.to_owned(), stdout: true, stderr: true, ..AttachRequest::default() }
}

async fn url(node: &Node, request: AttachRequest) -> Result<String, Status> {
    node.cri().attach(request).await.map(|reply| reply.into_inner().url)
}

async fn attach(node: &Node, request: AttachRequest) -> Session {
    Session::open(&url(node, request).await.unwrap()).await
}

/// A running container whose config is changed before it is created.
async fn running(node: &Node, command: &[&str], change: impl FnOnce(&mut ContainerConfig)) -> String {
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let mut request = requests::container(&sandbox, &pod, "main", command);
    change(request.config.as_mut().unwrap());
    let id = node.create(&request).await;
    node.start_container(&id).await;
    id
}

/// Types until the other session reads it: the session of a URL begins a little after its handshake.
async fn is_attached(typist: &mut Session, reader: &mut Session) {
    for _ in 0..20 {
        typist.send(STDIN, b".").await;
        if tokio::time::timeout(Duration::from_millis(500), reader.read(STDOUT, 1)).await.is_ok() {
            return;
        }
    }
    panic!("what is typed is not seen");
}

fn calls(node: &Node, method: &str, object: &str) -> usize {
    node.containerd.calls().iter().filter(|call| call.method == method && call.object == object).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attached_clients_get_all_output_until_the_container_ends() {
    let node = Node::start().await;
    let id = running(&node, &["fake", "cat"], |config| config.stdin = true).await;
    let mut first = attach(&node, AttachRequest { stdin: true, ..request(&id) }).await;
    let mut second = attach(&node, request(&id[..10])).await;
    is_attached(&mut first, &mut second).await;
    first.send(STDIN, b"to all").await;
    // The dots of `is_attached` come first.
    let said = |bytes: Vec<u8>| bytes.ends_with(b"all");
    while !said(first.read(STDOUT, 1).await) {}
    while !said(second.read(STDOUT, 1).await) {}
    node.containerd.end(&id, 0);
    for session in [first, second] {
        let said = session.finish().await;
        assert_eq!(said.status["status"], "Success", "{said:?}");
    }
    assert_eq!(node.ended(&id).await.exit_code, 0);
}

/// A small version of CVE-2025-64329: an attach ends when its client disconnects.
#[tokio::test(flavor = "multi_thread")]
async fn clients_come_and_go() {
    let node = Node::start_with("[limits]\nstreams_per_object = 2\n").await;
    let id = running(&node, &["fake", "cat"], |config| config.stdin = true).await;
    for _ in 0..20 {
        let mut session = None;
        for _ in 0..100 {
            match url(&node, AttachRequest { stdin: true, ..request(&id) }).await {
                Ok(url) => {
                    session = Some(Session::open(&url).await);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        let mut session = session.expect("a place that came free is had");
        session.send(STDIN, b"x").await;
        drop(session);
    }
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
    assert_eq!(calls(&node, "Tasks/CloseIO", &id), 0, "stdin stays open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_left_behind_and_the_log_goes_on() {
    let node = Node::start().await;
    let id = running(&node, &["fake", "cat"], |config| config.stdin = true).await;
    let typing = AttachRequest { stdin: true, stdout: false, stderr: false, ..request(&id) };
    let (mut typist, mut reader) = (attach(&node, typing).await, attach(&node, request(&id)).await);
    is_attached(&mut typist, &mut reader).await;
    let (piece, count) = (vec![b'x'; 64 << 10], 512);
    for _ in 0..count {
        typist.send(STDIN, &piece).await;
    }
    let log = node.status(&id).await.log_path;
    let length = || std::fs::metadata(&log).map_or(0, |log| log.len());
    until("all of it is in the log", || length() > (piece.len() * count).try_into().unwrap()).await;
    let said = reader.finish().await;
    assert!(said.status["status"] == "Failure" && said.message().contains("did not keep up"), "{:?}", said.status);
    assert!(said.stdout.len() < piece.len() * count);
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_once_is_over_with_its_first_client() {
    let node = Node::start().await;
    let id =
        running(&node, &["fake", "cat", "exit=5"], |config| (config.stdin, config.stdin_once) = (true, true)).await;
    // A client without stdin does not count as the first client.
    drop(attach(&node, request(&id)).await);
    let mut session = attach(&node, AttachRequest { stdin: true, ..request(&id) }).await;
    session.send(STDIN, b"all of it").await;
    session.close_stdin().await;
    let said = session.finish().await;
    assert!(said.stdout().ends_with("all of it"), "{said:?}");
    assert_eq!(node.ended(&id).await.exit_code, 5, "cat saw the end");
    assert_eq!(calls(&node, "Tasks/CloseIO", &id), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_once_is_over_when_its_client_drops() {
    let node = Node::start().await;
    let id =
        running(&node, &["fake", "cat", "exit=5"], |config| (config.stdin, config.stdin_once) = (true, true)).await;
    let mut session = attach(&node, AttachRequest { stdin: true, ..request(&id) }).await;
    session.send(STDIN, b"half").await;
    session.read(STDOUT, 4).await;
    drop(session);
    assert_eq!(node.ended(&id).await.exit_code, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_as_large_as_the_client_s_and_stays() {
    let node = Node::start().await;
    let tty = |config: &mut ContainerConfig| (config.stdin, config.stdin_once, config.tty) = (true, true, true);
    let id = running(&node, &["fake", "cat"], tty).await;
    let mut session = attach(&node, AttachRequest { stdin: true, tty: true, stderr: false, ..request(&id) }).await;
    session.resize(100, 30).await;
    until("the size is told", || calls(&node, "Tasks/ResizePty", &format!("{id} 100x30")) == 1).await;
    drop(session);
    // As with `kubectl run -it` followed by `kubectl attach`.
    let mut session = attach(&node, AttachRequest { stdin: true, tty: true, stderr: false, ..request(&id) }).await;
    session.send(STDIN, b"still here").await;
    session.read(STDOUT, 10).await;
    assert_eq!(calls(&node, "Tasks/CloseIO", &id), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "exit=0"]).await;
    node.ended(&id).await;
    let no_streams = AttachRequest { stdout: false, stderr: false, ..request(&id) };
    let tty = AttachRequest { tty: true, ..request(&id) };
    for wrong in [no_streams, tty, request("")] {
        assert_eq!(url(&node, wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(url(&node, request(&"0".repeat(64))).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(url(&node, request(&id)).await.unwrap_err().code(), Code::FailedPrecondition);
}
