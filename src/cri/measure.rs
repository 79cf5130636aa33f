//! CRI calls as metrics, and as spans below kubelet's.

use crate::telemetry::{Measure, Metrics};

// `METHODS`: paths and names, sorted by path.
include!(concat!(env!("OUT_DIR"), "/cri_methods.rs"));

/// What the server's layer does with each call.
#[must_use]
pub fn measure(metrics: &Metrics) -> Measure {
    if !metrics.is_on() {
        return Measure::default().and_spans();
    }
    let metrics = metrics.clone();
    Measure::with(move |path, code, took| metrics.rpc(name(path), code, took)).and_spans()
}

/// A method's name. What is none of CRI's is one value: clients may call what they like.
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
