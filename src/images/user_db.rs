//! /etc/passwd and /etc/group of an image. They are read as hostile files (CVE-2026-47262: a file of two gigabytes, a
//! device, or a FIFO) and cached for the next container with the same layers.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::root_fs::root_error;
use super::{Error, Image, Images};
use crate::mutex::Mutex;
use crate::sys::mounts::MountedRoot;
use crate::sys::read;

/// Largest file that is read, in bytes.
const LARGEST: u64 = 10 << 20;
/// Most bytes of the two files together that are cached; real ones have a few kilobytes.
const LARGEST_KEPT: usize = 256 << 10;
/// For how many images they are cached.
const KEPT: usize = 128;

/// Content of passwd and group.
type Files = (Vec<u8>, Vec<u8>);
/// Snapshotter and chain id.
type Key = (String, String);

/// The files that were read last, by snapshotter and chain id: the content of a chain id never changes.
#[derive(Default)]
pub(super) struct UserDbs {
    kept: Mutex<VecDeque<(Key, Arc<Files>)>>,
}

impl UserDbs {
    fn get(&self, key: &Key) -> Option<Arc<Files>> {
        let kept = self.kept.lock();
        kept.iter().find(|(other, _)| other == key).map(|(_, files)| Arc::clone(files))
    }

    fn keep(&self, key: Key, files: &Files) {
        if files.0.len() + files.1.len() > LARGEST_KEPT {
            return;
        }
        let mut kept = self.kept.lock();
        kept.retain(|(other, _)| *other != key);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((key, Arc::new(files.clone())));
    }
}

impl Images {
    /// The image's /etc/passwd and /etc/group; empty for a file that does not exist.
    ///
    /// # Errors
    /// [`Error::Root`] when one of them is not a regular file, or is larger than 10 MiB.
    pub async fn user_db(&self, image: &Image, snapshotter: &str) -> Result<(Vec<u8>, Vec<u8>), Error> {
        if image.chain_id.is_empty() {
            return Ok(Files::default());
        }
        let key = (snapshotter.to_owned(), image.chain_id.clone());
        if let Some(files) = self.inner.user_dbs.get(&key) {
            return Ok((*files).clone());
        }
        let id = image.id.clone();
        let look = move |root: &MountedRoot| Ok((read(root, "/etc/passwd", &id)?, read(root, "/etc/group", &id)?));
        let files = self.with_root(image, snapshotter, look).await?;
        self.inner.user_dbs.keep(key, &files);
        Ok(files)
    }
}

fn read(root: &MountedRoot, path: &str, image: &str) -> Result<Vec<u8>, Error> {
    let failed = |error: String| root_error("read", Path::new(path), image, error);
    let file = match root.open_file(Path::new(path)) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    read::regular_file(file, LARGEST).map_err(|error| failed(error.to_string()))
}
