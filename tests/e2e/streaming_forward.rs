//! Port-forward: connections into a pod's network namespace.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1::{ContainerConfig, NamespaceMode};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::bed::{Bed, SOON, Target, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, namespaces, security, shell};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(forwarded_connections_share_a_session),
        rule!(forwarded_connections_keep_half_closes)
            .only_pontoon("the built-in ends a connection a second after its first half-close"),
        rule!(a_large_transfer_through_a_forwarded_port_is_whole),
        rule!(a_listener_on_ipv6_loopback_alone_is_reached)
            .only_if(std::path::Path::new("/proc/sys/net/ipv6").exists(), "the kernel has no IPv6")
            .only_pontoon("the built-in looks localhost up in the node's /etc/hosts, where ::1 may be missing"),
        rule!(a_refused_port_leaves_the_session_whole),
        rule!(a_pod_on_the_hosts_network_forwards_the_hosts_ports),
        rule!(forwarding_ends_when_the_pod_is_stopped),
    ]
}

impl Bed {
    /// The protocols of port-forward: SPDY, and SPDY tunneled through WebSocket.
    fn forward_protocols(&self) -> &'static [&'static str] {
        match self.target {
            Target::Pontoon => &["spdy", "tunnel"],
            // The built-in leaves the tunnel to kubelet.
            Target::Builtin => &["spdy"],
        }
    }
}

/// A container that sends back what it receives on a port.
fn echo(name: &str, port: u16) -> ContainerConfig {
    shell(name, &format!("exec nc -ll -p {port} -e cat"))
}

async fn echoing(scope: &Scope, port: u16) -> anyhow::Result<Pod> {
    let pod = scope.pod().await?;
    let id = pod.start(echo("echo", port)).await?;
    listens(&scope.bed, &id, port).await?;
    Ok(pod)
}

/// Waits until a process in the pod listens on a port.
pub async fn listens(bed: &Bed, id: &str, port: u16) -> Outcome {
    let wanted = format!(":{port:04X}");
    until(SOON, || async {
        // State 0A is LISTEN.
        let said = bed.sh(id, "cat /proc/net/tcp /proc/net/tcp6").await?;
        let there = said.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&wanted)) && words.nth(1) == Some("0A")
        });
        ensure!(there, "nothing listens on {port}: {said}");
        Ok(())
    })
    .await
}

/// Each connection has its own port. nc has a backlog of two: if more connections arrive before it accepts, the kernel
/// resets them a second later, when it would send their SYN-ACK again.
async fn forwarded_connections_share_a_session(scope: Arc<Scope>) -> Outcome {
    let ports: Vec<u16> = (8000..=8020).collect();
    let pod = scope.pod().await?;
    let echoes = "for port in $(seq 8000 8020); do nc -ll -p $port -e cat & done; wait";
    let id = pod.start(shell("echoes", echoes)).await?;
    for port in &ports {
        listens(&scope.bed, &id, *port).await?;
    }
    for protocol in scope.bed.forward_protocols() {
        let forward = scope.bed.forward(protocol, &pod.id, &ports).await?;
        // One connection stays open during the others.
        let mut open = forward.connect(0).await?;
        open.write_all(b"early").await?;
        let mut early = [0; 5];
        open.read_exact(&mut early).await?;
        let mut connections = JoinSet::new();
        for number in 1..ports.len() {
            let mut connection = forward.connect(number).await?;
            connections.spawn(async move {
                let text = format!("{number}\n").repeat(10_000);
                let (mut from, mut to) = connection.split();
                let mut said = vec![0; text.len()];
                tokio::try_join!(to.write_all(text.as_bytes()), from.read_exact(&mut said))
                    .with_context(|| format!("connection {number}"))?;
                ensure!(said == text.as_bytes(), "connection {number}: not what was sent");
                Ok(())
            });
        }
        while let Some(done) = connections.join_next().await {
            done?.with_context(|| (*protocol).to_owned())?;
        }
        open.write_all(b"late!").await?;
        let mut late = [0; 5];
        open.read_exact(&mut late).await?;
        ensure!(&early == b"early" && &late == b"late!", "{protocol}: {early:?}, {late:?}");
    }
    Ok(())
}

async fn forwarded_connections_keep_half_closes(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    // A server that responds only after it has received everything, and takes its time.
    let counter = "printf '#!/bin/sh\\nwc -c; sleep 2; echo over\\n' >/tmp/count; chmod +x /tmp/count; nc -ll -p 8000 -e /tmp/count";
    let id = pod.start(shell("counter", counter)).await?;
    listens(&scope.bed, &id, 8000).await?;
    for protocol in scope.bed.forward_protocols() {
        let forward = scope.bed.forward(protocol, &pod.id, &[8000]).await?;
        let said = forward.says_after_a_half_close(0, &"0123456789".repeat(50_000)).await?;
        ensure!(said == "500000\nover\n", "{protocol}: {said}");
    }
    Ok(())
}

async fn a_large_transfer_through_a_forwarded_port_is_whole(scope: Arc<Scope>) -> Outcome {
    let pod = echoing(&scope, 8000).await?;
    let data: Vec<u8> =
        (0..16_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let wanted = Sha256::digest(&data);
    let data = Arc::new(data);
    for protocol in scope.bed.forward_protocols() {
        let forward = scope.bed.forward(protocol, &pod.id, &[8000]).await?;
        let (mut from, mut to) = forward.connect(0).await?.into_split();
        let data = data.clone();
        let mut sending = JoinSet::new();
        sending.spawn(async move { to.write_all(&data).await });
        let mut got = vec![0; 16 << 20];
        from.read_exact(&mut got).await?;
        ensure!(Sha256::digest(&got) == wanted, "{protocol}: not what was sent");
    }
    Ok(())
}

async fn a_listener_on_ipv6_loopback_alone_is_reached(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let page = "mkdir /tmp/www; echo from six >/tmp/www/index.html; httpd -f -p [::1]:8006 -h /tmp/www";
    let id = pod.start(shell("six", page)).await?;
    listens(&scope.bed, &id, 8006).await?;
    let forward = scope.bed.forward("spdy", &pod.id, &[8006]).await?;
    let said = forward.says(0, "GET /index.html HTTP/1.0\r\n\r\n").await?;
    ensure!(said.contains("from six"), "{said}");
    Ok(())
}

async fn a_refused_port_leaves_the_session_whole(scope: Arc<Scope>) -> Outcome {
    let pod = echoing(&scope, 8000).await?;
    for protocol in scope.bed.forward_protocols() {
        // Since 1.31, kubectl ends a session at its first failed connection. So each connection has its own session.
        let forward = scope.bed.forward(protocol, &pod.id, &[9]).await?;
        let refused = forward.says(0, "anyone?").await;
        ensure!(refused.as_ref().map_or(true, String::is_empty), "{protocol}: {refused:?}");
        let forward = scope.bed.forward(protocol, &pod.id, &[8000]).await?;
        let said = forward.echoes(0, "still there?\n").await?;
        ensure!(said == "still there?\n", "{protocol}: {said}");
    }
    Ok(())
}

async fn a_pod_on_the_hosts_network_forwards_the_hosts_ports(scope: Arc<Scope>) -> Outcome {
    // A port of this machine, so it must be one that no other test or service uses.
    let port = 14_000 + u16::try_from(std::process::id() % 1000)?;
    let mut config = scope.pod_config();
    let options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.clone_from(&options);
    let pod = scope.run(config).await?;
    let mut container = echo("echo", port);
    security(&mut container).namespace_options = options;
    let id = pod.start(container).await?;
    listens(&scope.bed, &id, port).await?;
    let forward = scope.bed.forward("spdy", &pod.id, &[port]).await?;
    let said = forward.echoes(0, "hello, node\n").await?;
    ensure!(said == "hello, node\n", "{said}");
    Ok(())
}

async fn forwarding_ends_when_the_pod_is_stopped(scope: Arc<Scope>) -> Outcome {
    let pod = echoing(&scope, 8000).await?;
    let forward = scope.bed.forward("spdy", &pod.id, &[8000]).await?;
    let mut open = forward.connect(0).await?;
    open.write_all(b"early").await?;
    let mut early = [0; 5];
    open.read_exact(&mut early).await?;
    pod.stop().await?;
    let mut rest = Vec::new();
    // The connection may end by a FIN or by a reset.
    let ended = tokio::time::timeout(SOON, open.read_to_end(&mut rest)).await;
    ensure!(ended.is_ok(), "the connection into a stopped pod stays open");
    Ok(())
}
