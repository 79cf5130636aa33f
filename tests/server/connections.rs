//! A client may use any authority on its connection, and may cancel any number of calls.

use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon::api::v1::*;

use crate::support::http2::{Connection, Ended, literal};
use crate::support::requests;
use crate::support::server::Node;

const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const TOP: &str = "/pontoon.v1.Admin/Operations";
const PROTOCOL_ERROR: u32 = 1;

/// Python's, Java's and older Go's gRPC put the socket's path into the authority (grpc-rust#576).
#[tokio::test(flavor = "multi_thread")]
async fn r1_any_authority_is_answered() {
    let node = Node::start().await;
    for (socket, method) in [(node.socket(), VERSION), (node.admin_socket(), TOP)] {
        let mut connection = Connection::open(&socket).await;
        for authority in [
            // As grpc-go encodes it: added to the dynamic table, and then taken from there.
            literal(0x41, None, "/run/pontoon/pontoon.sock"),
            vec![0xbe],
            // As Python encodes it: with a literal name.
            literal(0x40, Some(":authority"), "%2Frun%2Fpontoon%2Fpontoon.sock"),
            vec![0xbe],
            literal(0x01, None, "unix:///run/pontoon/pontoon.sock"),
            // Empty, as grpc-go encodes that, and no authority at all.
            vec![0x81],
            Vec::new(),
            literal(0x41, None, "localhost"),
        ] {
            assert_eq!(connection.call(method, &authority).await, Ended::Answered, "{authority:?} at {socket:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_client_whose_authority_is_refused_is_named_in_the_log() {
    let node = Node::start().await;
    let mut connection = Connection::open(&node.socket()).await;
    let ended = connection.call(VERSION, &literal(0x41, None, "")).await;
    assert_eq!(ended, Ended::Reset(PROTOCOL_ERROR));
    let line = node.log().lines().find(|line| line.contains(":authority")).map(str::to_owned).unwrap_or_default();
    assert!(line.contains(&format!("pid={}", std::process::id())), "{line:?}");
}

/// kubelet has a single connection, and cancels calls when it is busy.
#[tokio::test(flavor = "multi_thread")]
async fn r2_cancelled_calls_end_nothing_else_of_their_connection() {
    let node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake"]).await;
    let client = node.cri();
    let mut events = client.clone().get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
    let gate = node.containerd.hang("Tasks/Kill", 1);
    let stop = StopContainerRequest { container_id: id.clone(), timeout: 0 };
    let mut cri = client.clone();
    let stopping = tokio::spawn(async move { cri.stop_container(stop).await });
    gate.arrived().await;

    for is_stopped in [true, false] {
        if is_stopped {
            node.signal(Signal::SIGSTOP);
        }
        for _ in 0..25 {
            let calls = (0..100).map(|_| {
                let mut client = client.clone();
                async move {
                    let call = client.status(StatusRequest::default());
                    let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
                }
            });
            futures_util::future::join_all(calls).await;
        }
        node.signal(Signal::SIGCONT);
    }

    gate.open();
    stopping.await.unwrap().expect("the Stop goes on");
    let ended = async {
        loop {
            let event = events.message().await.expect("the events go on").expect("no end");
            if event.container_id == id && event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, ended).await.expect("its end is told");
    // All calls used the one connection.
    let pod = node.pod("web");
    let side = requests::container(&sandbox, &pod, "side", &["fake"]);
    client.clone().create_container(side).await.unwrap();
}
