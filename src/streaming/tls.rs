//! The certificate of the streaming server. Its files may be replaced while the server runs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;

use crate::mutex::Mutex;
use crate::sys::read;

/// The PEM files of the certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by any intermediate certificates.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The metadata of a file could not be read.
    #[error("read the metadata of {path}")]
    Look {
        /// The path of the certificate or of the key.
        path: PathBuf,
        source: io::Error,
    },
    /// A file could not be read, or does not contain what it should.
    #[error("read {path}")]
    Read {
        /// The path of the certificate or of the key.
        path: PathBuf,
        source: pem::Error,
    },
    /// The certificate and the key do not match, or are of an unsupported kind.
    #[error("use the certificate {certificate} with the key {key}")]
    Use {
        /// The path of the certificate.
        certificate: PathBuf,
        /// The path of the key.
        key: PathBuf,
        source: rustls::Error,
    },
}

/// The certificate in use. Its files are checked for each connection: connections are few, and a watch could miss a
/// directory that is replaced as a whole, as kubelet does with secrets.
pub(super) struct Certificates {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// The versions of the files when they were last read, including a version that could not be used.
    seen: [Seen; 2],
    acceptor: TlsAcceptor,
}

/// Distinguishes one version of a file from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl Certificates {
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Taken before the files are read: if they change in between, the next connection reads them again.
        let seen = look(&files)?;
        let acceptor = load(&files)?;
        Ok(Self { files, loaded: Mutex::new(Loaded { seen, acceptor }) })
    }

    /// Returns the acceptor for the next connection. While the files are unusable, which is logged once per version,
    /// the old certificate stays in use: the two files are hardly ever replaced at once.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut loaded = self.loaded.lock();
        if let Ok(seen) = look(&self.files)
            && seen != loaded.seen
        {
            loaded.seen = seen;
            match load(&self.files) {
                Ok(acceptor) => {
                    loaded.acceptor = acceptor;
                    tracing::info!(file = %self.files.certificate.display(), "streaming uses the new certificate");
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

/// Maximum size of a certificate or key file in bytes.
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
