use proptest::prelude::*;

use super::*;

/// Parses a record as kubelet does; returns its content and whether its tag is `F`.
fn parse(record: &[u8]) -> (&[u8], bool) {
    let time = std::str::from_utf8(&record[..30]).unwrap();
    time.parse::<jiff::Timestamp>().unwrap();
    let rest = record[30..].strip_prefix(b" stdout ").unwrap();
    match rest[..2] {
        [b'F', b' '] => (&rest[2..], true),
        [b'P', b' '] => (&rest[2..], false),
        _ => panic!("no tag: {rest:?}"),
    }
}

/// Feeds the reads, and returns the content and flag of all records.
fn records(tty: bool, reads: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
    let (mut lines, mut batch, stamp) = (Lines::new(StreamName::Stdout, tty), Batch::default(), Stamp::now());
    let mut out = Vec::new();
    let mut take = |batch: &Batch| {
        assert!(batch.bytes.capacity() <= WRITE_BUFFER);
        assert_eq!([batch.split().0, batch.split().1].concat(), batch.bytes());
        out.extend_from_slice(batch.bytes());
    };
    for mut read in reads.iter().map(Vec::as_slice) {
        while !read.is_empty() {
            let space = lines.space();
            let count = read.len().min(space.capacity() - space.len());
            assert!(count > 0 && space.capacity() <= READ_BUFFER);
            space.extend_from_slice(&read[..count]);
            read = &read[count..];
            while lines.records(&stamp, &mut batch) {
                take(&batch);
            }
            take(&batch);
        }
        lines.shrink();
    }
    lines.finish(&stamp, &mut batch);
    take(&batch);
    let Some(all) = out.strip_suffix(b"\n") else { return Vec::new() };
    all.split(|&byte| byte == b'\n').map(|record| (parse(record).0.to_vec(), parse(record).1)).collect()
}

/// Like `records`, with a new reader for each read.
fn handed_over(tty: bool, reads: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
    let (mut lines, mut batch, stamp) = (Lines::new(StreamName::Stdout, tty), Batch::default(), Stamp::now());
    let mut out = Vec::new();
    for mut read in reads.iter().map(Vec::as_slice) {
        while !read.is_empty() {
            let space = lines.space();
            let count = read.len().min(space.capacity() - space.len());
            space.extend_from_slice(&read[..count]);
            read = &read[count..];
            while lines.records(&stamp, &mut batch) {
                out.extend_from_slice(batch.bytes());
            }
            out.extend_from_slice(batch.bytes());
        }
        lines.hand_over(&stamp, &mut batch);
        out.extend_from_slice(batch.bytes());
        assert!(lines.remainder().len() <= usize::from(tty), "all but half a line's end is in the log");
        let mut next = Lines::new(StreamName::Stdout, tty);
        next.resume(lines.in_line(), lines.remainder().to_vec());
        lines = next;
    }
    lines.finish(&stamp, &mut batch);
    out.extend_from_slice(batch.bytes());
    let Some(all) = out.strip_suffix(b"\n") else { return Vec::new() };
    all.split(|&byte| byte == b'\n').map(|record| (parse(record).0.to_vec(), parse(record).1)).collect()
}

fn joined(records: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (content, full) in records {
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(if *full { b"\n" } else { b"" });
    }
    bytes
}

/// Lines of about the limit's length, short lines, empty lines, arbitrary bytes.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (RECORD_LIMIT - 2..RECORD_LIMIT + 3, any::<bool>()).prop_map(|(length, end)| {
            let mut line = vec![b'x'; length];
            line.extend_from_slice(if end { b"\n" } else { b"" });
            line
        }),
        (0usize..150_000).prop_map(|length| vec![b'y'; length]),
        (0usize..3000).prop_map(|count| vec![b'\n'; count]),
        Just(b"\r\n".to_vec()),
        (RECORD_LIMIT - 2..RECORD_LIMIT + 3).prop_map(|length| [vec![b'z'; length], b"\r\n".to_vec()].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_payload_comes_back_and_no_record_is_too_long(reads in proptest::collection::vec(piece(), 0..12)) {
        let records = records(false, &reads);
        prop_assert_eq!(joined(&records), reads.concat());
        for (content, full) in &records {
            prop_assert!(content.len() <= RECORD_LIMIT);
            prop_assert!(*full || !content.is_empty());
        }
        // However the stream is divided into reads, every record that does not end a line has the maximum length.
        for pair in records.windows(2) {
            prop_assert!(pair[0].1 || pair[0].0.len() == RECORD_LIMIT);
        }
    }

    #[test]
    fn f6_it_reads_the_same_however_often_another_reader_goes_on(
        tty: bool,
        reads in proptest::collection::vec(piece(), 0..12),
    ) {
        prop_assert_eq!(joined(&handed_over(tty, &reads)), joined(&records(tty, &reads)));
    }

    #[test]
    fn a_terminal_loses_its_own_carriage_returns_only(reads in proptest::collection::vec(piece(), 0..12)) {
        let reads: Vec<Vec<u8>> = reads.into_iter().map(|read| read.into_iter().map(|b| b & 0x7f).collect()).collect();
        let expected = String::from_utf8(reads.concat()).unwrap().replace("\r\n", "\n");
        // Also if the limit falls between `\r` and `\n`.
        prop_assert_eq!(String::from_utf8(joined(&records(true, &reads))).unwrap(), expected);
    }
}

#[test]
fn an_idle_stream_keeps_nothing_but_the_line_it_is_in() {
    let (mut lines, mut batch) = (Lines::new(StreamName::Stdout, false), Batch::default());
    lines.space().extend_from_slice(b"whole\nbegun");
    assert!(!lines.records(&Stamp::now(), &mut batch));
    assert_eq!((lines.buffer.capacity(), batch.bytes.capacity()), (READ_BUFFER, WRITE_BUFFER));
    lines.shrink();
    batch.free();
    assert_eq!((lines.buffer.capacity(), batch.bytes.capacity()), ("begun".len(), 0));
}

#[test]
fn a_line_of_just_the_limit_is_one_record() {
    let mut line = vec![b'x'; RECORD_LIMIT];
    line.push(b'\n');
    assert_eq!(records(false, &[line]), [(vec![b'x'; RECORD_LIMIT], true)]);
}

#[test]
fn a_line_without_an_end_stays_partial() {
    assert_eq!(records(false, &[b"a\nb".to_vec()]), [(b"a".to_vec(), true), (b"b".to_vec(), false)]);
    assert_eq!(records(false, &[]), []);
}

#[test]
fn a_batch_splits_where_an_earlier_line_ends() {
    let (mut lines, mut batch, stamp) = (Lines::new(StreamName::Stdout, false), Batch::default(), Stamp::now());
    lines.space().extend_from_slice(&vec![b'x'; RECORD_LIMIT + 1]);
    assert!(!lines.records(&stamp, &mut batch));
    assert!(lines.in_line() && batch.split().0.is_empty());
    lines.space().extend_from_slice(b"end\nnext\n");
    assert!(!lines.records(&stamp, &mut batch));
    let (old, new) = batch.split();
    assert!(old.ends_with(b" F xend\n") && new.ends_with(b" F next\n"));
}

#[test]
fn the_time_has_nine_digits_and_follows_the_second() {
    let mut stamp = Stamp::now();
    let mut at = |seconds, nanos| {
        stamp.set(Duration::new(seconds, nanos));
        String::from_utf8(stamp.text.clone()).unwrap()
    };
    assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(at(1_767_323_045, 7), "2026-01-02T03:04:05.000000007Z");
    assert_eq!(at(1_767_323_045, 999_999_999), "2026-01-02T03:04:05.999999999Z");
    assert_eq!(at(1_767_323_046, 120_000_000), "2026-01-02T03:04:06.120000000Z");
}
