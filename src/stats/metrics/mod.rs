//! Metrics of pods and containers, with cAdvisor's names. A metric is reported only when its value is known. One that
//! the kernel does not count, or whose file could not be read, is left out, and the others are still reported.
//!
//! Times are in whole seconds, because CRI's value is an integer.

mod container;
mod descriptors;
mod devices;
mod filesystem;
mod limits;
mod sink;

pub use container::{Container, container};
pub use descriptors::descriptors;
pub use devices::DeviceNames;
pub use filesystem::{Filesystem, Filesystems};
pub use limits::Limits;
pub use sink::Labels;

use sink::Sink;

use crate::api::v1::Metric;
use crate::netns::Interface;

/// The metrics of a pod. They are those of its network, whose counters belong to no container, so the labels
/// `container` and `image` are empty.
#[must_use]
pub fn pod(labels: &Labels, interfaces: &[Interface]) -> Vec<Metric> {
    use descriptors as metric;
    let mut sink = Sink::new(labels);
    for interface in interfaces {
        let (name, received, sent) = ([interface.name.as_str()], interface.received, interface.sent);
        sink.labelled(&metric::RECEIVED_BYTES, &name, received.bytes);
        sink.labelled(&metric::RECEIVED_PACKETS, &name, received.packets);
        sink.labelled(&metric::RECEIVED_DROPPED, &name, received.dropped);
        sink.labelled(&metric::RECEIVED_ERRORS, &name, received.errors);
        sink.labelled(&metric::SENT_BYTES, &name, sent.bytes);
        sink.labelled(&metric::SENT_PACKETS, &name, sent.packets);
        sink.labelled(&metric::SENT_DROPPED, &name, sent.dropped);
        sink.labelled(&metric::SENT_ERRORS, &name, sent.errors);
    }
    sink.metrics
}

#[cfg(test)]
mod tests;
