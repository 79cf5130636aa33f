//! Networks of pods: addresses, host ports, the node's network.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::NamespaceMode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bed::{SOON, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, busybox, namespaces, security, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_pod_has_the_ips_that_its_status_says),
        rule!(pods_reach_each_other),
        rule!(loopback_is_up),
        rule!(a_host_port_leads_to_the_pod_until_it_is_stopped),
        rule!(a_host_port_is_of_its_protocol_and_address),
        rule!(a_pod_on_the_hosts_network_has_its_interfaces_and_name),
        rule!(a_pod_on_the_hosts_network_may_have_a_name_of_its_own).only_pontoon("the built-in fails in runc"),
        rule!(the_cni_result_is_in_the_verbose_status),
    ]
}

async fn a_pod_has_the_ips_that_its_status_says(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let ips = pod.ips().await?;
    let seen = scope.bed.sh(&id, "ip -o addr show dev eth0 scope global | awk '{ print $4 }' | cut -d/ -f1").await?;
    let mut seen: Vec<&str> = seen.lines().collect();
    // IPv4 is the first family in the bed's CNI configuration.
    seen.sort_by_key(|ip| ip.contains(':'));
    ensure!(ips == seen, "status {ips:?}, eth0 {seen:?}");
    let conflist = std::fs::read_to_string(scope.bed.dir.join("cni/net.d/10-bed.conflist"))?;
    let dual = conflist.contains("fd00:");
    ensure!(ips.len() == if dual { 2 } else { 1 }, "{ips:?}");
    ensure!(ips[0].parse::<IpAddr>()?.is_ipv4() && ips[1..].iter().all(|ip| ip.contains(':')), "{ips:?}");
    Ok(())
}

async fn pods_reach_each_other(scope: Arc<Scope>) -> Outcome {
    let (one, two) = (scope.pod().await?, scope.pod().await?);
    one.start(shell("main", "echo from one >/tmp/index.html; httpd -f -p 8000 -h /tmp")).await?;
    let ip = one.ips().await?.remove(0);
    let id = two.start(sleeper("main")).await?;
    // Not wget: the one of Debian's static busybox crashes when it resolves a name, even if that is an IP address.
    let get = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {ip} 8000");
    let said = until(SOON, || async { scope.bed.sh(&id, &get).await }).await?;
    ensure!(said.ends_with("from one"), "{said}");
    Ok(())
}

async fn loopback_is_up(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = pod.says(shell("main", "ping -c 1 -W 2 127.0.0.1 && ip -o addr show dev lo")).await?;
    ensure!(said.contains("127.0.0.1/8"), "{said}");
    Ok(())
}

async fn http(address: (&str, u16)) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn a_host_port_leads_to_the_pod_until_it_is_stopped(scope: Arc<Scope>) -> Outcome {
    let port = free_port()?;
    let mut config = scope.pod_config();
    config.port_mappings = vec![v1::PortMapping { container_port: 8000, host_port: port.into(), ..Default::default() }];
    let pod = scope.run(config).await?;
    pod.start(shell("main", "echo through the port >/tmp/index.html; httpd -f -p 8000 -h /tmp")).await?;
    // Not through 127.0.0.1: for that, the portmap plugin would need route_localnet.
    let gateway = gateway(&scope)?;
    let answer = until(SOON, || async { http((&gateway, port)).await }).await?;
    ensure!(answer.contains("through the port"), "{answer}");
    pod.stop().await?;
    ensure!(rules_of(port).await?.is_empty(), "rules of the port are left");
    Ok(())
}

/// A port outside the ephemeral range and the range that critest uses.
fn free_port() -> anyhow::Result<u16> {
    Ok(13_000 + u16::try_from(std::process::id() % 1000)?)
}

/// The node's NAT rules for a host port.
async fn rules_of(port: u16) -> anyhow::Result<Vec<String>> {
    let rules = crate::bed::output(tokio::process::Command::new("iptables-save").args(["-t", "nat"])).await?;
    let of = rules.lines().filter(|line| line.contains(&format!("--dport {port} ")));
    Ok(of.map(str::to_owned).collect())
}

async fn a_host_port_is_of_its_protocol_and_address(scope: Arc<Scope>) -> Outcome {
    let (first, host_ip) = (free_port()? + 1000, gateway(&scope)?);
    let protocols = [(v1::Protocol::Udp, "udp", first), (v1::Protocol::Sctp, "sctp", first + 1)];
    let mut config = scope.pod_config();
    let mapping = |(protocol, _, port): (v1::Protocol, &str, u16)| {
        let (protocol, host_ip) = (protocol.into(), host_ip.clone());
        v1::PortMapping { protocol, container_port: 5300, host_port: port.into(), host_ip }
    };
    config.port_mappings = protocols.map(mapping).to_vec();
    let pod = scope.run(config).await?;
    let ip = pod.ips().await?.remove(0);
    for (_, protocol, port) in protocols {
        let rules = rules_of(port).await?;
        let leads = rules.iter().find(|rule| rule.contains("DNAT")).context("no rule for the port")?;
        let protocol = format!("-p {protocol} ");
        for part in [&format!("-d {host_ip}/32 "), &protocol, &format!("--to-destination {ip}:5300")] {
            ensure!(leads.contains(part), "{part:?} is not in {leads}");
        }
        ensure!(rules.iter().all(|rule| rule.contains(&protocol)), "{rules:?}");
    }
    Ok(())
}

/// The node's IPv4 address on the bed's bridge.
fn gateway(scope: &Scope) -> anyhow::Result<String> {
    let slot = scope.bed.cgroup_parent.trim_start_matches("/ptbed");
    Ok(format!("10.213.{slot}.1"))
}

async fn a_pod_on_the_hosts_network_has_its_interfaces_and_name(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.clone_from(&options);
    let pod = scope.run(config).await?;
    let mut container =
        busybox("main", &["sh", "-c", "readlink /proc/self/ns/net; hostname; readlink /proc/self/ns/uts"]);
    security(&mut container).namespace_options = options;
    let said = pod.says(container).await?;
    let said: Vec<&str> = said.lines().collect();
    let nodes = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}"));
    ensure!(said[0] == nodes("net")?.to_string_lossy(), "net: {}", said[0]);
    ensure!(said[1] == std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim(), "hostname: {}", said[1]);
    let network = pod.status().await?.status.context("status")?.network;
    ensure!(network.is_none_or(|network| network.ip.is_empty()), "an IP of its own");
    Ok(())
}

async fn a_pod_on_the_hosts_network_may_have_a_name_of_its_own(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    config.hostname = "its-own".to_owned();
    let options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.clone_from(&options);
    let pod = scope.run(config).await?;
    let mut container = shell("main", "hostname; cat /etc/hostname; echo $HOSTNAME; readlink /proc/self/ns/net");
    security(&mut container).namespace_options = options;
    let said = pod.says(container).await?;
    let node = std::fs::read_link("/proc/self/ns/net")?;
    ensure!(said.lines().collect::<Vec<_>>() == ["its-own", "its-own", "its-own", &node.to_string_lossy()], "{said}");
    ensure!(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim() != "its-own", "the node has its name");
    Ok(())
}

async fn the_cni_result_is_in_the_verbose_status(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let info: serde_json::Value = serde_json::from_str(pod.status().await?.info.get("info").context("info")?)?;
    let ips = pod.ips().await?;
    let text = info["cniResult"].to_string();
    ensure!(text.contains(&ips[0]), "info.cniResult is {text}");
    Ok(())
}
