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
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, ServeFlags};
use crate::cri::{self, Cri};
use crate::runtime::{self, StreamingBackend};
use crate::streaming::Streaming;
use crate::sys;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// How long operations may take to end after SIGTERM; what is not done by then is found again by recovery.
const DRAIN: Duration = Duration::from_secs(30);

/// `pontoon serve`: runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, in a sentence for the operator.
pub async fn serve(flags: ServeFlags) -> anyhow::Result<()> {
    sys::dump::forbid().context("close our memory to others")?;
    let config = Config::load(&flags)?;
    let traces = logging::start(&config)?;
    // Before anything else is touched: a second instance must not come further.
    let listener = listen::bind_after_another(&config.socket).await?;
    let metrics = if config.metrics.is_some() { Metrics::on() } else { Metrics::default() };
    let tasks = Tasks::new(metrics.clone());
    let node = wiring::node(config, tasks.clone()).await?;
    idle::give_memory_back(&tasks, node.containerd.clone());
    // Bound before it is needed: an address that cannot be had keeps it from starting, not from running.
    let (streaming, streams) = Streaming::bind(&node.config.streaming, tasks.clone())?;
    let cri = Cri::new(node.clone(), streaming.clone());
    beside::serve(&cri, &node, &tasks).await?;
    let found = runtime::recover(&node).await.map_err(|error| anyhow::anyhow!(error.chain())).context("recovery")?;
    tracing::info!(sandboxes = found.sandboxes, containers = found.containers, foreign = found.foreign, "recovered");
    tracing::info!("NRI plugins and checkpoints are not served by this version");

    streams.serve(Arc::new(StreamingBackend(node.clone())));
    let replies = tower::util::MapResponseLayer::new(cri::with_output);
    let mut server = listen::server().layer(cri::measure(&metrics)).layer(replies).layer(cri::Deadlines);
    let server = server.add_service(cri.runtime_service()).add_service(cri.image_service());
    let socket = listener.path().to_owned();
    let incoming = listen::connections(listener.into_listener()?);
    tracing::info!(socket = %socket.display(), streaming = streaming.base_url(), "serving CRI v1");
    notify::ready();
    let (stop, stopping) = watch::channel(false);
    let serving = server.serve_with_incoming_shutdown(incoming, heard(stopping.clone()));
    let drained = async {
        serving.await?;
        tasks.drained().await;
        anyhow::Ok(())
    };
    tokio::pin!(drained);
    tokio::select! {
        ended = &mut drained => return ended,
        () = stopped() => {}
    }
    // From here on no call is taken; those under way, and what they began, have one deadline together.
    stop.send_replace(true);
    node.events.close();
    notify::stopping();
    tracing::info!(operations = tasks.in_flight(), "draining");
    // Clients of streams are sent away at once: what they hold would keep a command for hours.
    let ended = join(drained, streaming.shutdown(DRAIN));
    match tokio::time::timeout(DRAIN, ended).await {
        Ok((ended, ())) => ended?,
        Err(_) => tracing::warn!(operations = tasks.in_flight(), "not all operations ended within {DRAIN:?}"),
    }
    // Only now: until the socket is gone, a new instance is refused.
    beside::remove(&node);
    let _ = std::fs::remove_file(&socket);
    if let Some(traces) = traces {
        traces.end().await;
    }
    Ok(())
}

/// Resolves when the server is to take no more calls.
async fn heard(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn stopped() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return tracing::error!("signals cannot be caught; stopping");
    };
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM"),
        _ = int.recv() => tracing::info!("SIGINT"),
    }
}
