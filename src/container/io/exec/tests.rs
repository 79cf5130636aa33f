use std::fs::File;
use std::io::Write as _;

use super::*;

struct Bed {
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("exec").join("1")
    }

    fn prepare(&self) -> (ExecIo, File, File) {
        let (io, stdio) = ExecIo::prepare(&self.path()).unwrap();
        assert!(!stdio.terminal && stdio.stdin.is_empty());
        let open = |path: &str| File::options().write(true).open(path).unwrap();
        (io, open(&stdio.stdout), open(&stdio.stderr))
    }
}

#[tokio::test]
async fn both_streams_are_read_to_their_end() {
    let bed = Bed::new();
    let (io, mut stdout, mut stderr) = bed.prepare();
    stdout.write_all(b"out\0\n").unwrap();
    stderr.write_all(b"err").unwrap();
    drop((stdout, stderr));
    let done = io.collect(Limits::default(), async { 7 }).await;
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\0\n"[..], &b"err"[..]));
    assert_eq!((done.exit, done.discarded, done.complete), (7, 0, true));
    assert!(!bed.path().exists());
}

#[tokio::test]
async fn the_cap_is_shared_and_the_command_goes_on() {
    let bed = Bed::new();
    let (io, mut stdout, mut stderr) = bed.prepare();
    let writer = std::thread::spawn(move || {
        stdout.write_all(&vec![b'o'; 3 << 20]).unwrap();
        drop(stdout);
        stderr.write_all(&vec![b'e'; 1 << 20]).unwrap();
    });
    let limits = Limits { cap: (2 << 20) + 1, ..Limits::default() };
    let done = io.collect(limits, async {}).await;
    writer.join().unwrap();
    assert_eq!(done.stdout.len() + done.stderr.len(), limits.cap);
    assert_eq!(done.discarded, (4 << 20) - limits.cap);
    assert!(done.complete);
}

#[tokio::test(start_paused = true)]
async fn a_child_in_the_background_is_not_waited_for_longer_than_the_drain() {
    let bed = Bed::new();
    let (io, mut stdout, stderr) = bed.prepare();
    stdout.write_all(b"before").unwrap();
    let begin = tokio::time::Instant::now();
    let done = io.collect(Limits::default(), tokio::time::sleep(Duration::from_secs(5))).await;
    assert_eq!(begin.elapsed().as_secs(), 15);
    assert_eq!((done.stdout.as_slice(), done.complete), (&b"before"[..], false));
    drop((stdout, stderr));
    assert!(!bed.path().exists());
}

#[tokio::test]
async fn whoever_gives_up_leaves_nothing() {
    let bed = Bed::new();
    let (io, stdout, _stderr) = bed.prepare();
    drop(io);
    assert!(!bed.path().exists());
    assert_eq!((&stdout).write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);

    let (io, _stdout, _stderr) = bed.prepare();
    let collecting = io.collect(Limits::default(), std::future::pending::<()>());
    assert!(tokio::time::timeout(Duration::from_millis(20), collecting).await.is_err());
    assert!(!bed.path().exists());
}

#[tokio::test]
async fn no_output_is_no_memory_and_a_leftover_is_replaced() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.path()).unwrap();
    std::fs::write(bed.path().join("stdout"), "left over").unwrap();
    let (io, stdout, stderr) = bed.prepare();
    drop((stdout, stderr));
    let done = io.collect(Limits::default(), async {}).await;
    assert!(done.stdout.is_empty() && done.stdout.capacity() <= 2 * LEAST);
}
