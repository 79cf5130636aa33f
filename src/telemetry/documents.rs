//! Tests that docs/metrics.md and docs/grafana-dashboard.json name every metric that exists, and no other.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The metrics page with a value of every metric.
async fn page() -> String {
    let metrics = Metrics::on();
    let operations = Operations::new(metrics.clone());
    let logs = || Logs { written: 7, dropped_bytes: 5, dropped_records: 3, missed_barriers: 1 };
    let sources = Sources {
        operations: operations.clone(),
        logs: Box::new(logs),
        downloaded: Box::new(|| 9),
        alive_tasks: Box::new(|| 11),
    };
    metrics.read(sources);
    metrics.rpc("Version", "OK", SECOND);
    metrics.stage(Verb::RunPodSandbox, Stage::Cni, SECOND);
    metrics.cni("ADD", "bridge", "ok", SECOND);
    metrics.containerd("Tasks/Create", "OK", Some(SECOND));
    metrics.pull("ok", SECOND);
    let shown = async { metrics.text().ok_or(std::fmt::Error) };
    operations.track(Verb::PullImage, "x".to_owned(), during(Stage::Transfer, shown)).await.unwrap()
}

/// The metrics of the `# TYPE name kind` lines. A counter gets the suffix `_total`, which its values have.
fn names(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |line: &str| match line.split_once(' ') {
        Some((name, "counter")) => format!("{name}_total"),
        Some((name, _)) => name.to_owned(),
        None => line.to_owned(),
    };
    types.map(name).collect()
}

/// All words of a text that start like our metrics, without the suffixes of a histogram.
fn named(text: &str) -> BTreeSet<String> {
    let words =
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| word.starts_with("pontoon_"));
    let base = |word: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        histogram.unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

#[tokio::test]
async fn the_page_has_each_source() {
    let page = page().await;
    for line in [
        "pontoon_log_written_bytes_total 7",
        "pontoon_log_dropped_bytes_total 5",
        "pontoon_log_dropped_records_total 3",
        "pontoon_log_incomplete_exits_total 1",
        "pontoon_image_pull_bytes_total 9",
        "pontoon_tokio_alive_tasks 11",
        "pontoon_operations_in_flight{operation=\"PullImage\",stage=\"transfer\"} 1",
        "pontoon_streams{kind=\"port_forward\"} 0",
    ] {
        assert!(page.lines().any(|there| there == line), "{line}: {page}");
    }
}

#[tokio::test]
async fn the_documents_name_every_metric_and_no_other() {
    let there = names(&page().await);
    assert!(there.len() > 10, "{there:?}");
    assert_eq!(named(include_str!("../../docs/metrics.md")), there, "docs/metrics.md");
    let dashboard = include_str!("../../docs/grafana-dashboard.json");
    serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
    assert_eq!(named(dashboard), there, "docs/grafana-dashboard.json");
}

/// Every operation and every stage must be explained.
#[test]
fn the_page_about_metrics_explains_each_label() {
    let text = include_str!("../../docs/metrics.md");
    for name in Verb::ALL.iter().map(|verb| verb.name()).chain(Stage::ALL.iter().map(|stage| stage.name())) {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}
