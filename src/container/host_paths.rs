//! System calls on host paths that may never return: a stat on an NFS server that is gone waits in the kernel, and no
//! signal ends it (containerd#10828, #13867).
//!
//! Each request makes its calls on a thread of its own, so that the tokio pool loses no threads to them. Only the
//! waiting caller has a deadline. An abandoned thread stops after the call it is in, and until that call returns, no
//! other thread makes a call on the same path. So there are never more abandoned threads than stuck paths, however
//! often kubelet retries.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::mutex::{Mutex, MutexGuard};

/// How long a request waits for all its paths. Less than the 2 minutes that kubelet allows for CreateContainer.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// The kernel's PATH_MAX without its zero byte.
pub(super) const MAX_PATH: usize = 4095;

static ABANDONED: Mutex<Vec<Progress>> = Mutex::new(Vec::new());

/// Why the host paths of a request cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// For example `config.mounts[0].host_path`.
        field: String,
        problem: String,
    },
    /// The file system does not answer. The thread is still in the call.
    #[error("{operation}({}) does not return: the file system does not answer", path.display())]
    Stuck {
        /// The system call that has not returned.
        operation: &'static str,
        path: PathBuf,
    },
    /// The file system returned an error.
    #[error("{operation} {}", path.display())]
    Io {
        /// For example `create directory`.
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Error {
    /// Whether a name in the path is longer than its file system allows.
    pub(super) fn is_too_long(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidFilename)
    }

    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What a thread is doing, for the caller that waits for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Doing>>);

#[derive(Debug, Default)]
struct Doing {
    operation: &'static str,
    path: PathBuf,
    /// How many calls the thread has made.
    steps: u64,
    /// The caller no longer waits.
    abandoned: bool,
    ended: bool,
}

impl Progress {
    /// Makes one call that may not return.
    pub(super) fn step<T>(
        &self,
        operation: &'static str,
        path: &Path,
        call: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, Error> {
        let occupied = ABANDONED.lock().iter().any(|other| other.is_stuck_on(path));
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
        self.0.lock()
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

/// Runs `work` on a new thread and waits for it until the deadline.
pub(super) async fn run<T, F>(deadline: Duration, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
{
    run_with_limit(deadline, deadline, work).await
}

/// Like [`run`], for work of many calls: the work may go on as long as each call returns within `deadline`, but no
/// longer than `limit` in total.
pub(super) async fn run_with_limit<T, F>(deadline: Duration, limit: Duration, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
{
    let progress = Progress::default();
    progress.doing().operation = "start a thread for host paths";
    let (done, mut result) = oneshot::channel();
    let own = progress.clone();
    let body = move || {
        let outcome = work(&own);
        own.doing().ended = true;
        let _ = done.send(outcome);
    };
    std::thread::Builder::new().name("host-paths".to_owned()).spawn(body).map_err(|source| progress.failed(source))?;
    let _waiter = Waiter(progress.clone());
    let end = Instant::now() + limit;
    loop {
        let steps = progress.doing().steps;
        let until = end.min(Instant::now() + deadline);
        match tokio::time::timeout_at(until, &mut result).await {
            Ok(outcome) => return outcome.expect("the thread answers: a panic ends the process"),
            Err(_) if until < end && progress.doing().steps != steps => {}
            Err(_) => return Err(progress.stuck()),
        }
    }
}

/// Marks the thread as abandoned when the waiting future is dropped, for whatever reason.
struct Waiter(Progress);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.doing().abandoned = true;
        let mut left = ABANDONED.lock();
        left.retain(|progress| !progress.doing().ended);
        let ended = self.0.doing().ended;
        if !ended {
            left.push(self.0.clone());
        }
    }
}

/// Returns the path if a request may use it, otherwise what is wrong with it.
pub(super) fn absolute(path: &str) -> Result<&Path, &'static str> {
    match path {
        "" => Err("is required"),
        // A relative path would be resolved in the daemon's working directory.
        _ if !path.starts_with('/') => Err("is not absolute"),
        _ if path.contains('\0') => Err("has a NUL"),
        _ if path.len() > MAX_PATH => Err("has more than 4095 bytes"),
        _ => Ok(Path::new(path)),
    }
}

/// Removes `.`, `..` and double slashes from the path lexically: the container's root file system is not known yet.
/// `..` does not go above the root.
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

    /// Runs `work`; returns the error's text if it failed.
    async fn outcome<T: Send + 'static>(
        longest: Duration,
        work: impl FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, String> {
        run_with_limit(DEADLINE, longest, work).await.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }

    async fn stat(path: &'static str) -> Result<(), String> {
        outcome(DEADLINE, move |progress| progress.step("stat", Path::new(path), |_| Ok(()))).await
    }

    /// Runs a request to its deadline while its stat of the path hangs. The stat returns when the sender is dropped;
    /// the receiver then reports whether the thread could make its next call. Also returns the request's error.
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
    async fn a_call_that_does_not_return_is_named_and_no_other_call_follows_it() {
        let (_held, _, error) = stuck_on("/stuck/here").await;
        assert_eq!(error, "stat(/stuck/here) does not return: the file system does not answer");
        assert_eq!(
            stat("/stuck/here").await.unwrap_err(),
            "stat(/stuck/here) does not return: the file system does not answer"
        );
        assert_eq!(stat("/stuck").await, Ok(()));
    }

    /// A walk of three calls. Each takes two thirds of the time that one call may take, so together they take twice
    /// that time.
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
                // Lets the waiter notice an expired deadline before the call returns.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let _ = go.send(());
            }
        };
        tokio::join!(outcome(longest, work), clock).0
    }

    #[tokio::test]
    async fn what_gets_on_may_go_on_though_not_for_ever() {
        assert_eq!(long_walk(DEADLINE * 9).await, Ok(()));
        assert_eq!(
            long_walk(DEADLINE * 3 / 2).await.unwrap_err(),
            "read(/long/walk) does not return: the file system does not answer"
        );
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

    #[test]
    fn container_paths_are_cleaned_by_their_words() {
        let clean = |path| cleaned(path).map(|path| path.display().to_string());
        assert_eq!(clean("//a/./b/../c/").unwrap(), "/a/c");
        assert_eq!(clean("/../../etc").unwrap(), "/etc");
        assert_eq!(clean("/").unwrap(), "/");
        assert_eq!(["", "a", "../a", "/a\0b"].map(|path| clean(path).is_err()), [true; 4]);
    }
}
