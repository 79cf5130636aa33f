//! A SIGTERM and a new start do not change what a container's log contains. Also: a log that cannot be opened at the
//! start.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pontoon::api::v1::*;
use tonic::Code;

use crate::support::server::Node;
use crate::support::{requests, until};

/// The content of a stream, joined as a reader of the log joins it.
fn logged(log: &Path, stream: &str) -> String {
    let mut text = String::new();
    for record in fs::read_to_string(log).unwrap_or_default().lines() {
        let mut fields = record.splitn(4, ' ').skip(1);
        let (name, tag, content) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
        if name == stream {
            text += content;
            text += if tag == "F" { "\n" } else { "" };
        }
    }
    text
}

async fn log_of(node: &Node, id: &str) -> PathBuf {
    node.status(id).await.log_path.into()
}

async fn sigterm_and_start(node: &mut Node) {
    node.terminate().await;
    node.spawn().await;
}

/// Whether the log has the words after its first `before` bytes, which are of earlier daemons.
fn is_told_since(node: &Node, before: usize, words: &str) -> bool {
    node.log().get(before..).is_some_and(|new| new.contains(words))
}

fn reopen(id: &str) -> ReopenContainerLogRequest {
    ReopenContainerLogRequest { container_id: id.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_a_line_without_an_end_is_in_the_log_and_goes_on_after_a_sigterm() {
    let mut node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "out=one\nname: ", "err=no end"]).await;
    let log = log_of(&node, &id).await;
    until("the whole line is logged", || logged(&log, "stdout") == "one\n").await;
    // What the daemon has not read by its end is left to the next one.
    until("the other stream is read", || node.is_read(&id, "stderr")).await;

    node.terminate().await;
    // The log has it even while no daemon runs, in case none is started again.
    assert_eq!((logged(&log, "stdout").as_str(), logged(&log, "stderr").as_str()), ("one\nname: ", "no end"));
    node.output(&id, "stdout").write_all(b"pontoon").unwrap();
    node.spawn().await;
    sigterm_and_start(&mut node).await;
    node.output(&id, "stdout").write_all(b"\nthree\n").unwrap();
    node.output(&id, "stderr").write_all(b" yet").unwrap();
    node.containerd.end(&id, 0);
    node.ended(&id).await;
    assert_eq!(logged(&log, "stdout"), "one\nname: pontoon\nthree\n");
    assert_eq!(logged(&log, "stderr"), "no end yet");
    node.remove_all().await;
    node.assert_clean("remove").await;
}

/// A terminal's line ends with two bytes, and a restart may come between them.
#[tokio::test(flavor = "multi_thread")]
async fn f6_a_terminals_line_end_is_no_part_of_the_line_after_a_sigterm_either() {
    let mut node = Node::start().await;
    let pod = node.pod("web");
    let sandbox = node.run(&pod).await;
    let mut request = requests::container(&sandbox, &pod, "main", &["fake", "out=50%\r60%\r"]);
    request.config.as_mut().unwrap().tty = true;
    let id = node.create(&request).await;
    node.start_container(&id).await;
    let log = log_of(&node, &id).await;
    // A SIGTERM that comes earlier leaves it to the next daemon.
    until("it is read", || node.is_read(&id, "stdout")).await;
    node.terminate().await;
    assert_eq!(fs::read_to_string(&log).unwrap().split_once(" P ").unwrap().1, "50%\r60%\n");
    for (more, text) in [("\n", "50%\r60%\n"), ("\r", "50%\r60%\n"), ("70%", "50%\r60%\n\r70%")] {
        node.spawn().await;
        node.output(&id, "stdout").write_all(more.as_bytes()).unwrap();
        if more == "\n" {
            until("the line's end is logged", || logged(&log, "stdout") == text).await;
        }
        until("it is read", || node.is_read(&id, "stdout")).await;
        node.terminate().await;
        assert_eq!(logged(&log, "stdout"), text, "after {more:?}");
    }
}

/// A daemon that simply exits between reading a line and writing it loses the line.
#[tokio::test(flavor = "multi_thread")]
async fn f6_no_line_is_lost_or_doubled_by_any_number_of_sigterms() {
    let mut node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake"]).await;
    let log = log_of(&node, &id).await;
    let over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = ["stdout", "stderr"]
        .into_iter()
        .map(|stream| {
            let (mut output, over) = (node.output(&id, stream), Arc::clone(&over));
            thread::spawn(move || {
                let mut number = 0u32;
                while !over.load(Ordering::Relaxed) {
                    // Pieces that end anywhere within a line, with a pause after each.
                    let lines: String = (number..number + 500).map(|number| format!("line {number}\n")).collect();
                    for piece in lines.as_bytes().chunks(997) {
                        output.write_all(piece).unwrap();
                        thread::sleep(Duration::from_millis(1));
                    }
                    number += 500;
                }
                number
            })
        })
        .collect();
    for _ in 0..12 {
        sigterm_and_start(&mut node).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    over.store(true, Ordering::Relaxed);
    // The daemon reads the rest from the FIFOs in the meantime.
    until("the writers have ended", || writers.iter().all(thread::JoinHandle::is_finished)).await;
    let numbers: Vec<u32> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    node.containerd.end(&id, 0);
    node.ended(&id).await;
    for (stream, written) in ["stdout", "stderr"].into_iter().zip(numbers) {
        let text = logged(&log, stream);
        let found = text.lines().count();
        println!("{stream}: {written} lines written, {found} in the log");
        let wrong = text.lines().enumerate().find(|(number, line)| *line != format!("line {number}"));
        assert_eq!((wrong, found), (None, written as usize), "{stream}");
    }
}

/// The container has written its output and exited, so only the daemon can log the rest of the output.
#[tokio::test(flavor = "multi_thread")]
async fn f6_the_last_words_of_who_ended_just_before_a_sigterm_are_logged() {
    let mut node = Node::start().await;
    let words = "last words\n".repeat(15_000);
    for turn in 0..5 {
        let (_, id) = node.run_with_container(&format!("web-{turn}"), &["fake"]).await;
        let log = log_of(&node, &id).await;
        node.output(&id, "stdout").write_all(words.as_bytes()).unwrap();
        node.containerd.end(&id, 3);
        sigterm_and_start(&mut node).await;
        assert_eq!(node.ended(&id).await.exit_code, 3);
        assert_eq!(logged(&log, "stdout").len(), words.len(), "turn {turn}");
    }
}

/// Recovery resumes the logs of containers one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn f6_a_sigterm_while_it_starts_is_waited_for_too() {
    let mut node = Node::start().await;
    let (sandbox, id) = node.run_with_container("web", &["fake", "out=begun"]).await;
    let log = log_of(&node, &id).await;
    node.terminate().await;
    // Recovery waits for containerd.
    let list = node.containerd.hang("Store/List", 1);
    node.spawn_without_waiting();
    list.arrived().await;
    let before = node.log().len();
    node.signal(Signal::SIGTERM);
    until("it drains", || is_told_since(&node, before, "draining")).await;
    list.open();
    node.terminate().await;
    node.spawn().await;
    node.output(&id, "stdout").write_all(b" and done\n").unwrap();
    until("the line is whole", || logged(&log, "stdout") == "begun and done\n").await;
    node.remove(&sandbox).await;
    node.assert_clean("remove").await;
}

/// A daemon that cannot open a container's log when it starts. `break_it` gets the log's directory.
async fn started_without_its_log(break_it: impl FnOnce(&Path)) -> (Node, String, PathBuf) {
    let mut node = Node::start().await;
    let (_, id) = node.run_with_container("web", &["fake", "out=before\n"]).await;
    let log = log_of(&node, &id).await;
    until("it is logged", || logged(&log, "stdout") == "before\n").await;
    node.terminate().await;
    break_it(log.parent().unwrap());
    node.output(&id, "stdout").write_all(b"meanwhile\n").unwrap();
    node.spawn().await;
    (node, id, log)
}

/// Puts something other than a log at the log's path. The log has another name until [`mended`].
fn broken(directory: &Path) {
    fs::rename(directory.join("main.log"), directory.join("kept")).unwrap();
    symlink("/dev/null", directory.join("main.log")).unwrap();
}

fn mended(log: &Path) {
    fs::rename(log.with_file_name("kept"), log).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_log_that_could_not_be_opened_at_start_is_tried_again() {
    let (node, id, log) = started_without_its_log(broken).await;
    node.output(&id, "stdout").write_all(b"waits\n").unwrap();
    until("it is tried", || node.log().contains("the log cannot be opened")).await;
    mended(&log);
    until("it goes on by itself", || logged(&log, "stdout") == "before\nmeanwhile\nwaits\n").await;
    node.output(&id, "stdout").write_all(b"after\n").unwrap();
    until("and on", || logged(&log, "stdout").ends_with("waits\nafter\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_reopen_container_log_mends_it_at_once() {
    let (node, id, log) = started_without_its_log(broken).await;
    let error = node.cri().reopen_container_log(reopen(&id)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("behind a symlink"), "{error}");
    until("it is tried", || node.log().contains("the log cannot be opened")).await;
    mended(&log);
    node.cri().reopen_container_log(reopen(&id)).await.unwrap();
    // Sooner than the next try by itself. The call is not counted: a busy machine may take long to make it.
    let start = Instant::now();
    while logged(&log, "stdout") != "before\nmeanwhile\n" {
        assert!(start.elapsed() < Duration::from_millis(500), "{}", logged(&log, "stdout"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As with a full disk: a container does not wait for its log.
#[tokio::test(flavor = "multi_thread")]
async fn f10_who_fills_his_pipe_does_not_wait_for_a_log_that_cannot_be_opened() {
    let (node, id, log) = started_without_its_log(broken).await;
    let mut output = node.output(&id, "stdout");
    let writer = thread::spawn(move || output.write_all("some line\n".repeat(400_000).as_bytes()).unwrap());
    until("all is written", || writer.is_finished()).await;
    until("it is told of", || node.log().contains("output is dropped until the log can be opened")).await;
    mended(&log);
    let mut output = node.output(&id, "stdout");
    let resumed = || {
        output.write_all(b"again\n").unwrap();
        logged(&log, "stdout").ends_with("again\n")
    };
    until("the log goes on", resumed).await;
}

/// Another failure: the FIFO itself cannot be opened.
#[tokio::test(flavor = "multi_thread")]
async fn f10_streams_that_could_not_be_opened_at_start_are_tried_again() {
    for by_call in [false, true] {
        let mut node = Node::start().await;
        let (_, id) = node.run_with_container("web", &["fake", "out=begun"]).await;
        let log = log_of(&node, &id).await;
        node.terminate().await;
        let fifo = node.output_path(&id, "stderr");
        let away = fifo.with_extension("away");
        fs::rename(&fifo, &away).unwrap();
        node.spawn().await;
        node.output(&id, "stdout").write_all(b" and done\n").unwrap();
        if by_call {
            let error = node.cri().reopen_container_log(reopen(&id)).await.unwrap_err();
            assert!(error.message().contains("open FIFO"), "{error}");
        }
        fs::rename(&away, &fifo).unwrap();
        if by_call {
            node.cri().reopen_container_log(reopen(&id)).await.unwrap();
        }
        until("the log goes on", || logged(&log, "stdout") == "begun and done\n").await;
    }
}
