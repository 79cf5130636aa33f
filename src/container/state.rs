//! ```text
//!             Start            Started             Ended
//!   Created ─────────► Starting ───────► Running ─────────► Exited
//!      │                  │ Ended (StartError)              ▲ ▲ │
//!      │                  └─────────────────────────────────┘ │ │ RemoveRequested
//!      │                                         Ended        │ │
//!      │    (damaged record at start) ──► Unknown ────────────┘ │
//!      │ RemoveRequested                     │ RemoveRequested  ▼
//!      └─────────────────────────────────────┴─────────────► Removing
//! ```
//! CRI shows `Starting` as CREATED, and `Removing` as EXITED if the container had ended, otherwise as CREATED.

use serde::{Deserialize, Serialize};

/// The lifecycle state of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its record and snapshot exist.
    Created,
    /// StartContainer is in progress.
    Starting,
    Running {
        /// Host PID.
        pid: u32,
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// Its process has ended, or could not be started.
    Exited(Exit),
    /// Its record is damaged. It can only be stopped and removed.
    Unknown,
    /// RemoveContainer is in progress, or failed half-way and must be called again.
    Removing {
        /// How it had ended; `None` if it was never started or its exit is not known.
        exit: Option<Exit>,
    },
}

/// How a container ended. Never changes once it was observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal number if a signal killed it.
    pub code: i32,
    /// Nanoseconds since the epoch; 0 if it never ran.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    pub reason: Reason,
    /// Why it ended, for people to read.
    pub message: String,
}

/// The values of CRI's `reason`, which kubelet shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Any other exit code.
    Error,
    /// The kernel's OOM killer killed a process of it.
    OOMKilled,
    /// It could not be started (exit code 128).
    StartError,
    /// Its exit was not observed (exit code 255).
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// StartContainer has begun.
    Start,
    Started {
        /// Host PID.
        pid: u32,
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// Its process has ended, or could not be started.
    Ended(Exit),
    /// RemoveContainer has begun.
    RemoveRequested,
}

/// The state in which an event is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is {}", .0.name())]
pub struct Denied(pub State);

impl State {
    /// Returns the state after an event. A harmless repetition of an event leaves the state unchanged.
    ///
    /// # Errors
    /// [`Denied`] with the current state if it does not allow the event.
    pub fn on(self, event: Event) -> Result<Self, Denied> {
        match (self, event) {
            (Self::Created, Event::Start) => Ok(Self::Starting),
            (Self::Starting, Event::Started { pid, at }) => Ok(Self::Running { pid, started_at: at }),
            (Self::Starting | Self::Running { .. } | Self::Unknown, Event::Ended(exit)) => Ok(Self::Exited(exit)),
            // A second report of the same exit: the first one stays.
            (Self::Exited(exit), Event::Ended(_)) => Ok(Self::Exited(exit)),
            (Self::Created, Event::RemoveRequested) => Ok(Self::Removing { exit: None }),
            (Self::Unknown, Event::RemoveRequested) => Ok(Self::Removing { exit: None }),
            (Self::Exited(exit), Event::RemoveRequested) => Ok(Self::Removing { exit: Some(exit) }),
            (Self::Removing { exit }, Event::RemoveRequested | Event::Ended(_)) => Ok(Self::Removing { exit }),
            (state @ (Self::Starting | Self::Running { .. }), Event::Start | Event::RemoveRequested)
            | (state @ (Self::Exited(_) | Self::Unknown | Self::Removing { .. }), Event::Start)
            | (state @ Self::Created, Event::Ended(_))
            | (
                state
                @ (Self::Created | Self::Running { .. } | Self::Exited(_) | Self::Unknown | Self::Removing { .. }),
                Event::Started { .. },
            ) => Err(Denied(state)),
        }
    }

    /// The state's name as error messages show it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
            Self::Unknown => "unknown",
            Self::Removing { .. } => "removing",
        }
    }

    /// How it ended; `None` if it has not ended.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited(exit) | Self::Removing { exit: Some(exit) } => Some(exit),
            Self::Created | Self::Starting | Self::Running { .. } | Self::Unknown | Self::Removing { exit: None } => {
                None
            }
        }
    }

    /// Whether a process of it may be alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Starting | Self::Running { .. } | Self::Unknown)
    }
}

impl Reason {
    /// The text of CRI's `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OOMKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }

    /// The reason for an exit code; `oom` is whether the OOM killer killed a process of the container.
    #[must_use]
    pub fn of(code: i32, oom: bool) -> Self {
        match (code, oom) {
            (0, _) => Self::Completed,
            (_, true) => Self::OOMKilled,
            (_, false) => Self::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exit(code: i32) -> Exit {
        Exit { code, started_at: 1, finished_at: 2, reason: Reason::of(code, false), message: String::new() }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let one = prop_oneof![
            Just(Event::Start),
            (1u32..9).prop_map(|pid| Event::Started { pid, at: 1 }),
            (0i32..3).prop_map(|code| Event::Ended(exit(code))),
            Just(Event::RemoveRequested),
        ];
        prop::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn an_exit_once_observed_never_changes(events in events()) {
            let mut state = State::Created;
            let mut seen: Option<Exit> = None;
            for event in events {
                if let Ok(next) = state.clone().on(event) {
                    state = next;
                }
                match (&seen, state.exit()) {
                    (None, Some(exit)) => seen = Some(exit.clone()),
                    (Some(before), now) => prop_assert_eq!(Some(before), now),
                    (None, None) => {}
                }
            }
        }

        #[test]
        fn nothing_is_removed_while_a_process_may_run(events in events()) {
            let mut state = State::Created;
            for event in events {
                let alive = matches!(state, State::Starting | State::Running { .. });
                if let Ok(next) = state.clone().on(event) {
                    let removing = matches!(next, State::Removing { .. });
                    prop_assert!(!(alive && removing));
                    state = next;
                }
            }
        }
    }

    #[test]
    fn a_container_starts_once() {
        assert!(State::Exited(exit(0)).on(Event::Start).is_err());
        assert!(State::Running { pid: 1, started_at: 1 }.on(Event::Start).is_err());
    }
}
