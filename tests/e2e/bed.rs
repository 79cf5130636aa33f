//! The bed under test: where its daemons are, and how to talk to them.

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

/// kubelet's limit of a message.
const MAX_MESSAGE: usize = 16 << 20;

/// busybox with a shell, in the bed's registry under this name.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";

/// Who serves CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Us.
    Pontoon,
    /// containerd's own plugin.
    Builtin,
}

/// A bed that is up.
pub struct Bed {
    /// Its directory.
    pub dir: PathBuf,
    /// Its name, for `bed.sh`.
    pub name: String,
    /// Who serves CRI in it.
    pub target: Target,
    /// Below which pods' cgroups go, as kubelet's cgroup driver "cgroupfs" names them.
    pub cgroup_parent: String,
    env: HashMap<String, String>,
    channel: Channel,
}

impl Bed {
    /// From the environment file that `bed.sh` writes. The connection is made by the first call.
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

    /// CRI's RuntimeService.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// The connection that all calls share.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// CRI's ImageService.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Pulls `image`, returns its id.
    pub async fn pull(&self, image: &str) -> anyhow::Result<String> {
        let request = v1::PullImageRequest { image: Some(image_spec(image)), ..Default::default() };
        let response = self.images().pull_image(request).await.with_context(|| format!("pull {image}"))?;
        Ok(response.into_inner().image_ref)
    }

    /// The image that nearly every test uses.
    pub async fn pull_test_image(&self) -> anyhow::Result<()> {
        self.pull(BUSYBOX).await.map(drop)
    }

    /// A tool of the bed's, such as `crictl` and `ctr`, in the bed's environment.
    pub fn tool(&self, name: &str) -> tokio::process::Command {
        let bin = &self.env["BIN"];
        let mut command = tokio::process::Command::new(format!("{bin}/{name}"));
        self.dress(&mut command);
        command
    }

    /// The same in a session of its own, whose controlling terminal its stdin is.
    pub fn tool_on_terminal(&self, name: &str) -> tokio::process::Command {
        let bin = &self.env["BIN"];
        let mut command = tokio::process::Command::new("setsid");
        command.arg("--ctty").arg(format!("{bin}/{name}"));
        self.dress(&mut command);
        command
    }

    /// RuntimeService on a connection of its own.
    pub fn another_runtime(&self) -> anyhow::Result<RuntimeServiceClient<Channel>> {
        let channel = connect(self.env["CRI_SOCKET"].clone().into())?;
        Ok(RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// The daemon under test, as a program to run once more.
    pub fn daemon_program(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.env["PONTOON_BIN"]);
        self.dress(&mut command);
        command
    }

    /// One of the scripts beside this file.
    pub fn script(&self, name: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(format!("{}/tests/e2e/{name}", env!("CARGO_MANIFEST_DIR")));
        self.dress(&mut command);
        command
    }

    /// `ctr` in the namespace of CRI.
    pub async fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let address = &self.env["CONTAINERD_ADDRESS"];
        output(self.tool("ctr").args(["--address", address, "--namespace", "k8s.io"]).args(arguments)).await
    }

    /// crictl, which must succeed; returns its stdout.
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

    /// The program that serves CRI.
    pub fn server(&self) -> &'static str {
        match self.target {
            Target::Pontoon => "pontoon",
            Target::Builtin => "containerd",
        }
    }

    /// pid of a daemon of the bed's: `pontoon` or `containerd`.
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

/// Of an image's name.
pub fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

/// Runs `command` for at most a minute; its stdout, or an error with its stderr.
pub async fn output(command: &mut tokio::process::Command) -> anyhow::Result<String> {
    let shown = format!("{:?}", command.as_std());
    let done = tokio::time::timeout(Duration::from_secs(60) * *SLOWNESS, command.output());
    let done = done.await.with_context(|| format!("{shown}: not done in time"))?.with_context(|| shown.clone())?;
    let stderr = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{shown}: {}: {stderr}", done.status);
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Asks again, every 20 ms, until `question` has an answer; fails after `deadline` with what it said last.
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

/// Ten seconds: longer than anything takes that is not broken, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(10);
