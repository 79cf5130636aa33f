//! The bed under test: where its daemons are, and how to reach them. A bed is a private containerd with a server of
//! CRI, either Pontoon or the built-in.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hyper_util::rt::TokioIo;
use pontoon::api::v1;
use pontoon::api::v1::image_service_client::ImageServiceClient;
use pontoon::api::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::harness::SLOWNESS;

/// kubelet's limit for the size of a message.
const MAX_MESSAGE: usize = 16 << 20;

/// A busybox image with a shell. The bed's registry has it under this name.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

/// The server of CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Pontoon,
    /// containerd's own CRI plugin.
    Builtin,
}

pub struct Bed {
    pub dir: PathBuf,
    /// Its name, as an argument of `bed.sh`.
    pub name: String,
    pub target: Target,
    /// Parent of the pods' cgroups, in the format of kubelet's cgroup driver "cgroupfs".
    pub cgroup_parent: String,
    env: HashMap<String, String>,
    channel: Channel,
}

impl Bed {
    /// Reads the environment file that `bed.sh` writes. The first call opens the connection.
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)?;
        let env: HashMap<String, String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let get = |key: &str| env.get(key).cloned().with_context(|| format!("{key} is not in it"));
        let socket = PathBuf::from(get("CRI_SOCKET")?);
        let target = if get("TARGET")? == "pontoon" { Target::Pontoon } else { Target::Builtin };
        Ok(Self {
            dir: get("BED")?.into(),
            name: get("NAME")?,
            target,
            cgroup_parent: get("CGROUP_PARENT")?,
            channel: connect(socket)?,
            env,
        })
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The connection that all calls share.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Pulls `image`. Returns its ID.
    pub async fn pull(&self, image: &str) -> anyhow::Result<String> {
        let request = v1::PullImageRequest { image: Some(image_spec(image)), ..Default::default() };
        let response = self.images().pull_image(request).await.with_context(|| format!("pull {image}"))?;
        Ok(response.into_inner().image_ref)
    }

    pub async fn pull_test_image(&self) -> anyhow::Result<()> {
        self.pull(BUSYBOX).await.map(drop)
    }

    /// A tool such as `crictl` or `ctr`, in the bed's environment.
    pub fn tool(&self, name: &str) -> tokio::process::Command {
        let bin = &self.env["BIN"];
        let mut command = tokio::process::Command::new(format!("{bin}/{name}"));
        self.dress(&mut command);
        command
    }

    /// The same in its own session, with its stdin as controlling terminal.
    pub fn tool_on_terminal(&self, name: &str) -> tokio::process::Command {
        let bin = &self.env["BIN"];
        let mut command = tokio::process::Command::new("setsid");
        command.arg("--ctty").arg(format!("{bin}/{name}"));
        self.dress(&mut command);
        command
    }

    /// A client of RuntimeService on its own connection.
    pub fn another_runtime(&self) -> anyhow::Result<RuntimeServiceClient<Channel>> {
        let channel = connect(self.env["CRI_SOCKET"].clone().into())?;
        Ok(RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// A connection to the bed's containerd.
    pub fn containerd(&self) -> anyhow::Result<Channel> {
        connect(self.env["CONTAINERD_ADDRESS"].clone().into())
    }

    /// The program of the daemon under test, to be run a second time.
    pub fn daemon_program(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.env["PONTOON_BIN"]);
        self.dress(&mut command);
        command
    }

    /// A script in the directory of this file.
    pub fn script(&self, name: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(format!("{}/tests/e2e/{name}", env!("CARGO_MANIFEST_DIR")));
        self.dress(&mut command);
        command
    }

    /// Runs `ctr` in CRI's containerd namespace. Returns its stdout.
    pub async fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let address = &self.env["CONTAINERD_ADDRESS"];
        output(self.tool("ctr").args(["--address", address, "--namespace", "k8s.io"]).args(arguments)).await
    }

    /// Runs crictl, which must succeed. Returns its stdout.
    pub async fn crictl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.tool("crictl").args(arguments)).await
    }

    fn dress(&self, command: &mut tokio::process::Command) {
        for key in ["BIN", "PONTOON_BIN", "CRI_CONFIG_FILE", "CONTAINERD_ADDRESS"] {
            command.env(key, &self.env[key]);
        }
        command.env_remove("CONTAINER_RUNTIME_ENDPOINT").env_remove("IMAGE_SERVICE_ENDPOINT");
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    }

    /// Name of the program that serves CRI.
    pub fn server(&self) -> &'static str {
        match self.target {
            Target::Pontoon => "pontoon",
            Target::Builtin => "containerd",
        }
    }

    /// pid of one of the bed's daemons: `pontoon` or `containerd`.
    pub fn pid(&self, daemon: &str) -> anyhow::Result<u32> {
        let file = self.dir.join(format!("{daemon}.pid"));
        std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?.trim().parse().context("pid")
    }
}

fn connect(socket: PathBuf) -> anyhow::Result<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
}

/// The `ImageSpec` of an image's name.
pub fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

/// Runs `command` for at most a minute. Returns its stdout, or an error with its stderr.
pub async fn output(command: &mut tokio::process::Command) -> anyhow::Result<String> {
    let shown = format!("{:?}", command.as_std());
    let done = tokio::time::timeout(Duration::from_secs(60) * *SLOWNESS, command.output());
    let done = done.await.with_context(|| format!("{shown}: not done in time"))?.with_context(|| shown.clone())?;
    let stderr = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{shown}: {}: {stderr}", done.status);
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Calls `question` every 20 ms until it succeeds. After `deadline` it fails with the last error.
pub async fn until<T, F>(deadline: Duration, mut question: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let start = Instant::now();
    let deadline = deadline * *SLOWNESS;
    loop {
        let last = match question().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if start.elapsed() > deadline {
            bail!("not within {deadline:?}: {last:#}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ten seconds: longer than any operation takes that works, also on a loaded machine.
pub const SOON: Duration = Duration::from_secs(10);
