//! Warns of what the configuration names and the node does not have. It may be installed later, so it does not keep
//! Pontoon from starting.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, File, Handler};
use crate::containerd::Plugin;
use crate::joined::run_blocking;
use crate::tasks::Tasks;

const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// The longest label of DNS (RFC 1123).
const LONGEST_LABEL: usize = 63;

/// A key of the configuration, and what it names that is not there.
type Warning = (String, String);

/// Looks in the background: a file system that does not answer must not delay the start. `containerd` is the process
/// id of containerd, whose environment the runtimes get.
pub(super) fn warn(config: &Config, plugins: &[Plugin], containerd: u64, tasks: &Tasks) {
    let (config, plugins) = (config.clone(), plugins.to_vec());
    tasks.background(run_blocking(move || {
        let path = path_of(containerd).or_else(|| env::var_os("PATH")).unwrap_or_default();
        for (key, problem) in warnings(&config, &plugins, &path) {
            tracing::warn!("config key {key}: {problem}");
        }
    }));
}

fn warnings(config: &Config, plugins: &[Plugin], path: &OsStr) -> Vec<Warning> {
    let mut all = Vec::new();
    all.extend(snapshotter("images.snapshotter".to_owned(), &config.images.snapshotter, plugins));
    all.extend(directories(config));
    all.extend(config.cni.conf_template.as_ref().and_then(|file| missing_file("cni.conf_template".to_owned(), file)));
    for handler in config.handlers.iter() {
        all.extend(of_handler(handler, plugins, path));
    }
    let default = config.handlers.default_handler();
    let other = config.handlers.iter().filter(|handler| handler.name != default.name);
    all.extend(other.filter(|handler| !is_label(&handler.name)).map(|handler| {
        let problem =
            "no RuntimeClass can name this handler: only lower-case letters, digits and \"-\" are allowed there";
        (format!("runtimes.{}", handler.name), problem.to_owned())
    }));
    all
}

fn of_handler(handler: &Handler, plugins: &[Plugin], path: &OsStr) -> Vec<Warning> {
    let key = |key: &str| format!("runtimes.{}.{key}", handler.name);
    let own = handler.snapshotter.as_ref();
    let snapshotter = own.and_then(|name| snapshotter(key("snapshotter"), name, plugins));
    let program = handler.options.program().and_then(|name| program(&name, path));
    let program = program.map(|problem| (key("options.BinaryName"), problem));
    let config = handler.options.config_path();
    let config = config.and_then(|file| missing_file(key("options.ConfigPath"), Path::new(&file)));
    let cni = handler.cni.as_ref().and_then(|cni| missing_directory(key("cni_conf_dir"), &cni.path));
    [snapshotter, program, config, cni].into_iter().flatten().collect()
}

fn snapshotter(key: String, name: &str, plugins: &[Plugin]) -> Option<Warning> {
    let all = || plugins.iter().filter(|plugin| plugin.kind == SNAPSHOTTER);
    let problem = match all().find(|plugin| plugin.id == name) {
        Some(plugin) => format!("containerd has not loaded its snapshotter {name:?}: {}", plugin.init_error.as_ref()?),
        None => {
            let loaded = all().filter(|plugin| plugin.init_error.is_none());
            let loaded: Vec<&str> = loaded.map(|plugin| plugin.id.as_str()).collect();
            format!("containerd has no snapshotter {name:?}; it has {}", loaded.join(", "))
        }
    };
    Some((key, problem))
}

/// A runtime's program, which its shim searches in containerd's PATH.
fn program(name: &str, path: &OsStr) -> Option<String> {
    if name.contains('/') {
        return (!is_executable(Path::new(name))).then(|| format!("there is no executable file {name}"));
    }
    let is_found = env::split_paths(path).any(|directory| is_executable(&directory.join(name)));
    (!is_found).then(|| format!("there is no program {name:?} in containerd's PATH ({})", path.display()))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Directories that are not there. Few nodes have all default ones, so only others are reported. Of the directories of
/// CNI plugins one has to be there.
fn directories(config: &Config) -> Vec<Warning> {
    let default = File::default();
    let mut all = Vec::new();
    if !config.cni.bin_dirs.iter().any(|directory| directory.is_dir()) {
        let problem = format!("there is no directory {}, so no CNI plugin is found", list(&config.cni.bin_dirs));
        all.push(("cni.bin_dirs".to_owned(), problem));
    }
    let split =
        |paths: &str| -> Vec<PathBuf> { paths.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect() };
    for (key, paths, default) in [
        ("seccomp_profile_roots", config.seccomp_profile_roots.clone(), default.seccomp_profile_roots),
        ("cdi.spec_dirs", config.cdi.spec_dirs.clone(), default.cdi.spec_dirs),
        (
            "images.registry_config_path",
            split(&config.images.registry_config_path),
            split(&default.images.registry_config_path),
        ),
    ] {
        let own = paths.iter().filter(|path| !default.contains(path));
        all.extend(own.filter_map(|path| missing_directory(key.to_owned(), path)));
    }
    all
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

fn missing_directory(key: String, path: &Path) -> Option<Warning> {
    (!path.is_dir()).then(|| (key, format!("there is no directory {}", path.display())))
}

fn missing_file(key: String, path: &Path) -> Option<Warning> {
    (!path.is_file()).then(|| (key, format!("there is no file {}", path.display())))
}

/// Whether a RuntimeClass can have this name as its `handler`.
fn is_label(name: &str) -> bool {
    let may_have = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= LONGEST_LABEL && name.chars().all(may_have) && !name.starts_with('-') && !name.ends_with('-')
}

/// PATH in the environment of a process.
fn path_of(pid: u64) -> Option<OsString> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let path = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"PATH="))?;
    Some(OsString::from_vec(path.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeFlags;

    /// The warnings of a configuration file, with an executable `runc` in PATH.
    fn warned(text: &str) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let (file, bin) = (place.path().join("config.toml"), place.path().join("bin"));
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("runc"), "").unwrap();
        fs::set_permissions(bin.join("runc"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(bin.join("text"), "").unwrap();
        fs::set_permissions(bin.join("text"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, text.replace("PLACE", &place.path().display().to_string())).unwrap();
        let config = Config::load(&ServeFlags { config: Some(file), ..ServeFlags::default() }).unwrap();
        let plugin = |id: &str, init_error: Option<&str>| Plugin {
            kind: SNAPSHOTTER.to_owned(),
            id: id.to_owned(),
            capabilities: Vec::new(),
            exports: Default::default(),
            init_error: init_error.map(str::to_owned),
        };
        let plugins = [plugin("native", None), plugin("overlayfs", None), plugin("zfs", Some("no zfs here"))];
        let warnings = warnings(&config, &plugins, bin.as_os_str());
        let place = place.path().display().to_string();
        warnings.into_iter().map(|(key, problem)| format!("{key}: {}", problem.replace(&place, "PLACE"))).collect()
    }

    const CNI: &str = "[cni]\nbin_dirs = [\"PLACE/bin\"]\n";

    #[test]
    fn a_node_that_has_everything_has_no_warning() {
        assert_eq!(warned(CNI), Vec::<String>::new());
    }

    #[test]
    fn a_snapshotter_that_containerd_lacks_is_named_with_those_it_has() {
        let text = format!(
            "default_runtime = \"a\"\n{CNI}[images]\nsnapshotter = \"overlay\"\n[runtimes.a]\nsnapshotter = \"zfs\"\n[runtimes.b]\nsnapshotter = \"native\"\n"
        );
        let told = [
            "images.snapshotter: containerd has no snapshotter \"overlay\"; it has native, overlayfs",
            "runtimes.a.snapshotter: containerd has not loaded its snapshotter \"zfs\": no zfs here",
        ];
        assert_eq!(warned(&text), told);
    }

    #[test]
    fn a_runtimes_program_that_is_not_there_is_named() {
        let of = |binary: &str| warned(&format!("{CNI}[runtimes.runc.options]\nBinaryName = {binary:?}\n"));
        assert_eq!(of("PLACE/bin/runc"), Vec::<String>::new());
        for absent in ["PLACE/bin/none", "PLACE/bin/text", "PLACE/bin"] {
            let told = format!("runtimes.runc.options.BinaryName: there is no executable file {absent}");
            assert_eq!(of(absent), [told]);
        }
        let told = "runtimes.runc.options.BinaryName: there is no program \"crun\" in containerd's PATH (PLACE/bin)";
        assert_eq!(of("crun"), [told]);
    }

    #[test]
    fn files_and_directories_that_are_not_there_are_named() {
        let text = "default_runtime = \"kata\"\nseccomp_profile_roots = [\"/var/lib/kubelet/seccomp\", \"PLACE/none\"]\n\
                    [cni]\nbin_dirs = [\"PLACE/a\", \"PLACE/b\"]\nconf_template = \"PLACE/template\"\n\
                    [cdi]\nspec_dirs = [\"PLACE/bin\", \"PLACE/cdi\"]\n[images]\nregistry_config_path = \"PLACE/certs.d\"\n\
                    [runtimes.kata]\ntype = \"io.containerd.kata.v2\"\ncni_conf_dir = \"PLACE/kata.d\"\n\
                    options.ConfigPath = \"PLACE/kata.toml\"\n";
        let told = [
            "cni.bin_dirs: there is no directory PLACE/a or PLACE/b, so no CNI plugin is found",
            "seccomp_profile_roots: there is no directory PLACE/none",
            "cdi.spec_dirs: there is no directory PLACE/cdi",
            "images.registry_config_path: there is no directory PLACE/certs.d",
            "cni.conf_template: there is no file PLACE/template",
            "runtimes.kata.options.ConfigPath: there is no file PLACE/kata.toml",
            "runtimes.kata.cni_conf_dir: there is no directory PLACE/kata.d",
        ];
        assert_eq!(warned(text), told);
    }

    #[test]
    fn a_handler_that_no_runtime_class_can_name_causes_a_warning() {
        let text =
            format!("default_runtime = \"My_Own\"\n{CNI}[runtimes.My_Own]\n[runtimes.My_Other]\n[runtimes.good-1]\n");
        let told = warned(&text);
        assert!(told.len() == 1 && told[0].starts_with("runtimes.My_Other: no RuntimeClass"), "{told:?}");
    }

    #[test]
    fn the_path_of_a_process_is_in_its_environment() {
        assert_eq!(path_of(std::process::id().into()), env::var_os("PATH"));
        assert_eq!(path_of(0), None);
    }
}
