//! Values that other modules count anyway. They are read at each scrape, and cost nothing in between.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::Operations;

/// Where the values come from.
pub struct Sources {
    pub operations: Operations,
    /// Counters of containers' logs.
    pub logs: Box<dyn Fn() -> Logs + Send + Sync>,
    /// Bytes that pulls have downloaded.
    pub downloaded: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Tokio tasks that have not ended.
    pub alive_tasks: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Counters over all containers' logs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Logs {
    pub written: u64,
    /// Bytes that could not be written to disk.
    pub dropped_bytes: u64,
    /// Records of which at least the end was dropped.
    pub dropped_records: u64,
    /// Exits that were reported before the log was complete.
    pub missed_barriers: u64,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let logs = (self.logs)();
        let mut count = |name, help, unit: Option<&Unit>, value| {
            let counter = ConstCounter::<u64>::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, MetricType::Counter)?)
        };
        count("log_written", "Written to containers' logs", Some(&Unit::Bytes), logs.written)?;
        count("log_dropped", "Output of containers that could not be written", Some(&Unit::Bytes), logs.dropped_bytes)?;
        count("log_dropped_records", "Log records of which at least the end was dropped", None, logs.dropped_records)?;
        count("log_incomplete_exits", "Exits reported before the log was complete", None, logs.missed_barriers)?;
        count("image_pull", "Downloaded by pulls", Some(&Unit::Bytes), (self.downloaded)())?;
        let help = "Asynchronous tasks that have not ended";
        let alive = encoder.encode_descriptor("tokio_alive_tasks", help, None, MetricType::Gauge)?;
        ConstGauge::new((self.alive_tasks)() as u64).encode(alive)?;
        self.encode_operations(&mut encoder)
    }
}

impl Sources {
    /// By operation and stage. An operation in two stages counts in both.
    fn encode_operations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut all: BTreeMap<(&str, &str), (i64, Duration)> = BTreeMap::new();
        for one in self.operations.running() {
            let mut add = |stage, since: Duration| {
                let (count, longest) = all.entry((one.verb.name(), stage)).or_default();
                *count += 1;
                *longest = since.max(*longest);
            };
            for open in &one.stages {
                add(open.stage.name(), open.age);
            }
            if one.stages.is_empty() {
                add("none", one.age);
            }
        }
        let help = "Operations that run, by the stage they are in";
        let mut counts = encoder.encode_descriptor("operations_in_flight", help, None, MetricType::Gauge)?;
        for ((operation, stage), (count, _)) in &all {
            let labels = [("operation", *operation), ("stage", *stage)];
            ConstGauge::new(*count).encode(counts.encode_family(&labels)?)?;
        }
        let help = "How long the longest of them has been in its stage";
        let mut ages =
            encoder.encode_descriptor("operations_longest", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for ((operation, stage), (_, longest)) in &all {
            let labels = [("operation", *operation), ("stage", *stage)];
            ConstGauge::new(longest.as_secs_f64()).encode(ages.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
