//! Attach: the streams of a container's own process, for any number of clients.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1::{ContainerConfig, ContainerState};

use crate::bed::{SOON, until};
use crate::harness::{Outcome, Test, rule};
use crate::logs;
use crate::scope::{Scope, shell};
use crate::streaming::{How, STDIN, TTY};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(attach_returns_streams_and_ends_with_its_container),
        rule!(several_attach_at_once_and_the_log_has_all),
        rule!(stdin_stays_open_for_the_next_attach),
        rule!(stdin_once_ends_with_the_first_attach),
        rule!(attach_on_a_terminal_talks_to_a_shell),
        rule!(a_slow_attacher_does_not_hold_up_the_container)
            .only_pontoon("the built-in holds up the container and its log"),
        rule!(attach_to_a_container_that_does_not_run_is_refused),
    ]
}

/// The script waits for a line on stdin first, because an attach does not get earlier output.
fn answering(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig { stdin: true, ..shell(name, script) }
}

async fn attach_returns_streams_and_ends_with_its_container(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for protocol in scope.bed.protocols() {
        let config = answering(protocol, "read word; echo out $word; echo err $word >&2; read word; exit 3");
        let log = pod.log(&config);
        let id = pod.start(config).await?;
        let mut session = scope.bed.attach_session(protocol, &id, STDIN).await?;
        session.send("one\n").await?;
        session.shows("out one\n").await?;
        session.send("two\n").await?;
        let ended = session.ends().await?;
        ensure!(ended.text() == "out one\n" && ended.stderr == "err one\n", "{protocol}: {ended:?}");
        // Attach does not report the container's exit code.
        ensure!(ended.code == 0, "{protocol}: {ended:?}");
        ensure!(scope.bed.exited(&id).await?.exit_code == 3, "{protocol}");
        let mut lines: Vec<_> = logs::read(&log)?.into_iter().map(|line| (line.stream, line.content)).collect();
        lines.sort();
        let wanted = [("stderr", "err one"), ("stdout", "out one")];
        let wanted: Vec<_> = wanted.iter().map(|(s, c)| ((*s).to_owned(), c.as_bytes().to_vec())).collect();
        ensure!(lines == wanted, "{protocol}: the log: {lines:?}");
    }
    Ok(())
}

async fn several_attach_at_once_and_the_log_has_all(scope: Arc<Scope>) -> Outcome {
    const SESSIONS: usize = 5;
    let pod = scope.pod().await?;
    let config = answering("main", "while read line; do echo \"said $line\"; done; echo over");
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let protocols = scope.bed.protocols();
        sessions.push(scope.bed.attach_session(protocols[number % protocols.len()], &id, STDIN).await?);
    }
    // A session is certainly attached once it shows the response to its own line.
    for (number, session) in sessions.iter_mut().enumerate() {
        session.send(&format!("hello {number}\n")).await?;
        session.shows(&format!("said hello {number}\n")).await?;
    }
    sessions[0].send("to all\n").await?;
    for session in &mut sessions {
        session.shows("said to all\n").await?;
    }
    // One client disconnects, the others stay.
    drop(sessions.pop());
    sessions[1].send("again\n").await?;
    for session in &mut sessions {
        session.shows("said again\n").await?;
    }
    drop(sessions);
    let all: Vec<_> = (0..SESSIONS).map(|n| format!("said hello {n}")).collect();
    let logged = until(SOON, || async {
        let text = logs::text(&log)?;
        ensure!(all.iter().all(|line| text.contains(line)) && text.ends_with("said to all\nsaid again\n"), "{text}");
        Ok(())
    });
    logged.await.context("the log")?;
    ensure!(scope.bed.status(&id).await?.state() == ContainerState::ContainerRunning, "it ended");
    Ok(())
}

async fn stdin_stays_open_for_the_next_attach(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(answering("main", "while read line; do echo \"said $line\"; done; echo over")).await?;
    for turn in 0..3 {
        let mut session = scope.bed.attach_session("spdy", &id, STDIN).await?;
        session.send(&format!("turn {turn}\n")).await?;
        session.shows(&format!("said turn {turn}\n")).await?;
        session.half_close();
    }
    ensure!(scope.bed.status(&id).await?.state() == ContainerState::ContainerRunning, "it ended");
    Ok(())
}

async fn stdin_once_ends_with_the_first_attach(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (name, half_close) in [("half-closed", true), ("gone", false)] {
        let mut config = answering(name, "while read line; do echo \"said $line\"; done; echo over");
        config.stdin_once = true;
        let log = pod.log(&config);
        let id = pod.start(config).await?;
        let mut session = scope.bed.attach_session("spdy", &id, STDIN).await?;
        session.send("something\n").await?;
        session.shows("said something\n").await?;
        if half_close {
            session.half_close();
            let ended = session.ends().await?;
            ensure!(ended.text() == "said something\nover\n" && ended.code == 0, "{ended:?}");
        } else {
            drop(session);
        }
        let status = scope.bed.exited(&id).await?;
        ensure!(status.exit_code == 0, "{name}: {status:?}");
        ensure!(logs::text(&log)? == "said something\nover\n", "{name}: the log is {}", logs::text(&log)?);
    }
    Ok(())
}

async fn attach_on_a_terminal_talks_to_a_shell(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for protocol in scope.bed.protocols() {
        let config = ContainerConfig { stdin: true, tty: true, ..shell(protocol, "exec sh") };
        let id = pod.start(config).await?;
        let mut session = scope.bed.attach_session(protocol, &id, TTY).await?;
        session.send("echo $((6 * 7))\n").await?;
        session.shows("\r\n42\r\n").await?;
        session.send("exit 0\n").await?;
        let ended = session.ends().await?;
        ensure!(ended.code == 0, "{protocol}: {ended:?}");
    }
    Ok(())
}

async fn a_slow_attacher_does_not_hold_up_the_container(scope: Arc<Scope>) -> Outcome {
    const LINES: usize = 1_000_000;
    let pod = scope.pod().await?;
    let config =
        answering("main", &format!("read word; yes 0123456789abcdefghijklmnopqrstu | head -n {LINES}; echo over"));
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    let mut slow = scope.bed.attach_session("spdy", &id, STDIN).await?;
    // The test does not read the client's stdout. When the client's buffers and that pipe are full, the client stops
    // reading from the server.
    slow.send("go\n").await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 0, "{status:?}");
    let done = until(SOON, || async {
        let lines = logs::read(&log)?.len();
        ensure!(lines == LINES + 1, "{lines} lines of {LINES} are in the log");
        Ok(())
    });
    done.await?;
    // The client was connected until here.
    drop(slow);
    Ok(())
}

async fn attach_to_a_container_that_does_not_run_is_refused(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.create(shell("main", "sleep 1000")).await?;
    let refused = async |when: &str| match scope.bed.attach_url(&id, How::default()).await {
        Err(_) => Ok(()),
        Ok(url) => bail!("{when}: {url}"),
    };
    refused("before its start").await?;
    scope.bed.start(&id).await?;
    scope.bed.stop(&id, 0).await?;
    tokio::time::timeout(Duration::from_secs(5), refused("after its end")).await?
}
