//! The rollback list of a mutating operation: each step pushes its undo before it starts.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// What one undo may take; counted from its own start, never from the caller's deadline.
const STEP_DEADLINE: Duration = Duration::from_secs(60);

type Step = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The undos of the steps taken so far. Dropping it undoes nothing: an operation ends with
/// [`Undo::commit`] or [`Undo::roll_back`].
#[must_use]
#[derive(Default)]
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
}

/// The undos that failed, in the order they were tried.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Leftovers(pub Vec<String>);

impl Undo {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers how to take back the step that starts next. `undo` must succeed when the
    /// step never happened: it runs as well when the step failed half-way.
    pub fn push<F, E>(&mut self, name: &'static str, undo: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let step = async move { undo.await.map_err(|error| error.to_string()) };
        self.steps.push((name, Box::pin(step)));
    }

    /// The operation succeeded: nothing is to be taken back.
    pub fn commit(mut self) {
        self.steps.clear();
    }

    /// Takes all steps back, the last one first. One failed undo does not keep the others from running.
    ///
    /// # Errors
    /// [`Leftovers`] with every undo that failed or took too long.
    pub async fn roll_back(mut self) -> Result<(), Leftovers> {
        let mut failed = Vec::new();
        while let Some((name, step)) = self.steps.pop() {
            match tokio::time::timeout(STEP_DEADLINE, step).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(format!("{name}: {error}")),
                Err(_) => failed.push(format!("{name}: not done within {STEP_DEADLINE:?}")),
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Leftovers(failed)) }
    }
}

#[cfg(test)]
mod tests;
