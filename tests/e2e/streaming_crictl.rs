//! exec, attach and port-forward with crictl on a terminal, as a user would use them by hand.

use std::sync::Arc;

use anyhow::ensure;
use pontoon::api::v1::ContainerConfig;

use crate::bed::{Bed, SOON, Target, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, shell, sleeper};
use crate::streaming::{Forward, Session, Terminal};
use crate::streaming_forward::listens;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(crictl_exec_it_is_a_terminal_that_can_be_resized),
        rule!(crictl_exec_pipes_stdin_and_returns_the_exit_code),
        rule!(crictl_exec_s_returns_output_and_exit_code),
        rule!(crictl_attach_it_is_the_containers_terminal_and_can_be_left),
        rule!(crictl_attach_pipes_stdin),
        rule!(crictl_port_forward_leads_to_the_pod),
    ]
}

impl Bed {
    /// The values of crictl's option `--transport`.
    fn transports(&self) -> &'static [&'static str] {
        match self.target {
            Target::Pontoon => &["spdy", "websocket"],
            // crictl supports only v5.channel.k8s.io, and the built-in does not support that.
            Target::Builtin => &["spdy"],
        }
    }
}

async fn crictl_exec_it_is_a_terminal_that_can_be_resized(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for transport in scope.bed.transports() {
        let arguments = ["exec", "--transport", transport, "-it", &id, "sh"];
        let mut terminal = Terminal::run(&scope.bed, "crictl", &arguments, (100, 40))?;
        // The size is sent in parallel with the command's start, and may come after it.
        terminal.types("until stty size | grep -x '40 100'; do sleep 0.1; done; echo first'-'size\n")?;
        terminal.shows("first-size").await?;
        for (width, height) in [(132, 50), (80, 24)] {
            terminal.resize(width, height)?;
            let wait =
                format!("until stty size | grep -qx '{height} {width}'; do sleep 0.1; done; echo is'-'{width}\n");
            terminal.types(&wait)?;
            terminal.shows(&format!("is-{width}")).await?;
        }
        // The terminal is the command's: ^C goes to the program in its foreground, and not to crictl. When `be-fore` is
        // printed, that program is the subshell; the shell itself would ignore ^C.
        terminal.types("(echo be'-'fore; exec sleep 1234); echo af'-'ter\n")?;
        terminal.shows("be-fore").await?;
        terminal.types("\x03")?;
        terminal.types("echo still'-'here; test -t 0 && test -t 1 && test -t 2 && echo all'-'terminals; exit 0\n")?;
        terminal.shows("still-here").await?;
        terminal.shows("all-terminals").await?;
        let (code, rest) = terminal.ends().await?;
        ensure!(code == 0, "{transport}: crictl ended with {code}: {rest}");
    }
    Ok(())
}

async fn crictl_exec_pipes_stdin_and_returns_the_exit_code(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for transport in scope.bed.transports() {
        let script = "sort; echo err >&2; exit 5";
        let arguments = ["exec", "--transport", transport, "-i", &id, "sh", "-c", script];
        let mut session = Session::start(scope.bed.tool("crictl").args(arguments))?;
        session.send("b\na\n").await?;
        session.half_close();
        let ended = session.ends().await?;
        ensure!(ended.text() == "a\nb\n" && ended.stderr.starts_with("err\n"), "{transport}: {ended:?}");
        // crictl's own exit code is 1.
        ensure!(ended.stderr.contains("exit code 5") && ended.code == 1, "{transport}: {ended:?}");
    }
    Ok(())
}

async fn crictl_exec_s_returns_output_and_exit_code(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let run = async |script: &str| {
        Terminal::run(&scope.bed, "crictl", &["exec", "-s", &id, "sh", "-c", script], (80, 24))?.ends().await
    };
    let (code, screen) = run("echo out; echo err >&2").await?;
    ensure!(code == 0 && screen.contains("out") && screen.contains("err"), "crictl ended with {code}: {screen}");
    let (code, screen) = run("exit 6").await?;
    // crictl's own exit code is 1.
    ensure!(code == 1 && screen.contains("exited with 6"), "crictl ended with {code}: {screen}");
    Ok(())
}

async fn crictl_attach_it_is_the_containers_terminal_and_can_be_left(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(ContainerConfig { stdin: true, tty: true, ..shell("main", "exec sh") }).await?;
    for (turn, transport) in scope.bed.transports().iter().enumerate() {
        let arguments = ["attach", "--transport", transport, "-it", &id];
        let mut terminal = Terminal::run(&scope.bed, "crictl", &arguments, (100, 40))?;
        terminal.types(&format!("echo $((6 * 7)); mine{turn}=yes\n"))?;
        terminal.shows("42\r\n").await?;
        terminal.types("until stty size | grep -qx '40 100'; do sleep 0.1; done; echo first'-'size\n")?;
        terminal.shows("first-size").await?;
        terminal.resize(90, 30)?;
        terminal.types("until stty size | grep -qx '30 90'; do sleep 0.1; done; echo second'-'size\n")?;
        terminal.shows("second-size").await?;
        // The keys with which crictl detaches. The shell keeps running, and the next client attaches to the same one.
        terminal.types("\x10\x11")?;
        terminal.ends().await?;
        let mut again = Terminal::run(&scope.bed, "crictl", &arguments, (80, 24))?;
        again.types(&format!("echo is $mine{turn}\n"))?;
        again.shows("is yes").await?;
        again.types("\x10\x11")?;
        again.ends().await?;
    }
    let arguments = ["attach", "-it", &id];
    let mut terminal = Terminal::run(&scope.bed, "crictl", &arguments, (80, 24))?;
    terminal.types("exit 7\n")?;
    terminal.ends().await?;
    ensure!(scope.bed.exited(&id).await?.exit_code == 7, "another exit code");
    Ok(())
}

async fn crictl_attach_pipes_stdin(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for transport in scope.bed.transports() {
        // The built-in may lose output that is written just before the container ends.
        let last = if scope.bed.target == Target::Builtin { "; sleep 1" } else { "" };
        let script = format!("read line; echo \"said $line\"; echo err >&2{last}");
        let id = pod.start(ContainerConfig { stdin: true, ..shell(transport, &script) }).await?;
        let mut session =
            Session::start(scope.bed.tool("crictl").args(["attach", "--transport", transport, "-i", &id]))?;
        session.send("hello\n").await?;
        let ended = session.ends().await?;
        ensure!(ended.text() == "said hello\n" && ended.stderr == "err\n" && ended.code == 0, "{transport}: {ended:?}");
    }
    Ok(())
}

async fn crictl_port_forward_leads_to_the_pod(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let page = "mkdir /tmp/www; echo a page >/tmp/www/index.html; httpd -f -p 8080 -h /tmp/www";
    let id = pod.start(shell("main", page)).await?;
    // crictl's library ends a session at its first connection that is refused.
    listens(&scope.bed, &id, 8080).await?;
    for transport in scope.bed.transports() {
        let mut command = scope.bed.tool("crictl");
        command.args(["port-forward", "--transport", transport, &pod.id, "0:8080"]);
        let forward = Forward::start(&mut command, 1).await?;
        let page = until(SOON, || async {
            let said = forward.says(0, "GET /index.html HTTP/1.0\r\n\r\n").await?;
            ensure!(said.contains("a page"), "{said}");
            Ok(())
        });
        page.await?;
    }
    Ok(())
}
