//! A process that does what its arguments say. A command `fake out=hello exit=3 after=50`
//! writes, waits 50 ms and returns 3; without `exit` it runs until a signal ends it, and with
//! `ignores=term` only SIGKILL does; with `ignores=kill`, as one that waits for a dead disk, only
//! the second SIGKILL. Any other command runs until a signal ends it.

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
/// Never a process of this host: nobody may be hit by a signal that is meant for a fake one.
const FIRST_PID: u32 = 1 << 23;

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Its code.
    pub code: u32,
    /// When.
    pub at: Timestamp,
}

/// What a process's streams are connected to.
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
    /// Open from its making to its end, for both reading and writing, as the shim has them.
    pipes: [Option<File>; 2],
    /// The same, to its end or to CloseIO.
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
    /// Copies stdin to stdout, and returns at its end.
    cat: bool,
    /// Writes so many bytes to stdout, before anything else counts.
    flood: usize,
    /// A child holds its output from then on, for ever.
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
    /// Makes it; it does not run yet.
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

    /// Its runc was killed when it had started it, so its shim knows nothing of that.
    pub(super) fn miss_start(&mut self) {
        self.missed = true;
    }

    /// Runs it: it writes at once, and tells when it will return with what.
    pub(super) fn start(&mut self) -> Option<(Duration, u32)> {
        self.stage = Stage::Running;
        for (pipe, text) in self.pipes.iter_mut().zip([&self.program.out, &self.program.err]) {
            if let Some(pipe) = pipe {
                let _ = pipe.write_all(text.as_bytes());
            }
        }
        // Whoever copies or floods returns when that is done.
        if self.program.cat || self.program.flood > 0 {
            return None;
        }
        self.program.exit.map(|code| (self.program.after, code))
    }

    /// What it does after it has said what it says.
    pub(super) fn work(&self) -> Option<Work> {
        let Program { cat, flood, exit, after, .. } = self.program;
        let end = exit.map(|code| (after, code));
        (cat || flood > 0).then(|| Work { stdio: self.stdio.clone(), cat, flood, end })
    }

    pub(super) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Notes a signal; the code it ends with when it dies of it.
    /// Before its start it is the runtime's own init, whatever its program would do.
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

    /// Its end. What it wrote stays in the FIFO for whoever has it open.
    pub(super) fn finish(&mut self, code: u32) -> Exit {
        let exit = Exit { code, at: now() };
        self.stage = Stage::Stopped;
        if self.program.leaves_child {
            // Nobody ever closes them.
            std::mem::forget(std::mem::take(&mut self.pipes));
        }
        self.pipes = [None, None];
        self.stdin = None;
        self.exit.send_replace(Some(exit.clone()));
        exit
    }

    /// As Get and List show it.
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

/// What a process does as long as it runs.
pub(super) struct Work {
    stdio: Stdio,
    cat: bool,
    flood: usize,
    end: Option<(Duration, u32)>,
}

impl Inner {
    /// Carries a process's work out, on a thread that blocks where the process would.
    pub(super) fn work(self: &Arc<Self>, id: String, exec: String, work: Work) {
        let fake = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            let mut stdout = OpenOptions::new().write(true).open(&work.stdio.stdout).unwrap();
            if work.cat {
                // Who has no stdin is at its end.
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
                // Nobody reads it any more.
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

    /// Lets a process that runs return after a while.
    pub(super) fn finish_later(self: &Arc<Self>, id: String, exec: String, (after, code): (Duration, u32)) {
        let fake = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            fake.finish(&id, &exec, code);
        });
    }
}

/// A log URI is nobody's here; a FIFO has to be there.
fn open(path: &str) -> std::io::Result<Option<File>> {
    if path.is_empty() || path.contains("://") {
        return Ok(None);
    }
    OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(path).map(Some)
}
