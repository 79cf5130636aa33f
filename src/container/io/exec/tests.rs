use std::fs::File;
use std::io::{Read as _, Write as _};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;

use super::super::{Collector, Discard, KeptOutput, REPLY_CAP, ReplyBudget};
use super::*;

struct Bed {
    directory: tempfile::TempDir,
}

/// The outcome of a command.
struct Done<T> {
    exit: T,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    discarded: usize,
    complete: bool,
}

/// Collects as ExecSync does.
async fn collect<T>(cap: usize, io: ExecIo, exited: impl Future<Output = T>) -> Done<T> {
    let mut io = io;
    io.started();
    let kept = KeptOutput::new(cap, ReplyBudget::new(4 * cap, cap).claim("pod"));
    let (mut stdout, mut stderr) = (Collector::new(&kept), Collector::new(&kept));
    let token = CancellationToken::new();
    let exit = async {
        let exit = exited.await;
        token.cancel();
        exit
    };
    let (complete, exit) = join(io.copy(&mut stdout, &mut stderr, &token, DRAIN), exit).await;
    let (stdout, stderr) = (stdout.into_pieces().concat(), stderr.into_pieces().concat());
    Done { exit, stdout, stderr, discarded: kept.discarded(), complete }
}

impl Bed {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("exec").join("1")
    }

    fn prepare(&self) -> (ExecIo, Directory, File, File) {
        let (io, stdio, guard) = ExecIo::prepare(&self.path(), Shape::default()).unwrap();
        assert!(!stdio.terminal && stdio.stdin.is_empty());
        let open = |path: &str| File::options().write(true).open(path).unwrap();
        (io, guard, open(&stdio.stdout), open(&stdio.stderr))
    }
}

#[tokio::test]
async fn both_streams_are_read_to_their_end() {
    let bed = Bed::new();
    let (io, guard, mut stdout, mut stderr) = bed.prepare();
    stdout.write_all(b"out\0\n").unwrap();
    stderr.write_all(b"err").unwrap();
    drop((stdout, stderr));
    let done = collect(REPLY_CAP, io, async { 7 }).await;
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\0\n"[..], &b"err"[..]));
    assert_eq!((done.exit, done.discarded, done.complete), (7, 0, true));
    drop(guard);
    assert!(!bed.path().exists());
}

#[tokio::test]
async fn the_cap_is_shared_and_the_command_goes_on() {
    let bed = Bed::new();
    let (io, _guard, mut stdout, mut stderr) = bed.prepare();
    let writer = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..3 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
        stdout.write_all(&bytes).unwrap();
        drop(stdout);
        stderr.write_all(&vec![b'e'; 1 << 20]).unwrap();
        bytes
    });
    let cap = (2 << 20) + 1;
    let done = collect(cap, io, async {}).await;
    let bytes = writer.join().unwrap();
    assert_eq!(done.stdout.len() + done.stderr.len(), cap);
    assert_eq!(done.stdout, bytes[..done.stdout.len()]);
    assert_eq!(done.discarded, (4 << 20) - cap);
    assert!(done.complete);
}

#[tokio::test(start_paused = true)]
async fn a_child_in_the_background_is_not_waited_for_longer_than_the_drain() {
    let bed = Bed::new();
    let (io, _guard, mut stdout, stderr) = bed.prepare();
    stdout.write_all(b"before").unwrap();
    let begin = Instant::now();
    let done = collect(REPLY_CAP, io, tokio::time::sleep(Duration::from_secs(5))).await;
    assert_eq!(begin.elapsed().as_secs(), 15);
    assert_eq!((done.stdout.as_slice(), done.complete), (&b"before"[..], false));
    drop((stdout, stderr));
}

/// Takes 8 seconds for each piece.
struct Slow {
    buffer: BytesMut,
    taken: usize,
    ended: bool,
}

impl Target for Slow {
    async fn reserve(&mut self) {
        self.buffer.reserve(8);
    }

    fn buffer(&mut self) -> &mut (dyn BufMut + Send) {
        &mut self.buffer
    }

    async fn consume(&mut self) {
        tokio::time::sleep(Duration::from_secs(8)).await;
        self.taken += self.buffer.len();
        self.buffer.clear();
    }

    async fn ended(&mut self) {
        self.ended = true;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_all_of_it_after_the_exit() {
    let bed = Bed::new();
    let (mut io, _guard, mut stdout, stderr) = bed.prepare();
    io.started();
    stdout.write_all(&[b'x'; 4096]).unwrap();
    drop((stdout, stderr));
    let exited = CancellationToken::new();
    exited.cancel();
    let mut slow = Slow { buffer: BytesMut::new(), taken: 0, ended: false };
    assert!(io.copy(&mut slow, &mut Discard::default(), &exited, DRAIN).await);
    assert_eq!((slow.taken, slow.ended), (4096, true));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_writes_for_ever_ends_with_the_drain() {
    let bed = Bed::new();
    let (mut io, _guard, mut stdout, _stderr) = bed.prepare();
    io.started();
    let exited = CancellationToken::new();
    exited.cancel();
    let begin = Instant::now();
    let write = async {
        loop {
            stdout.write_all(b"still here").unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (mut out, mut err) = (Discard::default(), Discard::default());
    let complete = tokio::select! {
        complete = io.copy(&mut out, &mut err, &exited, DRAIN) => complete,
        () = write => unreachable!(),
    };
    assert!(!complete && begin.elapsed() < Duration::from_secs(11));
}

#[tokio::test]
async fn whoever_gives_up_leaves_nothing() {
    let bed = Bed::new();
    let (io, guard, stdout, _stderr) = bed.prepare();
    drop((io, guard));
    assert!(!bed.path().exists());
    // A child that another test has just forked holds the reading end until it calls exec.
    let refused = async {
        loop {
            match (&stdout).write_all(b"x") {
                Ok(()) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return error,
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(10), refused).await.expect("it is still read");
    assert_eq!(refused.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_leftover_is_replaced() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.path()).unwrap();
    std::fs::write(bed.path().join("stdout"), "left over").unwrap();
    let (io, _guard, stdout, stderr) = bed.prepare();
    drop((stdout, stderr));
    assert!(collect(REPLY_CAP, io, async {}).await.stdout.is_empty());
}

#[tokio::test]
async fn input_waits_for_whoever_reads_it_and_none_is_lost() {
    let bed = Bed::new();
    let (mut io, stdio, _guard) = ExecIo::prepare(&bed.path(), Shape { tty: false, stdin: true }).unwrap();
    io.started();
    // The shim opens its end late.
    let late = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let read = || {
            let mut all = Vec::new();
            File::open(stdio.stdin).unwrap().read_to_end(&mut all).unwrap();
            all
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    };
    let write = async {
        let mut stdin = io.open_stdin().await.unwrap().unwrap();
        stdin.write_all(b"typed").await.unwrap();
    };
    let (all, ()) = join(late, write).await;
    assert_eq!(all, b"typed");
}

#[tokio::test]
async fn a_terminal_s_input_is_open_before_the_shim_comes_and_after_the_client_has_gone() {
    let bed = Bed::new();
    let (mut io, stdio, _guard) = ExecIo::prepare(&bed.path(), Shape { tty: true, stdin: true }).unwrap();
    assert!(stdio.terminal && stdio.stderr.is_empty());
    let held = io.terminal_input();
    io.started();
    io.open_stdin().await.unwrap().unwrap().write_all(b"typed").await.unwrap();
    let mut read = File::open(&stdio.stdin).unwrap();
    let mut typed = [0; 5];
    read.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"typed");
    // The read end is not at its end, and opening another write end does not wait.
    File::options().write(true).open(&stdio.stdin).unwrap();
    drop(held);
    assert_eq!(read.read(&mut typed).unwrap(), 0);
}

#[tokio::test]
async fn the_next_process_takes_the_output_up() {
    let bed = Bed::new();
    let (io, guard, mut stdout, stderr) = bed.prepare();
    // As after a kill -9.
    drop(io);
    std::mem::forget(guard);
    let held = File::options().read(true).write(true).open(bed.path().join("stdout")).unwrap();
    let (io, guard) = ExecIo::resume(&bed.path()).unwrap();
    stdout.write_all(b"more").unwrap();
    drop((stdout, stderr, held));
    assert_eq!(collect(REPLY_CAP, io, async {}).await.stdout, b"more");
    drop(guard);
    assert!(!bed.path().exists());
}
