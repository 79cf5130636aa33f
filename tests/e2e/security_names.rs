//! Flaws around names: labels and annotations that tenants write, and IDs that clients send.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use serde_json::Value;
use tonic::Code;

use crate::bad_input::refused;
use crate::harness::{Outcome, Test, rule};
use crate::registry::Registry;
use crate::scope::{Pod, Scope, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(x1_no_label_reaches_containerd)
            .sleeps()
            .only_pontoon("the built-in gives containerd every label, and its restart monitor acts on them"),
        rule!(x2_no_annotation_reaches_a_snapshot),
        rule!(x5_nothing_secret_in_the_status_or_the_log),
        rule!(x7_and_cve_2023_6476_and_cve_2024_3154_no_annotation_is_a_command),
        rule!(x9_ids_are_checked_before_use),
    ]
}

fn text(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A container's record in containerd, as JSON.
pub async fn record(scope: &Scope, id: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&scope.bed.ctr(&["containers", "info", id]).await?)?)
}

fn labels(record: &Value) -> String {
    record["Labels"].to_string()
}

/// containerd's restart monitor looks every ten seconds.
const MONITOR: Duration = Duration::from_secs(25);

async fn x1_no_label_reaches_containerd(scope: Arc<Scope>) -> Outcome {
    let orders = [
        ("containerd.io/restart.status", "running"),
        ("containerd.io/restart.policy", "always"),
        ("containerd.io/gc.root", "x"),
        ("tenant.example/own", "text"),
    ];
    let mut config = scope.pod_config();
    config.labels.extend(text(&orders));
    let pod = scope.run(config).await?;
    let mut config = sleeper("main");
    config.labels.extend(text(&orders));
    let id = pod.start(config).await?;
    for id in [&pod.id, &id] {
        let labels = labels(&record(&scope, id).await?);
        ensure!(!labels.contains("restart") && !labels.contains("gc.root"), "{labels}");
    }
    // CRI returns the labels that the client sent.
    let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let listed = scope.bed.runtime().container_status(request).await?.into_inner().status.context("status")?.labels;
    ensure!(listed.get("containerd.io/gc.root").map(String::as_str) == Some("x"), "{listed:?}");
    scope.bed.ctr(&["tasks", "kill", "--signal", "SIGKILL", &pod.id]).await?;
    tokio::time::sleep(MONITOR).await;
    let tasks = scope.bed.ctr(&["tasks", "list"]).await?;
    let again = tasks.lines().find(|line| line.starts_with(&pod.id) && line.contains("RUNNING"));
    ensure!(again.is_none(), "the pause task runs again: {again:?}");
    Ok(())
}

/// The upper directory of the overlay mount that is a container's root.
async fn upper(scope: &Scope, pid: u64) -> anyhow::Result<String> {
    let _ = scope;
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).context("no root")?;
    let path = root.split(',').find_map(|option| option.strip_prefix("upperdir=")).context("no upperdir")?;
    Ok(path.to_owned())
}

/// Runs a pod with annotations. Returns it with the config of a container that has annotations too.
async fn annotated(
    scope: &Scope,
    of_pod: &[(&str, &str)],
    of_container: &[(&str, &str)],
) -> anyhow::Result<(Pod, v1::ContainerConfig)> {
    let mut config = scope.pod_config();
    config.annotations.extend(text(of_pod));
    let pod = scope.run(config).await?;
    let mut config = sleeper("main");
    config.annotations.extend(text(of_container));
    Ok((pod, config))
}

async fn x2_no_annotation_reaches_a_snapshot(scope: Arc<Scope>) -> Outcome {
    let orders = [
        ("containerd.io/snapshot/uidmapping", "0:1000:1"),
        ("containerd.io/snapshot/gidmapping", "0:1000:1"),
        ("containerd.io/gc.root", "x"),
    ];
    let (pod, config) = annotated(&scope, &orders, &orders).await?;
    let id = pod.start(config).await?;
    let snapshot = scope.bed.ctr(&["snapshots", "info", &id]).await?;
    ensure!(!snapshot.contains("mapping") && !snapshot.contains("gc.root"), "{snapshot}");
    let labels = labels(&record(&scope, &id).await?);
    ensure!(!labels.contains("mapping") && !labels.contains("gc.root"), "{labels}");
    let directory = upper(&scope, scope.bed.pid_of(&id).await?).await?;
    let owner = std::fs::metadata(Path::new(&directory))?;
    ensure!((owner.uid(), owner.gid()) == (0, 0), "{directory} belongs to {}:{}", owner.uid(), owner.gid());
    let leases = scope.bed.ctr(&["leases", "list"]).await?;
    ensure!(!leases.contains("mapping") && !leases.contains("gc.root"), "{leases}");
    Ok(())
}

async fn x5_nothing_secret_in_the_status_or_the_log(scope: Arc<Scope>) -> Outcome {
    const PASSWORD: &str = "s3cret-passw0rd";
    const VALUE: &str = "s3cret-value";
    let registry = Registry::start(&scope.bed).await?;
    registry.require("bm90OnRoaXMgb25l")?;
    let auth = Some(v1::AuthConfig { username: "user".into(), password: PASSWORD.into(), ..Default::default() });
    let image = Some(crate::bed::image_spec(&format!("{}/x:latest", registry.host)));
    let pulled = scope.bed.images().pull_image(v1::PullImageRequest { image, auth, ..Default::default() }).await;
    let Err(error) = pulled else { bail!("it was pulled") };
    ensure!(!format!("{error:?}").contains(PASSWORD), "the password is in the error");
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.envs = vec![v1::KeyValue { key: "SECRET".into(), value: VALUE.into() }];
    // Also create a container that is refused, since error messages contain more than successful responses.
    config.log_path = String::new();
    let mut bad = config.clone();
    bad.metadata.get_or_insert_default().name = "bad".into();
    crate::scope::security(&mut bad).run_as_username = "nobody-has-this-name".into();
    pod.start(config).await?;
    ensure!(pod.create(bad).await.is_err(), "it was taken");
    let status = scope.bed.runtime().status(v1::StatusRequest { verbose: true }).await?.into_inner();
    let log = std::fs::read_to_string(scope.bed.dir.join(format!("logs/{}.log", scope.bed.server())))?;
    for (what, said) in [("the status", format!("{status:?}")), ("the log", log)] {
        ensure!(!said.contains(PASSWORD), "the password is in {what}");
        ensure!(!said.contains(VALUE), "the variable's value is in {what}");
        ensure!(!said.contains("Authorization") && !said.contains("dXNlcjp"), "credentials are in {what}");
    }
    Ok(())
}

/// Sorts all lists: sets such as capabilities have no order.
fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sort);
            items.sort_by_key(ToString::to_string);
        }
        Value::Object(fields) => fields.values_mut().for_each(sort),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The OCI spec of a container. IDs and SELinux levels are replaced by fixed words.
async fn spec(scope: &Scope, pod: &Pod, id: &str) -> anyhow::Result<String> {
    let mut info = scope.bed.info(id).await?;
    sort(&mut info["runtimeSpec"]);
    let name = &pod.config.metadata.as_ref().context("metadata")?.name;
    let text = serde_json::to_string_pretty(&info["runtimeSpec"])?;
    let pause = info["runtimeSpec"]["linux"]["namespaces"].to_string();
    let pause = pause.split("/proc/").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or("none").to_owned();
    let text = text
        .replace(id, "ID")
        .replace(&pod.id, "POD")
        .replace(name, "NAME")
        .replace(&format!("/proc/{pause}/"), "/proc/PID/");
    // The label is user:role:type:level. No two pods have the same level.
    let level = info["runtimeSpec"]["process"]["selinuxLabel"].as_str().and_then(|label| label.splitn(4, ':').nth(3));
    Ok(level.map_or(text.clone(), |level| text.replace(level, "LEVEL")))
}

async fn x7_and_cve_2023_6476_and_cve_2024_3154_no_annotation_is_a_command(scope: Arc<Scope>) -> Outcome {
    let orders = [
        ("org.systemd.property.DefaultDependencies", "true"),
        ("io.kubernetes.cri-o.UnifiedCgroup.main", "memory.max=max"),
        ("io.kubernetes.cri-o.userns-mode", "auto"),
        ("cpu-load-balancing.crio.io", "disable"),
        ("run.oci.keep_original_groups", "1"),
        ("org.criu.config", "/x"),
        ("io.containerd.runhcs.v1", "x"),
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("io.kubernetes.cri.sandbox-id", "another"),
    ];
    let plain_pod = scope.pod().await?;
    let plain = plain_pod.create(sleeper("main")).await?;
    let plain = spec(&scope, &plain_pod, &plain).await?;
    // On a pod a CDI annotation is written by a tenant, and must not add a device.
    let of_pod = [&orders[..], &[("cdi.k8s.io/x", "vendor.example/device=all")]].concat();
    let (pod, config) = annotated(&scope, &of_pod, &orders).await?;
    let id = pod.create(config).await?;
    let spec = spec(&scope, &pod, &id).await?;
    let differs = plain.lines().zip(spec.lines()).find(|(one, other)| one != other);
    ensure!(plain == spec, "annotations change the spec: {differs:?}");
    let pause = record(&scope, &pod.id).await?["Spec"]["annotations"].to_string();
    ensure!(!orders[..7].iter().any(|(key, _)| pause.contains(key)), "of the pause container: {pause}");
    Ok(())
}

async fn x9_ids_are_checked_before_use(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut ids = Vec::new();
    // Of 17 IDs, at least two begin with the same hexadecimal digit.
    for number in 0..17 {
        ids.push(pod.create(sleeper(&format!("c{number}"))).await?);
    }
    let shared = ids.iter().find_map(|id| {
        let first = &id[..1];
        (ids.iter().filter(|other| other.starts_with(first)).count() > 1).then(|| first.to_owned())
    });
    let shared = shared.context("17 ids and 16 digits")?;
    let Err(error) = scope.bed.status(&shared).await else { bail!("{shared} is the beginning of two ids") };
    refused::<()>(&scope, Err(error), Code::InvalidArgument, &shared)?;
    let removed = scope.bed.remove(&shared).await;
    let left = scope.bed.runtime().list_containers(v1::ListContainersRequest { filter: None }).await?.into_inner();
    let left = left.decoded()?;
    ensure!(ids.iter().all(|id| left.iter().any(|one| one.id == *id)), "one was removed: {removed:?}");
    for id in ["", "../../etc", "a/b", "..", "ID\n", "*"] {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let status = scope.bed.runtime().container_status(request).await;
        let code = if id.is_empty() { Code::InvalidArgument } else { Code::NotFound };
        refused(&scope, status.map_err(Into::into), code, "").with_context(|| format!("{id:?}"))?;
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let status = scope.bed.runtime().pod_sandbox_status(request).await;
        refused(&scope, status.map_err(Into::into), code, "").with_context(|| format!("{id:?}"))?;
        ensure!(scope.bed.start(id).await.is_err(), "{id:?} was started");
        ensure!(scope.bed.exec(id, &["true"], 1).await.is_err(), "{id:?} ran a command");
    }
    Ok(())
}
