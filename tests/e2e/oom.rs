//! Containers that the kernel kills because of a memory limit, and containers that end otherwise.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerConfig, ContainerState, ContainerStatus};
use tokio::task::JoinSet;

use crate::bed::Target;
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, resources, shell, sleeper};

/// Number of pods, and of containers in each, that run out of memory at once: a hundred containers, 1.6 GB together.
const PODS: usize = 4;
const EACH: usize = 25;
const LIMIT: i64 = 16 << 20;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_hundred_ooms_at_once_are_reported_with_their_exits)
            .only_pontoon("its status can be EXITED before it says OOMKilled (containerd#12372)")
            .alone()
            .within(240),
        rule!(a_container_that_reaches_the_pods_limit_is_oom_killed_too),
        rule!(a_container_that_a_user_kills_is_not_oom_killed),
        rule!(a_container_that_loses_a_child_is_not_oom_killed)
            .only_pontoon("it says OOMKilled, whatever process it was and how the container ended"),
    ]
}

fn hungry(name: &str, before: &str, limit: i64) -> ContainerConfig {
    let mut config = shell(name, &format!("{before} exec tail /dev/zero"));
    resources(&mut config).memory_limit_in_bytes = limit;
    config
}

/// Starts a pod whose containers wait for a line of the FIFO `gate` in the volume. Returns their ids.
async fn waiting_pod(scope: Arc<Scope>, volume: PathBuf) -> anyhow::Result<Vec<String>> {
    let pod = scope.pod().await?;
    let mut ids = Vec::new();
    for number in 0..EACH {
        let mut config = hungry(&format!("c{number}"), "read line </go/gate;", LIMIT);
        config.mounts.push(v1::Mount {
            host_path: volume.display().to_string(),
            container_path: "/go".to_owned(),
            ..Default::default()
        });
        ids.push(pod.start(config).await?);
    }
    Ok(ids)
}

async fn a_hundred_ooms_at_once_are_reported_with_their_exits(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("go")?;
    let gate = volume.join("gate");
    mkfifo(&gate, Mode::from_bits_truncate(0o666))?;
    let mut starts = JoinSet::new();
    for _ in 0..PODS {
        starts.spawn(waiting_pod(scope.clone(), volume.clone()));
    }
    let mut containers = HashMap::new();
    while let Some(ids) = starts.join_next().await {
        containers.extend(ids??.into_iter().map(|id| (id, false)));
    }
    let mut events = scope.bed.runtime().get_container_events(v1::GetEventsRequest {}).await?.into_inner();
    // One write puts a line for each container into the FIFO, so that all continue at once. A container that opens it
    // late still finds a line.
    let mut gate = OpenOptions::new().read(true).write(true).open(&gate)?;
    gate.write_all(&[b'\n'; PODS * EACH])?;

    // The first event that reports a container as exited must already have the reason.
    while containers.values().any(|ended| !ended) {
        let event = events.message().await?.context("the stream ended")?;
        for status in event.containers_statuses {
            let Some(ended) = containers.get_mut(&status.id) else { continue };
            if status.state() == ContainerState::ContainerExited {
                expect_oom_killed(&status)?;
                *ended = true;
            }
        }
    }
    let statuses = join_all(containers.keys().map(|id| scope.bed.status(id))).await;
    statuses.into_iter().try_for_each(|status| expect_oom_killed(&status?))
}

fn expect_oom_killed(status: &ContainerStatus) -> Outcome {
    ensure!(status.exit_code == 137 && status.reason == "OOMKilled", "{} {}", status.exit_code, status.reason);
    ensure!(status.message == "the container reached its memory limit", "{}", status.message);
    Ok(())
}

/// Limits the memory of a pod as kubelet does: by the pod's cgroup, which exists once the pod runs.
fn limit_pod(parent: &str, bytes: i64) -> Outcome {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (root, files) = if unified {
        ("/sys/fs/cgroup", vec!["memory.max"])
    } else {
        ("/sys/fs/cgroup/memory", vec!["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"])
    };
    for file in files {
        let path = Path::new(root).join(parent.trim_start_matches('/')).join(file);
        // Not every kernel counts swap.
        if path.exists() {
            std::fs::write(&path, bytes.to_string()).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

async fn a_container_that_reaches_the_pods_limit_is_oom_killed_too(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let parent = pod.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).context("cgroup parent")?;
    limit_pod(&parent, 40 << 20)?;
    let id = pod.start(hungry("main", "", 0)).await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 137 && status.reason == "OOMKilled", "{} {}", status.exit_code, status.reason);
    if scope.bed.target == Target::Pontoon {
        ensure!(status.message == "the pod reached its memory limit", "{}", status.message);
    }
    Ok(())
}

async fn a_container_that_a_user_kills_is_not_oom_killed(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    let id = pod.start(config).await?;
    let pid = i32::try_from(scope.bed.pid_of(&id).await?)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 137 && status.reason == "Error", "{} {}", status.exit_code, status.reason);
    ensure!(status.message.is_empty(), "{}", status.message);
    Ok(())
}

async fn a_container_that_loses_a_child_is_not_oom_killed(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "tail /dev/zero; exit 5");
    resources(&mut config).memory_limit_in_bytes = LIMIT;
    let id = pod.start(config).await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 5 && status.reason == "Error", "{} {}", status.exit_code, status.reason);
    let message = "the kernel had killed other processes of it (1): the container reached its memory limit";
    ensure!(status.message == message, "{}", status.message);
    Ok(())
}
