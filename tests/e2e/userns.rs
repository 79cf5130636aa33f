//! Pods in user namespaces: root in such a pod is an unprivileged user on the node.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerConfig, IdMapping, NamespaceMode, PodSandboxConfig, UserNamespace};

use crate::bed::{BUSYBOX, Bed, Target, image_spec, output};
use crate::harness::{Outcome, Test, rule};
use crate::images::layer_of;
use crate::node::Node;
use crate::registry::{Registry, Says};
use crate::scope::{Pod, Scope, cgroup_hierarchies, resources, security, shell, sleeper};

pub fn tests() -> Vec<Test> {
    let all = vec![
        rule!(the_handler_says_that_it_has_user_namespaces),
        rule!(root_within_is_nobody_on_the_node),
        rule!(what_the_image_and_the_pod_have_belongs_to_root),
        rule!(a_user_within_writes_to_its_own_streams),
        rule!(root_owns_the_network),
        rule!(with_the_nodes_network_sys_is_the_nodes_and_read_only),
        rule!(an_id_mapped_mount_shows_the_nodes_root_as_root),
        rule!(an_images_volume_has_its_owners),
        rule!(an_image_that_is_mounted_has_its_owners),
        rule!(an_image_is_mounted_with_its_pods_ids_alone).only_pontoon("the built-in takes any"),
        rule!(cve_2025_47291_limits_hold_in_the_pods_cgroup),
        rule!(only_the_request_maps_ids),
        rule!(containers_of_the_pod_share_it),
        rule!(r12_limits_of_users_are_set_in_the_pods_namespace_only),
        rule!(a_container_that_is_not_in_its_pods_is_an_error),
        rule!(the_nodes_pid_or_ipc_namespace_is_an_error),
        rule!(a_user_that_is_not_mapped_is_an_error),
        rule!(few_ids_are_enough).only_pontoon("its pause image's user 65535 has to be mapped"),
        rule!(nothing_of_it_is_left).alone(),
        rule!(a_restart_of_the_daemon_changes_nothing)
            .alone()
            .only_pontoon("the built-in CRI is containerd: it cannot be killed alone"),
    ];
    all.into_iter().map(|test| test.only_if(can_map_ids(), "the kernel maps no ids of a tmpfs")).collect()
}

/// Whether the layers of images can be id-mapped on the file system of the beds. On a tmpfs they can since Linux 6.3.
fn can_map_ids() -> bool {
    const TMPFS: i64 = 0x0102_1994;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    kernel >= (6, 3) || rustix::fs::statfs("/var/tmp").is_ok_and(|found| found.f_type != TMPFS)
}

/// The first uid and the first gid on the node that the pods' ids are mapped to.
const UIDS: u32 = 200_000;
const GIDS: u32 = 300_000;
const LENGTH: u32 = 65_536;

fn options(length: u32) -> Option<UserNamespace> {
    let ids = |host_id| vec![IdMapping { host_id, container_id: 0, length }];
    Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids(UIDS), gids: ids(GIDS) })
}

/// The namespace options in a pod's configuration, to be changed.
fn of_pod(config: &mut PodSandboxConfig) -> &mut v1::NamespaceOption {
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default()
}

/// Runs a pod in a user namespace.
async fn pod(scope: &Scope) -> anyhow::Result<Pod> {
    pod_with(scope, |_| ()).await
}

async fn pod_with(scope: &Scope, change: impl FnOnce(&mut PodSandboxConfig)) -> anyhow::Result<Pod> {
    let mut config = scope.pod_config();
    of_pod(&mut config).userns_options = options(LENGTH);
    change(&mut config);
    scope.run(config).await
}

/// The container's configuration with the namespace options of the pod.
fn within(pod: &Pod, mut config: ContainerConfig) -> ContainerConfig {
    security(&mut config).namespace_options = Some(of_pod(&mut pod.config.clone()).clone());
    config
}

/// The values of a key in the text of `/proc/PID/status`.
fn field(status: &str, key: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

async fn on_node(bed: &Bed, id: &str) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{}/status", bed.pid_of(id).await?))?)
}

async fn the_handler_says_that_it_has_user_namespaces(scope: Arc<Scope>) -> Outcome {
    let status = scope.bed.runtime().status(v1::StatusRequest { verbose: false }).await?.into_inner();
    let default = status.runtime_handlers.iter().find(|handler| handler.name.is_empty()).context("no default")?;
    ensure!(default.features.is_some_and(|features| features.user_namespaces), "{default:?}");
    ensure!(status.features.is_some_and(|features| features.user_namespaces_host_network), "{:?}", status.features);
    Ok(())
}

async fn root_within_is_nobody_on_the_node(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let id = pod.start(within(&pod, sleeper("main"))).await?;
    let maps = scope.bed.sh(&id, "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map").await?;
    let words: Vec<&str> = maps.split_whitespace().collect();
    ensure!(words == ["0", "0", "0", "200000", "65536", "0", "300000", "65536"], "{maps}");
    let status = on_node(&scope.bed, &id).await?;
    ensure!(field(&status, "Uid") == ["200000"; 4] && field(&status, "Gid") == ["300000"; 4], "{status}");
    // CRI reports the user as the container sees it.
    let user = scope.bed.status(&id).await?.user.and_then(|user| user.linux).context("no user")?;
    ensure!(user.uid == 0 && user.gid == 0, "{user:?}");
    let shown = pod.status().await?.status.and_then(|status| status.linux?.namespaces?.options);
    ensure!(shown.and_then(|shown| shown.userns_options) == options(LENGTH), "not in the pod's status");
    Ok(())
}

async fn what_the_image_and_the_pod_have_belongs_to_root(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let script = "stat -c '%n %u:%g' /bin/sh /etc/hostname /etc/hosts /etc/resolv.conf; \
                  echo more >>/etc/hosts; touch /mine /dev/shm/mine; chown 33:33 /mine; stat -c '%n %u:%g' /mine";
    let said = pod.says(within(&pod, shell("main", script))).await?;
    let foreign: Vec<&str> = said.lines().filter(|line| !line.ends_with(" 0:0")).collect();
    ensure!(foreign == ["/mine 33:33"], "{said}");
    Ok(())
}

async fn a_user_within_writes_to_its_own_streams(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let mut config = within(&pod, shell("main", "echo out >/dev/stdout; echo err >/dev/stderr"));
    security(&mut config).run_as_user = Some(v1::Int64Value { value: 1000 });
    let said = pod.says(config).await?;
    ensure!(said.contains("out") && said.contains("err"), "{said}");
    Ok(())
}

async fn root_owns_the_network(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let script = "ip addr add 192.0.2.9/32 dev lo && ip addr show dev lo; stat -c %u /proc/sys/net/ipv4/ip_forward \
                  /sys/class/net/lo/mtu; cat /proc/sys/net/ipv4/ping_group_range";
    let mut config = within(&pod, shell("main", script));
    let add = vec!["NET_ADMIN".to_owned()];
    security(&mut config).capabilities = Some(v1::Capability { add_capabilities: add, ..Default::default() });
    let said = pod.says(config).await?;
    ensure!(said.contains("192.0.2.9") && said.contains("\n0\n0\n"), "{said}");
    // Most groups of the usual range are not mapped in the namespace, so runc could not set that range.
    ensure!(!said.contains("2147483647"), "ping_group_range: {said}");
    Ok(())
}

async fn with_the_nodes_network_sys_is_the_nodes_and_read_only(scope: Arc<Scope>) -> Outcome {
    let pod = pod_with(&scope, |config| of_pod(config).network = NamespaceMode::Node.into()).await?;
    let id = pod.start(within(&pod, sleeper("main"))).await?;
    // On cgroup v1, runc leaves the container's own, empty tmpfs on /sys/fs/cgroup writable; `grep -v uid=200000`
    // excludes it.
    let script =
        "id -u; readlink /proc/self/ns/net; grep ' /sys[^ ]* rw' /proc/self/mountinfo | grep -v uid=200000 | wc -l";
    let said = scope.bed.sh(&id, script).await?;
    let node = std::fs::read_link("/proc/self/ns/net")?.display().to_string();
    ensure!(said.split_whitespace().eq(["0", &node, "0"]), "{said}");
    let status = on_node(&scope.bed, &id).await?;
    ensure!(field(&status, "Uid")[0] == "200000", "{status}");
    let written = scope.bed.exec(&id, &["sh", "-c", "echo 1 >/sys/kernel/profiling"], 20).await?;
    ensure!(written.stderr.contains("Read-only file system"), "{written:?}");
    Ok(())
}

async fn an_id_mapped_mount_shows_the_nodes_root_as_root(scope: Arc<Scope>) -> Outcome {
    let (mapped, plain) = (scope.volume("mapped")?, scope.volume("plain")?);
    for volume in [&mapped, &plain] {
        std::fs::write(volume.join("of-root"), "")?;
        std::os::unix::fs::chown(volume.join("of-root"), Some(5), Some(6))?;
    }
    let pod = pod(&scope).await?;
    let script = "stat -c '%u:%g' /mapped/of-root /plain/of-root; touch /mapped/new /plain/new; chown 7:8 /mapped/new";
    let mut config = within(&pod, shell("main", script));
    let mount = |host: &Path, container: &str| v1::Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        ..Default::default()
    };
    let UserNamespace { uids, gids, .. } = options(LENGTH).unwrap_or_default();
    config.mounts = vec![
        v1::Mount { uid_mappings: uids, gid_mappings: gids, ..mount(&mapped, "/mapped") },
        mount(&plain, "/plain"),
    ];
    let said = pod.says(config).await?;
    ensure!(said == "5:6\n65534:65534\n", "{said}");
    let owner = |path: std::path::PathBuf| std::fs::metadata(path).map(|file| (file.uid(), file.gid()));
    ensure!(owner(mapped.join("new"))? == (7, 8), "{:?}", owner(mapped.join("new"))?);
    ensure!(owner(plain.join("new"))? == (UIDS, GIDS), "{:?}", owner(plain.join("new"))?);
    Ok(())
}

async fn an_images_volume_has_its_owners(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let root = scope.volume("image")?;
    for dir in ["bin", "data"] {
        std::fs::create_dir(root.join(dir))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    std::fs::write(root.join("data/file"), "")?;
    std::os::unix::fs::chown(root.join("data/file"), Some(33), Some(44))?;
    let (layer, diff_id) = layer_of(&scope, &root, &["--numeric-owner"]).await?;
    let says = Says { config: serde_json::json!({"Volumes": {"/data": {}}}), ..Says::default() };
    let image = registry.image_that_says("volume", &layer, &diff_id, &says)?;
    scope.bed.pull(&image).await?;
    let pod = pod(&scope).await?;
    let script =
        "cd /data; stat -c '%n %u:%g' . file; touch new; stat -c '%n %u:%g' new; grep -c ' /data ' /proc/mounts";
    let mut config = within(&pod, shell("main", script));
    config.image = Some(image_spec(&image));
    config.command.insert(0, "/bin/busybox".to_owned());
    // The shell of busybox runs the other applets by their names.
    config.envs = vec![v1::KeyValue { key: "PATH".into(), value: "/bin".into() }];
    let said = pod.says(config).await;
    scope.remove_pods().await?;
    scope.bed.remove_image(&image).await?;
    ensure!(said? == ". 0:0\nfile 33:44\nnew 0:0\n1\n");
    Ok(())
}

/// A mount of an image with the pod's id mapping, as kubelet requests it.
fn mounted(image: &str, path: &str, sub_path: &str) -> v1::Mount {
    let UserNamespace { uids, gids, .. } = options(LENGTH).unwrap_or_default();
    v1::Mount {
        container_path: path.to_owned(),
        readonly: true,
        image: Some(image_spec(image)),
        image_sub_path: sub_path.to_owned(),
        uid_mappings: uids,
        gid_mappings: gids,
        ..Default::default()
    }
}

async fn an_image_that_is_mounted_has_its_owners(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let root = scope.volume("image")?;
    std::fs::create_dir(root.join("data"))?;
    for (name, owner) in [("root", 0), ("file", 33)] {
        std::fs::write(root.join("data").join(name), "")?;
        std::os::unix::fs::chown(root.join("data").join(name), Some(owner), Some(owner + 11))?;
    }
    let (layer, diff_id) = layer_of(&scope, &root, &["--numeric-owner"]).await?;
    let image = registry.image("mounted", &layer, &diff_id)?;
    scope.bed.pull(&image).await?;
    let pod = pod(&scope).await?;
    let script =
        "stat -c '%n %u:%g' /whole/data /whole/data/root /whole/data/file /part/file; touch /part/new 2>&1; true";
    let mut config = within(&pod, shell("main", script));
    config.mounts = vec![mounted(&image, "/whole", ""), mounted(&image, "/part", "data")];
    let said = pod.says(config).await?;
    let owners = "/whole/data 0:0\n/whole/data/root 0:11\n/whole/data/file 33:44\n/part/file 33:44\n";
    ensure!(said.starts_with(owners) && said.contains("Read-only file system"), "{said}");
    // The snapshot itself has not changed: without a mapping the mount shows the same owners.
    let mut plain = shell("plain", "stat -c '%n %u:%g' /whole/data/file");
    plain.mounts =
        vec![v1::Mount { uid_mappings: Vec::new(), gid_mappings: Vec::new(), ..mounted(&image, "/whole", "") }];
    let said = scope.pod().await?.says(plain).await?;
    ensure!(said == "/whole/data/file 33:44\n", "{said}");
    scope.remove_pods().await?;
    scope.bed.remove_image(&image).await
}

async fn an_image_is_mounted_with_its_pods_ids_alone(scope: Arc<Scope>) -> Outcome {
    let (mapped, plain) = (pod(&scope).await?, scope.pod().await?);
    let other = |mount: v1::Mount| {
        let uids = vec![IdMapping { host_id: 0, container_id: 0, length: LENGTH }];
        v1::Mount { uid_mappings: uids, ..mount }
    };
    for (pod, mut config, mount) in [
        (&mapped, within(&mapped, sleeper("main")), other(mounted(BUSYBOX, "/a", ""))),
        (&plain, sleeper("main"), mounted(BUSYBOX, "/a", "")),
    ] {
        config.mounts = vec![mount];
        let Err(error) = pod.create(config).await else { bail!("it was taken") };
        ensure!(format!("{error:#}").contains("config.mounts[0].uidMappings"), "{error:#}");
    }
    Ok(())
}

/// CVE-2025-47291: containerd placed containers with a user namespace outside the pod's cgroup.
async fn cve_2025_47291_limits_hold_in_the_pods_cgroup(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let mut config = within(&pod, sleeper("main"));
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    let id = pod.start(config).await?;
    let parent = &pod.config.linux.as_ref().context("linux")?.cgroup_parent;
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", scope.bed.pid_of(&id).await?))?;
    let wanted = format!("{parent}/{id}");
    let limited = cgroups
        .lines()
        .filter(|line| line.contains(":memory:") || line.starts_with("0::") && !cgroups.contains(":memory:"));
    let limited: Vec<&str> = limited.collect();
    ensure!(limited.len() == 1 && limited[0].ends_with(&wanted), "{cgroups}");
    let limits = cgroup_hierarchies().into_iter().flat_map(|root| {
        let cgroup = root.join(wanted.trim_start_matches('/'));
        [cgroup.join("memory.limit_in_bytes"), cgroup.join("memory.max")]
    });
    let limits: Vec<String> = limits.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    ensure!(limits == ["67108864\n"], "{limits:?}");
    Ok(())
}

/// The labels of a container's snapshot.
async fn snapshot_labels(bed: &Bed, id: &str) -> anyhow::Result<serde_json::Value> {
    let info: serde_json::Value = serde_json::from_str(&bed.ctr(&["snapshots", "info", id]).await?)?;
    Ok(info["Labels"].clone())
}

const LABELS: [&str; 2] = ["containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"];

/// A tenant chooses the annotations and labels of a pod. If they became labels of the snapshot, the layer's files would
/// belong to another user.
async fn only_the_request_maps_ids(scope: Arc<Scope>) -> Outcome {
    let texts: std::collections::HashMap<_, _> = LABELS.map(|label| (label.to_owned(), "0:1000:1".to_owned())).into();
    let mut config = scope.pod_config();
    config.annotations = texts.clone();
    config.labels.extend(texts.clone());
    let plain = scope.run(config).await?;
    let mut config = sleeper("main");
    config.annotations = texts.clone();
    config.labels.extend(texts.clone());
    let id = plain.start(config).await?;
    let labels = snapshot_labels(&scope.bed, &id).await?;
    ensure!(LABELS.iter().all(|label| labels.get(label).is_none()), "{labels}");
    ensure!(scope.bed.sh(&id, "stat -c %u:%g /; touch /new; stat -c %u:%g /new").await? == "0:0\n0:0");
    let status = on_node(&scope.bed, &id).await?;
    ensure!(field(&status, "Uid") == ["0"; 4], "{status}");

    let pod = pod_with(&scope, |config| config.annotations = texts.clone()).await?;
    let mut config = within(&pod, sleeper("main"));
    config.annotations = texts;
    let id = pod.start(config).await?;
    let labels = snapshot_labels(&scope.bed, &id).await?;
    ensure!(labels[LABELS[0]] == "0:200000:65536" && labels[LABELS[1]] == "0:300000:65536", "{labels}");
    Ok(())
}

async fn containers_of_the_pod_share_it(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let mut namespaces = Vec::new();
    for name in ["one", "two"] {
        let id = pod.start(within(&pod, sleeper(name))).await?;
        let pid = scope.bed.pid_of(&id).await?;
        namespaces.push(std::fs::read_link(format!("/proc/{pid}/ns/user"))?);
    }
    ensure!(namespaces[0] == namespaces[1] && namespaces[0] != std::fs::read_link("/proc/self/ns/user")?);
    Ok(())
}

async fn r12_limits_of_users_are_set_in_the_pods_namespace_only(scope: Arc<Scope>) -> Outcome {
    const KEY: &str = "user.max_user_namespaces";
    let file = "/proc/sys/user/max_user_namespaces";
    let before = std::fs::read_to_string(file)?;
    let limited = |config: &mut PodSandboxConfig| {
        config.linux.get_or_insert_default().sysctls = [(KEY.to_owned(), "7".to_owned())].into();
    };
    let pod = pod_with(&scope, limited).await?;
    let said = pod.says(within(&pod, shell("main", &format!("cat {file}")))).await?;
    ensure!(said.trim() == "7", "{said}");
    let mut on_host = scope.pod_config();
    limited(&mut on_host);
    ensure!(scope.run(on_host).await.is_err(), "it runs in the node's user namespace");
    ensure!(std::fs::read_to_string(file)? == before, "the node's limit has changed");
    Ok(())
}

async fn a_container_that_is_not_in_its_pods_is_an_error(scope: Arc<Scope>) -> Outcome {
    let (pod, plain) = (pod(&scope).await?, scope.pod().await?);
    let Err(error) = pod.create(sleeper("main")).await else { bail!("it is on the node's ids") };
    ensure!(format!("{error:#}").contains("user"), "{error:#}");
    let Err(error) = plain.create(within(&pod, sleeper("main"))).await else { bail!("it is in another namespace") };
    ensure!(format!("{error:#}").contains("user"), "{error:#}");
    Ok(())
}

async fn the_nodes_pid_or_ipc_namespace_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pid = pod_with(&scope, |config| of_pod(config).pid = NamespaceMode::Node.into()).await;
    ensure!(pid.is_err(), "with the node's processes");
    let ipc = pod_with(&scope, |config| of_pod(config).ipc = NamespaceMode::Node.into()).await;
    ensure!(ipc.is_err(), "with the node's IPC");
    Ok(())
}

async fn a_user_that_is_not_mapped_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let mut config = within(&pod, sleeper("main"));
    security(&mut config).run_as_user = Some(v1::Int64Value { value: i64::from(LENGTH) });
    let Err(error) = pod.start(config).await else { bail!("it ran") };
    ensure!(!format!("{error:#}").is_empty());
    Ok(())
}

async fn few_ids_are_enough(scope: Arc<Scope>) -> Outcome {
    let pod = pod_with(&scope, |config| of_pod(config).userns_options = options(2)).await?;
    let said = pod.says(within(&pod, shell("main", "cat /proc/self/uid_map"))).await?;
    ensure!(said.split_whitespace().eq(["0", "200000", "2"]), "{said}");
    Ok(())
}

async fn nothing_of_it_is_left(scope: Arc<Scope>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    for network in [NamespaceMode::Pod, NamespaceMode::Node] {
        let pod = pod_with(&scope, |config| of_pod(config).network = network.into()).await?;
        pod.start(within(&pod, sleeper("main"))).await?;
        pod.stop().await?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let pinned: Vec<_> = mounts.lines().filter(|line| line.contains(&pod.id) && line.contains("nsfs")).collect();
        // The built-in unmounts its namespace only in RemovePodSandbox.
        ensure!(pinned.is_empty() || scope.bed.target == Target::Builtin, "{pinned:?}");
        pod.remove().await?;
    }
    let refused = pod_with(&scope, |config| of_pod(config).userns_options = options(0)).await;
    ensure!(refused.is_err());
    scope.remove_pods().await?;
    before.is_back(&scope.bed).await
}

async fn a_restart_of_the_daemon_changes_nothing(scope: Arc<Scope>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    let pod = pod(&scope).await?;
    let id = pod.start(within(&pod, sleeper("before"))).await?;
    for verb in ["kill", "start"] {
        output(scope.bed.script("bed.sh").args(["daemon", &scope.bed.name, verb])).await?;
    }
    let map = scope.bed.sh(&id, "cat /proc/self/uid_map").await?;
    ensure!(map.split_whitespace().eq(["0", "200000", "65536"]), "{map}");
    let said = pod.says(within(&pod, shell("after", "cat /proc/self/uid_map; stat -c %u /bin/sh /etc/hosts"))).await?;
    ensure!(said.split_whitespace().eq(["0", "200000", "65536", "0", "0"]), "{said}");
    pod.stop().await?;
    scope.remove_pods().await?;
    before.is_back(&scope.bed).await
}
