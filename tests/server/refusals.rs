//! When the daemon refuses to start, and with which message.

use pontoon::api::v1::StatusRequest;

use crate::support::server::Node;
use crate::support::until;

const BUILTIN: (&str, &str) = ("io.containerd.grpc.v1", "cri");

#[tokio::test(flavor = "multi_thread")]
async fn beside_containerds_own_cri_it_says_how_to_switch_that_off() {
    let mut node = Node::start().await;
    node.containerd.load(BUILTIN);
    let said = node.refused().await;
    assert!(said.starts_with("pontoon: containerd's own CRI plugin is active"), "{said}");
    assert!(said.ends_with("disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]"), "{said}");
    // In a namespace of its own, Pontoon does not see the pods of containerd's CRI, and the other way round.
    node.configure(|config| config.replace("[containerd]\n", "[containerd]\nnamespace = \"pontoon\"\n"));
    node.spawn().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_images_plugin_of_containerds_cri_does_not_prevent_the_start() {
    let mut node = Node::start().await;
    node.containerd.load(("io.containerd.cri.v1", "images"));
    node.restart().await;
    assert!(node.log().contains("io.containerd.cri.v1.images is active and does needless work"), "{}", node.log());
}

/// docs/rulings.md 22: an outdated runtime is reported, and used all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_runc_is_reported_and_does_not_prevent_the_start() {
    let mut node = Node::start().await;
    let told = async |node: &Node| {
        let status = node.cri().status(StatusRequest::default()).await.unwrap().into_inner().status.unwrap();
        let ready =
            status.conditions.iter().filter(|one| ["RuntimeReady", "NetworkReady"].contains(&one.r#type.as_str()));
        assert!(ready.clone().count() == 2 && ready.clone().all(|one| one.status), "{status:?}");
        status.conditions.into_iter().find(|one| one.r#type == "RuntimesSupported").unwrap()
    };
    let current = told(&node).await;
    assert_eq!((current.status, current.reason.as_str(), current.message.as_str()), (true, "", ""));
    node.containerd.set_runc("1.5.1");
    node.restart().await;
    let old = told(&node).await;
    assert_eq!((old.status, old.reason.as_str()), (false, "RuntimeOutdated"));
    assert_eq!(old.message, "handler runc: runc 1.5.1 is older than 1.5.2, the oldest that is supported");
    assert!(node.log().contains("runc 1.5.1 is older than 1.5.2"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_lacks_is_named() {
    let mut node = Node::start().await;
    for plugin in [("io.containerd.grpc.v1", "sandboxes"), ("io.containerd.grpc.v1", "transfer")] {
        node.containerd.unload(plugin);
    }
    let said = node.refused().await;
    let lacks = "pontoon: containerd v2.4.2 lacks io.containerd.grpc.v1.sandboxes, io.containerd.grpc.v1.transfer; ";
    assert!(said.starts_with(lacks), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_pods_of_containerds_own_cri_are_named_and_the_ended_are_not() {
    let mut node = Node::start().await;
    let (_, foreign) = node.run_with_container("web", &["fake"]).await;
    node.containerd.edit_container(&foreign, |record| {
        record.extensions.insert("io.cri-containerd.container.metadata".to_owned(), prost_types::Any::default());
    });
    let said = node.refused().await;
    assert!(said.starts_with("pontoon: containers of containerd's own CRI are running"), "{said}");
    assert!(said.contains(&foreign), "{said}");
    node.configure(|config| format!("allow_foreign_pods = true\n{config}"));
    node.spawn().await;
    node.configure(|config| config.replace("allow_foreign_pods = true\n", ""));
    node.containerd.end(&foreign, 0);
    node.ended(&foreign).await;
    node.restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_line_describes_a_wrong_configuration() {
    let mut node = Node::start().await;
    for (line, told) in [
        ("streaming.port = 70000", "line 1: streaming.port is 70000, and has to be a whole number from 0 to 65535"),
        ("log.colour = true", "line 1: there is no key log.colour; [log] has level, format"),
        ("log.level = \"verbose\"", "config key log.level: \"verbose\" is not a level: "),
        ("images.pinned_images = [\"a b\"]", "config key images.pinned_images: "),
    ] {
        node.configure(|config| format!("{line}\n{config}"));
        let said = node.refused().await;
        assert!(said.starts_with("pontoon: config ") && said.contains(told), "{said}");
        node.configure(|config| config.replacen(&format!("{line}\n"), "", 1));
    }
}

/// A snapshotter or a runtime may be installed later, so the start is not refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_names_what_the_node_lacks_is_a_warning_and_does_not_prevent_the_start() {
    let mut node = Node::start().await;
    let handler = "[runtimes.runc]\n[runtimes.x]\nsnapshotter = \"zfs\"\noptions.BinaryName = \"/nonexistent/runc\"\n";
    node.configure(|config| config + handler);
    node.restart().await;
    until("both are told", || {
        let log = node.log();
        log.contains("config key runtimes.x.snapshotter: containerd has no snapshotter \"zfs\"; it has overlayfs")
            && log.contains("config key runtimes.x.options.BinaryName: there is no executable file /nonexistent/runc")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_address_is_named_while_nothing_answers_there() {
    let mut node = Node::start().await;
    node.configure(|config| config.replace("[containerd]\naddress = \"", "[containerd]\naddress = \"unix://"));
    node.restart().await;
    node.containerd.stop();
    node.kill();
    node.spawn_without_waiting();
    until("it is told", || node.log().contains("config key containerd.address: waiting for containerd")).await;
}
