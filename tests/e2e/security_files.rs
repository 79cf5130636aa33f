//! Known flaws in what is on the node: directories, sockets, logs, mounts.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerConfig, MountPropagation, NamespaceMode};
use tonic::Code;

use crate::bad_input::refused;
use crate::bed::{SOON, Target, until};
use crate::harness::{Outcome, SLOWNESS, Test, rule};
use crate::scope::{Scope, namespaces, security, shell, sleeper};
use crate::security::{OnItself, absent, create_and_start};

const BUILTIN: &str = "the built-in CRI is containerd: it cannot be started alone";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(cve_2019_16884_proc_is_not_mounted_over),
        rule!(cve_2020_15257_no_abstract_sockets),
        rule!(cve_2021_41103_no_way_in_for_the_nodes_users),
        rule!(cve_2024_25621_a_wide_directory_is_narrowed_at_start).alone().only_pontoon(BUILTIN),
        rule!(cve_2025_0750_a_log_stays_below_its_directory).only_pontoon("the built-in joins the two"),
        rule!(containerd_2_4_2_a_log_that_is_a_symlink_is_not_followed),
        rule!(cve_2025_0426_a_checkpoint_writes_nothing),
        rule!(ghsa_5p7c_failed_creates_leave_no_mount).alone(),
        rule!(ghsa_7ww5_the_power_meter_is_masked),
        rule!(x3_one_daemon_a_socket).alone().only_pontoon(BUILTIN),
        rule!(x6_paths_of_mounts_are_checked),
        rule!(x8_a_profile_outside_the_roots_is_an_error).only_pontoon("the built-in reads any file"),
        rule!(x8_a_profile_that_is_not_there_is_an_error),
    ]
}

fn bind(host_path: &Path, container_path: &str) -> v1::Mount {
    v1::Mount {
        host_path: host_path.display().to_string(),
        container_path: container_path.to_owned(),
        ..Default::default()
    }
}

fn mounting(name: &str, mount: v1::Mount, script: &str) -> ContainerConfig {
    ContainerConfig { mounts: vec![mount], ..shell(name, script) }
}

/// Also covers CVE-2023-28642. With such a mount, the files of AppArmor and SELinux would be the container's.
async fn cve_2019_16884_proc_is_not_mounted_over(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (number, path) in ["/proc", "/proc/self/attr", "/mnt/../proc"].into_iter().enumerate() {
        let volume = scope.volume("proc")?;
        std::fs::create_dir_all(volume.join("self/attr"))?;
        let config = mounting(&format!("c{number}"), bind(&volume, path), "true");
        let result = create_and_start(&scope, &pod, config).await;
        ensure!(result.is_err(), "a mount over {path} was taken");
    }
    Ok(())
}

async fn cve_2020_15257_no_abstract_sockets(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    let pod = scope.run(config).await?;
    let mut config = shell("main", "cat /proc/net/unix");
    security(&mut config).namespace_options = Some(namespaces(NamespaceMode::Node, NamespaceMode::Container));
    let said = pod.says(config).await?;
    ensure!(said.contains(&scope.bed.dir.display().to_string()), "not the node's sockets: {said}");
    let reachable: Vec<&str> = said
        .lines()
        .filter(|line| line.split_whitespace().last().is_some_and(|path| path.starts_with('@')))
        .filter(|line| ["containerd", "shim", "pontoon"].iter().any(|word| line.contains(word)))
        .collect();
    ensure!(reachable.is_empty(), "{reachable:?}");
    let mut left = vec![scope.bed.dir.clone()];
    let mut sockets = 0;
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory)?.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            // A `rootfs` is the mounted root of a container, so its files are the container's.
            if kind.is_dir() && entry.file_name() != "rootfs" {
                left.push(entry.path());
            } else if kind.is_socket() {
                sockets += 1;
                let mode = entry.metadata()?.permissions().mode();
                ensure!(mode & 0o007 == 0, "{} has mode {mode:o}", entry.path().display());
            }
        }
    }
    ensure!(sockets >= 3, "only {sockets} sockets found");
    Ok(())
}

/// Whether a user of the node without any privileges gets into a directory.
async fn others_may(path: &Path) -> anyhow::Result<bool> {
    let mut command = tokio::process::Command::new("setpriv");
    command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "ls", "-ld"]);
    let looked = command.arg(path.join(".")).output().await?;
    Ok(looked.status.success())
}

async fn cve_2021_41103_no_way_in_for_the_nodes_users(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    ensure!(others_may(&scope.bed.dir).await?, "the bed itself is closed, so that nothing is shown");
    let bed = &scope.bed.dir;
    let mut closed = vec![
        bed.join("containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots"),
        bed.join(format!("containerd/state/io.containerd.runtime.v2.task/k8s.io/{id}/rootfs")),
    ];
    if scope.bed.target == Target::Pontoon {
        closed.extend([bed.join("root"), bed.join("root/pause")]);
        for entry in std::fs::read_dir(bed.join("run"))?.flatten() {
            for below in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                closed.push(below.path());
            }
        }
    }
    for path in closed {
        if path.is_dir() {
            ensure!(!others_may(&path).await?, "{} is open to all", path.display());
        }
    }
    Ok(())
}

fn mode(path: &Path) -> anyhow::Result<u32> {
    Ok(std::fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
}

async fn cve_2024_25621_a_wide_directory_is_narrowed_at_start(scope: Arc<Scope>) -> Outcome {
    let (root, state) = (scope.bed.dir.join("root"), scope.bed.dir.join("run"));
    scope.bed.daemon("daemon", "stop").await?;
    for path in [&root, &state] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    scope.bed.daemon("daemon", "start").await?;
    ensure!(mode(&root)? == 0o700, "root has {:o}", mode(&root)?);
    ensure!(mode(&state)? == 0o711, "state has {:o}", mode(&state)?);
    Ok(())
}

async fn cve_2025_0750_a_log_stays_below_its_directory(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let outside = absent(&scope, "log");
    let climbing = format!("../../../../../../../../..{}", outside.display());
    for (number, path) in
        [climbing, outside.display().to_string(), "a/../../x".into(), "..".into()].into_iter().enumerate()
    {
        let mut config = shell(&format!("c{number}"), "true");
        config.log_path = path.clone();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let created = scope.bed.runtime().create_container(request).await;
        refused(&scope, created.map_err(Into::into), Code::InvalidArgument, "log_path").with_context(|| path)?;
    }
    ensure!(!outside.exists(), "{} was made", outside.display());
    Ok(())
}

async fn containerd_2_4_2_a_log_that_is_a_symlink_is_not_followed(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let target = scope.dir().join("target");
    std::fs::write(&target, "precious")?;
    let config = shell("main", "echo written");
    let log = pod.log(&config);
    std::fs::create_dir_all(log.parent().context("parent")?)?;
    std::os::unix::fs::symlink(&target, &log)?;
    let started = create_and_start(&scope, &pod, config).await;
    ensure!(started.is_err(), "it was started");
    ensure!(std::fs::read(&target)? == b"precious", "the target was written");
    // The same when the log is reopened.
    let config = shell("reopened", "while :; do echo line; sleep 0.1; done");
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    until(SOON, || async {
        ensure!(std::fs::metadata(&log)?.len() > 0, "{} is empty", log.display());
        Ok(())
    })
    .await?;
    std::fs::remove_file(&log)?;
    std::os::unix::fs::symlink(&target, &log)?;
    let request = v1::ReopenContainerLogRequest { container_id: id };
    let reopened = scope.bed.runtime().reopen_container_log(request).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(reopened.is_err(), "it was reopened");
    ensure!(std::fs::read(&target)? == b"precious", "the target was written after the reopening");
    Ok(())
}

async fn cve_2025_0426_a_checkpoint_writes_nothing(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let container_id = pod.start(sleeper("main")).await?;
    let location = absent(&scope, "checkpoint.tar");
    let location_text = location.display().to_string();
    let request = v1::CheckpointContainerRequest { container_id, location: location_text, timeout: 5 };
    let result = scope.bed.runtime().checkpoint_container(request).await;
    refused(&scope, result.map_err(Into::into), Code::Unimplemented, "")?;
    ensure!(!location.exists(), "{} was made", location.display());
    Ok(())
}

fn mount_count(pid: u32) -> anyhow::Result<usize> {
    Ok(std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.lines().count())
}

async fn ghsa_5p7c_failed_creates_leave_no_mount(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let daemon = scope.bed.pid(scope.bed.server())?;
    let containerd = scope.bed.pid("containerd")?;
    let before = (mount_count(daemon)?, mount_count(containerd)?);
    for number in 0..100 {
        // That the user does not exist is known only after a look into the image.
        let mut config = shell(&format!("c{number}"), "true");
        security(&mut config).run_as_username = "nobody-has-this-name".into();
        ensure!(pod.create(config).await.is_err(), "it was taken");
    }
    until(SOON, || async {
        let after = (mount_count(daemon)?, mount_count(containerd)?);
        ensure!(after == before, "{before:?} mounts, now {after:?}");
        Ok(())
    })
    .await
}

/// Prints each of these paths that is not empty, unreadable (AppArmor's profile denies some) or absent in a container.
const MASKED: &str = "for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
    /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap \
    /sys/devices/system/cpu/cpu*/thermal_throttle; do \
    if [ -d $p ]; then [ -z \"$(ls -A $p 2>/dev/null)\" ] || echo $p; elif [ -e $p ]; then [ -z \"$(head -c 10 $p 2>/dev/null)\" ] || echo $p; fi; done";

async fn ghsa_7ww5_the_power_meter_is_masked(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("default", MASKED);
    // Without a security context, the request does not say what to mask.
    config.linux = None;
    let said = pod.says(config).await?;
    // In that case the built-in masks nothing.
    ensure!(said.is_empty() || scope.bed.target == Target::Builtin, "seen by default: {said}");
    let mut config = shell("given", MASKED);
    security(&mut config).masked_paths = vec!["/proc/interrupts".into()];
    let said = pod.says(config).await?;
    ensure!(!said.contains("interrupts") && said.contains("/proc/keys"), "with a list of one: {said}");
    let mut config = shell("none", MASKED);
    security(&mut config).masked_paths = Vec::new();
    let said = pod.says(config).await?;
    ensure!(said.contains("/proc/interrupts"), "with an empty list: {said}");
    Ok(())
}

async fn x3_one_daemon_a_socket(scope: Arc<Scope>) -> Outcome {
    let socket = scope.bed.dir.join("pontoon.sock");
    ensure!(mode(&socket)? == 0o660, "the socket has {:o}", mode(&socket)?);
    let config = scope.bed.dir.join("pontoon.toml");
    let second = scope.bed.daemon_program().arg("serve").arg("--config").arg(&config).output();
    let second =
        tokio::time::timeout(Duration::from_secs(20) * *SLOWNESS, second).await.context("a second one runs")??;
    let said = String::from_utf8_lossy(&second.stderr).into_owned() + &String::from_utf8_lossy(&second.stdout);
    ensure!(!second.status.success() && said.contains("another pontoon serves"), "{said}");
    scope.pods().await.context("the first one")?;
    one_daemon_a_namespace(&scope).await?;
    // After a kill the socket file remains. It must not prevent the next start.
    scope.bed.daemon("daemon", "kill").await?;
    ensure!(socket.exists(), "the socket went by itself");
    scope.bed.daemon("daemon", "start").await?;
    scope.pods().await.map(drop)
}

/// A second daemon is also refused if it has its own socket and directories.
async fn one_daemon_a_namespace(scope: &Scope) -> Outcome {
    let elsewhere = scope.dir().join("elsewhere");
    let mut second = scope.bed.daemon_program();
    second.arg("serve").arg("--config").arg(scope.bed.dir.join("pontoon.toml"));
    for (flag, name) in [("--socket", "pontoon.sock"), ("--root", "root"), ("--state", "state")] {
        second.arg(flag).arg(elsewhere.join(name));
    }
    let second = tokio::time::timeout(Duration::from_secs(20) * *SLOWNESS, second.output()).await;
    let second = second.context("a second one runs in the namespace")??;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let refusal = format!("another pontoon (pid {}) serves the namespace k8s.io", scope.bed.pid("pontoon")?);
    ensure!(!second.status.success() && said.contains(&refusal), "{said}");
    scope.pods().await.context("the first one").map(drop)
}

async fn x6_paths_of_mounts_are_checked(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let volume = scope.volume("volume")?;
    std::fs::write(volume.join("file"), "content")?;
    // The path is normalized, and stays inside the container.
    let said =
        pod.says(mounting("dots", bind(&volume, "/mnt/../../../inside/./here"), "cat /inside/here/file")).await?;
    ensure!(said == "content", "{said}");
    // A host path that does not exist is created.
    let missing = scope.dir().join("not/there");
    pod.says(mounting("missing", bind(&missing, "/missing"), "ls /missing")).await?;
    ensure!(mode(&missing)? == 0o755, "{:o}", mode(&missing)?);
    let refusals: [(&str, v1::Mount); 2] = [
        ("recursive_read_only", v1::Mount { recursive_read_only: true, ..bind(&volume, "/mnt") }),
        (
            "recursive_read_only",
            v1::Mount {
                readonly: true,
                recursive_read_only: true,
                propagation: MountPropagation::PropagationHostToContainer.into(),
                ..bind(&volume, "/mnt")
            },
        ),
    ];
    for (number, (field, mount)) in refusals.into_iter().enumerate() {
        let result = create_and_start(&scope, &pod, mounting(&format!("c{number}"), mount, "true")).await;
        refused(&scope, result, Code::InvalidArgument, field)?;
    }
    x6_propagation(&scope, &volume).await
}

/// Mounts below a private mount of the host do not propagate. A request for propagation must not succeed there.
async fn x6_propagation(scope: &Arc<Scope>, volume: &Path) -> Outcome {
    let mut config = scope.pod_config();
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let pod = scope.run(config).await?;
    let private = OnItself::mount(volume, "--make-private")?;
    for (number, propagation) in
        [MountPropagation::PropagationBidirectional, MountPropagation::PropagationHostToContainer]
            .into_iter()
            .enumerate()
    {
        let mount = v1::Mount { propagation: propagation.into(), ..bind(private.path(), "/mnt") };
        let mut config = mounting(&format!("p{number}"), mount, "true");
        security(&mut config).privileged = true;
        let result = create_and_start(scope, &pod, config).await;
        refused(scope, result, Code::InvalidArgument, "propagation").with_context(|| format!("{propagation:?}"))?;
    }
    Ok(())
}

async fn x8_a_profile_outside_the_roots_is_an_error(scope: Arc<Scope>) -> Outcome {
    use v1::security_profile::ProfileType;
    let pod = scope.pod().await?;
    let (inside, outside) = (scope.volume("profiles")?, scope.bed.dir.join(format!("x8-{}", std::process::id())));
    std::fs::write(inside.join("good.json"), r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#)?;
    std::fs::create_dir(&outside)?;
    std::fs::copy(inside.join("good.json"), outside.join("good.json"))?;
    std::os::unix::fs::symlink(&outside, inside.join("link"))?;
    std::os::unix::fs::symlink("good.json", inside.join("same.json"))?;
    let run = async |name: &str, path: &Path| {
        let mut config = shell(name, "grep Seccomp: /proc/self/status");
        let localhost_ref = path.display().to_string();
        security(&mut config).seccomp =
            Some(v1::SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref });
        create_and_start(&scope, &pod, config).await
    };
    run("inside", &inside.join("good.json")).await?;
    run("linked", &inside.join("same.json")).await?;
    let results = [
        run("outside", &outside.join("good.json")).await,
        run("link", &inside.join("link/good.json")).await,
        run("root", Path::new("/etc/passwd")).await,
    ];
    std::fs::remove_dir_all(&outside)?;
    for result in results {
        refused(&scope, result, Code::InvalidArgument, "seccomp_profile_roots")?;
    }
    Ok(())
}

async fn x8_a_profile_that_is_not_there_is_an_error(scope: Arc<Scope>) -> Outcome {
    use v1::security_profile::ProfileType;
    let pod = scope.pod().await?;
    let absent = absent(&scope, "profile.json");
    let climbing = format!("{}/../../x/{}", scope.dir().display(), "profile.json");
    for (number, reference) in
        [absent.display().to_string(), climbing, "profile.json".into(), String::new()].into_iter().enumerate()
    {
        let mut config = shell(&format!("c{number}"), "grep Seccomp: /proc/self/status");
        security(&mut config).seccomp =
            Some(v1::SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref: reference.clone() });
        let result = create_and_start(&scope, &pod, config).await;
        refused(&scope, result, Code::InvalidArgument, "seccomp").with_context(|| reference)?;
    }
    if Path::new("/sys/kernel/security/apparmor").exists() {
        let mut config = shell("apparmor", "true");
        security(&mut config).apparmor = Some(v1::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: "no-such-profile".into(),
        });
        let Err(error) = create_and_start(&scope, &pod, config).await else { bail!("it ran without its profile") };
        ensure!(format!("{error:#}").contains("no-such-profile"), "{error:#}");
    }
    Ok(())
}
