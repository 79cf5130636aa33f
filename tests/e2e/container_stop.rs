//! StopContainer: which signal it sends, how long the grace period is, and what shortens it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerConfig, Signal};

use crate::bed::{SOON, image_spec, until};
use crate::container_resources::cgroup;
use crate::harness::{Outcome, SLOWNESS, Test, rule};
use crate::logs;
use crate::scope::{Pod, Scope, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(the_stop_signal_is_sigterm_by_default),
        rule!(an_images_stop_signal_wins_over_sigterm),
        rule!(cris_stop_signal_wins_over_the_images),
        rule!(every_signal_is_known_by_its_number),
        rule!(a_signal_that_cri_does_not_have_is_refused).only_pontoon("the built-in takes it for its default"),
        rule!(what_ends_in_its_grace_keeps_its_exit_code),
        rule!(what_ignores_the_signal_is_killed_after_the_grace),
        rule!(a_grace_of_zero_kills_at_once),
        rule!(a_second_stop_with_less_grace_shortens_the_first)
            .only_pontoon("the built-in sends one signal and waits for the first grace's end"),
        rule!(a_created_container_can_be_stopped_and_removed),
        rule!(stop_of_an_unknown_container_succeeds),
        rule!(r15_a_container_with_a_frozen_cgroup_of_its_own_ends)
            .only_pontoon("the built-in waits for the frozen process, with cgroup v1"),
        rule!(r14_what_holds_a_containers_root_is_named)
            .only_pontoon("the built-in's RemoveContainer says what the kernel does: busy"),
    ]
}

/// Prints the signal that ends it, and exits with 5.
fn reports(name: &str) -> ContainerConfig {
    shell(
        name,
        "for s in TERM QUIT USR1 INT; do trap \"echo got $s; exit 5\" $s; done; echo ready; while :; do sleep 1000 & wait $!; done",
    )
}

async fn start_and_wait(pod: &Pod, config: ContainerConfig) -> anyhow::Result<(String, std::path::PathBuf)> {
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    until(SOON, || async {
        ensure!(logs::text(&log)?.starts_with("ready\n"));
        Ok(())
    })
    .await?;
    Ok((id, log))
}

async fn stops_by(scope: &Scope, config: ContainerConfig, signal: &str) -> Outcome {
    let pod = scope.pod().await?;
    let (id, log) = start_and_wait(&pod, config).await?;
    scope.bed.stop(&id, 20).await?;
    let status = scope.bed.exited(&id).await?;
    let text = logs::text(&log)?;
    ensure!(text.ends_with(&format!("got {signal}\n")), "{text}");
    ensure!(status.exit_code == 5 && status.reason == "Error", "{} {}", status.exit_code, status.reason);
    Ok(())
}

async fn the_stop_signal_is_sigterm_by_default(scope: Arc<Scope>) -> Outcome {
    stops_by(&scope, reports("main"), "TERM").await
}

/// The nginx image has the stop signal SIGQUIT, and contains a shell.
const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";

async fn an_images_stop_signal_wins_over_sigterm(scope: Arc<Scope>) -> Outcome {
    scope.bed.pull(NGINX).await?;
    let mut config = reports("main");
    config.image = Some(image_spec(NGINX));
    stops_by(&scope, config, "QUIT").await
}

async fn cris_stop_signal_wins_over_the_images(scope: Arc<Scope>) -> Outcome {
    scope.bed.pull(NGINX).await?;
    let mut config = reports("main");
    config.image = Some(image_spec(NGINX));
    config.stop_signal = Signal::Sigusr1.into();
    stops_by(&scope, config, "USR1").await
}

/// SIGRTMIN+3 is 37 on every Linux. The names in CRI change with its version, the signals' numbers do not.
async fn every_signal_is_known_by_its_number(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (signal, number) in [(Signal::Sigrtminplus3, 37), (Signal::Sigrtmaxminus1, 63), (Signal::Sigio, 29)] {
        let name = format!("s{number}");
        let script =
            format!("trap 'echo got {number}; exit 6' {number}; echo ready; while :; do sleep 1000 & wait $!; done");
        let mut config = shell(&name, &script);
        config.stop_signal = signal.into();
        let (id, log) = start_and_wait(&pod, config).await?;
        let told = scope.bed.status(&id).await?.stop_signal;
        ensure!(told == i32::from(signal) || number == 29 && told == i32::from(Signal::Sigpoll), "{signal:?}: {told}");
        scope.bed.stop(&id, 20).await?;
        let exit = scope.bed.exited(&id).await?.exit_code;
        let said = logs::text(&log)?;
        ensure!(exit == 6 && said == format!("ready\ngot {number}\n"), "{signal:?}: {exit}, {said}");
    }
    Ok(())
}

async fn a_signal_that_cri_does_not_have_is_refused(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.stop_signal = 66;
    let error = pod.create(config).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("config.stop_signal: 66 is not a value of Signal"), "{error}");
    Ok(())
}

async fn what_ends_in_its_grace_keeps_its_exit_code(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let config =
        shell("main", "trap 'sleep 1; echo done; exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done");
    let (id, log) = start_and_wait(&pod, config).await?;
    scope.bed.stop(&id, 20).await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 0 && status.reason == "Completed", "{} {}", status.exit_code, status.reason);
    ensure!(logs::text(&log)? == "ready\ndone\n", "its last line is lost");
    Ok(())
}

/// Ignores SIGTERM, as pid 1 does for every signal without a handler.
fn stubborn(name: &str) -> ContainerConfig {
    shell(name, "trap '' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
}

async fn killed_after(scope: &Scope, grace: i64) -> anyhow::Result<Duration> {
    let pod = scope.pod().await?;
    let (id, _) = start_and_wait(&pod, stubborn("main")).await?;
    let start = Instant::now();
    scope.bed.stop(&id, grace).await?;
    let took = start.elapsed();
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 137 && status.reason == "Error", "{} {}", status.exit_code, status.reason);
    Ok(took)
}

async fn what_ignores_the_signal_is_killed_after_the_grace(scope: Arc<Scope>) -> Outcome {
    let took = killed_after(&scope, 2).await?;
    ensure!((2.0..6.0).contains(&took.as_secs_f64()), "after {took:?}");
    Ok(())
}

async fn a_grace_of_zero_kills_at_once(scope: Arc<Scope>) -> Outcome {
    let took = killed_after(&scope, 0).await?;
    // Less than any usual default for the grace, and far more than a kill takes on a busy machine.
    ensure!(took < Duration::from_secs(6) * *SLOWNESS, "after {took:?}");
    Ok(())
}

async fn a_second_stop_with_less_grace_shortens_the_first(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (id, _) = start_and_wait(&pod, stubborn("main")).await?;
    let start = Instant::now();
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        scope.bed.stop(&id, 1).await
    };
    tokio::try_join!(scope.bed.stop(&id, 60), later)?;
    ensure!(start.elapsed() < Duration::from_secs(8), "after {:?}", start.elapsed());
    let status = scope.bed.status(&id).await?;
    ensure!(status.state() == v1::ContainerState::ContainerExited && status.exit_code == 137, "{status:?}");
    Ok(())
}

async fn a_created_container_can_be_stopped_and_removed(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.create(sleeper("main")).await?;
    scope.bed.stop(&id, 5).await?;
    scope.bed.remove(&id).await?;
    ensure!(scope.bed.status(&id).await.is_err(), "it is still there");
    Ok(())
}

async fn stop_of_an_unknown_container_succeeds(scope: Arc<Scope>) -> Outcome {
    let unknown = "0123456789abcdef".repeat(4);
    scope.bed.stop(&unknown, 5).await?;
    scope.bed.remove(&unknown).await
}

/// runc#2105: on cgroup v1, SIGKILL does not end a process in a cgroup that the container has frozen.
async fn r15_a_container_with_a_frozen_cgroup_of_its_own_ends(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(shell("main", "sleep 1000 & wait")).await?;
    let pid = scope.bed.pid_of(&id).await?;
    let own = cgroup(pid, "freezer")?;
    let is_unified = own.join("cgroup.freeze").exists();
    let (file, frozen) = if is_unified { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
    let child = until(SOON, || async {
        let processes = std::fs::read_to_string(own.join("cgroup.procs"))?;
        let child = processes.lines().find(|line| *line != pid.to_string()).context("no child yet")?.to_owned();
        Ok(child)
    });
    let (child, nested) = (child.await?, own.join("of/its/own"));
    std::fs::create_dir_all(&nested)?;
    std::fs::write(nested.join("cgroup.procs"), child)?;
    // Thaw the cgroup even if the test fails: otherwise its process could not be killed.
    let _thaws = Thaws(nested.join(file), if is_unified { "0" } else { "THAWED" });
    std::fs::write(nested.join(file), frozen)?;
    let start = Instant::now();
    scope.bed.stop(&id, 0).await?;
    let took = start.elapsed();
    println!("    stopped after {} ms", took.as_millis());
    ensure!(took < SOON * *SLOWNESS, "it took {took:?}");
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    scope.bed.remove(&id).await
}

/// Thaws a cgroup when dropped, if the cgroup still exists.
struct Thaws(std::path::PathBuf, &'static str);

impl Drop for Thaws {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, self.1);
    }
}

/// containerd#4020: a process of the host whose working directory is in the container's root prevents the unmount.
async fn r14_what_holds_a_containers_root_is_named(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let tasks = scope.bed.dir.join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
    let mut holder = tokio::process::Command::new("sleep");
    let mut holder = holder.arg("1000").current_dir(tasks.join(&id).join("rootfs/bin")).kill_on_drop(true).spawn()?;
    let pid = holder.id().context("it has ended")?;
    let removed = scope.bed.remove(&id).await;
    holder.kill().await?;
    let error = format!("{:#}", removed.err().context("it was removed")?);
    // The error's text shows the gRPC message with escaped quotes, so each part is looked for separately.
    ensure!(error.contains(&format!("process {pid} (")) && error.contains("sleep"), "{error}");
    ensure!(error.contains("by its working directory"), "{error}");
    // The daemon retries the deletion of the task by itself.
    scope.bed.remove(&id).await
}
