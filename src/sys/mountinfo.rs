//! The mounts of a mount namespace, as the kernel lists them in `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// A line of the list.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// As [`mount_id`] returns it.
    pub id: u64,
    /// The mount point.
    pub point: Cow<'a, Path>,
    /// A mount made here also appears in its peers, and one made in a peer appears here.
    pub is_shared: bool,
    /// A mount made in its master also appears here.
    pub is_slave: bool,
    /// The options of the file system, which all its mounts share, separated by commas.
    pub super_options: &'a [u8],
}

/// The mounts of a list, in the kernel's order. Lines that do not have the documented form are left out.
pub fn mounts(mountinfo: &[u8]) -> impl DoubleEndedIterator<Item = Mount<'_>> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(line)
}

/// The mount that contains a resolved path: by the mount's id if the kernel reported one, otherwise by the path.
#[must_use]
pub fn containing<'m, 'a>(mounts: &'m [Mount<'a>], path: &Path, id: Option<u64>) -> Option<&'m Mount<'a>> {
    let by_id = id.and_then(|id| mounts.iter().find(|mount| mount.id == id));
    // If several mounts are stacked on one mount point, the last one is visible. max_by_key returns the last maximum.
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    by_id.or_else(|| above.max_by_key(|mount| mount.point.components().count()))
}

/// The id of the mount that contains a path; `None` before Linux 5.8.
///
/// # Errors
/// The error of statx(2).
pub fn mount_id(path: &Path) -> io::Result<Option<u64>> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let given = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(given.then_some(found.stx_mnt_id))
}

fn line(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    // After the parent's id, the device's number, and the directory of the file system that is mounted.
    let point = unescaped(fields.nth(3)?);
    let _mount_options = fields.next()?;
    let (mut is_shared, mut is_slave) = (false, false);
    // Any number of optional fields, up to a hyphen.
    loop {
        match fields.next()? {
            b"-" => break,
            field => {
                is_shared |= field.starts_with(b"shared:");
                is_slave |= field.starts_with(b"master:");
            }
        }
    }
    // After the type of the file system, and its source, which may be empty.
    let super_options = fields.nth(2)?;
    Some(Mount { id, point, is_shared, is_slave, super_options })
}

/// Decodes spaces, tabs, newlines and backslashes, which the kernel writes in octal: `\040`.
fn unescaped(field: &[u8]) -> Cow<'_, Path> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(Path::new(OsStr::from_bytes(field)));
    }
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
    Cow::Owned(PathBuf::from(OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = br"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /run rw,nosuid shared:5 master:2 - tmpfs tmpfs rw,shared:9
31 30 0:26 / /run/a\040b\134 rw - tmpfs shared:9 rw
32 22 0:27 / /mnt rw master:3 propagate_from:2 - tmpfs tmpfs rw
33 32 0:28 / /mnt rw unbindable - tmpfs  rw,size=4k
not a mount
34 22 0:29 / /no/separator rw shared:4
35 22 0:30 / /no/options rw - tmpfs tmpfs
x 22 0:31 / /no/id rw - tmpfs tmpfs rw
";

    fn found(path: &str, id: Option<u64>) -> (String, bool, bool) {
        let mounts: Vec<_> = mounts(SAMPLE).collect();
        let mount = containing(&mounts, Path::new(path), id).unwrap();
        (mount.point.display().to_string(), mount.is_shared, mount.is_slave)
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
    fn lines_of_another_form_are_left_out() {
        assert_eq!(mounts(SAMPLE).map(|mount| mount.id).collect::<Vec<_>>(), [22, 30, 31, 32, 33]);
        assert_eq!(mounts(b"").next(), None);
    }

    #[test]
    fn the_file_systems_options_are_the_last_field_even_if_it_has_no_source() {
        let options: Vec<&[u8]> = mounts(SAMPLE).map(|mount| mount.super_options).collect();
        assert_eq!(options, [&b"rw"[..], b"rw,shared:9", b"rw", b"rw", b"rw,size=4k"]);
    }

    /// A tenant can choose the names of directories in its volumes.
    #[test]
    fn a_mount_points_name_cannot_pass_for_other_fields_or_lines() {
        let names: [(&[u8], &[u8]); 6] = [
            (br"/a\040-\040tmpfs\040shared:1", b"/a - tmpfs shared:1"),
            (br"/a\0121\0402\0400:3\040/", b"/a\n1 2 0:3 /"),
            (br"/a\011b\134040", b"/a\tb\\040"),
            (br"/a\777\04", br"/a\777\04"),
            (br"/a\", br"/a\"),
            (b"/a\xff//deleted", b"/a\xff//deleted"),
        ];
        for (written, point) in names {
            let line = [&b"7 1 0:5 / "[..], written, b" rw - tmpfs tmpfs rw\n"].concat();
            let point = Cow::Borrowed(Path::new(OsStr::from_bytes(point)));
            let only = Mount { id: 7, point, is_shared: false, is_slave: false, super_options: b"rw" };
            assert_eq!(mounts(&line).collect::<Vec<_>>(), [only]);
        }
    }

    #[test]
    fn the_mount_that_contains_a_path_is_in_the_list_of_this_process() {
        let directory = tempfile::tempdir().unwrap();
        let list = std::fs::read("/proc/thread-self/mountinfo").unwrap();
        let mounts: Vec<_> = mounts(&list).collect();
        let path = directory.path().canonicalize().unwrap();
        let by_path = containing(&mounts, &path, None).unwrap();
        let by_id = containing(&mounts, &path, mount_id(&path).unwrap()).unwrap();
        assert_eq!((by_id.id, &by_id.point), (by_path.id, &by_path.point));
    }
}
