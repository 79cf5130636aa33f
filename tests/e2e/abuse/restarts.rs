//! T8 and T12: what a tenant leaves in a path that the daemon reads when it starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::times::LIMIT;
use super::victim::Victim;
use crate::bed::Bed;
use crate::harness::{Outcome, SLOWNESS, Test, rule};
use crate::hung::Hung;
use crate::restart::BUILTIN;
use crate::scope::{Scope, sleeper};

pub(super) fn tests() -> Vec<Test> {
    vec![
        rule!(t8_a_log_directory_that_hangs_holds_up_its_own_pod_alone).alone().within(120).only_pontoon(BUILTIN),
        rule!(t12_a_fifo_in_a_files_place_holds_up_no_start).alone().only_pontoon(BUILTIN),
    ]
}

/// Restarts the daemon. The first list must be complete within [`LIMIT`].
pub(super) async fn restarted(bed: &Bed) -> Outcome {
    bed.daemon("daemon", "stop").await?;
    let (took, _) = bed.start_and_list().await?;
    println!("    the first list came {took:?} after the start");
    ensure!(took < LIMIT * *SLOWNESS, "{took:?}");
    Ok(())
}

/// A repetition of an attack that goes on by itself.
async fn a_while() -> Outcome {
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

/// First the hanging file system is behind a symlink, which a tenant with /var/log/pods as a volume can create. Then it
/// is mounted on the log directory itself.
async fn t8_a_log_directory_that_hangs_holds_up_its_own_pod_alone(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    pod.start(sleeper("stuck")).await?;
    let directory = Path::new(&pod.config.log_directory);
    let (kept, nfs) = (scope.dir().join("kept"), scope.volume("nfs")?);
    std::fs::rename(directory, &kept)?;
    std::os::unix::fs::symlink(nfs.join("share"), directory)?;
    {
        let _hung = Hung::mount(&nfs)?;
        restarted(&scope.bed).await?;
        let attack = || async {
            let mut another = sleeper("another");
            another.log_path = "another.log".to_owned();
            let id = pod.create(another).await?;
            let Err(refused) = scope.bed.start(&id).await else { bail!("its log is behind a symlink") };
            let said = format!("{refused:#}");
            ensure!(said.contains("log_directory") && said.contains("is a symlink"), "{said}");
            scope.bed.remove(&id).await
        };
        victim.beside(attack).await.context("a symlink to what hangs")?;
    }
    std::fs::remove_file(directory)?;
    std::fs::rename(&kept, directory)?;
    {
        let _hung = Hung::mount(directory)?;
        restarted(&scope.bed).await?;
        victim.beside(a_while).await.context("a log directory that hangs")?;
    }
    victim.nothing_is_left().await
}

/// FIFOs, which are removed when this is dropped. Who opens one to read it waits for a writer, and there is none.
struct Planted(Vec<PathBuf>);

impl Planted {
    /// Replaces the files at these paths.
    fn plant(paths: Vec<PathBuf>) -> anyhow::Result<Self> {
        let planted = Self(paths);
        for path in &planted.0 {
            let _ = std::fs::remove_file(path);
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| path.display().to_string())?;
        }
        Ok(planted)
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        for path in &self.0 {
            // The daemon may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// In the CNI cache, in the place of the note of a container's start, and among the directories of commands. More
/// places: tests/server/fifos.rs.
async fn t12_a_fifo_in_a_files_place_holds_up_no_start(scope: Arc<Scope>) -> Outcome {
    let victim = Victim::start(&scope).await?;
    let pod = scope.pod().await?;
    let id = pod.start(sleeper("planted")).await?;
    let (results, state) = (scope.bed.dir.join("cni/cache/results"), scope.bed.dir.join("run"));
    let is_pods = |path: &PathBuf| path.to_string_lossy().contains(&pod.id);
    let entries = std::fs::read_dir(&results).with_context(|| results.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_pods).collect();
    ensure!(!paths.is_empty(), "the pod has no file in {}", results.display());
    paths.push(results.join(format!("planted-{}-eth0", "f".repeat(64))));
    paths.extend([state.join("started").join(&id), state.join("exec/planted")]);
    let planted = Planted::plant(paths)?;
    restarted(&scope.bed).await?;
    victim.beside(a_while).await?;
    scope.remove_pods().await?;
    drop(planted);
    victim.nothing_is_left().await
}
