//! Checks the borders between modules (lib.rs, each module's mod.rs) and the sizes of files, by reading the source; and
//! that the program has no code for D-Bus.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most lines of production code that a file may have.
const LARGEST_FILE: usize = 400;
/// The most lines that main.rs may have.
const LARGEST_MAIN: usize = 39;

/// A source file without its comments and tests.
struct Source {
    /// Relative to `src`.
    path: String,
    /// Production code with line numbers. Comments are replaced by empty lines.
    lines: Vec<(usize, String)>,
}

impl Source {
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    /// The lines that contain a word.
    fn naming(&self, word: &str) -> Vec<String> {
        let lines = self.lines.iter().filter(|(_, line)| line.contains(word));
        lines.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }

    /// The lines that use a module.
    fn using(&self, module: &str) -> Vec<String> {
        let whole = |line: &str, at: usize| !line[at..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
        let uses = |line: &str| {
            let path = format!("crate::{module}");
            let direct = line.match_indices(&path).any(|(at, _)| whole(line, at + path.len()));
            // `use crate::{a, b::c};`
            let list = line.split_once("crate::{").is_some_and(|(_, list)| {
                let names = list.trim_end_matches(['}', ';', ' ']).split(',');
                names.map(|name| name.trim().split("::").next().unwrap_or_default()).any(|name| name == module)
            });
            direct || list
        };
        let lines = self.lines.iter().filter(|(_, line)| uses(line));
        lines.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }
}

/// All files of `src`. A file's production code ends at the first `#[cfg(test)] mod`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(read(&root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "the source was not found");
    found
}

fn read(root: &Path, path: &PathBuf) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let is_mod =
        |line: &str| line.trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ").starts_with("mod ");
    let tests =
        (0..lines.len()).find(|&at| lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|line| is_mod(line)));
    let code = |(number, line): (usize, &&str)| {
        let comment = line.trim_start().starts_with("//");
        (number + 1, if comment { String::new() } else { (*line).to_owned() })
    };
    Source {
        path: path.strip_prefix(root).unwrap().display().to_string(),
        lines: lines[..tests.unwrap_or(lines.len())].iter().enumerate().map(code).collect(),
    }
}

/// Fails with all lines that break a rule.
fn assert_none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}, but:\n{}", broken.join("\n"));
}

fn production() -> impl Iterator<Item = Source> {
    sources().into_iter().filter(|source| !source.is_test())
}

/// The heading in docs/architecture.md above the order of the modules.
const ORDER: &str = "## The order of the modules";
/// The only use of a module further up: the page of metrics is served by a background task.
const UPWARDS: (&str, &str) = ("telemetry", "tasks");

/// The modules from top to bottom, each with the modules that it uses.
type Order = Vec<(String, Vec<String>)>;

fn order() -> Order {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let block = page.split_once(ORDER).unwrap().1.split("```").nth(1).unwrap();
    let lines = block.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(module, uses)| (module.trim().to_owned(), uses.split_whitespace().map(str::to_owned).collect()))
        .collect()
}

/// Which module uses which, with a line of the source that does; the crate's root and main.rs use what they like.
fn uses(order: &Order) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for source in production().filter(|source| !["lib", "main"].contains(&source.module())) {
        assert!(
            order.iter().any(|(module, _)| module == source.module()),
            "{} is in no module of the page",
            source.path
        );
        for (other, _) in order.iter().filter(|(other, _)| other != source.module()) {
            let line = source.using(other).into_iter().next();
            found.extend(line.map(|line| (source.module().to_owned(), other.clone(), line)));
        }
    }
    found
}

/// What differs between the order and the source.
fn differences(order: &Order, uses: &[(String, String, String)]) -> Vec<String> {
    let place = |name: &str| order.iter().position(|(module, _)| module == name);
    let mut found = Vec::new();
    for (at, (module, allowed)) in order.iter().enumerate() {
        for other in allowed {
            if place(other).is_none_or(|below| below <= at) && (module.as_str(), other.as_str()) != UPWARDS {
                found.push(format!("{module} may use {other}, which is not below it"));
            }
            if !uses.iter().any(|(user, used, _)| user == module && used == other) {
                found.push(format!("{module} may use {other}, and does not"));
            }
        }
        let forbidden = uses.iter().filter(|(user, used, _)| user == module && !allowed.contains(used));
        found.extend(forbidden.map(|(_, used, line)| format!("{module} may not use {used}: {line}")));
    }
    found
}

#[test]
fn modules_use_what_the_architecture_page_says_and_nothing_else() {
    let order = order();
    assert_none("the order of the modules is as on the page", differences(&order, &uses(&order)));
}

#[test]
fn any_other_order_is_noticed() {
    let order = order();
    let uses = uses(&order);
    for at in 0..order.len() {
        let mut other = order.clone();
        let allowed = &mut other[at].1;
        if allowed.is_empty() {
            // It would use the module at the top.
            allowed.push(order[0].0.clone());
        } else {
            allowed.remove(0);
        }
        assert!(!differences(&other, &uses).is_empty(), "{}", order[at].0);
    }
}

#[test]
fn only_the_edge_makes_grpc_statuses_and_serves() {
    let broken = production().filter(|source| source.module() != "cri").flat_map(|source| {
        let mut broken = source.naming("_server::");
        // Only src/containerd reads the statuses in containerd's replies.
        if source.module() != "containerd" {
            for word in ["tonic::Status", "tonic::{Status", "tonic::Code", "Status::new("] {
                broken.extend(source.naming(word));
            }
        }
        broken
    });
    assert_none("only cri names tonic's Status and the service traits", broken.collect());
}

#[test]
fn only_one_module_speaks_containerd() {
    let broken = production()
        .filter(|source| source.module() != "containerd")
        .flat_map(|source| source.naming("containerd_client"));
    assert_none("only src/containerd names containerd_client", broken.collect());
}

#[test]
fn only_the_file_system_part_of_cgroups_rs_is_used_and_only_by_cgroup() {
    let broken = production().flat_map(|source| {
        let mut broken = source.naming("cgroups_rs");
        if source.module() == "cgroup" {
            broken.retain(|line| !line.contains("cgroups_rs::fs::"));
        }
        broken
    });
    assert_none("only src/cgroup names cgroups_rs, and only cgroups_rs::fs", broken.collect());
}

/// zbus is a mandatory dependency of cgroups-rs (docs/adr/0027).
#[test]
fn the_program_has_no_code_for_d_bus() {
    let has = |text: &str| {
        let mut grep = Command::new("grep");
        grep.args(["--quiet", "--text", "--fixed-strings", text, env!("CARGO_BIN_EXE_pontoon")]);
        let status = grep.status().unwrap().code();
        assert!(matches!(status, Some(0 | 1)), "grep ended with {status:?}");
        status == Some(0)
    };
    // A text of our own: the search works.
    assert!(has("freezer.self_freezing"));
    // The beginning of every interface of D-Bus itself and of systemd.
    assert!(!has("org.freedesktop."));
}

#[test]
fn a_task_has_one_owner() {
    let calls = [
        "create_task",
        "start_task",
        "wait_task",
        "kill_task",
        "delete_task",
        "exec_task",
        "delete_exec",
        "update_task",
    ];
    let broken = production()
        .filter(|source| !["task", "containerd"].contains(&source.module()))
        .flat_map(|source| calls.iter().flat_map(|call| source.naming(&format!(".{call}("))).collect::<Vec<_>>());
    assert_none("only src/task changes a containerd task", broken.collect());
}

#[test]
fn every_change_of_a_container_is_announced() {
    // Node::apply_event notifies the container and the subscribers of events.
    let verbs = production().filter(|source| source.module() == "runtime" && !source.path.ends_with("/announce.rs"));
    let broken = verbs.flat_map(|source| source.naming("container.on("));
    assert_none("verbs change a container's state through Node::apply_event", broken.collect());
}

#[test]
fn specs_and_states_do_no_io() {
    let pure = |source: &Source| {
        source.module() == "spec"
            || ["sandbox/state.rs", "container/state.rs", "task/state.rs"].contains(&source.path.as_str())
    };
    let broken = production().filter(pure).flat_map(|source| {
        let words = ["std::fs", "fs::", "tokio", "std::net", "std::process", "async fn", ".await", "env::var"];
        words.into_iter().flat_map(|word| source.naming(word)).collect::<Vec<_>>()
    });
    assert_none("spec and the state files are pure", broken.collect());
}

#[test]
fn unsafe_is_in_sys_and_in_the_pause_program_only() {
    let allowed = |source: &Source| source.module() == "sys" || source.path == "sandbox/pause/main.rs";
    let broken = production().filter(|source| !allowed(source)).flat_map(|source| {
        let words = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code"];
        words.into_iter().flat_map(|word| source.naming(word)).collect::<Vec<_>>()
    });
    assert_none("unsafe code is in src/sys and the pause program", broken.collect());
}

#[test]
fn a_file_can_be_read_in_one_sitting() {
    let too_long = production().filter_map(|source| {
        let limit = if source.path == "main.rs" { LARGEST_MAIN } else { LARGEST_FILE };
        let length = source.lines.len();
        (length > limit).then(|| format!("{} has {length} lines, not at most {limit}", source.path))
    });
    assert_none("files are short", too_long.collect());
}
