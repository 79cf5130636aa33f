//! Tests with fake plugins: shell scripts that record what they were given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::api::v1;

mod attach;
mod follow;
mod plugins;
mod real;
mod running;

/// The CNI directories of a node.
struct Node {
    dir: tempfile::TempDir,
    settings: Settings,
}

/// A script that records operation, interface, netns and config, and prints `answer`.
fn noting(answer: &str) -> String {
    format!(
        "config=$(cat)\nprintf '%s\\n' \"$CNI_COMMAND ${{0##*/}} $CNI_IFNAME [$CNI_NETNS] $CNI_ARGS\" >>\"$LOG\"\n\
         printf '%s' \"$config\" >\"$DIR/$CNI_COMMAND-${{0##*/}}.json\"\n\
         [ \"$CNI_COMMAND\" = ADD ] && cat <<'END'\n{answer}\nEND\nexit 0\n"
    )
}

fn result(ip: &str) -> String {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/n"}],
        "ips": [{"address": format!("{ip}/24"), "interface": 0}],
    })
    .to_string()
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let settings = Settings {
            configs: ConfigDir { path: path("net.d"), limit: 1 },
            bin_dirs: vec![path("other"), path("bin")],
            cache_dir: path("cache"),
            state_dir: path("running"),
            ..Settings::default()
        };
        for name in ["net.d", "bin"] {
            fs::create_dir(path(name)).unwrap();
        }
        Self { dir, settings }
    }

    /// A node with a conflist of two recording plugins.
    fn with_chain(version: &str) -> Self {
        let node = Self::new();
        node.plugin("first", &noting(&result("10.0.0.1")));
        node.plugin("second", &noting(&result("10.0.0.2")));
        node.config("10-net.conflist", &chain(version, "net"));
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn plugin(&self, name: &str, script: &str) {
        let at = self.path("bin").join(name);
        let dir = self.dir.path().display();
        fs::write(&at, format!("#!/bin/sh\nDIR={dir}\nLOG=$DIR/log\n{script}")).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn config(&self, name: &str, text: &str) {
        fs::write(self.settings.configs.path.join(name), text).unwrap();
    }

    fn start(&self) -> Network {
        Network::start(self.settings.clone(), &Tasks::default())
    }

    /// The operations so far, without CNI_ARGS.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    }

    /// The config that a plugin was given last for an operation.
    fn given(&self, verb: &str, plugin: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(&format!("{verb}-{plugin}.json"))).unwrap()).unwrap()
    }

    fn cache_files(&self) -> Vec<String> {
        let all = fs::read_dir(self.path("cache/results")).into_iter().flatten();
        all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn cached(&self) -> Value {
        let files = self.cache_files();
        assert_eq!(files.len(), 1, "{files:?}");
        serde_json::from_slice(&fs::read(self.path("cache/results").join(&files[0])).unwrap()).unwrap()
    }
}

fn chain(version: &str, name: &str) -> String {
    let capabilities = json!({"portMappings": true, "dns": false, "bandwidth": true});
    let plugins = json!([{"type": "first", "mtu": 1400}, {"type": "second", "capabilities": capabilities}]);
    json!({"cniVersion": version, "name": name, "plugins": plugins}).to_string()
}

fn sandbox() -> Attachment {
    let metadata = v1::PodSandboxMetadata {
        name: "web-0".to_owned(),
        namespace: "shop".to_owned(),
        uid: "u1".to_owned(),
        attempt: 0,
    };
    let port = v1::PortMapping { protocol: 1, container_port: 53, host_port: 5353, host_ip: String::new() };
    let config = v1::PodSandboxConfig {
        metadata: Some(metadata),
        port_mappings: vec![port],
        dns_config: Some(v1::DnsConfig::default()),
        ..v1::PodSandboxConfig::default()
    };
    Attachment::new(&SandboxId::random(), &config, Some("/n".into()), None)
}

/// Prepares and runs ADD.
async fn attach(network: &Network, sandbox: &Attachment) -> Result<Attached, Error> {
    network.attach(network.prepare(sandbox).await?).await
}

/// Waits until the condition holds; processes and inotify need some time.
async fn within(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !so() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

fn is_alive(pid: &str) -> bool {
    // A killed orphan stays a zombie if its new parent does not reap it.
    let status = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    !matches!(status.rsplit(')').next().unwrap_or_default().trim().chars().next(), None | Some('Z'))
}
