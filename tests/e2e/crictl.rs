//! crictl, as a user of the node would use it by hand.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::bed::{BUSYBOX, SOON, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::Scope;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_pod_from_pull_to_removal),
        rule!(short_ids_are_taken_everywhere),
        rule!(info_has_runtime_spec_pid_and_sandbox_metadata),
        rule!(update_changes_limits),
        rule!(info_and_version_answer),
        rule!(rmp_force_removes_a_running_pod),
    ]
}

/// A user who writes configuration files and runs crictl. `pod` is the id that crictl printed.
struct User<'a> {
    scope: &'a Scope,
    pod: String,
}

impl<'a> User<'a> {
    /// Runs a pod from a configuration file.
    async fn runp(scope: &'a Scope) -> anyhow::Result<Self> {
        let config = scope.pod_config();
        let metadata = config.metadata.context("metadata")?;
        let file = json!({
            "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid, "attempt": 1},
            "log_directory": config.log_directory,
            "labels": config.labels,
            "linux": {
                "cgroup_parent": config.linux.context("linux")?.cgroup_parent,
                "security_context": {"namespace_options": {"pid": 1}},
            },
        });
        let path = write(scope, "pod.json", &file)?;
        let pod = scope.bed.crictl(&["runp", &path]).await?.trim().to_owned();
        Ok(Self { scope, pod })
    }

    async fn create(&self, name: &str, script: &str) -> anyhow::Result<String> {
        let file = json!({
            "metadata": {"name": name},
            "image": {"image": BUSYBOX},
            "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"),
            "linux": {"resources": {"memory_limit_in_bytes": 67_108_864, "cpu_shares": 512}},
        });
        let path = write(self.scope, &format!("{name}.json"), &file)?;
        let pod = format!("{}/pod.json", self.scope.dir().display());
        Ok(self.scope.bed.crictl(&["create", &self.pod, &path, &pod]).await?.trim().to_owned())
    }

    async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.scope.bed.crictl(arguments).await?)?)
    }
}

fn write(scope: &Scope, name: &str, content: &Value) -> anyhow::Result<String> {
    let path = scope.dir().join(name);
    std::fs::write(&path, content.to_string())?;
    Ok(path.display().to_string())
}

const GREETER: &str = "trap 'exit 0' TERM; echo greetings; echo complaints >&2; while :; do sleep 1000 & wait $!; done";

async fn a_pod_from_pull_to_removal(scope: Arc<Scope>) -> Outcome {
    let crictl = async |arguments: &[&str]| scope.bed.crictl(arguments).await;
    let pulled = crictl(&["pull", BUSYBOX]).await?;
    ensure!(pulled.contains("sha256:"), "pull: {pulled}");
    let images = crictl(&["images"]).await?;
    ensure!(images.contains("registry.k8s.io/e2e-test-images/busybox"), "images: {images}");

    let user = User::runp(&scope).await?;
    let id = user.create("greeter", GREETER).await?;
    let created = crictl(&["ps", "--all", "--pod", &user.pod]).await?;
    ensure!(created.contains("Created") && created.contains(&id[..13]), "ps: {created}");
    crictl(&["start", &id]).await?;
    let ps = crictl(&["ps", "--pod", &user.pod]).await?;
    ensure!(ps.contains("Running") && ps.contains("greeter"), "ps: {ps}");
    let pods = crictl(&["pods", "--id", &user.pod]).await?;
    ensure!(pods.contains("Ready"), "pods: {pods}");
    let logs = until(SOON, || async {
        let logs = crictl(&["logs", &id]).await?;
        ensure!(logs.contains("greetings"), "logs: {logs}");
        Ok(logs)
    });
    logs.await?;
    let said = crictl(&["exec", "-s", &id, "echo", "in here"]).await?;
    ensure!(said.contains("in here"), "exec: {said}");

    let inspected = user.json(&["inspect", "--output", "json", &id]).await?;
    ensure!(inspected["status"]["state"] == "CONTAINER_RUNNING", "inspect: {}", inspected["status"]);
    crictl(&["stop", "--timeout", "10", &id]).await?;
    let inspected = user.json(&["inspect", "--output", "json", &id]).await?;
    let status = &inspected["status"];
    ensure!(status["state"] == "CONTAINER_EXITED" && status["reason"] == "Completed", "inspect: {status}");
    crictl(&["rm", &id]).await?;
    crictl(&["stopp", &user.pod]).await?;
    let inspected = user.json(&["inspectp", "--output", "json", &user.pod]).await?;
    ensure!(inspected["status"]["state"] == "SANDBOX_NOTREADY", "inspectp: {}", inspected["status"]);
    crictl(&["rmp", &user.pod]).await?;
    let left = crictl(&["pods", "--quiet"]).await?;
    ensure!(!left.contains(&user.pod), "the pod is still listed");
    Ok(())
}

async fn short_ids_are_taken_everywhere(scope: Arc<Scope>) -> Outcome {
    let user = User::runp(&scope).await?;
    let id = user.create("greeter", GREETER).await?;
    let (id, pod) = (&id[..13], &user.pod[..13]);
    for arguments in [
        &["start", id][..],
        &["inspect", id],
        &["exec", "-s", id, "true"],
        &["logs", id],
        &["update", "--cpu-share", "300", id],
        &["inspectp", pod],
        &["stop", id],
        &["rm", id],
        &["stopp", pod],
        &["rmp", pod],
    ] {
        scope.bed.crictl(arguments).await?;
    }
    ensure!(scope.pods().await?.is_empty(), "the pod is still listed");
    Ok(())
}

async fn info_has_runtime_spec_pid_and_sandbox_metadata(scope: Arc<Scope>) -> Outcome {
    let user = User::runp(&scope).await?;
    let id = user.create("greeter", GREETER).await?;
    scope.bed.crictl(&["start", &id]).await?;
    let inspected = user.json(&["inspect", "--output", "json", &id]).await?;
    let info = &inspected["info"];
    ensure!(
        info["pid"].as_u64().is_some_and(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()),
        "pid {}",
        info["pid"]
    );
    ensure!(
        info["runtimeSpec"]["process"]["args"][0] == "sh",
        "runtimeSpec {}",
        info["runtimeSpec"]["process"]["args"]
    );
    ensure!(info["sandboxID"] == user.pod.as_str(), "sandboxID {}", info["sandboxID"]);
    let inspected = user.json(&["inspectp", "--output", "json", &user.pod]).await?;
    let info = &inspected["info"];
    ensure!(info["pid"].as_u64().is_some_and(|pid| pid > 0), "pid {}", info["pid"]);
    ensure!(info["runtimeSpec"]["linux"].is_object(), "runtimeSpec {}", info["runtimeSpec"]);
    ensure!(info["sandboxMetadata"].is_object(), "sandboxMetadata {}", info["sandboxMetadata"]);
    let ip = inspected["status"]["network"]["ip"].as_str().context("no IP")?;
    ensure!(info["cniResult"].to_string().contains(ip), "cniResult {}", info["cniResult"]);
    Ok(())
}

async fn update_changes_limits(scope: Arc<Scope>) -> Outcome {
    let user = User::runp(&scope).await?;
    let id = user.create("greeter", GREETER).await?;
    scope.bed.crictl(&["start", &id]).await?;
    scope.bed.crictl(&["update", "--memory", "83886080", "--cpu-share", "700", &id]).await?;
    let inspected = user.json(&["inspect", "--output", "json", &id]).await?;
    let linux = &inspected["status"]["resources"]["linux"];
    // In protobuf's JSON, a 64-bit number is a string.
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    ensure!(number(&linux["memoryLimitInBytes"]) == Some(83_886_080), "{linux}");
    ensure!(number(&linux["cpuShares"]) == Some(700), "{linux}");
    Ok(())
}

async fn info_and_version_answer(scope: Arc<Scope>) -> Outcome {
    let info: Value = serde_json::from_str(&scope.bed.crictl(&["info", "--output", "json"]).await?)?;
    let conditions = info["status"]["conditions"].as_array().context("no conditions")?;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        ensure!(conditions.iter().any(|c| c["type"] == wanted && c["status"] == true), "{wanted}: {conditions:?}");
    }
    let version = scope.bed.crictl(&["version"]).await?;
    ensure!(version.contains("RuntimeApiVersion:  v1") && version.contains("RuntimeName:"), "{version}");
    Ok(())
}

async fn rmp_force_removes_a_running_pod(scope: Arc<Scope>) -> Outcome {
    let user = User::runp(&scope).await?;
    let id = user.create("greeter", GREETER).await?;
    scope.bed.crictl(&["start", &id]).await?;
    scope.bed.crictl(&["rmp", "--force", &user.pod]).await?;
    ensure!(scope.pods().await?.is_empty() && scope.bed.status(&id).await.is_err(), "something is left");
    Ok(())
}
