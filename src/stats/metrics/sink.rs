//! Where metrics are collected: label values come in the order of the descriptor's keys, by construction.

use super::descriptors::Descriptor;
use crate::api::v1::{Metric, UInt64Value};

/// Values of the labels that every metric has.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// The pod's name.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The container's name; empty for a pod's metrics.
    pub container: String,
    /// The container's id, or the sandbox's.
    pub id: String,
    /// The image; empty for a pod's metrics.
    pub image: String,
}

pub(super) struct Sink<'a> {
    labels: &'a Labels,
    pub(super) metrics: Vec<Metric>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(labels: &'a Labels) -> Self {
        Self { labels, metrics: Vec::new() }
    }

    /// A value that was read just now, if it is known.
    pub(super) fn add(&mut self, of: &Descriptor, value: impl Into<Option<u64>>) {
        self.push(of, &[], 0, value.into());
    }

    /// The same in seconds, of nanoseconds.
    pub(super) fn seconds(&mut self, of: &Descriptor, nanoseconds: impl Into<Option<u64>>) {
        self.push(of, &[], 0, nanoseconds.into().map(|nanoseconds| nanoseconds / 1_000_000_000));
    }

    /// One with further labels.
    pub(super) fn labelled(&mut self, of: &Descriptor, labels: &[&str], value: impl Into<Option<u64>>) {
        self.push(of, labels, 0, value.into());
    }

    /// One that was read at another time, in nanoseconds since the epoch.
    pub(super) fn of_time(&mut self, of: &Descriptor, labels: &[&str], at: i64, value: u64) {
        self.push(of, labels, at, Some(value));
    }

    fn push(&mut self, of: &Descriptor, labels: &[&str], timestamp: i64, value: Option<u64>) {
        debug_assert_eq!(labels.len(), of.labels.len(), "labels of {}", of.name);
        let Some(value) = value else { return };
        let Labels { pod, namespace, container, id, image } = self.labels;
        let base = [pod, namespace, container, id, image].map(String::as_str);
        self.metrics.push(Metric {
            name: of.name.to_owned(),
            timestamp,
            metric_type: of.kind.into(),
            label_values: base.iter().chain(labels).map(ToString::to_string).collect(),
            value: Some(UInt64Value { value }),
        });
    }
}
