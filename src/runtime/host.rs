//! What stays the same while the daemon runs.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Features;
use crate::cgroup::Counted;
use crate::lsm::apparmor::Profiles;
use crate::spec;

/// What the daemon found out about its host at start.
pub struct Host {
    /// Facts that specs depend on.
    pub facts: spec::Host,
    /// What its cgroups count.
    pub counted: Counted,
    /// The kernel's id of this boot.
    pub boot: String,
    /// The directory of the built-in root file system for pause containers.
    pub pause_root: PathBuf,
    /// What pods of each runtime handler may request, by the handler's name.
    pub features: HashMap<String, Features>,
    pub apparmor: Profiles,
}

impl Host {
    /// What pods of this runtime handler may request; nothing special, if that is not known.
    pub(super) fn features(&self, handler: &str) -> Features {
        self.features.get(handler).cloned().unwrap_or_default()
    }
}
