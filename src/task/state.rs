//! The known state of a task, and the decision what to do next. No I/O. The module's documentation has a diagram.

use super::UNSEEN;
use crate::containerd::{Exit, ProcessStatus};

/// What is wanted of a task. It only increases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Want {
    #[default]
    Nothing,
    /// Created, and not started.
    Created,
    /// Started.
    Runs,
    /// Ended, and deleted.
    Ended,
}

/// The state of a task as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// containerd was never called to create it.
    Absent,
    /// A reply was lost, or an earlier daemon created the task: the state must be queried.
    Unknown,
    /// The task has been created and waits to be started.
    Created,
    /// The process runs, or may run.
    Runs,
    /// The shim does not report a state.
    Unresponsive,
    /// The process was sent SIGKILL.
    Killed,
    /// The process has ended. The exit has not been reported.
    Ended(Exit),
    /// The exit was reported, or there is none to report. The task is to be deleted.
    Reported,
    /// containerd has no such task.
    Gone,
}

impl State {
    /// Whether there may be a process.
    pub(super) fn may_live(self) -> bool {
        match self {
            Self::Unknown | Self::Created | Self::Runs | Self::Unresponsive | Self::Killed => true,
            Self::Absent | Self::Ended(_) | Self::Reported | Self::Gone => false,
        }
    }
}

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing, until more is wanted.
    Rest,
    /// Tasks.Create, or Tasks.Exec.
    Create,
    /// Tasks.Get.
    Query,
    /// Tasks.Wait, then Tasks.Start in parallel with it.
    Start,
    /// Notify the observer of the start.
    ReportStart,
    /// Tasks.Wait.
    Watch,
    /// Tasks.Kill.
    Kill,
    /// Notify the observer of the exit.
    ReportExit(Exit),
    /// Tasks.Delete, or Tasks.DeleteProcess.
    Delete,
    /// Notify the observer that the task is gone. This ends the owner.
    Finish,
}

/// The result of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Create succeeded.
    Created { pid: u32 },
    /// Create or Start was refused; or its reply was lost, and the caller does not wait to learn whether it was carried
    /// out.
    Refused,
    /// It is not known whether the call was carried out.
    Lost,
    /// The reply to Get.
    Found { status: ProcessStatus, pid: u32, exit: Exit },
    /// Start succeeded.
    Started { pid: u32 },
    /// The observer has been notified of the start.
    StartReported,
    /// Kill succeeded, or found no process.
    Killed,
    /// The process did not end within some time after Kill.
    StillAlive,
    /// The process has ended in this way.
    Exited(Exit),
    /// containerd has no such task, and it is not known how the process ended.
    Missing,
    /// The observer has recorded the exit.
    ExitReported,
    /// Delete succeeded, or found nothing.
    Deleted,
}

/// A task that a daemon finds when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The process runs. The observer knows that.
    Running {
        /// Host PID.
        pid: u32,
    },
    /// The process has ended. The exit has not been reported.
    Ended(Exit),
    /// It was started, and the observer knows that. Its current state is not known.
    Started,
    /// It was to be started. It is not known whether it was, and no caller waits for it any more.
    StartUnknown,
    /// It is not needed: if it exists, it is ended and deleted, and its exit is not reported.
    Leftover,
}

/// A task's state, and as much of its history as the decisions need.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
    /// The host PID, once there is one.
    pid: u32,
    /// Whether the observer knows that the task was started.
    was_started: bool,
    /// Whether the observer only assumes that the task was started, because this is not known.
    start_is_unknown: bool,
    /// Whether the observer knows the exit.
    exit_was_reported: bool,
    /// Whether a call was refused or the task was lost: what is left must be ended.
    has_failed: bool,
}

impl Default for Machine {
    /// A task that has not been created yet.
    fn default() -> Self {
        Self {
            state: State::Absent,
            pid: 0,
            was_started: false,
            start_is_unknown: false,
            exit_was_reported: false,
            has_failed: false,
        }
    }
}

impl Machine {
    /// A task that an earlier daemon created.
    #[must_use]
    pub fn found(found: Found) -> Self {
        let new = Self { was_started: true, ..Self::default() };
        match found {
            Found::Running { pid } => Self { state: State::Runs, pid, ..new },
            Found::Ended(exit) => Self { state: State::Ended(exit), ..new },
            Found::Started => Self { state: State::Unknown, ..new },
            Found::StartUnknown => Self { state: State::Unknown, start_is_unknown: true, ..new },
            Found::Leftover => Self { state: State::Unknown, was_started: false, has_failed: true, ..new },
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the observer knows that the task was started.
    pub(super) fn was_started(&self) -> bool {
        self.was_started
    }

    /// Whether a call was refused or the task was lost: the caller that wanted it created or started got an error.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the observer still has to be notified of the exit.
    pub(super) fn has_unreported_exit(&self) -> bool {
        self.was_started && !self.exit_was_reported
    }

    /// Decides what to do next.
    pub(super) fn next(&self, want: Want) -> Act {
        // No process may stay alive after its exit was reported.
        let must_end = want == Want::Ended || self.has_failed || self.exit_was_reported;
        match self.state {
            State::Absent if must_end => Act::Finish,
            State::Absent if want == Want::Nothing => Act::Rest,
            State::Absent => Act::Create,
            State::Created | State::Runs | State::Unresponsive if must_end => Act::Kill,
            // The task was never started, and no caller waits for its start.
            State::Created if self.start_is_unknown => Act::Kill,
            State::Unknown | State::Unresponsive => Act::Query,
            State::Created if want == Want::Runs => Act::Start,
            State::Created => Act::Rest,
            State::Runs if !self.was_started => Act::ReportStart,
            State::Runs | State::Killed => Act::Watch,
            // The process ran. Report the start first, because the observer expects an exit only after a start.
            State::Ended(_) if !self.was_started && !must_end => Act::ReportStart,
            State::Ended(exit) if self.has_unreported_exit() => Act::ReportExit(exit),
            State::Ended(_) | State::Reported => Act::Delete,
            State::Gone => Act::Finish,
        }
    }

    /// Applies the result of an act.
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Created { pid } => {
                self.pid = pid;
                self.state = State::Created;
            }
            Event::Lost => self.state = State::Unknown,
            // What the call has left must be ended; the process may even run.
            Event::Refused => {
                self.has_failed = true;
                self.state = State::Unknown;
            }
            Event::Found { status, pid, exit } => self.found_to_be(status, pid, exit),
            Event::Started { pid } => {
                self.pid = pid;
                self.state = State::Runs;
            }
            Event::StartReported => self.was_started = true,
            // A task that never ran has no exit to report. An observer that assumes a start gets the exit `UNSEEN`.
            Event::Killed if self.state == State::Created && self.start_is_unknown => self.state = State::Ended(UNSEEN),
            Event::Killed if self.state == State::Created => self.state = State::Reported,
            Event::Killed => self.state = State::Killed,
            Event::StillAlive => self.state = State::Runs,
            Event::Exited(exit) => self.state = State::Ended(exit),
            Event::Missing => {
                // Without a reported start, the observer expects no exit, but the caller that wanted it created or
                // started waits.
                self.has_failed |= !self.was_started;
                self.exit_was_reported = true;
                self.state = State::Reported;
            }
            Event::ExitReported => {
                self.exit_was_reported = true;
                self.state = State::Reported;
            }
            Event::Deleted => self.state = State::Gone,
        }
    }

    fn found_to_be(&mut self, status: ProcessStatus, pid: u32, exit: Exit) {
        match status {
            // The observer knows that the process was started; the shim has missed the start.
            ProcessStatus::Created if self.was_started && !self.start_is_unknown => {
                self.pid = pid;
                self.state = State::Runs;
            }
            ProcessStatus::Created => {
                self.pid = pid;
                self.state = State::Created;
            }
            ProcessStatus::Running => {
                self.pid = pid;
                self.state = State::Runs;
            }
            ProcessStatus::Stopped => self.state = State::Ended(exit),
            ProcessStatus::Unknown => self.state = State::Unresponsive,
        }
    }
}

#[cfg(test)]
mod tests;
