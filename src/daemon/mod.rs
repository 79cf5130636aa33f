//! Wiring and life of the process: build, check containerd, listen, recover, serve, drain.

mod authority;
mod beside;
mod checks;
mod host;
mod idle;
mod listen;
mod logging;
mod notify;
mod wiring;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::listen::Listener;
use crate::config::{Config, ServeFlags};
use crate::cri::{self, Cri};
use crate::runtime::{self, Node, Recovered, StreamingBackend};
use crate::streaming::Streaming;
use crate::sys;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// How long operations may take to end after SIGTERM; what is not done by then is found again by recovery.
const DRAIN: Duration = Duration::from_secs(30);

/// How long what was read of containers' output may take to be in their logs, after that. With the time for the operations it
/// must be less than the unit's TimeoutStopSec.
const HAND_OVER: Duration = Duration::from_secs(10);
/// How long the last traces may take to be sent.
const TRACES: Duration = Duration::from_secs(3);

/// `pontoon serve`: runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, in a sentence for the operator.
pub async fn serve(flags: ServeFlags) -> anyhow::Result<()> {
    sys::dump::forbid().context("close our memory to others")?;
    let config = Config::load(&flags)?;
    let traces = logging::start(&config)?;
    // Caught from here on: the signal's own action would end us between the reading of a log's line and its writing.
    let mut signals = Signals::catch().context("catch signals")?;
    // Before anything else is touched: a second instance must not come further.
    let listener = listen::bind_after_another(&config.socket).await?;
    let metrics = if config.metrics.is_some() { Metrics::on() } else { Metrics::default() };
    let tasks = Tasks::new(metrics.clone());
    let node = tokio::select! {
        node = wiring::node(config, tasks.clone()) => node?,
        // Nothing was begun yet.
        () = signals.stopped() => return Ok(()),
    };
    idle::give_memory_back(&tasks, node.containerd.clone());
    let socket = listener.path().to_owned();
    let ended = live(&node, listener, &tasks, &mut signals).await;
    if let Some(traces) = traces {
        // A collector that does not answer must not take the time that the logs need.
        let _ = tokio::time::timeout(TRACES, traces.end()).await;
    }
    // Also after an error. Last of all: whatever is written between this and our end, the next daemon finds in the FIFOs.
    if !node.streams.hand_over(HAND_OVER).await {
        tracing::error!("not all of containers' output was in their logs within {HAND_OVER:?}");
    }
    // Only now: until the socket is gone, a new instance is refused.
    beside::remove(&node);
    let _ = std::fs::remove_file(&socket);
    ended
}

/// Recovers, serves and drains.
async fn live(node: &Arc<Node>, listener: Listener, tasks: &Tasks, signals: &mut Signals) -> anyhow::Result<()> {
    // Bound before it is needed: an address that cannot be had keeps it from starting, not from running.
    let (streaming, streams) = Streaming::bind(&node.config.streaming, tasks.clone())?;
    let cri = Cri::new(node.clone(), streaming.clone());
    beside::serve(&cri, node, tasks).await?;
    let recovered = tokio::select! {
        recovered = recover(node, tasks) => recovered,
        () = signals.stopped() => return drain(node, tasks, async { Ok(()) }).await,
    };
    let found = recovered.map_err(|error| anyhow::anyhow!(error.chain())).context("recovery")?;
    tracing::info!(sandboxes = found.sandboxes, containers = found.containers, foreign = found.foreign, "recovered");
    tracing::info!("NRI plugins and checkpoints are not served by this version");

    streams.serve(Arc::new(StreamingBackend(node.clone())));
    let replies = tower::util::MapResponseLayer::new(cri::with_output);
    let metrics = tasks.operations().metrics();
    let server = listen::server().layer(cri::measure(metrics)).layer(replies);
    let mut server = server.layer(cri::LargeRequests::default()).layer(cri::Deadlines);
    let server = server.add_service(cri.runtime_service()).add_service(cri.image_service());
    let socket = listener.path().to_owned();
    let incoming = listen::connections(listener.into_listener()?);
    tracing::info!(socket = %socket.display(), streaming = streaming.base_url(), "serving CRI v1");
    notify::ready();
    let (stop, stopping) = watch::channel(false);
    let serving = server.serve_with_incoming_shutdown(incoming, heard(stopping.clone()));
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return drain(node, tasks, async { ended.map_err(anyhow::Error::from) }).await,
        () = signals.stopped() => {}
    }
    // From here on no call is taken; those under way, and what they began, have one deadline together.
    stop.send_replace(true);
    // Clients of streams are sent away at once: what they hold would keep a command for hours.
    let calls = async { join(serving, streaming.shutdown(DRAIN)).await.0.map_err(anyhow::Error::from) };
    drain(node, tasks, calls).await
}

/// Runs to its end whatever happens: it is made of calls to containerd, which must not be dropped.
async fn recover(node: &Arc<Node>, tasks: &Tasks) -> runtime::Result<Recovered> {
    let node = Arc::clone(node);
    let recovering = tasks.operation(async move { runtime::recover(&node).await });
    recovering.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Waits for `calls` and all operations, for [`DRAIN`] at most.
async fn drain(node: &Node, tasks: &Tasks, calls: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    node.events.close();
    notify::stopping();
    tracing::info!(operations = tasks.in_flight(), "draining");
    let ended = async {
        calls.await?;
        tasks.drained().await;
        anyhow::Ok(())
    };
    match tokio::time::timeout(DRAIN, ended).await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!(operations = tasks.in_flight(), "not all operations ended within {DRAIN:?}"),
    }
    Ok(())
}

/// Resolves when the server is to take no more calls.
async fn heard(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// What asks the daemon to end.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the first that comes, or came since they are caught.
    async fn stopped(&mut self) {
        tokio::select! {
            _ = self.term.recv() => tracing::info!("SIGTERM"),
            _ = self.int.recv() => tracing::info!("SIGINT"),
        }
    }
}
