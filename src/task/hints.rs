//! Exits that were reported by containerd's event stream.

use std::collections::HashMap;
use std::time::Duration;

use crate::containerd::Exit;
use crate::mutex::Mutex;

/// How long to wait for the exit event of a task that is gone (docs/rulings.md 11).
const LATE_EVENT: Duration = Duration::from_secs(1);
/// The same limit after containerd was away: a shim that could not send the event repeats it after 1, 2 and 3 s.
const LATE_AFTER_OUTAGE: Duration = Duration::from_secs(7);
/// How often to check for the event.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Exits by container id, until they are looked up. If a task's shim died, its exit code is available only here.
#[derive(Default)]
pub struct ExitHints(Mutex<HashMap<String, Exit>>);

impl ExitHints {
    /// Stores the exit of a task that is being waited for.
    pub fn insert(&self, id: String, exit: Exit) {
        self.0.lock().insert(id, exit);
    }

    /// Removes the exit of an object that is being removed: its event may arrive after the owner has finished.
    pub fn forget(&self, id: &str) {
        let _ = self.take(id);
    }

    /// Returns the exit of a task that is gone. Its event may arrive later than the end of the task.
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
        self.0.lock().remove(id)
    }
}
