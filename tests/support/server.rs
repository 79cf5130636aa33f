//! The server as a child process, with its own directories, network and containerd. It can be killed and started again,
//! and what it leaves behind on the node can be listed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pontoon::api::v1::image_service_client::ImageServiceClient;
use pontoon::api::v1::runtime_service_client::RuntimeServiceClient;
use pontoon::api::v1::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::cni::Cni;
use super::containerd::Containerd;
use super::{PATIENCE, requests, until};

/// The deadline of a call, so that a test that hangs shows where.
const DEADLINE: Duration = Duration::from_secs(30);

/// A CRI client with a connection of its own.
pub type Client = RuntimeServiceClient<Channel>;

/// The server, and everything that it works with.
pub struct Node {
    pub containerd: Containerd,
    pub cni: Cni,
    child: Option<Child>,
    directory: TempDir,
}

impl Node {
    /// Starts a node. Everything runs when this returns.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Like [`Node::start`], with additional configuration.
    pub async fn start_with(more: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces and mounts: run them as root");
        let directory = tempfile::Builder::new().prefix("pontoon-server-").tempdir_in("/var/tmp").unwrap();
        let path = directory.path();
        for name in ["containerd", "logs"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let mut containerd = Containerd::new(&path.join("containerd"));
        containerd.serve();
        let cni = Cni::install(&path.join("cni"));
        let mut node = Self { containerd, cni, child: None, directory };
        fs::write(node.path("config.toml"), node.config() + more).unwrap();
        node.spawn().await;
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> String {
        let [socket, root, state, netns] = ["run/pontoon.sock", "root", "state", "netns"].map(|name| self.path(name));
        let metrics = format!("unix://{}", self.metrics_socket().display());
        let (conf, bin, cache) = (self.cni.conf_dir(), self.cni.bin_dir(), self.cni.cache_dir());
        format!(
            "socket = {socket:?}\nroot = {root:?}\nstate = {state:?}\nnetns_dir = {netns:?}\n\
             [metrics]\naddress = {metrics:?}\n[containerd]\naddress = {:?}\n[cni]\nconf_dir = {conf:?}\nbin_dirs = [{bin:?}]\ncache_dir = {cache:?}\n",
            self.containerd.socket()
        )
    }

    /// The server's anonymous memory in MiB.
    pub fn memory(&self) -> usize {
        self.of_status("RssAnon:")
    }

    /// The server's largest address space so far, in MiB.
    pub fn most_address_space(&self) -> usize {
        self.of_status("VmPeak:")
    }

    fn of_status(&self, key: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
    }

    /// Limits the server's address space, in bytes.
    pub fn limit_memory(&self, bytes: u64) {
        let pid = rustix::process::Pid::from_raw(self.pid().as_raw());
        let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
        rustix::process::prlimit(pid, rustix::process::Resource::As, limit).unwrap();
    }

    /// The CPU time that the server has used.
    pub fn cpu_time(&self) -> Duration {
        let clock = nix::time::clock_getcpuclockid(self.pid()).unwrap();
        nix::time::clock_gettime(clock).unwrap().into()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().map(Child::id).unwrap().try_into().unwrap())
    }

    /// Empties the directory of pods' logs and volumes. It uses a program, because a tree may be deeper than our
    /// libraries can remove.
    pub fn clear_logs(&self) {
        let done = Command::new("find").arg(self.logs()).args(["-mindepth", "1", "-delete"]).status();
        assert!(done.unwrap().success());
    }

    /// How many of the server's open files have `part` in their path.
    pub fn open_files(&self, part: &str) -> usize {
        let pid = self.child.as_ref().map(Child::id).unwrap();
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|entry| fs::read_link(entry.path()));
        links.flatten().filter(|link| link.to_string_lossy().contains(part)).count()
    }

    /// A path in the state directory, whose content a reboot may remove.
    pub fn state(&self, name: &str) -> PathBuf {
        self.path("state").join(name)
    }

    /// Where a pod's network namespace is pinned.
    pub fn netns(&self, sandbox: &str) -> PathBuf {
        self.path("netns").join(format!("pontoon-{sandbox}"))
    }

    /// Changes the configuration for the next start.
    pub fn configure(&self, edit: impl FnOnce(String) -> String) {
        let file = self.path("config.toml");
        fs::write(&file, edit(fs::read_to_string(&file).unwrap())).unwrap();
    }

    /// Kills the server, and starts it where it must refuse to start. Returns the line with the reason.
    pub async fn refused(&mut self) -> String {
        self.kill();
        let mut start = tokio::process::Command::from(self.command(&["serve"]));
        let ended = tokio::time::timeout(PATIENCE, start.kill_on_drop(true).output()).await;
        let ended = ended.expect("it has started").unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        String::from_utf8(ended.stderr).unwrap().lines().last().unwrap_or_default().to_owned()
    }

    /// Starts the server, and waits until it is ready.
    pub async fn spawn(&mut self) {
        self.spawn_within(PATIENCE).await;
    }

    /// Like [`Node::spawn`], for a start that takes long.
    pub async fn spawn_within(&mut self, limit: Duration) {
        self.spawn_without_waiting();
        let deadline = tokio::time::Instant::now() + limit;
        while !self.is_ready().await {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the server ended: {}", self.log());
            assert!(tokio::time::Instant::now() < deadline, "the server is not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn spawn_without_waiting(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("server.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pontoon"))
            .args(["serve", "--log-level", "debug", "--config"])
            .arg(self.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Whether both conditions that kubelet acts on are true, and the image is listed.
    pub async fn is_ready(&self) -> bool {
        let Ok(reply) = self.cri().status(StatusRequest::default()).await else { return false };
        let conditions = reply.into_inner().status.unwrap_or_default().conditions;
        let mut acted_on = conditions.iter().filter(|condition| condition.r#type.ends_with("Ready"));
        let well = !conditions.is_empty() && acted_on.all(|condition| condition.status);
        let images = self.images().list_images(ListImagesRequest::default()).await;
        well && images.is_ok_and(|reply| !reply.into_inner().images.is_empty())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// `kill -9`. The server is dead when this returns.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM. The future resolves when the server has ended. If it is not awaited, [`Node::kill`] ends the
    /// server.
    pub fn terminate(&mut self) -> impl Future<Output = ()> + use<'_> {
        self.signal(Signal::SIGTERM);
        let child = self.child.as_mut().unwrap();
        async move {
            while child.try_wait().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// `kill -9` and a new start.
    pub async fn restart(&mut self) {
        self.kill();
        self.spawn().await;
    }

    /// A client with a connection of its own.
    pub fn cri(&self) -> Client {
        RuntimeServiceClient::new(self.channel()).max_decoding_message_size(16 << 20)
    }

    /// A client that waits as long as kubelet does.
    pub fn patient_cri(&self) -> Client {
        RuntimeServiceClient::new(self.channel_with(Duration::from_secs(240)))
    }

    /// A client of ImageService with a connection of its own.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel())
    }

    pub fn metrics_socket(&self) -> PathBuf {
        self.path("run/metrics.sock")
    }

    /// The socket for the server's own commands.
    pub fn admin_socket(&self) -> PathBuf {
        self.path("state/admin.sock")
    }

    /// The content of the metrics page.
    pub async fn metrics(&self) -> String {
        let mut stream = UnixStream::connect(self.metrics_socket()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The program, with this server's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
        command.args(arguments).arg("--config").arg(self.path("config.toml")).stdin(Stdio::null());
        command
    }

    /// The command of another instance with the same containerd, and with sockets and directories of its own. `edit`
    /// changes its configuration.
    pub fn second_instance(&self, edit: impl FnOnce(String) -> String) -> Command {
        let mut config = fs::read_to_string(self.path("config.toml")).unwrap();
        for name in ["run", "root", "state", "netns"] {
            let [first, second] = [self.path(name), self.path(&format!("second-{name}"))];
            config = config.replace(&first.display().to_string(), &second.display().to_string());
        }
        let file = self.path("second.toml");
        fs::write(&file, edit(config)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
        command.args(["serve", "--config"]).arg(file).stdin(Stdio::null());
        command
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/pontoon.sock")
    }

    /// A new connection.
    pub fn channel(&self) -> Channel {
        self.channel_with(DEADLINE)
    }

    fn channel_with(&self, deadline: Duration) -> Channel {
        let socket = self.socket();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://pontoon").timeout(deadline).connect_with_connector_lazy(connect)
    }

    /// The server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// How many calls ended because their client disconnected.
    pub fn clients_left(&self) -> usize {
        self.log().matches("client left").count()
    }

    /// The parent of the pods' log directories.
    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    /// The FIFO of a container's `stdout` or `stderr`, to write to it like the container.
    pub fn output(&self, container: &str, stream: &str) -> File {
        // Opened like a shim does: without a reader, a write waits and does not fail.
        File::options().read(true).write(true).open(self.output_path(container, stream)).unwrap()
    }

    /// Whether the server has read all that was written to that FIFO.
    pub fn is_read(&self, container: &str, stream: &str) -> bool {
        rustix::io::ioctl_fionread(self.output(container, stream)).unwrap() == 0
    }

    /// The path of that FIFO.
    pub fn output_path(&self, container: &str, stream: &str) -> PathBuf {
        self.path("state/io").join(container).join(stream)
    }

    /// The request for a pod with this name.
    pub fn pod(&self, name: &str) -> RunPodSandboxRequest {
        requests::pod(&self.logs(), name)
    }

    /// Runs a pod. Returns its id.
    pub async fn run(&self, pod: &RunPodSandboxRequest) -> String {
        self.cri().run_pod_sandbox(pod.clone()).await.unwrap().into_inner().pod_sandbox_id
    }

    /// Creates a container. Returns its id.
    pub async fn create(&self, request: &CreateContainerRequest) -> String {
        self.cri().create_container(request.clone()).await.unwrap().into_inner().container_id
    }

    pub async fn start_container(&self, id: &str) {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.cri().start_container(request).await.unwrap();
    }

    /// Runs a pod with one container that executes a fake command. Returns the ids of both.
    pub async fn run_with_container(&self, name: &str, command: &[&str]) -> (String, String) {
        let pod = self.pod(name);
        let sandbox = self.run(&pod).await;
        let container = self.create(&requests::container(&sandbox, &pod, "main", command)).await;
        self.start_container(&container).await;
        (sandbox, container)
    }

    pub async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.cri().container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// Waits until a container has exited. Returns its status.
    pub async fn ended(&self, id: &str) -> ContainerStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status(id).await;
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "container {id} does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ids and states of all listed sandboxes.
    pub async fn sandboxes(&self) -> Vec<(String, PodSandboxState)> {
        let reply = self.cri().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner();
        reply.decoded().unwrap().into_iter().map(|item| (item.id.clone(), item.state())).collect()
    }

    /// Ids and states of all listed containers.
    pub async fn containers(&self) -> Vec<(String, ContainerState)> {
        let reply = self.cri().list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
        reply.decoded().unwrap().into_iter().map(|item| (item.id.clone(), item.state())).collect()
    }

    /// Removes a pod like kubelet: Stop, then Remove.
    pub async fn remove(&self, sandbox: &str) {
        let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        self.cri().stop_pod_sandbox(stop).await.unwrap();
        let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        self.cri().remove_pod_sandbox(remove).await.unwrap();
    }

    /// Stops and removes all listed sandboxes.
    pub async fn remove_all(&self) {
        for (sandbox, _) in self.sandboxes().await {
            self.remove(&sandbox).await;
        }
    }

    /// The names of the files in a container's volumes.
    pub fn volume_files(&self, container: &str) -> Vec<String> {
        let volumes = entries(&self.path("root/containers").join(container).join("volumes"));
        let files = volumes.iter().flat_map(|volume| entries(volume));
        files.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    }

    /// Everything that is left of any pod, in containerd, in CNI and on the node.
    pub fn leftovers(&self) -> Vec<String> {
        let mut all = self.containerd.leftovers();
        all.extend(self.cni.leftovers());
        let netns = entries(&self.path("netns"));
        let directories = ["state", "root/containers"].map(|name| self.path(name));
        let [state_directories, containers] = directories.map(|path| entries(&path));
        let state = state_directories.iter().flat_map(|directory| entries(directory));
        let paths = netns.into_iter().chain(containers).chain(state);
        all.extend(paths.map(|path| format!("node has {}", path.display())));
        let own = self.path("netns");
        let mounts = mounts_below(self.directory.path()).into_iter().filter(|mount| *mount != own);
        all.extend(mounts.map(|path| format!("node has a mount on {}", path.display())));
        all
    }

    /// Asserts that nothing is left of any pod: in containerd, on the node, in the network, and in the lists.
    pub async fn assert_clean(&self, after: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut left = self.leftovers();
            left.extend(self.sandboxes().await.into_iter().map(|(id, _)| format!("listed is sandbox {id}")));
            left.extend(self.containers().await.into_iter().map(|(id, _)| format!("listed is container {id}")));
            if left.is_empty() {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "left behind after {after}: {left:#?}\n{}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Makes a call, and disconnects before the reply once `reached` resolves. The server has noticed that when this
    /// returns.
    pub async fn call_and_leave<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
        reached: impl Future<Output = ()>,
    ) {
        let before = self.clients_left();
        let call = tokio::spawn(call);
        reached.await;
        call.abort();
        until("the server sees that its client left", || self.clients_left() > before).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        // Also when a test has failed while the plugin hangs.
        self.cni.heal();
        for mount in mounts_below(self.directory.path()).iter().rev() {
            let _ = umount2(mount, MntFlags::MNT_DETACH);
        }
    }
}

fn entries(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}
