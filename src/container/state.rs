//! ```text
//!             Start            Started             Ended
//!   Created ─────────► Starting ───────► Running ─────────► Exited
//!      │                  │ Ended (StartError)  │             ▲ │
//!      │                  └─────────────────────┼─────────────┘ │ RemoveRequested
//!      │ RemoveRequested                   Lost ▼               ▼
//!      └──────────────────────────────────► Unknown ───────► Removing
//! ```
//! CRI shows `Starting` as CREATED and `Removing` as what it was before.

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its record and root are there.
    Created,
    /// StartContainer works on it.
    Starting,
    /// Its process runs.
    Running {
        /// Host PID.
        pid: u32,
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// Its process is over, or could not be started.
    Exited(Exit),
    /// Its record cannot be trusted; it can be stopped and removed.
    Unknown,
    /// RemoveContainer works on it, or failed half-way and waits to be repeated.
    Removing {
        /// How it had ended; `None` when it had never been started.
        exit: Option<Exit>,
    },
}

/// How a container ended. Once observed it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, 128 + signal when it was killed.
    pub code: i32,
    /// Nanoseconds since the epoch; 0 when it never ran.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
}

/// The words that kubelet shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Another exit code.
    Error,
    /// The kernel killed it for want of memory.
    OOMKilled,
    /// It could not be started (exit code 128).
    StartError,
    /// Nobody saw how it ended (exit code 255).
    Unknown,
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// StartContainer began.
    Start,
    /// Its process runs.
    Started {
        /// Host PID.
        pid: u32,
        /// Nanoseconds since the epoch.
        at: i64,
    },
    /// Its process ended, or could not be started.
    Ended(Exit),
    /// RemoveContainer began.
    RemoveRequested,
}

/// An event that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is {}", .0.name())]
pub struct Denied(pub State);

impl State {
    /// The state after an event. A harmless repeat gives the state as it is.
    ///
    /// # Errors
    /// [`Denied`] with the state that does not allow it.
    pub fn on(self, event: Event) -> Result<Self, Denied> {
        match (self, event) {
            (Self::Created, Event::Start) => Ok(Self::Starting),
            (Self::Starting, Event::Started { pid, at }) => Ok(Self::Running { pid, started_at: at }),
            (Self::Starting | Self::Running { .. } | Self::Unknown, Event::Ended(exit)) => Ok(Self::Exited(exit)),
            // A second observer of the same exit: what was observed first stays.
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

    /// The state's name, as messages show it.
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

    /// How it ended, when it has.
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
    /// The word that CRI's `reason` carries.
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

    /// The reason of an exit code, and of whether the kernel killed a process of it.
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
