//! What pods of a runtime handler may request: what its runtime, its snapshotter and the kernel support together.

use std::path::Path;

use crate::config::Handler;
use crate::containerd::{Plugin, RuntimeFeatures};
use crate::runtime::{Error, Node, Result};

/// Older versions of runc corrupt memory on kernels 6.17 to 7.1.
const OLDEST_RUNC: [u64; 3] = [1, 5, 2];

/// The features of one handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Read-only mounts that include the mounts below them.
    pub recursive_read_only_mounts: bool,
    /// Mounts whose ids differ from those of their source.
    pub id_mapped_mounts: bool,
    /// Whether there are user namespaces, or why not.
    pub user_namespaces: std::result::Result<(), String>,
    /// What is wrong with the runtime's version. The runtime is used all the same (docs/rulings.md 22).
    pub outdated: Option<String>,
}

impl Default for Features {
    /// The features of a runtime that did not respond.
    fn default() -> Self {
        let unknown = "the features of its runtime are unknown".to_owned();
        Self {
            recursive_read_only_mounts: false,
            id_mapped_mounts: false,
            user_namespaces: Err(unknown),
            outdated: None,
        }
    }
}

impl Features {
    /// Combines what the runtime reports, the snapshotter of the handler's containers, and whether the kernel has user
    /// namespaces.
    #[must_use]
    pub fn new(runtime: RuntimeFeatures, snapshotter: &str, plugins: &[Plugin], kernel: bool) -> Self {
        Self {
            recursive_read_only_mounts: runtime.recursive_read_only_mounts,
            id_mapped_mounts: runtime.id_mapped_mounts,
            user_namespaces: user_namespaces(runtime, snapshotter, plugins, kernel),
            outdated: runtime.runc.filter(|version| *version < OLDEST_RUNC).map(outdated),
        }
    }
}

fn outdated(runc: [u64; 3]) -> String {
    let named = |version: [u64; 3]| version.map(|number| number.to_string()).join(".");
    format!("runc {} is older than {}, the oldest that is supported", named(runc), named(OLDEST_RUNC))
}

fn user_namespaces(
    runtime: RuntimeFeatures,
    snapshotter: &str,
    plugins: &[Plugin],
    kernel: bool,
) -> std::result::Result<(), String> {
    // Without it, the snapshotter would give each container a copy of the image with changed owners, or the image with
    // its original owners.
    let remaps = plugins.iter().any(|plugin| {
        plugin.kind == "io.containerd.snapshotter.v1"
            && plugin.id == snapshotter
            && plugin.capabilities.iter().any(|capability| capability == "remap-ids")
    });
    match () {
        () if !kernel => Err("the kernel has none (user.max_user_namespaces)".to_owned()),
        () if !runtime.user_namespaces => Err("its runtime has none".to_owned()),
        () if !runtime.id_mapped_mounts => Err("its runtime has no id-mapped mounts".to_owned()),
        () if !remaps => Err(format!("snapshotter {snapshotter} cannot map ids (it lacks the capability remap-ids)")),
        () => Ok(()),
    }
}

/// Whether this kernel allows user namespaces.
#[must_use]
pub fn kernel_has_user_namespaces() -> bool {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    Path::new("/proc/self/ns/user").exists() && limit.trim() != "0"
}

impl Node {
    /// Refuses a pod with a user namespace if its handler has none.
    pub(crate) fn check_user_namespace(&self, handler: &Handler) -> Result<()> {
        let features = self.host.features(&handler.name);
        features.user_namespaces.map_err(|why| Error::NoUserNamespaces { handler: handler.name.clone(), why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_namespaces_need_the_kernel_the_runtime_and_the_snapshotter() {
        let runtime = RuntimeFeatures {
            recursive_read_only_mounts: true,
            id_mapped_mounts: true,
            user_namespaces: true,
            runc: None,
        };
        let snapshotter = |id: &str, capability: &str| Plugin {
            kind: "io.containerd.snapshotter.v1".to_owned(),
            id: id.to_owned(),
            capabilities: vec![capability.to_owned()],
            exports: Default::default(),
            init_error: None,
        };
        let plugins = [snapshotter("overlayfs", "remap-ids"), snapshotter("native", "only-remap-ids")];
        let why = |runtime, snapshotter, kernel| Features::new(runtime, snapshotter, &plugins, kernel).user_namespaces;
        assert_eq!(why(runtime, "overlayfs", true), Ok(()));
        assert!(why(runtime, "native", true).unwrap_err().contains("snapshotter native"));
        assert!(why(runtime, "overlayfs", false).unwrap_err().contains("kernel"));
        let without = RuntimeFeatures { id_mapped_mounts: false, ..runtime };
        assert!(why(without, "overlayfs", true).unwrap_err().contains("id-mapped"));
        assert!(Features::default().user_namespaces.is_err());
    }

    #[test]
    fn an_old_runc_is_named_and_no_other_runtime() {
        let outdated = |runc| {
            let runtime = RuntimeFeatures { runc, ..RuntimeFeatures::default() };
            Features::new(runtime, "overlayfs", &[], true).outdated
        };
        let said = outdated(Some([1, 5, 1])).unwrap();
        assert_eq!(said, "runc 1.5.1 is older than 1.5.2, the oldest that is supported");
        assert!(outdated(Some([1, 1, 15])).is_some());
        assert_eq!([Some([1, 5, 2]), Some([1, 10, 0]), Some([2, 0, 0]), None].map(outdated), [None, None, None, None]);
    }
}
