//! Follows the directory of configs, also while it is not there or is replaced.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::sleep;

use super::Inner;

/// Events come in bursts while an installer works; what it wrote is read once it pauses.
const SETTLE: Duration = Duration::from_millis(100);
/// Where inotify is exhausted (fs.inotify.max_user_instances), the directory is read this often.
const WITHOUT_INOTIFY: Duration = Duration::from_secs(1);

/// Loads again after each change, until the network has no user any more.
pub(super) async fn follow(network: Weak<Inner>) {
    let mut complained = false;
    let Some(inner) = network.upgrade() else { return };
    let (dir, mut changes) = (inner.settings.configs.path.clone(), inner.state.changes());
    drop(inner);
    // An inotify instance is dear (128 a user): it must not wait for an event to be given back.
    let gone = async move { while changes.changed().await.is_ok() {} };
    tokio::pin!(gone);
    loop {
        // Watch first and read then: a change in between is seen twice, and never missed.
        let watch = Watch::arm(&dir);
        let Some(inner) = network.upgrade() else { return };
        let loading = tokio::task::spawn_blocking(move || inner.state.reload(&inner.settings.configs));
        // A panic in there is a bug that the log has already; the next change tries again.
        let _ = loading.await;
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

/// Watches on the directory, on those below it, and on each that leads to it.
struct Watch {
    events: EventStream<[u8; 4096]>,
    /// Of those that lead to it, and the name that does; of all others every event counts.
    ancestors: Vec<(WatchDescriptor, std::ffi::OsString)>,
}

impl Watch {
    /// From the root down, so that what appears meanwhile is either there when its turn comes
    /// or is an event of the directory above it.
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
        // Plugins may have files of their own in a directory of the network's name.
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

    /// Returns when something may have changed.
    async fn change(&mut self) {
        while let Some(event) = self.events.next().await {
            // An error means that events were lost.
            if event.is_err() || event.is_ok_and(|event| self.matters(&event)) {
                return;
            }
        }
    }

    /// Most events above the directory are of other files. Those without a name are of the
    /// watched directory itself, or say that the queue overflowed.
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
