//! Sends a gigabyte through an exec and through a port-forward, for bench-streaming.sh. Measures the time, and the CPU
//! seconds of each daemon.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::bed::{Bed, SOON, Target, output, until};
use crate::scope::{Pod, Scope, shell};
use crate::shim::shim_of;

const BLOCK: usize = 64 << 20;
/// How often the block is sent: `E2E_SPEED_BLOCKS`. The default of sixteen makes a gigabyte; fewer show that it works.
static BLOCKS: LazyLock<usize> = LazyLock::new(|| crate::harness::from_environment("E2E_SPEED_BLOCKS").unwrap_or(16));
const PORT: u16 = 8000;

/// Prints a line of JSON for each kind of session and protocol, on the bed of `PONTOON_BED`.
pub fn measure() -> anyhow::Result<bool> {
    let env = std::env::var_os("PONTOON_BED").context("PONTOON_BED is not set")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bed = Arc::new(Bed::open(env.as_ref())?);
        bed.pull_test_image().await?;
        let scope = Scope::new(bed, "speed")?;
        let measured = measure_all(&scope).await;
        scope.sweep().await?;
        measured.map(|()| true)
    })
}

/// CPU seconds of a process, without its children.
fn cpu(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    // utime and stime, the 14th and 15th field, in hundredths (proc_pid_stat(5); USER_HZ is 100 everywhere).
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// Writes a file whose bytes do not repeat within it, and a program that sends it [`BLOCKS`] times. Returns the hash of
/// all that the program sends.
fn fill(volume: &Path) -> anyhow::Result<String> {
    let mut state = 88_172_645_463_325_252_u64;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(BLOCK / 8)
    .flatten()
    .collect();
    std::fs::write(volume.join("block"), &block)?;
    std::fs::write(volume.join("send"), format!("#!/bin/sh\nfor i in $(seq {}); do cat /data/block; done\n", *BLOCKS))?;
    std::fs::set_permissions(volume.join("send"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut hash = Sha256::new();
    for _ in 0..*BLOCKS {
        hash.update(&block);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn measure_all(scope: &Scope) -> anyhow::Result<()> {
    let bed = &scope.bed;
    let volume = scope.volume("data")?;
    let hash = fill(&volume)?;
    let pod = scope.pod().await?;
    let mut config = shell("main", &format!("exec nc -ll -p {PORT} -e /data/send"));
    config.mounts = vec![v1::Mount {
        container_path: "/data".into(),
        host_path: volume.display().to_string(),
        ..Default::default()
    }];
    let id = pod.start(config).await?;
    let listens = until(SOON, || async {
        ensure!(bed.sh(&id, "cat /proc/net/tcp /proc/net/tcp6").await?.contains(":1F40 "), "nothing listens");
        Ok(())
    });
    listens.await?;
    let protocols: &[_] = match bed.target {
        Target::Pontoon => &["spdy", "v5"],
        Target::Builtin => &["spdy", "v4"],
    };
    // The first transfer is slower on both servers (1.1 seconds of the server's CPU, the next ones 0.8 to 0.9), so it
    // is not measured.
    output(&mut executed(bed, &id, "spdy").await?).await?;
    for protocol in protocols {
        let mut command = executed(bed, &id, protocol).await?;
        one(bed, &id, &format!("exec {}", websocket_or(protocol)), &hash, &mut command).await?;
    }
    forwarded(&pod, bed, &id, &hash).await
}

/// The command that runs the client of one exec.
async fn executed(bed: &Bed, id: &str, protocol: &str) -> anyhow::Result<Command> {
    // streamer opens no stderr here, and a server waits for each requested stream.
    let cmd = vec!["/data/send".to_owned()];
    let request = v1::ExecRequest { container_id: id.to_owned(), cmd, stdout: true, ..Default::default() };
    let url = bed.runtime().exec(request).await?.into_inner().url;
    let mut command = bed.tool("streamer");
    command.args(["measure", "-protocol", protocol, &url]);
    Ok(command)
}

/// v4 and v5 differ in how a stream is closed, not in how bytes are sent.
fn websocket_or(protocol: &str) -> &str {
    if protocol == "spdy" { protocol } else { "websocket" }
}

async fn forwarded(pod: &Pod, bed: &Bed, id: &str, hash: &str) -> anyhow::Result<()> {
    let protocols: &[_] = match bed.target {
        Target::Pontoon => &["spdy", "tunnel"],
        Target::Builtin => &["spdy"],
    };
    for protocol in protocols {
        let url = bed.forward_url(&pod.id).await?;
        let mut command = bed.tool("streamer");
        command.args(["measure", "-protocol", protocol, "-port", &PORT.to_string(), &url]);
        one(bed, id, &format!("forward {protocol}"), hash, &mut command).await?;
    }
    Ok(())
}

async fn one(bed: &Bed, id: &str, what: &str, hash: &str, command: &mut Command) -> anyhow::Result<()> {
    let pids = [bed.pid(bed.server())?, bed.pid("containerd")?, shim_of(bed, id).await?];
    let look = || pids.iter().map(|pid| cpu(*pid)).collect::<anyhow::Result<Vec<f64>>>();
    let before = look()?;
    let answer: Value = serde_json::from_str(&output(command).await?)?;
    let after = look()?;
    let spent: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let bytes = (BLOCK * *BLOCKS) as f64;
    ensure!(answer["bytes"].as_f64() == Some(bytes) && answer["sha256"] == hash, "{what}: {answer}, not {hash}");
    let seconds = answer["seconds"].as_f64().context("seconds")?;
    let line = json!({
        "what": what, "mbs": bytes / 1e6 / seconds, "seconds": seconds,
        "server": spent[0], "containerd": spent[1], "shim": spent[2],
    });
    println!("{line}");
    Ok(())
}
