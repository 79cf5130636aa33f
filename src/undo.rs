//! The rollback list of a mutating operation: each step pushes its undo before it starts.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

type Work = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

struct Step {
    name: &'static str,
    work: Work,
    /// Whether it is left out when something else could not be undone.
    is_record: bool,
}

/// The undos of the steps taken so far. Dropping it undoes nothing: an operation ends with
/// [`Undo::commit`] or [`Undo::roll_back`].
#[must_use]
#[derive(Default)]
pub struct Undo {
    steps: Vec<Step>,
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
        self.add(name, false, undo);
    }

    /// The same for the record of the object that is made, which is written first: it is deleted last, and stays when
    /// anything else does, so that a daemon after this one finds what is left.
    pub fn push_record<F, E>(&mut self, name: &'static str, undo: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.add(name, true, undo);
    }

    fn add<F, E>(&mut self, name: &'static str, is_record: bool, undo: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let work = Box::pin(async move { undo.await.map_err(|error| error.to_string()) });
        self.steps.push(Step { name, work, is_record });
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
        while let Some(Step { name, work, is_record }) = self.steps.pop() {
            if is_record && !failed.is_empty() {
                continue;
            }
            self.current.send_replace(name);
            if let Err(error) = work.await {
                failed.push(format!("{name}: {error}"));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(Leftovers(failed)) }
    }
}

#[cfg(test)]
mod tests;
