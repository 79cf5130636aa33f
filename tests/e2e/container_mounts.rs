//! Mounts of a container: volumes, propagation, options.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::MountPropagation;

use crate::bed::{SOON, output, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, security, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_volume_is_read_and_written),
        rule!(a_read_only_volume_cannot_be_written),
        rule!(a_file_and_a_link_can_be_mounted),
        rule!(a_missing_host_path_is_made),
        rule!(a_mount_over_hosts_wins_over_the_pods),
        rule!(nested_mounts_are_made_from_the_outside_in),
        rule!(private_mounts_do_not_come_through),
        rule!(mounts_of_the_node_come_through_with_host_to_container),
        rule!(mounts_of_a_container_go_out_with_bidirectional),
        rule!(mounts_are_in_the_status),
        rule!(options_are_applied).only_pontoon("the built-in does not know mount_options yet"),
    ]
}

fn mount(host: &Path, container: &str) -> v1::Mount {
    v1::Mount { host_path: host.display().to_string(), container_path: container.to_owned(), ..Default::default() }
}

async fn a_volume_is_read_and_written(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    std::fs::write(volume.join("in"), "from the node")?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "cat /data/in; echo from inside >/data/out");
    config.mounts = vec![mount(&volume, "/data")];
    let said = pod.says(config).await?;
    ensure!(said.trim() == "from the node", "{said}");
    ensure!(std::fs::read_to_string(volume.join("out"))? == "from inside\n");
    Ok(())
}

async fn a_read_only_volume_cannot_be_written(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "touch /data/file 2>&1 || true");
    config.mounts = vec![v1::Mount { readonly: true, ..mount(&volume, "/data") }];
    let said = pod.says(config).await?;
    ensure!(said.contains("Read-only file system"), "{said}");
    ensure!(std::fs::read_dir(&volume)?.next().is_none(), "something was written");
    Ok(())
}

async fn a_file_and_a_link_can_be_mounted(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    std::fs::write(volume.join("file"), "a file\n")?;
    std::os::unix::fs::symlink("file", volume.join("link"))?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "cat /a/file /a/link");
    config.mounts = vec![mount(&volume.join("file"), "/a/file"), mount(&volume.join("link"), "/a/link")];
    let said = pod.says(config).await?;
    ensure!(said == "a file\na file\n", "{said}");
    Ok(())
}

async fn a_missing_host_path_is_made(scope: Arc<Scope>) -> Outcome {
    let missing = scope.volume("data")?.join("not/there");
    let pod = scope.pod().await?;
    let mut config = shell("main", "stat -c %F:%a /data");
    config.mounts = vec![mount(&missing, "/data")];
    let said = pod.says(config).await?;
    ensure!(said == "directory:755\n" && missing.is_dir(), "{said}");
    Ok(())
}

async fn a_mount_over_hosts_wins_over_the_pods(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    std::fs::write(volume.join("hosts"), "192.0.2.7 mine\n")?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "cat /etc/hosts; grep -c ' /etc/hosts ' /proc/mounts");
    config.mounts = vec![mount(&volume.join("hosts"), "/etc/hosts")];
    let said = pod.says(config).await?;
    ensure!(said == "192.0.2.7 mine\n1\n", "{said}");
    Ok(())
}

async fn nested_mounts_are_made_from_the_outside_in(scope: Arc<Scope>) -> Outcome {
    let (outer, inner) = (scope.volume("outer")?, scope.volume("inner")?);
    std::fs::create_dir_all(outer.join("sub"))?;
    std::fs::write(outer.join("sub/file"), "outer")?;
    std::fs::write(inner.join("file"), "inner")?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "cat /data/sub/file");
    config.mounts = vec![mount(&inner, "/data/sub"), mount(&outer, "/data")];
    let said = pod.says(config).await?;
    ensure!(said.trim() == "inner", "{said}");
    Ok(())
}

/// A directory that is a shared mount until this is dropped.
struct SharedMount(std::path::PathBuf);

impl SharedMount {
    async fn new(dir: std::path::PathBuf) -> anyhow::Result<Self> {
        let path = dir.display().to_string();
        output(tokio::process::Command::new("mount").args(["--bind", &path, &path])).await?;
        let mount = Self(dir);
        output(tokio::process::Command::new("mount").args(["--make-shared", &path])).await?;
        Ok(mount)
    }

    /// Mounts a tmpfs with a file in it below the directory, on the node.
    async fn add(&self, name: &str) -> anyhow::Result<()> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path)?;
        output(tokio::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&path)).await?;
        Ok(std::fs::write(path.join("file"), "from the node")?)
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let below = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut paths: Vec<&str> = below.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        paths.retain(|path| Path::new(path).starts_with(&self.0));
        paths.sort_unstable();
        for path in paths.iter().rev() {
            let _ = std::process::Command::new("umount").args(["--lazy", path]).status();
        }
    }
}

async fn private_mounts_do_not_come_through(scope: Arc<Scope>) -> Outcome {
    let shared = SharedMount::new(scope.volume("shared")?).await?;
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.mounts = vec![mount(&shared.0, "/data")];
    let id = pod.start(config).await?;
    shared.add("later").await?;
    let said = scope.bed.sh(&id, "ls /data/later | wc -l").await?;
    ensure!(said == "0", "a later mount of the node came through");
    pod.remove().await
}

async fn mounts_of_the_node_come_through_with_host_to_container(scope: Arc<Scope>) -> Outcome {
    let shared = SharedMount::new(scope.volume("shared")?).await?;
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    let propagation = MountPropagation::PropagationHostToContainer.into();
    config.mounts = vec![v1::Mount { propagation, ..mount(&shared.0, "/data") }];
    let id = pod.start(config).await?;
    shared.add("later").await?;
    let said = scope.bed.sh(&id, "cat /data/later/file").await?;
    ensure!(said == "from the node", "{said}");
    pod.remove().await
}

async fn mounts_of_a_container_go_out_with_bidirectional(scope: Arc<Scope>) -> Outcome {
    let shared = SharedMount::new(scope.volume("shared")?).await?;
    let mut config = scope.pod_config();
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = scope.run(config).await?;
    let mut config = sleeper("main");
    security(&mut config).privileged = true;
    let propagation = MountPropagation::PropagationBidirectional.into();
    config.mounts = vec![v1::Mount { propagation, ..mount(&shared.0, "/data") }];
    let id = pod.start(config).await?;
    scope.bed.sh(&id, "mkdir /data/inside && mount -t tmpfs none /data/inside && echo out >/data/inside/file").await?;
    let file = shared.0.join("inside/file");
    until(SOON, || async { std::fs::read_to_string(&file).with_context(|| file.display().to_string()) }).await?;
    pod.remove().await
}

async fn mounts_are_in_the_status(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.mounts = vec![v1::Mount { readonly: true, ..mount(&volume, "/data") }];
    let expected = config.mounts.clone();
    let id = pod.start(config).await?;
    let mounts = scope.bed.status(&id).await?.mounts;
    let found = mounts.iter().find(|mount| mount.container_path == "/data");
    ensure!(found.is_some_and(|m| m.host_path == expected[0].host_path && m.readonly), "{mounts:?}");
    Ok(())
}

async fn options_are_applied(scope: Arc<Scope>) -> Outcome {
    let volume = scope.volume("data")?;
    let program = volume.join("program");
    std::fs::write(&program, "#!/bin/sh\necho it ran\n")?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let pod = scope.pod().await?;
    let mut config = shell("main", "grep ' /data ' /proc/mounts; /data/program 2>&1; /plain/program");
    let mount_options = ["nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
    config.mounts = vec![v1::Mount { mount_options, ..mount(&volume, "/data") }, mount(&volume, "/plain")];
    let said = pod.says(config).await?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(["nosuid", "nodev", "noexec"].iter().all(|option| lines[0].contains(option)), "{said}");
    ensure!(lines[1].ends_with("Permission denied") && lines[2..] == ["it ran"], "{said}");
    Ok(())
}
