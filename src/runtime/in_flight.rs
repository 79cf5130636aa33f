//! The operations that more than one call can wait for.

use std::sync::Arc;

use futures_util::TryFutureExt;

use super::{Error, Result};
use crate::api::v1::{CreateContainerRequest, RunPodSandboxRequest};
use crate::container::Container;
use crate::flights::Flights;
use crate::ids::{ContainerId, SandboxId};
use crate::joined;
use crate::sandbox::Sandbox;
use crate::store::Creations;
use crate::tasks::Tasks;
use crate::telemetry::{Outcome, Verb};

/// The result of an operation, with one error for all callers that joined it.
type SharedOutcome = std::result::Result<(), Arc<Error>>;

/// The operations in progress, by what they are about.
pub struct InFlight {
    pub(super) new_sandboxes: Creations<Sandbox, Error, RunPodSandboxRequest>,
    pub(super) new_containers: Creations<Container, Error, CreateContainerRequest>,
    repeatable: Flights<Repeatable, SharedOutcome>,
    tasks: Tasks,
}

/// Operations on one object that may be repeated; a second caller joins the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Repeatable {
    StopSandbox(SandboxId),
    RemoveSandbox(SandboxId),
    StopContainer(ContainerId),
    RemoveContainer(ContainerId),
}

impl Repeatable {
    fn verb_and_object(&self) -> (Verb, String) {
        match self {
            Self::StopSandbox(id) => (Verb::StopPodSandbox, id.to_string()),
            Self::RemoveSandbox(id) => (Verb::RemovePodSandbox, id.to_string()),
            Self::StopContainer(id) => (Verb::StopContainer, id.to_string()),
            Self::RemoveContainer(id) => (Verb::RemoveContainer, id.to_string()),
        }
    }
}

impl InFlight {
    #[must_use]
    pub fn new(tasks: &Tasks) -> Self {
        Self {
            new_sandboxes: Creations::new(tasks.clone()),
            new_containers: Creations::new(tasks.clone()),
            repeatable: Flights::new(tasks.clone()),
            tasks: tasks.clone(),
        }
    }

    /// Joins this operation if it is in progress, or starts it. It runs to its end, even if all callers leave.
    ///
    /// # Errors
    /// The error of the operation.
    pub(super) async fn join_or_start<F>(&self, operation: Repeatable, start: impl FnOnce() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (verb, object) = operation.verb_and_object();
        let ended = self.join_or_start_unnamed(operation, || self.tasks.run_named(verb, object.clone(), start()));
        Ok(self.tasks.operations().waiting_for(verb, &object, ended).await?)
    }

    /// Like [`InFlight::join_or_start`], for work that has a name already.
    ///
    /// # Errors
    /// The error of the operation.
    pub(super) async fn join_or_start_unnamed<F>(
        &self,
        operation: Repeatable,
        start: impl FnOnce() -> F,
    ) -> SharedOutcome
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.repeatable.run(operation, || start().map_err(Arc::new)).await
    }

    /// Runs a verb's work to its end, even if the caller leaves.
    pub(super) async fn operation<F>(&self, verb: Verb, object: String, work: F) -> F::Output
    where
        F: Future<Output: Outcome + Send> + Send + 'static,
    {
        let operation = self.tasks.operation(self.tasks.run_named(verb, object, work));
        joined::result(operation).await
    }
}
