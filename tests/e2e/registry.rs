//! A registry that serves what a test gives it: images that are broken, that want a password, and how often each blob
//! was fetched.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::bed::Bed;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Content by path, and requests by path.
#[derive(Default)]
struct Content {
    files: HashMap<String, (String, Vec<u8>)>,
    gets: HashMap<String, usize>,
    /// The header that every request must have.
    authorization: Option<String>,
}

/// Runs until it is dropped; known to the bed under its address.
pub struct Registry {
    /// `127.0.0.1:PORT`, the first part of its images' names.
    pub host: String,
    content: Arc<Mutex<Content>>,
    hosts_dir: PathBuf,
    _server: JoinSet<()>,
}

/// `sha256:` and the hex digits.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Registry {
    /// Serves nothing yet.
    pub async fn start(bed: &Bed) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = listener.local_addr()?.to_string();
        let hosts_dir = bed.dir.join("certs.d").join(&host);
        std::fs::create_dir_all(&hosts_dir)?;
        let toml =
            format!("server = \"http://{host}\"\n[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(hosts_dir.join("hosts.toml"), toml)?;
        let content = Arc::new(Mutex::new(Content::default()));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, content.clone()));
        Ok(Self { host, content, hosts_dir, _server: server })
    }

    fn content(&self) -> anyhow::Result<std::sync::MutexGuard<'_, Content>> {
        self.content.lock().map_err(|_| anyhow::anyhow!("a request panicked"))
    }

    /// From now on only these credentials are let in; `encoded` is the base64 of `user:password`.
    pub fn require(&self, encoded: &str) -> anyhow::Result<()> {
        self.content()?.authorization = Some(format!("Basic {encoded}"));
        Ok(())
    }

    /// An image of one layer, `layer` being its compressed bytes and `diff_id` what they should unpack to. Its name.
    pub fn image(&self, name: &str, layer: &[u8], diff_id: &str) -> anyhow::Result<String> {
        self.image_with(name, layer, diff_id, json!({"Cmd": ["sh"], "Labels": {"name": name}}))
    }

    /// The same with another `config` in its configuration.
    pub fn image_with(
        &self,
        name: &str,
        layer: &[u8],
        diff_id: &str,
        process: serde_json::Value,
    ) -> anyhow::Result<String> {
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": process,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let config = serde_json::to_vec(&config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(layer), "size": layer.len(),
            }],
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let mut content = self.content()?;
        let octets = "application/octet-stream".to_owned();
        for blob in [config.as_slice(), layer] {
            let path = format!("/v2/{name}/blobs/{}", digest(blob));
            content.files.insert(path, (octets.clone(), blob.to_vec()));
        }
        for tag in ["latest".to_owned(), digest(&manifest)] {
            content.files.insert(format!("/v2/{name}/manifests/{tag}"), (MANIFEST.to_owned(), manifest.clone()));
        }
        Ok(format!("{}/{name}:latest", self.host))
    }

    /// Replaces a blob's bytes by others, whose digest is wrong then.
    pub fn corrupt(&self, name: &str, blob: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = format!("/v2/{name}/blobs/{blob}");
        self.content()?.files.get_mut(&path).context("no such blob")?.1 = bytes.to_vec();
        Ok(())
    }

    /// How often a blob was fetched.
    pub fn gets(&self, name: &str, blob: &str) -> anyhow::Result<usize> {
        Ok(self.content()?.gets.get(&format!("/v2/{name}/blobs/{blob}")).copied().unwrap_or(0))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.hosts_dir);
    }
}

async fn serve(listener: TcpListener, content: Arc<Mutex<Content>>) {
    let mut requests = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let content = content.clone();
        requests.spawn(async move { answer(stream, &content).await });
    }
}

/// One request a connection.
async fn answer(mut stream: TcpStream, content: &Mutex<Content>) -> anyhow::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        anyhow::ensure!(read > 0 && request.len() < 1 << 20, "no request");
        request.extend_from_slice(&buffer[..read]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (status, extra, kind, body) =
        look_up(&mut *content.lock().map_err(|_| anyhow::anyhow!("poisoned"))?, method, path, &request);
    if method == "GET" && path.contains("/blobs/") {
        // So that pulls that are not one overlap.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(&body).await?;
    }
    stream.shutdown().await?;
    Ok(())
}

/// Status line, more headers, content type and body.
fn look_up(content: &mut Content, method: &str, path: &str, request: &str) -> (&'static str, String, String, Vec<u8>) {
    let json = "application/json".to_owned();
    // Header names come in either case; the value is the only base64 in there.
    if content.authorization.as_ref().is_some_and(|wanted| !request.contains(wanted.as_str())) {
        let challenge = "WWW-Authenticate: Basic realm=\"e2e\"\r\n".to_owned();
        return ("401 Unauthorized", challenge, json, b"{\"errors\":[{\"code\":\"UNAUTHORIZED\"}]}".to_vec());
    }
    if path.trim_end_matches('/') == "/v2" {
        return ("200 OK", String::new(), json, b"{}".to_vec());
    }
    let path = path.split('?').next().unwrap_or(path);
    let Some((kind, body)) = content.files.get(path).cloned() else {
        return ("404 Not Found", String::new(), json, b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}".to_vec());
    };
    if method == "GET" {
        *content.gets.entry(path.to_owned()).or_default() += 1;
    }
    let header = if path.contains("/manifests/") {
        format!("Docker-Content-Digest: {}\r\n", digest(&body))
    } else {
        String::new()
    };
    ("200 OK", header, kind, body)
}
