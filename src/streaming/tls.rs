//! Certificates of the streaming server: files that may be replaced while it runs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;

use crate::sys::read;

/// Where the certificate and its key are, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why TLS is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be looked at.
    #[error("look at {path}")]
    Look {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has not in it what it should.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The two do not belong together, or are of a kind that is not known.
    #[error("use the certificate {certificate} with the key {key}")]
    Use {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The certificate in use. The files are looked at for each connection: connections are few, and no watch can
/// miss a directory that is replaced whole, as kubelet does with secrets.
pub(super) struct Certificates {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// What the files were when they were last read, also if they were of no use.
    seen: [Seen; 2],
    acceptor: TlsAcceptor,
}

/// What tells one version of a file from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl Certificates {
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Before they are read: a version that comes between is read with the next connection.
        let seen = look(&files)?;
        let acceptor = load(&files)?;
        Ok(Self { files, loaded: Mutex::new(Loaded { seen, acceptor }) })
    }

    /// What the next connection is accepted with. Files that cannot be used leave what was, and are told of once: the
    /// two are hardly ever replaced at once.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(seen) = look(&self.files)
            && seen != loaded.seen
        {
            loaded.seen = seen;
            match load(&self.files) {
                Ok(acceptor) => {
                    loaded.acceptor = acceptor;
                    tracing::info!(file = %self.files.certificate.display(), "streaming has a new certificate");
                }
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    tracing::warn!(error = format!("{error:#}"), "streaming keeps its old certificate");
                }
            }
        }
        loaded.acceptor.clone()
    }
}

fn look(files: &TlsFiles) -> Result<[Seen; 2], TlsError> {
    let seen = |path: &Path| {
        let file = fs::metadata(path).map_err(|source| TlsError::Look { path: path.to_owned(), source })?;
        let modified = (file.mtime(), file.mtime_nsec());
        Ok(Seen { inode: (file.dev(), file.ino()), size: file.size(), modified })
    };
    Ok([seen(&files.certificate)?, seen(&files.key)?])
}

/// Largest file of a certificate or key.
const LARGEST: u64 = 1 << 20;

fn load(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let of = |path: &Path| read::regular(path, LARGEST).map_err(pem::Error::Io).map_err(unreadable(path));
    let (chain, key) = (of(&files.certificate)?, of(&files.key)?);
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(unreadable(&files.certificate))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(unreadable(&files.key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map(|versions| versions.with_no_client_auth())
        .and_then(|server| server.with_single_cert(chain, key));
    let config = config.map_err(|source| TlsError::Use {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
