//! A registry that serves what a test gives it: images that are broken, or that need a password. It also counts how
//! often each blob is fetched.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::bed::Bed;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the registry serves, by path, and the requests that it has got.
#[derive(Default)]
struct Content {
    files: HashMap<String, (String, Vec<u8>)>,
    gets: HashMap<String, usize>,
    /// The redirect targets of paths.
    redirects: HashMap<String, String>,
    /// All requests, each with its head first.
    heads: Vec<String>,
    /// The value of the Authorization header that every request must have.
    authorization: Option<String>,
    /// The refresh token for which `/token` issues access tokens. The issued ones are in `access_tokens`.
    refresh_token: Option<String>,
    access_tokens: Vec<String>,
}

/// A registry, which runs until it is dropped. The bed's `certs.d` has an entry for its address.
pub struct Registry {
    /// `127.0.0.1:PORT`, the first part of the names of its images.
    pub host: String,
    content: Arc<Mutex<Content>>,
    hosts_dir: PathBuf,
    _server: JoinSet<()>,
}

/// Additions to the JSON documents of an image. They are merged into those of a plain image.
#[derive(Default)]
pub struct Says {
    /// Merged into `config` of the image's config.
    pub config: Value,
    /// Merged into the layer's descriptor.
    pub layer: Value,
    /// Merged into the manifest.
    pub manifest: Value,
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from.clone(),
    }
}

/// The digest of `bytes`: `sha256:` and the hex digits.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Registry {
    /// Starts a registry that has no images yet.
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

    /// From now on accepts only these credentials. `encoded` is the base64 of `user:password`.
    pub fn require(&self, encoded: &str) -> anyhow::Result<()> {
        self.content()?.authorization = Some(format!("Basic {encoded}"));
        Ok(())
    }

    /// From now on accepts only access tokens, which `/token` of the same host issues for this refresh token.
    pub fn require_token(&self, refresh_token: &str) -> anyhow::Result<()> {
        self.content()?.refresh_token = Some(refresh_token.to_owned());
        Ok(())
    }

    /// Adds an image of one layer and returns its name. `layer` is its compressed bytes, and `diff_id` the digest that
    /// these should have when they are unpacked.
    pub fn image(&self, name: &str, layer: &[u8], diff_id: &str) -> anyhow::Result<String> {
        self.image_that_says(name, layer, diff_id, &Says::default())
    }

    /// Like [`Self::image`], with additions to the image's documents.
    pub fn image_that_says(&self, name: &str, layer: &[u8], diff_id: &str, says: &Says) -> anyhow::Result<String> {
        let mut config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Cmd": ["sh"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        merge(&mut config["config"], &says.config);
        let config = serde_json::to_vec(&config)?;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(layer), "size": layer.len(),
            }],
        });
        merge(&mut manifest["layers"][0], &says.layer);
        merge(&mut manifest, &says.manifest);
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

    /// Replaces the bytes of a blob by others, so that its digest is wrong.
    pub fn corrupt(&self, name: &str, blob: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = format!("/v2/{name}/blobs/{blob}");
        self.content()?.files.get_mut(&path).context("no such blob")?.1 = bytes.to_vec();
        Ok(())
    }

    /// Redirects requests for a blob to `location`.
    pub fn redirect(&self, name: &str, blob: &str, location: &str) -> anyhow::Result<()> {
        self.content()?.redirects.insert(format!("/v2/{name}/blobs/{blob}"), location.to_owned());
        Ok(())
    }

    /// Removes a blob.
    pub fn forget(&self, name: &str, blob: &str) -> anyhow::Result<()> {
        self.content()?.files.remove(&format!("/v2/{name}/blobs/{blob}"));
        Ok(())
    }

    /// All requests so far, each with its head first.
    pub fn heads(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.content()?.heads.clone())
    }

    /// How often a blob was fetched with GET.
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

/// Answers one request for each connection.
async fn answer(mut stream: TcpStream, content: &Mutex<Content>) -> anyhow::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        anyhow::ensure!(read > 0 && request.len() < 1 << 20, "no request");
        request.extend_from_slice(&buffer[..read]);
    }
    // A request with a form has a body, which is small.
    let head = String::from_utf8_lossy(&request).to_lowercase();
    let start = head.find("\r\n\r\n").context("head")? + 4;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    while request.len() < start + length {
        let read = stream.read(&mut buffer).await?;
        anyhow::ensure!(read > 0 && request.len() < 1 << 20, "no body");
        request.extend_from_slice(&buffer[..read]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (status, extra, kind, body) =
        look_up(&mut *content.lock().map_err(|_| anyhow::anyhow!("poisoned"))?, method, path, &request);
    if method == "GET" && path.contains("/blobs/") {
        // Slow enough that separate pulls of one image overlap.
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

/// A response: the status line, more headers, the content type and the body.
type Answer = (&'static str, String, String, Vec<u8>);

/// If tokens are required: issues them, and refuses requests without one. `None` if the request is allowed.
fn token(content: &mut Content, path: &str, request: &str) -> Option<Answer> {
    let wanted = content.refresh_token.clone()?;
    let json = "application/json".to_owned();
    if path.starts_with("/token") {
        let form = request.split("\r\n\r\n").nth(1).unwrap_or_default();
        let has = |pair: &str| form.split('&').any(|part| part == pair);
        if !(has("grant_type=refresh_token") && has(&format!("refresh_token={wanted}"))) {
            return Some(("401 Unauthorized", String::new(), json, b"{}".to_vec()));
        }
        let access = format!("access-{}", content.access_tokens.len());
        let body = serde_json::to_vec(&json!({"access_token": access, "expires_in": 300})).unwrap_or_default();
        content.access_tokens.push(access);
        return Some(("200 OK", String::new(), json, body));
    }
    if content.access_tokens.iter().any(|access| request.contains(&format!("Bearer {access}"))) {
        return None;
    }
    let host = request.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
    let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"e2e\"\r\n");
    Some(("401 Unauthorized", challenge, json, b"{\"errors\":[{\"code\":\"UNAUTHORIZED\"}]}".to_vec()))
}

fn look_up(content: &mut Content, method: &str, path: &str, request: &str) -> Answer {
    let json = "application/json".to_owned();
    content.heads.push(request.to_owned());
    // Compare the value only: header names come in upper or lower case, and nothing else in a request is base64.
    if content.authorization.as_ref().is_some_and(|wanted| !request.contains(wanted.as_str())) {
        let challenge = "WWW-Authenticate: Basic realm=\"e2e\"\r\n".to_owned();
        return ("401 Unauthorized", challenge, json, b"{\"errors\":[{\"code\":\"UNAUTHORIZED\"}]}".to_vec());
    }
    if let Some(refusal) = token(content, path, request) {
        return refusal;
    }
    if path.trim_end_matches('/') == "/v2" {
        return ("200 OK", String::new(), json, b"{}".to_vec());
    }
    let path = path.split('?').next().unwrap_or(path);
    if let Some(location) = content.redirects.get(path) {
        return ("307 Temporary Redirect", format!("Location: {location}\r\n"), json, Vec::new());
    }
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
