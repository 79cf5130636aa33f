//! Compares two directories of specs. The differences must be those of a list that gives a reason for each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The content of tests/golden/differences.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    difference: Vec<Reason>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    /// The place in the spec: its keys joined by spaces; `*` stands for any text.
    at: String,
    /// The configs to which it applies, all if empty.
    #[serde(default)]
    of: Vec<String>,
    /// The built-in's value there, if it matters; "absent" if it has none.
    builtin: Option<String>,
    /// Pontoon's value there, in the same way.
    pontoon: Option<String>,
    /// The reason, for readers.
    why: String,
}

impl Reason {
    fn covers(&self, config: &str, difference: &Difference) -> bool {
        let says = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| matches(wanted, has));
        (self.of.is_empty() || self.of.iter().any(|of| matches(of, config)))
            && matches(&self.at, &difference.at)
            && says(&self.builtin, &difference.builtin)
            && says(&self.pontoon, &difference.pontoon)
    }
}

fn matches(glob: &str, text: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else { return glob == text };
    let Some(tail) = text.strip_prefix(head) else { return false };
    (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
}

struct Difference {
    at: String,
    builtin: String,
    pontoon: String,
}

/// `--compare-specs BUILTIN PONTOON LIST`: prints every difference with its reason. Returns whether each difference has
/// a reason, and each reason a difference.
///
/// # Errors
/// When a file cannot be read, or the two directories contain different configs.
pub fn compare(builtin: &Path, pontoon: &Path, list: &Path) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(list).with_context(|| list.display().to_string())?;
    let listed: Listed = toml::from_str(&text).with_context(|| list.display().to_string())?;
    ensure!(listed.difference.iter().all(|reason| !reason.why.is_empty()), "a difference without a reason");
    let configs = names(builtin)?;
    ensure!(configs == names(pontoon)?, "{} and {} have other configs", builtin.display(), pontoon.display());
    let mut used = vec![0; listed.difference.len()];
    let mut unlisted = 0;
    for config in &configs {
        for difference in differences(&read(builtin, config)?, &read(pontoon, config)?) {
            let Difference { at, builtin, pontoon } = &difference;
            let reason = listed.difference.iter().position(|reason| reason.covers(config, &difference));
            let why = reason.map_or("NOT LISTED", |index| listed.difference[index].why.as_str());
            println!("{config}: {at}: built-in {builtin}, Pontoon {pontoon}: {why}");
            match reason {
                Some(index) => used[index] += 1,
                None => unlisted += 1,
            }
        }
    }
    let idle: Vec<&str> = listed
        .difference
        .iter()
        .zip(&used)
        .filter(|(_, used)| **used == 0)
        .map(|(reason, _)| reason.at.as_str())
        .collect();
    for at in &idle {
        println!("listed, but no difference any more: {at}");
    }
    let all: usize = used.iter().sum();
    println!(
        "{} configs: {} differences listed with a reason, {unlisted} not listed, {} reasons for none",
        configs.len(),
        all,
        idle.len()
    );
    Ok(unlisted == 0 && idle.is_empty())
}

fn names(directory: &Path) -> anyhow::Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        anyhow::Ok(entry?.file_name().to_string_lossy().trim_end_matches(".json").to_owned())
    };
    entries.map(name).collect()
}

fn read(directory: &Path, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let value: Value = serde_json::from_slice(&std::fs::read(directory.join(format!("{name}.json")))?)?;
    let mut leaves = BTreeMap::new();
    flatten(String::new(), &value, &mut leaves);
    Ok(leaves)
}

/// Splits objects into their fields. A list stays one value.
fn flatten(at: String, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let at = if at.is_empty() { key.clone() } else { format!("{at} {key}") };
                flatten(at, field, leaves);
            }
        }
        other => drop(leaves.insert(at, other.to_string())),
    }
}

fn differences(builtin: &BTreeMap<String, String>, pontoon: &BTreeMap<String, String>) -> Vec<Difference> {
    let keys: BTreeSet<&String> = builtin.keys().chain(pontoon.keys()).collect();
    // If one server refused the request, only that difference is reported.
    let refused = [builtin, pontoon].iter().any(|leaves| leaves.contains_key("refused"));
    let of =
        |leaves: &BTreeMap<String, String>, key: &str| leaves.get(key).cloned().unwrap_or_else(|| "absent".to_owned());
    keys.into_iter()
        .filter(|key| !refused || *key == "refused")
        .map(|key| Difference { at: key.clone(), builtin: of(builtin, key), pontoon: of(pontoon, key) })
        .filter(|difference| difference.builtin != difference.pontoon)
        .collect()
}
