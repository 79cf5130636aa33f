//! `pontoon top --once`: pods, and the operations in flight for them.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use pontoon::api::v1::{StopContainerRequest, StopPodSandboxRequest};

use crate::support::server::Node;
use crate::support::{PATIENCE, requests, until};

/// stdout and stderr of the command, with ages replaced by `Ns`.
fn top(node: &Node) -> (String, String) {
    let output = node.command(&["top", "--once"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    let ages = table.split('\n').map(|line| match line.rsplit_once(' ') {
        Some((start, age)) if age.strip_suffix('s').is_some_and(|n| n.parse::<u32>().is_ok()) => format!("{start} Ns"),
        _ => line.to_owned(),
    });
    (ages.collect::<Vec<_>>().join("\n"), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_what_is_in_flight_are_one_plain_table() {
    let node = Node::start().await;
    let (_, container) = node.run_with_container("web", &["fake"]).await;
    node.run(&node.pod("idle")).await;
    node.cni.hang("ADD");
    let (mut cri, request) = (node.cri(), node.pod("db"));
    let added = until("ADD", || node.cni.calls().len() == 3);
    node.call_and_leave(async move { cri.run_pod_sandbox(request).await }, added).await;
    let gate = node.containerd.hang("Tasks/Kill", 1);
    let (mut cri, stop) = (node.cri(), StopContainerRequest { container_id: container, timeout: 0 });
    let stopping = tokio::spawn(async move { cri.stop_container(stop).await });
    gate.arrived().await;

    let expected = "\
NAMESPACE  POD   STATE     RUNNING  CPU  MEMORY  RX/s  TX/s  RESTARTS  IN FLIGHT
default    db    creating  -        -    -       -     -     -         RunPodSandbox cni(ADD fakenet) Ns
default    idle  ready     0/0      -    -       -     -     0         -
default    web   ready     1/1      -    -       -     -     0         StopContainer kill Ns
";
    // The other pod's pause container may still be starting, in parallel with its ADD.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while top(&node).0 != expected && tokio::time::Instant::now() < deadline {}
    let (table, said) = top(&node);
    assert_eq!(table, expected, "{said}");
    gate.open();
    node.cni.heal();
    stopping.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_del_names_its_plugin() {
    let node = Node::start().await;
    let sandbox = node.run(&node.pod("web")).await;
    node.cni.hang("DEL");
    let (mut cri, stop) = (node.cri(), StopPodSandboxRequest { pod_sandbox_id: sandbox });
    let stopping = tokio::spawn(async move { cri.stop_pod_sandbox(stop).await });
    until("DEL is shown", || top(&node).0.contains("StopPodSandbox cni(DEL fakenet) Ns")).await;
    node.cni.heal();
    stopping.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_container_that_has_succeeded_is_not_missing() {
    let node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let running = || top(&node).0.lines().nth(1).unwrap().split_whitespace().nth(3).unwrap().to_owned();
    let fails = requests::container(&sandbox, &pod, "init", &["fake", "exit=1"]);
    let mut next = requests::next_attempt(&fails);
    next.config.as_mut().unwrap().command = vec!["fake".to_owned(), "exit=0".to_owned()];
    for (request, code) in [(&fails, 1), (&next, 0)] {
        let id = node.create(request).await;
        node.start_container(&id).await;
        assert_eq!(node.ended(&id).await.exit_code, code);
        assert_eq!(running(), "0/1", "what comes next is not known yet");
    }
    let main = node.create(&requests::container(&sandbox, &pod, "main", &["fake"])).await;
    assert_eq!(running(), "0/1");
    node.start_container(&main).await;
    assert_eq!(running(), "1/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_socket_for_commands_the_rest_is_shown() {
    let node = Node::start().await;
    node.run(&node.pod("web")).await;
    std::fs::remove_file(node.admin_socket()).unwrap();
    let (table, said) = top(&node);
    assert!(table.lines().nth(1).unwrap().starts_with("default    web  ready"), "{table}");
    let expected = format!(
        "pontoon: operations in flight are not known: query {}: nobody listens there; is Pontoon running?\n",
        node.admin_socket().display()
    );
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_it_fails_in_a_sentence() {
    let mut node = Node::start().await;
    node.kill();
    let output = node.command(&["top", "--once"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
    let socket = node.socket();
    let expected = format!("pontoon: query CRI at {}: nobody listens there; is Pontoon running?\n", socket.display());
    assert_eq!(said, expected);
}

/// Runs the command on a terminal of 80 columns, and types the keys when it shows the pod. Returns what it shows, and the
/// output of `stty` afterwards.
fn on_a_terminal(node: &Node, prefix: &str, keys: &str) -> (String, String) {
    let top = node.command(&["top", "--interval", "1"]);
    let words: Vec<String> = std::iter::once(top.get_program()).chain(top.get_args()).map(shown).collect();
    let inside = format!("stty rows 24 cols 80; {prefix} {}; echo; echo ENDED; stty -a", words.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &inside, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = script.spawn().unwrap();
    // Open to the end: the end of this input would be typed too.
    let mut keyboard = script.stdin.take().unwrap();
    let mut output = script.stdout.take().unwrap();
    let (mut said, mut piece, mut typed) = (Vec::new(), [0; 4096], false);
    while let Ok(count @ 1..) = output.read(&mut piece) {
        said.extend_from_slice(&piece[..count]);
        if !typed && String::from_utf8_lossy(&said).contains("web") {
            keyboard.write_all(keys.as_bytes()).unwrap();
            typed = true;
        }
    }
    script.wait().unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    let (screen, after) = said.split_once("ENDED").unwrap_or_else(|| panic!("{said}"));
    (screen.to_owned(), after.to_owned())
}

fn shown(word: &std::ffi::OsStr) -> String {
    word.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_as_it_was_at_q_and_at_a_signal() {
    const ENTER: &str = "\x1b[?1049h";
    const LEAVE: &str = "\x1b[?1049l";
    let node = Node::start().await;
    node.run(&node.pod("web")).await;
    for (prefix, keys) in [("timeout --foreground 20", "q"), ("timeout --foreground -s TERM 5", "m")] {
        let (screen, after) = on_a_terminal(&node, prefix, keys);
        assert!(screen.contains(ENTER) && screen.contains("web") && screen.contains("q quit"), "{screen:?}");
        let left = screen.rfind(LEAVE).unwrap_or_else(|| panic!("{screen:?}"));
        assert!(left > screen.rfind("q quit").unwrap(), "nothing is drawn over the shell's screen: {screen:?}");
        assert!(after.contains(" icanon") && after.contains(" echo "), "{after}");
    }
}
