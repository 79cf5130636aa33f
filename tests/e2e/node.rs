//! The state of the node and of containerd, to compare before and after a test.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::bed::{Bed, output, until};

/// Where the tests against the fake containerd work, which may run at the same time.
const LEVEL_3: &str = "/var/tmp/pontoon-server-";

/// How long leftovers that are deleted in the background may stay.
const SETTLED: Duration = Duration::from_secs(15);

/// Everything that a pod may leave behind, one line each.
pub struct Node {
    lines: BTreeSet<String>,
    /// Another bed is up on this machine. Most lines do not show their owner, so only those that name this bed count.
    shared: bool,
}

fn other_beds() -> bool {
    let beds = std::fs::read_dir("/run/pontoon-beds").into_iter().flatten().flatten();
    beds.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())).count() > 1
}

impl Node {
    /// Records everything. Only for a test that runs alone on the bed.
    pub async fn look(bed: &Bed) -> anyhow::Result<Self> {
        let mut lines = BTreeSet::new();
        let mut section = String::new();
        for line in output(&mut bed.script("nodestate.sh")).await?.lines() {
            if let Some(name) = line.strip_prefix("== ") {
                section = name.to_owned();
            }
            lines.insert(format!("{section}: {line}"));
        }
        for what in
            [&["containers", "list", "--quiet"][..], &["tasks", "list", "--quiet"], &["leases", "list", "--quiet"]]
        {
            lines.extend(bed.ctr(what).await?.lines().map(|line| format!("{}: {line}", what[0])));
        }
        // The columns are KEY PARENT KIND. Only snapshots of containers count; those of image layers are committed.
        let snapshots = bed.ctr(&["snapshots", "list"]).await?;
        lines.extend(
            snapshots.lines().filter(|line| !line.ends_with("Committed")).map(|line| format!("snapshots: {line}")),
        );
        for dir in ["run", "root", "runc", "cni", "containerd/state", "s"] {
            walk(&bed.dir.join(dir), &mut lines)?;
        }
        Ok(Self { lines, shared: other_beds() })
    }

    /// Waits until the node is as it was. Fails with the lines that were added and those that are missing.
    pub async fn is_back(&self, bed: &Bed) -> anyhow::Result<()> {
        self.is_back_but_for(bed, |_| false).await
    }

    /// The same, but ignores the lines that are `excused`.
    pub async fn is_back_but_for(&self, bed: &Bed, excused: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let ours = [bed.dir.display().to_string(), bed.cgroup_parent.trim_start_matches('/').to_owned()];
        until(SETTLED, || async {
            let now = Self::look(bed).await?;
            let counts = |line: &&String| {
                !excused(line)
                    && !line.contains(LEVEL_3)
                    && (!(self.shared || now.shared) || ours.iter().any(|ours| line.contains(ours.as_str())))
            };
            let came: Vec<_> = now.lines.difference(&self.lines).filter(counts).collect();
            // Missing files do not count: a daemon may create and remove its own empty directories.
            let went = self.lines.difference(&now.lines).filter(counts).filter(|line| !line.starts_with("file: "));
            let went: Vec<_> = went.collect();
            ensure!(came.is_empty() && went.is_empty(), "left behind: {came:#?}; gone: {went:#?}");
            Ok(())
        })
        .await
    }
}

/// Adds the paths below `dir`, without the content of containers' roots and without host-local's own files.
fn walk(dir: &Path, lines: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("last_reserved_ip") || name == "lock" {
            continue;
        }
        lines.insert(format!("file: {}", entry.path().display()));
        // A container's root is a mount, and mounts are compared separately.
        if name != "rootfs" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), lines)?;
        }
    }
    Ok(())
}
