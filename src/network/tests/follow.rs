//! Changes of the config directory, STATUS, and the template.

use super::*;

const LIMIT: Duration = Duration::from_secs(1);

fn message(network: &Network) -> String {
    network.ready().err().map(|not_ready| not_ready.message).unwrap_or_default()
}

#[tokio::test]
async fn an_empty_directory_is_not_ready_and_says_where() {
    let node = Node::new();
    let not_ready = node.start().ready().unwrap_err();
    assert_eq!(not_ready.reason, "NetworkPluginNotReady");
    let dir = node.settings.configs.path.display();
    assert_eq!(not_ready.message, format!("cni config uninitialized: no conflist in {dir}"));
    let attach = attach(&node.start(), &sandbox()).await.unwrap_err();
    assert!(matches!(attach, Error::NotReady(_)));
}

#[tokio::test]
async fn changes_are_followed_within_a_second() {
    let node = Node::new();
    let network = node.start();
    node.config("10-a.conflist", &chain("1.0.0", "a"));
    assert!(within(LIMIT, || network.ready().is_ok()).await);
    node.config("10-a.conflist", "{");
    assert!(within(LIMIT, || message(&network).contains("10-a.conflist")).await, "{}", message(&network));
    node.config("05-b.conflist", &chain("1.0.0", "b"));
    assert!(within(LIMIT, || network.ready().is_ok()).await, "a good file before the broken one is enough");
    fs::remove_file(node.settings.configs.path.join("05-b.conflist")).unwrap();
    assert!(within(LIMIT, || network.ready().is_err()).await);
    // Atomically: a new file renamed over the old one.
    fs::write(node.path("new"), chain("1.0.0", "c")).unwrap();
    fs::rename(node.path("new"), node.settings.configs.path.join("10-a.conflist")).unwrap();
    assert!(within(LIMIT, || network.ready().is_ok()).await);
    assert_eq!(network.config_json()["Networks"][0]["Config"]["Name"], "c");
}

#[tokio::test]
async fn a_directory_that_comes_goes_and_is_replaced_is_followed() {
    let mut node = Node::new();
    node.settings.configs.path = node.path("deep/er/net.d");
    let network = node.start();
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs::create_dir_all(&node.settings.configs.path).unwrap();
    node.config("10-a.conflist", &chain("1.0.0", "a"));
    assert!(within(LIMIT, || network.ready().is_ok()).await, "it came");
    fs::rename(node.path("deep"), node.path("away")).unwrap();
    assert!(within(LIMIT, || network.ready().is_err()).await, "a directory above it went");
    fs::rename(node.path("away"), node.path("deep")).unwrap();
    assert!(within(LIMIT, || network.ready().is_ok()).await, "it is back");
    fs::remove_dir_all(&node.settings.configs.path).unwrap();
    assert!(within(LIMIT, || network.ready().is_err()).await, "it went");
    std::os::unix::fs::symlink(node.path("net.d"), &node.settings.configs.path).unwrap();
    node.config("10-b.conflist", &chain("1.0.0", "b"));
    assert!(within(LIMIT, || network.ready().is_ok()).await, "it is a link now");
}

#[tokio::test]
async fn plugins_in_a_directory_of_the_networks_name_are_followed() {
    let node = Node::with_chain("1.0.0");
    let network = node.start();
    let plugins = || network.config_json()["Networks"][0]["Config"]["Plugins"].as_array().map_or(0, Vec::len);
    assert_eq!(plugins(), 2);
    fs::create_dir(node.settings.configs.path.join("net")).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.config("net/10-more.conf", r#"{"type":"third"}"#);
    assert!(within(LIMIT, || plugins() == 3).await);
}

#[tokio::test]
async fn status_is_asked_in_the_background_from_1_1_on() {
    let old = Node::with_chain("1.0.0");
    let network = old.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(network.ready().is_ok() && old.log().is_empty(), "no STATUS before 1.1");
    let node = Node::with_chain("1.1.0");
    let sick = "cat >/dev/null; [ \"$CNI_COMMAND\" = STATUS ] && [ ! -e $DIR/well ] || exit 0\n\
                echo '{\"code\": 50, \"msg\": \"daemon is down\"}'; exit 1";
    node.plugin("second", sick);
    let network = node.start();
    let expected = "cni status: cni plugin second STATUS failed: daemon is down (code 50)";
    assert!(within(LIMIT * 5, || message(&network) == expected).await, "{}", message(&network));
    assert_eq!(node.log()[0], "STATUS first  []");
    fs::write(node.path("well"), "").unwrap();
    assert!(within(LIMIT * 5, || network.ready().is_ok()).await);
}

#[tokio::test]
async fn the_tasks_end_with_the_last_user() {
    let node = Node::with_chain("1.1.0");
    let network = node.start();
    let inner = Arc::downgrade(&network.inner);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(network);
    assert!(within(LIMIT, || inner.strong_count() == 0).await);
}

const TEMPLATE: &str = r#"{"cniVersion":"1.0.0","name":"t","plugins":[{"type":"first","ipam":{
  "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]}}]}"#;

#[tokio::test]
async fn the_template_becomes_the_config_unless_there_is_another() {
    let mut node = Node::new();
    let cidrs = ["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
    assert_eq!(node.start().write_from_template(&cidrs).await.unwrap(), None, "no template");
    node.settings.conf_template = Some(node.path("template"));
    fs::write(node.path("template"), TEMPLATE).unwrap();
    let network = node.start();
    assert_eq!(network.write_from_template(&[]).await.unwrap(), None, "no CIDRs");
    let written = network.write_from_template(&cidrs).await.unwrap().unwrap();
    assert_eq!(written, node.settings.configs.path.join("10-pontoon.conflist"));
    assert!(within(LIMIT, || network.ready().is_ok()).await);
    let ipam = network.config_json()["Networks"][0]["Config"]["Plugins"][0]["Network"]["ipam"].clone();
    assert_eq!(ipam, json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]}));
    assert!(network.write_from_template(&cidrs[..1]).await.unwrap().is_some(), "ours is replaced");
    node.config("05-calico.conflist", &chain("1.0.0", "calico"));
    assert!(within(LIMIT, || network.config_json()["Networks"][0]["Config"]["Name"] == "calico").await);
    assert_eq!(network.write_from_template(&cidrs).await.unwrap(), None, "another's is left alone");
}

#[tokio::test]
async fn a_template_that_gives_no_config_is_refused_and_nothing_is_written() {
    let mut node = Node::new();
    node.settings.conf_template = Some(node.path("template"));
    for text in ["{\"name\": \"{{.PodCIDR}}\"", "{{.Other}}"] {
        fs::write(node.path("template"), text).unwrap();
        let error = node.start().write_from_template(&["10.0.0.0/8".parse().unwrap()]).await.unwrap_err();
        assert!(matches!(error, Error::Template { .. }));
    }
    assert_eq!(fs::read_dir(&node.settings.configs.path).unwrap().count(), 0);
}

#[tokio::test]
async fn a_handler_with_a_directory_of_its_own_has_that_network() {
    let node = Node::with_chain("1.0.0");
    let own = ConfigDir { path: node.path("own.d"), limit: 1 };
    fs::create_dir(&own.path).unwrap();
    fs::write(own.path.join("10-own.conflist"), chain("1.0.0", "own")).unwrap();
    let of_handlers = [("kata", own.clone()), ("gvisor", own), ("same", node.settings.configs.clone())];
    let of_handlers = of_handlers.map(|(name, dir)| (name.to_owned(), dir)).into();
    let networks = Networks::start(node.settings.clone(), of_handlers, &Tasks::default());
    let name = |handler| networks.of(handler).config_json()["Networks"][0]["Config"]["Name"].clone();
    assert_eq!(
        [name("kata"), name("gvisor"), name("same"), name("runc"), name("")],
        ["own", "own", "net", "net", "net"]
    );
    let follows = |a, b| Arc::ptr_eq(&networks.of(a).inner, &networks.of(b).inner);
    assert!(follows("kata", "gvisor") && follows("same", ""), "a directory is followed once");

    let sandbox = sandbox();
    attach(networks.of("kata"), &sandbox).await.unwrap();
    assert_eq!(node.cached()["networkName"], "own");
    // The handler may have been removed from the configuration by the time its pod is stopped.
    networks.of("").detach(&sandbox).await.unwrap();
    assert_eq!(node.given("DEL", "first")["name"], "own");
    assert_eq!(node.cache_files(), Vec::<String>::new());
}
