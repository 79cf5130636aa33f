//! A registry that serves what a test gives it: images that are broken, that want a password, and how often each blob
//! was fetched.

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

/// Content by path, and requests by path.
#[derive(Default)]
struct Content {
    files: HashMap<String, (String, Vec<u8>)>,
    gets: HashMap<String, usize>,
    /// Where requests for a path are sent on to.
    redirects: HashMap<String, String>,
    /// The head of each request.
    heads: Vec<String>,
    /// The header that every request must have.
    authorization: Option<String>,
    /// What an access token is given for, at `/token`; and the tokens that were given.
    refresh_token: Option<String>,
    access_tokens: Vec<String>,
}

/// Runs until it is dropped; known to the bed under its address.
pub struct Registry {
    /// `127.0.0.1:PORT`, the first part of its images' names.
    pub host: String,
    content: Arc<Mutex<Content>>,
    hosts_dir: PathBuf,
    _server: JoinSet<()>,
}

/// What an image says besides its layer, merged into the JSON that a plain one has.
#[derive(Default)]
pub struct Says {
    /// Into the image's config, `config` in it.
    pub config: Value,
    /// Into the layer's descriptor.
    pub layer: Value,
    /// Into the manifest.
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

    /// From now on only an access token is let in, which `/token` of the same host gives for this refresh token.
    pub fn require_token(&self, refresh_token: &str) -> anyhow::Result<()> {
        self.content()?.refresh_token = Some(refresh_token.to_owned());
        Ok(())
    }

    /// An image of one layer, `layer` being its compressed bytes and `diff_id` what they should unpack to. Its name.
    pub fn image(&self, name: &str, layer: &[u8], diff_id: &str) -> anyhow::Result<String> {
        self.image_that_says(name, layer, diff_id, &Says::default())
    }

    /// The same of an image that says more.
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

    /// Replaces a blob's bytes by others, whose digest is wrong then.
    pub fn corrupt(&self, name: &str, blob: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = format!("/v2/{name}/blobs/{blob}");
        self.content()?.files.get_mut(&path).context("no such blob")?.1 = bytes.to_vec();
        Ok(())
    }

    /// Sends requests for a blob on to `location`.
    pub fn redirect(&self, name: &str, blob: &str, location: &str) -> anyhow::Result<()> {
        self.content()?.redirects.insert(format!("/v2/{name}/blobs/{blob}"), location.to_owned());
        Ok(())
    }

    /// Takes a blob away.
    pub fn forget(&self, name: &str, blob: &str) -> anyhow::Result<()> {
        self.content()?.files.remove(&format!("/v2/{name}/blobs/{blob}"));
        Ok(())
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.content()?.heads.clone())
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
    // A form has a body, which is small.
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
type Answer = (&'static str, String, String, Vec<u8>);

/// Where tokens are wanted: gives them, and refuses who has none.
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
    // Header names come in either case; the value is the only base64 in there.
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
