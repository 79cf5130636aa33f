//! Follows changes of the config directory, also while it does not exist or is replaced.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::sleep;

use super::Inner;
use crate::joined::run_blocking;

/// Events come in bursts while an installer works; the directory is read once the installer pauses.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the directory is read when no inotify instance is available (fs.inotify.max_user_instances).
const WITHOUT_INOTIFY: Duration = Duration::from_secs(1);

/// Reloads after each change, until the last user of the network is gone.
pub(super) async fn follow(network: Weak<Inner>) {
    let mut complained = false;
    let Some(inner) = network.upgrade() else { return };
    let (dir, mut changes) = (inner.settings.configs.path.clone(), inner.state.changes());
    drop(inner);
    // inotify instances are scarce (128 per user): when the network is dropped, its instance must be released at once,
    // not at the next event.
    let gone = async move { while changes.changed().await.is_ok() {} };
    tokio::pin!(gone);
    loop {
        // Add the watch first, then read: a change in between is seen twice rather than missed.
        let watch = Watch::arm(&dir);
        let Some(inner) = network.upgrade() else { return };
        run_blocking(move || inner.state.reload(&inner.settings.configs)).await;
        match watch {
            Ok(mut watch) => {
                tokio::select! {
                    () = watch.change() => sleep(SETTLE).await,
                    () = &mut gone => return,
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, dir = %dir.display(), "cni config directory is read every second, not watched");
                }
                sleep(WITHOUT_INOTIFY).await;
            }
        }
    }
}

/// inotify watches on the directory, its subdirectories, and each of its ancestors.
struct Watch {
    events: EventStream<[u8; 4096]>,
    /// The watches on ancestors, each with the name of the next path component. On all other watches every event
    /// counts.
    ancestors: Vec<(WatchDescriptor, std::ffi::OsString)>,
}

impl Watch {
    /// Adds the watches from the root down: a directory that is created meanwhile either exists by the time its watch
    /// is added, or causes an event on its parent.
    fn arm(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        let leads = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF;
        let holds = leads | WatchMask::CLOSE_WRITE | WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::ATTRIB;
        let mut ancestors = Vec::new();
        let mut path: Vec<_> = dir.ancestors().collect();
        path.reverse();
        for pair in path.windows(2) {
            let Some(name) = pair[1].file_name() else { continue };
            match watches.add(pair[0], leads) {
                Ok(descriptor) => ancestors.push((descriptor, name.to_owned())),
                Err(error) if is_absent(&error) => break,
                Err(error) => return Err(error),
            }
        }
        // Plugins may have files of their own in a subdirectory with the network's name.
        let below = fs::read_dir(dir).into_iter().flatten().flatten();
        let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
        for held in std::iter::once(dir.to_owned()).chain(below) {
            match watches.add(&held, holds) {
                Ok(_) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { events: inotify.into_event_stream([0; 4096])?, ancestors })
    }

    /// Returns when the configs may have changed.
    async fn change(&mut self) {
        while let Some(event) = self.events.next().await {
            // An error means that events were lost.
            if event.is_err() || event.is_ok_and(|event| self.matters(&event)) {
                return;
            }
        }
    }

    /// Most events on ancestors are about other files. Events without a name are about the watched directory itself, or
    /// report that the queue overflowed.
    fn matters(&self, event: &EventOwned) -> bool {
        let leads_to = self.ancestors.iter().find(|(descriptor, _)| *descriptor == event.wd);
        match (leads_to, &event.name) {
            (Some((_, next)), Some(name)) => next == name,
            (None, _) | (_, None) => true,
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
