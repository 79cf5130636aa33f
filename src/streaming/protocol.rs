//! The protocol versions that a client and the server negotiate for an exec or attach session, and the session's
//! streams.

/// A version of the exec and attach protocol over SPDY. Versions differ in what the error stream carries, and in
/// whether there is a resize stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `channel.k8s.io`: kubectl before 1.1.
    V1,
    /// `v2.channel.k8s.io`: like V1, but stdin can be half-closed.
    V2,
    /// `v3.channel.k8s.io`: adds the resize stream.
    V3,
    /// `v4.channel.k8s.io`: the error stream carries a v1.Status as JSON, which includes the exit code.
    V4,
}

impl Protocol {
    /// All versions, newest first. A client that offers none of them gets this list.
    pub const ALL: [Self; 4] = [Self::V4, Self::V3, Self::V2, Self::V1];

    /// Returns the first version that the client offers and the server supports. Each string is a value of
    /// `X-Stream-Protocol-Version`, which may be a comma-separated list.
    #[must_use]
    pub fn negotiate(offered: &[&str]) -> Option<Self> {
        let names = offered.iter().flat_map(|value| value.split(',')).map(str::trim);
        names.filter_map(|name| Self::ALL.into_iter().find(|protocol| protocol.as_str() == name)).next()
    }

    /// The name in `X-Stream-Protocol-Version`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }

    /// Whether a client with a terminal opens a resize stream.
    #[must_use]
    pub fn has_resize(self) -> bool {
        self >= Self::V3
    }

    /// Whether the error stream carries a v1.Status rather than a plain sentence.
    #[must_use]
    pub fn has_status(self) -> bool {
        self >= Self::V4
    }
}

/// The streams for which an exec or attach URL was issued. In addition, there is always an error stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// From the client.
    pub stdin: bool,
    /// To the client.
    pub stdout: bool,
    /// To the client. Never with a terminal, whose whole output is in stdout.
    pub stderr: bool,
    /// Whether there is a terminal, and therefore a terminal size.
    pub tty: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_known_choice_wins() {
        let kubectl = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"];
        assert_eq!(Protocol::negotiate(&kubectl), Some(Protocol::V4));
        assert_eq!(Protocol::negotiate(&["channel.k8s.io", "v4.channel.k8s.io"]), Some(Protocol::V1));
        assert_eq!(Protocol::negotiate(&["v9.channel.k8s.io, v2.channel.k8s.io"]), Some(Protocol::V2));
        assert_eq!(Protocol::negotiate(&["portforward.k8s.io"]), None);
        assert_eq!(Protocol::negotiate(&[]), None);
    }

    #[test]
    fn names_and_versions_belong_together() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::negotiate(&[protocol.as_str()]), Some(protocol));
        }
        assert!(Protocol::V3.has_resize() && !Protocol::V2.has_resize());
        assert!(Protocol::V4.has_status() && !Protocol::V3.has_status());
    }
}
