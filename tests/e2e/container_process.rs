//! The process of a container: command, environment, working directory, terminal, stdin, ExecSync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use pontoon::api::v1;

use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, busybox, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(command_and_args_replace_the_images),
        rule!(environment_values_come_through_byte_for_byte),
        rule!(an_images_environment_is_there_and_cri_wins),
        rule!(the_working_directory_is_made_and_entered),
        rule!(a_tty_is_a_terminal_and_logs_as_stdout),
        rule!(without_stdin_a_reader_sees_the_end),
        rule!(with_stdin_a_reader_waits),
        rule!(exec_sync_returns_streams_and_exit_code),
        rule!(exec_sync_of_a_missing_program_is_an_error),
        rule!(exec_sync_ends_at_its_timeout),
        rule!(exec_sync_runs_with_the_containers_environment),
        rule!(exec_sync_in_a_container_that_does_not_run_is_an_error),
        rule!(exec_sync_returns_large_output_whole),
    ]
}

async fn command_and_args_replace_the_images(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = busybox("main", &["echo", "command"]);
    config.args = vec!["and".into(), "args with  spaces".into()];
    let said = pod.says(config).await?;
    ensure!(said == "command and args with  spaces\n", "{said}");
    Ok(())
}

fn env(key: &str, value: &[u8]) -> v1::KeyValue {
    v1::KeyValue { key: key.to_owned(), value: value.to_vec() }
}

async fn environment_values_come_through_byte_for_byte(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config =
        shell("main", "printf %s \"$ODD\" | od -An -tx1; printf '<%s>' \"$EMPTY\"; printf '<%s>\\n' \"$LINES\"");
    let odd = "=a \"b\" $c\\n\té€".as_bytes();
    config.envs = vec![env("ODD", odd), env("EMPTY", b""), env("LINES", b"one\ntwo")];
    let said = pod.says(config).await?;
    let (hex, rest) = said.rsplit_once("\n<>").unwrap_or((&said, ""));
    let hex: Vec<u8> = hex.split_whitespace().filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    ensure!(hex == odd, "{said}");
    ensure!(rest == "<one\ntwo>\n", "{said}");
    Ok(())
}

async fn an_images_environment_is_there_and_cri_wins(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = pod.says(shell("one", "echo $PATH")).await?;
    ensure!(said.starts_with("/usr/local/sbin:"), "PATH is {said}");
    let mut config = shell("two", "/bin/env | /bin/grep ^PATH=");
    config.envs = vec![env("PATH", b"/first"), env("PATH", b"/mine:/bin")];
    let said = pod.says(config).await?;
    ensure!(said == "PATH=/mine:/bin\n", "{said}");
    Ok(())
}

async fn the_working_directory_is_made_and_entered(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "pwd");
    config.working_dir = "/not/there/yet".into();
    let said = pod.says(config).await?;
    ensure!(said == "/not/there/yet\n", "{said}");
    Ok(())
}

async fn a_tty_is_a_terminal_and_logs_as_stdout(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; echo err >&2");
    config.tty = true;
    config.stdin = true;
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    scope.bed.exited(&id).await?;
    let lines = crate::logs::read(&log)?;
    let text: Vec<String> =
        lines.iter().map(|line| String::from_utf8_lossy(&line.content).trim_end_matches('\r').to_owned()).collect();
    ensure!(text.len() == 3 && text[0].starts_with("/dev/") && text[1] == "all three" && text[2] == "err", "{text:?}");
    ensure!(lines.iter().all(|line| line.stream == "stdout"), "{lines:?}");
    Ok(())
}

async fn without_stdin_a_reader_sees_the_end(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = pod.says(shell("main", "cat; echo the end")).await?;
    ensure!(said == "the end\n", "{said}");
    Ok(())
}

async fn with_stdin_a_reader_waits(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "echo reading; cat; echo the end");
    config.stdin = true;
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    crate::bed::until(crate::bed::SOON, || async {
        ensure!(crate::logs::text(&log)? == "reading\n");
        Ok(())
    })
    .await?;
    // If stdin were closed, the container would end within this time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = scope.bed.status(&id).await?;
    ensure!(status.state() == v1::ContainerState::ContainerRunning, "{:?}", status.state());
    scope.bed.stop(&id, 0).await
}

async fn exec_sync_returns_streams_and_exit_code(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let exec = scope.bed.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 42"], 10).await?;
    ensure!(exec.stdout == "out\n" && exec.stderr == "err\n" && exec.code == 42, "{exec:?}");
    Ok(())
}

async fn exec_sync_of_a_missing_program_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let missing = scope.bed.exec(&id, &["/no/such/program"], 10).await;
    let Err(error) = missing else { bail!("{missing:?}") };
    ensure!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    Ok(())
}

async fn exec_sync_ends_at_its_timeout(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let start = Instant::now();
    let Err(error) = scope.bed.exec(&id, &["sh", "-c", "exec sleep 1234"], 1).await else { bail!("it ended well") };
    let code = error.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    ensure!(code == Some(tonic::Code::DeadlineExceeded), "{error:#}");
    ensure!((1.0..8.0).contains(&start.elapsed().as_secs_f64()), "after {:?}", start.elapsed());
    crate::bed::until(crate::bed::SOON, || async {
        let left = scope.bed.sh(&id, "ps -o args | grep -c '[s]leep 1234' || true").await?;
        ensure!(left == "0", "{left} processes of it are left");
        Ok(())
    })
    .await
}

async fn exec_sync_runs_with_the_containers_environment(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.envs = vec![env("MINE", b"here")];
    config.working_dir = "/tmp".into();
    let id = pod.start(config).await?;
    let said = scope.bed.sh(&id, "echo $MINE $PWD").await?;
    ensure!(said == "here /tmp", "{said}");
    Ok(())
}

async fn exec_sync_in_a_container_that_does_not_run_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.create(sleeper("main")).await?;
    ensure!(scope.bed.exec(&id, &["true"], 5).await.is_err(), "in a created one");
    scope.bed.start(&id).await?;
    scope.bed.stop(&id, 5).await?;
    ensure!(scope.bed.exec(&id, &["true"], 5).await.is_err(), "in a stopped one");
    Ok(())
}

async fn exec_sync_returns_large_output_whole(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let exec = scope.bed.exec(&id, &["sh", "-c", "yes 0123456789abcde | head -n 262144"], 60).await?;
    ensure!(exec.code == 0 && exec.stdout.len() == 4 << 20, "{} bytes", exec.stdout.len());
    ensure!(exec.stdout.lines().all(|line| line == "0123456789abcde"), "not what was written");
    Ok(())
}
