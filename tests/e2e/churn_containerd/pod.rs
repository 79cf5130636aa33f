//! One pod from its first call to its last, driven as kubelet does.
//!
//! kubelet decides by what the lists and statuses contain, never by an error. After each failed call it looks at the
//! current state and continues from there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pontoon::api::v1;
use pontoon::api::v1::{ContainerState, PodSandboxState};

use super::calls::{Calls, short};
use super::findings::{Findings, Kind as Found};
use super::outages::{Outages, now};
use super::starts::{self, Kind, Written};
use crate::scope::shell;

/// The label that identifies a pod's objects.
pub const UID: &str = "io.kubernetes.pod.uid";
/// kubelet's back-off begins at one second. A shorter one hits more of the moments at which a daemon is down.
const BACK_OFF: Duration = Duration::from_millis(300);
/// How many seconds all daemons must have been running before a call that still fails is given up.
const PATIENCE: f64 = 60.0;
/// How many seconds after a container has ended CRI may still report it as running. Only time in which all daemons run
/// counts.
const EXIT_TOLD: f64 = 30.0;

/// What the client knows of one attempt of a container.
#[derive(Debug, Default)]
pub struct Attempt {
    /// The attempt's number, counted over all sandboxes of the pod.
    pub number: u32,
    /// Empty until a response or a list contained the ID.
    pub id: String,
    sandbox: String,
    /// When the client learned that the start failed.
    pub start_failed: Option<f64>,
    /// When the client learned that the container has ended, or that it never started.
    pub ended: Option<f64>,
    /// Exit code and reason.
    pub exit: Option<(i32, String)>,
    /// Whether the client has called StopContainer for it.
    pub stopped: bool,
}

impl Attempt {
    /// The sandbox in which it was created; empty if it was not created.
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }
}

/// One container of a pod, with all its attempts.
pub struct Work {
    pub name: &'static str,
    pub kind: Kind,
    pub code: i32,
    pub attempts: Vec<Attempt>,
    done: bool,
}

impl Work {
    /// A container without an attempt yet.
    pub fn new(name: &'static str, kind: Kind, code: i32) -> Self {
        Self { name, kind, code, attempts: Vec::new(), done: false }
    }

    /// Name of the file to which an attempt writes when it starts, runs and ends.
    pub fn file(&self, attempt: &Attempt) -> String {
        format!("{}.{}", self.name, attempt.number)
    }

    fn latest(&mut self) -> &mut Attempt {
        if self.attempts.is_empty() {
            self.attempts.push(Attempt::default());
        }
        let last = self.attempts.len() - 1;
        &mut self.attempts[last]
    }

    fn next(&mut self) {
        let number = self.attempts.last().map_or(0, |last| last.number + 1);
        self.attempts.push(Attempt { number, ..Attempt::default() });
    }
}

/// Why a pod's work ends early.
#[derive(Debug, Clone, Copy)]
enum Break {
    /// Its sandbox is not ready any more, or does not exist.
    Sandbox,
    /// A call never succeeds. The finding has been recorded.
    GaveUp,
}

pub struct Pod {
    pub uid: String,
    pub config: v1::PodSandboxConfig,
    /// The directory on the node to which its containers write.
    pub starts: PathBuf,
    pub calls: Calls,
    pub works: Vec<Work>,
    pub findings: Arc<Findings>,
    pub outages: Arc<Outages>,
    /// Whether its containers are removed one by one, or with the sandbox.
    pub removes_containers: bool,
}

impl Pod {
    /// Takes the pod from RunPodSandbox to RemovePodSandbox. Returns whether it was removed.
    pub async fn live(&mut self) -> bool {
        loop {
            let Ok(sandbox) = self.sandbox().await else { return false };
            let outcome = self.work(&sandbox).await;
            if let Err(Break::Sandbox) = outcome {
                self.find(Found::SandboxLost, &format!("sandbox {}", short(&sandbox)));
            }
            if self.end(&sandbox).await.is_err() {
                return false;
            }
            match outcome {
                Ok(()) => return true,
                Err(Break::GaveUp) => return false,
                Err(Break::Sandbox) => self.next_sandbox(),
            }
        }
    }

    /// Returns a ready sandbox. A failed call is repeated unchanged until a sandbox is listed.
    async fn sandbox(&mut self) -> Result<String, Break> {
        let since = now();
        loop {
            let error = match self.calls.run(self.config.clone()).await {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            self.again(since, "RunPodSandbox", &error).await?;
            let listed = self.listed_sandboxes().await?;
            let attempt = self.config.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
            let of_attempt =
                |sandbox: &&v1::PodSandbox| sandbox.metadata.as_ref().is_some_and(|m| m.attempt == attempt);
            if let Some(ready) =
                listed.iter().filter(of_attempt).find(|sandbox| sandbox.state() == PodSandboxState::SandboxReady)
            {
                self.calls.note(format!("takes the listed sandbox {}", short(&ready.id)));
                return Ok(ready.id.clone());
            }
            for sandbox in &listed {
                self.end(&sandbox.id).await?;
            }
            if !listed.is_empty() {
                self.next_sandbox();
            }
        }
    }

    fn next_sandbox(&mut self) {
        self.config.metadata.get_or_insert_default().attempt += 1;
    }

    /// Creates and starts all containers, then follows each one to its end.
    async fn work(&mut self, sandbox: &str) -> Result<(), Break> {
        for index in 0..self.works.len() {
            if !self.works[index].done {
                self.start(sandbox, index).await?;
            }
        }
        for index in 0..self.works.len() {
            while !self.works[index].done {
                if !self.follow(sandbox, index).await? {
                    self.works[index].next();
                    self.start(sandbox, index).await?;
                }
            }
        }
        Ok(())
    }

    /// Starts a container. kubelet starts no container twice: after a failed start it creates the next attempt.
    async fn start(&mut self, sandbox: &str, index: usize) -> Result<(), Break> {
        let since = now();
        loop {
            let id = self.create(sandbox, index).await?;
            let Err(error) = self.calls.start(&id).await else { return Ok(()) };
            if self.runs_all_the_same(index, &id).await? {
                return Ok(());
            }
            self.works[index].next();
            self.again(since, "StartContainer", &error).await?;
            self.sandbox_is_ready(sandbox).await?;
        }
    }

    /// After a failed StartContainer: whether the container has started nevertheless, judged as kubelet does.
    async fn runs_all_the_same(&mut self, index: usize, id: &str) -> Result<bool, Break> {
        let since = now();
        let mut seen_created = false;
        loop {
            let status = self.status(id).await?;
            let state = status.as_ref().map(v1::ContainerStatus::state);
            let reason = status.as_ref().map_or("gone", |status| status.reason.as_str());
            match state {
                Some(ContainerState::ContainerRunning) => return Ok(true),
                Some(ContainerState::ContainerExited) if reason != "StartError" => return Ok(true),
                // Check once more: an interrupted start may still be in progress.
                Some(ContainerState::ContainerCreated) if !seen_created => seen_created = true,
                Some(ContainerState::ContainerUnknown) => {
                    self.done("StopContainer", id).await?;
                    self.told_not_started(index, "unknown");
                    return Ok(false);
                }
                Some(ContainerState::ContainerCreated | ContainerState::ContainerExited) | None => {
                    self.told_not_started(index, &format!("{state:?} {reason}"));
                    return Ok(false);
                }
            }
            self.again(since, "StartContainer", &tonic::Status::unknown("still created")).await?;
        }
    }

    fn told_not_started(&mut self, index: usize, how: &str) {
        let attempt = self.works[index].latest();
        attempt.start_failed = Some(now());
        attempt.ended = Some(now());
        let text = format!("its start was told as failed: {how}; the next attempt");
        self.calls.note(text);
    }

    /// Creates a container for the latest attempt. If the response was lost but the container is listed, kubelet
    /// creates another attempt.
    async fn create(&mut self, sandbox: &str, index: usize) -> Result<String, Break> {
        let since = now();
        if self.works[index].latest().id.is_empty() {
            self.works[index].latest().sandbox = sandbox.to_owned();
        } else {
            self.works[index].next();
        }
        loop {
            let request = self.create_request(sandbox, index);
            let error = match self.calls.create(request).await {
                Ok(id) => {
                    let attempt = self.works[index].latest();
                    attempt.id = id.clone();
                    attempt.sandbox = sandbox.to_owned();
                    return Ok(id);
                }
                Err(error) => error,
            };
            self.again(since, "CreateContainer", &error).await?;
            self.sandbox_is_ready(sandbox).await?;
            let (name, number) = (self.works[index].name, self.works[index].latest().number);
            let listed =
                self.listed_containers().await?.into_iter().find(|container| {
                    container.metadata.as_ref().is_some_and(|m| m.name == name && m.attempt == number)
                });
            if let Some(listed) = listed {
                self.calls.note(format!("{name} {number} is listed as {}; the next attempt", short(&listed.id)));
                let attempt = self.works[index].latest();
                attempt.id = listed.id;
                attempt.ended = Some(now());
                self.works[index].next();
            }
        }
    }

    fn create_request(&mut self, sandbox: &str, index: usize) -> v1::CreateContainerRequest {
        let work = &mut self.works[index];
        let number = work.latest().number;
        let file = format!("{}.{number}", work.name);
        let mut config = shell(work.name, &starts::script(work.kind, &file, work.code));
        config.metadata = Some(v1::ContainerMetadata { name: work.name.to_owned(), attempt: number });
        config.log_path = format!("{}/{number}.log", work.name);
        config.labels.insert(UID.to_owned(), self.uid.clone());
        config.mounts.push(v1::Mount {
            host_path: self.starts.display().to_string(),
            container_path: starts::MOUNT.to_owned(),
            ..Default::default()
        });
        v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        }
    }

    /// Waits until the latest attempt is reported as exited. Returns false if CRI does not know the container any more.
    async fn follow(&mut self, sandbox: &str, index: usize) -> Result<bool, Break> {
        let id = self.works[index].latest().id.clone();
        if self.works[index].kind == Kind::Server {
            self.let_serve(index).await;
            self.works[index].latest().stopped = true;
            self.done("StopContainer", &id).await?;
        }
        let since = now();
        loop {
            let Some(status) = self.status(&id).await? else {
                self.find(Found::ContainerLost, &format!("container {}", short(&id)));
                self.works[index].latest().ended = Some(now());
                return Ok(false);
            };
            if status.state() == ContainerState::ContainerExited {
                self.told_exit(index, &status);
                return Ok(true);
            }
            self.sandbox_is_ready(sandbox).await?;
            let written = self.written(index);
            let ended = written.end.or(written.asked).unwrap_or(f64::INFINITY);
            if self.outages.all_there(ended.min(now()), now()) > EXIT_TOLD
                || self.outages.all_there(since, now()) > PATIENCE
            {
                self.find(Found::ExitNotTold, &format!("container {} is {:?}", short(&id), status.state()));
                self.works[index].done = true;
                return Ok(true);
            }
            tokio::time::sleep(BACK_OFF).await;
        }
    }

    fn told_exit(&mut self, index: usize, status: &v1::ContainerStatus) {
        self.calls.note(format!("{} is told to have ended: {} {}", short(&status.id), status.exit_code, status.reason));
        self.works[index].done = true;
        let attempt = self.works[index].latest();
        attempt.exit = Some((status.exit_code, status.reason.clone()));
        attempt.ended = Some(now());
    }

    /// Waits until a server runs, before it is stopped: without its trap for SIGTERM, the signal would be lost.
    async fn let_serve(&mut self, index: usize) {
        let since = now();
        while self.written(index).first.is_none() && now() - since < 10.0 {
            tokio::time::sleep(BACK_OFF / 3).await;
        }
    }

    fn written(&mut self, index: usize) -> Written {
        let work = &mut self.works[index];
        work.latest();
        work.attempts.last().map_or_else(Written::default, |last| Written::read(&self.starts.join(work.file(last))))
    }

    /// Ends a sandbox: stops the containers that run, then the sandbox; then removes everything.
    async fn end(&mut self, sandbox: &str) -> Result<(), Break> {
        let containers: Vec<(String, bool)> = self
            .works
            .iter()
            .flat_map(|work| &work.attempts)
            .filter(|attempt| attempt.sandbox == sandbox && !attempt.id.is_empty())
            .map(|attempt| (attempt.id.clone(), attempt.ended.is_none()))
            .collect();
        for (id, runs) in &containers {
            if *runs {
                self.attempts(|attempt| attempt.stopped |= attempt.id == *id);
                self.done("StopContainer", id).await?;
            }
        }
        self.done("StopPodSandbox", sandbox).await?;
        let at = now();
        self.attempts(|attempt| {
            if attempt.sandbox == sandbox {
                attempt.ended.get_or_insert(at);
            }
        });
        if self.removes_containers {
            for (id, _) in &containers {
                self.done("RemoveContainer", id).await?;
            }
        }
        self.done("RemovePodSandbox", sandbox).await
    }

    fn attempts(&mut self, change: impl FnMut(&mut Attempt)) {
        self.works.iter_mut().flat_map(|work| &mut work.attempts).for_each(change);
    }

    /// Repeats a call until it succeeds.
    async fn done(&self, verb: &str, id: &str) -> Result<(), Break> {
        let since = now();
        loop {
            let answer = match verb {
                "StopContainer" => self.calls.stop(id).await,
                "StopPodSandbox" => self.calls.stop_sandbox(id).await,
                "RemoveContainer" => self.calls.remove(id).await,
                _ => self.calls.remove_sandbox(id).await,
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(error) => self.again(since, &format!("{verb} {}", short(id)), &error).await?,
            }
        }
    }

    async fn status(&self, id: &str) -> Result<Option<v1::ContainerStatus>, Break> {
        let since = now();
        loop {
            match self.calls.status(id).await {
                Ok(status) => return Ok(status),
                Err(error) => self.again(since, "ContainerStatus", &error).await?,
            }
        }
    }

    async fn listed_sandboxes(&self) -> Result<Vec<v1::PodSandbox>, Break> {
        let since = now();
        loop {
            match self.calls.sandboxes((UID, &self.uid)).await {
                Ok(listed) => return Ok(listed),
                Err(error) => self.again(since, "ListPodSandbox", &error).await?,
            }
        }
    }

    async fn listed_containers(&self) -> Result<Vec<v1::Container>, Break> {
        let since = now();
        loop {
            match self.calls.containers((UID, &self.uid)).await {
                Ok(listed) => return Ok(listed),
                Err(error) => self.again(since, "ListContainers", &error).await?,
            }
        }
    }

    async fn sandbox_is_ready(&self, id: &str) -> Result<(), Break> {
        let listed = self.listed_sandboxes().await?;
        let state = listed.iter().find(|sandbox| sandbox.id == id).map(v1::PodSandbox::state);
        if state == Some(PodSandboxState::SandboxReady) {
            return Ok(());
        }
        self.calls.note(format!("sandbox {} is {state:?}", short(id)));
        Err(Break::Sandbox)
    }

    /// Pauses before a failed call is repeated. Gives up if all daemons have been running for [`PATIENCE`] meanwhile.
    async fn again(&self, since: f64, what: &str, error: &tonic::Status) -> Result<(), Break> {
        if self.outages.all_there(since, now()) > PATIENCE {
            self.find(Found::VerbNeverDone, &format!("{what}: {:?}: {}", error.code(), error.message()));
            return Err(Break::GaveUp);
        }
        tokio::time::sleep(BACK_OFF).await;
        Ok(())
    }

    fn find(&self, kind: Found, about: &str) {
        self.calls.note(format!("! {}", kind.words()));
        self.findings.add(kind, &format!("{}: {about}", self.uid), &self.evidence());
    }

    /// Whether a text contains the pod's UID, or the ID of one of its objects.
    pub fn is_named_in(&self, text: &str) -> bool {
        let ids = self.works.iter().flat_map(|work| &work.attempts).flat_map(|attempt| [&attempt.id, &attempt.sandbox]);
        text.contains(&format!("{}.pod", self.uid)) || ids.into_iter().any(|id| !id.is_empty() && text.contains(id))
    }

    /// What helps to find a cause: the journal of calls and outages, and what the containers wrote.
    pub fn evidence(&self) -> Vec<String> {
        let mut lines = self.calls.told();
        for work in &self.works {
            for attempt in &work.attempts {
                let file = work.file(attempt);
                let written = Written::read(&self.starts.join(&file));
                lines.push(format!("{file} ({:?}, own code {}): {attempt:?} {written:?}", work.kind, work.code));
            }
        }
        lines
    }
}
