//! The records of the CRI log: src/container/io/record.rs.

#[path = "../../src/container/io/record.rs"]
mod record;

use record::{Batch, Lines, RECORD_LIMIT, Stamp, StreamName};

/// Writes records and reads them back as kubelet does: the content must be that of the input. The first two bytes
/// choose whether there is a terminal, how many bytes come at once, and how often the rest is repeated, so that lines
/// become longer than a record may be.
///
/// # Panics
/// If a byte is lost or added, or kubelet could not read a record.
pub fn records(input: &[u8]) {
    let [how, times, body @ ..] = input else { return };
    let tty = how & 1 == 1;
    let step = 1 + 97 * usize::from(how >> 1);
    let input = body.repeat(1 + usize::from(times % 128));
    let stamp = Stamp::now();
    let (mut lines, mut batch, mut log) = (Lines::new(StreamName::Stderr, tty), Batch::default(), Vec::new());
    for step in input.chunks(step) {
        lines.space().extend_from_slice(step);
        while {
            let inside = lines.in_line();
            let more = lines.records(&stamp, &mut batch);
            take(&batch, inside, &mut log);
            more
        } {}
    }
    let inside = lines.in_line();
    lines.finish(&stamp, &mut batch);
    take(&batch, inside, &mut log);
    let written = read_back(&log);
    if tty { assert_eq!(written, without_returns(&input)) } else { assert_eq!(written, input) }
}

/// A log is rotated where a batch is split: the first part must end the line in progress, or be the whole batch.
fn take(batch: &Batch, inside: bool, log: &mut Vec<u8>) {
    let (old, new) = batch.split();
    assert_eq!([old, new].concat(), batch.bytes());
    assert!(inside || old.is_empty());
    assert!(new.is_empty() || !inside || tag(last_record(old)) == b'F');
    log.extend_from_slice(batch.bytes());
}

fn last_record(records: &[u8]) -> &[u8] {
    let whole = records.strip_suffix(b"\n").expect("whole records");
    let start = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    &whole[start..]
}

fn tag(record: &[u8]) -> u8 {
    record[30 + " stderr ".len()]
}

fn read_back(log: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    for record in log.split_inclusive(|byte| *byte == b'\n') {
        let record = record.strip_suffix(b"\n").expect("whole records");
        let (head, content) = record.split_at(30 + " stderr F ".len());
        let head = str::from_utf8(head).expect("text");
        let (time, rest) = head.split_at(30);
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert!(rest == " stderr F " || rest == " stderr P ", "{rest}");
        assert!(content.len() <= RECORD_LIMIT);
        found.extend_from_slice(content);
        found.extend((tag(record) == b'F').then_some(b'\n'));
    }
    found
}

/// The container's output before its terminal changed each `\n` to `\r\n`.
fn without_returns(shown: &[u8]) -> Vec<u8> {
    let keeps = |at: usize| shown[at] != b'\r' || shown.get(at + 1) != Some(&b'\n');
    (0..shown.len()).filter(|at| keeps(*at)).map(|at| shown[at]).collect()
}
