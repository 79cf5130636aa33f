//! Checks of values that have the right type and can never work. What may come to work later, such as a directory that
//! is not there yet, is not refused here: `daemon` warns of it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Error, File};
use crate::lsm::selinux::MAX_CATEGORIES;

/// The longest namespace of containerd (its package identifiers).
const LONGEST_NAMESPACE: usize = 76;
/// The longest window for the speed of a download, in seconds. A download keeps a number for each second of it.
const LONGEST_WINDOW: u64 = 86_400;
/// Directories of the whole system. Pontoon sets the mode of `root` and `state`, which would keep other programs out.
const SHARED: [&str; 17] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run", "/sys", "/tmp", "/usr",
    "/var", "/var/lib", "/var/run",
];

pub(super) fn wrong(key: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Value { key: key.into(), problem: problem.into() }
}

/// Checks each value by itself; those that need another key or the host are checked where they are resolved.
pub(super) fn values(file: &File) -> Result<(), Error> {
    paths(file)?;
    own_directories(file)?;
    names(file)?;
    images(file)?;
    if !(2..=MAX_CATEGORIES).contains(&file.selinux.category_range) {
        let problem = format!("{} is not between 2 and {MAX_CATEGORIES}", file.selinux.category_range);
        return Err(wrong("selinux.category_range", problem));
    }
    match file.limits.problem() {
        Some((key, problem)) => Err(wrong(key, problem)),
        None => Ok(()),
    }
}

fn paths(file: &File) -> Result<(), Error> {
    let single = [
        ("root", Some(&file.root)),
        ("state", Some(&file.state)),
        ("netns_dir", Some(&file.netns_dir)),
        ("cni.conf_dir", Some(&file.cni.conf_dir)),
        ("cni.cache_dir", Some(&file.cni.cache_dir)),
        ("cni.conf_template", file.cni.conf_template.as_ref()),
        ("streaming.tls_cert_file", file.streaming.tls_cert_file.as_ref()),
        ("streaming.tls_key_file", file.streaming.tls_key_file.as_ref()),
    ];
    for (key, value) in single {
        if let Some(value) = value {
            path(key, value)?;
        }
    }
    let lists: [(&str, &[PathBuf]); 3] = [
        ("seccomp_profile_roots", &file.seccomp_profile_roots),
        ("cni.bin_dirs", &file.cni.bin_dirs),
        ("cdi.spec_dirs", &file.cdi.spec_dirs),
    ];
    for (key, list) in lists {
        list.iter().try_for_each(|value| path(key, value))?;
    }
    if file.cni.bin_dirs.is_empty() {
        return Err(wrong("cni.bin_dirs", "is empty, so no CNI plugin could be found"));
    }
    Ok(())
}

/// Refuses a path whose meaning depends on the directory that the daemon was started in.
pub(super) fn path(key: &str, path: &Path) -> Result<(), Error> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(wrong(key, format!("{path:?} has a zero byte")));
    }
    if path.is_absolute() { Ok(()) } else { Err(wrong(key, format!("{path:?} is not an absolute path"))) }
}

fn own_directories(file: &File) -> Result<(), Error> {
    for (key, path) in [("root", &file.root), ("state", &file.state)] {
        if SHARED.iter().any(|shared| path == Path::new(shared)) {
            let problem =
                format!("{} belongs to the whole system; it has to be a directory of Pontoon's own", path.display());
            return Err(wrong(key, problem));
        }
    }
    // They have different modes, and users of the node must not get into `root` (CVE-2021-41103).
    if file.root == file.state {
        return Err(wrong("state", format!("{} is also root", file.state.display())));
    }
    Ok(())
}

fn names(file: &File) -> Result<(), Error> {
    let may_have = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // kubelet refuses a runtime without a name, and splits the ids of containers at `://`.
    if file.runtime_name.is_empty() || !file.runtime_name.chars().all(may_have) {
        let problem = format!("{:?} is not a name of letters, digits, \"-\", \"_\" and \".\"", file.runtime_name);
        return Err(wrong("runtime_name", problem));
    }
    let namespace = &file.containerd.namespace;
    let mut parts = namespace.split(['-', '_', '.']);
    let is_name = parts.all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric()));
    if !is_name || namespace.len() > LONGEST_NAMESPACE {
        let problem = format!(
            "{namespace:?} is not a namespace of containerd: at most {LONGEST_NAMESPACE} letters and digits, with single \
             \"-\", \"_\" or \".\" between them"
        );
        return Err(wrong("containerd.namespace", problem));
    }
    snapshotter("images.snapshotter", &file.images.snapshotter)
}

pub(super) fn snapshotter(key: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(wrong(key, format!("{name:?} is not the name of a snapshotter, such as \"overlayfs\"")));
    }
    Ok(())
}

fn images(file: &File) -> Result<(), Error> {
    let directories = file.images.registry_config_path.split(':').filter(|directory| !directory.is_empty());
    for directory in directories {
        path("images.registry_config_path", Path::new(directory))?;
    }
    if file.images.throughput_window > LONGEST_WINDOW {
        let problem = format!("{} is not between 0 and {LONGEST_WINDOW} seconds", file.images.throughput_window);
        return Err(wrong("images.throughput_window", problem));
    }
    Ok(())
}
