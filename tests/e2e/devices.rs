//! Devices of the host, and devices of the Container Device Interface (CDI).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use serde_json::json;
use tonic::Code;

use crate::bed::Target;
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Pod, Scope, security, shell};

const FEWER: &str = "the built-in refuses the container when it is started, not when it is made";

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_device_is_there_with_its_permissions),
        rule!(what_the_cgroup_does_not_allow_of_a_device_fails),
        rule!(a_link_and_a_directory_of_devices_can_be_asked_for),
        rule!(a_device_belongs_to_the_containers_user),
        rule!(a_device_that_is_none_is_refused).only_pontoon(FEWER),
        rule!(a_cdi_device_brings_what_its_spec_says),
        rule!(a_cdi_device_can_be_asked_for_by_an_annotation_of_the_container),
        rule!(cve_2026_53492_annotations_of_the_pod_bring_no_device),
        rule!(a_cdi_spec_that_changed_counts_at_once).only_pontoon("the built-in watches, and can be late"),
        rule!(an_unknown_cdi_device_is_named),
    ]
}

fn device(host: &str, container: &str, permissions: &str) -> v1::Device {
    v1::Device { host_path: host.to_owned(), container_path: container.to_owned(), permissions: permissions.to_owned() }
}

async fn a_device_is_there_with_its_permissions(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let script = "stat -c %t:%T /dev/mine; head -c 4 /dev/mine | wc -c; echo x >/dev/mine || echo refused";
    let mut config = shell("main", script);
    config.devices = vec![device("/dev/zero", "/dev/mine", "r")];
    let said = pod.says(config).await?;
    ensure!(said.starts_with("1:5\n4\n"), "{said}");
    Ok(())
}

/// The device node is that of FUSE (10:229), which is not among the devices that every container may use. It does not
/// matter whether the driver is loaded: the kernel checks the cgroup first.
async fn what_the_cgroup_does_not_allow_of_a_device_fails(scope: Arc<Scope>) -> Outcome {
    let node = scope.volume("devices")?.join("node");
    let made = tokio::process::Command::new("mknod").arg(&node).args(["c", "10", "229"]).status().await?;
    ensure!(made.success(), "mknod {}", node.display());
    let pod = scope.pod().await?;
    let script = r#"
        read=$(dd if=/dev/mine of=/dev/null count=0 2>&1)
        write=$(dd if=/dev/null of=/dev/mine conv=notrunc count=0 2>&1)
        mknod /dev/other c 10 237
        other=$(dd if=/dev/other of=/dev/null count=0 2>&1)
        for said in "$read" "$write" "$other"; do
            case $said in *"not permitted"*) echo denied;; *) echo allowed;; esac
        done"#;
    let mut config = shell("main", script);
    config.devices = vec![device(&node.display().to_string(), "/dev/mine", "r")];
    let said = pod.says(config).await?;
    ensure!(said == "allowed\ndenied\ndenied\n", "{said}");
    Ok(())
}

async fn a_link_and_a_directory_of_devices_can_be_asked_for(scope: Arc<Scope>) -> Outcome {
    let devices = scope.volume("devices")?;
    for (name, minor) in [("a", 3), ("sub/b", 5)] {
        let path = devices.join(name);
        std::fs::create_dir_all(path.parent().context("parent")?)?;
        let made =
            tokio::process::Command::new("mknod").arg(&path).args(["c", "1", &minor.to_string()]).status().await?;
        ensure!(made.success(), "mknod {}", path.display());
    }
    std::os::unix::fs::symlink("/dev/zero", devices.join("link"))?;
    let pod = scope.pod().await?;
    let script = "stat -c %t:%T /dev/many/a /dev/many/sub/b /dev/linked; head -c 2 /dev/many/sub/b | wc -c";
    let mut config = shell("main", script);
    let directory = devices.display().to_string();
    config.devices =
        vec![device(&directory, "/dev/many", "rw"), device(&format!("{directory}/link"), "/dev/linked", "r")];
    let said = pod.says(config).await?;
    ensure!(said == "1:3\n1:5\n1:5\n2\n", "{said}");
    Ok(())
}

/// `device_ownership_from_security_context`, which the beds' configuration enables.
async fn a_device_belongs_to_the_containers_user(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = shell("main", "stat -c %u:%g /dev/mine /dev/null");
    config.devices = vec![device("/dev/zero", "/dev/mine", "rw")];
    security(&mut config).run_as_user = Some(v1::Int64Value { value: 1234 });
    security(&mut config).run_as_group = Some(v1::Int64Value { value: 5678 });
    let said = pod.says(config).await?;
    ensure!(said == "1234:5678\n0:0\n", "{said}");
    Ok(())
}

async fn refusal(pod: &Pod, config: v1::ContainerConfig) -> anyhow::Result<tonic::Status> {
    match pod.create(config).await {
        Ok(id) => bail!("it was taken: {id}"),
        Err(error) => Ok(error.downcast_ref::<tonic::Status>().context("no gRPC status")?.clone()),
    }
}

async fn a_device_that_is_none_is_refused(scope: Arc<Scope>) -> Outcome {
    let file = scope.volume("data")?.join("file");
    std::fs::write(&file, "")?;
    let pod = scope.pod().await?;
    let file = file.display().to_string();
    for (one, field) in [
        (device("/dev/not-there", "/dev/x", "r"), "host_path"),
        (device(&file, "/dev/x", "r"), "host_path"),
        (device("/dev/null", "/dev/x", "q"), "permissions"),
        (device("/dev/null", "/dev/x", ""), "permissions"),
        (device("/dev/null", "x", "r"), "container_path"),
    ] {
        let mut config = shell("main", "true");
        config.devices = vec![device("/dev/zero", "/dev/y", "r"), one];
        let status = refusal(&pod, config).await?;
        ensure!(status.code() == Code::InvalidArgument, "{status:?}");
        ensure!(status.message().starts_with(&format!("config.devices[1].{field}: ")), "{status:?}");
    }
    Ok(())
}

/// Writes the CDI spec of the device `e2e.test/<kind>=0`, which sets an environment variable to this value.
pub fn spec(scope: &Scope, kind: &str, value: &str) -> anyhow::Result<PathBuf> {
    let directory = scope.bed.dir.join("cdi-etc");
    std::fs::create_dir_all(&directory)?;
    let data = scope.volume("cdi")?;
    std::fs::write(data.join("file"), "of the vendor\n")?;
    let spec = json!({
        "cdiVersion": "0.6.0",
        "kind": format!("e2e.test/{kind}"),
        "containerEdits": { "env": ["VENDOR=e2e"] },
        "devices": [{ "name": "0", "containerEdits": {
            "env": [format!("DEVICE={value}")],
            "deviceNodes": [{ "path": "/dev/vendor0", "hostPath": "/dev/zero", "permissions": "r" }],
            "mounts": [{ "hostPath": data, "containerPath": "/opt/vendor", "options": ["ro", "rbind", "rprivate"] }],
        }}],
    });
    let path = directory.join(format!("{kind}.json"));
    // Written atomically, as drivers do.
    std::fs::write(path.with_extension("new"), serde_json::to_vec(&spec)?)?;
    std::fs::rename(path.with_extension("new"), &path)?;
    Ok(path)
}

/// Runs a container. On the built-in it waits first, because a new spec may not have been read yet.
async fn says(pod: &Pod, scope: &Scope, config: v1::ContainerConfig) -> anyhow::Result<String> {
    if scope.bed.target == Target::Builtin {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    pod.says(config).await
}

const SHOW: &str =
    "echo $VENDOR $DEVICE; stat -c %t:%T /dev/vendor0; head -c 3 /dev/vendor0 | wc -c; cat /opt/vendor/file";
const SHOWN: &str = "e2e one\n1:5\n3\nof the vendor\n";

async fn a_cdi_device_brings_what_its_spec_says(scope: Arc<Scope>) -> Outcome {
    let file = spec(&scope, "field", "one")?;
    let pod = scope.pod().await?;
    let mut config = shell("main", SHOW);
    config.cdi_devices = vec![v1::CdiDevice { name: "e2e.test/field=0".to_owned() }];
    let said = says(&pod, &scope, config).await?;
    std::fs::remove_file(file)?;
    ensure!(said == SHOWN, "{said}");
    Ok(())
}

async fn a_cdi_device_can_be_asked_for_by_an_annotation_of_the_container(scope: Arc<Scope>) -> Outcome {
    let file = spec(&scope, "annotation", "one")?;
    let pod = scope.pod().await?;
    let mut config = shell("main", SHOW);
    config.annotations = HashMap::from([("cdi.k8s.io/plugin_x".to_owned(), "e2e.test/annotation=0".to_owned())]);
    let said = says(&pod, &scope, config).await?;
    std::fs::remove_file(file)?;
    ensure!(said == SHOWN, "{said}");
    Ok(())
}

/// Tenants write a pod's annotations. The container's own annotations come from kubelet's device plugins.
async fn cve_2026_53492_annotations_of_the_pod_bring_no_device(scope: Arc<Scope>) -> Outcome {
    let file = spec(&scope, "pod", "one")?;
    let mut config = scope.pod_config();
    config.annotations = HashMap::from([("cdi.k8s.io/mine".to_owned(), "e2e.test/pod=0".to_owned())]);
    let pod = scope.run(config).await?;
    let said = says(&pod, &scope, shell("main", "echo \"[$VENDOR]\"; ls /dev/vendor0 /opt/vendor 2>/dev/null | wc -l"))
        .await?;
    std::fs::remove_file(file)?;
    ensure!(said == "[]\n0\n", "{said}");
    Ok(())
}

async fn a_cdi_spec_that_changed_counts_at_once(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for value in ["one", "two"] {
        let file = spec(&scope, "changes", value)?;
        let mut config = shell(value, "echo $DEVICE");
        config.cdi_devices = vec![v1::CdiDevice { name: "e2e.test/changes=0".to_owned() }];
        let said = pod.says(config).await?;
        std::fs::remove_file(file)?;
        ensure!(said.trim() == value, "{said}");
    }
    Ok(())
}

async fn an_unknown_cdi_device_is_named(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (name, code) in [("e2e.test/none=0", Code::NotFound), ("no-name", Code::InvalidArgument)] {
        let mut config = shell("main", "true");
        config.cdi_devices = vec![v1::CdiDevice { name: name.to_owned() }];
        let status = refusal(&pod, config).await?;
        ensure!(status.message().contains(name), "{status:?}");
        if scope.bed.target == Target::Pontoon {
            ensure!(status.code() == code && status.message().starts_with("config.CDI_devices[0]"), "{status:?}");
        }
    }
    Ok(())
}
