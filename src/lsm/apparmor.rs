//! AppArmor: which profiles are loaded, and Pontoon's default profile.
//!
//! The default profile grants the same as containerd's and Docker's, but the text is our own. Its name has a version: a
//! loaded profile is never replaced under running containers, so a new text gets a new name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;

/// Name of the default profile.
pub const DEFAULT_PROFILE: &str = "pontoon-default-v1";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// The directory that apparmor_parser searches for included files.
const INCLUDES: &str = "/etc/apparmor.d";
/// Absolute paths, because the PATH of a service may lack sbin.
const PARSERS: [&str; 3] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];
/// Compiling takes less than a second.
const PARSER_DEADLINE: Duration = Duration::from_secs(30);

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The profile is not loaded.
    #[error("AppArmor profile {0:?} is not loaded")]
    NotLoaded(String),
    /// The list of loaded profiles cannot be read.
    #[error("read {PROFILES}")]
    List(#[source] io::Error),
    /// apparmor_parser failed to load the default profile.
    #[error("load AppArmor profile {DEFAULT_PROFILE}: {0}")]
    Load(String),
}

/// The profiles of the node.
#[derive(Debug)]
pub struct Profiles {
    /// The profiles of processes that send signals to containers.
    peers: Vec<String>,
    /// Serializes loading: other callers wait and find the profile loaded.
    loading: Mutex<()>,
}

/// Whether profiles can be used: AppArmor is enabled, and its list of profiles exists.
#[must_use]
pub fn is_enabled() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|on| on.starts_with('Y')) && Path::new(PROFILES).exists()
}

impl Profiles {
    /// `runtime` is the pid of the process whose children send signals to containers: containerd.
    #[must_use]
    pub fn new(runtime: u64) -> Self {
        let current = fs::read_to_string(format!("/proc/{runtime}/attr/current")).unwrap_or_default();
        // Shims and runtimes may have profiles of their own; distributions use these names.
        let mut peers = ["unconfined", "runc", "crun"].map(str::to_owned).to_vec();
        peers.extend(profile_name(&current).filter(|name| !peers.contains(name)));
        Self { peers, loading: Mutex::default() }
    }

    /// Makes sure that a profile is loaded, and loads the default one if it is not. This is checked for each container:
    /// tools such as aa-remove-unknown unload profiles that have no file in /etc/apparmor.d.
    ///
    /// # Errors
    /// The profile is not loaded, or that cannot be determined; a container must not start then.
    pub async fn require(&self, name: &str) -> Result<(), Error> {
        if is_loaded(name)? {
            return Ok(());
        }
        if name != DEFAULT_PROFILE {
            return Err(Error::NotLoaded(name.to_owned()));
        }
        let _one = self.loading.lock().await;
        if is_loaded(name)? {
            return Ok(());
        }
        let has = |file: &str| Path::new(INCLUDES).join(file).exists();
        load(&text(&self.peers, has)).await?;
        if is_loaded(name)? {
            tracing::info!(profile = name, "loaded");
            return Ok(());
        }
        Err(Error::Load("apparmor_parser succeeded, but the kernel does not list it".to_owned()))
    }
}

fn is_loaded(name: &str) -> Result<bool, Error> {
    fs::read_to_string(PROFILES).map(|list| lists(&list, name)).map_err(Error::List)
}

/// Lines have the form `name (mode)`; a name may contain spaces.
fn lists(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(listed, _)| listed == name))
}

/// The profile name in the content of a process's attr/current, if it can be used in a rule without quoting.
fn profile_name(current: &str) -> Option<String> {
    let name = current.trim_end_matches(['\0', '\n']).rsplit_once(" (").map_or(current, |(name, _)| name).trim();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    (!name.is_empty() && name.bytes().all(plain)).then(|| name.to_owned())
}

async fn load(text: &str) -> Result<(), Error> {
    run(&parser(&PARSERS)?, text, PARSER_DEADLINE).await
}

fn parser(places: &[&str]) -> Result<PathBuf, Error> {
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| Error::Load("there is no apparmor_parser (package apparmor)".to_owned()))
}

async fn run(parser: &Path, text: &str, deadline: Duration) -> Result<(), Error> {
    let failed = |why: String| Error::Load(format!("{}: {why}", parser.display()));
    let mut command = Command::new(parser);
    // Bypass the cache for reading and writing: the profile has no file.
    command.args(["--replace", "--skip-cache"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = async {
        let mut child = command.kill_on_drop(true).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // If the parser exits before it has read everything, its own message explains more than "broken pipe".
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(deadline, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("did not end within {deadline:?}"))),
    };
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, words.trim())))
}

/// The text of the default profile. `has` says which of the distribution's files exist for inclusion.
fn text(peers: &[String], has: impl Fn(&str) -> bool) -> String {
    let mut text = String::from("# Of Pontoon, for containers that ask for no other profile.\n");
    // Without it, a newer parser would mediate more than these rules were written for.
    if has("abi/3.0") {
        text += "abi <abi/3.0>,\n";
    }
    text += if has("tunables/global") { "include <tunables/global>\n" } else { "@{PROC}=/proc/\n" };
    text += &format!("profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{\n");
    if has("abstractions/base") {
        text += "  include <abstractions/base>\n";
    }
    text += ALLOWED;
    for peer in peers {
        text += &format!("  signal (receive) peer={peer},\n");
    }
    text += &format!("  signal (send, receive) peer={DEFAULT_PROFILE},\n");
    text += &format!("  ptrace (trace, tracedby, read, readby) peer={DEFAULT_PROFILE},\n");
    text + DENIED + "}\n"
}

/// Namespaces, capabilities and the cgroup limit these permissions; the rules in [`DENIED`] remove more.
const ALLOWED: &str = "
  network,
  capability,
  file,
  umount,
";

const DENIED: &str = "
  deny mount,

  # /proc belongs to processes, but for what is namespaced: sys/kernel/shm*. Names of processes begin with a digit.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9s]*,s[^y]*,sy[^s]*,sys?*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s]*,s[^h]*,sh[^m]*} w,
  deny @{PROC}/sys/kernel/{[^s]*,s[^h]*,sh[^m]*}/** w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  # Of /sys, cgroups alone are written to.
  deny /sys/{[^f]*,f[^s]*,fs/[^c]*,fs/c[^g]*,fs/cg[^r]*}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_loaded_by_its_whole_name() {
        let list = "pontoon-default-v1 (enforce)\n/usr/bin/man (enforce)\nwith space (complain)\nhttpd (a) (kill)\n";
        for name in ["pontoon-default-v1", "/usr/bin/man", "with space", "httpd (a)"] {
            assert!(lists(list, name), "{name}");
        }
        for name in ["pontoon-default", "with", "", "httpd", "pontoon-default-v1 (enforce)"] {
            assert!(!lists(list, name), "{name}");
        }
    }

    #[test]
    fn whoever_starts_containers_may_signal_them() {
        assert_eq!(profile_name("unconfined\n").as_deref(), Some("unconfined"));
        assert_eq!(profile_name("/usr/bin/containerd (enforce)\n").as_deref(), Some("/usr/bin/containerd"));
        // No text from the kernel can add a rule.
        assert!(profile_name("x,\n capability").is_none() && profile_name("").is_none());
        let text = text(&["unconfined".to_owned(), "cd".to_owned()], |_| false);
        assert!(text.contains("signal (receive) peer=unconfined,") && text.contains("signal (receive) peer=cd,"));
    }

    #[test]
    fn only_what_is_there_is_included() {
        let bare = text(&[], |_| false);
        assert!(!bare.contains("include") && !bare.contains("abi <") && bare.contains("@{PROC}=/proc/"));
        let full = text(&[], |_| true);
        assert!(full.contains("include <tunables/global>") && full.contains("abi <abi/3.0>,"));
    }

    #[tokio::test]
    async fn the_error_for_a_profile_that_cannot_be_loaded_has_the_parsers_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("parser");
        // Larger than a pipe's buffer, so that the write is still in progress when the parser exits.
        let text = "#".repeat(200_000);
        let told = async |script: &str, deadline: Duration| {
            // Written by another process. If this one had the script open for writing, a child that another test forks at
            // that moment would have it too, and the script could not be executed before the child is another program.
            let (source, to) = (directory.path().join("source"), &path);
            fs::write(&source, format!("#!/bin/sh\n{script}\n")).unwrap();
            let installed = std::process::Command::new("install").arg("--mode=755").arg(source).arg(to).status();
            assert!(installed.unwrap().success());
            let error = run(&path, &text, deadline).await.unwrap_err().to_string();
            error.replace(&path.display().to_string(), "PARSER")
        };
        let begin = "load AppArmor profile pontoon-default-v1: PARSER:";
        let refused = told("echo permission denied >&2; exit 3", PARSER_DEADLINE).await;
        assert_eq!(refused, format!("{begin} exit status: 3: permission denied"));
        let stuck = told("exec sleep 600", Duration::from_millis(20)).await;
        assert_eq!(stuck, format!("{begin} did not end within 20ms"));
        fs::remove_file(&path).unwrap();
        let missing = parser(&[path.to_str().unwrap()]).unwrap_err().to_string();
        assert_eq!(missing, "load AppArmor profile pontoon-default-v1: there is no apparmor_parser (package apparmor)");
    }

    /// Compiles the profile with the parser, on any kernel, without loading it.
    #[test]
    #[ignore = "needs apparmor_parser"]
    fn the_default_profile_is_valid() {
        let parser = parser(&PARSERS).unwrap();
        for has in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("profile");
            let peers = Profiles::new(std::process::id().into()).peers;
            fs::write(&file, text(&peers, |path| has && Path::new(INCLUDES).join(path).exists())).unwrap();
            let output = std::process::Command::new(&parser).args(["-Q", "-K"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
