//! The known state of a task, and the decision what to do next. No I/O. The module's documentation has a diagram.

use super::UNSEEN;
use crate::containerd::{Exit, ProcessStatus};

/// What is wanted of a task. It only increases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Want {
    #[default]
    Nothing,
    /// Created, and not started.
    Made,
    /// Started.
    Runs,
    /// Ended, and deleted.
    Over,
}

/// The state of a task as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// containerd was never called to create it.
    Absent,
    /// A reply was lost, or an earlier daemon created the task: the state must be queried.
    Unsure,
    /// The task has been created and waits to be started.
    Made,
    /// The process runs, or may run.
    Runs,
    /// The shim does not report a state.
    Mute,
    /// The process was sent SIGKILL.
    Killed,
    /// The process has ended. The exit has not been reported.
    Ended(Exit),
    /// The exit was reported, or there is none to report. The task is to be deleted.
    Told,
    /// containerd has no such task.
    Gone,
}

impl State {
    /// Whether there may be a process.
    pub(super) fn may_live(self) -> bool {
        match self {
            Self::Unsure | Self::Made | Self::Runs | Self::Mute | Self::Killed => true,
            Self::Absent | Self::Ended(_) | Self::Told | Self::Gone => false,
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
    Ask,
    /// Tasks.Wait, then Tasks.Start in parallel with it.
    Start,
    /// Notify the follower of the start.
    TellStart,
    /// Tasks.Wait.
    Watch,
    /// Tasks.Kill.
    Kill,
    /// Notify the follower of the exit.
    TellEnd(Exit),
    /// Tasks.Delete, or Tasks.DeleteProcess.
    Delete,
    /// Notify the follower that the task is gone. This ends the owner.
    Leave,
}

/// The result of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Create succeeded.
    Made { pid: u32 },
    /// Create or Start was refused; or its reply was lost, and the caller does not wait to learn whether it was carried
    /// out.
    Refused,
    /// It is not known whether the call was carried out.
    Lost,
    /// The reply to Get.
    Found { status: ProcessStatus, pid: u32, exit: Exit },
    /// Start succeeded.
    Started { pid: u32 },
    /// The follower has been notified of the start.
    StartTold,
    /// Kill succeeded, or found no process.
    Killed,
    /// The process did not end within some time after Kill.
    Survived,
    /// The process has ended in this way.
    Exited(Exit),
    /// containerd has no such task, and it is not known how the process ended.
    Missing,
    /// The follower has recorded the exit.
    EndTold,
    /// Delete succeeded, or found nothing.
    Deleted,
}

/// A task that a daemon finds when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The process runs. The follower knows that.
    Running {
        /// Host PID.
        pid: u32,
    },
    /// The process has ended. The exit has not been reported.
    Ended(Exit),
    /// It was started, and the follower knows that. Its current state is not known.
    Started,
    /// It was to be started. It is not known whether it was, and no caller waits for it any more.
    Unsure,
    /// It is not needed: if it exists, it is ended and deleted, and its exit is not reported.
    Leftover,
}

/// A task's state, and as much of its history as the decisions need.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
    /// The host PID, once there is one.
    pid: u32,
    /// Whether the follower knows that the task was started.
    was_started: bool,
    /// Whether the follower only assumes that the task was started, because this is not known.
    may_be_new: bool,
    /// Whether the follower knows the exit.
    was_told: bool,
    /// Whether a call was refused or the task was lost: what is left must be ended.
    has_failed: bool,
}

impl Default for Machine {
    /// A task that has not been created yet.
    fn default() -> Self {
        Self { state: State::Absent, pid: 0, was_started: false, may_be_new: false, was_told: false, has_failed: false }
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
            Found::Started => Self { state: State::Unsure, ..new },
            Found::Unsure => Self { state: State::Unsure, may_be_new: true, ..new },
            Found::Leftover => Self { state: State::Unsure, was_started: false, has_failed: true, ..new },
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the follower knows that the task was started.
    pub(super) fn was_started(&self) -> bool {
        self.was_started
    }

    /// Whether a call was refused or the task was lost: the caller that wanted it created or started got an error.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the follower still has to be notified of the exit.
    pub(super) fn is_to_be_told(&self) -> bool {
        self.was_started && !self.was_told
    }

    /// Decides what to do next.
    pub(super) fn next(&self, want: Want) -> Act {
        // No process may stay alive after its exit was reported.
        let over = want == Want::Over || self.has_failed || self.was_told;
        match self.state {
            State::Absent if over => Act::Leave,
            State::Absent if want == Want::Nothing => Act::Rest,
            State::Absent => Act::Create,
            State::Made | State::Runs | State::Mute if over => Act::Kill,
            // The task was never started, and no caller waits for its start.
            State::Made if self.may_be_new => Act::Kill,
            State::Unsure | State::Mute => Act::Ask,
            State::Made if want == Want::Runs => Act::Start,
            State::Made => Act::Rest,
            State::Runs if !self.was_started => Act::TellStart,
            State::Runs | State::Killed => Act::Watch,
            // The process ran. Report the start first, because the follower expects an exit only after a start.
            State::Ended(_) if !self.was_started && !over => Act::TellStart,
            State::Ended(exit) if self.is_to_be_told() => Act::TellEnd(exit),
            State::Ended(_) | State::Told => Act::Delete,
            State::Gone => Act::Leave,
        }
    }

    /// Applies the result of an act.
    pub(super) fn on(&mut self, event: Event) {
        match event {
            Event::Made { pid } => {
                self.pid = pid;
                self.state = State::Made;
            }
            Event::Lost => self.state = State::Unsure,
            // What the call has left must be ended; the process may even run.
            Event::Refused => {
                self.has_failed = true;
                self.state = State::Unsure;
            }
            Event::Found { status, pid, exit } => self.found_to_be(status, pid, exit),
            Event::Started { pid } => {
                self.pid = pid;
                self.state = State::Runs;
            }
            Event::StartTold => self.was_started = true,
            // A task that never ran has no exit to report. A follower that assumes a start gets the exit `UNSEEN`.
            Event::Killed if self.state == State::Made && self.may_be_new => self.state = State::Ended(UNSEEN),
            Event::Killed if self.state == State::Made => self.state = State::Told,
            Event::Killed => self.state = State::Killed,
            Event::Survived => self.state = State::Runs,
            Event::Exited(exit) => self.state = State::Ended(exit),
            Event::Missing => {
                // Without a reported start, the follower expects no exit, but the caller that wanted it created or
                // started waits.
                self.has_failed |= !self.was_started;
                self.was_told = true;
                self.state = State::Told;
            }
            Event::EndTold => {
                self.was_told = true;
                self.state = State::Told;
            }
            Event::Deleted => self.state = State::Gone,
        }
    }

    fn found_to_be(&mut self, status: ProcessStatus, pid: u32, exit: Exit) {
        match status {
            // The follower knows that the process was started; the shim has missed the start.
            ProcessStatus::Created if self.was_started && !self.may_be_new => {
                self.pid = pid;
                self.state = State::Runs;
            }
            ProcessStatus::Created => {
                self.pid = pid;
                self.state = State::Made;
            }
            ProcessStatus::Running => {
                self.pid = pid;
                self.state = State::Runs;
            }
            ProcessStatus::Stopped => self.state = State::Ended(exit),
            ProcessStatus::Unknown => self.state = State::Mute,
        }
    }
}

#[cfg(test)]
mod tests;
