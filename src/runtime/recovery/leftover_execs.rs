//! Commands that an earlier daemon has left. The directories of their FIFOs show which there are, and their ids show
//! until when they may live (docs/rulings.md 12). Asking the shims (Tasks.ListPids) would run `runc ps` for every
//! container (docs/adr/0013).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::container::io::{DRAIN, Discard, ExecIo};
use crate::ids::{ContainerId, ExecId};
use crate::log_keys::{LogKeys, call_with_keys};
use crate::runtime::Node;
use crate::runtime::streams::run_exec::{Command, ExecResources};
use crate::task::{Found, Machine};

impl Node {
    /// The directory of a command's FIFOs.
    pub(crate) fn exec_directory(&self, container: &ContainerId, exec: &ExecId) -> PathBuf {
        self.config.state.join("exec").join(format!("{container}.{exec}"))
    }

    /// Lets the commands of an earlier daemon live as long as they may. Until then their output is read and discarded,
    /// so that none waits for a reader for ever. The directory is created here, so that an idle node looks the same
    /// before and after its first command.
    pub(crate) fn adopt_leftover_execs(self: &Arc<Self>) {
        use std::os::unix::fs::DirBuilderExt as _;
        let all = self.config.state.join("exec");
        // Errors are ignored: a command creates the directory if it is missing.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&all);
        for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
            match ids(&entry.path()) {
                Some((container, exec)) => {
                    let keys = self.store.container(&container).map(|container| self.log_keys(&container).clone());
                    let keys = keys.unwrap_or_else(|| LogKeys::default().with_container(container.as_str()));
                    call_with_keys(keys, || self.adopt_leftover(&entry.path(), container, exec));
                }
                None => {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
    }

    fn adopt_leftover(self: &Arc<Self>, directory: &Path, id: ContainerId, exec_id: ExecId) {
        let left = until(&exec_id);
        let (io, directory) = match ExecIo::resume(directory) {
            Ok((io, directory)) => (Some(io), Some(directory)),
            // The daemon was killed before it created the FIFOs; or they cannot be read, and the process lives on
            // without them.
            Err(error) => {
                tracing::debug!(%error, "a command's output is lost");
                let _ = std::fs::remove_dir_all(directory);
                (None, None)
            }
        };
        let resources = ExecResources { _directory: directory, ..ExecResources::default() };
        let command = Command::own(self, id, &exec_id, Machine::found(Found::StartUnknown), resources);
        self.tasks.background(async move {
            command.wait_until_over(io, left).await;
            command.end().await;
        });
    }
}

impl Command {
    /// Waits until the process ends, or its time is over. One that was created but never started does not end by
    /// itself: its owner ends it.
    async fn wait_until_over(&self, io: Option<ExecIo>, left: Option<Duration>) {
        let exited = CancellationToken::new();
        let (mut stdout, mut stderr) = (Discard::default(), Discard::default());
        let output = async {
            if let Some(io) = &io {
                io.copy(&mut stdout, &mut stderr, &exited, DRAIN).await;
            }
            std::future::pending::<()>().await;
        };
        let over = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The process has ended, or does not exist.
            _ = self.task.exit() => {}
            () = output => {}
            () = over => tracing::info!("killing a command of the previous Pontoon process"),
        }
    }
}

fn ids(directory: &Path) -> Option<(ContainerId, ExecId)> {
    let (container, exec) = directory.file_name()?.to_str()?.split_once('.')?;
    Some((ContainerId::parse(container).ok()?, ExecId::parse(exec).ok()?))
}

/// How much longer a command may live; `None` for as long as it likes.
fn until(exec: &ExecId) -> Option<Duration> {
    let until = exec.lives_until().filter(|time| *time != u64::MAX)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Duration::from_millis(until).saturating_sub(now))
}
