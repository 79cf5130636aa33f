use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::log_keys::{LogKeys, call_with_keys};

/// What was written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The lines that `work` logs.
fn logged(level: &str, format: LogFormat, work: impl FnOnce()) -> Vec<String> {
    let written = Written::default();
    let layers: Vec<SpanLayer> = vec![lines(level, format, written.clone()).unwrap()];
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layers), work);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn keys() -> LogKeys {
    LogKeys::of_pod("default", "a \"pod\"\n").with_sandbox("abc").with_container("def")
}

#[test]
fn a_line_has_the_keys_of_its_task() {
    let lines = logged("info", LogFormat::Text, || {
        tracing::info!("none");
        call_with_keys(keys(), || tracing::info!(ms = 7, "all"));
        call_with_keys(keys(), || tracing::info!(container = %"its own", "one is a field"));
    });
    assert!(lines[0].ends_with(": none"), "{lines:?}");
    assert!(lines[1].ends_with(": all ms=7 pod=\"default/a \\\"pod\\\"\\n\" sandbox=abc container=def"), "{lines:?}");
    assert!(lines[2].ends_with(" container=its own pod=\"default/a \\\"pod\\\"\\n\" sandbox=abc"), "{lines:?}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_line_of_json_is_one_flat_object() {
    let lines = logged("info", LogFormat::Json, || {
        tracing::info!("none");
        call_with_keys(keys(), || tracing::info!(ms = 7, container = "its own", "some"));
    });
    let values: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values[0]["message"], "none");
    assert!(values[0].get("pod").is_none(), "{lines:?}");
    let line = &values[1];
    for (name, value) in [
        ("message", "some"),
        ("level", "INFO"),
        ("pod", "default/a \"pod\"\n"),
        ("sandbox", "abc"),
        ("container", "its own"),
    ] {
        assert_eq!(line[name], value);
    }
    assert_eq!(line["ms"], 7);
    assert_eq!(lines[1].matches("\"container\"").count(), 1);
    assert_eq!(lines.len(), 2);
}

#[test]
fn a_level_is_for_our_own_lines() {
    let all = || {
        tracing::debug!("own");
        tracing::debug!(target: "h2::codec", "frame");
        tracing::info!(target: "h2::codec", "news");
        tracing::warn!(target: "h2::codec", "warning");
        tracing::error!(target: "h2::codec", "error");
    };
    for (level, expected) in [
        ("debug", "own warning error"),
        ("DEBUG", "own warning error"),
        ("4", "own warning error"),
        ("info", "warning error"),
        ("error", "error"),
        ("off", ""),
        ("debug,h2=info", "own news warning error"),
        ("debug, h2=debug", "own frame news warning error"),
        ("info,pontoon::daemon=debug", "own warning error"),
        ("info,pontoon::network=debug", "warning error"),
        ("h2=off,debug", "own"),
    ] {
        let lines = logged(level, LogFormat::Text, all);
        let words: Vec<&str> = lines.iter().filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(words.join(" "), expected, "{level}");
    }
}

#[test]
fn a_level_that_is_none_is_refused() {
    let error = lines("pontoon=loud", LogFormat::Text, io::stderr).err().unwrap();
    assert_eq!(error.to_string(), "config key log.level: \"pontoon=loud\"");
}
