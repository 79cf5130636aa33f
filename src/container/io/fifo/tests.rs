use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::thread;

use super::*;
use crate::container::io::RECORD_LIMIT;

mod hung;

const SOON: Duration = Duration::from_secs(20);

struct Bed {
    directory: tempfile::TempDir,
    driver: Fifo,
    id: ContainerId,
}

/// Holds the FIFOs as containerd's shim does: each output for writing and for reading.
struct Shim {
    outputs: Vec<File>,
    _readers: Vec<File>,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, driver: Fifo::new(Tasks::default()), id: ContainerId::random() }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn config(&self) -> StreamsConfig {
        let log = LogPath { directory: self.directory.path().join("logs"), relative: "app/0.log".into() };
        let id = self.id.clone();
        let log = Some(log);
        StreamsConfig { id, state_dir: self.state(), log, tty: false, stdin: false, stdin_once: false }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("logs/app/0.log")
    }

    fn rotate(&self, name: &str) -> PathBuf {
        let to = self.log().with_file_name(name);
        fs::rename(self.log(), &to).unwrap();
        to
    }

    async fn prepare(&self, config: StreamsConfig) -> (Arc<Streams>, Shim) {
        let streams = self.driver.prepare(config).await.unwrap();
        let shim = Shim::open(&streams.stdio());
        streams.task_created();
        (streams, shim)
    }
}

impl Shim {
    fn open(stdio: &Stdio) -> Self {
        let paths = || [&stdio.stdout, &stdio.stderr].into_iter().filter(|path| !path.is_empty());
        let outputs = paths().map(|path| File::options().write(true).open(path).unwrap()).collect();
        Self { outputs, _readers: paths().map(|path| File::open(path).unwrap()).collect() }
    }

    fn stdout(&mut self) -> &mut File {
        &mut self.outputs[0]
    }

    /// Whether all that was written to stdout has been read.
    fn is_read(&self) -> bool {
        rustix::io::ioctl_fionread(&self.outputs[0]).unwrap() == 0
    }
}

/// One stream's bytes as kubelet would reassemble them.
fn logged(path: &Path, stream: StreamName) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in fs::read(path).unwrap().split_inclusive(|&byte| byte == b'\n') {
        let record = record.strip_suffix(b"\n").expect("a whole record");
        let (name, rest) = record[31..].split_at(6);
        assert!(name == b"stdout" || name == b"stderr", "{}", String::from_utf8_lossy(record));
        assert!(rest.len() <= RECORD_LIMIT + 3);
        if name == stream.as_str().as_bytes() {
            bytes.extend_from_slice(&rest[3..]);
            bytes.extend_from_slice(if rest[1] == b'F' { b"\n" } else { b"" });
        }
    }
    bytes
}

fn stdout_of(path: &Path) -> String {
    String::from_utf8(logged(path, StreamName::Stdout)).unwrap()
}

async fn until(mut holds: impl FnMut() -> bool) {
    let all = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, all).await.expect("it should have come to hold");
}

#[tokio::test]
async fn a_stream_that_nobody_opened_yet_has_not_ended() {
    let bed = Bed::new();
    let streams = bed.driver.prepare(bed.config()).await.unwrap();
    assert!(!streams.barrier(Duration::from_millis(50)).await);
    assert_eq!(bed.driver.counters().counts().missed_barriers, 1);
    let mut shim = Shim::open(&streams.stdio());
    streams.task_created();
    shim.stdout().write_all(b"last words").unwrap();
    drop(shim);
    assert!(streams.barrier(SOON).await);
    assert_eq!(stdout_of(&bed.log()), "last words");
    assert!(fs::read(bed.log()).unwrap().ends_with(b" stdout P last words\n"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(bed.log()).unwrap().permissions().mode() & 0o777 & !0o640, 0);
}

#[tokio::test]
async fn two_streams_share_a_log_and_no_record_is_cut() {
    let bed = Bed::new();
    let (streams, shim) = bed.prepare(bed.config()).await;
    let Shim { outputs, _readers } = shim;
    let text =
        |name: char| (0..40_000).map(|n| format!("{n}{}\n", name.to_string().repeat(n % 97))).collect::<String>();
    let writers: Vec<_> = outputs
        .into_iter()
        .zip(['o', 'e'])
        .map(|(mut file, name)| thread::spawn(move || file.write_all(text(name).as_bytes()).unwrap()))
        .collect();
    drop(_readers);
    assert!(streams.barrier(SOON).await);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!(logged(&bed.log(), StreamName::Stdout) == text('o').as_bytes());
    assert!(logged(&bed.log(), StreamName::Stderr) == text('e').as_bytes());
    assert_eq!(bed.driver.counters().counts().written, fs::metadata(bed.log()).unwrap().len());
}

#[tokio::test]
async fn a_terminal_is_stdout_alone() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(StreamsConfig { tty: true, ..bed.config() }).await;
    assert!(streams.stdio().terminal && streams.stdio().stderr.is_empty());
    shim.stdout().write_all(b"a\r\n\rb\r\n").unwrap();
    drop(shim);
    assert!(streams.barrier(SOON).await);
    assert_eq!(stdout_of(&bed.log()), "a\n\rb\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_switched_between_lines_and_loses_none() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    let text = || (0..3000).map(|n| format!("{n}{}\n", "x".repeat(n * 7919 % 40_000))).collect::<String>();
    let writer = thread::spawn(move || shim.stdout().write_all(text().as_bytes()).unwrap());
    let mut logs = Vec::new();
    while logs.len() < 5 {
        until(|| fs::metadata(bed.log()).unwrap().len() > 4 << 20).await;
        logs.push(bed.rotate(&format!("0.log.{}", logs.len())));
        streams.reopen_log().await.unwrap();
        assert!(bed.log().exists());
    }
    assert!(streams.barrier(SOON).await);
    writer.join().unwrap();
    logs.push(bed.log());
    let parts: Vec<String> = logs.iter().map(|log| stdout_of(log)).collect();
    assert!(parts.concat() == text());
    assert!(parts.iter().all(|part| part.ends_with('\n')));
}

#[tokio::test]
async fn an_idle_stream_lets_go_of_the_old_log_and_later_lines_are_in_the_new() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    shim.stdout().write_all(b"old\nhalf").unwrap();
    until(|| stdout_of(&bed.log()) == "old\n").await;
    let old = bed.rotate("0.log.1");
    let begin = std::time::Instant::now();
    streams.reopen_log().await.unwrap();
    assert!(begin.elapsed() < LINE_END, "a line that is still in memory is no reason to wait");
    shim.stdout().write_all(b" new\n").unwrap();
    until(|| stdout_of(&bed.log()) == "half new\n").await;
    assert_eq!(stdout_of(&old), "old\n");
}

#[tokio::test]
async fn a_line_without_an_end_holds_a_switch_up_for_half_a_second() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    let long = "x".repeat(RECORD_LIMIT + 1);
    shim.stdout().write_all(long.as_bytes()).unwrap();
    until(|| fs::metadata(bed.log()).unwrap().len() > 0).await;
    let old = bed.rotate("0.log.1");
    streams.reopen_log().await.unwrap();
    shim.stdout().write_all(b"end\n").unwrap();
    until(|| stdout_of(&bed.log()) == "xend\n").await;
    assert_eq!(stdout_of(&old), &long[..RECORD_LIMIT]);
}

#[tokio::test]
async fn a_failed_reopening_leaves_the_old_log_in_use_and_no_new_one() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    let old = bed.rotate("0.log.1");
    symlink("elsewhere", bed.log()).unwrap();
    assert!(matches!(streams.reopen_log().await, Err(Error::LogSymlink(_))));
    fs::remove_file(bed.log()).unwrap();
    shim.stdout().write_all(b"still here\n").unwrap();
    until(|| stdout_of(&old) == "still here\n").await;
    assert!(!bed.log().exists() && !bed.log().with_file_name("elsewhere").exists());
    drop(shim);
    assert!(streams.barrier(SOON).await);
    assert!(matches!(streams.reopen_log().await, Err(Error::Finished(_))));
    assert!(!bed.log().exists());
}

#[tokio::test]
async fn a_symlink_in_the_logs_place_is_refused_and_its_target_untouched() {
    for link in ["logs/app/0.log", "logs/app"] {
        let bed = Bed::new();
        let target = bed.directory.path().join("target");
        let link = bed.directory.path().join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("0.log"), "precious").unwrap();
        let to = if link.ends_with("app") { target.clone() } else { target.join("0.log") };
        symlink(to, &link).unwrap();
        assert!(matches!(bed.driver.prepare(bed.config()).await, Err(Error::LogSymlink(_) | Error::Log { .. })));
        assert_eq!(fs::read_to_string(target.join("0.log")).unwrap(), "precious");
        assert!(!directory(&bed.state(), &bed.id).exists());
    }
}

#[tokio::test]
async fn a_log_path_that_climbs_is_refused_and_nothing_made() {
    let bed = Bed::new();
    let log = LogPath { directory: bed.directory.path().join("logs"), relative: "../climbed".into() };
    let made = bed.driver.prepare(StreamsConfig { log: Some(log), ..bed.config() }).await;
    assert!(matches!(made, Err(Error::LogPath { .. })));
    assert!(!bed.directory.path().join("climbed").exists());
}

#[tokio::test]
async fn a_restarted_reader_finds_all_that_was_written_meanwhile() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    shim.stdout().write_all(b"one\ntw").unwrap();
    until(|| fs::metadata(bed.log()).unwrap().len() > 0).await;
    streams.close().await;
    drop(streams);
    shim.stdout().write_all(b"o\nthree\n").unwrap();
    let streams = bed.driver.reattach(bed.config()).unwrap();
    shim.stdout().write_all(b"four\n").unwrap();
    drop(shim);
    assert!(streams.barrier(SOON).await);
    assert_eq!(stdout_of(&bed.log()), "one\ntwo\nthree\nfour\n");
}

#[tokio::test]
async fn f6_a_line_in_progress_is_in_the_log_and_goes_on_with_the_next_daemon() {
    let bed = Bed::new();
    let (_streams, mut shim) = bed.prepare(bed.config()).await;
    shim.stdout().write_all(b"one\ntw").unwrap();
    until(|| fs::metadata(bed.log()).unwrap().len() > 0).await;
    assert!(bed.driver.hand_over(SOON).await);
    assert_eq!(stdout_of(&bed.log()), "one\ntw");
    shim.stdout().write_all(b"o\nth").unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(stdout_of(&bed.log()), "one\ntw", "nothing is read any more");
    let next = Fifo::new(Tasks::default());
    let streams = next.reattach(bed.config()).unwrap();
    // A rotation is aware of the line in progress.
    until(|| stdout_of(&bed.log()) == "one\ntwo\n").await;
    shim.stdout().write_all(b"ree\n").unwrap();
    drop(shim);
    assert!(streams.barrier(SOON).await);
    assert_eq!(stdout_of(&bed.log()), "one\ntwo\nthree\n");
}

#[tokio::test]
async fn f6_a_rotation_waits_for_the_end_of_a_line_that_another_daemon_began() {
    let bed = Bed::new();
    let (_streams, mut shim) = bed.prepare(bed.config()).await;
    shim.stdout().write_all(b"begun").unwrap();
    until(|| shim.is_read()).await;
    assert!(bed.driver.hand_over(SOON).await);
    let next = Fifo::new(Tasks::default());
    let streams = next.reattach(bed.config()).unwrap();
    // When the next daemon has read more of the line, it has opened the log and found that the line continues.
    shim.stdout().write_all(b" and").unwrap();
    until(|| shim.is_read()).await;
    let old = bed.rotate("0.log.1");
    let end = async {
        // The rotation has begun: before that, what follows the line would be in the old file too.
        until(|| bed.log().exists()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        shim.stdout().write_all(b" ended\nnext\n").unwrap();
    };
    let (reopened, ()) = tokio::join!(streams.reopen_log(), end);
    reopened.unwrap();
    until(|| stdout_of(&bed.log()) == "next\n").await;
    assert_eq!(stdout_of(&old), "begun and ended\n");
}

/// When a container has ended, no other process has its FIFO open.
#[tokio::test]
async fn f6_a_fifo_that_only_we_have_open_is_read_to_its_end() {
    for by_close in [false, true] {
        let bed = Bed::new();
        let (streams, mut shim) = bed.prepare(bed.config()).await;
        let text = "last words\n".repeat(10_000);
        shim.stdout().write_all(text.as_bytes()).unwrap();
        drop(shim);
        // Nothing has been read yet: the readers' tasks have not run on this single thread.
        if by_close {
            streams.close().await;
        } else {
            assert!(bed.driver.hand_over(SOON).await);
        }
        assert!(stdout_of(&bed.log()) == text, "{by_close}");
        assert!(streams.barrier(SOON).await);
    }
}

#[tokio::test]
async fn f6_streams_made_after_the_hand_over_are_the_next_daemons() {
    let bed = Bed::new();
    assert!(bed.driver.hand_over(SOON).await);
    let (_streams, mut shim) = bed.prepare(bed.config()).await;
    shim.stdout().write_all(b"kept\n").unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(stdout_of(&bed.log()), "");
    let next = Fifo::new(Tasks::default());
    let _next = next.reattach(bed.config()).unwrap();
    until(|| stdout_of(&bed.log()) == "kept\n").await;
}

#[tokio::test]
async fn f10_a_log_that_cannot_be_opened_leaves_output_where_it_is() {
    let bed = Bed::new();
    let (_streams, mut shim) = bed.prepare(bed.config()).await;
    shim.stdout().write_all(b"one\ntw").unwrap();
    until(|| fs::metadata(bed.log()).unwrap().len() > 0).await;
    assert!(bed.driver.hand_over(SOON).await);
    let kept = bed.rotate("kept");
    symlink("elsewhere", bed.log()).unwrap();
    // Output also survives another restart while the log still cannot be opened.
    for more in ["o\n", "three\n"] {
        let next = Fifo::new(Tasks::default());
        let streams = next.reattach(bed.config()).unwrap();
        assert!(matches!(streams.reopen_log().await, Err(Error::LogSymlink(_))));
        shim.stdout().write_all(more.as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(next.hand_over(SOON).await);
        assert_eq!(stdout_of(&kept), "one\ntw");
    }
    fs::remove_file(bed.log()).unwrap();
    fs::rename(&kept, bed.log()).unwrap();
    let next = Fifo::new(Tasks::default());
    let _streams = next.reattach(bed.config()).unwrap();
    until(|| stdout_of(&bed.log()) == "one\ntwo\nthree\n").await;
    assert_eq!(next.counters().counts().dropped_records, 0);
}

#[tokio::test]
async fn f10_a_container_that_has_filled_its_fifo_does_not_wait_for_its_log() {
    let bed = Bed::new();
    let (streams, shim) = bed.prepare(bed.config()).await;
    assert!(bed.driver.hand_over(SOON).await);
    let kept = bed.rotate("kept");
    symlink("elsewhere", bed.log()).unwrap();
    let next = Fifo::new(Tasks::default());
    let again = next.reattach(bed.config()).unwrap();
    let mut stdout = shim.outputs[0].try_clone().unwrap();
    let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
    let writer = thread::spawn(move || stdout.write_all(text.as_bytes()).unwrap());
    until(|| writer.is_finished()).await;
    writer.join().unwrap();
    fs::rename(&kept, bed.log()).unwrap();
    let mut stdout = shim.outputs[0].try_clone().unwrap();
    until(|| {
        writeln!(stdout, "again").unwrap();
        stdout_of(&bed.log()).ends_with("again\n")
    })
    .await;
    drop((stdout, shim));
    assert!(again.barrier(SOON).await);
    let lines = stdout_of(&bed.log()).lines().filter(|line| line.starts_with("line")).count() as u64;
    assert!(next.counters().counts().dropped_records + lines >= 100_000, "each line is in the log or counted");
    drop(streams);
}

#[tokio::test]
async fn dropped_streams_stop_reading_and_a_dead_shims_have_ended() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    drop(streams);
    tokio::time::sleep(Duration::from_millis(50)).await;
    shim.stdout().write_all(b"kept\n").unwrap();
    assert_eq!(stdout_of(&bed.log()), "");
    let streams = bed.driver.reattach(bed.config()).unwrap();
    drop(shim);
    assert!(streams.barrier(SOON).await);
    assert_eq!(stdout_of(&bed.log()), "kept\n");
    let streams = bed.driver.reattach(bed.config()).unwrap();
    assert!(streams.barrier(SOON).await, "no writer at all is the end");
}

#[tokio::test]
async fn stdin_is_open_until_it_is_closed() {
    let bed = Bed::new();
    let config = StreamsConfig { stdin: true, stdin_once: true, ..bed.config() };
    let streams = bed.driver.prepare(config.clone()).await.unwrap();
    let mut stdin = File::open(streams.stdio().stdin).unwrap();
    streams.task_created();
    let read = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdin.read_to_end(&mut bytes).map(|_| bytes)
    });
    assert!(streams.stdin_once());
    let writer = streams.stdin().unwrap();
    writer.writable().await.unwrap();
    assert_eq!(writer.try_write(b"typed").unwrap(), 5);
    drop(writer);
    streams.close_stdin();
    assert!(streams.stdin().is_none());
    assert_eq!(read.join().unwrap().unwrap(), b"typed");
    drop(streams);
    let streams = bed.driver.reattach(config).unwrap();
    assert!(streams.stdin().is_none(), "nobody reads it any more");
    assert!(bed.prepare(bed.config()).await.0.stdio().stdin.is_empty());
}

#[tokio::test]
async fn subscribers_see_output_and_never_hold_it_up() {
    let bed = Bed::new();
    let (streams, mut shim) = bed.prepare(StreamsConfig { log: None, ..bed.config() }).await;
    streams.reopen_log().await.unwrap();
    let (mut quick, mut slow) = (streams.subscribe(), streams.subscribe());
    shim.stdout().write_all(b"seen").unwrap();
    let chunk = quick.recv().await.unwrap();
    assert_eq!((chunk.stream, &*chunk.bytes), (StreamName::Stdout, &b"seen"[..]));
    let writer = thread::spawn(move || shim.stdout().write_all(&vec![0; 16 << 20]).unwrap());
    assert!(streams.barrier(SOON).await);
    writer.join().unwrap();
    assert!(matches!(slow.recv().await, Err(broadcast::error::RecvError::Lagged(_))));
    assert!(!bed.log().exists());
}

#[tokio::test]
async fn removing_is_idempotent_and_leaves_the_log() {
    let bed = Bed::new();
    let (streams, shim) = bed.prepare(bed.config()).await;
    drop((streams, shim));
    for _ in 0..2 {
        bed.driver.remove(&bed.state(), &bed.id).unwrap();
        assert!(!directory(&bed.state(), &bed.id).exists());
    }
    assert!(bed.log().exists());
    assert!(matches!(bed.driver.reattach(bed.config()), Err(Error::Fifo { .. })));
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_full_disk_drops_records_and_the_container_goes_on() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let bed = Bed::new();
    let logs = bed.directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &logs, Some("tmpfs"), flags, Some("size=256k")).unwrap();
    let _unmount = Unmount(logs.clone());
    let (streams, mut shim) = bed.prepare(bed.config()).await;
    let counters = Arc::clone(bed.driver.counters());
    let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
    let mut stdout = shim.stdout().try_clone().unwrap();
    let writer = thread::spawn(move || stdout.write_all(text.as_bytes()).unwrap());
    until(|| writer.is_finished()).await;
    writer.join().unwrap();
    // Wait for all of it: what is still in the pipe would be written once there is space again, and not be dropped.
    let whole = |text: &str| text.lines().count() as u64 - u64::from(!text.ends_with('\n'));
    let log = bed.log();
    until(|| whole(&fs::read_to_string(&log).unwrap()) + counters.counts().dropped_records >= 100_000).await;
    // As when kubelet deletes an old log: there is space again, and the next line is whole.
    let full = bed.rotate("0.log.1");
    fs::copy(&full, bed.directory.path().join("copy")).unwrap();
    File::options().write(true).open(&full).unwrap().set_len(100).unwrap();
    shim.stdout().write_all(b"resumed\n").unwrap();
    drop(shim);
    assert!(streams.barrier(SOON).await);
    let rest = fs::read_to_string(&full).unwrap();
    assert!(rest.lines().last().unwrap().ends_with(" stdout F resumed"), "{rest}");
    let counts = counters.counts();
    let before = fs::read_to_string(bed.directory.path().join("copy")).unwrap();
    assert_eq!(whole(&before) + counts.dropped_records, 100_000, "each line is in the log or counted");

    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        }
    }
}

/// Run by hand: `cargo test --release --lib io::fifo::tests::throughput -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    for length in [0usize, 100, 1024, 1 << 20] {
        let bed = Bed::new();
        let (streams, mut shim) = bed.prepare(bed.config()).await;
        let line = [vec![b'x'; length], b"\n".to_vec()].concat();
        let block: Vec<u8> = line.iter().copied().cycle().take(line.len().max(1 << 20)).collect();
        let rounds = if length == 0 { 16 } else { 1024 };
        let begin = std::time::Instant::now();
        let writer = thread::spawn(move || (0..rounds).for_each(|_| shim.stdout().write_all(&block).unwrap()));
        assert!(streams.barrier(Duration::from_secs(300)).await);
        writer.join().unwrap();
        let megabytes = (rounds * line.len().max(1 << 20)) as f64 / 1e6;
        println!("lines of {length}: {:.0} MB/s", megabytes / begin.elapsed().as_secs_f64());
    }
}
