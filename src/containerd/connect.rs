//! Channels to containerd's UNIX socket.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{self, Endpoint};
use tower::{Layer, service_fn};

use crate::telemetry::{Measure, Measured, Metrics};

/// A connection whose calls can be measured.
pub(super) type Channel = Measured<transport::Channel>;

/// Whether a channel's calls say how fast containerd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    Measured,
    OfWhatIsWaitedFor,
}

/// A channel that can be made anew: HTTP/2 keeps room for as many calls as it ever had at once for as long as the connection is
/// open, 116 KiB after 64 commands that ran at once.
#[derive(Debug)]
pub(super) struct Renewable {
    socket: PathBuf,
    metrics: Metrics,
    times: Times,
    now: Mutex<Channel>,
}

impl Renewable {
    /// Its calls are told to `metrics`.
    pub(super) fn new(socket: &Path, metrics: &Metrics, times: Times) -> Self {
        let now = Mutex::new(measured(lazy(socket), metrics, times));
        Self { socket: socket.to_owned(), metrics: metrics.clone(), times, now }
    }

    /// The same, with its calls told to others.
    pub(super) fn measured(&self, metrics: &Metrics) -> Self {
        Self::new(&self.socket, metrics, self.times)
    }

    /// For one call: whoever keeps it keeps an old connection open.
    pub(super) fn channel(&self) -> Channel {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The old connection closes when the calls on it have ended; the next call dials.
    pub(super) fn renew(&self) {
        let new = measured(lazy(&self.socket), &self.metrics, self.times);
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// A channel that dials when it is first used and again whenever the connection is gone.
/// No HTTP/2 keepalive: containerd answers pings it finds too frequent with GOAWAY.
pub(super) fn lazy(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_owned();
    // The authority is not looked at on a UNIX socket, but h2 wants one that parses.
    let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }));
    Measure::default().layer(channel)
}

/// The same channel, with its calls told to `metrics`.
pub(super) fn measured(channel: Channel, metrics: &Metrics, times: Times) -> Channel {
    if !metrics.is_on() {
        return channel;
    }
    let metrics = metrics.clone();
    channel.with(Measure::with(move |path, code, took| {
        // `/containerd.services.tasks.v1.Tasks/Create` is `Tasks/Create`: which they are is in our code alone.
        let method = path.rsplit('.').next().unwrap_or(path);
        metrics.containerd(method, code, (times == Times::Measured).then_some(took));
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

    /// The listener's side of the connection that a call dials, if it dials.
    async fn dialled(connection: &Renewable, listener: &UnixListener) -> Option<UnixStream> {
        let mut client = VersionClient::new(connection.channel());
        // Nobody answers.
        let call = timeout(Duration::from_millis(200), client.version(()));
        let (_, accepted) = join(call, timeout(Duration::from_millis(400), listener.accept())).await;
        accepted.ok().map(|accepted| accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_renewed_connection_lets_go_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let connection = Renewable::new(&path, &Metrics::default(), Times::Measured);
        let mut old = dialled(&connection, &listener).await.expect("the first call dials");
        assert!(dialled(&connection, &listener).await.is_none(), "the second call dials too");
        connection.renew();
        timeout(SOON, old.read_to_end(&mut Vec::new())).await.expect("the old one closes").unwrap();
        assert!(dialled(&connection, &listener).await.is_some(), "the next call does not dial");
    }

    /// A container runs on for months, and with it the connection that its wait is on.
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
