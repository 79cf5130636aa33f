//! Pods: namespaces, files, cgroups, metadata, lifecycle.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{NamespaceMode, PodSandboxState};

use crate::bed::{SOON, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, cgroup_hierarchies, namespaces, security, shell, sleeper};
use crate::shim::shim_of;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(containers_of_a_pod_share_net_ipc_and_uts),
        rule!(a_pod_has_one_shim),
        rule!(with_pid_mode_container_each_has_pids_of_its_own),
        rule!(with_pid_mode_pod_they_see_each_other_and_pause_is_first),
        rule!(with_pid_mode_node_they_see_the_node),
        rule!(with_pid_mode_target_a_container_joins_another),
        rule!(hostname_is_the_pods),
        rule!(hosts_file_names_localhost_and_is_shared),
        rule!(resolv_conf_is_made_of_dns_config),
        rule!(without_dns_config_resolv_conf_is_the_nodes),
        rule!(dev_shm_is_64_mib_and_shared),
        rule!(cgroups_are_below_the_cgroup_parent),
        rule!(sysctls_are_set),
        rule!(labels_annotations_and_attempt_come_back_as_they_were),
        rule!(a_pods_status_is_complete),
        rule!(pods_are_listed_by_filter),
        rule!(the_same_pod_again_is_refused_or_the_same),
        rule!(stop_and_remove_can_be_repeated),
        rule!(a_stopped_pod_has_no_running_containers),
        rule!(removing_a_running_pod_removes_its_containers),
    ]
}

const NAMESPACES: &str = "for n in net ipc uts pid mnt; do echo $n $(readlink /proc/self/ns/$n); done";

/// The name and the identity of each namespace of a container.
async fn namespaces_of(scope: &Scope, id: &str) -> anyhow::Result<HashMap<String, String>> {
    let text = scope.bed.sh(id, NAMESPACES).await?;
    Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

async fn containers_of_a_pod_share_net_ipc_and_uts(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (one, two) = (pod.start(sleeper("one")).await?, pod.start(sleeper("two")).await?);
    let (one, two) = (namespaces_of(&scope, &one).await?, namespaces_of(&scope, &two).await?);
    for shared in ["net", "ipc", "uts"] {
        ensure!(one[shared] == two[shared], "{shared}: {} and {}", one[shared], two[shared]);
        let nodes = std::fs::read_link(format!("/proc/self/ns/{shared}"))?;
        ensure!(one[shared] != nodes.to_string_lossy(), "{shared} is the node's");
    }
    for own in ["pid", "mnt"] {
        ensure!(one[own] != two[own], "{own}: both {}", one[own]);
    }
    Ok(())
}

async fn a_pod_has_one_shim(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let shim = shim_of(&scope.bed, &pod.id).await?;
    for name in ["one", "two"] {
        let id = pod.start(sleeper(name)).await?;
        let its = shim_of(&scope.bed, &id).await?;
        ensure!(its == shim, "{name} has shim {its}, and the pod {shim}");
    }
    Ok(())
}

async fn with_pid_mode_container_each_has_pids_of_its_own(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let first = scope.bed.sh(&id, "tr '\\0' ' ' </proc/1/cmdline").await?;
    ensure!(first.starts_with("sh -c trap"), "pid 1 is {first}");
    Ok(())
}

async fn with_pid_mode_pod_they_see_each_other_and_pause_is_first(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let options = Some(namespaces(NamespaceMode::Pod, NamespaceMode::Pod));
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.clone_from(&options);
    let pod = scope.run(config).await?;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mut container = sleeper(name);
        security(&mut container).namespace_options.clone_from(&options);
        ids.push(pod.start(container).await?);
    }
    let (one, two) = (namespaces_of(&scope, &ids[0]).await?, namespaces_of(&scope, &ids[1]).await?);
    ensure!(one["pid"] == two["pid"], "pid: {} and {}", one["pid"], two["pid"]);
    let first = scope.bed.sh(&ids[0], "cat /proc/1/comm").await?;
    ensure!(first.starts_with("pause") || first == "tail", "pid 1 is {first}");
    let shells = scope.bed.sh(&ids[0], "ps -o args | grep -c '[t]rap .exit 0'").await?;
    ensure!(shells == "2", "{shells} containers are seen");
    Ok(())
}

async fn with_pid_mode_node_they_see_the_node(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let options = Some(namespaces(NamespaceMode::Pod, NamespaceMode::Node));
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.clone_from(&options);
    let pod = scope.run(config).await?;
    let mut container = sleeper("main");
    security(&mut container).namespace_options = options;
    let id = pod.start(container).await?;
    let seen = namespaces_of(&scope, &id).await?["pid"].clone();
    ensure!(seen == std::fs::read_link("/proc/self/ns/pid")?.to_string_lossy(), "{seen}");
    // The container has no pid namespace of its own, so its end does not kill its child processes: the CRI server must.
    scope.bed.stop(&id, 5).await
}

async fn with_pid_mode_target_a_container_joins_another(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let target = pod.start(sleeper("target")).await?;
    let mut debugger = sleeper("debugger");
    let options = security(&mut debugger).namespace_options.get_or_insert_default();
    options.pid = NamespaceMode::Target.into();
    options.target_id.clone_from(&target);
    let debugger = pod.start(debugger).await?;
    let (one, two) = (namespaces_of(&scope, &target).await?, namespaces_of(&scope, &debugger).await?);
    ensure!(one["pid"] == two["pid"], "pid: {} and {}", one["pid"], two["pid"]);
    Ok(())
}

async fn hostname_is_the_pods(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    config.hostname = "a-name-of-its-own".to_owned();
    let pod = scope.run(config).await?;
    let said = pod.says(shell("main", "hostname; cat /etc/hostname; echo $HOSTNAME")).await?;
    ensure!(said == "a-name-of-its-own\n".repeat(3), "{said}");
    Ok(())
}

async fn hosts_file_names_localhost_and_is_shared(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (one, two) = (pod.start(sleeper("one")).await?, pod.start(sleeper("two")).await?);
    let hosts = scope.bed.sh(&one, "cat /etc/hosts").await?;
    ensure!(hosts.lines().any(|l| l.starts_with("127.0.0.1") && l.contains("localhost")), "{hosts}");
    scope.bed.sh(&one, "echo 192.0.2.1 other >>/etc/hosts").await?;
    let hosts = scope.bed.sh(&two, "cat /etc/hosts").await?;
    ensure!(hosts.contains("192.0.2.1 other"), "{hosts}");
    Ok(())
}

async fn resolv_conf_is_made_of_dns_config(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    config.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.96.0.10".into(), "fd00::a".into()],
        searches: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
        options: vec!["ndots:5".into(), "edns0".into()],
    });
    let pod = scope.run(config).await?;
    let said = pod.says(shell("main", "cat /etc/resolv.conf")).await?;
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    for expected in [
        &["nameserver", "10.96.0.10"][..],
        &["nameserver", "fd00::a"],
        &["search", "default.svc.cluster.local", "cluster.local"],
        &["options", "ndots:5", "edns0"],
    ] {
        ensure!(lines.iter().any(|line| line == expected), "{expected:?} is not in {said}");
    }
    Ok(())
}

async fn without_dns_config_resolv_conf_is_the_nodes(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = pod.says(shell("main", "cat /etc/resolv.conf")).await?;
    ensure!(said.trim() == std::fs::read_to_string("/etc/resolv.conf")?.trim(), "{said}");
    Ok(())
}

async fn dev_shm_is_64_mib_and_shared(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (one, two) = (pod.start(sleeper("one")).await?, pod.start(sleeper("two")).await?);
    let blocks = scope.bed.sh(&one, "df -k /dev/shm | tail -1 | awk '{ print $2 }'; stat -c %a /dev/shm").await?;
    ensure!(blocks == "65536\n1777", "{blocks}");
    scope.bed.sh(&one, "echo shared >/dev/shm/file").await?;
    let file = scope.bed.sh(&two, "cat /dev/shm/file").await?;
    ensure!(file == "shared", "{file}");
    Ok(())
}

async fn cgroups_are_below_the_cgroup_parent(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let parent = pod.config.linux.clone().unwrap_or_default().cgroup_parent;
    let pid = scope.bed.pid_of(&id).await?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = format!("{parent}/{id}");
    let memory = cgroups.lines().find(|line| line.contains(":memory:") || line.starts_with("0::/ptbed"));
    ensure!(memory.is_some_and(|line| line.ends_with(&path)), "{path} is not in {cgroups}");
    // cAdvisor finds pods and containers by these cgroup names.
    let pause =
        cgroup_hierarchies().iter().any(|root| root.join(parent.trim_start_matches('/')).join(&pod.id).is_dir());
    ensure!(pause, "the sandbox has no cgroup {parent}/{}", pod.id);
    Ok(())
}

async fn sysctls_are_set(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let wanted = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_local_port_range", "20000 21000")];
    config.linux.get_or_insert_default().sysctls =
        wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let pod = scope.run(config).await?;
    let said = pod
        .says(shell(
            "main",
            "cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_local_port_range net/ipv4/ip_unprivileged_port_start",
        ))
        .await?;
    let said: Vec<&str> = said.split_whitespace().collect();
    ensure!(said == ["1", "20000", "21000", "0"], "{said:?}");
    Ok(())
}

async fn labels_annotations_and_attempt_come_back_as_they_were(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let odd = "a \"quoted\" {json: [1]}\nüñí €";
    config.annotations =
        HashMap::from([("example.com/odd".to_owned(), odd.to_owned()), ("empty".to_owned(), String::new())]);
    config.labels.insert("example.com/label".to_owned(), "value".to_owned());
    config.metadata.get_or_insert_default().attempt = 7;
    let pod = scope.run(config.clone()).await?;
    let status = pod.status().await?.status.context("status")?;
    ensure!(status.labels == config.labels, "{:?}", status.labels);
    ensure!(status.annotations == config.annotations, "{:?}", status.annotations);
    ensure!(status.metadata == config.metadata, "{:?}", status.metadata);
    let listed = scope.pods().await?;
    ensure!(
        listed.len() == 1 && listed[0].annotations == config.annotations && listed[0].metadata == config.metadata,
        "{listed:?}"
    );

    let mut container = sleeper("main");
    container.annotations.clone_from(&config.annotations);
    container.metadata.get_or_insert_default().attempt = 3;
    let id = pod.start(container.clone()).await?;
    let status = scope.bed.status(&id).await?;
    ensure!(status.annotations == container.annotations && status.labels == container.labels, "{status:?}");
    ensure!(status.metadata == container.metadata, "{:?}", status.metadata);
    Ok(())
}

async fn a_pods_status_is_complete(scope: Arc<Scope>) -> Outcome {
    let before = jiff::Timestamp::now().as_nanosecond();
    let pod = scope.pod().await?;
    let response = pod.status().await?;
    let status = response.status.context("status")?;
    ensure!(
        status.id == pod.id && pod.id.len() == 64 && pod.id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{}",
        status.id
    );
    ensure!(status.state() == PodSandboxState::SandboxReady, "{:?}", status.state());
    let now = jiff::Timestamp::now().as_nanosecond();
    ensure!((before..=now).contains(&i128::from(status.created_at)), "created_at {}", status.created_at);
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|ns| ns.options).context("namespaces")?;
    ensure!(options.network() == NamespaceMode::Pod && options.pid() == NamespaceMode::Container, "{options:?}");
    let info: serde_json::Value = serde_json::from_str(response.info.get("info").context("info")?)?;
    ensure!(info["pid"].as_u64().is_some_and(|pid| pid > 0), "info.pid is {}", info["pid"]);
    Ok(())
}

async fn pods_are_listed_by_filter(scope: Arc<Scope>) -> Outcome {
    let (one, two) = (scope.pod().await?, scope.pod().await?);
    one.stop().await?;
    let list = async |filter: v1::PodSandboxFilter| -> anyhow::Result<Vec<String>> {
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let items = scope.bed.runtime().list_pod_sandbox(request).await?.into_inner().decoded()?;
        Ok(items.into_iter().map(|pod| pod.id).collect())
    };
    let ours = one.config.labels.get("e2e-test").map(|name| HashMap::from([("e2e-test".to_owned(), name.clone())]));
    let state = |state: PodSandboxState| Some(v1::PodSandboxStateValue { state: state.into() });
    let ours = || v1::PodSandboxFilter { label_selector: ours.clone().unwrap_or_default(), ..Default::default() };
    let found = list(v1::PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..ours() }).await?;
    ensure!(found == [two.id.clone()], "ready: {found:?}");
    let found = list(v1::PodSandboxFilter { state: state(PodSandboxState::SandboxNotready), ..ours() }).await?;
    ensure!(found == [one.id.clone()], "not ready: {found:?}");
    let found = list(v1::PodSandboxFilter { id: two.id[..13].to_owned(), ..Default::default() }).await?;
    ensure!(found == [two.id.clone()], "short id: {found:?}");
    let found =
        list(v1::PodSandboxFilter { id: two.id.clone(), state: state(PodSandboxState::SandboxNotready), ..ours() })
            .await?;
    ensure!(found.is_empty(), "id and other state: {found:?}");
    Ok(())
}

async fn the_same_pod_again_is_refused_or_the_same(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    // docs/rulings.md 2: a request for a pod that is in the store gets an error. A request that joins a running
    // operation gets its id.
    if let Ok(again) = scope.run(pod.config.clone()).await {
        ensure!(again.id == pod.id, "another sandbox: {}", again.id);
    }
    let pods = scope.pods().await?;
    ensure!(pods.len() == 1, "{} pods", pods.len());
    let mut next = pod.config.clone();
    next.metadata.get_or_insert_default().attempt = 1;
    let next = scope.run(next).await?;
    ensure!(next.id != pod.id, "the next attempt is the same sandbox");
    Ok(())
}

async fn stop_and_remove_can_be_repeated(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    for _ in 0..2 {
        scope.bed.stop(&id, 5).await?;
    }
    for _ in 0..2 {
        scope.bed.remove(&id).await?;
    }
    for _ in 0..2 {
        pod.stop().await?;
    }
    for _ in 0..2 {
        pod.remove().await?;
    }
    pod.stop().await
}

async fn a_stopped_pod_has_no_running_containers(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let ids = [pod.start(sleeper("one")).await?, pod.start(sleeper("two")).await?];
    pod.stop().await?;
    for id in &ids {
        until(SOON, || async {
            let status = scope.bed.status(id).await?;
            ensure!(status.state() == v1::ContainerState::ContainerExited, "{:?}", status.state());
            Ok(())
        })
        .await?;
    }
    let status = pod.status().await?.status.context("status")?;
    ensure!(status.state() == PodSandboxState::SandboxNotready, "{:?}", status.state());
    let refused = pod.create(sleeper("late")).await;
    ensure!(refused.is_err(), "a container was created in a stopped pod");
    Ok(())
}

async fn removing_a_running_pod_removes_its_containers(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    pod.remove().await?;
    ensure!(scope.pods().await?.is_empty(), "the pod is still listed");
    let Err(gone) = scope.bed.status(&id).await else { anyhow::bail!("the container is still there") };
    let code = gone.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    ensure!(code == Some(tonic::Code::NotFound), "{gone:#}");
    Ok(())
}
