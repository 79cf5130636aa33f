//! Writes the OCI specs that the CRI server creates from the golden files' configs. golden-specs.sh compares those of
//! both servers.
//!
//! With `GOLDEN_SPECS=directory`, each config of tests/golden that a bed can run is sent as a request, and the spec
//! that a verbose status shows is written to the directory. IDs, paths and the order of sets are replaced by fixed
//! ones. Configs about a handler's own spec are left out: for them the built-in would need another configuration.

mod compare;
mod normal;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::{ContainerConfig, NamespaceMode, PodSandboxConfig};
use serde::Deserialize;
use serde_json::{Value, json};

pub use compare::compare;

use crate::bed::{BUSYBOX, image_spec};
use crate::harness::{Outcome, Test, rule};
use crate::images::layer_of;
use crate::registry::{Registry, Says};
use crate::scope::{Pod, Scope, sleeper};
use crate::security::OnItself;

/// The environment variable with the directory to write to.
const OUT: &str = "GOLDEN_SPECS";
/// The least number of configs: fewer means that the golden files were not found.
const LEAST: usize = 60;

pub fn tests() -> Vec<Test> {
    // This is a tool, not a test: it fails only when a call fails.
    if std::env::var_os(OUT).is_none() {
        return Vec::new();
    }
    vec![rule!(specs_are_written).alone().within(600)]
}

/// The part of a golden file that can be reproduced on a bed.
#[derive(Deserialize)]
struct Document {
    sandbox: PodSandboxConfig,
    container: Option<ContainerConfig>,
    image: Option<Value>,
    passwd: Option<String>,
    group: Option<String>,
    seccomp: Option<Value>,
    handler: Option<Value>,
}

fn documents() -> anyhow::Result<Vec<(String, Document)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".config.json") else { continue };
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        for entry in json.pointer_mut("/container/envs").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(text) = entry["value"].as_str() {
                entry["value"] = text.bytes().map(Value::from).collect();
            }
        }
        all.push((name.to_owned(), serde_json::from_value(json).with_context(|| name.to_owned())?));
    }
    all.retain(|(_, document): &(String, Document)| document.handler.is_none());
    all.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(all)
}

async fn specs_are_written(scope: Arc<Scope>) -> Outcome {
    let out = PathBuf::from(std::env::var_os(OUT).context(OUT)?);
    std::fs::create_dir_all(&out)?;
    let documents = documents()?;
    ensure!(documents.len() >= LEAST, "only {} configs", documents.len());
    for (name, document) in documents {
        let spec = match spec(&scope, &name, document).await {
            Ok(spec) => spec,
            // A request that only one CRI server refuses is a difference too. The error texts are not compared.
            Err(error) if error.downcast_ref::<tonic::Status>().is_some() => {
                println!("{name} is refused: {error:#}");
                json!({"refused": true})
            }
            Err(error) => return Err(error.context(name)),
        };
        std::fs::write(out.join(format!("{name}.json")), serde_json::to_vec_pretty(&spec)?)?;
        scope.remove_pods().await?;
    }
    Ok(())
}

/// Creates the document's objects. Returns the spec of its container, or of its pause container if it has no container.
async fn spec(scope: &Scope, name: &str, mut document: Document) -> anyhow::Result<Value> {
    let work = scope.volume(name)?;
    // Some of the documents' mounts have a propagation that needs a shared mount as source.
    let shared = OnItself::mount(&work, "--make-shared")?;
    let work = shared.path();
    let mut sandbox = sandbox_config(scope, &document.sandbox)?;
    let context = sandbox.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    set_profile(context.and_then(|context| context.seccomp.as_mut()), document.seccomp.as_ref(), work)?;
    let context = document.container.as_mut().and_then(|container| container.linux.as_mut()?.security_context.as_mut());
    set_profile(context.and_then(|context| context.seccomp.as_mut()), document.seccomp.as_ref(), work)?;
    let pod = scope.run(sandbox).await?;
    let mut known = normal::Known::new(&scope.bed.dir, &pod.id);
    let Some(container) = document.container.take() else {
        let info = pod.status().await?.info;
        let info: Value = serde_json::from_str(info.get("info").context("no key 'info'")?)?;
        return Ok(known.normal(&info["runtimeSpec"]));
    };
    let image = image(scope, &document, &mut known).await?;
    let mut container = container_config(container, &image, work);
    join_target(scope, &pod, &mut container, &mut known).await?;
    let id = pod.create(container).await?;
    known.container(&id);
    Ok(known.normal(&scope.bed.info(&id).await?["runtimeSpec"]))
}

/// The document's config, with the bed's cgroup parent, and the test's name and labels so it is removed at the end.
fn sandbox_config(scope: &Scope, wanted: &PodSandboxConfig) -> anyhow::Result<PodSandboxConfig> {
    let ours = scope.pod_config();
    let mut config = wanted.clone();
    config.metadata = ours.metadata;
    config.labels.extend(ours.labels);
    config.log_directory = ours.log_directory;
    let parent = ours.linux.context("linux")?.cgroup_parent;
    config.linux.get_or_insert_default().cgroup_parent = parent;
    Ok(config)
}

fn set_profile(wanted: Option<&mut v1::SecurityProfile>, profile: Option<&Value>, work: &Path) -> anyhow::Result<()> {
    if let (Some(wanted), Some(profile)) = (wanted.filter(|wanted| !wanted.localhost_ref.is_empty()), profile) {
        let path = work.join("profile.json");
        std::fs::write(&path, serde_json::to_vec(profile)?)?;
        wanted.localhost_ref = path.display().to_string();
    }
    Ok(())
}

fn container_config(mut config: ContainerConfig, image: &str, work: &Path) -> ContainerConfig {
    config.image = Some(image_spec(image));
    if config.log_path.is_empty() {
        config.log_path = "app/0.log".to_owned();
    }
    for mount in &mut config.mounts {
        // Paths that exist on no machine are moved below the test's directory. Paths of the kernel stay.
        if mount.host_path.starts_with("/data/") || mount.host_path.starts_with("/var/lib/kubelet/") {
            mount.host_path = format!("{}{}", work.display(), mount.host_path);
        }
    }
    config
}

/// Starts the container whose pid namespace the document's container joins, if there is one.
async fn join_target(
    scope: &Scope,
    pod: &Pod,
    config: &mut ContainerConfig,
    known: &mut normal::Known,
) -> anyhow::Result<()> {
    let options = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()?.namespace_options.as_mut());
    if let Some(options) = options.filter(|options| options.pid() == NamespaceMode::Target) {
        options.target_id = pod.start(sleeper("target")).await?;
        known.pid(scope.bed.pid_of(&options.target_id).await?, "TARGET");
    }
    Ok(())
}

/// Pulls the image that the document describes. Returns busybox if it describes none.
async fn image(scope: &Scope, document: &Document, known: &mut normal::Known) -> anyhow::Result<String> {
    let Document { image, passwd, group, .. } = document;
    if image.is_none() && passwd.is_none() && group.is_none() {
        return Ok(BUSYBOX.to_owned());
    }
    let registry = Registry::start(&scope.bed).await?;
    let root = scope.volume("image")?;
    std::fs::create_dir_all(root.join("etc"))?;
    std::fs::write(root.join("etc/passwd"), passwd.as_deref().unwrap_or("root:x:0:0::/root:/bin/sh\n"))?;
    std::fs::write(root.join("etc/group"), group.as_deref().unwrap_or("root:x:0:\n"))?;
    let (layer, diff_id) = layer_of(scope, &root, &["--owner=0", "--group=0"]).await?;
    std::fs::remove_dir_all(&root)?;
    let text = |key: &str| image.as_ref().map(|image| image[key].clone()).unwrap_or_default();
    let volumes = text("volumes");
    let volumes: serde_json::Map<String, Value> = volumes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|path| Some((path.as_str()?.to_owned(), json!({}))))
        .collect();
    let config = json!({
        "Entrypoint": text("entrypoint"), "Cmd": text("cmd"), "Env": text("env"),
        "WorkingDir": text("working_dir"), "User": text("user"), "Volumes": volumes,
    });
    let name = registry.image_that_says("golden", &layer, &diff_id, &Says { config, ..Says::default() })?;
    known.text(&registry.host, "REGISTRY");
    scope.bed.pull(&name).await?;
    Ok(name)
}
