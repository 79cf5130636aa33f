//! The metrics, behind a handle that does nothing when they are switched off.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::scrape::Sources;
use super::{Stage, Verb};
use crate::mutex::Mutex;

/// In seconds, from a call that only reads memory to kubelet's longest deadline.
const BUCKETS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 240.0];

/// The handle through which modules record what they measure. Clones share the metrics; the default is switched off.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    rpcs: Family<Rpc, Histogram>,
    stages: Family<OfStage, Histogram>,
    cni: Family<Plugin, Histogram>,
    containerd: Family<Call, Counter>,
    containerd_times: Family<Method, Histogram>,
    streams: Family<Kind, Gauge>,
    pulls: Family<Outcome, Histogram>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rpc {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfStage {
    operation: &'static str,
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Plugin {
    verb: &'static str,
    /// From the node's own CNI configuration.
    plugin: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    method: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// A stream that a client holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A command of ExecSync.
    ExecSync,
    Exec,
    Attach,
    PortForward,
}

impl Stream {
    const ALL: [Self; 4] = [Self::ExecSync, Self::Exec, Self::Attach, Self::PortForward];

    fn name(self) -> &'static str {
        match self {
            Self::ExecSync => "exec_sync",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "port_forward",
        }
    }
}

/// Counts as an open stream until it is dropped.
#[derive(Debug)]
pub struct Alive(Option<Gauge>);

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.dec();
        }
    }
}

impl Metrics {
    /// Switched on, with all values at zero.
    #[must_use]
    pub fn on() -> Self {
        let inner = Inner::new();
        for stream in Stream::ALL {
            // Every series exists from the start, so that a missing one is not mistaken for a value of 0.
            drop(inner.streams.get_or_create(&Kind { kind: stream.name() }));
        }
        Self(Some(Arc::new(inner)))
    }

    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Registers `sources`, the counters of other modules, to be read at each scrape.
    pub fn read(&self, sources: Sources) {
        if let Some(inner) = &self.0 {
            inner.registry.lock().register_collector(Box::new(sources));
        }
    }

    /// Records a CRI call that was answered, or whose client disconnected.
    pub fn rpc(&self, method: &'static str, code: &'static str, took: Duration) {
        if let Some(inner) = &self.0 {
            inner.rpcs.get_or_create(&Rpc { method, code }).observe(took.as_secs_f64());
        }
    }

    /// Records a stage of an operation that has ended.
    pub fn stage(&self, verb: Verb, stage: Stage, took: Duration) {
        if let Some(inner) = &self.0 {
            let labels = OfStage { operation: verb.name(), stage: stage.name() };
            inner.stages.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Records a run of a CNI plugin. `plugin` is its type in the node's configuration.
    pub fn cni(&self, verb: &'static str, plugin: &str, result: &'static str, took: Duration) {
        if let Some(inner) = &self.0 {
            let labels = Plugin { verb, plugin: plugin.to_owned(), result };
            inner.cni.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Records a reply of containerd, or a broken connection. `took` is `None` for calls that last as long as what they
    /// wait for.
    pub fn containerd(&self, method: &str, code: &'static str, took: Option<Duration>) {
        if let Some(inner) = &self.0 {
            inner.containerd.get_or_create(&Call { method: method.to_owned(), code }).inc();
            if let Some(took) = took {
                let labels = Method { method: method.to_owned() };
                inner.containerd_times.get_or_create(&labels).observe(took.as_secs_f64());
            }
        }
    }

    /// Counts a stream that a client opened, or a command that runs, until the returned value is dropped.
    #[must_use = "it counts until this is dropped"]
    pub fn stream(&self, stream: Stream) -> Alive {
        let gauge = self.0.as_ref().map(|inner| inner.streams.get_or_create_owned(&Kind { kind: stream.name() }));
        if let Some(gauge) = &gauge {
            gauge.inc();
        }
        Alive(gauge)
    }

    /// Records the end of a pull. `result` is `ok`, or the kind of failure.
    pub fn pull(&self, result: &'static str, took: Duration) {
        if let Some(inner) = &self.0 {
            inner.pulls.get_or_create(&Outcome { result }).observe(took.as_secs_f64());
        }
    }

    /// All metrics in the OpenMetrics text format; `None` when they are switched off.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let inner = self.0.as_ref()?;
        let mut text = String::new();
        let registry = inner.registry.lock();
        // Writing to a string does not fail.
        encode(&mut text, &registry).ok()?;
        Some(text)
    }
}

impl Inner {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("pontoon");
        let all = Self {
            rpcs: times(),
            stages: times(),
            cni: times(),
            containerd: Family::default(),
            containerd_times: times(),
            streams: Family::default(),
            pulls: times(),
            registry: Mutex::default(),
        };
        register(&mut registry, "rpc_duration", "CRI calls, until the answer was sent or the client left", &all.rpcs);
        register(&mut registry, "stage_duration", "Stages of operations, also of those that failed", &all.stages);
        register(&mut registry, "cni_duration", "Runs of CNI plugins", &all.cni);
        let help = "Calls to containerd, without those that wait for a task";
        register(&mut registry, "containerd_call_duration", help, &all.containerd_times);
        register(&mut registry, "image_pull_duration", "Pulls of images, without those that joined one", &all.pulls);
        registry.register("containerd_calls", "Answers of containerd, or broken connections", all.containerd.clone());
        registry.register("streams", "Commands and streams that are open", all.streams.clone());
        Self { registry: Mutex::new(registry), ..all }
    }
}

fn times<L: Clone + std::hash::Hash + Eq>() -> Family<L, Histogram> {
    Family::new_with_constructor(|| Histogram::new(BUCKETS))
}

/// Registers a family of durations, with any set of labels.
fn register<L>(registry: &mut Registry, name: &str, help: &str, family: &Family<L, Histogram>)
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
{
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_measures_nothing() {
        let off = Metrics::default();
        off.rpc("Version", "OK", Duration::from_secs(1));
        drop(off.stream(Stream::Exec));
        assert_eq!(off.text(), None);
    }

    #[test]
    fn a_stream_counts_while_it_lives() {
        let metrics = Metrics::on();
        let count = || {
            let text = metrics.text().unwrap();
            let line = text.lines().find(|line| line.starts_with("pontoon_streams{kind=\"exec\"}")).unwrap().to_owned();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(count(), "0");
        let (one, two) = (metrics.stream(Stream::Exec), metrics.stream(Stream::Exec));
        assert_eq!(count(), "2");
        drop((one, two));
        assert_eq!(count(), "0");
    }
}
