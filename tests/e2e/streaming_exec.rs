//! Exec: a command with the streams of a client, in each protocol.

use std::sync::Arc;

use anyhow::{bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::bed::{SOON, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, sleeper};
use crate::streaming::{FAILED, How, STDIN, Session, TTY};

const OUTLIVES: &str = "the built-in lets the command of an exec run on when its client has gone";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(exec_returns_streams_and_exit_code),
        rule!(exec_reads_stdin_until_its_half_close),
        rule!(exec_passes_a_large_output_whole),
        rule!(exec_of_a_missing_program_fails_with_its_name),
        rule!(exec_on_a_terminal_has_its_size_and_one_output),
        rule!(exec_ends_when_its_container_is_stopped),
        rule!(exec_ends_with_its_client).only_pontoon(OUTLIVES),
        rule!(exec_returns_though_a_background_child_holds_its_output).sleeps().only_pontoon(
            "the built-in waits for the child: drain_exec_sync_io_timeout is none by default, and of ExecSync alone",
        ),
        rule!(exec_in_a_container_that_does_not_run_is_refused),
    ]
}

async fn exec_returns_streams_and_exit_code(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for protocol in scope.bed.protocols() {
        let command = ["sh", "-c", "echo out; echo err >&2; exit 42"];
        let ended = scope.bed.exec_session(protocol, &id, &command, How::default()).await?.ends().await?;
        ensure!(ended.text() == "out\n" && ended.stderr == "err\n" && ended.code == 42, "{protocol}: {ended:?}");
        let ended = scope.bed.exec_session(protocol, &id, &["true"], How::default()).await?.ends().await?;
        ensure!(ended.code == 0, "{protocol}: {ended:?}");
    }
    Ok(())
}

async fn exec_reads_stdin_until_its_half_close(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let text: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    for protocol in scope.bed.protocols() {
        // Protocol v4 has no half-close; v5 added it.
        if *protocol == "v4" {
            continue;
        }
        let mut session = scope.bed.exec_session(protocol, &id, &["sh", "-c", "wc -c; echo over"], STDIN).await?;
        session.send(&text).await?;
        session.half_close();
        let ended = session.ends().await?;
        ensure!(ended.text() == format!("{}\nover\n", text.len()), "{protocol}: {ended:?}");
        let mut session = scope.bed.exec_session(protocol, &id, &["cat"], STDIN).await?;
        session.send("first\n").await?;
        session.shows("first\n").await?;
        session.send("second\n").await?;
        session.half_close();
        let ended = session.ends().await?;
        ensure!(ended.text() == "first\nsecond\n" && ended.code == 0, "{protocol}: {ended:?}");
    }
    Ok(())
}

async fn exec_passes_a_large_output_whole(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let line = b"0123456789abcde\n";
    let mut expected = Sha256::new();
    for _ in 0..1 << 21 {
        expected.update(line);
    }
    let expected = expected.finalize();
    for protocol in scope.bed.protocols() {
        let command = ["sh", "-c", "yes 0123456789abcde | head -n 2097152"];
        let ended = scope.bed.exec_session(protocol, &id, &command, How::default()).await?.ends().await?;
        ensure!(ended.code == 0 && ended.stdout.len() == 32 << 20, "{protocol}: {} bytes", ended.stdout.len());
        ensure!(Sha256::digest(&ended.stdout) == expected, "{protocol}: not what was written");
    }
    Ok(())
}

async fn exec_of_a_missing_program_fails_with_its_name(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for protocol in scope.bed.protocols() {
        for how in [How::default(), TTY] {
            let ended = scope.bed.exec_session(protocol, &id, &["/no/such/program"], how).await?.ends().await?;
            ensure!(ended.code != 0 && ended.stderr.contains("/no/such/program"), "{protocol}, {how:?}: {ended:?}");
        }
    }
    Ok(())
}

async fn exec_on_a_terminal_has_its_size_and_one_output(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for protocol in scope.bed.protocols() {
        // The terminal may get its size after the command's start.
        let script = "tty >/dev/null && echo terminal; until stty size 2>&1 | grep -x '40 100'; do sleep 0.1; done; echo err >&2; exit 3";
        let url = scope.bed.exec_url(&id, &["sh", "-c", script], TTY).await?;
        let mut command = scope.bed.tool("streamer");
        command.args(["exec", "-protocol", protocol, "-tty", "-stdin", "-size", "100x40", &url]);
        let ended = Session::start(&mut command)?.ends().await?;
        ensure!(ended.text() == "terminal\r\n40 100\r\nerr\r\n" && ended.code == 3, "{protocol}: {ended:?}");
    }
    Ok(())
}

async fn exec_ends_when_its_container_is_stopped(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let mut sessions = Vec::new();
    for protocol in scope.bed.protocols() {
        for how in [How::default(), STDIN, TTY] {
            let mut session =
                scope.bed.exec_session(protocol, &id, &["sh", "-c", "echo here; sleep 1234"], how).await?;
            session.shows("here").await?;
            sessions.push((*protocol, how, session));
        }
    }
    scope.bed.stop(&id, 5).await?;
    for (protocol, how, session) in sessions {
        let ended = session.ends().await?;
        ensure!(ended.code == 137 || ended.code == FAILED, "{protocol}, {how:?}: {ended:?}");
    }
    Ok(())
}

async fn exec_ends_with_its_client(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for protocol in ["spdy", "v5"] {
        for how in [How::default(), STDIN, TTY] {
            let command = ["sh", "-c", "echo here; sleep 1234"];
            let mut options = vec!["-protocol", protocol];
            options.extend([how.stdin.then_some("-stdin"), how.tty.then_some("-tty")].into_iter().flatten());
            // Once the client closes its connection with a reset (RST), once in the normal way (FIN).
            scope.bed.drop_sessions(&options, 2, || scope.bed.exec_url(&id, &command, how)).await?;
            let gone = until(SOON, || async {
                let left = scope.bed.sh(&id, "ps -o args | grep -c '[s]leep 1234' || true").await?;
                ensure!(left == "0", "{left} processes of it are left");
                Ok(())
            });
            gone.await.map_err(|error| error.context(format!("{protocol}, {how:?}")))?;
        }
    }
    Ok(())
}

async fn exec_returns_though_a_background_child_holds_its_output(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let mut sessions = Vec::new();
    for protocol in scope.bed.protocols() {
        let command = ["sh", "-c", "sleep 300 & echo out; exit 4"];
        sessions.push((*protocol, scope.bed.exec_session(protocol, &id, &command, How::default()).await?));
    }
    for (protocol, session) in sessions {
        let ended = session.ends().await?;
        ensure!(ended.text() == "out\n" && ended.code == 4, "{protocol}: {ended:?}");
    }
    Ok(())
}

async fn exec_in_a_container_that_does_not_run_is_refused(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.create(sleeper("main")).await?;
    let refused = async |when: &str| match scope.bed.exec_url(&id, &["true"], How::default()).await {
        Err(_) => Ok(()),
        Ok(url) => bail!("{when}: {url}"),
    };
    refused("before its start").await?;
    scope.bed.start(&id).await?;
    scope.bed.stop(&id, 5).await?;
    refused("after its end").await?;
    ensure!(scope.bed.exec_url("no-such-container", &["true"], How::default()).await.is_err(), "of an unknown one");
    // Stopped after the Exec RPC and before the client connects.
    let id = pod.start(sleeper("other")).await?;
    let url = scope.bed.exec_url(&id, &["true"], How::default()).await?;
    scope.bed.stop(&id, 5).await?;
    let ended = Session::start(scope.bed.tool("streamer").args(["exec", &url]))?.ends().await?;
    ensure!(ended.code == FAILED && !ended.stderr.is_empty(), "after the URL: {ended:?}");
    Ok(())
}
