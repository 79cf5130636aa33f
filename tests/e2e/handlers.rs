//! Runtime handlers, which RuntimeClasses refer to. The bed has `aside`, which is runc too, but has its own CNI
//! directory, base spec and lists of annotations.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;

use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, security, shell, sleeper};

const ASIDE: &str = "aside";
/// The prefix of the IP addresses of this handler's pods.
const ITS_NETWORK: &str = "10.214.";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_handlers_pods_have_the_network_of_its_own_directory),
        rule!(a_handlers_address_is_given_back),
        rule!(a_handlers_specs_start_from_its_own),
        rule!(only_the_annotations_that_a_handler_lists_are_in_specs),
        rule!(a_privileged_container_of_a_handler_may_have_no_host_devices),
        rule!(each_handler_is_in_the_status),
    ]
}

async fn pod(scope: &Scope) -> anyhow::Result<Pod> {
    scope.run_with(scope.pod_config(), ASIDE).await
}

async fn a_handlers_pods_have_the_network_of_its_own_directory(scope: Arc<Scope>) -> Outcome {
    let (default, aside) = (scope.pod().await?, pod(&scope).await?);
    let (default, its) = (default.ips().await?, aside.ips().await?);
    ensure!(its.len() == 1 && its[0].starts_with(ITS_NETWORK), "aside {its:?}");
    ensure!(!default[0].starts_with(ITS_NETWORK), "default {default:?}");
    let seen = aside.says(shell("main", "ip -4 -o addr show dev eth0 | awk '{ print $4 }'")).await?;
    ensure!(seen.trim() == format!("{}/24", its[0]), "in the pod {seen:?}, status {its:?}");
    Ok(())
}

/// The IPAM plugin host-local has a file for each address that is in use.
async fn a_handlers_address_is_given_back(scope: Arc<Scope>) -> Outcome {
    let pod = pod(&scope).await?;
    let ip = pod.ips().await?.remove(0);
    let networks = std::fs::read_dir(scope.bed.dir.join("cni/ipam"))?;
    let networks: Vec<_> = networks.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let taken = || networks.iter().any(|network| network.join(&ip).exists());
    ensure!(taken(), "{ip} is not taken in {networks:?}");
    pod.stop().await?;
    ensure!(!taken(), "{ip} is still taken");
    Ok(())
}

async fn a_handlers_specs_start_from_its_own(scope: Arc<Scope>) -> Outcome {
    let (default, aside) = (scope.pod().await?, pod(&scope).await?);
    let limit = || shell("main", "ulimit -n");
    let (default, its) = (default.says(limit()).await?, aside.says(limit()).await?);
    ensure!(its.trim() == "777" && default.trim() != "777", "aside {its:?}, default {default:?}");
    Ok(())
}

async fn only_the_annotations_that_a_handler_lists_are_in_specs(scope: Arc<Scope>) -> Outcome {
    let listed = |of: &str| {
        let keys = [format!("{of}.bed.example/key"), format!("{of}.other.example/key"), "org.example".to_owned()];
        keys.map(|key| (key, "value".to_owned()))
    };
    let mut config = scope.pod_config();
    config.annotations = HashMap::from(listed("pod"));
    let mut of_container = sleeper("main");
    of_container.annotations = HashMap::from(listed("container"));
    let pod = scope.run_with(config.clone(), ASIDE).await?;
    let id = pod.start(of_container.clone()).await?;
    let info = scope.bed.info(&id).await?;
    let annotations = info["runtimeSpec"]["annotations"].as_object().context("no annotations")?;
    let mut theirs: Vec<_> = annotations.keys().filter(|key| key.contains("example")).collect();
    theirs.sort();
    ensure!(theirs == ["container.bed.example/key", "pod.bed.example/key"], "{theirs:?}");
    pod.remove().await?;
    // The default handler lists no annotations.
    let pod = scope.run(config).await?;
    let id = pod.start(of_container).await?;
    let info = scope.bed.info(&id).await?;
    ensure!(!info["runtimeSpec"]["annotations"].to_string().contains("example"), "{}", info["runtimeSpec"]);
    Ok(())
}

async fn a_privileged_container_of_a_handler_may_have_no_host_devices(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let count = || {
        let mut container = shell("main", "find /dev -type b -o -type c | wc -l");
        security(&mut container).privileged = true;
        container
    };
    let aside = scope.run_with(config.clone(), ASIDE).await?.says(count()).await?;
    let mut other = scope.pod_config();
    other.linux = config.linux;
    let default = scope.run(other).await?.says(count()).await?;
    let (aside, default): (u32, u32) = (aside.trim().parse()?, default.trim().parse()?);
    // A container's own devices are null, zero, full, random, urandom, tty, and those of devpts.
    ensure!(aside < 12 && default > aside, "aside {aside}, default {default}");
    Ok(())
}

async fn each_handler_is_in_the_status(scope: Arc<Scope>) -> Outcome {
    let status = scope.bed.runtime().status(v1::StatusRequest { verbose: false }).await?.into_inner();
    let mut names: Vec<&str> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    names.sort_unstable();
    ensure!(names == ["", ASIDE, "runc"], "{names:?}");
    let of = |name: &str| status.runtime_handlers.iter().find(|handler| handler.name == name).map(|h| &h.features);
    ensure!(of(ASIDE) == of("runc"), "both are runc: {:?}", status.runtime_handlers);
    Ok(())
}
