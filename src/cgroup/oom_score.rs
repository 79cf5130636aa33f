//! Sets oom_score_adj of a running container. It is an attribute of processes, inherited at fork; cgroups have none.

use std::io;
use std::path::Path;

use super::file_system_path;
use super::processes::processes;

/// Most passes over the processes. New ones may be forked during a pass; the next pass finds them.
const MAX_PASSES: usize = 10;

/// Sets oom_score_adj to `to` for every process in a container's cgroup that has the value `from`. A process that has
/// chosen another value for itself keeps it. On an error, the processes that were changed are set back to `from`.
///
/// # Errors
/// The error of the system call. Without CAP_SYS_RESOURCE, the kernel refuses a value below the last one that was set
/// by a process with that capability.
pub fn set_oom_score(cgroups_path: &str, unified: bool, from: i32, to: i32) -> io::Result<()> {
    let cgroup = file_system_path(cgroups_path, unified, "memory");
    let result = set_all(&cgroup, unified, from, to);
    if result.is_err() {
        // A value that the kernel let us change can also be changed back.
        let _ = set_all(&cgroup, unified, to, from);
    }
    result
}

fn set_all(cgroup: &Path, unified: bool, from: i32, to: i32) -> io::Result<()> {
    for _ in 0..MAX_PASSES {
        // `processes` finds none in a cgroup that cannot be read.
        std::fs::read(cgroup.join("cgroup.procs"))?;
        let mut changed = false;
        for pid in processes(cgroup, unified) {
            changed |= unless_gone(set(pid, from, to))?;
        }
        if !changed {
            return Ok(());
        }
    }
    Ok(())
}

/// Sets the value of one process. Returns whether it had to be changed.
fn set(pid: u32, from: i32, to: i32) -> io::Result<bool> {
    let file = format!("/proc/{pid}/oom_score_adj");
    if std::fs::read_to_string(&file)?.trim() != from.to_string() {
        return Ok(false);
    }
    std::fs::write(&file, to.to_string()).map(|()| true)
}

fn unless_gone(outcome: io::Result<bool>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn score(process: &Sleeper) -> String {
        std::fs::read_to_string(format!("/proc/{}/oom_score_adj", process.0.id())).unwrap().trim().to_owned()
    }

    #[test]
    fn a_process_that_chose_its_own_value_keeps_it_and_one_that_has_ended_is_ignored() {
        let [inherited, own, below] = [800, 900, 800].map(|value| {
            let child = Sleeper(Command::new("sleep").arg("60").spawn().unwrap());
            std::fs::write(format!("/proc/{}/oom_score_adj", child.0.id()), value.to_string()).unwrap();
            child
        });
        let cgroup = tempfile::tempdir().unwrap();
        let pids = format!("{}\n{}\n4194999\n", inherited.0.id(), own.0.id());
        std::fs::write(cgroup.path().join("cgroup.procs"), pids).unwrap();
        std::fs::create_dir(cgroup.path().join("sub")).unwrap();
        std::fs::write(cgroup.path().join("sub/cgroup.procs"), format!("{}\n", below.0.id())).unwrap();
        set_all(cgroup.path(), false, 800, 850).unwrap();
        assert_eq!([&inherited, &own, &below].map(score), ["850", "900", "850"]);
        assert!(set_all(&cgroup.path().join("gone"), false, 800, 850).is_err());
    }

    #[test]
    fn a_cgroup_that_cannot_be_read_is_an_error() {
        let cgroup = tempfile::tempdir().unwrap();
        // A directory can be opened, and every read of it fails.
        std::fs::create_dir(cgroup.path().join("cgroup.procs")).unwrap();
        for unified in [false, true] {
            assert!(set_all(cgroup.path(), unified, 800, 850).is_err());
        }
    }
}
