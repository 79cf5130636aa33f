//! The options of a snapshot's mount, as containerd's snapshotters write them.

use std::io;
use std::path::PathBuf;

use super::unsupported;
use crate::sys::userns::Range;

/// The option with the layers of an overlay, the topmost first.
pub(super) const LOWER: &str = "lowerdir=";

/// The kernel accepts one page of options.
const LONGEST_OPTIONS: usize = 4095;

/// The options without the flags, which this module chooses by itself.
pub(super) struct Options {
    /// Options for the file system.
    pub(super) data: Vec<String>,
    /// The user and group ids on the host that own the files, as maps of a user namespace.
    pub(super) ids: Option<(Range, Range)>,
}

impl Options {
    pub(super) fn parse(options: &[String]) -> io::Result<Self> {
        let (mut data, mut uids, mut gids) = (Vec::new(), None, None);
        for option in options.iter().filter(|option| !is_flag(option)) {
            if let Some(ids) = option.strip_prefix("uidmap=") {
                uids = Some(range(ids)?);
            } else if let Some(ids) = option.strip_prefix("gidmap=") {
                gids = Some(range(ids)?);
            } else {
                data.push(option.clone());
            }
        }
        match (uids, gids) {
            (Some(_), None) | (None, Some(_)) => Err(unsupported("uidmap and gidmap one without the other".to_owned())),
            both => Ok(Self { data, ids: both.0.zip(both.1) }),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.data.iter().any(|option| option.starts_with(name))
    }

    /// The layers of an overlay, and the index of the option that lists them.
    pub(super) fn lower(&self) -> Option<(usize, Vec<PathBuf>)> {
        let at = self.data.iter().position(|option| option.starts_with(LOWER))?;
        Some((at, self.data[at][LOWER.len()..].split(':').map(PathBuf::from).collect()))
    }

    /// Joins the options into a string of at most one page. The absolute paths of many layers do not fit, but they do
    /// when the working directory is the directory that the layers share.
    pub(super) fn shortened(mut self) -> io::Result<String> {
        if let Some((at, layers)) = self.lower()
            && let Some(base) = common_directory(&layers)
        {
            std::env::set_current_dir(&base)?;
            let name = |layer: &PathBuf| layer.strip_prefix(&base).unwrap_or(layer).display().to_string();
            self.data[at] = format!("{LOWER}{}", layers.iter().map(name).collect::<Vec<_>>().join(":"));
        }
        let data = self.data.join(",");
        if data.len() > LONGEST_OPTIONS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more layers than one mount takes"));
        }
        Ok(data)
    }
}

fn is_flag(option: &str) -> bool {
    const FLAGS: [&str; 14] = [
        "ro", "rw", "bind", "rbind", "defaults", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime",
        "relatime", "sync",
    ];
    FLAGS.contains(&option) || option == "async"
}

/// Parses `0:HOST:LENGTH`, the only form that Pontoon requests.
fn range(text: &str) -> io::Result<Range> {
    let numbers: Vec<Option<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [Some(0), Some(host), Some(length)] => Ok(Range { host, length }),
        _ => Err(unsupported(format!("the mapping {text:?} of ids"))),
    }
}

/// The deepest common ancestor of the paths; `None` for a single path, or when it is the root.
fn common_directory(paths: &[PathBuf]) -> Option<PathBuf> {
    let mut base = paths.first()?.parent()?.to_path_buf();
    for path in paths {
        while !path.starts_with(&base) || path == &base {
            base = base.parent()?.to_path_buf();
        }
    }
    (paths.len() > 1 && base.parent().is_some() && paths.iter().all(|path| path.is_absolute())).then_some(base)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn layers_are_named_from_the_directory_they_share() {
        let paths = ["/a/b/snapshots/1/fs", "/a/b/snapshots/22/fs"].map(PathBuf::from);
        assert_eq!(common_directory(&paths).unwrap(), Path::new("/a/b/snapshots"));
        assert!(common_directory(&["/a/1", "/b/1"].map(PathBuf::from)).is_none());
        assert!(common_directory(&[PathBuf::from("/a/b/c")]).is_none());
        assert!(common_directory(&["a/1", "a/2"].map(PathBuf::from)).is_none());
    }

    #[test]
    fn flags_are_not_data() {
        let options = ["ro", "lowerdir=/x/1", "index=off", "noatime"].map(ToOwned::to_owned);
        assert_eq!(Options::parse(&options).unwrap().data, ["lowerdir=/x/1", "index=off"]);
    }

    #[test]
    fn ids_are_mapped_as_containerd_writes_it_or_not_at_all() {
        let parse = |options: &[&str]| Options::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>());
        let ids = parse(&["uidmap=0:70:9", "gidmap=0:80:9", "ro"]).unwrap();
        assert_eq!(ids.ids, Some((Range { host: 70, length: 9 }, Range { host: 80, length: 9 })));
        assert!(ids.data.is_empty());
        for wrong in
            [&["uidmap=0:70:9"][..], &["uidmap=0:70:9,9:90:1", "gidmap=0:8:9"], &["uidmap=1:7:9", "gidmap=0:8:9"]]
        {
            assert_eq!(parse(wrong).err().map(|error| error.kind()), Some(io::ErrorKind::Unsupported), "{wrong:?}");
        }
    }
}
