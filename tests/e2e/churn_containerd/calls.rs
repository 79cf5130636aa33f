//! The calls that kubelet makes for one pod, each written to a journal.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon::api::v1;
use pontoon::api::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::outages::{Outages, now};

/// Reads. The journal has only those that fail or take more than a second: the others would fill it and say little.
const READS: [&str; 3] = ["ListPodSandbox", "ListContainers", "ContainerStatus"];

/// How long a client waits for each kind of call.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For RunPodSandbox. kubelet gives it twice the time of the others.
    pub run: Duration,
    pub create: Duration,
    /// For StartContainer. No client has a short deadline for it: kubelet creates another container when it has
    /// expired.
    pub start: Duration,
    /// For StopContainer, StopPodSandbox, RemoveContainer and RemovePodSandbox.
    pub end: Duration,
    /// For [`READS`].
    pub read: Duration,
}

impl Deadlines {
    /// The deadlines of kubelet.
    pub const KUBELET: Self = Self {
        run: Duration::from_secs(240),
        create: Duration::from_secs(120),
        start: Duration::from_secs(120),
        end: Duration::from_secs(130),
        read: Duration::from_secs(120),
    };
    /// Deadlines so short that a call is repeated while the first one still runs. The repetition must join it.
    pub const SHORT: Self = Self {
        run: Duration::from_secs(2),
        create: Duration::from_secs(2),
        end: Duration::from_secs(4),
        ..Self::KUBELET
    };
}

/// A call or note in the journal. Times are those of [`now`].
struct Entry {
    from: f64,
    to: f64,
    text: String,
}

/// A client for one pod, with a journal of its calls.
pub struct Calls {
    runtime: RuntimeServiceClient<Channel>,
    outages: Arc<Outages>,
    deadlines: Deadlines,
    journal: Mutex<Vec<Entry>>,
    /// The longest call, and its seconds. Only the time in which all daemons were running counts.
    longest: Mutex<(f64, String)>,
}

type Answer<T> = Result<T, Status>;

impl Calls {
    /// Uses a connection that other pods of the same client use too.
    pub fn new(runtime: RuntimeServiceClient<Channel>, outages: Arc<Outages>, deadlines: Deadlines) -> Self {
        Self { runtime, outages, deadlines, journal: Mutex::default(), longest: Mutex::default() }
    }

    /// RunPodSandbox. Returns the sandbox's id.
    pub async fn run(&self, config: v1::PodSandboxConfig) -> Answer<String> {
        let about = format!("attempt {}", config.metadata.as_ref().map_or(0, |metadata| metadata.attempt));
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.run_pod_sandbox(request).await };
        let answer = self.call(("RunPodSandbox", &about, self.deadlines.run), request, send).await?;
        Ok(answer.pod_sandbox_id)
    }

    /// CreateContainer. Returns the container's id.
    pub async fn create(&self, request: v1::CreateContainerRequest) -> Answer<String> {
        let metadata = request.config.as_ref().and_then(|config| config.metadata.as_ref());
        let about = metadata.map_or_else(String::new, |metadata| format!("{} {}", metadata.name, metadata.attempt));
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.create_container(request).await };
        let answer = self.call(("CreateContainer", &about, self.deadlines.create), request, send).await?;
        Ok(answer.container_id)
    }

    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.start_container(request).await };
        self.call(("StartContainer", id, self.deadlines.start), request, send).await.map(drop)
    }

    /// StopContainer, with a grace period of ten seconds.
    pub async fn stop(&self, id: &str) -> Answer<()> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: 10 };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.stop_container(request).await };
        self.call(("StopContainer", id, self.deadlines.end), request, send).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.remove_container(request).await };
        self.call(("RemoveContainer", id, self.deadlines.end), request, send).await.map(drop)
    }

    pub async fn stop_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.stop_pod_sandbox(request).await };
        self.call(("StopPodSandbox", id, self.deadlines.end), request, send).await.map(drop)
    }

    pub async fn remove_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let send =
            |mut client: RuntimeServiceClient<_>, request| async move { client.remove_pod_sandbox(request).await };
        self.call(("RemovePodSandbox", id, self.deadlines.end), request, send).await.map(drop)
    }

    /// ContainerStatus. Returns `None` when the container is unknown.
    pub async fn status(&self, id: &str) -> Answer<Option<v1::ContainerStatus>> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.container_status(request).await };
        match self.call(("ContainerStatus", id, self.deadlines.read), request, send).await {
            Ok(answer) => Ok(Some(answer.status.ok_or_else(|| Status::internal("no status in the answer"))?)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// ListPodSandbox, for all sandboxes with a label.
    pub async fn sandboxes(&self, label: (&str, &str)) -> Answer<Vec<v1::PodSandbox>> {
        let label_selector = [(label.0.to_owned(), label.1.to_owned())].into();
        let filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.list_pod_sandbox(request).await };
        let answer = self.call(("ListPodSandbox", label.1, self.deadlines.read), request, send).await?;
        answer.decoded().map_err(|error| Status::internal(error.to_string()))
    }

    /// ListContainers, for all containers with a label.
    pub async fn containers(&self, label: (&str, &str)) -> Answer<Vec<v1::Container>> {
        let label_selector = [(label.0.to_owned(), label.1.to_owned())].into();
        let filter = v1::ContainerFilter { label_selector, ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.list_containers(request).await };
        let answer = self.call(("ListContainers", label.1, self.deadlines.read), request, send).await?;
        answer.decoded().map_err(|error| Status::internal(error.to_string()))
    }

    /// Makes a call and writes it to the journal. The tuple has the RPC's name, the id or name that the call is about,
    /// and the client's timeout.
    async fn call<Q, A, F>(
        &self,
        (verb, about, deadline): (&str, &str, Duration),
        request: Q,
        send: impl FnOnce(RuntimeServiceClient<Channel>, Request<Q>) -> F,
    ) -> Answer<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(request);
        request.set_timeout(deadline);
        let from = now();
        let answer = match tokio::time::timeout(deadline, send(self.runtime.clone(), request)).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("the client waited {deadline:?}"))),
        };
        let to = now();
        let shown = match &answer {
            Ok(_) => "ok".to_owned(),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        let text = format!("{verb} {} -> {shown}", short(about));
        let there = self.outages.all_there(from, to);
        let mut longest = self.longest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if there > longest.0 {
            *longest = (there, text.clone());
        }
        drop(longest);
        if answer.is_err() || !READS.contains(&verb) || to - from > 1.0 {
            self.push(Entry { from, to, text });
        }
        answer
    }

    /// Adds a note, which is no call, to the journal.
    pub fn note(&self, text: String) {
        let at = now();
        self.push(Entry { from: at, to: at, text });
    }

    fn push(&self, entry: Entry) {
        self.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
    }

    /// The longest call, and its seconds. Only the time in which all daemons were running counts.
    pub fn longest(&self) -> (f64, String) {
        self.longest.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The lines of the journal, and between them the kills and returns of the daemons.
    pub fn told(&self) -> Vec<String> {
        let journal = self.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let from = journal.first().map_or(0.0, |entry| entry.from);
        let to = journal.last().map_or(0.0, |entry| entry.to);
        let mut lines = self.outages.told(from, to);
        lines.extend(journal.iter().map(|entry| {
            let took = entry.to - entry.from;
            (entry.from, if took > 0.0 { format!("{} ({took:.2} s)", entry.text) } else { entry.text.clone() })
        }));
        lines.sort_by(|one, other| one.0.total_cmp(&other.0));
        lines.into_iter().map(|(at, text)| format!("{at:.2} {text}")).collect()
    }
}

/// The first 12 digits of an id. Other texts are returned unchanged.
pub fn short(about: &str) -> &str {
    match about.len() {
        64 => &about[..12],
        _ => about,
    }
}
