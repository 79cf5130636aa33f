//! Logs on stderr, as text or JSON, and the export of spans to a collector.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{Config, LogFormat};
use crate::telemetry::traces::{self, Export, SpanLayer, TARGET};

/// Starts both. May be called once per process. The returned handle ends the export.
pub(super) fn start(config: &Config) -> anyhow::Result<Option<Export>> {
    let level = &config.log.level;
    let filter = EnvFilter::builder().parse(level).with_context(|| format!("config key log.level: {level:?}"))?;
    // A log line is complete by itself, so it does not show the spans that it is in.
    let filter = filter.add_directive(format!("{TARGET}=off").parse()?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: SpanLayer = match config.log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let exported = traces::export(&config.traces.endpoint, config.traces.sampling_rate_per_million)?;
    let (spans, export) = exported.unzip();
    let layers: Vec<SpanLayer> = std::iter::once(lines).chain(spans).collect();
    tracing_subscriber::registry().with(layers).try_init().map_err(|error| anyhow::anyhow!(error))?;
    Ok(export)
}
