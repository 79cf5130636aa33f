//! Threads that change their network namespace and end afterwards.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rustix::fs::OFlags;
use tokio::sync::oneshot;

use super::{Error, mounts};

/// Runs `work` in the network namespace that is pinned at `path`, on an OS thread of its own. Sockets that `work` opens
/// stay in that namespace after it has returned.
///
/// # Errors
/// [`Error::Enter`] when there is no namespace at the path; [`Error::Thread`] when no thread can be started.
pub async fn enter<T, F>(path: &Path, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let at = path.to_owned();
    let failed = |source: io::Error| Error::Enter { path: path.to_owned(), source };
    let done = on_thread(path, move || -> io::Result<T> {
        // Opens non-blocking, so that a FIFO at the path does not make it wait for a writer. The check gives a clearer
        // error than setns, which fails with EINVAL on a plain file.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(&at)?;
        if !mounts::is_nsfs_file(&file) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no namespace is mounted there"));
        }
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    });
    done.await?.map_err(failed)
}

/// Runs `work` on a thread that ends afterwards. Dropping the future does not stop it.
pub(super) async fn on_thread<T, F>(path: &Path, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let failed = |source: io::Error| Error::Thread { path: path.to_owned(), source };
    let (answer, answered) = oneshot::channel();
    let thread = std::thread::Builder::new().name("netns".to_owned());
    thread
        .spawn(move || {
            // The caller may have stopped waiting; the work is done all the same.
            let _ = answer.send(work());
        })
        .map_err(failed)?;
    Ok(answered.await.expect("the thread answers: a panic ends the process"))
}
