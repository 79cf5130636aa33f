//! Channels to containerd's UNIX socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{self, Endpoint};
use tower::{Layer, service_fn};

use crate::mutex::Mutex;
use crate::telemetry::{Measure, Measured, Metrics};

/// A channel whose calls can be measured.
pub(super) type Channel = Measured<transport::Channel>;

/// Whether the durations of a channel's calls are measured. They say nothing about containerd's speed for calls that
/// wait until a task or a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    Measured,
    CountOnly,
}

/// A channel whose connection can be replaced. For as long as an HTTP/2 connection is open, it keeps buffers for as
/// many calls as it ever had at once: 116 KiB after 64 commands that ran at once.
#[derive(Debug)]
pub(super) struct Renewable {
    socket: PathBuf,
    metrics: Metrics,
    timing: Timing,
    now: Mutex<Channel>,
}

impl Renewable {
    /// Reports its calls to `metrics`.
    pub(super) fn new(socket: &Path, metrics: &Metrics, timing: Timing) -> Self {
        let now = Mutex::new(measured(lazy(socket), metrics, timing));
        Self { socket: socket.to_owned(), metrics: metrics.clone(), timing, now }
    }

    /// A new channel of the same kind that reports its calls to `metrics`.
    pub(super) fn measured(&self, metrics: &Metrics) -> Self {
        Self::new(&self.socket, metrics, self.timing)
    }

    /// The channel for one call. A caller that holds on to it keeps an old connection open.
    pub(super) fn channel(&self) -> Channel {
        self.now.lock().clone()
    }

    /// Replaces the channel: the next call dials. The old connection closes when the calls on it have ended.
    pub(super) fn renew(&self) {
        let new = measured(lazy(&self.socket), &self.metrics, self.timing);
        *self.now.lock() = new;
    }
}

/// A channel that dials when it is first used, and again whenever the connection was lost. No HTTP/2 keepalive:
/// containerd answers pings that are too frequent with GOAWAY.
pub(super) fn lazy(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The authority is not used on a UNIX socket, but h2 requires one that parses.
    let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }));
    Measure::default().layer(channel)
}

/// The same channel, which reports its calls to `metrics`.
pub(super) fn measured(channel: Channel, metrics: &Metrics, timing: Timing) -> Channel {
    if !metrics.is_on() {
        return channel;
    }
    let metrics = metrics.clone();
    channel.with(Measure::with(move |path, code, took| {
        // Shortens `/containerd.services.tasks.v1.Tasks/Create` to `Tasks/Create`. Only our code decides which methods
        // are called, so there are few label values.
        let method = path.rsplit('.').next().unwrap_or(path);
        metrics.containerd(method, code, (timing == Timing::Measured).then_some(took));
    }))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use containerd_client::services::v1::version_client::VersionClient;
    use futures_util::future::join;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixListener;
    use tokio::time::timeout;

    use super::super::Containerd;
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// The listener's side of the connection that a call dials; `None` if the call does not dial.
    async fn dialled(connection: &Renewable, listener: &UnixListener) -> Option<UnixStream> {
        let mut client = VersionClient::new(connection.channel());
        // The listener never responds.
        let call = timeout(Duration::from_millis(200), client.version(()));
        let (_, accepted) = join(call, timeout(Duration::from_millis(400), listener.accept())).await;
        accepted.ok().map(|accepted| accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_renewed_connection_lets_go_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let connection = Renewable::new(&path, &Metrics::default(), Timing::Measured);
        let mut old = dialled(&connection, &listener).await.expect("the first call dials");
        assert!(dialled(&connection, &listener).await.is_none(), "the second call dials too");
        connection.renew();
        timeout(SOON, old.read_to_end(&mut Vec::new())).await.expect("the old one closes").unwrap();
        assert!(dialled(&connection, &listener).await.is_some(), "the next call does not dial");
    }

    /// A container may run for months, and the connection that its wait uses stays open as long.
    #[tokio::test]
    async fn a_commands_wait_is_on_no_containers_connection() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let containerd = Containerd::new(&path, "k8s.io").unwrap();
        let mut container = pin!(containerd.wait_task("id", ""));
        let mut of_container = tokio::select! {
            accepted = timeout(SOON, listener.accept()) => accepted.expect("it dials").unwrap().0,
            ended = &mut container => panic!("{ended:?}"),
        };
        let mut of_command = tokio::select! {
            accepted = timeout(SOON, listener.accept()) => accepted.expect("it dials too").unwrap().0,
            ended = containerd.wait_task("id", "exec") => panic!("{ended:?}"),
        };
        containerd.renew();
        timeout(SOON, of_command.read_to_end(&mut Vec::new())).await.expect("the command's closes").unwrap();
        let closed = timeout(Duration::from_millis(200), of_container.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_err(), "the container's closes too");
    }
}
