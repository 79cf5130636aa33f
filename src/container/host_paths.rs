//! Calls on paths of the host that may never return: a stat on an NFS server that is gone
//! waits in the kernel, past every signal (containerd#10828, #13867).
//!
//! They run on a thread of their own, so that the runtime's pool loses none to them, and only
//! the waiter has a deadline. A thread left behind goes no further than the call it is in; and
//! until that returns, nobody follows it onto the same path. So there are never more of them
//! than stuck paths, however often kubelet tries again.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a request waits for all its paths; below the 2 minutes that kubelet gives CreateContainer.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// The kernel's PATH_MAX without its zero byte.
pub(super) const LONGEST: usize = 4095;

static LEFT_BEHIND: Mutex<Vec<Progress>> = Mutex::new(Vec::new());

/// Why a request cannot have what it names on the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// As `config.mounts[0].host_path`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file system does not answer. The call goes on without us.
    #[error("stuck in {operation}({})", path.display())]
    Stuck {
        /// The system call.
        operation: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The file system answered with an error.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// Whether a name in the path is longer than its file system has any.
    pub(super) fn is_too_long(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidFilename)
    }

    /// Whether the path is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What a thread is doing, for whoever waits for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Doing>>);

#[derive(Debug, Default)]
struct Doing {
    operation: &'static str,
    path: PathBuf,
    /// How many calls there have been.
    steps: u64,
    /// Nobody waits any more.
    abandoned: bool,
    ended: bool,
}

impl Progress {
    /// One call that may not return.
    pub(super) fn step<T>(
        &self,
        operation: &'static str,
        path: &Path,
        call: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, Error> {
        let occupied = lock(&LEFT_BEHIND).iter().any(|other| other.is_stuck_on(path));
        {
            let mut doing = self.doing();
            if occupied || doing.abandoned {
                return Err(Error::Stuck { operation, path: path.to_owned() });
            }
            (doing.operation, doing.path) = (operation, path.to_owned());
            doing.steps += 1;
        }
        call(path).map_err(|source| Error::Io { operation, path: path.to_owned(), source })
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        lock(&self.0)
    }

    fn is_stuck_on(&self, path: &Path) -> bool {
        let doing = self.doing();
        !doing.ended && doing.path == path
    }

    fn stuck(&self) -> Error {
        let doing = self.doing();
        Error::Stuck { operation: doing.operation, path: doing.path.clone() }
    }

    fn failed(&self, source: io::Error) -> Error {
        let doing = self.doing();
        Error::Io { operation: doing.operation, path: doing.path.clone(), source }
    }
}

/// Does `work` on a thread and waits for it, at most until the deadline.
pub(super) async fn run<T, F>(deadline: Duration, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
{
    run_on(deadline, deadline, work).await
}

/// The same for work of many calls: as long as a call returns within the deadline it may go on, though no
/// longer than `longest`.
pub(super) async fn run_on<T, F>(deadline: Duration, longest: Duration, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
{
    let progress = Progress::default();
    progress.doing().operation = "start a thread for host paths";
    let (done, mut result) = oneshot::channel();
    let own = Ended(progress.clone());
    let body = move || {
        let outcome = work(&own.0);
        drop(own);
        let _ = done.send(outcome);
    };
    std::thread::Builder::new().name("host-paths".to_owned()).spawn(body).map_err(|source| progress.failed(source))?;
    let _waiter = Waiter(progress.clone());
    let end = Instant::now() + longest;
    loop {
        let steps = progress.doing().steps;
        let until = end.min(Instant::now() + deadline);
        match tokio::time::timeout_at(until, &mut result).await {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(_)) => return Err(progress.failed(io::Error::other("the thread panicked"))),
            Err(_) if until < end && progress.doing().steps != steps => {}
            Err(_) => return Err(progress.stuck()),
        }
    }
}

/// Tells that the thread is at its end, also by a panic.
struct Ended(Progress);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.doing().ended = true;
    }
}

/// Leaves the thread behind when the waiter goes, for whatever reason.
struct Waiter(Progress);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.doing().abandoned = true;
        let mut left = lock(&LEFT_BEHIND);
        left.retain(|progress| !progress.doing().ended);
        let ended = self.0.doing().ended;
        if !ended {
            left.push(self.0.clone());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A path of a request that may be used, or what is wrong with it.
pub(super) fn absolute(path: &str) -> Result<&Path, &'static str> {
    match path {
        "" => Err("is required"),
        // Else it would mean something in the daemon's working directory.
        _ if !path.starts_with('/') => Err("is not absolute"),
        _ if path.contains('\0') => Err("has a NUL"),
        _ if path.len() > LONGEST => Err("has more than 4095 bytes"),
        _ => Ok(Path::new(path)),
    }
}

/// The path without `.`, `..` and doubled slashes, by its words alone: what the container's
/// root will have there is not known yet. `..` goes no higher than the root.
pub(super) fn cleaned(path: &str) -> Result<PathBuf, &'static str> {
    let mut clean = PathBuf::from("/");
    for component in absolute(path)?.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The text of what failed.
    async fn outcome<T: Send + 'static>(
        longest: Duration,
        work: impl FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, String> {
        run_on(DEADLINE, longest, work).await.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }

    async fn stat(path: &'static str) -> Result<(), String> {
        outcome(DEADLINE, move |progress| progress.step("stat", Path::new(path), |_| Ok(()))).await
    }

    /// A request whose stat of the path returns when the sender is dropped, and that has
    /// waited in vain; and what then becomes of its next step.
    async fn stuck_on(path: &'static str) -> (mpsc::Sender<()>, oneshot::Receiver<bool>, String) {
        let (release, held) = mpsc::channel::<()>();
        let ((entered, inside), (ended, end)) = (oneshot::channel(), oneshot::channel());
        let work = move |progress: &Progress| -> Result<(), Error> {
            progress.step("stat", Path::new(path), |_| {
                let _ = entered.send(());
                let _ = held.recv();
                Ok(())
            })?;
            let next = progress.step("stat", Path::new("/next"), |_| Ok(()));
            let _ = ended.send(next.is_ok());
            Ok(())
        };
        let deadline = async {
            inside.await.unwrap();
            tokio::time::pause();
            tokio::time::advance(DEADLINE).await;
            tokio::time::resume();
        };
        let (outcome, ()) = tokio::join!(outcome(DEADLINE, work), deadline);
        (release, end, outcome.unwrap_err())
    }

    #[tokio::test]
    async fn a_call_that_does_not_return_is_named_and_nobody_follows_it() {
        let (_held, _, error) = stuck_on("/stuck/here").await;
        assert_eq!(error, "stuck in stat(/stuck/here)");
        assert_eq!(stat("/stuck/here").await.unwrap_err(), "stuck in stat(/stuck/here)");
        assert_eq!(stat("/stuck").await, Ok(()));
    }

    /// A walk of three calls, which take two thirds of what one may, and so together twice as much.
    async fn long_walk(longest: Duration) -> Result<(), String> {
        let (told, mut next) = tokio::sync::mpsc::unbounded_channel();
        let (go, gone) = mpsc::channel::<()>();
        let work = move |progress: &Progress| -> Result<(), Error> {
            for _ in 0..3 {
                progress.step("read", Path::new("/long/walk"), |_| {
                    let _ = told.send(());
                    let _ = gone.recv();
                    Ok(())
                })?;
            }
            Ok(())
        };
        let clock = async {
            while next.recv().await.is_some() {
                tokio::time::pause();
                tokio::time::advance(DEADLINE * 2 / 3).await;
                tokio::time::resume();
                // What is over is noticed before the call returns.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let _ = go.send(());
            }
        };
        tokio::join!(outcome(longest, work), clock).0
    }

    #[tokio::test]
    async fn what_gets_on_may_go_on_though_not_for_ever() {
        assert_eq!(long_walk(DEADLINE * 9).await, Ok(()));
        assert_eq!(long_walk(DEADLINE * 3 / 2).await.unwrap_err(), "stuck in read(/long/walk)");
    }

    #[tokio::test]
    async fn a_thread_that_was_left_behind_goes_no_further() {
        let (held, end, _) = stuck_on("/left").await;
        drop(held);
        assert!(!end.await.unwrap());
    }

    #[tokio::test]
    async fn a_path_is_free_again_when_its_call_returned() {
        let (held, _, _) = stuck_on("/slow").await;
        assert!(stat("/slow").await.is_err());
        drop(held);
        while stat("/slow").await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let outcome: Result<(), String> = outcome(DEADLINE, |_| panic!("in a test")).await;
        assert!(outcome.unwrap_err().contains("panicked"));
    }

    #[test]
    fn container_paths_are_cleaned_by_their_words() {
        let clean = |path| cleaned(path).map(|path| path.display().to_string());
        assert_eq!(clean("//a/./b/../c/").unwrap(), "/a/c");
        assert_eq!(clean("/../../etc").unwrap(), "/etc");
        assert_eq!(clean("/").unwrap(), "/");
        assert_eq!(["", "a", "../a", "/a\0b"].map(|path| clean(path).is_err()), [true; 4]);
    }
}
