//! Reading the seccomp profiles that kubelet names: below the configured directories and nowhere else.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::run_pod_sandbox::blocking;
use super::{Error, Node, Result};
use crate::sys::beneath;

/// Largest profile that is read; real ones are some kilobytes.
const LIMIT: u64 = 1 << 20;

impl Node {
    /// Reads a profile. One that is missing, or is elsewhere, is an error, never unconfined.
    pub(super) async fn read_profile(&self, path: Option<PathBuf>) -> Result<Option<Vec<u8>>> {
        let Some(path) = path else { return Ok(None) };
        let (roots, at) = (self.config.seccomp_profile_roots.clone(), path.clone());
        let text = blocking(move || read(&roots, &at)).await.map_err(|source| Error::Invalid {
            field: "config.linux.security_context.seccomp.localhost_ref",
            problem: format!("{}: {source}", path.display()),
        })?;
        Ok(Some(text))
    }
}

/// Symlinks count for where they lead: within the roots they are as good as any path. `path` is clean and absolute.
fn read(roots: &[PathBuf], path: &Path) -> io::Result<Vec<u8>> {
    let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{what} seccomp_profile_roots"));
    // By its name first: nothing elsewhere is even looked at.
    if !roots.iter().any(|root| path.starts_with(root)) {
        return Err(refused("is not in a directory of"));
    }
    let real = std::fs::canonicalize(path)?;
    // A root that is not there has nothing below it.
    let mut known = roots.iter().filter_map(|root| std::fs::canonicalize(root).ok());
    let Some(root) = known.find(|root| real.starts_with(root)) else {
        return Err(refused("leads out of the directories of"));
    };
    let relative = real.strip_prefix(&root).unwrap_or(&real);
    // Without symlinks, so that it is what was looked at, also when somebody has put one there meanwhile.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(beneath::open(beneath::directory(&root)?, relative, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_profile_is_read_below_the_roots_and_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["kubelet/operator", "others", "outside"] {
            std::fs::create_dir_all(at(directory)).unwrap();
            std::fs::write(at(directory).join("a.json"), directory).unwrap();
        }
        symlink(at("others"), at("kubelet/linked")).unwrap();
        symlink("operator/a.json", at("kubelet/within.json")).unwrap();
        symlink(at("outside"), at("kubelet/out")).unwrap();
        symlink("../outside/a.json", at("kubelet/up.json")).unwrap();
        symlink(at("kubelet"), at("root")).unwrap();
        let roots = [at("missing"), at("root"), at("others")];
        let read = |name: &str| read(&roots, &at(name)).map(|text| String::from_utf8(text).unwrap());
        assert_eq!(read("root/operator/a.json").unwrap(), "kubelet/operator");
        assert_eq!(read("root/within.json").unwrap(), "kubelet/operator");
        assert_eq!(read("root/linked/a.json").unwrap(), "others");
        for (name, word) in [
            ("root/up.json", "leads out"),
            ("root/out/a.json", "leads out"),
            ("kubelet/operator/a.json", "is not in"),
            ("outside/a.json", "is not in"),
            ("rooted/a.json", "is not in"),
            ("root/operator", "regular file"),
        ] {
            let error = read(name).unwrap_err().to_string();
            assert!(error.contains(word), "{name}: {error}");
        }
        for name in ["root/none.json", "missing/a.json", "root/operator/a.json/x"] {
            assert!(read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        crate::sys::fifo::make(&place.path().join("fifo")).unwrap();
        let error = read(&[place.path().to_owned()], &place.path().join("fifo")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
