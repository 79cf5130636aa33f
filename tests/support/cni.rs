//! A CNI plugin that gives each pod an unused address, logs its calls, and fails or hangs when a file tells it to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

/// The address of every pod.
pub const ADDRESS: &str = "10.88.0.7";

/// A hanging command goes on by itself after this time.
pub const LONGEST_HANG: Duration = Duration::from_secs(10);

const PLUGIN: &str = r#"
cat >/dev/null
case $CNI_COMMAND in ADD|DEL) ;; *) exit 0 ;; esac
[ "$CNI_COMMAND" = DEL ] || echo "ADD $CNI_CONTAINERID" >>"$dir/log"
tries=0
case "$CNI_COMMAND;$CNI_ARGS;" in ADD*";K8S_POD_NAME=stuck-"*)
    while [ -e "$dir/hang-stuck" ] && [ $tries -lt 60 ]; do sleep 0.5; tries=$((tries + 1)); done ;;
esac
tries=0
while [ -e "$dir/hang-$CNI_COMMAND" ] && [ $tries -lt 500 ]; do sleep 0.02; tries=$((tries + 1)); done
if [ -e "$dir/fail-$CNI_COMMAND" ]; then
    echo '{"cniVersion":"1.0.0","code":11,"msg":"told to fail"}'
    exit 1
fi
if [ "$CNI_COMMAND" = DEL ]; then echo "DEL $CNI_CONTAINERID" >>"$dir/log"; exit 0; fi
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.88.0.7/24","interface":0}]}'
"#;

/// The plugin, its network configuration, and the log of its calls.
pub struct Cni {
    directory: PathBuf,
}

impl Cni {
    /// Installs plugin and configuration below a directory.
    pub fn install(directory: &Path) -> Self {
        let this = Self { directory: directory.to_owned() };
        for path in [this.conf_dir(), this.bin_dir()] {
            fs::create_dir_all(path).unwrap();
        }
        let network = json!({ "cniVersion": "1.0.0", "name": "fake", "plugins": [{ "type": "fakenet" }] });
        fs::write(this.conf_dir().join("10-fake.conflist"), network.to_string()).unwrap();
        let plugin = this.bin_dir().join("fakenet");
        fs::write(&plugin, format!("#!/bin/sh\ndir='{}'\n{PLUGIN}", directory.display())).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        this
    }

    pub fn conf_dir(&self) -> PathBuf {
        self.directory.join("net.d")
    }

    pub fn bin_dir(&self) -> PathBuf {
        self.directory.join("bin")
    }

    pub fn cache_dir(&self) -> PathBuf {
        self.directory.join("cache")
    }

    /// Makes a command (ADD or DEL) fail until [`Cni::heal`].
    pub fn fail(&self, verb: &str) {
        fs::write(self.directory.join(format!("fail-{verb}")), "").unwrap();
    }

    /// Makes a command (ADD or DEL) hang until [`Cni::heal`].
    pub fn hang(&self, verb: &str) {
        fs::write(self.directory.join(format!("hang-{verb}")), "").unwrap();
    }

    /// Makes ADD hang for each pod whose name begins with `stuck-`, until [`Cni::heal`] or for half a minute.
    pub fn hang_stuck_pods(&self) {
        fs::write(self.directory.join("hang-stuck"), "").unwrap();
    }

    /// Removes all faults.
    pub fn heal(&self) {
        let _ = fs::remove_file(self.directory.join("hang-stuck"));
        for verb in ["ADD", "DEL"] {
            for kind in ["fail", "hang"] {
                let _ = fs::remove_file(self.directory.join(format!("{kind}-{verb}")));
            }
        }
    }

    /// The command and the container id of each call. A DEL is listed only when it succeeded.
    pub fn calls(&self) -> Vec<(String, String)> {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.lines().filter_map(|line| line.split_once(' ')).map(|(verb, id)| (verb.to_owned(), id.to_owned())).collect()
    }

    /// Attachments that were added and not deleted, and files in the cache.
    pub fn leftovers(&self) -> Vec<String> {
        let last: BTreeMap<String, String> = self.calls().into_iter().map(|(verb, id)| (id, verb)).collect();
        let kept = last
            .into_iter()
            .filter(|(_, verb)| verb == "ADD")
            .map(|(id, _)| format!("CNI has an ADD without DEL of {id}"));
        let results = fs::read_dir(self.cache_dir().join("results")).into_iter().flatten().flatten();
        let cached = results.map(|entry| format!("CNI has a cache file {}", entry.path().display()));
        kept.chain(cached).collect()
    }
}
