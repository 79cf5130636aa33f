//! The identities of what Pontoon keeps. Each is a type of its own, so that a container's id
//! never goes where a sandbox's belongs.

use std::fmt;

/// Length of an id in hex characters: kubelet's cAdvisor finds containers by `[a-z0-9]{64}`.
pub const ID_LENGTH: usize = 64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// A fresh random id of 64 hex characters.
            #[must_use]
            pub fn random() -> Self {
                Self(random_hex())
            }

            /// The id as containerd and the CRI clients spell it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Takes a whole id as it was read back from containerd.
            ///
            /// # Errors
            /// [`InvalidId`] unless it is 64 characters of `[a-z0-9]`, so that an id can go
            /// into a path or an argument as it is.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let fits = text.len() == ID_LENGTH
                    && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                if fits { Ok(Self(text.to_owned())) } else { Err(InvalidId) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// A pod sandbox; also the id of its pause container and of its SandboxStore record.
    SandboxId
);
id!(
    /// A container of a sandbox, and its containerd container, task and snapshot key.
    ContainerId
);
id!(
    /// One exec process within a container's task.
    ExecId
);

/// Hex characters of the time in an exec's id.
const TIME_LENGTH: usize = 16;

impl ExecId {
    /// A fresh id that says until when the process may live, in milliseconds since the epoch: whoever finds the
    /// process after a restart knows no more of it. 0 is as long as its client stays, `u64::MAX` as long as it likes.
    #[must_use]
    pub fn living_until(time: u64) -> Self {
        Self(format!("{time:016x}{}", &random_hex()[TIME_LENGTH..]))
    }

    /// Until when the process may live; `None` when the id is of somebody who did not say.
    #[must_use]
    pub fn lives_until(&self) -> Option<u64> {
        u64::from_str_radix(self.0.get(..TIME_LENGTH)?, 16).ok()
    }
}

/// A text that is not an id of ours.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("not an id of 64 lower-case hex characters")]
pub struct InvalidId;

fn random_hex() -> String {
    use fmt::Write as _;
    let mut bytes = [0u8; ID_LENGTH / 2];
    // Without the kernel's random source no id is safe to hand out; nothing can go on.
    getrandom::fill(&mut bytes).expect("the kernel's random source");
    bytes.iter().fold(String::with_capacity(ID_LENGTH), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_parses_and_differs() {
        let (a, b) = (SandboxId::random(), SandboxId::random());
        assert_ne!(a, b);
        assert_eq!(SandboxId::parse(a.as_str()).unwrap(), a);
    }

    #[test]
    fn an_exec_id_says_until_when_the_process_may_live() {
        for time in [0, 1_700_000_000_123, u64::MAX] {
            let id = ExecId::living_until(time);
            assert_eq!((ExecId::parse(id.as_str()).unwrap().lives_until(), id.as_str().len()), (Some(time), ID_LENGTH));
            assert_ne!(id, ExecId::living_until(time));
        }
    }

    #[test]
    fn what_could_climb_a_path_is_no_id() {
        for text in ["", "..", "../../etc", &"a".repeat(63), &"A".repeat(64), &"/".repeat(64)] {
            assert!(ContainerId::parse(text).is_err(), "{text}");
        }
    }
}
