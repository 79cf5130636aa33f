//! Ids of Pontoon's objects. Each kind is a separate type, so that a container's id cannot be passed where a
//! sandbox's is expected.

use std::fmt;

/// Length of an id in hex characters: kubelet's cAdvisor recognizes containers by `[a-z0-9]{64}`.
pub const ID_LENGTH: usize = 64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// A new random id of 64 hex characters.
            #[must_use]
            pub fn random() -> Self {
                Self(random_hex())
            }

            /// The id as containerd and CRI clients write it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Parses a full id that was read back from containerd.
            ///
            /// # Errors
            /// [`InvalidId`] unless it is 64 characters of `[a-z0-9]`, so that an id can be used in a path or an
            /// argument without escaping.
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
    /// The id of a pod sandbox, and of its pause container and its SandboxStore record.
    SandboxId
);
id!(
    /// The id of a container in a sandbox, and of its container record, task and snapshot key in containerd.
    ContainerId
);
id!(
    /// The id of an exec process within a container's task.
    ExecId
);

/// Number of hex characters that encode the time in an exec's id.
const TIME_LENGTH: usize = 16;

impl ExecId {
    /// A new id that contains the time until which the process may live, in milliseconds since the epoch. A daemon
    /// that finds the process after a restart knows nothing else about its deadline. 0 means as long as its client is
    /// connected, `u64::MAX` means without limit.
    #[must_use]
    pub fn living_until(time: u64) -> Self {
        Self(format!("{time:016x}{}", &random_hex()[TIME_LENGTH..]))
    }

    /// The time until which the process may live; `None` if the id does not contain one, because Pontoon did not
    /// create it.
    #[must_use]
    pub fn lives_until(&self) -> Option<u64> {
        u64::from_str_radix(self.0.get(..TIME_LENGTH)?, 16).ok()
    }
}

/// A text that is not a valid id.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("not an id of 64 lower-case hex characters")]
pub struct InvalidId;

fn random_hex() -> String {
    use fmt::Write as _;
    let mut bytes = [0u8; ID_LENGTH / 2];
    // Without the kernel's random source no id would be safe to use, so nothing can continue.
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
