//! Logs on stderr, as text or JSON, and the export of spans to a collector.

use anyhow::Context;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::log_format::{JsonLine, TextFields};
use crate::config::{Config, LogFormat};
use crate::telemetry::traces::{self, Export, SpanLayer, TARGET};

/// Up to which level the lines of other libraries are written, unless a directive names their target. At level debug,
/// nearly all lines would be the frames of HTTP/2.
const OF_LIBRARIES: LevelFilter = LevelFilter::WARN;

/// Starts both. May be called once per process. The returned handle ends the export.
pub(super) fn start(config: &Config) -> anyhow::Result<Option<Export>> {
    let lines = lines(&config.log.level, config.log.format, std::io::stderr)?;
    let exported = traces::export(&config.traces.endpoint, config.traces.sampling_rate_per_million)?;
    let (spans, export) = exported.unzip();
    let layers: Vec<SpanLayer> = std::iter::once(lines).chain(spans).collect();
    tracing_subscriber::registry().with(layers).try_init().map_err(|error| anyhow::anyhow!(error))?;
    Ok(export)
}

/// The layer that writes the lines.
fn lines<W>(level: &str, format: LogFormat, writer: W) -> anyhow::Result<SpanLayer>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter =
        EnvFilter::builder().parse(directives(level)).with_context(|| format!("config key log.level: {level:?}"))?;
    // A log line is complete by itself, so it does not show the spans that it is in.
    let filter = filter.add_directive(format!("{TARGET}=off").parse()?);
    let lines = fmt::layer().with_writer(writer).with_ansi(false);
    Ok(match format {
        LogFormat::Text => lines.map_fmt_fields(TextFields).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).map_event_format(JsonLine).with_filter(filter).boxed(),
    })
}

/// The directives of `log.level`, in which a level without a target is for our own lines.
fn directives(level: &str) -> String {
    let directive = |text: &str| match text.parse::<LevelFilter>() {
        Ok(level) if !text.is_empty() => format!("{},pontoon={level}", level.min(OF_LIBRARIES)),
        Ok(_) | Err(_) => text.to_owned(),
    };
    level.split(',').map(|text| directive(text.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
