//! What Pontoon tells of itself: metrics, operations in flight with their stages, traces.
//!
//! It decides nothing, and nobody waits for it: everything is a handle that any module may hold, and with metrics
//! switched off each of its methods is one comparison. Values that another module counts anyway are read when somebody
//! scrapes ([`Sources`]). docs/metrics.md says what each metric means; every label has few values, none of which a
//! pod, an image or a client can make up.

mod endpoint;
mod grpc;
mod metrics;
mod operations;
mod scrape;
pub mod traces;

#[cfg(test)]
mod documents;

pub use endpoint::{Endpoint, serve};
pub use grpc::{Measure, Measured, code_name};
pub use metrics::{Alive, Metrics, Stream};
pub use operations::{Operations, Running, Stage, Verb, during};
pub use scrape::{Logs, Sources};
