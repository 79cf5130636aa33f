//! Runs one plugin for one operation: in its own process group, with bounded output and a deadline.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::error::{Error, PluginFailure};
use super::running::Running;
use crate::telemetry::millis;

/// Largest result of a plugin, in bytes.
pub(super) const STDOUT_LIMIT: usize = 1 << 20;
/// How many bytes of stderr are kept; the rest is read and dropped.
const STDERR_LIMIT: usize = 8 << 10;
/// How many bytes of a plugin's output an error may contain.
const TEXT_LIMIT: usize = 4 << 10;
/// How long the pipes of a plugin may stay open after it has exited: a process it left behind may hold them.
const PIPES_GRACE: Duration = Duration::from_secs(1);
/// How long to wait for a killed plugin to exit, so that DEL does not run at the same time as the dying ADD.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// How often, and after which pause, to retry an executable that is still being written.
const BUSY_RETRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Variables that plugins must not inherit: the service manager's channels to this daemon, and what our unit tunes.
const NOT_INHERITED: [&str; 7] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "GLIBC_TUNABLES"];
/// For plugins that run other tools, when this daemon's environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The operation that a plugin is to perform (CNI spec, "CNI operations").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Attach a container.
    Add,
    /// Undo an attachment.
    Del,
    /// Check an attachment.
    Check,
    /// Free all resources that belong to no valid attachment.
    Gc,
    /// Report whether ADD would work.
    Status,
}

impl Operation {
    /// The value of `CNI_COMMAND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One run of a plugin.
pub(super) struct Call<'a> {
    pub plugin: &'a str,
    pub operation: Operation,
    /// The sandbox that the operation is about, if it is about one.
    pub id: Option<&'a str>,
    /// The plugin's config.
    pub stdin: Vec<u8>,
    /// `CNI_CONTAINERID`, `CNI_NETNS` and so on.
    pub environment: Vec<(&'static str, OsString)>,
    pub deadline: Instant,
}

/// The directories that plugins are searched in.
pub(super) struct Plugins {
    dirs: Vec<PathBuf>,
    /// `dirs` as `CNI_PATH`, for plugins that run other plugins.
    path: OsString,
    running: Running,
}

impl Plugins {
    pub(super) fn new(dirs: Vec<PathBuf>, running: Running) -> Self {
        let texts: Vec<_> = dirs.iter().map(|dir| dir.as_os_str()).collect();
        let path = texts.join(":".as_ref());
        Self { dirs, path, running }
    }

    /// Waits for a plugin that an earlier daemon, or a dropped call, started for a sandbox.
    pub(super) async fn wait_for_interrupted(&self, id: &str) {
        self.running.wait_until_ended(id).await;
    }

    /// Runs a plugin and returns its stdout. Dropping the future kills its process group.
    pub(super) async fn run(&self, call: Call<'_>) -> Result<Vec<u8>, Error> {
        let started = Instant::now();
        let failed = |source| Error::Run { plugin: call.plugin.to_owned(), operation: call.operation, source };
        let (mut child, stderr) = self.spawn(&call).await?;
        let mut group = ProcessGroup::of(&child);
        let done = timeout_at(call.deadline, collect_output(&mut child, &call.stdin, stderr)).await;
        let Ok(done) = done else {
            group.kill();
            if timeout(KILL_GRACE, child.wait()).await.is_ok() {
                self.running.remove_fifo(call.id);
            }
            let after = started.elapsed();
            return Err(Error::TimedOut { plugin: call.plugin.to_owned(), operation: call.operation, after });
        };
        let (status, stdout, stderr) = done.map_err(failed)?;
        group.disarm();
        self.running.remove_fifo(call.id);
        let ms = millis(started.elapsed());
        let (plugin, operation) = (call.plugin, call.operation);
        tracing::debug!(plugin, %operation, ms, %status, stderr = truncated_text(&stderr.kept), "cni plugin ran");
        if !status.success() {
            return Err(failure(&call, status, &stdout.kept, &stderr.kept));
        }
        if stdout.overflowed {
            let plugin = call.plugin.to_owned();
            return Err(Error::OutputTooLarge { plugin, operation: call.operation, limit: STDOUT_LIMIT });
        }
        Ok(stdout.kept)
    }

    /// Starts the plugin. Returns it and the read end of its stderr.
    async fn spawn(&self, call: &Call<'_>) -> Result<(Child, Receiver), Error> {
        let failed = |source| Error::Run { plugin: call.plugin.to_owned(), operation: call.operation, source };
        let executable = self.find(call.plugin)?;
        let (reader, writer) = self.running.stderr(call.id).map_err(failed)?;
        let mut command = Command::new(&executable);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        if std::env::var_os("PATH").is_none() {
            command.env("PATH", DEFAULT_PATH);
        }
        command
            .env("CNI_COMMAND", call.operation.to_string())
            .env("CNI_PATH", &self.path)
            .envs(call.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(writer)
            .process_group(0);
        let mut retries = BUSY_RETRIES;
        loop {
            match command.spawn() {
                // An installer is writing the executable right now (libcni waits as well).
                Err(error) if error.raw_os_error() == Some(Errno::ETXTBSY as i32) && retries > 0 => {
                    retries -= 1;
                    sleep(BUSY_PAUSE).await;
                }
                Err(error) => {
                    self.running.remove_fifo(call.id);
                    return Err(failed(error));
                }
                Ok(child) => return Ok((child, reader)),
            }
        }
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, Error> {
        let mut unusable = None;
        for path in self.dirs.iter().map(|dir| dir.join(plugin)) {
            match std::fs::metadata(&path) {
                Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(path),
                Ok(_) => unusable = unusable.or(Some(path)),
                Err(_) => {}
            }
        }
        let (plugin, dirs) = (plugin.to_owned(), self.dirs.clone());
        Err(match unusable {
            Some(path) => Error::PluginNotExecutable { plugin, path, dirs },
            None => Error::PluginMissing { plugin, dirs },
        })
    }
}

/// The output of a pipe, up to a limit.
struct Bounded {
    kept: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Bounded {
    fn new(limit: usize) -> Self {
        Self { kept: Vec::new(), limit, overflowed: false }
    }

    /// Reads to the end. Output over the limit is read too, and dropped: a plugin that blocks on a full pipe would only
    /// end at its deadline.
    async fn fill(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> io::Result<()> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut chunk = vec![0; 8 << 10];
        loop {
            let read = pipe.read(&mut chunk).await?;
            if read == 0 {
                return Ok(());
            }
            let remaining = self.limit - self.kept.len();
            self.kept.extend_from_slice(&chunk[..read.min(remaining)]);
            self.overflowed |= read > remaining;
        }
    }
}

/// Writes the config to the plugin's stdin, and collects its output and exit status.
async fn collect_output(
    child: &mut Child,
    config: &[u8],
    stderr_pipe: Receiver,
) -> io::Result<(ExitStatus, Bounded, Bounded)> {
    let (mut stdout, mut stderr) = (Bounded::new(STDOUT_LIMIT), Bounded::new(STDERR_LIMIT));
    let (stdin, out) = (child.stdin.take(), child.stdout.take());
    let status = {
        let streams = async { tokio::join!(feed(stdin, config), stdout.fill(out), stderr.fill(Some(stderr_pipe))) };
        tokio::pin!(streams);
        tokio::select! {
            (_, out, err) = &mut streams => {
                out.and(err)?;
                child.wait().await?
            }
            status = child.wait() => {
                if let Ok((_, out, err)) = timeout(PIPES_GRACE, &mut streams).await {
                    out.and(err)?;
                }
                status?
            }
        }
    };
    Ok((status, stdout, stderr))
}

/// A plugin may exit without reading its config, so a closed pipe is no error.
async fn feed(stdin: Option<ChildStdin>, config: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(config).await;
        let _ = stdin.shutdown().await;
    }
}

/// The plugin and the processes it started. Killed on drop, unless the plugin has exited by itself.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// The id cannot belong to another group: the kernel does not reuse it while the group has a member, and once the
    /// leader has been reaped, this stays armed for [`PIPES_GRACE`] at most.
    fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }

    /// Disarms the kill. A process that a plugin leaves running when it exits is left running on purpose.
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A plugin's error: the error object it printed, or its exit status and output if it printed none.
fn failure(call: &Call<'_>, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Error {
    let printed: Option<Value> = serde_json::from_slice(stdout).ok();
    let field = |name: &str| printed.as_ref().and_then(|printed| printed.get(name));
    let text_field = |name: &str| {
        field(name).and_then(Value::as_str).map(|text| truncated_text(text.as_bytes())).unwrap_or_default()
    };
    let (code, mut message) = (field("code").and_then(Value::as_u64).unwrap_or(0), text_field("msg"));
    if message.is_empty() {
        let other = if stdout.is_empty() { stderr } else { stdout };
        message = format!("{status}, it printed {:?}", truncated_text(other));
    }
    let (plugin, operation, details) = (call.plugin.to_owned(), call.operation, text_field("details"));
    Error::Plugin(Box::new(PluginFailure { plugin, operation, code, message, details }))
}

/// The beginning of a plugin's output, as text.
pub(super) fn truncated_text(text: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&text[..text.len().min(TEXT_LIMIT)]).trim().to_owned();
    if text.len() > TEXT_LIMIT { format!("{shown}...") } else { shown }
}

/// A path as the value of an environment variable; empty when there is none.
pub(super) fn path_value(path: Option<&Path>) -> OsString {
    path.map(|path| path.as_os_str().to_owned()).unwrap_or_default()
}
