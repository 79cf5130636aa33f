//! Requests that must be refused, with a code and a message that name the reason, and without leftovers.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use tonic::Code;

use crate::bed::{SOON, Target, image_spec, until};
use crate::harness::{Outcome, Test, rule};
use crate::images::layer;
use crate::node::Node;
use crate::registry::{Registry, digest};
use crate::scope::{Scope, busybox, security, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(a_pod_without_config_or_metadata).alone(),
        rule!(a_pod_with_a_handler_that_is_not_configured).alone(),
        rule!(a_pod_while_the_cni_configuration_cannot_be_read)
            .alone()
            .only_pontoon("the built-in cannot even stop a pod then"),
        rule!(a_container_without_config_metadata_or_image).alone(),
        rule!(a_container_of_an_image_that_is_not_there).alone(),
        rule!(a_container_with_a_relative_mount_path).alone().only_pontoon("the built-in takes it as below /"),
        rule!(a_container_of_an_unknown_user).alone(),
        rule!(unknown_ids).alone(),
        rule!(a_pull_with_a_wrong_password).alone(),
        rule!(a_pull_of_what_is_not_there).alone(),
        rule!(a_pull_of_a_layer_that_is_no_archive).alone(),
        rule!(a_pull_of_a_layer_with_another_digest).alone(),
        rule!(names_that_are_no_image_references).alone(),
    ]
}

/// Runs a case, removes the objects that the test created itself, and compares the node and containerd with before.
async fn leaving_nothing(scope: &Scope, case: impl Future<Output = Outcome>) -> Outcome {
    let before = Node::look(&scope.bed).await?;
    case.await?;
    scope.remove_pods().await?;
    before.is_back(&scope.bed).await
}

/// Checks that a call failed with this code and a message that names what is wrong. The built-in has other codes and
/// messages: there the call only has to fail.
pub fn refused<T: std::fmt::Debug>(scope: &Scope, result: anyhow::Result<T>, code: Code, names: &str) -> Outcome {
    let error = match result {
        Ok(answer) => bail!("{names}: it was taken: {answer:?}"),
        Err(error) => error,
    };
    let status = error.downcast_ref::<tonic::Status>().with_context(|| format!("no gRPC status: {error:#}"))?;
    if scope.bed.target == Target::Pontoon {
        ensure!(status.code() == code, "{names}: {:?} and not {code:?}: {}", status.code(), status.message());
        ensure!(status.message().contains(names), "'{names}' is not in: {}", status.message());
    }
    Ok(())
}

async fn run(scope: &Scope, config: Option<v1::PodSandboxConfig>, handler: &str) -> anyhow::Result<String> {
    let request = v1::RunPodSandboxRequest { config, runtime_handler: handler.to_owned() };
    Ok(scope.bed.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
}

async fn a_pod_without_config_or_metadata(scope: Arc<Scope>) -> Outcome {
    leaving_nothing(&scope, async {
        if scope.bed.target == Target::Pontoon {
            refused(&scope, run(&scope, None, "").await, Code::InvalidArgument, "config")?;
        }
        let mut config = scope.pod_config();
        config.metadata = None;
        refused(&scope, run(&scope, Some(config), "").await, Code::InvalidArgument, "metadata")
    })
    .await
}

async fn a_pod_with_a_handler_that_is_not_configured(scope: Arc<Scope>) -> Outcome {
    leaving_nothing(&scope, async {
        let result = run(&scope, Some(scope.pod_config()), "no-such-handler").await;
        refused(&scope, result, Code::InvalidArgument, "no-such-handler")?;
        ensure!(scope.pods().await?.is_empty(), "a pod is listed");
        Ok(())
    })
    .await
}

async fn network_ready(scope: &Scope) -> anyhow::Result<bool> {
    let status = scope.bed.runtime().status(v1::StatusRequest { verbose: false }).await?.into_inner();
    let conditions = status.status.context("status")?.conditions;
    Ok(conditions.iter().find(|c| c.r#type == "NetworkReady").context("no condition NetworkReady")?.status)
}

async fn a_pod_while_the_cni_configuration_cannot_be_read(scope: Arc<Scope>) -> Outcome {
    let file = scope.bed.dir.join("cni/net.d/10-bed.conflist");
    let good = std::fs::read(&file)?;
    let before = Node::look(&scope.bed).await?;
    let earlier = scope.pod().await?;
    std::fs::write(&file, "{ this is no JSON")?;
    // Restore the file whatever the result.
    let broken = while_broken(&scope, &earlier).await;
    std::fs::write(&file, good)?;
    broken?;
    until(SOON, || async {
        ensure!(network_ready(&scope).await?, "the network is not ready again");
        Ok(())
    })
    .await?;
    scope.pod().await?;
    scope.remove_pods().await?;
    before.is_back(&scope.bed).await
}

async fn while_broken(scope: &Scope, earlier: &crate::scope::Pod) -> Outcome {
    until(SOON, || async {
        ensure!(!network_ready(scope).await?, "the network is still ready");
        Ok(())
    })
    .await?;
    let result = run(scope, Some(scope.pod_config()), "").await;
    let Err(error) = result else { bail!("a pod runs without a network") };
    ensure!(format!("{error:#}").to_lowercase().contains("cni"), "{error:#}");
    ensure!(scope.pods().await?.len() == 1, "the refused pod is listed");
    // CNI DEL must use the configuration of the pod's ADD.
    earlier.stop().await?;
    earlier.remove().await
}

async fn create(scope: &Scope, change: impl FnOnce(&mut v1::CreateContainerRequest)) -> anyhow::Result<String> {
    let pod = scope.pod().await?;
    let mut request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(sleeper("main")),
        sandbox_config: Some(pod.config.clone()),
    };
    change(&mut request);
    let created = scope.bed.runtime().create_container(request).await;
    let filter = Some(v1::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() });
    let listed =
        scope.bed.runtime().list_containers(v1::ListContainersRequest { filter }).await?.into_inner().decoded()?;
    ensure!(created.is_ok() || listed.is_empty(), "the refused container is listed");
    Ok(created?.into_inner().container_id)
}

async fn a_container_without_config_metadata_or_image(scope: Arc<Scope>) -> Outcome {
    leaving_nothing(&scope, async {
        if scope.bed.target == Target::Pontoon {
            refused(&scope, create(&scope, |request| request.config = None).await, Code::InvalidArgument, "config")?;
        }
        let with = |change: fn(&mut v1::ContainerConfig)| {
            move |request: &mut v1::CreateContainerRequest| change(request.config.get_or_insert_default())
        };
        let result = create(&scope, with(|config| config.metadata = None)).await;
        refused(&scope, result, Code::InvalidArgument, "metadata")?;
        let result = create(&scope, with(|config| config.image = None)).await;
        refused(&scope, result, Code::InvalidArgument, "image")
    })
    .await
}

async fn a_container_of_an_image_that_is_not_there(scope: Arc<Scope>) -> Outcome {
    const ABSENT: &str = "registry.k8s.io/not-there:1";
    leaving_nothing(&scope, async {
        let result = create(&scope, |request| {
            request.config.get_or_insert_default().image = Some(image_spec(ABSENT));
        });
        refused(&scope, result.await, Code::NotFound, ABSENT)
    })
    .await
}

async fn a_container_with_a_relative_mount_path(scope: Arc<Scope>) -> Outcome {
    leaving_nothing(&scope, async {
        let result = create(&scope, |request| {
            request.config.get_or_insert_default().mounts = vec![v1::Mount {
                host_path: "/etc".into(),
                container_path: "relative/path".into(),
                ..Default::default()
            }];
        });
        refused(&scope, result.await, Code::InvalidArgument, "container_path")
    })
    .await
}

async fn a_container_of_an_unknown_user(scope: Arc<Scope>) -> Outcome {
    leaving_nothing(&scope, async {
        let result = create(&scope, |request| {
            let mut config = busybox("main", &["true"]);
            security(&mut config).run_as_username = "nobody-has-this-name".into();
            request.config = Some(config);
        });
        // On the built-in too, CreateContainer must fail, not only StartContainer.
        refused(&scope, result.await, Code::InvalidArgument, "nobody-has-this-name")
    })
    .await
}

async fn unknown_ids(scope: Arc<Scope>) -> Outcome {
    let id = "fedcba9876543210".repeat(4);
    leaving_nothing(&scope, async {
        let mut runtime = scope.bed.runtime();
        let pod_sandbox_id = id.clone();
        let result = runtime.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id, verbose: true }).await;
        refused(&scope, result.map_err(Into::into), Code::NotFound, &id)?;
        refused(&scope, scope.bed.status(&id).await, Code::NotFound, &id)?;
        refused(&scope, scope.bed.start(&id).await, Code::NotFound, &id)?;
        refused(&scope, scope.bed.exec(&id, &["true"], 1).await, Code::NotFound, &id)?;
        let result = runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.clone() }).await;
        refused(&scope, result.map_err(Into::into), Code::NotFound, &id)?;
        let linux = Some(v1::LinuxContainerResources { cpu_shares: 2, ..Default::default() });
        let request = v1::UpdateContainerResourcesRequest { container_id: id.clone(), linux, ..Default::default() };
        let result = runtime.update_container_resources(request).await;
        refused(&scope, result.map_err(Into::into), Code::NotFound, &id)?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(sleeper("main")),
            sandbox_config: Some(scope.pod_config()),
        };
        refused(&scope, runtime.create_container(request).await.map_err(Into::into), Code::NotFound, &id)?;
        // kubelet repeats these calls until they succeed.
        runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        Ok(())
    })
    .await
}

async fn a_pull_with_a_wrong_password(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    registry.require("dXNlcjpyaWdodA==")?;
    let (layer, diff_id) = layer(&scope, "behind a password").await?;
    let name = registry.image("locked", &layer, &diff_id)?;
    leaving_nothing(&scope, async {
        let auth =
            Some(v1::AuthConfig { username: "user".into(), password: "wr0ng-passw0rd".into(), ..Default::default() });
        let request = v1::PullImageRequest { image: Some(image_spec(&name)), auth, ..Default::default() };
        let result = scope.bed.images().pull_image(request).await;
        if let Err(status) = &result {
            ensure!(!status.message().contains("wr0ng-passw0rd"), "the password is in the error");
        }
        // kubelet has no code of its own for this error. Unauthenticated and PermissionDenied mean the same.
        let code = result.as_ref().err().map_or(Code::Ok, tonic::Status::code);
        let code = if code == Code::PermissionDenied { code } else { Code::Unauthenticated };
        refused(&scope, result.map_err(Into::into), code, &name)?;
        no_image(&scope, &name).await
    })
    .await
}

async fn no_image(scope: &Scope, name: &str) -> Outcome {
    ensure!(scope.bed.image_status(name).await?.image.is_none(), "{name} has a status");
    let listed = scope.bed.list_images("").await?;
    ensure!(!listed.iter().any(|image| image.repo_tags.iter().any(|tag| tag == name)), "{name} is listed");
    ensure!(!scope.bed.ctr(&["images", "list", "--quiet"]).await?.contains(name), "containerd has a record of {name}");
    Ok(())
}

async fn pull(scope: &Scope, name: &str) -> anyhow::Result<String> {
    let request = v1::PullImageRequest { image: Some(image_spec(name)), ..Default::default() };
    Ok(scope.bed.images().pull_image(request).await?.into_inner().image_ref)
}

async fn a_pull_of_what_is_not_there(scope: Arc<Scope>) -> Outcome {
    leaving_nothing(&scope, async {
        let name = "registry.k8s.io/not-there:1";
        refused(&scope, pull(&scope, name).await, Code::NotFound, name)?;
        no_image(&scope, name).await
    })
    .await
}

async fn a_pull_of_a_layer_that_is_no_archive(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let garbage = b"this is neither gzip nor tar".repeat(100);
    let name = registry.image("garbage", &garbage, &digest(b"what it should unpack to"))?;
    leaving_nothing(&scope, async {
        let result = pull(&scope, &name).await;
        let Err(error) = result else { bail!("it was pulled") };
        if scope.bed.target == Target::Pontoon {
            ensure!(format!("{error:#}").contains(&name), "'{name}' is not in: {error:#}");
        }
        no_image(&scope, &name).await
    })
    .await
}

async fn a_pull_of_a_layer_with_another_digest(scope: Arc<Scope>) -> Outcome {
    let registry = Registry::start(&scope.bed).await?;
    let (bytes, diff_id) = layer(&scope, "as it should be").await?;
    let name = registry.image("forged", &bytes, &diff_id)?;
    let mut forged = bytes.clone();
    let last = forged.len() - 1;
    forged[last] ^= 0xff;
    registry.corrupt("forged", &digest(&bytes), &forged)?;
    leaving_nothing(&scope, async {
        let Err(error) = pull(&scope, &name).await else { bail!("it was pulled") };
        if scope.bed.target == Target::Pontoon {
            ensure!(format!("{error:#}").contains(&name), "'{name}' is not in: {error:#}");
        }
        no_image(&scope, &name).await
    })
    .await
}

async fn names_that_are_no_image_references(scope: Arc<Scope>) -> Outcome {
    leaving_nothing(&scope, async {
        for name in ["UPPER/Case:1", "registry.k8s.io/a b", "registry.k8s.io/pause:"] {
            refused(&scope, pull(&scope, name).await, Code::InvalidArgument, name)?;
        }
        refused(&scope, pull(&scope, "").await, Code::InvalidArgument, "image")
    })
    .await
}
