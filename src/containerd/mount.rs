//! A mount as containerd's snapshotters describe it.

use containerd_client::types;

/// A mount to be made: by the shim for a container's root, or by us to read an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// File system type, such as `overlay` or `bind`.
    pub fs_type: String,
    /// The source: a device, a directory, or the type's name.
    pub source: String,
    /// Target path below the root; empty for the root itself.
    pub target: String,
    /// Options as in mount(8): flags and data mixed.
    pub options: Vec<String>,
}

impl From<types::Mount> for Mount {
    fn from(mount: types::Mount) -> Self {
        Self { fs_type: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
    }
}

impl From<Mount> for types::Mount {
    fn from(mount: Mount) -> Self {
        Self { r#type: mount.fs_type, source: mount.source, target: mount.target, options: mount.options }
    }
}
