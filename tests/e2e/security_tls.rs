//! TLS of the streaming server (X4 in docs/security-tests.md): the versions, and a certificate that is replaced while
//! the server runs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rcgen::CertifiedKey;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::bed::SOON;
use crate::harness::{Outcome, Test, rule};
use crate::scope::{Scope, sleeper};
use crate::streaming::{How, STDIN};

pub fn tests() -> Vec<Test> {
    vec![
        rule!(x4_streams_have_tls_from_1_2_on_and_a_certificate_that_may_change)
            .alone()
            .within(120)
            .only_pontoon("the built-in reads its certificate once"),
    ]
}

/// The certificate and the key that the configuration names.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(scope: &Scope) -> Self {
        Self { certificate: scope.dir().join("tls.crt"), key: scope.dir().join("tls.key") }
    }

    /// Writes a new certificate and key, by renames as cert-manager does.
    fn renew(&self) -> anyhow::Result<CertificateDer<'static>> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        for (file, text) in [(&self.certificate, cert.pem()), (&self.key, signing_key.serialize_pem())] {
            let new = file.with_extension("new");
            std::fs::write(&new, text)?;
            std::fs::rename(&new, file)?;
        }
        Ok(cert.der().clone())
    }

    /// The tables that enable TLS in the configuration.
    fn table(&self) -> String {
        let Self { certificate, key } = self;
        format!("\n[streaming]\ntls_cert_file = \"{}\"\ntls_key_file = \"{}\"\n", certificate.display(), key.display())
    }
}

/// Requests a guessed URL over this version of TLS, and trusts only this certificate. Returns the response's status.
async fn knock(
    host: &str,
    version: &'static SupportedProtocolVersion,
    cert: &CertificateDer<'_>,
) -> anyhow::Result<u16> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone().into_owned())?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(host).await?).await?;
    stream.write_all(format!("GET /exec/guess HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    Ok(std::str::from_utf8(&line[9..])?.parse()?)
}

/// Sends a ClientHello for TLS 1.`minor` and nothing newer. Returns the first seven bytes of the response: the header
/// of a record, and the beginning of its content.
async fn hello(host: &str, minor: u8) -> anyhow::Result<[u8; 7]> {
    let mut hello = vec![3, minor + 1];
    hello.extend([7; 32]);
    // No session; the ciphers TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA and TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no
    // compression.
    hello.extend([0, 0, 4, 0xc0, 0x09, 0xc0, 0x2b, 1, 0]);
    // The extensions: secp256r1, uncompressed points, ecdsa_secp256r1_sha256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    hello.extend([0, u8::try_from(extensions.len())?]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len())?;
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(&record).await?;
    let mut answer = [0; 7];
    tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.context("no answer")??;
    Ok(answer)
}

async fn versions(host: &str, certificate: &CertificateDer<'_>) -> Outcome {
    for version in [&TLS12, &TLS13] {
        let status = knock(host, version, certificate).await.with_context(|| format!("{:?}", version.version))?;
        ensure!(status == 404, "{:?}: {status}", version.version);
    }
    for minor in [0, 1] {
        let answer = hello(host, minor).await?;
        // A fatal alert: protocol_version.
        ensure!(answer[0] == 21 && answer[5..] == [2, 70], "TLS 1.{minor}: {answer:?}");
    }
    // This hello is well-formed: with a version that is allowed, the response is a ServerHello.
    let answer = hello(host, 2).await?;
    ensure!(answer[0] == 22 && answer[5] == 2, "TLS 1.2: {answer:?}");
    let mut plain = TcpStream::connect(host).await?;
    plain.write_all(b"GET /exec/guess HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(SOON, plain.read_to_end(&mut answer)).await.context("plain HTTP is waited for")?;
    ensure!(!answer.starts_with(b"HTTP"), "plain HTTP is answered");
    Ok(())
}

async fn served(scope: &Scope, id: &str, files: &Files, first: &CertificateDer<'_>) -> Outcome {
    let bed = &scope.bed;
    let url = bed.exec_url(id, &["true"], How::default()).await?;
    let rest = url.strip_prefix("https://").with_context(|| format!("{url} is not https"))?;
    let (host, _) = rest.split_once('/').with_context(|| format!("{url} has no path"))?;
    versions(host, first).await?;
    let mut open = bed.exec_session("spdy", id, &["cat"], STDIN).await?;
    open.send("before\n").await?;
    open.shows("before\n").await?;
    let pid = bed.pid("pontoon")?;
    let second = files.renew()?;
    ensure!(knock(host, &TLS13, &second).await? == 404, "the new certificate is not shown");
    ensure!(knock(host, &TLS13, first).await.is_err(), "the old certificate is still shown");
    open.send("after\n").await?;
    open.shows("after\n").await.context("a session that was open when the certificate was replaced")?;
    for protocol in ["spdy", "v5"] {
        let ended = bed.exec_session(protocol, id, &["echo", "hello"], How::default()).await?.ends().await?;
        ensure!(ended.text() == "hello\n", "{protocol}: {ended:?}");
    }
    ensure!(bed.pid("pontoon")? == pid, "the daemon was started again");
    Ok(())
}

async fn x4_streams_have_tls_from_1_2_on_and_a_certificate_that_may_change(scope: Arc<Scope>) -> Outcome {
    let bed = &scope.bed;
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("main")).await?;
    let files = Files::of(&scope);
    std::fs::create_dir_all(scope.dir())?;
    let first = files.renew()?;
    bed.configured(&files.table(), served(&scope, &id, &files, &first)).await
}
