//! The life cycle of the process: build, check containerd, listen, recover, serve, drain.

mod admin_and_metrics;
mod authority;
mod checks;
mod host;
mod instance;
mod listen;
mod log_format;
mod logging;
mod not_there_yet;
mod notify;
mod panics;
mod release_memory;
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
use crate::joined;
use crate::log_keys::call_with_keys;
use crate::runtime::{self, Node, Recovered, StreamingBackend};
use crate::streaming::Streaming;
use crate::sys;
use crate::tasks::Tasks;
use crate::telemetry::{Metrics, millis};

/// How long operations may take to end after SIGTERM. The next recovery finds what is unfinished by then.
const DRAIN: Duration = Duration::from_secs(30);

/// After that, how long the output already read from containers may take to reach their logs. Together with [`DRAIN`]
/// this must be less than the unit's TimeoutStopSec.
const HAND_OVER: Duration = Duration::from_secs(10);
/// How long it may take to send the last traces.
const TRACES: Duration = Duration::from_secs(3);

/// `pontoon serve`: runs until SIGTERM or SIGINT.
///
/// # Errors
/// The reason why the daemon cannot start, as a sentence for the operator.
pub async fn serve(flags: ServeFlags) -> anyhow::Result<()> {
    sys::dump::forbid().context("close our memory to others")?;
    let hangups = signal(SignalKind::hangup()).context("catch SIGHUP")?;
    let config = Config::load(&flags)?;
    let traces = logging::start(&config)?;
    panics::end_the_process();
    let file = flags.config.as_deref().map_or_else(|| "none".into(), std::path::Path::to_string_lossy);
    tracing::info!(version = %env!("CARGO_PKG_VERSION"), config = %file, "starting");
    // Signals are caught from here on. Their default action could end the process after a log line was read and before
    // it is written.
    let mut signals = Signals::catch().context("catch signals")?;
    // Bound before anything is changed, so that a second instance with this socket gets no further. One with another
    // socket is stopped by the lock of the containerd namespace (instance.rs).
    let listener = listen::bind_after_another(&config.socket).await?;
    let metrics = if config.metrics.is_some() { Metrics::on() } else { Metrics::default() };
    let tasks = Tasks::new(metrics.clone());
    tasks.background(ignore(hangups));
    let node = tokio::select! {
        node = wiring::node(config, tasks.clone()) => node?,
        // Nothing has begun yet.
        () = signals.stopped() => {
            tracing::info!("stopped");
            return Ok(());
        }
    };
    release_memory::when_idle(&tasks, node.containerd.clone());
    let socket = listener.path().to_owned();
    let ended = run(&node, listener, &tasks, &mut signals).await;
    if let Some(traces) = traces {
        // A collector that does not answer must not use up the time that the logs need.
        let _ = tokio::time::timeout(TRACES, traces.end()).await;
    }
    // This also runs after an error, and comes last: the next daemon finds what containers write from now on in the
    // FIFOs.
    if !node.streams.hand_over(HAND_OVER).await {
        tracing::error!("not all of containers' output was in their logs within {HAND_OVER:?}");
    }
    // Removed only now: until the socket is gone, a new instance is refused.
    admin_and_metrics::remove_sockets(&node);
    let _ = std::fs::remove_file(&socket);
    tracing::info!("stopped");
    ended
}

async fn run(node: &Arc<Node>, listener: Listener, tasks: &Tasks, signals: &mut Signals) -> anyhow::Result<()> {
    // Bound early: an address that is not available must fail the start, not a running daemon.
    let (streaming, streams) = Streaming::bind(&node.config.streaming, tasks.clone())?;
    let cri = Cri::new(node.clone(), streaming.clone());
    admin_and_metrics::serve(&cri, node, tasks).await?;
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
    let serving = server.serve_with_incoming_shutdown(incoming, stop_requested(stopping.clone()));
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return drain(node, tasks, async { ended.map_err(anyhow::Error::from) }).await,
        () = signals.stopped() => {}
    }
    // No new calls are accepted from here on. The running calls and the operations they started share one deadline.
    stop.send_replace(true);
    // Clients of streams are disconnected at once, because a client could keep a command running for hours.
    let calls = async { join(serving, streaming.shutdown(DRAIN)).await.0.map_err(anyhow::Error::from) };
    drain(node, tasks, calls).await
}

/// Recovery always runs to its end: its calls to containerd must not be cancelled.
async fn recover(node: &Arc<Node>, tasks: &Tasks) -> runtime::Result<Recovered> {
    let node = Arc::clone(node);
    let recovering = tasks.operation(async move { runtime::recover(&node).await });
    joined::result(recovering).await
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
        Err(_) => log_unfinished(tasks),
    }
    Ok(())
}

/// The next daemon finds what these operations have left.
fn log_unfinished(tasks: &Tasks) {
    tracing::warn!(operations = tasks.in_flight(), "not all operations ended within {DRAIN:?}");
    for running in tasks.operations().running() {
        let (method, stage, ms) = (running.verb.name(), running.stage(), millis(running.age));
        call_with_keys(running.keys, || tracing::warn!(%method, %stage, ms, "the operation has not ended"));
    }
}

/// Resolves when the server is to accept no more calls.
async fn stop_requested(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender was dropped, which also means stop.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Ignores SIGHUP, whose default action would kill the process without a drain. Many daemons read their configuration
/// again at this signal, so the log says what to do.
async fn ignore(mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        tracing::warn!("SIGHUP is ignored: a restart of pontoon applies a changed configuration");
    }
}

/// The signals that end the daemon.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the first signal since [`Signals::catch`].
    async fn stopped(&mut self) {
        tokio::select! {
            _ = self.term.recv() => tracing::info!("SIGTERM"),
            _ = self.int.recv() => tracing::info!("SIGINT"),
        }
    }
}
