//! Spans of CRI calls and of the stages of their operations, as children of kubelet's spans, sent to an OTLP collector.
//!
//! otlp.rs is built with the feature `otlp`. Without it, off.rs is built, and traces cost nothing. Spans have a target
//! of their own, which keeps them out of the log.

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

/// The target of spans, for filters.
pub const TARGET: &str = "pontoon_spans";

/// The layer that passes spans to the exporter.
pub type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("export traces to {endpoint}: {reason}")]
pub struct Error {
    /// The collector's address.
    pub endpoint: String,
    pub reason: String,
}
