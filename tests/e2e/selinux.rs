//! SELinux, on kernels that have it with a loaded policy. cgroup2.sh can boot one.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use pontoon::lsm::selinux::{Context, Pair, contexts, label_of};

use crate::bed::{BUSYBOX, image_spec};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, security, shell, sleeper};

const CURRENT: &str = "cat /proc/self/attr/current";

pub fn tests() -> Vec<Test> {
    let all = vec![
        rule!(a_pods_containers_share_a_level_that_no_other_pod_has).within(180),
        rule!(a_level_outlives_the_daemon).alone().only_pontoon("the built-in's daemon is containerd itself"),
        rule!(a_containers_options_go_over_its_pods),
        rule!(options_that_the_policy_does_not_have_are_an_error),
        rule!(the_pods_files_and_the_root_have_its_level),
        rule!(cve_2021_43816_only_what_asks_for_it_is_relabelled),
        rule!(a_volume_that_has_its_label_is_not_walked)
            .only_pontoon("the built-in walks over every volume for every container"),
        rule!(the_node_itself_is_not_relabelled),
        rule!(a_new_file_has_the_pods_level),
        rule!(a_mounted_image_has_its_containers_level).only_pontoon("the built-in mounts it without a label"),
    ];
    all.into_iter().map(|test| test.only_if(contexts().is_some(), "the kernel has no SELinux")).collect()
}

async fn process_label(pod: &Pod, name: &str, options: Option<v1::SeLinuxOption>) -> anyhow::Result<Context> {
    let mut config = shell(name, CURRENT);
    security(&mut config).selinux_options = options;
    Ok(pod.says(config).await?.trim_matches(['\0', '\n']).parse()?)
}

fn file_label(path: &Path) -> anyhow::Result<String> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    label_of(&file)?.with_context(|| format!("{} has no label", path.display()))
}

fn level(level: &str) -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption { level: level.to_owned(), ..Default::default() })
}

fn volume(host: &Path, container: &str, selinux_relabel: bool) -> v1::Mount {
    v1::Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        selinux_relabel,
        ..Default::default()
    }
}

async fn a_pods_containers_share_a_level_that_no_other_pod_has(scope: Arc<Scope>) -> Outcome {
    let (pod, other) = (scope.pod().await?, scope.pod().await?);
    let (one, two) = (process_label(&pod, "one", None).await?, process_label(&pod, "two", None).await?);
    let there = process_label(&other, "there", None).await?;
    ensure!(one == two && one.kind == "container_t", "{one}, {two}");
    ensure!(one.level.as_deref().and_then(Pair::of).is_some(), "two categories: {one}");
    ensure!(one.level != there.level, "{one}, {there}");
    let id = pod.start(sleeper("exec")).await?;
    let exec = scope.bed.sh(&id, CURRENT).await?;
    ensure!(exec.trim_end_matches('\0') == one.to_string(), "exec: {exec}");
    Ok(())
}

async fn a_level_outlives_the_daemon(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let before = process_label(&pod, "before", None).await?;
    scope.bed.daemon("daemon", "kill").await?;
    scope.bed.daemon("daemon", "start").await?;
    let after = process_label(&pod, "after", None).await?;
    ensure!(before == after, "{before}, {after}");
    Ok(())
}

async fn a_containers_options_go_over_its_pods(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.selinux_options = level("s0:c800,c801");
    let pod = scope.run(config).await?;
    let inherited = process_label(&pod, "inherited", None).await?;
    ensure!(inherited.to_string() == "system_u:system_r:container_t:s0:c800,c801", "{inherited}");
    let own =
        v1::SeLinuxOption { r#type: "container_init_t".to_owned(), level: "s0:c5,c4".to_owned(), ..Default::default() };
    let own = process_label(&pod, "own", Some(own)).await?;
    ensure!(own.to_string() == "system_u:system_r:container_init_t:s0:c4,c5", "{own}");
    Ok(())
}

async fn options_that_the_policy_does_not_have_are_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let of_type = |kind: &str| Some(v1::SeLinuxOption { r#type: kind.to_owned(), ..Default::default() });
    for (name, options) in [
        ("words", level("s0,c4,c5")),
        ("category", level("s0:c1,c5000")),
        ("type", of_type("no_such_type_t")),
        ("colon", of_type("container_t:s0:c1,c2")),
    ] {
        let mut config = sleeper(name);
        security(&mut config).selinux_options = options;
        // The built-in refuses some of them only when the container starts.
        let run = pod.start(config).await;
        ensure!(run.is_err(), "{name} was taken");
    }
    Ok(())
}

async fn the_pods_files_and_the_root_have_its_level(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let label = process_label(&pod, "label", None).await?;
    let wanted = format!("system_u:object_r:container_file_t:{}", label.level.context("no level")?);
    let id = pod.start(sleeper("main")).await?;
    let root = format!("/proc/{}/root", scope.bed.pid_of(&id).await?);
    for path in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/etc/passwd", "/dev"] {
        let label = file_label(Path::new(&(root.clone() + path)))?;
        ensure!(label == wanted, "{path}: {label}, not {wanted}");
    }
    Ok(())
}

async fn cve_2021_43816_only_what_asks_for_it_is_relabelled(scope: Arc<Scope>) -> Outcome {
    let (asked, other) = (scope.volume("asked")?, scope.volume("other")?);
    let hosts = other.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n")?;
    std::fs::create_dir(asked.join("below"))?;
    std::os::unix::fs::symlink(&hosts, asked.join("link"))?;
    let before = [file_label(&other)?, file_label(&hosts)?];
    let pod = scope.pod().await?;
    let label = process_label(&pod, "label", None).await?;
    let wanted = format!("system_u:object_r:container_file_t:{}", label.level.context("no level")?);
    let mut config = sleeper("main");
    config.mounts =
        vec![volume(&asked, "/asked", true), volume(&other, "/other", false), volume(&hosts, "/etc/hosts", false)];
    pod.start(config).await?;
    ensure!([file_label(&asked)?, file_label(&asked.join("below"))?] == [wanted.clone(), wanted]);
    ensure!([file_label(&other)?, file_label(&hosts)?] == before, "{before:?} has changed");
    Ok(())
}

async fn a_volume_that_has_its_label_is_not_walked(scope: Arc<Scope>) -> Outcome {
    let data = scope.volume("data")?;
    let pod = scope.pod().await?;
    for name in ["first", "second"] {
        // A file created outside the container has another label.
        let file = data.join(name);
        std::fs::write(&file, "")?;
        let before = file_label(&file)?;
        let mut config = sleeper(name);
        config.mounts = vec![volume(&data, "/data", true)];
        pod.start(config).await?;
        let same = file_label(&file)? == before;
        ensure!(same == (name == "second"), "{name}: {before}, then {}", file_label(&file)?);
    }
    Ok(())
}

async fn the_node_itself_is_not_relabelled(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (index, path) in ["/", "/etc", "/usr", "/run"].into_iter().enumerate() {
        let before = label_of(File::open(path)?)?;
        let mut config = sleeper(&format!("c{index}"));
        config.mounts = vec![volume(Path::new(path), "/host", true)];
        let Err(error) = pod.create(config).await else { bail!("{path} was relabelled") };
        ensure!(format!("{error:#}").contains(path), "{error:#}");
        ensure!(label_of(File::open(path)?)? == before, "{path}");
    }
    Ok(())
}

async fn a_mounted_image_has_its_containers_level(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let label = process_label(&pod, "label", None).await?;
    let wanted = format!("system_u:object_r:container_file_t:{}", label.level.context("no level")?);
    let mut config = sleeper("main");
    let image = v1::Mount {
        container_path: "/image".to_owned(),
        readonly: true,
        image: Some(image_spec(BUSYBOX)),
        ..Default::default()
    };
    config.mounts = vec![
        image.clone(),
        v1::Mount { container_path: "/part".to_owned(), image_sub_path: "etc".to_owned(), ..image },
    ];
    let id = pod.start(config).await?;
    let root = format!("/proc/{}/root", scope.bed.pid_of(&id).await?);
    for path in ["/image", "/image/etc/passwd", "/part/passwd"] {
        let label = file_label(Path::new(&(root.clone() + path)))?;
        ensure!(label == wanted, "{path}: {label}, not {wanted}");
    }
    scope.bed.sh(&id, "/image/bin/busybox cat /part/passwd").await?;
    Ok(())
}

async fn a_new_file_has_the_pods_level(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let script = format!("{CURRENT} | tr -d '\\0'; echo; touch /data/file /dev/shm/file && echo written");
    let mut config = shell("main", &script);
    let data = scope.volume("data")?;
    config.mounts = vec![volume(&data, "/data", true)];
    let said = pod.says(config).await?;
    ensure!(said.ends_with("written\n"), "{said}");
    let label: Context = said.lines().next().unwrap_or_default().parse()?;
    // A new file gets its type from its directory, and its level from the process that creates it.
    let made: Context = file_label(&data.join("file"))?.parse()?;
    ensure!(made.kind == "container_file_t" && made.level == label.level, "{made}");
    Ok(())
}
