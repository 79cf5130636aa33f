//! Finds the mount that contains a path, and whether mounts propagate there (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mounts of a mount namespace, in the kernel's order.
#[derive(Debug)]
pub(super) struct MountInfo(Vec<HostMountPoint>);

#[derive(Debug, PartialEq)]
pub(super) struct HostMountPoint {
    id: u64,
    /// The mount point.
    pub(super) point: PathBuf,
    /// A mount made here also appears in its peers, and one made in a peer appears here.
    pub(super) shared: bool,
    /// A mount made in its master also appears here.
    pub(super) slave: bool,
}

impl MountInfo {
    /// Skips lines that do not have the documented form.
    pub(super) fn parse(mountinfo: &[u8]) -> Self {
        Self(mountinfo.split(|byte| *byte == b'\n').filter_map(line).collect())
    }

    /// The mount that contains a resolved path: by the mount's id if the kernel reported one, otherwise by the path.
    pub(super) fn of(&self, path: &Path, id: Option<u64>) -> Option<&HostMountPoint> {
        let by_id = id.and_then(|id| self.0.iter().find(|mount| mount.id == id));
        // If several mounts are stacked on one mount point, the last one is visible. max_by_key returns the last
        // maximum.
        let above = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        by_id.or_else(|| above.max_by_key(|mount| mount.point.components().count()))
    }
}

fn line(line: &[u8]) -> Option<HostMountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescaped(fields.nth(3)?);
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
    let has = |tag: &[u8]| optional.iter().any(|field| field.starts_with(tag));
    Some(HostMountPoint { id, point, shared: has(b"shared:"), slave: has(b"master:") })
}

/// Decodes spaces, tabs, newlines and backslashes, which the kernel writes in octal: `\040`.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] = rest {
            path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            path.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = br"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /run rw,nosuid shared:5 master:2 - tmpfs tmpfs rw,shared:9
31 30 0:26 / /run/a\040b\134 rw - tmpfs tmpfs rw
32 22 0:27 / /mnt rw master:3 propagate_from:2 - tmpfs tmpfs rw
33 32 0:28 / /mnt rw unbindable - tmpfs tmpfs rw
not a mount
";

    fn found(path: &str, id: Option<u64>) -> (String, bool, bool) {
        let mounts = MountInfo::parse(SAMPLE);
        let mount = mounts.of(Path::new(path), id).unwrap();
        (mount.point.display().to_string(), mount.shared, mount.slave)
    }

    #[test]
    fn propagation_is_in_the_optional_fields_only() {
        assert_eq!(found("/var/lib", None), ("/".to_owned(), true, false));
        assert_eq!(found("/run/x", None), ("/run".to_owned(), true, true));
        assert_eq!(found(r"/run/a b\/c", None), (r"/run/a b\".to_owned(), false, false));
    }

    #[test]
    fn a_path_is_on_the_deepest_mount_above_it_and_on_the_last_of_a_stack() {
        assert_eq!(found("/runner", None).0, "/");
        assert_eq!(found("/mnt/x", None), ("/mnt".to_owned(), false, false));
    }

    #[test]
    fn the_id_decides_where_it_is_known() {
        assert_eq!(found("/mnt/x", Some(32)), ("/mnt".to_owned(), false, true));
        assert_eq!(found("/mnt/x", Some(9999)).0, "/mnt");
    }

    #[test]
    fn lines_of_another_form_are_passed_over() {
        assert_eq!(MountInfo::parse(SAMPLE).0.len(), 5);
        assert!(MountInfo::parse(b"").of(Path::new("/"), None).is_none());
    }
}
