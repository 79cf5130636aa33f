//! How containers end: states, exit codes, reasons, times.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use pontoon::api::v1;
use pontoon::api::v1::ContainerState;

use crate::bed::{BUSYBOX, SOON, image_spec, until};
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, busybox, resources, shell, sleeper};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(states_and_times_follow_each_other),
        rule!(exit_codes_and_reasons_are_reported),
        rule!(a_container_that_used_too_much_memory_is_oom_killed),
        rule!(a_program_that_is_not_there_is_a_start_error),
        rule!(a_status_names_image_id_and_reference),
        rule!(a_status_has_the_image_that_was_asked_for).alone().only_pontoon("the built-in's status has a tag"),
        rule!(containers_are_listed_by_filter),
        rule!(a_removed_container_is_gone),
        rule!(a_running_container_is_removed_by_force),
        rule!(the_next_attempt_of_a_container_is_another),
        rule!(start_of_a_running_or_exited_container_is_an_error),
    ]
}

async fn states_and_times_follow_each_other(scope: Arc<Scope>) -> Outcome {
    let now = || jiff::Timestamp::now().as_nanosecond();
    let pod = scope.pod().await?;
    let before = now();
    // It runs until it is told to end: a busy machine may need long to ask for its state.
    let id = pod.create(shell("main", "while [ ! -e /tmp/end ]; do sleep 0.05; done")).await?;
    let created = scope.bed.status(&id).await?;
    ensure!(created.state() == ContainerState::ContainerCreated, "{:?}", created.state());
    ensure!(created.started_at == 0 && created.finished_at == 0, "{created:?}");
    scope.bed.start(&id).await?;
    let running = scope.bed.status(&id).await?;
    ensure!(running.state() == ContainerState::ContainerRunning && running.finished_at == 0, "{running:?}");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    scope.bed.sh(&id, "touch /tmp/end").await?;
    let exited = scope.bed.exited(&id).await?;
    let times = [before, exited.created_at.into(), exited.started_at.into(), exited.finished_at.into(), now()];
    ensure!(times.is_sorted(), "{times:?}");
    ensure!(times[3] - times[2] >= 250_000_000, "ran for {} ns", times[3] - times[2]);
    ensure!(exited.created_at == created.created_at && exited.started_at == running.started_at, "times changed");
    Ok(())
}

async fn exit_codes_and_reasons_are_reported(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    for (name, script, code, reason) in [
        ("zero", "exit 0", 0, "Completed"),
        ("seven", "exit 7", 7, "Error"),
        ("most", "exit 255", 255, "Error"),
        // In a second shell, since signals have no default action for pid 1.
        ("signal", "sh -c 'kill -SEGV $$'; exit $?", 139, "Error"),
    ] {
        let id = pod.start(shell(name, script)).await?;
        let status = scope.bed.exited(&id).await?;
        ensure!(status.exit_code == code && status.reason == reason, "{name}: {} {}", status.exit_code, status.reason);
    }
    Ok(())
}

async fn a_container_that_used_too_much_memory_is_oom_killed(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let mut config = busybox("main", &["sh", "-c", "exec tail /dev/zero"]);
    resources(&mut config).memory_limit_in_bytes = 20 << 20;
    let id = pod.start(config).await?;
    let status = scope.bed.exited(&id).await?;
    ensure!(status.exit_code == 137 && status.reason == "OOMKilled", "{} {}", status.exit_code, status.reason);
    Ok(())
}

async fn a_program_that_is_not_there_is_a_start_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.create(busybox("main", &["/no/such/program"])).await?;
    let Err(error) = scope.bed.start(&id).await else { anyhow::bail!("it started") };
    ensure!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    let status = scope.bed.status(&id).await?;
    ensure!(status.state() == ContainerState::ContainerExited, "{:?}", status.state());
    ensure!(status.exit_code == 128 && status.reason == "StartError", "{} {}", status.exit_code, status.reason);
    ensure!(status.message.contains("/no/such/program"), "message: {}", status.message);
    scope.bed.remove(&id).await
}

async fn a_status_names_image_id_and_reference(scope: Arc<Scope>) -> Outcome {
    let image = scope.bed.pull(BUSYBOX).await?;
    let pod = scope.pod().await?;
    let mut config = sleeper("main");
    // Like kubelet, use the id that the pull returned.
    config.image =
        Some(v1::ImageSpec { image: image.clone(), user_specified_image: BUSYBOX.into(), ..Default::default() });
    let id = pod.start(config).await?;
    let status = scope.bed.status(&id).await?;
    ensure!(status.image_id == image, "image_id {}, pulled {image}", status.image_id);
    ensure!(status.image_ref.contains("@sha256:"), "image_ref {}", status.image_ref);
    ensure!(status.log_path == format!("{}/main/0.log", pod.config.log_directory), "log_path {}", status.log_path);
    Ok(())
}

/// The list and the status have the image of the request. The spec has the name that the pod's author wrote.
async fn a_status_has_the_image_that_was_asked_for(scope: Arc<Scope>) -> Outcome {
    const SECOND: &str = "zz.example/busybox:second";
    let image = scope.bed.pull(BUSYBOX).await?;
    scope.bed.ctr(&["images", "tag", BUSYBOX, SECOND]).await?;
    let named = async || {
        until(SOON, || async {
            let request = v1::ImageStatusRequest { image: Some(image_spec(SECOND)), ..Default::default() };
            let reply = scope.bed.images().image_status(request).await?;
            reply.into_inner().image.context("it is not listed yet")
        })
        .await?;
        let pod = scope.pod().await?;
        let mut names = Vec::new();
        for (name, asked, written) in
            [("first", &image, BUSYBOX), ("second", &image, SECOND), ("third", &SECOND.to_owned(), SECOND)]
        {
            let mut config = sleeper(name);
            let user_specified_image = written.to_owned();
            config.image = Some(v1::ImageSpec { image: asked.clone(), user_specified_image, ..Default::default() });
            let id = pod.create(config).await?;
            let status = scope.bed.status(&id).await?.image.context("image")?;
            let filter = Some(v1::ContainerFilter { id: id.clone(), ..Default::default() });
            let list = scope.bed.runtime().list_containers(v1::ListContainersRequest { filter }).await?.into_inner();
            let listed = list.decoded()?.pop().and_then(|container| container.image).context("listed")?;
            ensure!(listed == status, "listed {listed:?}, in the status {status:?}");
            ensure!(status.user_specified_image == written, "{status:?}");
            let info = scope.bed.info(&id).await?;
            let annotation = info["runtimeSpec"]["annotations"]["io.kubernetes.cri.image-name"].clone();
            names.push((status.image, annotation));
        }
        anyhow::Ok(names)
    };
    let names = named().await;
    scope.bed.ctr(&["images", "remove", SECOND]).await?;
    let names = names?;
    let expected = [(&*image, BUSYBOX), (&*image, SECOND), (SECOND, SECOND)];
    let expected = expected.map(|(image, annotation)| (image.to_owned(), annotation.into()));
    ensure!(names == expected, "{names:?}");
    Ok(())
}

async fn containers_are_listed_by_filter(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let (runs, ended) = (pod.start(sleeper("runs")).await?, pod.start(shell("ended", "exit 1")).await?);
    scope.bed.exited(&ended).await?;
    let list = async |filter: v1::ContainerFilter| -> anyhow::Result<Vec<String>> {
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let mut ids: Vec<_> = scope
            .bed
            .runtime()
            .list_containers(request)
            .await?
            .into_inner()
            .decoded()?
            .into_iter()
            .map(|c| c.id)
            .collect();
        ids.sort();
        Ok(ids)
    };
    let of_pod = || v1::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let mut both = vec![runs.clone(), ended.clone()];
    both.sort();
    let found = list(of_pod()).await?;
    ensure!(found == both, "of the pod: {found:?}");
    let state = |state: ContainerState| Some(v1::ContainerStateValue { state: state.into() });
    let found = list(v1::ContainerFilter { state: state(ContainerState::ContainerRunning), ..of_pod() }).await?;
    ensure!(found == [runs.clone()], "running: {found:?}");
    let found = list(v1::ContainerFilter { id: ended[..12].to_owned(), ..Default::default() }).await?;
    ensure!(found == [ended.clone()], "short id: {found:?}");
    let label = [("io.kubernetes.container.name".to_owned(), "ended".to_owned())].into();
    let found = list(v1::ContainerFilter { label_selector: label, ..of_pod() }).await?;
    ensure!(found == [ended.clone()], "label: {found:?}");
    Ok(())
}

async fn a_removed_container_is_gone(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(shell("main", "exit 0")).await?;
    scope.bed.exited(&id).await?;
    scope.bed.remove(&id).await?;
    let Err(gone) = scope.bed.status(&id).await else { anyhow::bail!("it is still there") };
    let code = gone.downcast_ref::<tonic::Status>().map(tonic::Status::code);
    ensure!(code == Some(tonic::Code::NotFound), "{gone:#}");
    let containers = scope.bed.ctr(&["containers", "list", "--quiet"]).await?;
    ensure!(!containers.contains(&id), "containerd still has it");
    // The log stays, because kubelet removes it.
    ensure!(pod.log(&shell("main", "")).exists(), "its log is gone");
    Ok(())
}

async fn a_running_container_is_removed_by_force(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(busybox("main", &["sleep", "1000"])).await?;
    scope.bed.remove(&id).await?;
    ensure!(scope.bed.status(&id).await.is_err(), "it is still there");
    Ok(())
}

async fn the_next_attempt_of_a_container_is_another(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let first = pod.start(sleeper("main")).await?;
    if let Ok(again) = pod.create(sleeper("main")).await {
        ensure!(again == first, "the same name and attempt made another container");
    }
    let mut next = sleeper("main");
    next.metadata.get_or_insert_default().attempt = 1;
    next.log_path = "main/1.log".into();
    let second = pod.start(next).await?;
    ensure!(first != second, "the same container");
    Ok(())
}

async fn start_of_a_running_or_exited_container_is_an_error(scope: Arc<Scope>) -> Outcome {
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    ensure!(scope.bed.start(&id).await.is_err(), "a running one");
    let running = scope.bed.status(&id).await?;
    ensure!(running.state() == ContainerState::ContainerRunning, "{:?}", running.state());
    scope.bed.stop(&id, 5).await?;
    ensure!(scope.bed.start(&id).await.is_err(), "an exited one");
    Ok(())
}
