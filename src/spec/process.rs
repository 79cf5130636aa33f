//! A container's process: arguments, environment, working directory.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;

use super::env::Env;
use super::{ContainerInput, Error};

/// The search path of a shell without a profile.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `command` replaces the image's entrypoint and cmd, `args` only the cmd.
pub(super) fn args(input: &ContainerInput<'_>) -> Result<Vec<String>, Error> {
    let (command, args) = (&input.config.command, &input.config.args);
    // Some builders write "no entrypoint" as a single empty string.
    let entrypoint = if input.image.entrypoint == [""] { &Vec::new() } else { &input.image.entrypoint };
    let (first, rest) = match (command.is_empty(), args.is_empty()) {
        (false, _) => (command, args.as_slice()),
        (true, false) => (entrypoint, args.as_slice()),
        (true, true) => (entrypoint, input.image.cmd.as_slice()),
    };
    let all: Vec<String> = first.iter().chain(rest).cloned().collect();
    if all.is_empty() {
        return Err(Error::invalid("config.command", "is empty, and the image has neither an entrypoint nor a cmd"));
    }
    Ok(all)
}

/// Variables of the handler's spec, HOSTNAME, then those of the image, then those of the request. The last value of a
/// name wins, at the position of the first.
pub(super) fn env(input: &ContainerInput<'_>, base: Vec<String>) -> Result<Vec<String>, Error> {
    let mut env = Env::default();
    env.set(DEFAULT_PATH.to_owned());
    env.extend(base);
    if input.config.tty {
        env.set("TERM=xterm".to_owned());
    }
    env.set(format!("HOSTNAME={}", input.hostname));
    env.extend(input.image.env.iter().cloned());
    for (index, entry) in input.config.envs.iter().enumerate() {
        let field = format!("config.envs[{index}]");
        if entry.key.is_empty() || entry.key.contains(['=', '\0']) {
            return Err(Error::invalid(field + ".key", "is empty or has a = or a zero byte"));
        }
        // The OCI spec is JSON: a value that is not UTF-8 cannot be carried, so it is refused rather than mangled.
        let value = String::from_utf8(entry.value.clone())
            .map_err(|_| Error::invalid(format!("{field}.value"), format!("of {} is not UTF-8", entry.key)))?;
        if value.contains('\0') {
            return Err(Error::invalid(field + ".value", "has a zero byte"));
        }
        env.set(format!("{}={value}", entry.key));
    }
    Ok(env.into_vec())
}

/// The working directory: the request's, the image's, or the root. Never a path through a process's open files: with a
/// leaked descriptor of the host, such a path led out of the container (CVE-2024-21626).
pub(super) fn cwd(input: &ContainerInput<'_>) -> Result<PathBuf, Error> {
    let asked = &input.config.working_dir;
    let field = if asked.is_empty() { "the image's working directory" } else { "config.working_dir" };
    let chosen = [asked, &input.image.working_dir].into_iter().find(|path| !path.is_empty());
    let path = PathBuf::from(chosen.map_or("/", String::as_str));
    if !path.is_absolute() {
        return Err(Error::invalid(field, format!("{} is not absolute", path.display())));
    }
    if is_open_file(&path) {
        return Err(Error::invalid(field, format!("{} leads through open files", path.display())));
    }
    Ok(path)
}

/// Checked after each component, not only for the whole path: what follows `fd/7`, even a `..`, is resolved by the
/// kernel relative to where the descriptor leads.
fn is_open_file(path: &Path) -> bool {
    let mut clean: Vec<&std::ffi::OsStr> = Vec::new();
    path.components().any(|part| {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            std::path::Component::RootDir | std::path::Component::CurDir | std::path::Component::Prefix(_) => {}
        }
        clean.first().is_some_and(|first| *first == "proc") && clean.last().is_some_and(|last| *last == "fd")
    })
}

/// The process of a command in a running container. It is derived from the container's own process: its user,
/// environment, directory and capabilities. Only ambient capabilities are inheritable, even if an old spec has more
/// (CVE-2022-29162).
#[must_use]
pub fn exec_process(mut process: Process, cmd: &[String], tty: bool) -> Process {
    process.set_args(Some(cmd.to_vec())).set_terminal(Some(tty));
    if let Some(mut capabilities) = process.capabilities().clone() {
        let ambient = capabilities.ambient().clone();
        capabilities.set_inheritable(ambient);
        process.set_capabilities(Some(capabilities));
    }
    if tty {
        let mut env: Env = process.env_mut().take().unwrap_or_default().into_iter().collect();
        env.set("TERM=xterm".to_owned());
        process.set_env(Some(env.into_vec()));
    }
    process
}
