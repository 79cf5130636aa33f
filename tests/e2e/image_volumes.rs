//! Images mounted as volumes, and volumes that images declare.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use serde_json::json;
use tonic::Code;

use crate::bed::{BUSYBOX, Target, image_spec};
use crate::harness::{Outcome, Test, rule};
use crate::images::layer_of;
use crate::node::Node;
use crate::registry::{Registry, Says};
use crate::scope::{Scope, shell, sleeper};

const PREFIX: &str = "the built-in puts words before the prefix that kubelet looks for";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(an_image_is_mounted_read_only),
        rule!(a_directory_of_an_image_is_mounted),
        rule!(options_of_an_image_mount_are_applied)
            .only_pontoon("a field of CRI 0.37, which the built-in does not have"),
        rule!(two_containers_mount_one_image),
        rule!(an_image_mount_that_cannot_be_says_so_first).alone(),
        rule!(the_prefix_is_the_first_word).only_pontoon(PREFIX),
        rule!(a_removed_image_stays_mounted),
        rule!(what_was_mounted_is_gone_after_the_removal).alone(),
        rule!(after_a_kill_an_image_is_unmounted).alone().only_pontoon("the built-in cannot be killed alone"),
        rule!(cve_2021_41103_no_user_of_the_node_reaches_a_mounted_image),
        rule!(cve_2017_1002101_no_sub_path_leads_out_of_the_image).alone(),
        rule!(cve_2022_23648_a_volume_of_an_image_shows_nothing_of_the_host),
    ]
}

/// A mount of an image by its ID, as kubelet requests it.
async fn image(scope: &Scope, path: &str, sub_path: &str) -> anyhow::Result<v1::Mount> {
    let id = scope.bed.pull(BUSYBOX).await?;
    Ok(v1::Mount {
        container_path: path.to_owned(),
        readonly: true,
        image: Some(image_spec(&id)),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    })
}

/// Mount points of images on the node, below the bed's directory.
fn mounted(scope: &Scope) -> anyhow::Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let ours = points.filter(|point| Path::new(point).starts_with(&scope.bed.dir) && point.contains("image-volumes"));
    Ok(ours.map(str::to_owned).collect())
}

async fn an_image_is_mounted_read_only(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let script = "ls /image/bin/busybox; touch /image/file 2>&1; /image/bin/busybox echo runs";
    let mut config = shell("main", script);
    config.mounts = vec![image(&scope, "/image", "").await?];
    let wanted = config.mounts[0].image.clone().context("image")?.image;
    let log = pod.log(&config);
    let id = pod.start(config).await?;
    scope.bed.exited(&id).await?;
    let said = crate::logs::text(&log)?;
    ensure!(said.starts_with("/image/bin/busybox\n") && said.ends_with("\nruns\n"), "{said}");
    ensure!(said.contains("Read-only file system"), "{said}");
    let mounts = scope.bed.status(&id).await?.mounts;
    let found = mounts.iter().find(|mount| mount.container_path == "/image").context("no mount in the status")?;
    let told = found.image.as_ref().context("no image in the mount")?;
    ensure!(told.image == wanted, "{found:?}");
    // A field of CRI 0.37, which the built-in leaves empty.
    ensure!(scope.bed.target == Target::Builtin || told.image_ref == wanted, "{found:?}");
    Ok(())
}

async fn a_directory_of_an_image_is_mounted(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "ls -d /data/*; cat /data/passwd | head -n 1; ls /data/bin 2>/dev/null | wc -l");
    config.mounts = vec![image(&scope, "/data", "etc").await?];
    let said = pod.says(config).await?;
    ensure!(said.contains("/data/passwd\n") && said.contains("root:") && said.ends_with("\n0\n"), "{said}");
    Ok(())
}

async fn options_of_an_image_mount_are_applied(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "grep ' /data ' /proc/self/mounts; /data/bin/busybox true 2>&1; true");
    let options = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    config.mounts = vec![v1::Mount { mount_options: options.clone(), ..image(&scope, "/data", "").await? }];
    let said = pod.says(config).await?;
    let found: Vec<&str> = said.split([' ', ',', '\n']).collect();
    ensure!(options.iter().all(|option| found.contains(&option.as_str())) && found.contains(&"ro"), "{said}");
    ensure!(said.contains("Permission denied"), "{said}");
    Ok(())
}

async fn two_containers_mount_one_image(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (mut first, mut second) = (sleeper("first"), sleeper("second"));
    first.mounts = vec![image(&scope, "/a", "").await?, image(&scope, "/b", "etc").await?];
    second.mounts = vec![image(&scope, "/a", "").await?];
    let (first, second) = (pod.start(first).await?, pod.start(second).await?);
    scope.bed.sh(&first, "test -x /a/bin/busybox && test -e /b/passwd").await?;
    scope.bed.stop(&first, 0).await?;
    scope.bed.remove(&first).await?;
    scope.bed.sh(&second, "test -x /a/bin/busybox").await?;
    Ok(())
}

/// Mounts that must be refused, each with the error's code and a word of its message.
async fn impossible(scope: &Scope) -> anyhow::Result<Vec<(v1::Mount, Code, &'static str)>> {
    let good = image(scope, "/image", "").await?;
    let sub = |path: &str| v1::Mount { image_sub_path: path.to_owned(), ..good.clone() };
    let missing = Some(image_spec("registry.k8s.io/not-there:1"));
    Ok(vec![
        (v1::Mount { readonly: false, ..good.clone() }, Code::InvalidArgument, "readonly"),
        (v1::Mount { host_path: "/etc".to_owned(), ..good.clone() }, Code::InvalidArgument, "host_path"),
        (v1::Mount { image: missing, ..good.clone() }, Code::NotFound, "not-there"),
        (sub("not/there"), Code::InvalidArgument, "image_sub_path"),
        (sub("etc/passwd"), Code::InvalidArgument, "image_sub_path"),
        (sub("/etc"), Code::InvalidArgument, "image_sub_path"),
        (sub("../etc"), Code::InvalidArgument, "image_sub_path"),
    ])
}

/// Creates a container, which must be refused. Returns the gRPC status of the error.
async fn refusal(pod: &crate::scope::Pod, mount: v1::Mount) -> anyhow::Result<tonic::Status> {
    let mut config = sleeper("main");
    config.mounts = vec![mount.clone()];
    match pod.create(config).await {
        Ok(id) => bail!("{mount:?} was taken: {id}"),
        Err(error) => Ok(error.downcast_ref::<tonic::Status>().context("no gRPC status")?.clone()),
    }
}

async fn an_image_mount_that_cannot_be_says_so_first(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let before = Node::look(&scope.bed).await?;
    for (mount, code, word) in impossible(&scope).await? {
        let status = refusal(&pod, mount).await?;
        if scope.bed.target == Target::Pontoon {
            ensure!(status.code() == code && status.message().contains(word), "{word}: {status:?}");
        }
    }
    if scope.bed.target == Target::Pontoon {
        // The first of these calls creates the directory of all image mounts, which stays.
        before.is_back_but_for(&scope.bed, |line| line.ends_with("/run/image-volumes")).await?;
    }
    Ok(())
}

async fn the_prefix_is_the_first_word(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (mount, _, _) in impossible(&scope).await? {
        let status = refusal(&pod, mount).await?;
        ensure!(status.message().starts_with("ImageVolumeMountFailed: config.mounts[0]."), "{status:?}");
    }
    Ok(())
}

/// containerd's garbage collection deletes what nothing refers to. The view of a mounted image must have a reference.
async fn a_removed_image_stays_mounted(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let (layer, diff_id) = crate::images::layer(&scope, "in the image").await?;
    let name = registry.image("volume", &layer, &diff_id)?;
    scope.bed.pull(&name).await?;
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.mounts = vec![v1::Mount {
        container_path: "/data".to_owned(),
        readonly: true,
        image: Some(image_spec(&name)),
        ..Default::default()
    }];
    let id = pod.start(config).await?;
    scope.bed.remove_image(&name).await?;
    scope.bed.ctr(&["content", "prune", "references"]).await?;
    let said = scope.bed.sh(&id, "cat /data/file").await?;
    ensure!(said == "in the image", "{said}");
    let mounts = scope.bed.status(&id).await?.mounts;
    ensure!(mounts.iter().any(|mount| mount.container_path == "/data" && mount.image.is_some()), "{mounts:?}");
    Ok(())
}

async fn what_was_mounted_is_gone_after_the_removal(scope: Arc<Scope>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.mounts = vec![image(&scope, "/a", "").await?, image(&scope, "/b", "etc").await?];
    pod.start(config).await?;
    ensure!(!mounted(&scope)?.is_empty(), "nothing is mounted on the node");
    pod.stop().await?;
    ensure!(mounted(&scope)?.is_empty(), "after the stop: {:?}", mounted(&scope)?);
    scope.remove_pods().await?;
    before.is_back_but_for(&scope.bed, |line| line.trim_end_matches('/').ends_with("image-volumes")).await
}

async fn after_a_kill_an_image_is_unmounted(scope: Arc<Scope>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    let pod = scope.pod().await?;
    let (mut created, mut running) = (sleeper("created"), sleeper("running"));
    created.mounts = vec![image(&scope, "/a", "").await?];
    running.mounts = vec![image(&scope, "/a", "etc").await?];
    let created = pod.create(created).await?;
    let running = pod.start(running).await?;
    scope.bed.daemon("daemon", "kill").await?;
    // A leftover of a container that another client of containerd removed.
    let stale = scope.bed.dir.join("run/image-volumes").join("e".repeat(64)).join("0");
    std::fs::create_dir_all(&stale)?;
    scope.bed.daemon("daemon", "start").await?;
    ensure!(!stale.exists(), "{} is still there", stale.display());
    scope.bed.sh(&running, "test -e /a/passwd").await?;
    scope.bed.start(&created).await?;
    scope.bed.sh(&created, "test -x /a/bin/busybox").await?;
    scope.bed.daemon("daemon", "kill").await?;
    scope.bed.daemon("daemon", "start").await?;
    scope.remove_pods().await?;
    ensure!(mounted(&scope)?.is_empty(), "{:?}", mounted(&scope)?);
    before.is_back_but_for(&scope.bed, |line| line.trim_end_matches('/').ends_with("image-volumes")).await
}

/// Creates a directory on the node whose content no container may see, and symlinks in `root` that lead there or out of
/// the image. Returns the directory.
fn bait(scope: &Scope, root: &Path) -> anyhow::Result<std::path::PathBuf> {
    let secret = scope.volume("secret")?;
    std::fs::write(secret.join("secret"), "of the host")?;
    std::fs::create_dir_all(root)?;
    let climbing = format!("/../../../../../../../../../..{}", secret.display());
    for (link, to) in [("lnk", climbing.as_str()), ("root", "/"), ("up", "../../../../.."), ("magic", "/proc/1/root")] {
        std::os::unix::fs::symlink(to, root.join(link))?;
    }
    Ok(secret)
}

/// If users of the node could reach a mounted image, its set-user-ID files would run as root for them.
async fn cve_2021_41103_no_user_of_the_node_reaches_a_mounted_image(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    config.mounts = vec![image(&scope, "/a", "").await?];
    let id = pod.start(config).await?;
    // Other tests mount images at the same time. On the built-in the mounts belong to the pod, not to the container.
    let mut points = mounted(&scope)?;
    points.retain(|point| point.contains(&id) || point.contains(&pod.id));
    ensure!(!points.is_empty(), "nothing is mounted on the node");
    for point in points {
        let file = Path::new(&point).join("bin/busybox");
        ensure!(file.exists(), "{} is not there", file.display());
        let reach = format!("chroot --userspec=1000:1000 / /bin/ls {}", file.display());
        let reached = tokio::process::Command::new("sh").args(["-c", &reach]).output().await?;
        let said = String::from_utf8_lossy(&reached.stderr);
        ensure!(!reached.status.success() && said.contains("Permission denied"), "{reach}: {said}");
    }
    Ok(())
}

async fn cve_2017_1002101_no_sub_path_leads_out_of_the_image(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let root = scope.volume("layer")?;
    bait(&scope, &root)?;
    let (layer, diff_id) = layer_of(&scope, &root, &["--owner=0", "--group=0"]).await?;
    let name = registry.image("evil-links", &layer, &diff_id)?;
    scope.bed.pull(&name).await?;
    let pod = scope.pod().await?;
    for sub_path in ["lnk", "root", "up", "magic", "root/etc", "lnk/../..", "./up/../up"] {
        let mount = v1::Mount {
            container_path: "/data".to_owned(),
            readonly: true,
            image: Some(image_spec(&name)),
            image_sub_path: sub_path.to_owned(),
            ..Default::default()
        };
        refusal(&pod, mount).await.with_context(|| format!("sub path {sub_path}"))?;
    }
    Ok(())
}

async fn cve_2022_23648_a_volume_of_an_image_shows_nothing_of_the_host(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let root = scope.volume("layer")?;
    let secret = bait(&scope, &root)?;
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::create_dir_all(root.join("data"))?;
    std::fs::write(root.join("data/kept"), "of the image")?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let (layer, diff_id) = layer_of(&scope, &root, &["--owner=0", "--group=0"]).await?;
    // Another directory than the link's target: a volume mounted there would hide what is reached through the link.
    let other = scope.volume("other")?;
    std::fs::copy(secret.join("secret"), other.join("secret"))?;
    let climbing = format!("/../../../../../../../../..{}", other.display());
    let volumes = json!({ climbing: {}, "/lnk": {}, "/proc/../lnk": {}, "/data": {} });
    let config = json!({ "Cmd": ["/bin/busybox"], "Volumes": volumes });
    let name = registry.image_that_says("evil-volume", &layer, &diff_id, &Says { config, ..Says::default() })?;
    scope.bed.pull(&name).await?;
    let pod = scope.pod().await?;
    let (path, other) = (secret.display(), other.display());
    let script =
        format!("/bin/busybox find / -name secret -type f; /bin/busybox ls -A {path} {other} /lnk; cat /data/kept");
    let mut container = shell("main", &script.replace("; cat", "; /bin/busybox cat"));
    container.image = Some(image_spec(&name));
    container.command = ["/bin/busybox", "sh", "-c"].map(str::to_owned).to_vec();
    container.command.push(script.replace("; cat", "; /bin/busybox cat"));
    let log = pod.log(&container);
    // The built-in refuses some of these links, which is as good.
    let id = match pod.start(container).await {
        Ok(id) => id,
        Err(_) if scope.bed.target == Target::Builtin => return Ok(()),
        Err(error) => return Err(error),
    };
    scope.bed.exited(&id).await?;
    let said = crate::logs::text(&log)?;
    ensure!(!said.contains("/secret\n") && !said.lines().any(|line| line == "secret"), "{said}");
    ensure!(said.ends_with("of the image"), "{said}");
    Ok(())
}
