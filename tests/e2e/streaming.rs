//! Sessions of exec, attach and port-forward. The client is `streamer` (tests/tools/streaming), which uses the same
//! libraries as kubectl. Terminals are real pseudo-terminals.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pontoon::api::v1;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bed::{Bed, Target};
use crate::harness::{Outcome, SLOWNESS};

/// Longer than any operation takes that works, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which streams a session has in addition to stdout, and to stderr if it has no terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    pub stdin: bool,
    pub tty: bool,
}

pub const STDIN: How = How { stdin: true, tty: false };
pub const TTY: How = How { stdin: true, tty: true };

impl How {
    fn options(self) -> impl Iterator<Item = &'static str> {
        [self.stdin.then_some("-stdin"), self.tty.then_some("-tty")].into_iter().flatten()
    }
}

impl Bed {
    /// The protocols of exec and attach, by streamer's names for them: SPDY, and WebSocket with v5.channel.k8s.io or
    /// v4.channel.k8s.io.
    pub fn protocols(&self) -> &'static [&'static str] {
        match self.target {
            Target::Pontoon => &["spdy", "v5", "v4"],
            // The built-in leaves v5 to kubelet, which translates it to SPDY.
            Target::Builtin => &["spdy", "v4"],
        }
    }

    pub async fn exec_url(&self, id: &str, command: &[&str], how: How) -> anyhow::Result<String> {
        let request = v1::ExecRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            tty: how.tty,
            stdin: how.stdin,
            stdout: true,
            stderr: !how.tty,
        };
        Ok(self.runtime().exec(request).await.context("Exec")?.into_inner().url)
    }

    pub async fn attach_url(&self, id: &str, how: How) -> anyhow::Result<String> {
        let request = v1::AttachRequest {
            container_id: id.to_owned(),
            tty: how.tty,
            stdin: how.stdin,
            stdout: true,
            stderr: !how.tty,
        };
        Ok(self.runtime().attach(request).await.context("Attach")?.into_inner().url)
    }

    pub async fn forward_url(&self, pod: &str) -> anyhow::Result<String> {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.to_owned(), port: Vec::new() };
        Ok(self.runtime().port_forward(request).await.context("PortForward")?.into_inner().url)
    }

    /// Starts an exec over one of [`Self::protocols`].
    pub async fn exec_session(&self, protocol: &str, id: &str, command: &[&str], how: How) -> anyhow::Result<Session> {
        let url = self.exec_url(id, command, how).await?;
        Session::start(self.tool("streamer").args(["exec", "-protocol", protocol]).args(how.options()).arg(url))
    }

    /// Starts an attach over one of [`Self::protocols`].
    pub async fn attach_session(&self, protocol: &str, id: &str, how: How) -> anyhow::Result<Session> {
        let url = self.attach_url(id, how).await?;
        Session::start(self.tool("streamer").args(["attach", "-protocol", protocol]).args(how.options()).arg(url))
    }

    /// Starts a port-forward over `protocol` (`spdy` or `tunnel`) to these ports of a pod.
    pub async fn forward(&self, protocol: &str, pod: &str, ports: &[u16]) -> anyhow::Result<Forward> {
        let url = self.forward_url(pod).await?;
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut command = self.tool("streamer");
        command.args(["forward", "-protocol", protocol, &url]).args(&ports);
        Forward::start(&mut command, ports.len()).await
    }

    /// Opens `number` sessions with the URLs that `url` returns, some at a time, and cuts their connections. `options`
    /// are passed to `streamer`.
    pub async fn drop_sessions<F>(&self, options: &[&str], number: usize, mut url: impl FnMut() -> F) -> Outcome
    where
        F: Future<Output = anyhow::Result<String>>,
    {
        const AT_A_TIME: usize = 8;
        let mut child = self.tool("streamer").arg("drop").args(options).piped().spawn()?;
        let mut urls = child.stdin.take().context("stdin")?;
        let mut answers = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let (mut sent, mut done) = (0, 0);
        while done < number {
            while sent < number && sent - done < AT_A_TIME {
                urls.write_all(format!("{}\n", url().await?).as_bytes()).await?;
                sent += 1;
            }
            let answer = tokio::time::timeout(4 * PATIENCE * *SLOWNESS, answers.next_line()).await;
            let answer = answer.with_context(|| format!("session {done} of {number}"))??;
            ensure!(answer.as_deref() == Some("dropped"), "session {done} of {number}: {answer:?}");
            done += 1;
        }
        Ok(())
    }
}

trait Piped {
    fn piped(&mut self) -> &mut Self;
}

impl Piped for Command {
    fn piped(&mut self) -> &mut Self {
        self.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())
    }
}

/// A running session.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: ChildStderr,
    read: Vec<u8>,
}

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    /// All of it, including what [`Session::shows`] has read.
    pub stdout: Vec<u8>,
    /// All of it, including the error message if the session failed.
    pub stderr: String,
    /// The command's exit code, or [`FAILED`].
    pub code: i32,
}

/// streamer's exit code when the session failed.
pub const FAILED: i32 = 125;

impl Session {
    /// Starts a client that behaves like `streamer`: its standard streams are those of the session, and it exits
    /// with the exit code of the session.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.piped().spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Ok(Self {
            child,
            stdin,
            stdout: stdout.context("stdout")?,
            stderr: stderr.context("stderr")?,
            read: Vec::new(),
        })
    }

    /// Writes `text` to the session's stdin.
    pub async fn send(&mut self, text: &str) -> Outcome {
        Ok(self.stdin.as_mut().context("stdin is closed")?.write_all(text.as_bytes()).await?)
    }

    /// Closes only stdin: the other streams stay open.
    pub fn half_close(&mut self) {
        self.stdin = None;
    }

    /// Reads stdout until it contains `what`.
    pub async fn shows(&mut self, what: &str) -> Outcome {
        let reading = async {
            let mut chunk = [0; 4096];
            while !String::from_utf8_lossy(&self.read).contains(what) {
                let length = self.stdout.read(&mut chunk).await?;
                ensure!(length > 0, "it ended");
                self.read.extend(&chunk[..length]);
            }
            Ok(())
        };
        let done = tokio::time::timeout(PATIENCE * *SLOWNESS, reading).await.unwrap_or_else(|_| bail!("not in time"));
        done.with_context(|| format!("{what:?} was not shown; what was: {:?}", String::from_utf8_lossy(&self.read)))
    }

    /// Waits until the session ends.
    pub async fn ends(mut self) -> anyhow::Result<Ended> {
        let mut stderr = String::new();
        let reading = async {
            tokio::try_join!(self.stdout.read_to_end(&mut self.read), self.stderr.read_to_string(&mut stderr))?;
            anyhow::Ok(self.child.wait().await?)
        };
        let status =
            tokio::time::timeout(3 * PATIENCE * *SLOWNESS, reading).await.context("the session does not end")??;
        Ok(Ended { stdout: self.read, stderr, code: status.code().unwrap_or(-1) })
    }
}

impl Ended {
    /// stdout as text. Invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A client that listens on local ports, each of which leads to a port of a pod.
pub struct Forward {
    child: Child,
    /// The local ports, one for each requested port of the pod.
    pub ports: Vec<u16>,
    /// The client's stderr, which explains in a test's error why a connection ended.
    complaints: Arc<Mutex<String>>,
    _readers: JoinSet<()>,
}

impl Forward {
    /// Starts a client that prints `Forwarding from 127.0.0.1:LOCAL -> PORT` for each port, and waits for `number` of
    /// them.
    pub async fn start(command: &mut Command, number: usize) -> anyhow::Result<Self> {
        let mut child = command.piped().spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let mut ports = Vec::new();
        while ports.len() < number {
            let line = tokio::time::timeout(PATIENCE * *SLOWNESS, lines.next_line()).await.context("not in time")??;
            let Some(line) = line else {
                let mut why = String::new();
                child.stderr.take().context("stderr")?.read_to_string(&mut why).await?;
                bail!("no port is forwarded: {why}");
            };
            let local = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split_once(' '));
            if let Some((port, _)) = local {
                ports.push(port.parse()?);
            }
        }
        // The client prints more lines for each connection, which must be read.
        let mut readers = JoinSet::new();
        readers.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let complaints: Arc<Mutex<String>> = Arc::default();
        let (mut stderr, heard) = (BufReader::new(child.stderr.take().context("stderr")?).lines(), complaints.clone());
        readers.spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                if let Ok(mut heard) = heard.lock() {
                    heard.push_str(&line);
                }
            }
        });
        Ok(Self { child, ports, complaints, _readers: readers })
    }

    /// Connects to the local port at index `port`.
    pub async fn connect(&self, port: usize) -> anyhow::Result<TcpStream> {
        Ok(TcpStream::connect(("127.0.0.1", self.ports[port])).await?)
    }

    /// Sends `text` to the port at index `port`, and reads until the connection ends.
    pub async fn says(&self, port: usize, text: &str) -> anyhow::Result<String> {
        let mut connection = self.connect(port).await?;
        connection.write_all(text.as_bytes()).await?;
        to_the_end(connection).await
    }

    /// Like [`Self::says`], but closes its half of the connection after sending.
    pub async fn says_after_a_half_close(&self, port: usize, text: &str) -> anyhow::Result<String> {
        let mut connection = self.connect(port).await?;
        connection.write_all(text.as_bytes()).await?;
        connection.shutdown().await?;
        to_the_end(connection).await
    }

    /// Sends `text` to the port at index `port`, and reads the same number of bytes.
    pub async fn echoes(&self, port: usize, text: &str) -> anyhow::Result<String> {
        let (mut from, mut to) = self.connect(port).await?.into_split();
        let mut said = vec![0; text.len()];
        let both = async { tokio::try_join!(to.write_all(text.as_bytes()), from.read_exact(&mut said)) };
        let done = tokio::time::timeout(PATIENCE * *SLOWNESS, both).await.context("not all comes back")?;
        done.with_context(|| self.complaints.lock().map(|said| said.clone()).unwrap_or_default())?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Waits until the client exits. This does not end the client.
    pub async fn ends(mut self) -> Outcome {
        tokio::time::timeout(PATIENCE * *SLOWNESS, self.child.wait()).await.context("it does not end")??;
        Ok(())
    }
}

async fn to_the_end(mut connection: TcpStream) -> anyhow::Result<String> {
    let mut said = Vec::new();
    let reading = connection.read_to_end(&mut said);
    tokio::time::timeout(PATIENCE * *SLOWNESS, reading).await.context("the connection does not end")??;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// A program on a pseudo-terminal of its own, and the user at that terminal.
pub struct Terminal {
    master: std::fs::File,
    screen: mpsc::UnboundedReceiver<Vec<u8>>,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Runs a tool of the bed on a terminal of `width` columns and `height` rows.
    pub fn run(bed: &Bed, tool: &str, arguments: &[&str], (width, height): (u16, u16)) -> anyhow::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = ptsname(&master, Vec::new())?.into_string()?;
        set_size(&master, width, height)?;
        let slave = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
        let mut command = bed.tool_on_terminal(tool);
        command.args(arguments).stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = command.spawn()?;
        let master = std::fs::File::from(master);
        let screen = read_on_a_thread(master.try_clone()?);
        Ok(Self { master, screen, child, seen: String::new() })
    }

    /// Types `text`. The terminal buffers some kilobytes until the program reads them.
    pub fn types(&mut self, text: &str) -> Outcome {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Resizes the terminal's window: the kernel notifies the program with SIGWINCH.
    pub fn resize(&self, width: u16, height: u16) -> Outcome {
        set_size(&self.master, width, height)
    }

    /// Reads the screen until `what` is on it, and discards everything up to there.
    pub async fn shows(&mut self, what: &str) -> Outcome {
        let reading = async {
            while !self.seen.contains(what) {
                ensure!(self.read().await, "it ended");
            }
            Ok(())
        };
        let done = tokio::time::timeout(PATIENCE * *SLOWNESS, reading).await.unwrap_or_else(|_| bail!("not in time"));
        done.with_context(|| format!("{what:?} is not on the screen, but {:?}", self.seen))?;
        if let Some((_, rest)) = self.seen.split_once(what) {
            self.seen = rest.to_owned();
        }
        Ok(())
    }

    /// Reads once. Returns false if the terminal has ended.
    async fn read(&mut self) -> bool {
        let Some(chunk) = self.screen.recv().await else { return false };
        self.seen.push_str(&String::from_utf8_lossy(&chunk));
        true
    }

    /// Waits until the program exits. Returns its exit code, and what was on the screen since the last call of `shows`.
    pub async fn ends(mut self) -> anyhow::Result<(i32, String)> {
        let reading = async {
            while self.read().await {}
            anyhow::Ok(self.child.wait().await?)
        };
        let status = tokio::time::timeout(PATIENCE * *SLOWNESS, reading).await;
        let status = status.with_context(|| format!("it does not end; the screen: {:?}", self.seen))??;
        Ok((status.code().unwrap_or(-1), self.seen))
    }
}

/// Reads on a thread, since tokio cannot wait for a terminal (its AsyncFd is unsafe). The thread ends when no process
/// has the other side open any more (EIO).
fn read_on_a_thread(mut master: std::fs::File) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = master.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

fn set_size(master: impl AsFd, width: u16, height: u16) -> Outcome {
    Ok(tcsetwinsize(master, Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 })?)
}
