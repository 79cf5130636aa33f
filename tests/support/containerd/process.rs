//! A process whose behaviour is given by its arguments. The command `fake out=hello exit=3 after=50` writes, waits 50
//! ms and returns 3. Without `exit` it runs until a signal ends it. With `ignores=term` only SIGKILL ends it; with
//! `ignores=kill` only the second SIGKILL does, as for a process that waits for a dead disk. Any other command runs
//! until a signal ends it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::types::v1::{self, Status as Stage};
use nix::libc::O_NONBLOCK;
use prost_types::Timestamp;
use tokio::sync::watch;

use super::{Inner, now};

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// PIDs from here on never belong to a process of this host, so that a signal for a fake process hits no real one.
const FIRST_PID: u32 = 1 << 23;

#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    pub code: u32,
    pub at: Timestamp,
}

/// The files that a process's streams are connected to.
#[derive(Clone, Debug, Default)]
pub(super) struct Stdio {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) terminal: bool,
}

/// A process of a task.
pub(super) struct Process {
    pid: u32,
    program: Program,
    stdio: Stdio,
    stage: Stage,
    /// Its shim has missed its start, and takes it for created.
    missed: bool,
    pub(super) exit: watch::Sender<Option<Exit>>,
    pub(super) signals: Vec<u32>,
    /// Open for reading and writing from the process's creation to its end, as in a shim.
    pipes: [Option<File>; 2],
    /// Open in the same way, to the process's end or to CloseIO.
    stdin: Option<File>,
}

#[derive(Clone, Debug, Default)]
struct Program {
    out: String,
    err: String,
    exit: Option<u32>,
    after: Duration,
    ignores_term: bool,
    ignores_kill: bool,
    /// Copies stdin to stdout, and returns at the end of stdin.
    cat: bool,
    /// First writes this many bytes to stdout.
    flood: usize,
    /// A child process holds the output open forever.
    leaves_child: bool,
}

impl Program {
    fn parse(args: &[String]) -> Self {
        let mut program = Self::default();
        let Some((name, words)) = args.split_first() else { return program };
        for word in words.iter().filter(|_| name == "fake") {
            match word.split_once('=') {
                Some(("out", text)) => text.clone_into(&mut program.out),
                Some(("err", text)) => text.clone_into(&mut program.err),
                Some(("exit", code)) => program.exit = Some(code.parse().unwrap()),
                Some(("after", milliseconds)) => program.after = Duration::from_millis(milliseconds.parse().unwrap()),
                Some(("ignores", "term")) => program.ignores_term = true,
                Some(("ignores", "kill")) => program.ignores_kill = true,
                Some(("flood", bytes)) => program.flood = bytes.parse().unwrap(),
                Some(("leaves", "child")) => program.leaves_child = true,
                None if word == "cat" => program.cat = true,
                _ => panic!("no fake process can {word:?}"),
            }
        }
        program
    }
}

impl Process {
    /// Creates the process, without starting it.
    pub(super) fn new(number: usize, args: &[String], stdio: Stdio) -> std::io::Result<Self> {
        let pipes = [open(&stdio.stdout)?, open(&stdio.stderr)?];
        let stdin = open(&stdio.stdin)?;
        Ok(Self {
            pid: FIRST_PID + u32::try_from(number).unwrap(),
            program: Program::parse(args),
            stdio,
            stage: Stage::Created,
            missed: false,
            exit: watch::Sender::new(None),
            signals: Vec::new(),
            pipes,
            stdin,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Stopped
    }

    pub(super) fn is_missed(&self) -> bool {
        self.missed
    }

    /// Its runc was killed after the start, so its shim does not know that it runs.
    pub(super) fn miss_start(&mut self) {
        self.missed = true;
    }

    /// Starts the process. It writes its output at once. Returns when it will exit and with which code.
    pub(super) fn start(&mut self) -> Option<(Duration, u32)> {
        self.stage = Stage::Running;
        for (pipe, text) in self.pipes.iter_mut().zip([&self.program.out, &self.program.err]) {
            if let Some(pipe) = pipe {
                let _ = pipe.write_all(text.as_bytes());
            }
        }
        // With `cat` or `flood`, it returns when that is done.
        if self.program.cat || self.program.flood > 0 {
            return None;
        }
        self.program.exit.map(|code| (self.program.after, code))
    }

    /// The work that it does after its first output.
    pub(super) fn work(&self) -> Option<Work> {
        let Program { cat, flood, exit, after, .. } = self.program;
        let end = exit.map(|code| (after, code));
        (cat || flood > 0).then(|| Work { stdio: self.stdio.clone(), cat, flood, end })
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Records a signal. Returns the exit code if the process dies of it. Before its start, the process is the
    /// runtime's init, which obeys every signal.
    pub(super) fn signal(&mut self, signal: u32) -> Option<u32> {
        let survives = match signal {
            _ if !self.is_running() => false,
            SIGTERM => self.program.ignores_term || self.program.ignores_kill,
            SIGKILL => self.program.ignores_kill && !self.signals.contains(&SIGKILL),
            _ => false,
        };
        self.signals.push(signal);
        (!survives).then_some(128 + signal)
    }

    /// Ends the process. Its output stays in the FIFO for readers that have it open.
    pub(super) fn finish(&mut self, code: u32) -> Exit {
        let exit = Exit { code, at: now() };
        self.stage = Stage::Stopped;
        if self.program.leaves_child {
            // Never closed.
            std::mem::forget(std::mem::take(&mut self.pipes));
        }
        self.pipes = [None, None];
        self.stdin = None;
        self.exit.send_replace(Some(exit.clone()));
        exit
    }

    /// As Get and List report it.
    pub(super) fn describe(&self, container: &str, id: &str) -> v1::Process {
        let exit = self.exit.borrow().clone();
        let stage = if self.missed && self.is_running() { Stage::Created } else { self.stage };
        v1::Process {
            container_id: container.to_owned(),
            id: id.to_owned(),
            pid: self.pid,
            status: stage.into(),
            stdin: self.stdio.stdin.clone(),
            stdout: self.stdio.stdout.clone(),
            stderr: self.stdio.stderr.clone(),
            terminal: self.stdio.terminal,
            exit_status: exit.as_ref().map(|exit| exit.code).unwrap_or_default(),
            exited_at: exit.map(|exit| exit.at),
        }
    }
}

/// What a process does while it runs.
pub(super) struct Work {
    stdio: Stdio,
    cat: bool,
    flood: usize,
    end: Option<(Duration, u32)>,
}

impl Inner {
    /// Carries out a process's work, on a thread that blocks where the process would.
    pub(super) fn work(self: &Arc<Self>, id: String, exec: String, work: Work) {
        let fake = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            let mut stdout = OpenOptions::new().write(true).open(&work.stdio.stdout).unwrap();
            if work.cat {
                // Without stdin, the end of stdin is reached at once.
                if let Ok(mut stdin) = File::open(&work.stdio.stdin) {
                    let _ = std::io::copy(&mut stdin, &mut stdout);
                }
                fake.finish(&id, &exec, work.end.map_or(0, |(_, code)| code));
                return;
            }
            let piece = [b'x'; 32 * 1024];
            let mut left = work.flood;
            while left > 0 {
                let count = left.min(piece.len());
                // The FIFO has no reader any more.
                if stdout.write_all(&piece[..count]).is_err() {
                    return;
                }
                left -= count;
            }
            drop(stdout);
            if let Some(end) = work.end {
                let _inside = runtime.enter();
                fake.finish_later(id, exec, end);
            }
        });
    }

    /// Lets a running process exit after some time.
    pub(super) fn finish_later(self: &Arc<Self>, id: String, exec: String, (after, code): (Duration, u32)) {
        let fake = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            fake.finish(&id, &exec, code);
        });
    }
}

/// A log URI is ignored. A FIFO must exist.
fn open(path: &str) -> std::io::Result<Option<File>> {
    if path.is_empty() || path.contains("://") {
        return Ok(None);
    }
    OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(path).map(Some)
}
