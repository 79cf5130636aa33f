//! Spans of CRI calls and of the stages of what they begin, children of kubelet's own, sent to an OTLP collector.
//!
//! Built with the feature `otlp`, in otlp.rs; without it (off.rs) nothing here costs anything. Spans have a target of
//! their own, so that they are in no log line.

use tracing_subscriber::{Layer, Registry};

#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub use off::{Export, export};
#[cfg(not(feature = "otlp"))]
pub(super) use off::{in_stage, of_call};
#[cfg(feature = "otlp")]
pub use otlp::{Export, export};
#[cfg(feature = "otlp")]
pub(super) use otlp::{in_stage, of_call};

/// What spans have as their target, for filters.
pub const TARGET: &str = "pontoon_spans";

/// Takes spans to the exporter.
pub type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
#[error("export traces to {endpoint}: {reason}")]
pub struct Error {
    /// The collector.
    pub endpoint: String,
    /// What is wrong.
    pub reason: String,
}
