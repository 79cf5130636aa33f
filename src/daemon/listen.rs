//! The CRI socket: mode 0660, in a directory that others may traverse but not list. Only one instance serves it.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{Stream, StreamExt as _};
use nix::fcntl::{Flock, FlockArg};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::authority::AnyAuthority;
use crate::sys::write;

/// How many calls of one connection may at one time be cancelled by the client before we have accepted them. h2 allows
/// 20, and one more ends the whole connection, with the client's other calls. A busy kubelet, or a server that was
/// stopped for a moment, reaches that. Their number stays bounded, because they are removed when we read the socket.
const CANCELLED_UNSEEN: usize = 1 << 16;

/// A server for a UNIX socket. A client that cancels calls loses only these calls (docs/rulings.md 40).
pub(super) fn server() -> Server {
    let server = Server::builder().http2_max_pending_accept_reset_streams(Some(CANCELLED_UNSEEN));
    // h2 counts these over the whole life of a connection, and kubelet keeps its connection for as long as it runs.
    server.http2_max_local_error_reset_streams(None)
}

pub(super) fn connections(
    listener: tokio::net::UnixListener,
) -> impl Stream<Item = std::io::Result<AnyAuthority<tokio::net::UnixStream>>> {
    UnixListenerStream::new(listener).map(|accepted| accepted.map(AnyAuthority::new))
}

/// A bound socket that no other instance serves.
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the process lives, so that of two instances that start at once only one can find the socket
    /// stale.
    lock: Flock<fs::File>,
}

impl Listener {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the listener for the async runtime. The lock is held until the process ends.
    pub(super) fn into_listener(self) -> anyhow::Result<tokio::net::UnixListener> {
        std::mem::forget(self.lock);
        self.listener.set_nonblocking(true)?;
        Ok(tokio::net::UnixListener::from_std(self.listener)?)
    }
}

/// How long a predecessor may take to disappear. A killed process keeps its lock and its socket until the kernel has
/// torn it down, and a supervisor need not wait for that.
const PREDECESSOR: Duration = Duration::from_secs(1);

/// Binds the socket. If another instance is still ending, waits for it.
pub(super) async fn bind_after_another(path: &Path) -> anyhow::Result<Listener> {
    after_another(|| bind(path)).await
}

/// Repeats what fails while another instance is still ending, for up to [`PREDECESSOR`].
pub(super) async fn after_another<T>(attempt: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let until = tokio::time::Instant::now() + PREDECESSOR;
    loop {
        match attempt() {
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
            done => return done,
        }
    }
}

/// Binds the socket. A socket that no process answers on was left by a killed process, and is removed.
fn bind(path: &Path) -> anyhow::Result<Listener> {
    let parent = path.parent().context("socket: has no directory")?;
    if !parent.is_dir() {
        // Only a directory that we create gets our mode: an existing one may be /run itself.
        let made = DirBuilder::new().recursive(true).mode(0o711).create(parent);
        made.with_context(|| format!("create {}", parent.display()))?;
    }
    let lock = lock(path)?;
    clear(path)?;
    let listener = UnixListener::bind(path).with_context(|| format!("bind {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    Ok(Listener { listener, path: path.to_owned(), lock })
}

/// Binds a socket that only root may connect to. The process that holds the lock of the CRI socket owns this one too.
pub(super) fn bind_for_root(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    clear(path)?;
    let listener = UnixListener::bind(path).with_context(|| format!("bind {}", path.display()))?;
    // Connecting needs write permission, so until this call the umask keeps other users out.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::UnixListener::from_std(listener)?)
}

fn lock(path: &Path) -> anyhow::Result<Flock<fs::File>> {
    let lock = path.with_extension("lock");
    let file = write::regular(&lock).with_context(|| format!("open {}", lock.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::Error::EWOULDBLOCK)) => bail!("another pontoon serves {}", path.display()),
        Err((_, errno)) => Err(errno).with_context(|| format!("lock {}", lock.display())),
    }
}

fn clear(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("stat {}", path.display())),
        Ok(metadata) if !metadata.file_type().is_socket() => bail!("{} exists and is not a socket", path.display()),
        Ok(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another server answers on {}", path.display());
    }
    fs::remove_file(path).with_context(|| format!("remove the stale socket {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_instance_is_refused_and_a_stale_socket_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run").join("x.sock");
        let first = bind(&path).unwrap();
        let second = bind(&path).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(second.starts_with("another pontoon serves"), "{second}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o711);
        // The state after kill -9: the file exists, and no process answers.
        drop(first);
        assert!(path.exists());
        // With some patience: a child that another test has just forked holds the lock until it calls exec.
        bind_after_another(&path).await.unwrap();
    }

    #[test]
    fn an_existing_directory_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        bind(&directory.path().join("x.sock")).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        fs::write(&path, "precious").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
