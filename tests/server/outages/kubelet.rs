//! A client that acts like kubelet: it repeats calls that failed, creates the next attempt of an object that is listed,
//! and removes a pod by Stop and Remove.

use std::time::Duration;

use pontoon::api::v1::*;
use tokio::time::Instant;
use tonic::Status;

use crate::support::containerd::Outage;
use crate::support::requests;
use crate::support::server::Node;

/// The pause between two attempts. kubelet's is longer, which would only hide how soon a retry can succeed.
const AGAIN: Duration = Duration::from_millis(200);
/// How long after containerd's return everything must be in order.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The result of a call.
pub type Answer<T> = Result<T, Status>;

/// A kubelet that handles one pod.
pub struct Kubelet<'a> {
    pub node: &'a Node,
    pub pod: RunPodSandboxRequest,
}

impl<'a> Kubelet<'a> {
    pub fn new(node: &'a Node) -> Self {
        Self { node, pod: node.pod("web") }
    }

    pub async fn sandboxes(&self) -> Answer<Vec<PodSandbox>> {
        let reply = self.node.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner();
        Ok(reply.decoded().unwrap())
    }

    pub async fn containers(&self) -> Answer<Vec<Container>> {
        let reply = self.node.cri().list_containers(ListContainersRequest::default()).await?.into_inner();
        Ok(reply.decoded().unwrap())
    }

    /// Makes the pod run: takes a listed sandbox that is ready, or else stops the listed ones and creates the next
    /// attempt.
    pub async fn run(&self) -> Answer<String> {
        let listed = self.sandboxes().await?;
        if let Some(ready) = listed.iter().find(|one| one.state() == PodSandboxState::SandboxReady) {
            return Ok(ready.id.clone());
        }
        for one in &listed {
            self.stop_pod(&one.id).await?;
        }
        let mut request = self.pod.clone();
        let last = listed.iter().filter_map(|one| one.metadata.as_ref()).map(|metadata| metadata.attempt).max();
        let metadata = request.config.as_mut().and_then(|config| config.metadata.as_mut()).unwrap();
        metadata.attempt = last.map_or(0, |last| last + 1);
        Ok(self.node.cri().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Creates a container, as the next attempt if there is one in the list.
    pub async fn create(&self, sandbox: &str, command: &[&str]) -> Answer<String> {
        let listed = self.containers().await?;
        let last = listed.iter().filter_map(|one| one.metadata.as_ref()).map(|metadata| metadata.attempt).max();
        let mut request = requests::container(sandbox, &self.pod, "main", command);
        let metadata = request.config.as_mut().and_then(|config| config.metadata.as_mut()).unwrap();
        metadata.attempt = last.map_or(0, |last| last + 1);
        Ok(self.node.cri().create_container(request).await?.into_inner().container_id)
    }

    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.node.cri().start_container(request).await.map(drop)
    }

    /// Makes a container run: one that is listed as running, or else the next attempt.
    pub async fn have_running(&self, sandbox: &str, command: &[&str]) -> Answer<()> {
        let listed = self.containers().await?;
        if listed.iter().any(|one| one.state() == ContainerState::ContainerRunning) {
            return Ok(());
        }
        let id = self.create(sandbox, command).await?;
        self.start(&id).await
    }

    pub async fn status(&self, id: &str) -> Answer<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        Ok(self.node.cri().container_status(request).await?.into_inner().status.unwrap())
    }

    pub async fn stop(&self, id: &str, timeout: i64) -> Answer<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        self.node.cri().stop_container(request).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.node.cri().remove_container(request).await.map(drop)
    }

    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.node.cri().stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.node.cri().remove_pod_sandbox(request).await.map(drop)
    }

    pub async fn exec(&self, id: &str, cmd: &[&str], timeout: i64) -> Answer<ExecSyncResponse> {
        let cmd = cmd.iter().map(ToString::to_string).collect();
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        Ok(self.node.cri().exec_sync(request).await?.into_inner())
    }

    /// Stops and removes all listed sandboxes.
    pub async fn remove_all(&self) -> Answer<()> {
        for one in self.sandboxes().await? {
            self.stop_pod(&one.id).await?;
            self.remove_pod(&one.id).await?;
        }
        Ok(())
    }
}

/// How long a client tries.
pub enum Limit {
    /// Until [`PATIENCE`] after the return of containerd, which may not have gone away yet.
    Of(Outage),
    Until(Instant),
}

impl Limit {
    pub fn from_now() -> Self {
        Self::Until(Instant::now() + PATIENCE)
    }

    async fn over(&self) {
        let until = match self {
            Self::Of(outage) => outage.over().await + PATIENCE,
            Self::Until(until) => *until,
        };
        tokio::time::sleep_until(until).await;
    }

    /// Repeats a call until it succeeds. The error has the last failure.
    pub async fn repeat<T>(&self, what: &str, call: impl AsyncFn() -> Answer<T>) -> Result<T, String> {
        let mut said = "no answer".to_owned();
        let tries = async {
            loop {
                match call().await {
                    Ok(answer) => return answer,
                    Err(status) => said = format!("{:?}: {}", status.code(), status.message()),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            answer = tries => return Ok(answer),
            () = self.over() => {}
        }
        Err(format!("{what} does not succeed within {PATIENCE:?} of containerd's return: {said}"))
    }

    /// Waits until nothing is wrong. Returns what is still wrong at the end.
    pub async fn settle(&self, wrong: impl AsyncFn() -> Vec<String>) -> Vec<String> {
        let mut last = Vec::new();
        let looks = async {
            loop {
                last = wrong().await;
                if last.is_empty() {
                    return;
                }
                tokio::time::sleep(AGAIN / 4).await;
            }
        };
        tokio::select! {
            () = looks => {}
            () = self.over() => {}
        }
        last
    }
}
