//! Rows as text. The plain table and the live view use the same cells.

use std::fmt::Write as _;

use super::rows::Row;

/// The text of an unknown value.
const UNKNOWN: &str = "-";

const TITLES: [&str; 10] =
    ["NAMESPACE", "POD", "STATE", "RUNNING", "CPU", "MEMORY", "RX/s", "TX/s", "RESTARTS", "IN FLIGHT"];

fn cells(row: &Row) -> [String; 10] {
    [
        row.namespace.clone(),
        row.pod.clone(),
        row.state.to_owned(),
        containers(row),
        cpu(row),
        memory(row),
        bytes(row.received),
        bytes(row.sent),
        restarts(row),
        doing(row),
    ]
}

/// Running containers of all that are not done, `1/2`.
pub(super) fn containers(row: &Row) -> String {
    known(row.containers.map(|(running, all)| format!("{running}/{all}")))
}

/// In thousandths of a core.
pub(super) fn cpu(row: &Row) -> String {
    known(row.cpu.map(|cores| format!("{:.0}m", cores * 1e3)))
}

/// The working set.
pub(super) fn memory(row: &Row) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    bytes(row.memory.map(|bytes| bytes as f64))
}

/// A number of bytes, or of bytes per second.
pub(super) fn bytes(value: Option<f64>) -> String {
    known(value.map(size))
}

pub(super) fn restarts(row: &Row) -> String {
    known(row.restarts.map(|count| count.to_string()))
}

/// All operations in flight for the pod.
pub(super) fn doing(row: &Row) -> String {
    known(row.doing.as_ref().filter(|all| !all.is_empty()).map(|all| all.join(", ")))
}

fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| UNKNOWN.to_owned())
}

/// `512`, `1.5Ki`, `12Mi`: at most five characters below a pebibyte.
fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["", "Ki", "Mi", "Gi"] {
        if value < 1000.0 {
            return number(value, unit);
        }
        value /= 1024.0;
    }
    number(value, "Ti")
}

fn number(value: f64, unit: &str) -> String {
    if unit.is_empty() || value >= 9.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

/// A table with aligned columns, for users and for pipes. No column is cut.
pub(super) fn plain(rows: &[Row]) -> String {
    let lines: Vec<[String; 10]> = std::iter::once(TITLES.map(str::to_owned)).chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut whole = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a string does not fail.
            let _ = write!(whole, "{cell:width$}  ");
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits() {
        for (bytes, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1.0Ki"),
            (1536.0, "1.5Ki"),
            (10240.0, "10Ki"),
            (1_000_000.0, "977Ki"),
            (1_048_576.0 * 12.0, "12Mi"),
            (1_073_741_824.0 * 2.5, "2.5Gi"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn columns_are_aligned_and_the_unknown_is_a_dash() {
        let web = Row {
            namespace: "default".to_owned(),
            pod: "web".to_owned(),
            state: "ready",
            containers: Some((1, 2)),
            cpu: Some(0.25),
            restarts: Some(3),
            ..Row::default()
        };
        let text = plain(&[web]);
        assert_eq!(
            text,
            "NAMESPACE  POD  STATE  RUNNING  CPU   MEMORY  RX/s  TX/s  RESTARTS  IN FLIGHT\n\
             default    web  ready  1/2      250m  -       -     -     3         -\n"
        );
    }
}
