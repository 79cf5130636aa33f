//! AppArmor, if the kernel has it. cgroup2.sh boots a kernel that does.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use pontoon::api::v1::ContainerConfig;
use pontoon::api::v1::security_profile::ProfileType;
use pontoon::lsm::apparmor::{DEFAULT_PROFILE, is_enabled};
use tonic::Code;

use crate::bad_input::refused;
use crate::bed::{Target, output};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, security, shell, sleeper};

const CURRENT: &str = "cat /proc/self/attr/current";
/// A profile that the tests load.
const DENIES_WRITES: &str = "pontoon-e2e-deny-write";

pub fn tests() -> Vec<Test> {
    let all = vec![
        rule!(a_container_that_asks_for_nothing_has_the_default_profile),
        rule!(the_default_profile_confines),
        rule!(the_default_profile_is_loaded_again_when_it_was_removed).alone(),
        rule!(unconfined_and_privileged_containers_have_no_profile),
        rule!(a_loaded_profile_confines_a_privileged_container_too).within(180),
        rule!(a_pods_profile_is_its_pause_process).only_pontoon("the built-in does not look at it"),
        rule!(x8_a_profile_that_is_not_loaded_is_an_error),
    ];
    all.into_iter().map(|test| test.only_if(is_enabled(), "the kernel has no AppArmor")).collect()
}

fn profile(kind: ProfileType, name: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
}

/// Runs a script in a new container of the pod, and returns what it prints.
async fn says(
    pod: &Pod,
    name: &str,
    script: &str,
    change: impl FnOnce(&mut ContainerConfig),
) -> anyhow::Result<String> {
    let mut config = shell(name, script);
    change(&mut config);
    Ok(pod.says(config).await?.trim().to_owned())
}

fn default_profile(scope: &Scope) -> String {
    let name = match scope.bed.target {
        Target::Pontoon => DEFAULT_PROFILE,
        Target::Builtin => "cri-containerd.apparmor.d",
    };
    format!("{name} (enforce)")
}

async fn privileged_pod(scope: &Scope) -> anyhow::Result<Pod> {
    let mut config = scope.pod_config();
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    scope.run(config).await
}

async fn a_container_that_asks_for_nothing_has_the_default_profile(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let silent = says(&pod, "silent", CURRENT, |_| ()).await?;
    let asked = says(&pod, "asked", CURRENT, |config| {
        security(config).apparmor = profile(ProfileType::RuntimeDefault, "");
    })
    .await?;
    ensure!([&silent, &asked] == [&default_profile(&scope); 2], "{silent}, {asked}");
    let id = pod.start(sleeper("exec")).await?;
    let exec = scope.bed.sh(&id, CURRENT).await?;
    ensure!(exec == default_profile(&scope), "exec: {exec}");
    Ok(())
}

/// The container has all capabilities, and no masked or read-only paths, so that only the profile restricts it.
async fn the_default_profile_confines(scope: Arc<Scope>) -> Outcome {
    const SCRIPT: &str = "mount -t tmpfs none /mnt 2>/dev/null && echo mounted
        cat /proc/kcore 2>/dev/null | head -c 1 | grep -q . && echo kcore
        echo 1 2>/dev/null >/proc/sys/vm/drop_caches && echo vm
        echo x 2>/dev/null >/proc/sys/kernel/hostname && echo kernel
        cat /sys/kernel/security/apparmor/profiles >/dev/null 2>&1 && echo security
        sleep 60 & kill $! && echo signal
        echo 0 >/proc/self/oom_score_adj && echo own
        touch /tmp/file && echo file";
    let pod = scope.pod().await?;
    let wide = |config: &mut ContainerConfig| {
        let context = security(config);
        context.capabilities = Some(v1::Capability { add_capabilities: vec!["ALL".into()], ..Default::default() });
        (context.masked_paths, context.readonly_paths) = (Vec::new(), Vec::new());
    };
    let said = says(&pod, "main", SCRIPT, wide).await?;
    ensure!(said.lines().collect::<Vec<_>>() == ["signal", "own", "file"], "{said}");
    let unconfined = says(
        &pod,
        "unconfined",
        "mount -t tmpfs none /mnt 2>&1 || mkdir /m && mount -t tmpfs none /m && echo mounted",
        |config| {
            wide(config);
            security(config).apparmor = profile(ProfileType::Unconfined, "");
        },
    )
    .await?;
    ensure!(unconfined.ends_with("mounted"), "without the profile: {unconfined}");
    Ok(())
}

/// For example, `aa-remove-unknown` removes the profile.
async fn the_default_profile_is_loaded_again_when_it_was_removed(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    says(&pod, "before", CURRENT, |_| ()).await?;
    let expected = default_profile(&scope);
    let name = expected.split(' ').next().unwrap_or_default();
    std::fs::write("/sys/kernel/security/apparmor/.remove", name).context("remove the profile")?;
    let said = says(&pod, "after", CURRENT, |_| ()).await?;
    ensure!(said == expected, "{said}");
    Ok(())
}

async fn unconfined_and_privileged_containers_have_no_profile(scope: Arc<Scope>) -> Outcome {
    let pod = privileged_pod(&scope).await?;
    for (name, kind, privileged) in [
        ("unconfined", Some(ProfileType::Unconfined), false),
        ("privileged", None, true),
        ("privileged-default", Some(ProfileType::RuntimeDefault), true),
    ] {
        let said = says(&pod, name, CURRENT, |config| {
            security(config).privileged = privileged;
            security(config).apparmor = kind.and_then(|kind| profile(kind, ""));
        })
        .await?;
        ensure!(said == "unconfined", "{name}: {said}");
    }
    Ok(())
}

async fn load(scope: &Scope) -> Outcome {
    let file = scope.dir().join("profile");
    let text = format!("profile {DENIES_WRITES} flags=(attach_disconnected) {{\n  file,\n  deny /tmp/** w,\n}}\n");
    std::fs::write(&file, text)?;
    output(tokio::process::Command::new("apparmor_parser").arg("-rK").arg(&file)).await.map(drop)
}

#[allow(deprecated, reason = "apparmor_profile is still part of CRI")]
async fn a_loaded_profile_confines_a_privileged_container_too(scope: Arc<Scope>) -> Outcome {
    load(&scope).await?;
    let pod = privileged_pod(&scope).await?;
    let script = format!("{CURRENT}; touch /tmp/file 2>/dev/null && echo written; true");
    for (name, privileged) in [("plain", false), ("privileged", true)] {
        for prefix in ["", "localhost/"] {
            let container = format!("{name}-{}", prefix.len());
            let said = says(&pod, &container, &script, |config| {
                security(config).privileged = privileged;
                security(config).apparmor = profile(ProfileType::Localhost, &format!("{prefix}{DENIES_WRITES}"));
            })
            .await?;
            ensure!(said == format!("{DENIES_WRITES} (enforce)"), "{container}: {said}");
        }
    }
    let old = says(&pod, "old-field", &script, |config| {
        security(config).apparmor_profile = format!("localhost/{DENIES_WRITES}");
    })
    .await?;
    ensure!(old == format!("{DENIES_WRITES} (enforce)"), "{old}");
    Ok(())
}

async fn x8_a_profile_that_is_not_loaded_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = privileged_pod(&scope).await?;
    // The last two names: neither a prefix of a loaded profile's name nor a path to a profile file is that profile.
    let names =
        ["pontoon-e2e-missing", "localhost/pontoon-e2e-missing", "pontoon-e2e", "../../etc/apparmor.d/lsb_release"];
    for (index, name) in names.into_iter().enumerate() {
        for privileged in [false, true] {
            let mut config = shell(&format!("c{index}-{privileged}"), CURRENT);
            security(&mut config).privileged = privileged;
            security(&mut config).apparmor = profile(ProfileType::Localhost, name);
            let Err(error) = pod.create(config).await else { bail!("{name} was taken") };
            let shown = name.trim_start_matches("localhost/");
            ensure!(format!("{error:#}").contains(shown), "{error:#}");
        }
    }
    ensure!(Path::new("/sys/kernel/security/apparmor/profiles").exists());
    Ok(())
}

async fn a_pods_profile_is_its_pause_process(scope: Arc<Scope>) -> Outcome {
    let run = async |kind: ProfileType, name: &str| {
        let mut config = scope.pod_config();
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().apparmor = profile(kind, name);
        scope.run(config).await
    };
    let confined = async |pod: &Pod| -> anyhow::Result<String> {
        let tasks = scope.bed.ctr(&["tasks", "list"]).await?;
        let pause = tasks.lines().find(|line| line.starts_with(&pod.id)).context("no pause task")?;
        let pid = pause.split_whitespace().nth(1).context("no pid")?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/attr/current"))?.trim().to_owned())
    };
    let asked = confined(&run(ProfileType::RuntimeDefault, "").await?).await?;
    ensure!(asked == default_profile(&scope), "{asked}");
    let silent = confined(&scope.pod().await?).await?;
    ensure!(silent == "unconfined", "{silent}");
    let Err(error) = run(ProfileType::Localhost, "no-such-profile").await else { bail!("it was taken") };
    refused::<()>(&scope, Err(error), Code::InvalidArgument, "no-such-profile")
}
