//! Records CRI calls as metrics, and as spans below kubelet's spans.

use crate::telemetry::{Measure, Metrics};

// `METHODS`: pairs of a path and a method name, sorted by path.
include!(concat!(env!("OUT_DIR"), "/cri_methods.rs"));

/// What the server's telemetry layer records of each call.
#[must_use]
pub fn measure(metrics: &Metrics) -> Measure {
    if !metrics.is_on() {
        return Measure::default().and_spans();
    }
    let metrics = metrics.clone();
    Measure::with(move |path, code, took| metrics.rpc(name(path), code, took)).and_spans()
}

/// The name of a CRI method. All other paths share one name, since clients may call any path.
fn name(path: &str) -> &'static str {
    METHODS.binary_search_by(|(known, _)| (*known).cmp(path)).map_or("unknown", |at| METHODS[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_cri_have_names() {
        assert_eq!(name("/runtime.v1.RuntimeService/RunPodSandbox"), "RunPodSandbox");
        assert_eq!(name("/runtime.v1.ImageService/PullImage"), "PullImage");
        for other in ["/runtime.v1.RuntimeService/PullImage", "/runtime.v1.RuntimeService/Mine", "", "/", "x"] {
            assert_eq!(name(other), "unknown");
        }
        assert!(METHODS.is_sorted() && METHODS.len() > 40, "{}", METHODS.len());
    }
}
