//! The results of async tasks and of work on blocking threads. Nothing aborts either of them, so that they can be awaited
//! as plain values.

use tokio::task::JoinHandle;

use crate::log_keys::inherit_keys_in;

/// Waits for the result of a task.
pub async fn result<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(result) => return result,
        Err(error) => {
            // Only in tests: a panic in the daemon ends the process (docs/adr/0028).
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The task was cancelled. Only the end of the runtime does that, and it drops the caller too.
    std::future::pending().await
}

/// Runs work that may block, such as file-system calls, on a thread of its own. It runs to its end even if the caller
/// leaves. Its log lines have the keys of the current task.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    result(tokio::task::spawn_blocking(inherit_keys_in(work))).await
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_work_reaches_its_caller() {
        assert_eq!(run_blocking(|| 7).await, 7);
        let work = run_blocking(|| panic!("in a test"));
        AssertUnwindSafe(work).catch_unwind().await.map(|(): ()| ()).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_the_end_of_the_runtime_cancelled_is_no_panic() {
        let task = crate::tasks::Tasks::default().background(std::future::pending::<()>());
        task.abort();
        assert!(tokio::time::timeout(Duration::from_secs(1), result(task)).await.is_err(), "it has no result");
    }
}
