//! Attach and detach: the chain, the cache, and the state after a crash.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::*;

#[tokio::test]
async fn add_runs_in_order_and_hands_on_the_result() {
    let node = Node::with_chain("1.0.0");
    let sandbox = sandbox();
    let attached = attach(&node.start(), &sandbox).await.unwrap();
    assert_eq!(attached.ips, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(node.log(), ["ADD first eth0 [/n]", "ADD second eth0 [/n]"]);
    let (first, second) = (node.given("ADD", "first"), node.given("ADD", "second"));
    assert_eq!(first, json!({"cniVersion": "1.0.0", "name": "net", "type": "first", "mtu": 1400}));
    assert_eq!(second["prevResult"]["ips"][0]["address"], "10.0.0.1/24");
    let log = fs::read_to_string(node.path("log")).unwrap();
    let id = &sandbox.id;
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=u1"
    );
    assert!(log.lines().all(|line| line.ends_with(&args)), "{log}");
}

#[tokio::test]
async fn a_plugin_gets_the_capabilities_that_it_asks_for_and_that_there_are() {
    let node = Node::with_chain("1.0.0");
    attach(&node.start(), &sandbox()).await.unwrap();
    assert_eq!(node.given("ADD", "first").get("runtimeConfig"), None);
    let port = json!({"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": ""});
    assert_eq!(node.given("ADD", "second")["runtimeConfig"], json!({"portMappings": [port]}));
}

#[tokio::test]
async fn del_runs_in_reverse_with_what_add_was_made_with() {
    let node = Node::with_chain("1.0.0");
    let network = node.start();
    let mut sandbox = sandbox();
    attach(&network, &sandbox).await.unwrap();
    fs::remove_file(node.path("log")).unwrap();
    // By now both the config and the network namespace are gone.
    fs::remove_file(node.settings.configs.path.join("10-net.conflist")).unwrap();
    let network = node.start();
    assert!(network.ready().is_err());
    sandbox.netns = None;
    network.detach(&sandbox).await.unwrap();
    assert_eq!(node.log(), ["DEL second eth0 []", "DEL first eth0 []"]);
    for plugin in ["first", "second"] {
        assert_eq!(node.given("DEL", plugin)["prevResult"]["ips"][0]["address"], "10.0.0.2/24");
    }
    assert_eq!(node.given("DEL", "second")["runtimeConfig"]["portMappings"][0]["hostPort"], 5353);
    assert!(node.cache_files().is_empty());
    network.detach(&sandbox).await.unwrap();
    assert_eq!(node.log().len(), 2, "no cache and no config: nothing to do");
}

#[tokio::test]
async fn without_a_cache_del_takes_the_loaded_config() {
    let node = Node::with_chain("1.0.0");
    node.start().detach(&sandbox()).await.unwrap();
    assert_eq!(node.log(), ["DEL second eth0 [/n]", "DEL first eth0 [/n]"]);
    assert_eq!(node.given("DEL", "first").get("prevResult"), None);
}

/// DEL for a sandbox whose record is gone.
#[tokio::test]
async fn t7_a_del_takes_the_turn_of_the_namespace_that_the_cache_knows() {
    let node = Node::with_chain("1.0.0");
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    let entries = network.inner.entries(&sandbox.id).await.unwrap();
    let nameless = Attachment::new(&sandbox.id, &v1::PodSandboxConfig::default(), None, None);
    assert_eq!(namespace_of(&nameless, &entries), "shop");
    assert_eq!(namespace_of(&sandbox, &[]), "shop");
    assert_eq!(namespace_of(&nameless, &[]), "");
}

#[tokio::test]
async fn old_versions_get_no_result_on_del() {
    let node = Node::with_chain("0.3.1");
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    network.detach(&sandbox).await.unwrap();
    assert_eq!(node.given("DEL", "second").get("prevResult"), None);
}

#[tokio::test]
async fn the_cache_file_is_what_libcni_reads() {
    let node = Node::with_chain("1.0.0");
    let sandbox = sandbox();
    attach(&node.start(), &sandbox).await.unwrap();
    assert_eq!(node.cache_files(), [format!("net-{}-eth0", sandbox.id)]);
    let cached = node.cached();
    assert_eq!(BASE64_STANDARD.decode(cached["config"].as_str().unwrap()).unwrap(), chain("1.0.0", "net").as_bytes());
    let expected = json!({
        "kind": "cniCacheV1", "containerId": sandbox.id.as_str(), "config": cached["config"], "ifName": "eth0",
        "networkName": "net", "netns": "/n", "owner": "pontoon",
        "ownerContainerd": "/run/containerd/containerd.sock", "ownerNamespace": "k8s.io",
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"],
                    ["K8S_POD_INFRA_CONTAINER_ID", sandbox.id.as_str()], ["K8S_POD_UID", "u1"]],
        "capabilityArgs": {
            "io.kubernetes.cri.pod-annotations": {},
            "dns": {"servers": [], "searches": [], "options": []},
            "portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": ""}],
        },
        "result": serde_json::from_str::<Value>(&result("10.0.0.2")).unwrap(),
    });
    assert_eq!(cached, expected);
}

#[tokio::test]
async fn a_file_that_libcni_wrote_is_understood_on_our_network_alone() {
    let node = Node::with_chain("1.0.0");
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    // One file as libcni writes it, without an owner; and one of a Multus delegate next to it, on a network of its own.
    let mut cached = node.cached();
    cached.as_object_mut().unwrap().remove("owner");
    fs::write(node.path(&format!("cache/results/net-{}-eth0", sandbox.id)), cached.to_string()).unwrap();
    cached["networkName"] = json!("storage");
    cached["ifName"] = json!("net1");
    let delegate = format!("storage-{}-net1", sandbox.id);
    fs::write(node.path("cache/results").join(&delegate), cached.to_string()).unwrap();
    assert!(network.attached(&sandbox.id).await.unwrap().is_some());
    fs::remove_file(node.path("log")).unwrap();
    network.detach(&sandbox).await.unwrap();
    assert_eq!(node.log(), ["DEL second eth0 [/n]", "DEL first eth0 [/n]"]);
    assert_eq!(node.cache_files(), [delegate]);
}

#[tokio::test]
async fn attached_is_known_after_a_restart() {
    let node = Node::with_chain("1.0.0");
    let sandbox = sandbox();
    let attached = attach(&node.start(), &sandbox).await.unwrap();
    let network = node.start();
    assert_eq!(network.attached(&sandbox.id).await.unwrap(), Some(attached.clone()));
    assert_eq!(network.recall(&sandbox.id).await.unwrap(), Recalled::Attached(attached));
    assert_eq!(network.recall(&SandboxId::random()).await.unwrap(), Recalled::Nothing);
    assert_eq!(network.attached(&SandboxId::random()).await.unwrap(), None);
}

/// A plugin whose ADD hangs.
const HANGS: &str = "cat >/dev/null; [ \"$CNI_COMMAND\" = ADD ] && : >$DIR/hangs && exec sleep 300\nexit 0";

/// Waits until that plugin hangs, and so until the plugins before it have ended.
async fn has_hung(node: &Node) {
    assert!(within(Duration::from_secs(10), || node.path("hangs").exists()).await, "the plugin does not run");
}

#[tokio::test]
async fn a_crash_within_add_leaves_what_del_needs() {
    let node = Node::with_chain("1.0.0");
    node.plugin("second", HANGS);
    let (network, sandbox) = (node.start(), sandbox());
    // Dropping the future is the closest a test can come to a crash of the daemon.
    tokio::select! {
        ended = attach(&network, &sandbox) => panic!("it ended: {ended:?}"),
        () = has_hung(&node) => {}
    }
    let cached = node.cached();
    assert_eq!(cached.get("result"), None);
    assert_eq!(network.attached(&sandbox.id).await.unwrap(), None);
    assert_eq!(network.recall(&sandbox.id).await.unwrap(), Recalled::Unfinished);
    node.config("10-net.conflist", "{ broken");
    let network = node.start();
    network.detach(&sandbox).await.unwrap();
    assert_eq!(node.log(), ["ADD first eth0 [/n]", "DEL first eth0 [/n]"]);
    assert!(node.cache_files().is_empty());
}

/// Only one of two networks has its result, so the attachment is incomplete.
#[tokio::test]
async fn f4_a_crash_before_the_last_networks_add_is_seen() {
    let mut node = Node::with_chain("1.0.0");
    node.plugin("hangs", HANGS);
    node.config("20-more.conflist", r#"{"cniVersion":"1.0.0","name":"more","plugins":[{"type":"hangs"}]}"#);
    node.settings.configs.limit = 2;
    let (network, sandbox) = (node.start(), sandbox());
    let prepared = network.prepare(&sandbox).await.unwrap();
    assert_eq!(network.recall(&sandbox.id).await.unwrap(), Recalled::Unfinished, "before the first plugin runs");
    tokio::select! {
        ended = network.attach(prepared) => panic!("it ended: {ended:?}"),
        () = has_hung(&node) => {}
    }
    assert!(network.attached(&sandbox.id).await.unwrap().is_some());
    assert_eq!(network.recall(&sandbox.id).await.unwrap(), Recalled::Unfinished);
    network.detach(&sandbox).await.unwrap();
    assert_eq!(network.recall(&sandbox.id).await.unwrap(), Recalled::Nothing);
}

/// Files of two instances, and one that does not state its owner.
#[tokio::test]
async fn f2_the_cache_says_whose_attachments_it_has() {
    let mut node = Node::with_chain("1.0.0");
    let (network, own, old) = (node.start(), sandbox(), sandbox());
    attach(&network, &own).await.unwrap();
    attach(&network, &old).await.unwrap();
    let file = node.path(&format!("cache/results/net-{}-eth0", old.id));
    let mut cached: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    cached.as_object_mut().unwrap().retain(|key, _| !matches!(key.as_str(), "ownerContainerd" | "ownerNamespace"));
    fs::write(&file, cached.to_string()).unwrap();
    let mine = Cached { ours: [(own.id.clone(), vec!["/n".into()])].into(), others: [old.id.clone()].into() };
    assert_eq!(network.cached().await.unwrap(), mine);

    for owner in [
        Owner { namespace: "elsewhere".to_owned(), ..Owner::default() },
        Owner { containerd: "/run/other/containerd.sock".into(), ..Owner::default() },
    ] {
        node.settings.owner = owner;
        let theirs = Cached { others: [own.id.clone(), old.id.clone()].into(), ..Cached::default() };
        assert_eq!(node.start().cached().await.unwrap(), theirs);
    }
    // An instance that knows the sandbox can detach it all the same.
    network.detach(&old).await.unwrap();
    assert!(!file.exists());
}

/// Another instance may be writing a recent file.
#[tokio::test]
async fn f2_only_old_unfinished_writes_are_swept() {
    let node = Node::with_chain("1.0.0");
    let results = node.path("cache/results");
    fs::create_dir_all(&results).unwrap();
    let [fresh, old] = [SandboxId::random(), SandboxId::random()].map(|id| results.join(format!(".net-{id}-eth0.tmp")));
    for path in [&fresh, &old] {
        fs::write(path, "").unwrap();
    }
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&old).unwrap().set_modified(hour_ago).unwrap();
    node.start();
    assert_eq!((fresh.exists(), old.exists()), (true, false));
}

#[tokio::test]
async fn a_failed_del_keeps_the_cache_for_the_next_try() {
    let node = Node::with_chain("1.0.0");
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    node.plugin("first", "cat >/dev/null; echo '{\"code\": 11, \"msg\": \"try again\"}'; exit 1");
    let error = network.detach(&sandbox).await.unwrap_err();
    assert!(matches!(&error, Error::Plugin(failure) if failure.code == 11 && failure.operation == Operation::Del));
    assert_eq!(error.to_string(), "cni plugin first DEL failed: try again (code 11)");
    assert_eq!(node.cache_files().len(), 1);
    node.plugin("first", &noting(""));
    network.detach(&sandbox).await.unwrap();
    assert!(node.cache_files().is_empty());
}

#[tokio::test]
async fn a_cache_file_that_cannot_be_read_is_as_good_as_none() {
    let node = Node::with_chain("1.0.0");
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    for text in ["", "{\"kind\": \"cniCa", "{\"kind\": \"other\"}", "[]"] {
        fs::write(node.path(&format!("cache/results/net-{}-eth0", sandbox.id)), text).unwrap();
        assert_eq!(network.attached(&sandbox.id).await.unwrap(), None, "{text}");
    }
    network.detach(&sandbox).await.unwrap();
    assert!(node.cache_files().is_empty(), "DEL with the loaded config has removed it");
}

#[tokio::test]
async fn more_networks_get_an_interface_each_and_the_first_is_the_primary() {
    let mut node = Node::with_chain("1.0.0");
    node.config("20-more.conflist", &chain("1.0.0", "more"));
    node.settings.configs.limit = 2;
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    network.detach(&sandbox).await.unwrap();
    let interfaces: Vec<_> = node.log().iter().map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
    assert_eq!(interfaces, ["eth0", "eth0", "eth1", "eth1", "eth1", "eth1", "eth0", "eth0"]);
}

#[tokio::test]
async fn check_is_given_the_result_and_gc_the_valid_attachments() {
    let node = Node::with_chain("1.1.0");
    let (network, sandbox) = (node.start(), sandbox());
    attach(&network, &sandbox).await.unwrap();
    network.check(&sandbox).await.unwrap();
    assert_eq!(node.given("CHECK", "first")["prevResult"]["ips"][0]["address"], "10.0.0.2/24");
    network.gc(std::slice::from_ref(&sandbox.id)).await.unwrap();
    let valid = json!([{"containerID": sandbox.id.as_str(), "ifname": "eth0"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        assert_eq!(node.given("GC", "second")[key], valid);
    }
}

#[tokio::test]
async fn what_cannot_be_passed_is_refused_before_any_plugin_runs() {
    let node = Node::with_chain("1.0.0");
    let network = node.start();
    let mut bad = sandbox();
    bad.name = "a;K8S_POD_UID=other".to_owned();
    assert!(matches!(attach(&network, &bad).await, Err(Error::InvalidField { field: "config.metadata.name" })));
    let mut bad = sandbox();
    bad.annotations.insert("kubernetes.io/ingress-bandwidth".to_owned(), "lots".to_owned());
    assert!(matches!(attach(&network, &bad).await, Err(Error::Bandwidth(_))));
    assert!(node.log().is_empty() && node.cache_files().is_empty());
    network.detach(&bad).await.unwrap();
}
