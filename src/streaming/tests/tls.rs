//! TLS: supported versions, and replacement of certificates (docs/security-tests.md, X4).

use std::path::Path;

use rcgen::CertifiedKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;

use super::*;

fn certify(directory: &Path) -> TlsFiles {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificate: directory.join("tls.crt"), key: directory.join("tls.key") };
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    files
}

/// Accepts any certificate: these tests check the certificate themselves.
#[derive(Debug)]
struct Believer(CryptoProvider);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(bed: &Bed, version: &'static SupportedProtocolVersion) -> Stream {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer(ring::default_provider())))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, bed.connect().await).await.unwrap()
}

/// Returns the certificate that the server presents now.
async fn shown(bed: &Bed) -> Vec<u8> {
    let stream = connect(bed, &rustls::version::TLS13).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn bed(files: &TlsFiles) -> Bed {
    Bed::with(&Settings { tls: Some(files.clone()), ..Settings::default() })
}

#[tokio::test]
async fn x4_tls_1_2_and_1_3_are_spoken() {
    let directory = tempfile::tempdir().unwrap();
    let bed = bed(&certify(directory.path()));
    assert!(bed.exec("fail").starts_with("https://127.0.0.1:"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = connect(&bed, version).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        stream.write_all(b"GET /exec/guess HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
}

/// Builds a ClientHello that offers this version and none newer.
fn client_hello(minor: u8) -> Vec<u8> {
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    // No session; TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA and TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; no compression.
    hello.extend([0, 0, 4, 0xc0, 0x09, 0xc0, 0x2b, 1, 0]);
    // secp256r1, uncompressed points, ecdsa_secp256r1_sha256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[tokio::test]
async fn x4_tls_1_1_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bed = bed(&certify(directory.path()));
    for (minor, alert) in [(1, true), (2, true), (3, false)] {
        let mut stream = bed.connect().await;
        stream.write_all(&client_hello(minor)).await.unwrap();
        let mut answer = [0; 7];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        if alert {
            // A fatal alert: protocol_version.
            assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "TLS 1.{} was taken", minor - 1);
        } else {
            assert_eq!((answer[0], answer[5]), (22, 2), "a ServerHello for TLS 1.2: {answer:?}");
        }
    }
}

#[tokio::test]
async fn x4_plain_http_is_not_answered_where_there_is_tls() {
    let directory = tempfile::tempdir().unwrap();
    let bed = bed(&certify(directory.path()));
    let mut stream = bed.connect().await;
    stream.write_all(b"GET /exec/guess HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"));
}

#[tokio::test]
async fn x4_a_new_certificate_is_used_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let files = certify(directory.path());
    let bed = bed(&files);
    let first = shown(&bed).await;
    assert_eq!(shown(&bed).await, first);
    certify(directory.path());
    let second = shown(&bed).await;
    assert_ne!(second, first);
    // With an unusable certificate, and then with one whose key has not been written yet, the server keeps the old one.
    std::fs::write(&files.certificate, "-----BEGIN NONSENSE-----\n").unwrap();
    assert_eq!(shown(&bed).await, second);
    let key = std::fs::read(&files.key).unwrap();
    certify(directory.path());
    let new_key = std::fs::read(&files.key).unwrap();
    std::fs::write(&files.key, key).unwrap();
    assert_eq!(shown(&bed).await, second);
    std::fs::write(&files.key, new_key).unwrap();
    let third = shown(&bed).await;
    assert!(third != second && third != first);
    std::fs::remove_file(&files.certificate).unwrap();
    assert_eq!(shown(&bed).await, third);
}

#[tokio::test]
async fn x4_a_certificate_of_no_use_is_a_refusal_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let files = certify(directory.path());
    let start = || Streaming::bind(&Settings { tls: Some(files.clone()), ..Settings::default() }, Tasks::default());
    let why = || anyhow::Error::new(start().err().unwrap());
    std::fs::write(&files.key, "").unwrap();
    assert!(format!("{:#}", why()).contains("tls.key"));
    std::fs::remove_file(&files.certificate).unwrap();
    assert!(format!("{:#}", why()).contains("tls.crt"));
}
