//! A container's log file: format, order, partial lines, rotation.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;

use crate::bed::{SOON, until};
use crate::harness::{Outcome, Test, rule};
use crate::logs;
use crate::scope::{Scope, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(lines_have_time_stream_and_tag),
        rule!(a_line_without_an_end_is_in_the_log),
        rule!(a_long_line_is_split_into_parts),
        rule!(every_byte_comes_through),
        rule!(the_log_is_complete_when_the_container_is_seen_to_have_exited),
        rule!(after_a_reopen_lines_go_to_the_new_file),
        rule!(no_line_is_lost_while_the_log_is_rotated),
        rule!(a_reopen_of_a_container_that_does_not_run_is_an_error),
        rule!(without_a_log_path_there_is_no_log_and_the_container_runs),
    ]
}

async fn lines_have_time_stream_and_tag(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let config = shell("main", "echo out; sleep 0.2; echo err >&2; sleep 0.2; echo; echo ' spaces  '");
    let log = pod.log(&config);
    let before = jiff::Timestamp::now();
    pod.says(config).await?;
    let lines = logs::read(&log)?;
    let seen: Vec<(&str, &[u8])> = lines.iter().map(|line| (line.stream.as_str(), line.content.as_slice())).collect();
    let expected: [(&str, &[u8]); 4] =
        [("stdout", b"out"), ("stderr", b"err"), ("stdout", b""), ("stdout", b" spaces  ")];
    ensure!(seen == expected, "{lines:?}");
    let times = lines.iter().map(|line| line.time.parse()).collect::<Result<Vec<jiff::Timestamp>, _>>()?;
    ensure!(times.is_sorted() && times[0] > before, "{times:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&log)?.permissions());
    ensure!(mode & 0o7777 == 0o640, "mode {mode:o}");
    Ok(())
}

async fn a_line_without_an_end_is_in_the_log(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let config = shell("main", "echo one; printf two");
    let log = pod.log(&config);
    pod.says(config).await?;
    let lines = logs::read(&log)?;
    // kubelet accepts either tag for the last line.
    ensure!(lines.len() == 2 && lines[1].content == b"two", "{lines:?}");
    Ok(())
}

async fn a_long_line_is_split_into_parts(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let config = shell("main", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short");
    let log = pod.log(&config);
    pod.says(config).await?;
    let lines = logs::read(&log)?;
    let sizes: Vec<(usize, bool)> = lines.iter().map(|line| (line.content.len(), line.partial)).collect();
    ensure!(sizes.iter().all(|(size, _)| *size <= 16 << 10), "{sizes:?}");
    let (parts, rest): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.partial);
    ensure!(parts.len() >= 2 && rest.len() == 2 && rest[1].content == b"short", "{sizes:?}");
    let whole: usize = parts.iter().chain(&rest[..1]).map(|line| line.content.len()).sum();
    ensure!(whole == 40_000, "{whole} bytes");
    Ok(())
}

async fn every_byte_comes_through(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    let bytes: Vec<u8> = (0..=255_u8).filter(|byte| *byte != b'\n').cycle().take(100_000).chain([b'\n']).collect();
    std::fs::write(volume.join("bytes"), &bytes)?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "cat /data/bytes");
    config.mounts = vec![v1::Mount {
        host_path: volume.display().to_string(),
        container_path: "/data".into(),
        ..Default::default()
    }];
    let log = pod.log(&config);
    pod.says(config).await?;
    let content: Vec<u8> = logs::read(&log)?.into_iter().flat_map(|line| line.content).collect();
    ensure!(content == bytes[..bytes.len() - 1], "{} bytes came of {}", content.len(), bytes.len());
    Ok(())
}

async fn the_log_is_complete_when_the_container_is_seen_to_have_exited(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for round in 0..3 {
        let config = shell(&format!("main-{round}"), "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i + 1)); done");
        let log = pod.log(&config);
        let id = pod.start(config).await?;
        scope.bed.exited(&id).await?;
        let lines = logs::read(&log)?;
        ensure!(lines.len() == 5000 && lines[4999].content == b"line 4999", "round {round}: {} lines", lines.len());
    }
    Ok(())
}

async fn reopen(scope: &Scope, id: &str) -> anyhow::Result<()> {
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    scope.bed.runtime().reopen_container_log(request).await.context("ReopenContainerLog")?;
    Ok(())
}

async fn after_a_reopen_lines_go_to_the_new_file(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let config = shell(
        "main",
        "trap 'exit 0' TERM; echo first; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo second; sleep 1000 & wait $!",
    );
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    until(SOON, || async {
        ensure!(logs::text(&log)? == "first\n");
        Ok(())
    })
    .await?;
    let rotated = log.with_extension("log.1");
    std::fs::rename(&log, &rotated)?;
    reopen(&scope, &id).await?;
    scope.bed.sh(&id, "touch /tmp/go").await?;
    until(SOON, || async {
        ensure!(logs::text(&log)? == "second\n");
        Ok(())
    })
    .await?;
    ensure!(logs::text(&rotated)? == "first\n", "the old file changed");
    Ok(())
}

async fn no_line_is_lost_while_the_log_is_rotated(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let config = shell("main", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done; sleep 2");
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    let mut files = Vec::new();
    for turn in 0..4 {
        until(SOON, || async {
            ensure!(std::fs::metadata(&log).context("log")?.len() > 0, "nothing is written");
            Ok(())
        })
        .await?;
        let rotated = log.with_extension(format!("log.{turn}"));
        std::fs::rename(&log, &rotated)?;
        files.push(rotated);
        // The container's last lines may all be in the renamed file. Then it may have exited too, and the reopen fails.
        if reopen(&scope, &id).await.is_err() {
            break;
        }
        if logs::text(&files[turn])?.contains("line 19999\n") {
            break;
        }
    }
    scope.bed.exited(&id).await?;
    files.push(log);
    let mut all = String::new();
    for file in files.iter().filter(|file| file.exists()) {
        all += &logs::text(file)?;
    }
    let lines = all.lines().enumerate();
    let wrong = lines.clone().find(|(number, line)| *line != format!("line {number}"));
    ensure!(wrong.is_none() && lines.count() == 20_000, "{wrong:?}, {} lines", all.lines().count());
    Ok(())
}

async fn a_reopen_of_a_container_that_does_not_run_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let config = sleeper("main");
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    scope.bed.stop(&id, 5).await?;
    std::fs::remove_file(&log)?;
    ensure!(reopen(&scope, &id).await.is_err(), "it succeeded");
    // kubelet renames the rotated file back after the error.
    ensure!(!log.exists(), "there is a new file");
    Ok(())
}

async fn without_a_log_path_there_is_no_log_and_the_container_runs(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "i=0; while [ $i -lt 5000 ]; do echo some line $i; i=$((i + 1)); done; exit 3");
    config.log_path = String::new();
    let id = pod.start(config).await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 3 && status.log_path.is_empty(), "{} {}", status.exit_code, status.log_path);
    Ok(())
}
