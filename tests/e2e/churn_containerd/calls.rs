//! The calls that a kubelet makes of one pod, each written down.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon::api::v1;
use pontoon::api::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::outages::{Outages, now};

/// Reads, whose good answers would fill the journal and say little.
const READS: [&str; 3] = ["ListPodSandbox", "ListContainers", "ContainerStatus"];

/// How long a client waits for each kind of call.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// RunPodSandbox, which kubelet gives twice the time of the others.
    pub run: Duration,
    /// CreateContainer.
    pub create: Duration,
    /// StartContainer. No client here is short of patience with it: kubelet makes another container when it has waited.
    pub start: Duration,
    /// StopContainer, StopPodSandbox, and what removes.
    pub end: Duration,
    /// Reads.
    pub read: Duration,
}

impl Deadlines {
    /// kubelet's.
    pub const KUBELET: Self = Self {
        run: Duration::from_secs(240),
        create: Duration::from_secs(120),
        start: Duration::from_secs(120),
        end: Duration::from_secs(130),
        read: Duration::from_secs(120),
    };
    /// So short that calls are repeated while the first one runs: a repetition must join it.
    pub const SHORT: Self = Self {
        run: Duration::from_secs(2),
        create: Duration::from_secs(2),
        end: Duration::from_secs(4),
        ..Self::KUBELET
    };
}

/// What a journal has of a call.
struct Entry {
    from: f64,
    to: f64,
    text: String,
}

/// A client of one pod, with the journal of its calls.
pub struct Calls {
    runtime: RuntimeServiceClient<Channel>,
    outages: Arc<Outages>,
    deadlines: Deadlines,
    journal: Mutex<Vec<Entry>>,
    /// The call during which all daemons were there for the longest time, and its seconds.
    longest: Mutex<(f64, String)>,
}

type Answer<T> = Result<T, Status>;

impl Calls {
    /// On a connection that other pods of the same client use too.
    pub fn new(runtime: RuntimeServiceClient<Channel>, outages: Arc<Outages>, deadlines: Deadlines) -> Self {
        Self { runtime, outages, deadlines, journal: Mutex::default(), longest: Mutex::default() }
    }

    /// RunPodSandbox; its id.
    pub async fn run(&self, config: v1::PodSandboxConfig) -> Answer<String> {
        let about = format!("attempt {}", config.metadata.as_ref().map_or(0, |metadata| metadata.attempt));
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.run_pod_sandbox(request).await };
        let answer = self.call(("RunPodSandbox", &about, self.deadlines.run), request, send).await?;
        Ok(answer.pod_sandbox_id)
    }

    /// CreateContainer; its id.
    pub async fn create(&self, request: v1::CreateContainerRequest) -> Answer<String> {
        let metadata = request.config.as_ref().and_then(|config| config.metadata.as_ref());
        let about = metadata.map_or_else(String::new, |metadata| format!("{} {}", metadata.name, metadata.attempt));
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.create_container(request).await };
        let answer = self.call(("CreateContainer", &about, self.deadlines.create), request, send).await?;
        Ok(answer.container_id)
    }

    /// StartContainer.
    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.start_container(request).await };
        self.call(("StartContainer", id, self.deadlines.start), request, send).await.map(drop)
    }

    /// StopContainer with a grace of ten seconds.
    pub async fn stop(&self, id: &str) -> Answer<()> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: 10 };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.stop_container(request).await };
        self.call(("StopContainer", id, self.deadlines.end), request, send).await.map(drop)
    }

    /// RemoveContainer.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.remove_container(request).await };
        self.call(("RemoveContainer", id, self.deadlines.end), request, send).await.map(drop)
    }

    /// StopPodSandbox.
    pub async fn stop_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.stop_pod_sandbox(request).await };
        self.call(("StopPodSandbox", id, self.deadlines.end), request, send).await.map(drop)
    }

    /// RemovePodSandbox.
    pub async fn remove_sandbox(&self, id: &str) -> Answer<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let send =
            |mut client: RuntimeServiceClient<_>, request| async move { client.remove_pod_sandbox(request).await };
        self.call(("RemovePodSandbox", id, self.deadlines.end), request, send).await.map(drop)
    }

    /// ContainerStatus; none when the container is unknown.
    pub async fn status(&self, id: &str) -> Answer<Option<v1::ContainerStatus>> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.container_status(request).await };
        match self.call(("ContainerStatus", id, self.deadlines.read), request, send).await {
            Ok(answer) => Ok(Some(answer.status.ok_or_else(|| Status::internal("no status in the answer"))?)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// All sandboxes that have a label.
    pub async fn sandboxes(&self, label: (&str, &str)) -> Answer<Vec<v1::PodSandbox>> {
        let label_selector = [(label.0.to_owned(), label.1.to_owned())].into();
        let filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.list_pod_sandbox(request).await };
        let answer = self.call(("ListPodSandbox", label.1, self.deadlines.read), request, send).await?;
        answer.decoded().map_err(|error| Status::internal(error.to_string()))
    }

    /// All containers that have a label.
    pub async fn containers(&self, label: (&str, &str)) -> Answer<Vec<v1::Container>> {
        let label_selector = [(label.0.to_owned(), label.1.to_owned())].into();
        let filter = v1::ContainerFilter { label_selector, ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let send = |mut client: RuntimeServiceClient<_>, request| async move { client.list_containers(request).await };
        let answer = self.call(("ListContainers", label.1, self.deadlines.read), request, send).await?;
        answer.decoded().map_err(|error| Status::internal(error.to_string()))
    }

    /// Of a verb, what it is about, and how long the client waits for it.
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

    /// Writes down what is no call.
    pub fn note(&self, text: String) {
        let at = now();
        self.push(Entry { from: at, to: at, text });
    }

    fn push(&self, entry: Entry) {
        self.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
    }

    /// The call during which all daemons were there for the longest time.
    pub fn longest(&self) -> (f64, String) {
        self.longest.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The journal, with what happened to the daemons meanwhile.
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

/// The first 12 digits of an id, as crictl shows it; anything else whole.
pub fn short(about: &str) -> &str {
    match about.len() {
        64 => &about[..12],
        _ => about,
    }
}
