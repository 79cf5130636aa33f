//! What is known of a task, and what is done next about it. No I/O: see the module's diagram.

use super::UNSEEN;
use crate::containerd::{Exit, ProcessStatus};

/// What is wanted of a task. It only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Want {
    /// Nothing yet.
    #[default]
    Nothing,
    /// Made, and not started.
    Made,
    /// Started.
    Runs,
    /// Ended, and deleted.
    Over,
}

/// Where a task is in its life, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// containerd was never asked for one.
    Absent,
    /// An answer was lost, or the task is a former daemon's: what there is has to be asked.
    Unsure,
    /// It waits to be started.
    Made,
    /// Its process runs, or may run.
    Runs,
    /// The shim does not say.
    Mute,
    /// Its process was sent SIGKILL.
    Killed,
    /// Its process has ended, which is not told yet.
    Ended(Exit),
    /// There is nothing to be told; the task is to be deleted.
    Told,
    /// containerd has none.
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

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing, until more is wanted.
    Rest,
    /// Tasks.Create, or Tasks.Exec.
    Create,
    /// Tasks.Get.
    Ask,
    /// Tasks.Wait, then Tasks.Start beside it.
    Start,
    /// Its object is told that it runs.
    TellStart,
    /// Tasks.Wait.
    Watch,
    /// Tasks.Kill.
    Kill,
    /// Its object is told of its exit.
    TellEnd(Exit),
    /// Tasks.Delete, or Tasks.DeleteProcess.
    Delete,
    /// Its object is told that it is gone; the owner's work is done.
    Leave,
}

/// What came of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Create succeeded.
    Made { pid: u32 },
    /// Create or Start was refused, or its caller does not wait until it is known whether it was carried out.
    Refused,
    /// Nobody knows whether the call was carried out.
    Lost,
    /// What Get said.
    Found { status: ProcessStatus, pid: u32, exit: Exit },
    /// Start succeeded.
    Started { pid: u32 },
    /// The object knows that it runs.
    StartTold,
    /// Kill succeeded, or found no process.
    Killed,
    /// It did not end within a while after Kill.
    Survived,
    /// How the process ended.
    Exited(Exit),
    /// containerd knows no such task, and nobody knows how it ended.
    Missing,
    /// The exit is written and told.
    EndTold,
    /// Delete succeeded, or found nothing.
    Deleted,
}

/// A task that was found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its process runs; its object knows that.
    Running {
        /// Host PID.
        pid: u32,
    },
    /// Its process has ended, which was told to nobody.
    Ended(Exit),
    /// It was started, which its object knows; what became of it since is not known.
    Started,
    /// It was to be started; what became of that is not known, and nobody waits for it any more.
    Unsure,
    /// Whatever there may be is not needed: it is ended and deleted, and nobody is told how it ended.
    Leftover,
}

/// A task's state and its history, as far as that decides what is done.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
    /// The host PID, once there is one.
    pid: u32,
    /// Whether its object knows that it was started.
    was_started: bool,
    /// Whether its object only takes it for started: whether it was, is not known.
    may_be_new: bool,
    /// Whether its object knows how it ended.
    was_told: bool,
    /// A call was refused or has come to nothing: what is left is ended.
    has_failed: bool,
}

impl Default for Machine {
    /// One that containerd was not asked for yet.
    fn default() -> Self {
        Self { state: State::Absent, pid: 0, was_started: false, may_be_new: false, was_told: false, has_failed: false }
    }
}

impl Machine {
    /// One that a former daemon made.
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

    /// Whether its object knows that it was started.
    pub(super) fn was_started(&self) -> bool {
        self.was_started
    }

    /// Whether a call was refused or has come to nothing: whoever wanted it made or started was told so.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether its object waits to be told how it ended.
    pub(super) fn is_to_be_told(&self) -> bool {
        self.was_started && !self.was_told
    }

    /// What is done next.
    pub(super) fn next(&self, want: Want) -> Act {
        // Nothing whose end was told lives on.
        let over = want == Want::Over || self.has_failed || self.was_told;
        match self.state {
            State::Absent if over => Act::Leave,
            State::Absent if want == Want::Nothing => Act::Rest,
            State::Absent => Act::Create,
            State::Made | State::Runs | State::Mute if over => Act::Kill,
            // Its start has never come, and nobody waits for it.
            State::Made if self.may_be_new => Act::Kill,
            State::Unsure | State::Mute => Act::Ask,
            State::Made if want == Want::Runs => Act::Start,
            State::Made => Act::Rest,
            State::Runs if !self.was_started => Act::TellStart,
            State::Runs | State::Killed => Act::Watch,
            // It ran, so that is told first: an exit is of a container that was started.
            State::Ended(_) if !self.was_started && !over => Act::TellStart,
            State::Ended(exit) if self.is_to_be_told() => Act::TellEnd(exit),
            State::Ended(_) | State::Told => Act::Delete,
            State::Gone => Act::Leave,
        }
    }

    /// Takes in what came of an act.
    pub(super) fn on(&mut self, event: Event) {
        match event {
            Event::Made { pid } => {
                self.pid = pid;
                self.state = State::Made;
            }
            Event::Lost => self.state = State::Unsure,
            // Whatever it has left ends; it may even run.
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
            // What never ran is deleted as it is: nobody hears of an end of what had no process.
            Event::Killed if self.state == State::Made && self.may_be_new => self.state = State::Ended(UNSEEN),
            Event::Killed if self.state == State::Made => self.state = State::Told,
            Event::Killed => self.state = State::Killed,
            Event::Survived => self.state = State::Runs,
            Event::Exited(exit) => self.state = State::Ended(exit),
            Event::Missing => {
                // Nobody was told that it runs, so nobody waits for its exit; whoever wanted it made or started does.
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
            // Its object knows better than its shim, which has missed its start.
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
