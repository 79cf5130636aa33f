//! Exits that containerd's event stream told of.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::containerd::Exit;

/// How long the event of a task that is gone may be late (rulings.md 11).
const LATE_EVENT: Duration = Duration::from_secs(1);
/// The same after containerd was away: a shim that could not tell it of an exit tries again after 1, 2 and 3 s.
const LATE_AFTER_OUTAGE: Duration = Duration::from_secs(7);
/// Between two looks for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Exits by the container's id, until somebody asks. The exit code of a task whose shim died is only there.
#[derive(Default)]
pub struct ExitHints(Mutex<HashMap<String, Exit>>);

impl ExitHints {
    /// Remembers an exit of a task that somebody waits for.
    pub fn insert(&self, id: String, exit: Exit) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, exit);
    }

    /// Forgets an object that is removed: an event may come after its owner's work is done.
    pub fn forget(&self, id: &str) {
        let _ = self.take(id);
    }

    /// The exit of a task that is gone; its event may come later than the end of the task.
    pub async fn of_a_lost_task(&self, id: &str, after_outage: bool) -> Option<Exit> {
        let late = if after_outage { LATE_AFTER_OUTAGE } else { LATE_EVENT };
        let until = tokio::time::Instant::now() + late;
        loop {
            let hint = self.take(id);
            if hint.is_some() || tokio::time::Instant::now() >= until {
                return hint;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn take(&self, id: &str) -> Option<Exit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}
