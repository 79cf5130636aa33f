//! Exec: streams, exit codes, and no leftovers when either end goes away.

use std::time::Duration;

use pontoon::api::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::support::containerd::Fault;
use crate::support::server::Node;
use crate::support::streams::{STDIN, STDOUT, Session};
use crate::support::{PATIENCE, until};

fn request(id: &str, cmd: &[&str]) -> ExecRequest {
    let cmd = cmd.iter().map(ToString::to_string).collect();
    ExecRequest { container_id: id.to_owned(), cmd, stdout: true, stderr: true, ..ExecRequest::default() }
}

async fn url(node: &Node, request: ExecRequest) -> Result<String, Status> {
    node.cri().exec(request).await.map(|reply| reply.into_inner().url)
}

async fn exec(node: &Node, request: ExecRequest) -> Session {
    Session::open(&url(node, request).await.unwrap()).await
}

/// The exec ids with which a method was called, and the further arguments of each call.
fn calls(node: &Node, method: &str) -> Vec<String> {
    let of_execs = node.containerd.calls().into_iter().filter(|call| call.method == method);
    of_execs.filter_map(|call| call.object.split_once('/').map(|(_, exec)| exec.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_code_are_the_command_s() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    for code in [0, 9, 300] {
        let exit = format!("exit={code}");
        let said =
            exec(&node, request(&id[..12], &["fake", "out=to stdout", "err=to stderr", &exit])).await.finish().await;
        assert_eq!((said.stdout(), said.stderr.as_slice()), ("to stdout", &b"to stderr"[..]));
        assert_eq!(said.exit_code(), code);
        until("nothing is left of it", || node.leftovers() == before).await;
    }
    assert_eq!(calls(&node, "Tasks/Kill"), Vec::<String>::new());
    assert_eq!(calls(&node, "Tasks/DeleteProcess").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_and_its_end_reach_the_command() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let mut session = exec(&node, ExecRequest { stdin: true, ..request(&id, &["fake", "cat"]) }).await;
    session.send(STDIN, b"typed").await;
    assert_eq!(session.read(STDOUT, 5).await, b"typed");
    let large = vec![b'x'; 1 << 20];
    session.send(STDIN, &large).await;
    assert_eq!(session.read(STDOUT, large.len()).await.len(), large.len());
    session.close_stdin().await;
    assert_eq!(session.finish().await.exit_code(), 0);
    assert_eq!(calls(&node, "Tasks/CloseIO").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_as_large_as_the_client_s() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let tty = ExecRequest { tty: true, stdin: true, stderr: false, ..request(&id, &["fake", "cat"]) };
    let mut session = exec(&node, tty).await;
    session.resize(80, 24).await;
    let told = |size: &'static str| move |call: &String| call.ends_with(size);
    until("the first size is told", || calls(&node, "Tasks/ResizePty").iter().any(told(" 80x24"))).await;
    session.resize(0, 0).await;
    session.resize(132, 50).await;
    until("the next size is told", || calls(&node, "Tasks/ResizePty").iter().any(told(" 132x50"))).await;
    assert!(!calls(&node, "Tasks/ResizePty").iter().any(told(" 0x0")));
    session.send(STDIN, b"typed").await;
    assert_eq!(session.read(STDOUT, 5).await, b"typed");
}

/// A busy shim may open the write end of a terminal's stdin late. If its read end had reached the end of input and
/// closed by then, that open would block forever.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_s_input_is_held_until_the_command_is_deleted() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let tty = ExecRequest { tty: true, stdin: true, stderr: false, ..request(&id, &["fake", "cat"]) };
    let mut session = exec(&node, tty).await;
    session.send(STDIN, b"typed").await;
    assert_eq!(session.read(STDOUT, 5).await, b"typed");
    let deletion = node.containerd.hang("Tasks/DeleteProcess", 1);
    drop(session);
    deletion.arrived().await;
    assert_eq!(node.open_files("/stdin"), 2, "both ends");
    deletion.open();
    until("it is let go", || node.open_files("/stdin") == 0).await;
}

/// A small version of CVE-2022-23471: no resource is held for the terminal of a client that has gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_dies_with_its_client() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    for round in 1..=20 {
        let tty = ExecRequest { tty: true, stdin: true, stderr: false, ..request(&id, &["fake", "out=$ "]) };
        let mut session = exec(&node, tty).await;
        session.read(STDOUT, 2).await;
        drop(session);
        until("nothing is left of it", || node.leftovers() == before).await;
        assert_eq!(calls(&node, "Tasks/Kill").len(), round, "killed once");
        assert_eq!(calls(&node, "Tasks/DeleteProcess").len(), round, "deleted once");
    }
    assert_eq!(node.status(&id).await.state(), ContainerState::ContainerRunning);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_leaves_no_process() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    for method in ["Tasks/Exec", "Tasks/Start", "Tasks/Wait"] {
        for fault in [Fault::Error(Code::Unknown), Fault::LoseReply] {
            let case = format!("{method}: {fault:?}");
            let lost_wait = method == "Tasks/Wait" && matches!(fault, Fault::LoseReply);
            node.containerd.fault(method, 1, fault);
            let said = exec(&node, request(&id, &["fake", "exit=7"])).await.finish().await;
            // Only a lost Wait is repeated: it means that containerd is away, and the command still runs.
            if lost_wait {
                assert_eq!(said.exit_code(), 7, "{case}");
            } else {
                assert!(said.status["status"] == "Failure" && !said.message().is_empty(), "{case}: {said:?}");
            }
            node.containerd.heal();
            until(&case, || node.leftovers() == before).await;
        }
    }
    let said = exec(&node, request(&id, &["fake", "exit=0"])).await.finish().await;
    assert_eq!(said.exit_code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_it_starts_leaves_no_process() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let before = node.leftovers();
    for method in ["Tasks/Exec", "Tasks/Start"] {
        let gate = node.containerd.hang(method, 1);
        let session = exec(&node, request(&id, &["fake"])).await;
        gate.arrived().await;
        drop(session);
        gate.open();
        until(method, || node.leftovers() == before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_end_is_the_command_s() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let mut session = exec(&node, request(&id, &["fake", "out=up"])).await;
    session.read(STDOUT, 2).await;
    until("it is waited for", || !calls(&node, "Tasks/Wait").is_empty()).await;
    node.containerd.end(&id, 0);
    assert_eq!(session.finish().await.exit_code(), 137);
    assert_eq!(node.ended(&id).await.exit_code, 0);
}

/// A container that ends at once takes its task with it, and a Wait that is sent later would get no exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_s_end_is_waited_for_from_before_its_start() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let start = node.containerd.hang("Tasks/Start", 1);
    let session = exec(&node, request(&id, &["fake", "exit=7"])).await;
    start.arrived().await;
    until("it is waited for", || !calls(&node, "Tasks/Wait").is_empty()).await;
    start.open();
    assert_eq!(session.finish().await.exit_code(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_the_command_back_and_then_gets_all_of_it() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let size = 24 << 20;
    let flood = format!("flood={size}");
    let session = exec(&node, request(&id, &["fake", &flood, "exit=3"])).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(calls(&node, "Tasks/DeleteProcess").is_empty());
    let said = session.finish().await;
    assert_eq!((said.stdout.len(), said.exit_code()), (size, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "exit=0"]).await;
    let no_streams = ExecRequest { stdout: false, stderr: false, ..request(&id, &["fake"]) };
    let tty = ExecRequest { tty: true, ..request(&id, &["fake"]) };
    for wrong in [no_streams, tty, request(&id, &[]), request("", &["fake"])] {
        assert_eq!(url(&node, wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(url(&node, request(&"0".repeat(64), &["fake"])).await.unwrap_err().code(), Code::NotFound);
    node.ended(&id).await;
    assert_eq!(url(&node, request(&id, &["fake"])).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ended_meanwhile_is_named() {
    let node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let url = url(&node, request(&id, &["fake"])).await.unwrap();
    node.containerd.end(&id, 0);
    node.ended(&id).await;
    let said = Session::open(&url).await.finish().await;
    assert!(said.message().contains(&format!("container {id} is exited, not running")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_commands_run_than_may() {
    let node = Node::start_with("[limits]\nexecs = 4\nexecs_per_container = 2\n").await;
    let (_, one) = node.run_with_container("one", &["fake"]).await;
    let (_, other) = node.run_with_container("other", &["fake"]).await;
    let mut held = Vec::new();
    for id in [&one, &one, &other] {
        let mut session = exec(&node, request(id, &["fake", "out=up"])).await;
        session.read(STDOUT, 2).await;
        if held.len() < 2 {
            held.push(session);
            continue;
        }
        for id in [&one, &other] {
            let refused = url(&node, request(id, &["fake"])).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        }
    }
    held.pop();
    let mut said = None;
    for _ in 0..100 {
        match url(&node, request(&one, &["fake", "exit=0"])).await {
            Ok(url) => {
                said = Some(Session::open(&url).await.finish().await);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    assert_eq!(said.unwrap().exit_code(), 0, "a place that came free is had");
}

/// With TLS in the configuration, clients must get TLS. For TLS versions and certificates see
/// src/streaming/tests/tls.rs.
#[tokio::test(flavor = "multi_thread")]
async fn x4_with_a_certificate_in_the_configuration_nothing_is_served_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| directory.path().join(name));
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let node =
        Node::start_with(&format!("[streaming]\ntls_cert_file = {certificate:?}\ntls_key_file = {key:?}\n")).await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let url = url(&node, request(&id, &["fake", "exit=0"])).await.unwrap();
    let (address, path) = url.strip_prefix("https://").and_then(|rest| rest.split_once('/')).expect(&url);
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A TLS alert, or a connection reset.
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
}
