//! A private containerd and registries for a test. All their files are in one directory, which is removed at the end.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use pontoon::api::v1 as cri;
use pontoon::containerd::{Containerd, Event};
use pontoon::images::{Images, Settings};
use pontoon::stats::Layers;
use pontoon::tasks::Tasks;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The htpasswd of the registries with a password: the user `u` with `hunter22`, in bcrypt.
const HTPASSWD: &str = "u:$2b$05$abcdefghijklmnopqrstuuZ6QNu0NKXZkZHC5hsQUItfxcGamvB8i\n";

/// The processes end before the directory is removed, because fields are dropped in this order.
pub struct Bed {
    children: Children,
    tools: PathBuf,
    pub containerd: Containerd,
    pub images: Images,
    settings: Settings,
    pub dir: TempDir,
}

impl Bed {
    pub async fn start(change: impl FnOnce(&mut Settings, &Path)) -> Self {
        let tools = std::env::var_os("PONTOON_BIN_DIR").expect("the directory of containerd and ctr");
        let tools = PathBuf::from(tools);
        let dir = tempfile::Builder::new().prefix("pontoon-images-").tempdir_in("/var/tmp").unwrap();
        let path = dir.path();
        for name in ["verifiers", "certs.d"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        std::fs::write(path.join("containerd.toml"), containerd_toml(path)).unwrap();
        // A stream processor for layers of type `…layer.v1.slow`. It passes a layer through once no file `hold` exists.
        let slow = format!("#!/bin/sh\nwhile [ -e {0}/hold ]; do sleep 0.05; done\nexec cat\n", path.display());
        std::fs::write(path.join("slow"), slow).unwrap();
        std::fs::set_permissions(path.join("slow"), PermissionsExt::from_mode(0o755)).unwrap();
        let socket = path.join("containerd.sock");
        let child = Command::new(tools.join("containerd"))
            .arg("--config")
            .arg(path.join("containerd.toml"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path.join("containerd.log")).unwrap())
            .spawn()
            .unwrap();
        let children = Children(vec![child]);
        let containerd = Containerd::new(&socket, "k8s.io").unwrap();
        until("containerd answers", || async { containerd.version().await.is_ok() }).await;
        let mut settings =
            Settings { registry_config_path: path.join("certs.d").display().to_string(), ..Settings::default() };
        change(&mut settings, path);
        let images = start(&containerd, &settings).await;
        Self { children, tools, containerd, images, settings, dir }
    }

    /// Reads all images again, as the daemon does when it starts.
    pub async fn restart(&mut self) {
        self.images = start(&self.containerd, &self.settings).await;
    }

    /// Starts a registry, with a password or without. Returns its host and port.
    pub async fn registry(&mut self, password: bool) -> String {
        self.registry_at(free_port(), password).await
    }

    /// Like [`Bed::registry`], on a given free port.
    pub async fn registry_at(&mut self, port: u16, password: bool) -> String {
        let host = format!("127.0.0.1:{port}");
        let root = self.dir.path().join(format!("registry-{port}"));
        std::fs::create_dir(&root).unwrap();
        let htpasswd = root.join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display());
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{}",
            root.join("data").display(),
            if password { auth.as_str() } else { "" },
        );
        std::fs::write(root.join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(root.join("log")).unwrap())
            .spawn()
            .unwrap();
        self.children.0.push(child);
        until("the registry answers", || async { std::net::TcpStream::connect(&host).is_ok() }).await;
        host
    }

    /// Pushes an image, with the password of the registries that have one.
    pub fn push(&self, image: &Built, reference: &str) {
        let source = format!("oci:{}:latest", image.layout.display());
        let target = format!("docker://{reference}");
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false", "--dest-creds=u:hunter22"])
            .args([source, target]));
    }

    /// Runs ctr and returns its stdout.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        let socket = self.dir.path().join("containerd.sock");
        run(Command::new(self.tools.join("ctr")).arg("--address").arg(socket).args(["-n", "k8s.io"]).args(arguments))
    }

    /// The digests of all blobs.
    pub fn blobs(&self) -> Vec<String> {
        self.ctr(&["content", "ls", "--quiet"]).lines().map(ToOwned::to_owned).collect()
    }

    pub async fn pull(&self, reference: &str) -> Result<String, pontoon::images::Error> {
        self.pull_as(reference, None).await
    }

    pub async fn pull_as(&self, reference: &str, password: Option<&str>) -> Result<String, pontoon::images::Error> {
        let auth = password.map(|password| cri::AuthConfig {
            username: "u".to_owned(),
            password: password.to_owned(),
            ..cri::AuthConfig::default()
        });
        let request = cri::PullImageRequest { image: Some(spec(reference)), auth, sandbox_config: None };
        self.images.pull_image(request).await.map(|response| response.image_ref)
    }

    /// Pulls as kubelet does for a pod in a namespace.
    pub async fn pull_in(&self, namespace: &str, reference: &str) -> Result<String, pontoon::images::Error> {
        let metadata =
            cri::PodSandboxMetadata { namespace: namespace.to_owned(), ..cri::PodSandboxMetadata::default() };
        let pod = cri::PodSandboxConfig { metadata: Some(metadata), ..cri::PodSandboxConfig::default() };
        let request = cri::PullImageRequest { image: Some(spec(reference)), auth: None, sandbox_config: Some(pod) };
        self.images.pull_image(request).await.map(|response| response.image_ref)
    }

    /// Pulls as kubelet does for a pod with a runtime handler.
    pub async fn pull_for(&self, reference: &str, handler: &str) -> Result<String, pontoon::images::Error> {
        let image = cri::ImageSpec { runtime_handler: handler.to_owned(), ..spec(reference) };
        let request = cri::PullImageRequest { image: Some(image), ..cri::PullImageRequest::default() };
        self.images.pull_image(request).await.map(|response| response.image_ref)
    }

    /// The ids of the images that match a filter.
    pub fn filtered(&self, filter: &str) -> Vec<String> {
        let filter = Some(cri::ImageFilter { image: Some(spec(filter)) });
        let reply = self.images.list_images(cri::ListImagesRequest { filter }).unwrap();
        reply.images.into_iter().map(|image| image.id).collect()
    }

    pub fn list(&self) -> Vec<cri::Image> {
        self.images.list_images(cri::ListImagesRequest::default()).unwrap().images
    }

    pub async fn status(&self, reference: &str) -> Option<cri::Image> {
        let request = cri::ImageStatusRequest { image: Some(spec(reference)), verbose: false };
        self.images.image_status(request).await.unwrap().image
    }

    pub async fn remove(&self, reference: &str) {
        self.images.remove_image(cri::RemoveImageRequest { image: Some(spec(reference)) }).await.unwrap();
    }

    pub async fn records(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let records = self.containerd.list_images().await.unwrap();
        records.into_iter().map(|record| (record.name, record.labels.into_iter().collect())).collect()
    }
}

/// Ends the processes when dropped, also when [`Bed::start`] fails.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("containerd.log")).unwrap_or_default();
            let lines = log.lines().filter(|line| line.contains("level=warn") || line.contains("level=error"));
            eprintln!("containerd:\n{}", lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

pub fn spec(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: reference.to_owned(), ..cri::ImageSpec::default() }
}

async fn start(containerd: &Containerd, settings: &Settings) -> Images {
    let (tasks, health) = (Tasks::default(), tokio::sync::watch::channel(true).1);
    let layers = Layers::new(containerd.clone(), tasks.clone());
    let images = Images::start(containerd.clone(), layers, settings.clone(), tasks, health);
    images.refresh().await.unwrap();
    pump(containerd.clone(), images.clone()).await;
    images
}

/// Handles image events as the daemon does.
async fn pump(containerd: Containerd, images: Images) {
    let mut events = containerd.subscribe().await.unwrap();
    Tasks::default().background(async move {
        while let Ok(event) = events.next().await {
            if let Event::Image { name } = event {
                images.on_event(&name).await;
            }
        }
    });
}

pub async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    for _ in 0..400 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within ten seconds: {what}");
}

/// A port that nobody listens on. It is outside the range from which the kernel chooses: another test, or a connection of
/// any process, could get such a port before it is used. No two calls return the same port.
pub fn free_port() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(0);
    let first = 15_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    loop {
        let port = first + LAST.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn containerd_toml(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 3
root = "{dir}/root"
state = "{dir}/state"
imports = []
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.blockfile"]
[grpc]
address = "{dir}/containerd.sock"
[ttrpc]
address = "{dir}/containerd.ttrpc.sock"
# Its first garbage collection, otherwise 100 ms after its start, deletes the streams (of its streaming API, which Transfer
# uses) of a namespace without other resources, and so could break a test's first pull. Later ones follow deletions.
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "0s"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[plugins."io.containerd.image-verifier.v1.bindir"]
bin_dir = "{dir}/verifiers"
[stream_processors."test.slow"]
accepts = ["application/vnd.oci.image.layer.v1.slow"]
returns = "application/vnd.oci.image.layer.v1.tar"
path = "{dir}/slow"
"#
    )
}

/// An image in the form of an OCI layout.
pub struct Built {
    pub layout: PathBuf,
}

/// Builds an image. Each directory becomes a layer, the lowest first.
pub fn build(at: &Path, layers: &[PathBuf], config: &Value) -> Built {
    let layout = at.to_owned();
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for directory in layers {
        let mut descriptor = blob(&layout, "application/vnd.oci.image.layer.v1.tar", &tar(directory));
        diff_ids.push(descriptor["digest"].clone());
        descriptor["annotations"] = json!({"containerd.io/snapshot/uidmapping": "0:1000:1"});
        descriptors.push(descriptor);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [{"created_by": "a test"}]});
    let config = blob(&layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": descriptors});
    let mut manifest = blob(&layout, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    std::fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())
        .unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    Built { layout }
}

/// A layer with the content of a directory.
pub fn tar(directory: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    let tar = tar.args(["--sort=name", "--mtime=@0", "-cf", "-", "-C"]).arg(directory).arg(".").output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    tar.stdout
}

fn blob(layout: &Path, media_type: &str, content: &[u8]) -> Value {
    let hex = hex(content);
    std::fs::write(layout.join("blobs/sha256").join(&hex), content).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": content.len()})
}

/// The SHA-256 digest in hexadecimal.
pub fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small image. Images with different names have different content.
pub fn small(bed: &Bed, name: &str) -> Built {
    let root = bed.dir.path().join(format!("rootfs-{name}"));
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/passwd"), format!("root:x:0:0::/:/bin/sh\n{name}:x:1000:1000::/:/bin/sh\n")).unwrap();
    std::fs::write(root.join("etc/group"), format!("root:x:0:\n{name}:x:1000:\n")).unwrap();
    let config = json!({"User": name, "Labels": {"containerd.io/restart.status": "running", "io.cri-containerd.pinned": "pinned"}});
    build(&bed.dir.path().join(format!("layout-{name}")), &[root], &config)
}

/// Installs an image verifier that rejects images with `refused` in their names.
pub fn install_verifier(bed: &Bed) {
    use std::os::unix::fs::PermissionsExt;
    let path = bed.dir.path().join("verifiers/check");
    std::fs::write(&path, "#!/bin/sh\ncat >/dev/null\ncase \"$*\" in *refused*) echo not signed; exit 1;; esac\n")
        .unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}
