//! What Pontoon reports about itself: metrics, operations in flight with their stages, and traces.
//!
//! This module makes no decisions and makes no caller wait. Everything is a handle that any module may hold; with
//! metrics switched off, each of its methods is one comparison. Values that another module counts anyway are read at a
//! scrape ([`Sources`]). docs/metrics.md explains each metric. Every label has few values, and no pod, image or client
//! can invent one.

mod calls;
mod endpoint;
mod grpc;
mod metrics;
mod names;
mod operations;
mod scrape;
pub mod traces;

#[cfg(test)]
mod documents;

pub use calls::{Call, Outcome, chain, millis};
pub use endpoint::{Endpoint, serve};
pub use grpc::{Measure, Measured, code_name};
pub use metrics::{Alive, Metrics, Stream};
pub use names::{Stage, Verb};
pub use operations::{Operations, Running, RunningStage, detailed, during};
pub use scrape::{Logs, Sources};
