//! Replaces `src/telemetry/`: measures and serves nothing.

use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, Default)]
pub struct Metrics;

#[derive(Clone, Copy, Debug)]
pub enum Verb {}

/// How an operation ended, which nothing logs here.
pub trait Outcome {}

impl<T> Outcome for T {}

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

/// Where the daemon would serve metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Loopback(SocketAddr),
    Unix(PathBuf),
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix://") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Loopback).map_err(|_| format!("{text:?} is not IP:PORT")),
        }
    }
}
