//! Flaws around images: an image's author controls its config and annotations, and a pull may contact unknown servers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use serde_json::json;
use tonic::Code;

use crate::bad_input::refused;
use crate::bed::{Target, image_spec};
use crate::devices::spec;
use crate::harness::{Outcome, SLOWNESS, Test, rule};
use crate::images::layer;
use crate::registry::{Registry, Says, digest};
use crate::scope::{Scope, security};
use crate::security::{Peak, absent, create_and_start, evil, shell_of};
use crate::security_names::record;

pub fn tests() -> Vec<Test> {
    vec![
        rule!(cve_2020_15157_and_2026_53495_credentials_stay_with_their_registry),
        rule!(cve_2023_25153_a_huge_manifest_fills_no_memory).alone(),
        rule!(cve_2024_5154_nothing_is_written_through_the_images_symlinks),
        rule!(cve_2026_47262_a_passwd_that_is_none_is_an_error).alone(),
        rule!(cve_2026_53488_no_label_of_an_image_reaches_containerd).sleeps(),
        rule!(cve_2026_50195_and_53489_and_53492_an_image_is_never_a_checkpoint),
        rule!(containerd_2_4_1_no_layer_annotation_reaches_a_snapshot),
        rule!(containerd_2_4_2_a_reference_does_not_climb),
        rule!(containerd_2_2_1_no_error_has_a_secret_of_a_url),
    ]
}

const USER: &str = "user";
const PASSWORD: &str = "s3cret-passw0rd";
/// base64 of `user:password`.
const ENCODED: &str = "dXNlcjpzM2NyZXQtcGFzc3cwcmQ=";

async fn pull_as_user(scope: &Scope, name: &str) -> anyhow::Result<String> {
    let auth = Some(v1::AuthConfig { username: USER.into(), password: PASSWORD.into(), ..Default::default() });
    let request = v1::PullImageRequest { image: Some(image_spec(name)), auth, ..Default::default() };
    Ok(scope.bed.images().pull_image(request).await?.into_inner().image_ref)
}

/// A foreign layer names another host in its descriptor, a redirect in the response.
async fn cve_2020_15157_and_2026_53495_credentials_stay_with_their_registry(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    registry.require(ENCODED)?;
    // The same host with another port is another origin.
    let stranger = Registry::start(&scope.bed).await?;
    stranger.require("bm9ib2R5OmtubwdzdGhpcw==")?;
    let (bytes, diff_id) = layer(&scope, "foreign").await?;
    let path = format!("v2/foreign/blobs/{}", digest(&bytes));
    let elsewhere = format!("http://{}/{path}", stranger.host);
    for kind in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ] {
        let says = Says { layer: json!({"mediaType": kind, "urls": [elsewhere]}), ..Says::default() };
        let name = registry.image_that_says("foreign", &bytes, &diff_id, &says)?;
        registry.forget("foreign", &digest(&bytes))?;
        let pulled = pull_as_user(&scope, &name).await;
        ensure!(pulled.is_err(), "{kind}: there is no such layer anywhere");
    }
    ensure!(!stranger.heads()?.is_empty(), "the stranger was never asked for a layer, so that nothing was shown");
    if scope.bed.target == Target::Pontoon {
        redirected(&scope, &registry, &stranger, &bytes, &diff_id).await?;
    }
    ensure!(registry.heads()?.iter().any(|head| head.contains(ENCODED)), "the registry got no credentials");
    no_credentials(&stranger.heads()?)
}

/// Only on Pontoon: the built-in answers the other registry's challenge with the first registry's password.
async fn redirected(scope: &Scope, registry: &Registry, stranger: &Registry, bytes: &[u8], diff_id: &str) -> Outcome {
    let asked = stranger.heads()?.len();
    let name = registry.image("redirected", bytes, diff_id)?;
    // Redirect to another host name: if only the port differs, Go's client sends the Authorization header along, also
    // in containerd 2.4.2.
    let port = stranger.host.rsplit(':').next().context("port")?;
    let path = format!("v2/foreign/blobs/{}", digest(bytes));
    registry.redirect("redirected", &digest(bytes), &format!("http://localhost:{port}/{path}"))?;
    ensure!(pull_as_user(scope, &name).await.is_err(), "the stranger let somebody in");
    ensure!(stranger.heads()?.len() > asked, "the redirect was not followed, so that nothing was shown");
    Ok(())
}

fn no_credentials(heads: &[String]) -> Outcome {
    for head in heads {
        let lower = head.to_lowercase();
        let told =
            ["\r\nauthorization:", "\r\nproxy-authorization:", "\r\ncookie:"].iter().any(|name| lower.contains(name));
        ensure!(!told, "{head}");
    }
    Ok(())
}

async fn cve_2023_25153_a_huge_manifest_fills_no_memory(scope: Arc<Scope>) -> Outcome {
    const SIZE: usize = 64 << 20;
    let registry = Registry::start(&scope.bed).await?;
    let (bytes, diff_id) = layer(&scope, "huge").await?;
    let says = Says { manifest: json!({"annotations": {"filler": "x".repeat(SIZE)}}), ..Says::default() };
    let name = registry.image_that_says("huge", &bytes, &diff_id, &says)?;
    drop(says);
    let peak = Peak::of(&scope.bed)?;
    let result = scope.bed.pull(&name).await;
    let grown = peak.grown()?;
    ensure!(result.is_err(), "it was pulled");
    ensure!(grown < 40 << 10, "the daemon grew by {grown} kB");
    let listed = scope.bed.list_images("").await?;
    ensure!(!listed.iter().any(|image| image.repo_tags.contains(&name)), "it is listed");
    Ok(())
}

async fn cve_2024_5154_nothing_is_written_through_the_images_symlinks(scope: Arc<Scope>) -> Outcome {
    let outside = absent(&scope, "mtab");
    let climbing = format!("/../../../../../../../../../..{}", outside.display());
    let fill = |root: &Path| {
        std::fs::remove_dir(root.join("etc"))?;
        std::os::unix::fs::symlink(&climbing, root.join("etc"))?;
        std::os::unix::fs::symlink(&climbing, root.join("tmp"))?;
        Ok(())
    };
    let image = evil(&scope, fill, &Says::default()).await?;
    let pod = scope.pod().await?;
    let mut config = shell_of(&image, "main", "true");
    config.working_dir = "/tmp/made".into();
    // The container may start or not, which depends on runc: it may refuse a dangling /etc, or create the link's target
    // inside the root.
    let _ = create_and_start(&scope, &pod, config).await;
    ensure!(!outside.exists(), "{} was made on the node", outside.display());
    Ok(())
}

/// Also covers CVE-2025-4437 of CRI-O.
async fn cve_2026_47262_a_passwd_that_is_none_is_an_error(scope: Arc<Scope>) -> Outcome {
    type Fill = fn(&Path) -> anyhow::Result<()>;
    fn mknod(path: &Path, words: &[&str]) -> anyhow::Result<()> {
        ensure!(std::process::Command::new("mknod").arg(path).args(words).status()?.success(), "mknod");
        Ok(())
    }
    let cases: [(&str, Fill); 5] = [
        ("large", |root| Ok(std::fs::File::create(root.join("etc/passwd"))?.set_len(256 << 20)?)),
        ("device", |root| mknod(&root.join("etc/passwd"), &["c", "1", "5"])),
        ("fifo", |root| mknod(&root.join("etc/passwd"), &["p"])),
        ("link", |root| {
            mknod(&root.join("zero"), &["c", "1", "5"])?;
            Ok(std::os::unix::fs::symlink("/zero", root.join("etc/passwd"))?)
        }),
        ("group", |root| {
            std::fs::write(root.join("etc/passwd"), "someone:x:5:5::/:/bin/sh\n")?;
            mknod(&root.join("etc/group"), &["p"])
        }),
    ];
    let pod = scope.pod().await?;
    // The built-in opens a FIFO like any file, and waits for a writer for ever.
    let waits = |name: &str| scope.bed.target == Target::Builtin && ["fifo", "group"].contains(&name);
    for (name, fill) in cases.into_iter().filter(|(name, _)| !waits(name)) {
        let image = evil(&scope, fill, &Says::default()).await?;
        let mut config = shell_of(&image, name, "id -u");
        security(&mut config).run_as_username = "someone".into();
        let peak = Peak::of(&scope.bed)?;
        let start = Instant::now();
        let result =
            tokio::time::timeout(Duration::from_secs(10) * *SLOWNESS, create_and_start(&scope, &pod, config)).await;
        let result = result.with_context(|| format!("{name}: not done in 10 s"))?;
        let took = start.elapsed();
        ensure!(result.is_err(), "{name}: it was taken");
        ensure!(took < Duration::from_secs(2) * *SLOWNESS, "{name}: {took:?}");
        let grown = peak.grown()?;
        ensure!(grown < 40 << 10, "{name}: the daemon grew by {grown} kB");
    }
    scope.pods().await.map(drop)
}

async fn cve_2026_53488_no_label_of_an_image_reaches_containerd(scope: Arc<Scope>) -> Outcome {
    let made = absent(&scope, "by-a-logger");
    let labels = json!({
        "containerd.io/restart.status": "running",
        "containerd.io/restart.policy": "always",
        "containerd.io/restart.loguri": format!("binary:///bin/touch?{}", made.display()),
        "containerd.io/gc.root": "x",
    });
    let image = evil(&scope, |_| Ok(()), &Says { config: json!({ "Labels": labels }), ..Says::default() }).await?;
    let pod = scope.pod().await?;
    let id = create_and_start(&scope, &pod, shell_of(&image, "main", "true")).await?;
    scope.bed.exited(&id).await?;
    let labels = record(&scope, &id).await?["Labels"].to_string();
    ensure!(!labels.contains("restart") && !labels.contains("gc.root"), "{labels}");
    // containerd's restart monitor looks every ten seconds.
    tokio::time::sleep(Duration::from_secs(25)).await;
    ensure!(!made.exists(), "a program of the image's choice ran");
    let tasks = scope.bed.ctr(&["tasks", "list"]).await?;
    let again = tasks.lines().find(|line| line.starts_with(&id) && line.contains("RUNNING"));
    ensure!(again.is_none(), "it runs again: {again:?}");
    Ok(())
}

/// An image with everything that a checkpoint archive has, so that CRI-O and containerd before 2.4 took it for one. It
/// must be an error, or a container like any other. A restore would read the node's file as the container's log, give
/// the container a device, and create a name for the image that the checkpoint claims to come from.
async fn cve_2026_50195_and_53489_and_53492_an_image_is_never_a_checkpoint(scope: Arc<Scope>) -> Outcome {
    const SECRET: &str = "a line of the node's own";
    let secret = scope.volume("node")?.join("secret");
    std::fs::write(&secret, format!("2026-01-01T00:00:00.000000000Z stdout F {SECRET}\n"))?;
    let device = spec(&scope, "checkpoint", "one")?;
    let image = checkpoint(&scope, &secret).await?;
    let names = || async {
        let images = scope.bed.list_images("").await?;
        // Other tests pull images at the same time, but none of this name.
        let all = images.into_iter().flat_map(|image| image.repo_tags.into_iter().chain([image.id]));
        anyhow::Ok(all.filter(|name| name.contains("poisoned")).collect::<Vec<_>>())
    };
    let pod = scope.pod().await?;
    let config =
        shell_of(&image, "main", "cat /container.log; echo \"[$VENDOR$RESTORED]\"; ls /dev/vendor0; echo over");
    let created = create_and_start(&scope, &pod, config.clone()).await;
    if let Ok(id) = &created {
        scope.bed.exited(id).await?;
    }
    std::fs::remove_file(device)?;
    let log = pod.log(&config);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    ensure!(
        created.is_err() || (said.contains(" []\n") && said.contains(" over\n")),
        "it is another container: {said}"
    );
    ensure!(!said.contains(SECRET), "the node's file is in the log: {said}");
    let is_link = std::fs::symlink_metadata(&log).is_ok_and(|log| log.is_symlink());
    ensure!(!is_link, "the log is a link");
    ensure!(names().await?.is_empty(), "there is an image that nobody pulled: {:?}", names().await?);
    Ok(())
}

/// Builds it: the files of the archive, and the annotations that mark it as a checkpoint, in each place where a runtime
/// has ever looked for them.
async fn checkpoint(scope: &Scope, log: &Path) -> anyhow::Result<String> {
    let own = "docker.io/library/poisoned:latest";
    let dumps = [
        (
            "config.dump",
            json!({"id": "a".repeat(64), "name": "main", "rootfsImage": own, "rootfsImageName": own,
            "rootfsImageRef": own, "runtime": "runc", "restored": false}),
        ),
        (
            "spec.dump",
            json!({"ociVersion": "1.2.0", "process": {"env": ["RESTORED=1"], "args": ["true"], "cwd": "/"},
            "annotations": {"cdi.k8s.io/own": "e2e.test/checkpoint=0", "io.kubernetes.cri-o.LogPath": log}}),
        ),
        ("status.dump", json!({"CreatedAt": 1, "StartedAt": 1, "FinishedAt": 0, "ExitCode": 0})),
        ("network.status", json!([])),
    ];
    let marks = json!({
        "io.kubernetes.cri-o.annotations.checkpoint.name": "main",
        "org.criu.checkpoint.container.name": "main",
        "org.criu.checkpoint.engine.name": "containerd",
        "org.criu.checkpoint.runtime.name": "runc",
        "org.criu.checkpoint.rootfsImageName": own,
        "org.criu.checkpoint.rootfsImageUserRequested": own,
        "org.opencontainers.image.ref.name": own,
        "io.containerd.image.name": own,
        "cdi.k8s.io/own": "e2e.test/checkpoint=0",
    });
    let fill = |root: &Path| {
        for (name, dump) in &dumps {
            std::fs::write(root.join(name), dump.to_string())?;
        }
        std::fs::create_dir(root.join("checkpoint"))?;
        std::fs::write(root.join("checkpoint/inventory.img"), "")?;
        std::os::unix::fs::symlink(log, root.join("container.log"))?;
        Ok(())
    };
    let says = Says {
        config: json!({ "Labels": marks }),
        layer: json!({ "annotations": marks }),
        manifest: json!({ "annotations": marks }),
    };
    evil(scope, fill, &says).await
}

async fn containerd_2_4_1_no_layer_annotation_reaches_a_snapshot(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let (bytes, diff_id) = layer(&scope, "mapped").await?;
    let orders = json!({
        "containerd.io/snapshot/uidmapping": "0:1000:1",
        "containerd.io/snapshot/gidmapping": "0:1000:1",
    });
    let says = Says { layer: json!({ "annotations": orders }), ..Says::default() };
    let name = registry.image_that_says("mapped", &bytes, &diff_id, &says)?;
    scope.bed.pull(&name).await?;
    // The chain ID of a single layer is the layer's diff ID.
    let snapshot = scope.bed.ctr(&["snapshots", "info", &diff_id]).await?;
    ensure!(snapshot.contains(&diff_id) && !snapshot.contains("mapping"), "{snapshot}");
    Ok(())
}

async fn containerd_2_4_2_a_reference_does_not_climb(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    for path in ["../evil/x", "a/../../evil/x", "a/..", "./x", "a//b"] {
        let name = format!("{}/{path}", registry.host);
        refused(&scope, scope.bed.pull(&name).await.map_err(root_status), Code::InvalidArgument, "image")
            .with_context(|| name)?;
    }
    ensure!(registry.heads()?.is_empty(), "the registry was asked: {:?}", registry.heads()?);
    Ok(())
}

/// The gRPC status in an error, without the context that was added to it.
fn root_status(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<tonic::Status>() {
        Ok(status) => status.into(),
        Err(error) => error,
    }
}

async fn containerd_2_2_1_no_error_has_a_secret_of_a_url(scope: Arc<Scope>) -> Outcome {
    const SIGNATURE: &str = "s1gnature-0f-a-url";
    let registry = Registry::start(&scope.bed).await?;
    registry.require(ENCODED)?;
    let storage = Registry::start(&scope.bed).await?;
    let (bytes, diff_id) = layer(&scope, "signed").await?;
    let name = registry.image("signed", &bytes, &diff_id)?;
    // Redirects like a registry that keeps its blobs in a separate storage. The storage here does not have the blob.
    let url = format!("http://{USER}:{PASSWORD}@{}/blob?X-Amz-Signature={SIGNATURE}&X-Amz-Expires=1", storage.host);
    registry.redirect("signed", &digest(&bytes), &url)?;
    let Err(error) = pull_as_user(&scope, &name).await else { bail!("it was pulled") };
    ensure!(storage.heads()?.iter().any(|head| head.contains(SIGNATURE)), "the redirect was not followed");
    let log = std::fs::read_to_string(scope.bed.dir.join(format!("logs/{}.log", scope.bed.server())))?;
    for (what, said) in [("the error", format!("{error:?}")), ("the log", log)] {
        for secret in [SIGNATURE, PASSWORD, ENCODED] {
            ensure!(!said.contains(secret), "{secret} is in {what}");
        }
    }
    Ok(())
}
