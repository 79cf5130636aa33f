//! Collects metrics. It puts the label values in the order of the descriptor's keys.

use super::descriptors::Descriptor;
use crate::api::v1::{Metric, UInt64Value};

/// The values of the labels that every metric has.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Empty for a pod's metrics.
    pub container: String,
    /// The id of the container, or of the sandbox for a pod's metrics.
    pub id: String,
    /// Empty for a pod's metrics.
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

    /// Adds a value that was read just now, if it is known.
    pub(super) fn add(&mut self, of: &Descriptor, value: impl Into<Option<u64>>) {
        self.push(of, &[], 0, value.into());
    }

    /// Like [`Sink::add`], but converts nanoseconds to seconds.
    pub(super) fn add_as_seconds(&mut self, of: &Descriptor, nanoseconds: impl Into<Option<u64>>) {
        self.push(of, &[], 0, nanoseconds.into().map(|nanoseconds| nanoseconds / 1_000_000_000));
    }

    /// Like [`Sink::add`], with additional labels.
    pub(super) fn labelled(&mut self, of: &Descriptor, labels: &[&str], value: impl Into<Option<u64>>) {
        self.push(of, labels, 0, value.into());
    }

    /// Adds a value that was read at another time, given in nanoseconds since the epoch.
    pub(super) fn add_at(&mut self, of: &Descriptor, labels: &[&str], at: i64, value: u64) {
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
