//! A panic ends the daemon (docs/adr/0028): it is a bug, and after it nothing in memory can be trusted. systemd starts
//! the daemon again, and recovery takes up each pod.

use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;

/// From here on, a panic of any thread is logged and then ends the process by SIGABRT. The release profile would abort
/// anyway (`panic = "abort"`). The dev profile unwinds, and this makes its daemon, which tests/server runs, behave the
/// same.
pub(super) fn end_the_process() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A filter of the log may drop errors, but the last words of the daemon must not be lost.
        if tracing::enabled!(tracing::Level::ERROR) {
            log(panic);
        } else {
            print(panic);
        }
        std::process::abort();
    }));
}

/// stderr has no buffer, so the lines are written when this returns.
fn log(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let reason = panic.payload_as_str().unwrap_or("a value that is not text");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    tracing::error!(thread, reason, "panicked at {location}: the daemon ends");
    // On a line of its own, because it needs memory and may fail.
    tracing::error!("backtrace of the panic:\n{}", Backtrace::force_capture());
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;
    use crate::config::{Config, ServeFlags};
    use crate::daemon::logging;
    use crate::sys::dump;

    /// Tells this test program that it is the child process, and names its configuration file.
    const CONFIG: &str = "PONTOON_TEST_PANICS_WITH_CONFIG";
    const TEST: &str = "daemon::panics::tests::a_panic_is_logged_and_ends_the_process";

    #[test]
    fn a_panic_is_logged_and_ends_the_process() {
        if let Some(file) = std::env::var_os(CONFIG) {
            panic_as_a_daemon(&file);
        }
        let text = stderr_of_a_panic("format = \"text\"");
        let line = text.lines().find(|line| line.contains("panicked at src/daemon/panics.rs:")).unwrap();
        assert!(line.contains("ERROR"), "{line}");
        assert!(
            line.contains(r#"thread="a-thread""#) && line.contains(r#"reason="a \"bug\"\nof two lines""#),
            "{line}"
        );

        let json = stderr_of_a_panic("format = \"json\"");
        let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [panic, backtrace] = &lines[..] else { panic!("{json}") };
        assert!(panic["message"].as_str().unwrap().starts_with("panicked at src/daemon/panics.rs:"), "{panic}");
        assert_eq!((&panic["level"], &panic["thread"]), (&"ERROR".into(), &"a-thread".into()));
        assert_eq!(panic["reason"], "a \"bug\"\nof two lines");
        assert!(backtrace["message"].as_str().unwrap().contains("panic_in_a_thread"), "{backtrace}");

        let silent = stderr_of_a_panic("level = \"off\"");
        assert!(silent.contains("panicked at src/daemon/panics.rs:"), "{silent}");
    }

    /// What a process with these lines in `[log]` writes to stderr when it panics.
    fn stderr_of_a_panic(log: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        fs::write(&file, format!("[log]\n{log}\n")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ended = child.args([TEST, "--exact", "--nocapture"]).env(CONFIG, file).output().unwrap();
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
        assert!(!ended.status.core_dumped(), "a core file has the credentials of registries");
        String::from_utf8(ended.stderr).unwrap()
    }

    fn panic_as_a_daemon(file: &OsStr) {
        dump::forbid().unwrap();
        let flags = ServeFlags { config: Some(file.into()), ..ServeFlags::default() };
        logging::start(&Config::load(&flags).unwrap()).unwrap();
        end_the_process();
        let thread = std::thread::Builder::new().name("a-thread".to_owned());
        let _ = thread.spawn(panic_in_a_thread).unwrap().join();
        // Not reached. Without this the child would start children of its own.
        std::process::exit(1);
    }

    fn panic_in_a_thread() {
        panic!("a \"bug\"\nof two lines");
    }

    #[test]
    fn the_unit_starts_it_again_and_writes_no_core_file() {
        let unit = include_str!("../../systemd/pontoon.service");
        for setting in ["Restart=always", "StartLimitIntervalSec=0", "LimitCORE=0"] {
            assert!(unit.lines().any(|line| line == setting), "{setting}");
        }
    }
}
