//! As `src/telemetry/`, with nothing that is measured or served.

use std::net::SocketAddr;

#[derive(Clone, Debug, Default)]
pub struct Metrics;

#[derive(Clone, Copy, Debug)]
pub enum Verb {}

#[derive(Clone, Debug, Default)]
pub struct Operations;

impl Operations {
    pub fn new(_: Metrics) -> Self {
        Self
    }

    pub fn track<F: Future>(&self, _: Verb, _: String, work: F) -> F {
        work
    }
}

/// Where metrics would be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(SocketAddr);

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is no IP:PORT"))
    }
}
