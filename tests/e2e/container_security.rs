//! What a container may do: user and groups, capabilities, privileged, read-only root, no_new_privs, masked paths.

use std::sync::Arc;

use anyhow::{bail, ensure};
use pontoon::api::v1;
use pontoon::api::v1::ContainerConfig;

use crate::bed::Target;
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, security, shell};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(runs_as_a_uid),
        rule!(runs_as_a_user_by_name_with_its_groups),
        rule!(runs_with_a_group_and_supplemental_groups),
        rule!(an_images_user_is_the_default),
        rule!(an_unknown_user_is_an_error),
        rule!(a_group_without_a_user_is_an_error),
        rule!(capabilities_are_added_and_dropped),
        rule!(a_user_who_is_not_root_has_no_effective_capabilities),
        rule!(ambient_capabilities_are_raised).only_pontoon("the built-in drops them"),
        rule!(privileged_has_devices_capabilities_and_writable_sys),
        rule!(a_privileged_container_needs_a_privileged_pod),
        rule!(a_read_only_root_cannot_be_written),
        rule!(no_new_privs_is_set),
        rule!(masked_and_read_only_paths_are),
        rule!(the_default_seccomp_profile_is_applied),
    ]
}

const STATUS: &str = "grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status";

/// The values of a key of /proc/self/status in the output of a container.
fn field<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or("").split_whitespace().collect()
}

async fn status(pod: &Pod, change: impl FnOnce(&mut ContainerConfig)) -> anyhow::Result<String> {
    status_as(pod, "main", change).await
}

async fn status_as(pod: &Pod, name: &str, change: impl FnOnce(&mut ContainerConfig)) -> anyhow::Result<String> {
    let mut config = shell(name, STATUS);
    change(&mut config);
    pod.says(config).await
}

async fn runs_as_a_uid(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |c| security(c).run_as_user = Some(v1::Int64Value { value: 12_345 })).await?;
    ensure!(field(&said, "Uid") == ["12345"; 4] && field(&said, "Gid") == ["0"; 4], "{said}");
    Ok(())
}

async fn runs_as_a_user_by_name_with_its_groups(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |c| security(c).run_as_username = "www-data".into()).await?;
    ensure!(field(&said, "Uid") == ["33"; 4] && field(&said, "Gid") == ["33"; 4], "{said}");
    Ok(())
}

async fn runs_with_a_group_and_supplemental_groups(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |config| {
        let security = security(config);
        security.run_as_user = Some(v1::Int64Value { value: 1000 });
        security.run_as_group = Some(v1::Int64Value { value: 2000 });
        security.supplemental_groups = vec![3000, 4000];
    })
    .await?;
    ensure!(field(&said, "Uid")[0] == "1000" && field(&said, "Gid") == ["2000"; 4], "{said}");
    let groups = field(&said, "Groups");
    ensure!(groups.contains(&"3000") && groups.contains(&"4000"), "{said}");
    Ok(())
}

async fn an_images_user_is_the_default(scope: Arc<Scope>) -> Outcome {
    let image = "gcr.io/k8s-staging-cri-tools/test-image-user-uid-group:latest";
    scope.bed.pull(image).await?;
    let pod = scope.pod().await?;
    let said = status(&pod, |config| config.image = Some(crate::bed::image_spec(image))).await?;
    ensure!(field(&said, "Uid")[0] == "1003" && field(&said, "Gid")[0] == "1004", "{said}");
    Ok(())
}

async fn an_unknown_user_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |config| security(config).run_as_username = "nobody-has-this-name".into()).await;
    let Err(error) = said else { bail!("it ran") };
    // The built-in's error does not have the name; it says that there are no users.
    let named = format!("{error:#}").contains("nobody-has-this-name") || scope.bed.target == Target::Builtin;
    ensure!(named, "{error:#}");
    Ok(())
}

async fn a_group_without_a_user_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |config| security(config).run_as_group = Some(v1::Int64Value { value: 2000 })).await;
    ensure!(said.is_err(), "it ran");
    Ok(())
}

fn bits(text: &str, key: &str) -> u64 {
    field(text, key).first().and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(u64::MAX)
}

async fn capabilities_are_added_and_dropped(scope: Arc<Scope>) -> Outcome {
    const CHOWN: u64 = 1;
    const NET_ADMIN: u64 = 1 << 12;
    let pod = scope.pod().await?;
    let default = status(&pod, |_| ()).await?;
    ensure!(bits(&default, "CapEff") == 0xa80425fb, "the default set: {default}");
    let changed = status_as(&pod, "changed", |config| {
        security(config).capabilities = Some(v1::Capability {
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["CHOWN".into()],
            ..Default::default()
        });
    })
    .await?;
    ensure!(bits(&changed, "CapEff") == (0xa80425fb | NET_ADMIN) & !CHOWN, "{changed}");
    let none = status_as(&pod, "none", |config| {
        security(config).capabilities = Some(v1::Capability {
            add_capabilities: vec!["NET_BIND_SERVICE".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        });
    })
    .await?;
    ensure!(bits(&none, "CapEff") == 1 << 10 && bits(&none, "CapBnd") == 1 << 10, "{none}");
    Ok(())
}

async fn a_user_who_is_not_root_has_no_effective_capabilities(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |c| security(c).run_as_user = Some(v1::Int64Value { value: 1000 })).await?;
    ensure!(bits(&said, "CapEff") == 0, "{said}");
    Ok(())
}

async fn ambient_capabilities_are_raised(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let ambient = async |name: &str, wanted: &str| {
        let said = status_as(&pod, name, |c| {
            let context = security(c);
            context.run_as_user = Some(v1::Int64Value { value: 1000 });
            context.capabilities = Some(v1::Capability {
                // An ambient capability is kept even if `drop_capabilities` names it.
                drop_capabilities: vec!["ALL".into(), "NET_BIND_SERVICE".into()],
                add_ambient_capabilities: vec![wanted.into()],
                ..Default::default()
            });
        });
        said.await
    };
    let one = ambient("one", "NET_BIND_SERVICE").await?;
    for set in ["CapAmb", "CapEff", "CapBnd"] {
        ensure!(field(&one, set) == ["0000000000000400"], "{one}");
    }
    let all = ambient("all", "all").await?;
    ensure!(field(&all, "CapAmb") == field(&all, "CapBnd") && field(&all, "CapAmb") != field(&one, "CapAmb"), "{all}");
    Ok(())
}

async fn privileged_has_devices_capabilities_and_writable_sys(scope: Arc<Scope>) -> Outcome {
    let mut config = scope.pod_config();
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = scope.run(config).await?;
    let mut config = shell(
        "main",
        &format!(
            "{STATUS}; [ -e /dev/kmsg ] && echo kmsg; grep -E ' /sys (sysfs|.* sysfs)' /proc/mounts; mount -t tmpfs none /mnt 2>&1 || mkdir /m && mount -t tmpfs none /m && echo mounted"
        ),
    );
    security(&mut config).privileged = true;
    let said = pod.says(config).await?;
    let own = std::fs::read_to_string("/proc/self/status")?;
    ensure!(bits(&said, "CapEff") == bits(&own, "CapBnd"), "{said}");
    ensure!(field(&said, "Seccomp") == ["0"], "{said}");
    ensure!(said.contains("kmsg") && said.contains("mounted") && said.contains("rw"), "{said}");
    Ok(())
}

async fn a_privileged_container_needs_a_privileged_pod(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |config| security(config).privileged = true).await;
    ensure!(said.is_err(), "it ran");
    Ok(())
}

async fn a_read_only_root_cannot_be_written(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "touch /file 2>&1; touch /dev/shm/file && echo shm");
    security(&mut config).readonly_rootfs = true;
    let said = pod.says(config).await?;
    ensure!(said.contains("Read-only file system") && said.ends_with("shm\n"), "{said}");
    Ok(())
}

async fn no_new_privs_is_set(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let said = status(&pod, |_| ()).await?;
    ensure!(field(&said, "NoNewPrivs") == ["0"], "without: {said}");
    let said = status_as(&pod, "set", |config| {
        security(config).no_new_privs = true;
    })
    .await?;
    ensure!(field(&said, "NoNewPrivs") == ["1"], "with: {said}");
    Ok(())
}

async fn masked_and_read_only_paths_are(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "wc -c </etc/passwd; ls /home | wc -l; touch /var/log/file 2>&1; true");
    security(&mut config).masked_paths = vec!["/etc/passwd".into(), "/home".into()];
    security(&mut config).readonly_paths = vec!["/var/log".into()];
    let said = pod.says(config).await?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[0] == "0" && lines[1] == "0" && lines[2].contains("Read-only"), "{said}");
    Ok(())
}

async fn the_default_seccomp_profile_is_applied(scope: Arc<Scope>) -> Outcome {
    use v1::security_profile::ProfileType;
    let pod = scope.pod().await?;
    for (name, profile, expected) in
        [("default", ProfileType::RuntimeDefault, "2"), ("none", ProfileType::Unconfined, "0")]
    {
        let said = status_as(&pod, name, |config| {
            security(config).seccomp = Some(v1::SecurityProfile { profile_type: profile.into(), ..Default::default() });
        })
        .await?;
        ensure!(field(&said, "Seccomp") == [expected], "{name}: {said}");
    }
    Ok(())
}
