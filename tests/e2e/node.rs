//! What is on the node and in containerd, to compare before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::bed::{Bed, output, until};

/// How long what is deleted in the background may stay.
const SETTLED: Duration = Duration::from_secs(15);

/// Everything that a pod may leave behind, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(BTreeSet<String>);

/// A line that may be of another bed on this machine, which nobody can tell. Then only what names our bed counts.
struct Others {
    any: bool,
    ours: [String; 2],
}

impl Others {
    fn of(bed: &Bed) -> Self {
        let beds = std::fs::read_dir("/run/pontoon-beds").into_iter().flatten().flatten();
        let numbered = beds.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
        let bridge = bed.cgroup_parent.trim_start_matches('/').to_owned();
        Self { any: numbered.count() > 1, ours: [bed.dir.display().to_string(), bridge] }
    }

    fn may_have(&self, line: &str) -> bool {
        self.any && !self.ours.iter().any(|ours| line.contains(ours))
    }
}

impl Node {
    /// Looks at everything. Only for a test that is alone on the bed.
    pub async fn look(bed: &Bed) -> anyhow::Result<Self> {
        let mut lines = BTreeSet::new();
        let others = Others::of(bed);
        let mut section = String::new();
        for line in output(&mut bed.script("nodestate.sh")).await?.lines() {
            if line.starts_with("== ") {
                section = line[3..].to_owned();
            }
            if !others.may_have(line) {
                lines.insert(format!("{section}: {line}"));
            }
        }
        for what in [&["containers", "list", "--quiet"][..], &["tasks", "list", "--quiet"], &["leases", "list", "--quiet"]] {
            lines.extend(bed.ctr(what).await?.lines().map(|line| format!("{}: {line}", what[0])));
        }
        // KEY PARENT KIND: only what containers hold; an image's layers are committed.
        let snapshots = bed.ctr(&["snapshots", "list"]).await?;
        lines.extend(snapshots.lines().filter(|line| !line.ends_with("Committed")).map(|line| format!("snapshots: {line}")));
        for dir in ["run", "root", "runc", "cni", "containerd/state", "s"] {
            walk(&bed.dir.join(dir), &mut lines)?;
        }
        Ok(Self(lines))
    }

    /// Waits until the node is as it was; fails with what came and what went.
    pub async fn is_back(&self, bed: &Bed) -> anyhow::Result<()> {
        until(SETTLED, || async {
            let now = Self::look(bed).await?;
            let came: Vec<_> = now.0.difference(&self.0).collect();
            let went: Vec<_> = self.0.difference(&now.0).collect();
            ensure!(came.is_empty() && went.is_empty(), "left behind: {came:#?}; gone: {went:#?}");
            Ok(())
        })
        .await
    }
}

/// Paths below `dir`, without going into other file systems' mounts' contents and without host-local's own notes.
fn walk(dir: &Path, lines: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("last_reserved_ip") || name == "lock" {
            continue;
        }
        lines.insert(format!("file: {}", entry.path().display()));
        // A container's root is a mount: mounts are compared by themselves.
        if name != "rootfs" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), lines)?;
        }
    }
    Ok(())
}
