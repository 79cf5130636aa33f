//! A containerd that keeps its objects in memory. Its calls can be made to fail, to hang, or to lose their connection
//! or their reply. It applies containerd's rules: names are unique, a running task cannot be deleted, and a container
//! that names a sandbox needs that sandbox's shim.

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

/// The state that its services share.
pub struct Inner {
    state: Mutex<State>,
    faults: Faults,
    events: broadcast::Sender<Envelope>,
    socket: PathBuf,
    serving: Mutex<Serving>,
    /// The directory that the mount of every snapshot shows.
    rootfs: PathBuf,
}

enum Serving {
    /// Until the token is cancelled.
    Yes(CancellationToken),
    No,
    /// Not any more, because the test is over.
    Gone,
}

#[derive(Default)]
struct State {
    plugins: Vec<Plugin>,
    /// The version that its runc reports.
    runc: String,
    containers: BTreeMap<String, pb::Container>,
    sandboxes: BTreeMap<String, types::Sandbox>,
    tasks: BTreeMap<String, Task>,
    snapshots: BTreeMap<String, Snapshot>,
    images: BTreeMap<String, pb::Image>,
    blobs: BTreeMap<String, Vec<u8>>,
    leases: BTreeMap<String, pb::Lease>,
    /// Exit channels of processes that were deleted before they ran. As with a real shim, a Wait for such a process
    /// never ends.
    never_ended: Vec<watch::Sender<Option<Exit>>>,
}

/// A container's first process, and the processes that were added to it.
struct Task {
    init: Process,
    execs: BTreeMap<String, Process>,
}

impl Containerd {
    /// Contains one image and nothing else, and does not serve yet.
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

    /// Serves. Objects from before a [`Containerd::stop`] still exist.
    pub fn serve(&mut self) {
        self.inner.serve();
    }

    /// Like `kill -9` of containerd: connections break, and processes run on.
    pub fn stop(&mut self) {
        self.inner.stop(Serving::No);
    }

    /// Makes a method, such as `Tasks/Create`, fail: its `nth` call from now on (1 is the next one), or every call for
    /// 0.
    pub fn fault(&self, method: &str, nth: usize, fault: Fault) {
        self.inner.faults.add(method, nth, fault);
    }

    /// Makes a method's `nth` call from now on hang until the gate is opened.
    pub fn hang(&self, method: &str, nth: usize) -> Gate {
        let gate = Gate::default();
        self.fault(method, nth, Fault::Hang(gate.clone()));
        gate
    }

    /// Kills containerd at a method's `nth` call from now on. The call is carried out or not, and containerd serves
    /// again later.
    pub fn outage(&self, method: &str, nth: usize, done: Done, lasts: Duration) -> Outage {
        let outage = Outage::new(done, lasts);
        self.fault(method, nth, Fault::Outage(outage.clone()));
        outage
    }

    /// Removes all faults, and lets hanging calls go on.
    pub fn heal(&self) {
        self.inner.faults.clear();
    }

    /// Sets the version that runc reports.
    pub fn set_runc(&self, version: &str) {
        version.clone_into(&mut self.inner.lock().runc);
    }

    /// Adds a plugin to those that are reported as loaded.
    pub fn load(&self, plugin: Plugin) {
        self.inner.lock().plugins.push(plugin);
    }

    /// Removes a plugin from those that are reported as loaded.
    pub fn unload(&self, plugin: Plugin) {
        self.inner.lock().plugins.retain(|known| *known != plugin);
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.faults.calls()
    }

    /// The calls since `start`, each as a method and the number of that call among those of the method. Calls of
    /// watchers are left out, because they come at any time.
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

    /// All objects other than the image, of which a clean containerd has none.
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

    /// What containerd does when leases have expired: it removes them, and the views to which no record refers.
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

    /// The keys of the views.
    pub fn views(&self) -> Vec<String> {
        let state = self.inner.lock();
        state.snapshots.iter().filter(|(_, one)| one.read_only && !one.committed).map(|(key, _)| key.clone()).collect()
    }

    /// The ids of all sandbox records.
    pub fn sandboxes(&self) -> Vec<String> {
        self.inner.lock().sandboxes.keys().cloned().collect()
    }

    /// The ids of all container records, including those of pause containers.
    pub fn containers(&self) -> Vec<String> {
        self.inner.lock().containers.keys().cloned().collect()
    }

    pub fn sandbox(&self, id: &str) -> Option<types::Sandbox> {
        self.inner.lock().sandboxes.get(id).cloned()
    }

    pub fn container(&self, id: &str) -> Option<pb::Container> {
        self.inner.lock().containers.get(id).cloned()
    }

    /// Removes a container's record, as another client of containerd would.
    pub fn delete_container(&self, id: &str) {
        self.inner.lock().containers.remove(id);
    }

    /// Removes a sandbox's record, as if it were in another namespace.
    pub fn delete_sandbox(&self, id: &str) {
        self.inner.lock().sandboxes.remove(id);
    }

    /// Changes a container's record or adds one, as another client of containerd would.
    pub fn edit_container(&self, id: &str, edit: impl FnOnce(&mut pb::Container)) {
        edit(
            self.inner
                .lock()
                .containers
                .entry(id.to_owned())
                .or_insert_with(|| pb::Container { id: id.to_owned(), ..pb::Container::default() }),
        );
    }

    /// Like [`Containerd::edit_container`], for a sandbox's record.
    pub fn edit_sandbox(&self, id: &str, edit: impl FnOnce(&mut types::Sandbox)) {
        edit(
            self.inner
                .lock()
                .sandboxes
                .entry(id.to_owned())
                .or_insert_with(|| types::Sandbox { sandbox_id: id.to_owned(), ..types::Sandbox::default() }),
        );
    }

    /// Makes a name refer to an image with this config. Returns the image's id.
    pub fn tag_image(&self, name: &str, config_type: &str, config: &serde_json::Value) -> String {
        images::tag_image(&self.inner, name, config_type, config)
    }

    /// Makes a name refer to a document, an index or a manifest. What the document refers to need not exist.
    pub fn tag_document(&self, name: &str, document: &serde_json::Value) {
        images::tag_document(&self.inner, name, document);
    }

    /// Removes an image's name.
    pub fn delete_image(&self, name: &str) {
        images::delete_image(&self.inner, name);
    }

    /// The ids of all tasks.
    pub fn tasks(&self) -> Vec<String> {
        self.inner.lock().tasks.keys().cloned().collect()
    }

    /// All running processes: `<task id>` for the first process of a task, `<task id>/<exec id>` for a further one.
    pub fn running(&self) -> Vec<String> {
        let state = self.inner.lock();
        let of_task = |(id, task): (&String, &Task)| {
            let init = task.init.is_running().then(|| id.clone());
            let execs = task.execs.iter().filter(|(_, exec)| exec.is_running());
            init.into_iter().chain(execs.map(|(exec, _)| format!("{id}/{exec}"))).collect::<Vec<_>>()
        };
        state.tasks.iter().flat_map(of_task).collect()
    }

    /// The signals that a task's first process got, and those that its execs got.
    pub fn signals(&self, id: &str) -> Vec<u32> {
        let state = self.inner.lock();
        let Some(task) = state.tasks.get(id) else { return Vec::new() };
        task.init.signals.iter().chain(task.execs.values().flat_map(|exec| &exec.signals)).copied().collect()
    }

    /// Removes a task, as if its shim had died with its state.
    pub fn drop_task(&self, id: &str) {
        self.inner.lock().tasks.remove(id);
    }

    /// Publishes the exit of a task's first process.
    pub fn publish_exit(&self, id: &str, code: u32) {
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

    /// Stops serving, and serves again later by itself.
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

    /// Makes the shim miss the start of a process.
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

/// Dispatches a call to its service.
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
