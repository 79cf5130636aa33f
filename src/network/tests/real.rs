//! Tests with the real bridge and host-local plugins, which are in the directory `PONTOON_CNI_BIN`.

use super::*;
use crate::netns;

/// Settings of the whole node that a bridge with `isGateway` switches on.
const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];

/// Removes the bridge and restores the node's settings when dropped, also after a failed test.
struct Bridge {
    name: &'static str,
    /// The former values, if the kernel has the setting.
    forwarding: [Option<String>; 2],
}

impl Bridge {
    fn named(name: &'static str) -> Self {
        Self { name, forwarding: FORWARDING.map(|path| fs::read_to_string(path).ok()) }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["link", "del", self.name]).status();
        for (path, before) in FORWARDING.iter().zip(&self.forwarding) {
            let _ = before.as_ref().map(|value| fs::write(path, value));
        }
    }
}

#[tokio::test]
#[ignore = "needs root, and CNI plugins: PONTOON_CNI_BIN"]
async fn bridge_and_host_local_attach_and_give_back() {
    let bin = std::env::var_os("PONTOON_CNI_BIN").expect("the directory of bridge and host-local");
    let mut node = Node::new();
    let bridge = Bridge::named("pontoon-test0");
    let leases = node.path("leases");
    let ipam = json!({
        "type": "host-local", "dataDir": leases,
        "ranges": [[{"subnet": "10.233.211.0/24"}], [{"subnet": "fd00:233:211::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let plugin = json!({"type": "bridge", "bridge": bridge.name, "isGateway": true, "ipam": ipam});
    let config = json!({"cniVersion": "1.0.0", "name": "pontoon-test", "plugins": [plugin]});
    node.config("10-net.conflist", &config.to_string());
    node.settings.bin_dirs = vec![bin.into()];
    let network = node.start();
    let path = node.path("netns/one");
    netns::create(&path).await.unwrap();
    let mut sandbox = sandbox();
    sandbox.netns = Some(path.clone());

    let attached = attach(&network, &sandbox).await.unwrap();
    let read = network.in_order(netns::addresses(&path, "eth0").await.unwrap());
    network.check(&sandbox).await.unwrap();
    let held =
        || fs::read_dir(leases.join("pontoon-test")).unwrap().flatten().filter(|e| e.file_name() != "lock").count();
    let before = held();
    network.detach(&sandbox).await.unwrap();
    network.detach(&sandbox).await.unwrap();
    let after = held();
    netns::remove(&path).await.unwrap();
    let _ = nix::mount::umount2(&node.path("netns"), nix::mount::MntFlags::MNT_DETACH);

    assert_eq!(attached.ips.len(), 2);
    assert!(attached.ips[0].is_ipv4() && attached.ips[1].is_ipv6());
    assert_eq!(read, attached.ips, "what is lost from the cache can be read in the namespace");
    assert!(after < before && node.cache_files().is_empty(), "{before} -> {after}");
}
