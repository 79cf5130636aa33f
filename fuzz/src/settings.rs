//! The configuration file: src/config/.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use crate::config::{Config, ServeFlags};

thread_local! {
    /// One file for all runs of this process.
    static FILE: RefCell<PathBuf> = RefCell::new(std::env::temp_dir().join(format!("{}.toml", std::process::id())));
}

/// Loads a configuration file. An accepted configuration is valid.
///
/// # Panics
/// If an invalid configuration is accepted.
pub fn load(text: &[u8]) {
    let path = FILE.with_borrow(Clone::clone);
    fs::write(&path, text).expect("a scratch file");
    let Ok(config) = Config::load(&ServeFlags { config: Some(path), ..ServeFlags::default() }) else { return };
    let paths = [&config.socket, &config.root, &config.state, &config.netns_dir, &config.containerd.address];
    assert!(paths.into_iter().chain(&config.seccomp_profile_roots).all(|path| path.is_absolute()));
    let streaming = &config.streaming;
    assert!(streaming.tls.is_some() || streaming.address.ip().is_loopback(), "streaming is open to the network");
    assert!(!streaming.idle_timeout.is_zero());
    assert!(config.limits.execs > 0 && config.limits.streams > 0 && config.limits.exec_reply_budget >= 17);
    let default = config.handlers.default_handler();
    assert!(config.handlers.get("").is_some_and(|handler| handler.name == default.name));
    assert!(config.handlers.iter().all(|handler| handler.systemd_cgroup == default.systemd_cgroup));
}
