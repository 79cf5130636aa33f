//! Plugins that misbehave.

use super::*;
use crate::telemetry::{Operations, Stage, Verb};

/// A node with one plugin that runs the script.
fn with(script: &str) -> Node {
    let node = Node::new();
    node.plugin("only", script);
    node.config("10-net.conflist", r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"only"}]}"#);
    node
}

async fn refusal(node: &Node) -> Error {
    attach(&node.start(), &sandbox()).await.unwrap_err()
}

const HANG: &str = "cat >/dev/null; sleep 300 & echo $! >$DIR/child; echo $$ >$DIR/leader; wait";

fn pids(node: &Node) -> Vec<String> {
    ["leader", "child"].map(|name| fs::read_to_string(node.path(name)).unwrap_or_default()).to_vec()
}

#[tokio::test]
async fn a_deadline_kills_the_plugin_and_what_it_started() {
    let mut node = with(HANG);
    // Long enough for the plugin to begin on a busy machine.
    node.settings.timeouts.add = Duration::from_secs(2);
    let error = refusal(&node).await;
    assert!(matches!(error, Error::TimedOut { operation: Operation::Add, .. }), "{error}");
    for pid in pids(&node) {
        assert!(!pid.is_empty() && within(Duration::from_secs(2), || !is_alive(&pid)).await, "{pid}");
    }
}

#[tokio::test]
async fn a_dropped_attach_leaves_no_process() {
    let node = with(HANG);
    let network = node.start();
    let (one, until) = (sandbox(), node.path("leader"));
    tokio::select! {
        _ = attach(&network, &one) => panic!("it hangs"),
        started = within(Duration::from_secs(5), || fs::read(&until).is_ok_and(|pid| pid.ends_with(b"\n"))) => assert!(started),
    }
    for pid in pids(&node) {
        assert!(within(Duration::from_secs(2), || !is_alive(&pid)).await, "{pid}");
    }
}

#[tokio::test]
async fn the_stage_names_the_plugin_that_hangs_and_its_operation() {
    let node = Node::with_chain("1.0.0");
    node.plugin("second", HANG);
    let (network, one, operations) = (node.start(), sandbox(), Operations::default());
    let adding = operations.track(Verb::RunPodSandbox, "web".to_owned(), Box::pin(attach(&network, &one)));
    let shown = || {
        let stages = operations.running().into_iter().flat_map(|one| one.stages);
        stages.map(|open| (open.stage, open.detail)).collect::<Vec<_>>()
    };
    let expected = vec![(Stage::Cni, Some("ADD second".to_owned()))];
    tokio::select! {
        _ = adding => panic!("it hangs"),
        seen = within(Duration::from_secs(5), || shown() == expected) => assert!(seen, "{:?}", shown()),
    }
}

#[tokio::test]
async fn too_much_output_is_an_error_and_no_memory() {
    let node = with("cat >/dev/null; head -c 8388608 /dev/zero");
    let error = refusal(&node).await;
    assert!(matches!(error, Error::OutputTooLarge { limit: exec::STDOUT_LIMIT, .. }), "{error}");
}

#[tokio::test]
async fn much_on_stderr_neither_blocks_nor_floods_the_error() {
    let node = with("cat >/dev/null; head -c 8388608 /dev/zero | tr '\\0' x >&2; exit 3");
    let error = refusal(&node).await.to_string();
    assert!(error.starts_with("cni plugin only ADD failed: exit status: 3, it printed \"xxx"), "{error}");
    assert!(error.len() < 5000, "{}", error.len());
}

#[tokio::test]
async fn a_plugin_that_reads_no_config_and_leaves_a_process_is_fine() {
    let answer = result("10.0.0.9");
    let node = with(&format!("sleep 5 & cat <<'END'\n{answer}\nEND\nexit 0"));
    let attached = attach(&node.start(), &sandbox()).await.unwrap();
    assert_eq!(attached.ips.len(), 1);
}

#[tokio::test]
async fn garbage_is_an_error_that_shows_its_beginning() {
    for (script, reason) in [
        ("echo hello world", "its result is not JSON, it printed \"hello world\""),
        ("echo '[1]'", "its result is not a JSON object"),
        ("true", "its result is not JSON, it printed \"\""),
    ] {
        let error = refusal(&with(&format!("cat >/dev/null; {script}"))).await.to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn no_address_is_an_error_and_del_is_still_possible() {
    let node = with("cat >/dev/null; echo '{\"cniVersion\": \"1.0.0\"}'");
    let (network, sandbox) = (node.start(), sandbox());
    let error = attach(&network, &sandbox).await.unwrap_err();
    assert!(matches!(error, Error::NoAddress { .. }), "{error}");
    assert!(node.cached().get("result").is_some());
    network.detach(&sandbox).await.unwrap();
    assert!(node.cache_files().is_empty());
}

#[tokio::test]
async fn a_plugins_error_keeps_its_code_and_words() {
    let answer = json!({"cniVersion": "1.0.0", "code": 104, "msg": "no more addresses", "details": "10.0.0.0/24"});
    let node = with(&format!("cat >/dev/null; echo '{answer}'; echo noise >&2; exit 1"));
    let error = refusal(&node).await;
    assert_eq!(error.to_string(), "cni plugin only ADD failed: no more addresses (code 104): 10.0.0.0/24");
    let Error::Plugin(failure) = error else { panic!("{error}") };
    assert_eq!((failure.code, failure.plugin.as_str()), (104, "only"));
}

#[tokio::test]
async fn a_missing_plugin_is_named_with_the_directories_searched() {
    let node = with("");
    fs::remove_file(node.path("bin/only")).unwrap();
    let error = refusal(&node).await.to_string();
    let (other, bin) = (node.path("other"), node.path("bin"));
    assert_eq!(error, format!("cni plugin only not found in {}:{}", other.display(), bin.display()));
}

#[tokio::test]
async fn a_plugin_that_is_not_executable_is_named_with_its_path() {
    let node = with("");
    fs::set_permissions(node.path("bin/only"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = refusal(&node).await;
    assert!(matches!(&error, Error::PluginNotExecutable { path, .. } if path.ends_with("bin/only")), "{error}");
}

#[tokio::test]
async fn plugins_see_cnis_variables_and_not_the_service_managers() {
    let answer = result("10.0.0.9");
    let node = with(&format!("cat >/dev/null; env >$DIR/env\ncat <<'END'\n{answer}\nEND"));
    attach(&node.start(), &sandbox()).await.unwrap();
    let env = fs::read_to_string(node.path("env")).unwrap();
    let path = format!("CNI_PATH={}:{}", node.path("other").display(), node.path("bin").display());
    assert!(env.lines().any(|line| line == path) && env.lines().any(|line| line.starts_with("PATH=")), "{env}");
    assert!(!env.contains("NOTIFY_SOCKET"));
}

/// Plugins hang for sandboxes whose names begin with `stuck`.
const STUCK: &str = "case \"$CNI_ARGS\" in *K8S_POD_NAME=stuck*) cat >/dev/null; exec sleep 300 ;; esac\n";

fn stuck() -> Attachment {
    Attachment { name: "stuck".to_owned(), ..sandbox() }
}

/// multus-cni#1344.
#[tokio::test]
async fn f14_r13_plugins_that_hang_keep_no_other_sandbox_from_its_network() {
    let node = with(&format!("{STUCK}{}", noting(&result("10.0.0.1"))));
    let network = node.start();
    let hanging: Vec<_> = std::iter::repeat_with(stuck).take(turns::AT_ONCE).collect();
    let all = futures_util::future::join_all(hanging.iter().map(|sandbox| attach(&network, sandbox)));
    let start = Instant::now();
    let well = async {
        // Start after all of the hanging ones.
        tokio::time::sleep(Duration::from_millis(200)).await;
        attach(&network, &sandbox()).await
    };
    tokio::select! {
        _ = all => panic!("they hang"),
        attached = well => drop(attached.unwrap()),
    }
    assert!(start.elapsed() < turns::TURN + Duration::from_secs(2), "{:?}", start.elapsed());
}

/// A tenant has more pods with slow chains than there are slots.
#[tokio::test]
async fn t7_plugins_of_one_namespace_keep_no_other_waiting() {
    let node = with(&format!("{STUCK}{}", noting(&result("10.0.0.1"))));
    let network = node.start();
    let hanging: Vec<_> = std::iter::repeat_with(stuck).take(2 * turns::AT_ONCE).collect();
    let all = futures_util::future::join_all(hanging.iter().map(|sandbox| attach(&network, sandbox)));
    let other = Attachment { namespace: "other".to_owned(), ..sandbox() };
    let start = Instant::now();
    let well = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        attach(&network, &other).await?;
        network.detach(&other).await
    };
    tokio::select! {
        _ = all => panic!("they hang"),
        done = well => done.unwrap(),
    }
    // The first turns are not over yet.
    assert!(start.elapsed() < turns::TURN, "{:?}", start.elapsed());
}

#[tokio::test]
async fn hanging_dels_do_not_keep_others_from_adding() {
    let node = with(&format!("{STUCK}{}", noting(&result("10.0.0.1"))));
    let network = node.start();
    let hanging: Vec<_> = std::iter::repeat_with(stuck).take(turns::AT_ONCE).collect();
    let all = futures_util::future::join_all(hanging.iter().map(|sandbox| network.detach(sandbox)));
    let start = Instant::now();
    tokio::select! {
        _ = all => panic!("they hang"),
        attached = async { attach(&network, &sandbox()).await } => drop(attached.unwrap()),
    }
    assert!(start.elapsed() < turns::TURN, "{:?}", start.elapsed());
}
