//! The seccomp profiles that kubelet names. They are read from below the configured directories only.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::host_paths::{self, Error, Progress};
use crate::sys::{beneath, read};

/// Size limit of a profile in bytes. Real profiles have a few kilobytes.
const LIMIT: u64 = 1 << 20;

/// The file of a profile, and the field of the request that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileFile {
    /// For example `config.linux.security_context.seccomp.localhost_ref`.
    pub field: &'static str,
    /// Absolute and normalized.
    pub path: PathBuf,
}

/// Reads a profile. Returns `None` if `file` is `None`. Gives up after a minute.
///
/// # Errors
/// [`Error::Invalid`] if the profile does not exist, is outside of the roots, or is not a regular file: the container
/// never runs unconfined instead. [`Error::Stuck`] if the file system does not answer.
pub async fn read(roots: &[PathBuf], file: Option<ProfileFile>) -> Result<Option<Vec<u8>>, Error> {
    let Some(file) = file else { return Ok(None) };
    let (roots, wanted) = (roots.to_vec(), file.clone());
    match host_paths::run(host_paths::DEADLINE, move |progress| find(progress, &roots, &wanted)).await {
        Ok(text) => Ok(Some(text)),
        Err(Error::Io { source, .. }) => Err(file.invalid(&source.to_string())),
        Err(error @ (Error::Invalid { .. } | Error::Stuck { .. })) => Err(error),
    }
}

impl ProfileFile {
    fn invalid(&self, problem: &str) -> Error {
        Error::Invalid { field: self.field.to_owned(), problem: format!("{}: {problem}", self.path.display()) }
    }
}

/// A symlink counts as the path that it leads to: it is allowed if its target is below a root.
fn find(progress: &Progress, roots: &[PathBuf], file: &ProfileFile) -> Result<Vec<u8>, Error> {
    let path = &file.path;
    // Check the name first, so that nothing outside of the roots is accessed at all.
    if !roots.iter().any(|root| path.starts_with(root)) {
        return Err(file.invalid("is not in a directory of seccomp_profile_roots"));
    }
    let real = progress.step("resolve", path, |path| std::fs::canonicalize(path))?;
    for root in roots {
        // A root that does not exist contains nothing.
        match progress.step("resolve", root, |root| std::fs::canonicalize(root)) {
            Ok(root) if real.starts_with(&root) => {
                return progress.step("read", &real, |real| open_and_read(&root, real));
            }
            Ok(_) | Err(Error::Io { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(file.invalid("resolves to a path outside of seccomp_profile_roots"))
}

/// Opens without following symlinks, so that the file opened is the one that was checked, even if a symlink has
/// replaced it since. Does not wait for the writer of a FIFO.
fn open_and_read(root: &Path, real: &Path) -> io::Result<Vec<u8>> {
    let relative = real.strip_prefix(root).unwrap_or(real);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(beneath::open(beneath::directory(root)?, relative, flags, Mode::empty())?);
    read::regular_file(file, LIMIT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const FIELD: &str = "config.linux.security_context.seccomp_profile_path";

    async fn read_text(roots: &[PathBuf], path: PathBuf) -> Result<String, String> {
        let text = read(roots, Some(ProfileFile { field: FIELD, path })).await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(text.unwrap()).unwrap())
    }

    #[tokio::test]
    async fn a_profile_is_read_below_the_roots_and_nowhere_else() {
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
        let read = async |name: &str| read_text(&roots, at(name)).await;
        assert_eq!(read("root/operator/a.json").await.unwrap(), "kubelet/operator");
        assert_eq!(read("root/within.json").await.unwrap(), "kubelet/operator");
        assert_eq!(read("root/linked/a.json").await.unwrap(), "others");
        for (name, word) in [
            ("root/up.json", "a path outside"),
            ("root/out/a.json", "a path outside"),
            ("kubelet/operator/a.json", "is not in"),
            ("outside/a.json", "is not in"),
            ("rooted/a.json", "is not in"),
            ("root/operator", "regular file"),
        ] {
            let error = read(name).await.unwrap_err();
            let place = at(name).display().to_string();
            assert!(error.starts_with(&format!("{FIELD}: {place}: ")) && error.contains(word), "{name}: {error}");
        }
        for name in ["root/none.json", "missing/a.json", "root/operator/a.json/x"] {
            assert!(read(name).await.is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_fifo_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fifo");
        crate::sys::fifo::make(&path).unwrap();
        let error = read_text(&[place.path().to_owned()], path.clone()).await.unwrap_err();
        assert_eq!(error, format!("{FIELD}: {}: not a regular file", path.display()));
    }
}
