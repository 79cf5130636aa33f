//! Channels to containerd's UNIX socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{self, Endpoint};
use tower::{Layer, service_fn};

use crate::telemetry::{Measure, Measured, Metrics};

/// A connection whose calls can be measured.
pub(super) type Channel = Measured<transport::Channel>;

/// Whether a channel's calls say how fast containerd is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Measured,
    OfWhatIsWaitedFor,
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
