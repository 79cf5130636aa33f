//! PortForward: a client reaches a server that listens in the pod.

use pontoon::api::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::support::server::Node;
use crate::support::streams::Session;

/// The channels of a session for one port: the data, and errors.
const DATA: u8 = 0;
const ERROR: u8 = 1;

async fn url(node: &Node, sandbox: &str, port: i32) -> Result<String, Status> {
    let request = PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: vec![port] };
    node.cri().port_forward(request).await.map(|reply| reply.into_inner().url)
}

async fn forward(node: &Node, sandbox: &str, port: u16) -> Session {
    Session::open_with_protocol("v4.channel.k8s.io", &url(node, sandbox, port.into()).await.unwrap()).await
}

/// Starts an echo server in the pod.
async fn echo(node: &Node, sandbox: &str, address: &'static str) -> u16 {
    let listen = move || {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let listener = pontoon::netns::enter(&node.netns(sandbox), listen).await.unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut piece = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut piece).await {
                    stream.write_all(&piece[..count]).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reaches_the_pod_s_own_loopback() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let port = echo(&node, &sandbox, address).await;
        let mut sessions = Vec::new();
        for _ in 0..3 {
            let mut session = forward(&node, &sandbox[..8], port).await;
            // Both channels begin with the port.
            assert_eq!(session.read(DATA, 2).await, port.to_le_bytes());
            sessions.push(session);
        }
        for (number, session) in sessions.iter_mut().enumerate() {
            let word = format!("hello {number}");
            session.send(DATA, word.as_bytes()).await;
            assert_eq!(session.read(DATA, word.len()).await, word.as_bytes());
        }
    }
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_for_a_port_without_a_listener_names_it() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    let mut session = forward(&node, &sandbox, 81).await;
    let mut said = Vec::new();
    while let Some((channel, bytes)) = session.next().await {
        if channel == ERROR {
            said.extend(bytes);
        }
    }
    let said = String::from_utf8_lossy(&said[2..]).into_owned();
    assert!(said.contains("failed to connect to localhost:81 inside namespace"), "{said}");
    assert!(said.contains("connection refused"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_forwarded_than_may() {
    let node = Node::start_with("[limits]\nstreams_per_object = 1\n").await;
    let sandbox = node.run(&node.pod("web")).await;
    let port = echo(&node, &sandbox, "127.0.0.1:0").await;
    let mut session = forward(&node, &sandbox, port).await;
    session.send(DATA, b"x").await;
    session.read(DATA, 3).await;
    let refused = url(&node, &sandbox, port.into()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    for port in [0, -1, 65536] {
        let refused = url(&node, &sandbox, port).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with("port: "), "{refused}");
    }
    assert_eq!(url(&node, &"0".repeat(64), 80).await.unwrap_err().code(), Code::NotFound);
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    assert_eq!(url(&node, &sandbox, 80).await.unwrap_err().code(), Code::FailedPrecondition);
}
