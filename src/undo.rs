//! The rollback list of a mutating operation: each step pushes its undo before it starts.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

type Step = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The undos of the steps taken so far. Dropping it undoes nothing: an operation ends with
/// [`Undo::commit`] or [`Undo::roll_back`].
#[must_use]
#[derive(Default)]
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
    current: watch::Sender<&'static str>,
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

    /// The name of the undo that runs, once [`Undo::roll_back`] has begun.
    #[must_use]
    pub fn current(&self) -> watch::Receiver<&'static str> {
        self.current.subscribe()
    }

    /// Takes all steps back, the last one first. One failed undo does not keep the others from running. Each takes as long as
    /// it takes: a call to containerd that is dropped is cancelled in the middle. Whoever cannot wait must not drop this, but
    /// wait for something else.
    ///
    /// # Errors
    /// [`Leftovers`] with every undo that failed.
    pub async fn roll_back(mut self) -> Result<(), Leftovers> {
        let mut failed = Vec::new();
        while let Some((name, step)) = self.steps.pop() {
            self.current.send_replace(name);
            if let Err(error) = step.await {
                failed.push(format!("{name}: {error}"));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Leftovers(failed)) }
    }
}

#[cfg(test)]
mod tests;
