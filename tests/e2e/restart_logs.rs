//! The daemon is stopped by SIGTERM and started again while containers write. Their logs must show no sign of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use pontoon::api::v1;

use crate::bed::{SOON, until};
use crate::harness::{Outcome, Test, rule};
use crate::logs;
use crate::scope::{Scope, shell};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(f6_no_line_is_lost_over_restarts_by_sigterm)
            .alone()
            .within(240)
            .only_pontoon("the built-in CRI is containerd: it cannot be restarted alone"),
    ]
}

/// How often the daemon is restarted in this test.
const RESTARTS: u32 = 12;

/// Writes numbered lines to both streams in bursts. It pauses within a line, most of which the daemon then has in
/// memory.
const FAST: &str = r#"awk 'BEGIN {
    for (i = 0; ; i++) {
        printf "line "
        if (i % 700 == 699) system("usleep 40000")
        print i
        print "line " i > "/dev/stderr"
        if (i % 700 == 0) { if ((getline x < "/data/stop") >= 0) break; close("/data/stop") }
    }
    print "end " i + 1
    print "end " i + 1 > "/dev/stderr"
}'"#;

/// Writes each line in two parts, some time apart, like a prompt and the input after it.
const SLOW: &str = r#"i=0
while [ ! -e /data/stop ]; do printf "line "; printf "line " >&2; sleep 0.1; echo $i; echo $i >&2; i=$((i + 1)); done
echo end $i; echo end $i >&2"#;

/// Checks that a stream's log has all lines from 0 on, each once, and then the end with their number. Returns that
/// number.
fn counted(log: &Path, stream: &str) -> anyhow::Result<usize> {
    let mut text: Vec<u8> = Vec::new();
    for line in logs::read(log)?.into_iter().filter(|line| line.stream == stream) {
        text.extend(line.content);
        text.extend(if line.partial { &b""[..] } else { &b"\n"[..] });
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let Some((end, lines)) = lines.split_last() else { anyhow::bail!("{} is empty", log.display()) };
    for (number, line) in lines.iter().enumerate() {
        ensure!(*line == format!("line {number}"), "{} {stream}: {line:?} where {number} should be", log.display());
    }
    ensure!(*end == format!("end {}", lines.len()), "{} {stream}: {end:?} after {} lines", log.display(), lines.len());
    Ok(lines.len())
}

async fn f6_no_line_is_lost_over_restarts_by_sigterm(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    let mut writers: Vec<(String, PathBuf)> = Vec::new();
    for (turn, script) in [FAST, SLOW, FAST, SLOW].into_iter().enumerate() {
        let pod = scope.pod().await?;
        let mut config = shell("writer", script);
        // With stdin, the container's streams are set up differently.
        config.stdin = turn >= 2;
        config.mounts = vec![v1::Mount {
            host_path: volume.display().to_string(),
            container_path: "/data".into(),
            ..Default::default()
        }];
        let log = pod.log(&config);
        writers.push((pod.start(config).await?, log));
    }
    let mut longest = Duration::ZERO;
    for _ in 0..RESTARTS {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let start = Instant::now();
        scope.bed.daemon("daemon", "stop").await?;
        scope.bed.daemon("daemon", "start").await?;
        longest = longest.max(start.elapsed());
    }
    std::fs::write(volume.join("stop"), "")?;
    let mut all = 0;
    for (id, log) in &writers {
        let status = scope.bed.exited(id).await?;
        ensure!(status.exit_code == 0, "exit code {}", status.exit_code);
        for stream in ["stdout", "stderr"] {
            let found = until(SOON, || async { counted(log, stream) }).await?;
            all += found;
            println!("    {} {stream}: {found} lines", log.display());
        }
    }
    println!(
        "    {all} lines over {RESTARTS} restarts, none lost; the longest restart took {} ms",
        longest.as_millis()
    );
    Ok(())
}
