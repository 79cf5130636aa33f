//! A containerd that keeps its objects in memory, and whose calls can be told to fail, to hang,
//! to lose their connection or their reply. It judges as containerd does: names are unique, a
//! running task is not deleted, a container that names a sandbox needs that sandbox's shim.

mod containers;
mod faults;
mod filters;
mod images;
mod introspection;
mod process;
mod rpc;
mod sandboxes;
mod snapshots;
mod tasks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use containerd_client::events::TaskExit;
use containerd_client::services::v1 as pb;
use containerd_client::to_any;
use containerd_client::types::{self, Envelope};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

pub use faults::{Call, Done, Fault, Gate, Outage, is_found_again};
pub use images::{CONFIG, IMAGE};
pub use tasks::CPU_OF_EVERY_TASK;

use faults::Faults;
use introspection::Plugin;
use process::{Exit, Process};
use snapshots::Snapshot;

/// The fake. It serves from [`Containerd::serve`] to [`Containerd::stop`], and its objects outlive both.
pub struct Containerd {
    inner: Arc<Inner>,
}

/// What its services share.
pub struct Inner {
    state: Mutex<State>,
    faults: Faults,
    events: broadcast::Sender<Envelope>,
    socket: PathBuf,
    serving: Mutex<Serving>,
    /// What every snapshot's mount shows.
    rootfs: PathBuf,
}

/// Whether the socket is served.
enum Serving {
    /// Until it is stopped.
    Yes(CancellationToken),
    No,
    /// And never again: the test is over.
    Gone,
}

#[derive(Default)]
struct State {
    plugins: Vec<Plugin>,
    /// The version that its runc tells.
    runc: String,
    containers: BTreeMap<String, pb::Container>,
    sandboxes: BTreeMap<String, types::Sandbox>,
    tasks: BTreeMap<String, Task>,
    snapshots: BTreeMap<String, Snapshot>,
    images: BTreeMap<String, pb::Image>,
    blobs: BTreeMap<String, Vec<u8>>,
    leases: BTreeMap<String, pb::Lease>,
    /// Of processes that were deleted before they had run: as a shim does, whoever waits for their ends waits on.
    never_ended: Vec<watch::Sender<Option<Exit>>>,
}

/// A container's first process and those that were added to it.
struct Task {
    init: Process,
    execs: BTreeMap<String, Process>,
}

impl Containerd {
    /// One image, nothing else; it does not serve yet.
    pub fn new(directory: &Path) -> Self {
        let rootfs = directory.join("rootfs");
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        // At the image's VOLUME.
        std::fs::create_dir(rootfs.join("data")).unwrap();
        std::fs::write(rootfs.join("data/seed"), "").unwrap();
        let mut state =
            State { plugins: introspection::PLUGINS.to_vec(), runc: "1.5.3".to_owned(), ..State::default() };
        images::store_one(&mut state);
        let inner = Inner {
            state: Mutex::new(state),
            faults: Faults::default(),
            events: broadcast::Sender::new(1024),
            socket: directory.join("containerd.sock"),
            serving: Mutex::new(Serving::No),
            rootfs,
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// Serves; what was there before a [`Containerd::stop`] is there again.
    pub fn serve(&mut self) {
        self.inner.serve();
    }

    /// As `kill -9` of containerd: connections break, processes go on.
    pub fn stop(&mut self) {
        self.inner.stop(Serving::No);
    }

    /// Makes a method, such as `Tasks/Create`, fail: its `nth` call from now on (1 is the next), or with 0 every call.
    pub fn fault(&self, method: &str, nth: usize, fault: Fault) {
        self.inner.faults.add(method, nth, fault);
    }

    /// Stops a method's `nth` call from now on until the gate is opened.
    pub fn hang(&self, method: &str, nth: usize) -> Gate {
        let gate = Gate::default();
        self.fault(method, nth, Fault::Hang(gate.clone()));
        gate
    }

    /// Kills containerd with a method's `nth` call from now on, which is carried out or not; it serves again later.
    pub fn outage(&self, method: &str, nth: usize, done: Done, lasts: Duration) -> Outage {
        let outage = Outage::new(done, lasts);
        self.fault(method, nth, Fault::Outage(outage.clone()));
        outage
    }

    /// No more faults; what hangs goes on.
    pub fn heal(&self) {
        self.inner.faults.clear();
    }

    /// Another runc, whose version is told.
    pub fn set_runc(&self, version: &str) {
        version.clone_into(&mut self.inner.lock().runc);
    }

    /// Loads a plugin, as far as anybody can ask.
    pub fn load(&self, plugin: Plugin) {
        self.inner.lock().plugins.push(plugin);
    }

    /// It has no such plugin any more.
    pub fn unload(&self, plugin: Plugin) {
        self.inner.lock().plugins.retain(|known| *known != plugin);
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.faults.calls()
    }

    /// Which calls an operation made, each as method and how many of that method came before it
    /// plus 1; without those of the watchers, that come when they come.
    pub fn steps_since(&self, start: usize) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let calls = self.calls();
        let of_it = calls[start..].iter().filter(|call| !call.is_watch());
        of_it
            .map(|call| {
                let count = counts.entry(call.method.clone()).or_default();
                *count += 1;
                (call.method.clone(), *count)
            })
            .collect()
    }

    /// All that is there beside the image: what a clean slate has none of.
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.inner.lock();
        let name = |kind: &'static str| move |id: &String| format!("containerd has {kind} {id}");
        let active = state.snapshots.iter().filter(|(_, snapshot)| !snapshot.committed).map(|(key, _)| key);
        let mut all: Vec<String> = state.containers.keys().map(name("container")).collect();
        all.extend(state.sandboxes.keys().map(name("sandbox")));
        all.extend(state.tasks.keys().map(name("task")));
        all.extend(state.leases.keys().map(name("lease")));
        all.extend(active.map(name("snapshot")));
        all.extend(state.tasks.values().flat_map(|task| task.execs.keys()).map(name("exec")));
        all
    }

    /// What containerd does once leases have expired: they go, and with them the views that no record refers to.
    pub fn collect_garbage(&self) {
        let mut state = self.inner.lock();
        state.leases.retain(|_, lease| !lease.labels.contains_key("containerd.io/gc.expire"));
        let labels = state.containers.values().flat_map(|record| &record.labels);
        let kept: std::collections::HashSet<String> = labels
            .filter(|(key, _)| key.starts_with("containerd.io/gc.ref.snapshot."))
            .map(|(_, value)| value.clone())
            .collect();
        let keeps = |key: &String, snapshot: &Snapshot| snapshot.committed || !snapshot.read_only || kept.contains(key);
        state.snapshots.retain(|key, snapshot| keeps(key, snapshot));
    }

    /// Keys of the views.
    pub fn views(&self) -> Vec<String> {
        let state = self.inner.lock();
        state.snapshots.iter().filter(|(_, one)| one.read_only && !one.committed).map(|(key, _)| key.clone()).collect()
    }

    /// Ids of all sandbox records.
    pub fn sandboxes(&self) -> Vec<String> {
        self.inner.lock().sandboxes.keys().cloned().collect()
    }

    /// Ids of all container records, those of pause containers too.
    pub fn containers(&self) -> Vec<String> {
        self.inner.lock().containers.keys().cloned().collect()
    }

    /// A sandbox's record.
    pub fn sandbox(&self, id: &str) -> Option<types::Sandbox> {
        self.inner.lock().sandboxes.get(id).cloned()
    }

    /// A container's record.
    pub fn container(&self, id: &str) -> Option<pb::Container> {
        self.inner.lock().containers.get(id).cloned()
    }

    /// Removes a container's record behind the server's back.
    pub fn forget_container(&self, id: &str) {
        self.inner.lock().containers.remove(id);
    }

    /// Removes a sandbox's record behind the server's back, as if it were in another namespace.
    pub fn forget_sandbox(&self, id: &str) {
        self.inner.lock().sandboxes.remove(id);
    }

    /// Changes records behind the server's back.
    pub fn edit_container(&self, id: &str, edit: impl FnOnce(&mut pb::Container)) {
        edit(
            self.inner
                .lock()
                .containers
                .entry(id.to_owned())
                .or_insert_with(|| pb::Container { id: id.to_owned(), ..pb::Container::default() }),
        );
    }

    /// The same for a sandbox record.
    pub fn edit_sandbox(&self, id: &str, edit: impl FnOnce(&mut types::Sandbox)) {
        edit(
            self.inner
                .lock()
                .sandboxes
                .entry(id.to_owned())
                .or_insert_with(|| types::Sandbox { sandbox_id: id.to_owned(), ..types::Sandbox::default() }),
        );
    }

    /// Makes a name mean what has this config; gives the image's id.
    pub fn name_image(&self, name: &str, config_type: &str, config: &serde_json::Value) -> String {
        images::name_image(&self.inner, name, config_type, config)
    }

    /// Makes a name mean this document, an index or a manifest, of which nothing else need be there.
    pub fn name_document(&self, name: &str, document: &serde_json::Value) {
        images::name_document(&self.inner, name, document);
    }

    /// Takes an image's name away.
    pub fn forget_image(&self, name: &str) {
        images::forget_image(&self.inner, name);
    }

    /// Ids of all tasks.
    pub fn tasks(&self) -> Vec<String> {
        self.inner.lock().tasks.keys().cloned().collect()
    }

    /// All processes that run: ids of tasks, and for further processes the task's and theirs.
    pub fn running(&self) -> Vec<String> {
        let state = self.inner.lock();
        let of_task = |(id, task): (&String, &Task)| {
            let init = task.init.is_running().then(|| id.clone());
            let execs = task.execs.iter().filter(|(_, exec)| exec.is_running());
            init.into_iter().chain(execs.map(|(exec, _)| format!("{id}/{exec}"))).collect::<Vec<_>>()
        };
        state.tasks.iter().flat_map(of_task).collect()
    }

    /// Signals that a task's first process got, and those that an exec of it got.
    pub fn signals(&self, id: &str) -> Vec<u32> {
        let state = self.inner.lock();
        let Some(task) = state.tasks.get(id) else { return Vec::new() };
        task.init.signals.iter().chain(task.execs.values().flat_map(|exec| &exec.signals)).copied().collect()
    }

    /// Forgets a task, whose shim has died with all that it knew.
    pub fn lose_task(&self, id: &str) {
        self.inner.lock().tasks.remove(id);
    }

    /// Publishes the exit of a task's first process.
    pub fn tell_exit(&self, id: &str, code: u32) {
        let exit_status = code;
        let event =
            TaskExit { container_id: id.to_owned(), id: id.to_owned(), exit_status, exited_at: Some(now()), pid: 0 };
        self.inner.publish("/tasks/exit", Some(to_any(&event)));
    }

    /// Ends a task's first process, as if it had returned.
    pub fn end(&self, id: &str, code: u32) {
        self.inner.finish(id, "", code);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.inner.stop(Serving::Gone);
    }
}

impl Inner {
    fn serve(self: &Arc<Self>) {
        let mut serving = self.serving.lock().unwrap();
        if matches!(*serving, Serving::No) {
            let stop = CancellationToken::new();
            rpc::listen(&self.socket, self, stop.clone());
            *serving = Serving::Yes(stop);
        }
    }

    fn stop(&self, then: Serving) {
        let mut serving = self.serving.lock().unwrap();
        if let Serving::Yes(stop) = &*serving {
            stop.cancel();
        }
        let _ = std::fs::remove_file(&self.socket);
        if !matches!(*serving, Serving::Gone) {
            *serving = then;
        }
    }

    /// Is killed, and starts again later by itself.
    fn go_away(self: &Arc<Self>, outage: Outage) {
        self.stop(Serving::No);
        outage.begin();
        let fake = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(outage.lasts).await;
            fake.serve();
            outage.end();
        });
    }

    /// The shim of the process that was just started misses that.
    fn miss_start(&self, object: &str) {
        let (id, exec) = object.split_once('/').unwrap_or((object, ""));
        if let Ok(process) = self.lock().process(id, exec) {
            process.miss_start();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn not_found(kind: &str, id: &str) -> Status {
    status(Code::NotFound, &format!("{kind} {id:?}: not found"))
}

fn already_exists(kind: &str, id: &str) -> Status {
    status(Code::AlreadyExists, &format!("{kind} {id:?}: already exists"))
}

fn status(code: Code, message: &str) -> Status {
    Status::new(code, message)
}

fn now() -> prost_types::Timestamp {
    std::time::SystemTime::now().into()
}

/// What one service answers, by the method's name.
async fn serve(call: rpc::Request) -> rpc::Response {
    match call.service() {
        "containerd.services.containers.v1.Containers" => containers::serve(call).await,
        "containerd.services.content.v1.Content" => images::serve_content(call).await,
        "containerd.services.events.v1.Events" => introspection::serve_events(call).await,
        "containerd.services.images.v1.Images" => images::serve(call).await,
        "containerd.services.introspection.v1.Introspection" => introspection::serve(call).await,
        "containerd.services.leases.v1.Leases" => images::serve_leases(call).await,
        "containerd.services.sandbox.v1.Store" => sandboxes::serve(call).await,
        "containerd.services.snapshots.v1.Snapshots" => snapshots::serve(call).await,
        "containerd.services.tasks.v1.Tasks" => tasks::serve(call).await,
        "containerd.services.version.v1.Version" => introspection::serve_version(call).await,
        _ => call.unimplemented(),
    }
}
