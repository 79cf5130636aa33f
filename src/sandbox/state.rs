//! ```text
//!           PauseStarted    PauseExited, Incomplete       StopRequested
//!   Creating ───────────► Ready ─────────────────► Broken ──────────────► Stopping
//!     │                     │        StopRequested                           │  ▲ StopRequested (a retry)
//!     └─────────────────────┴────────────────────────────────────────────────┤──┘
//!                                                                  Reclaimed ▼
//!                                                                         Stopped
//! ```
//! `PauseExited` and `Incomplete` also lead from `Creating` to `Broken`. CRI shows `Ready` as SANDBOX_READY and all
//! other states as SANDBOX_NOTREADY.

/// The lifecycle state of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its pause task does not run yet. The sandbox is not in the store.
    Creating,
    /// Its pause task runs and, once the sandbox is in the store, its network is up.
    Ready {
        /// Host PID of the pause process, whose /proc entry refers to the namespaces.
        pid: u32,
    },
    /// Its pause task has ended without a stop, or a part of the sandbox was never created. The network may still be
    /// attached.
    Broken,
    /// A stop has begun. If it failed half-way, repeating it continues it.
    Stopping,
    /// No process and no network is left, only the records.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The pause process runs.
    PauseStarted {
        /// Host PID.
        pid: u32,
    },
    /// The pause process has ended.
    PauseExited,
    /// A part of the sandbox was never created, or is being rolled back.
    Incomplete,
    /// StopPodSandbox or RemovePodSandbox has begun.
    StopRequested,
    /// Processes and network are gone.
    Reclaimed,
}

/// An event that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is not possible in {state:?}")]
pub struct Denied {
    state: State,
    event: Event,
}

impl State {
    /// Returns the state after an event. A harmless repetition of an event leaves the state unchanged.
    ///
    /// # Errors
    /// [`Denied`] if the state does not allow the event.
    pub fn on(self, event: Event) -> Result<Self, Denied> {
        match (self, event) {
            (Self::Creating, Event::PauseStarted { pid }) => Ok(Self::Ready { pid }),
            (Self::Creating | Self::Ready { .. } | Self::Broken, Event::PauseExited | Event::Incomplete) => {
                Ok(Self::Broken)
            }
            (Self::Creating | Self::Ready { .. } | Self::Broken | Self::Stopping, Event::StopRequested) => {
                Ok(Self::Stopping)
            }
            // The pause process ends because of the stop.
            (Self::Stopping, Event::PauseExited | Event::Incomplete) => Ok(Self::Stopping),
            (Self::Stopping | Self::Stopped, Event::Reclaimed) => Ok(Self::Stopped),
            (Self::Stopped, Event::PauseExited | Event::Incomplete | Event::StopRequested) => Ok(Self::Stopped),
            (Self::Creating | Self::Ready { .. } | Self::Broken, Event::Reclaimed)
            | (Self::Ready { .. } | Self::Broken | Self::Stopping | Self::Stopped, Event::PauseStarted { .. }) => {
                Err(Denied { state: self, event })
            }
        }
    }

    /// Whether containers may be created and started in it.
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Ready { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let one = prop_oneof![
            Just(Event::PauseStarted { pid: 1 }),
            Just(Event::PauseExited),
            Just(Event::Incomplete),
            Just(Event::StopRequested),
            Just(Event::Reclaimed)
        ];
        prop::collection::vec(one, 0..10)
    }

    /// The position of a state in the lifecycle. No event leads to a lower one.
    fn rank(state: State) -> u8 {
        match state {
            State::Creating => 0,
            State::Ready { .. } => 1,
            State::Broken => 2,
            State::Stopping => 3,
            State::Stopped => 4,
        }
    }

    proptest! {
        #[test]
        fn no_event_leads_back_and_repeats_are_harmless(events in events()) {
            let mut state = State::Creating;
            for event in events {
                let Ok(next) = state.on(event) else { continue };
                prop_assert!(rank(next) >= rank(state));
                if !matches!(event, Event::Reclaimed | Event::PauseStarted { .. }) || rank(next) == 4 {
                    prop_assert_eq!(next.on(event), Ok(next));
                }
                state = next;
            }
        }
    }

    #[test]
    fn nothing_is_reclaimed_without_a_stop() {
        assert!(State::Ready { pid: 1 }.on(Event::Reclaimed).is_err());
        assert!(State::Broken.on(Event::Reclaimed).is_err());
    }
}
