//! The kernel's counter of processes it killed for want of memory.

use super::file_system_path;

/// How many processes of a container's cgroup the kernel has killed because a memory limit was
/// reached; `None` when the cgroup is gone or has no memory controller.
///
/// v1: `oom_kill` of memory.oom_control; v2: `oom_kill` of memory.events
/// (Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst).
#[must_use]
pub fn oom_kills(cgroups_path: &str, unified: bool) -> Option<u64> {
    let file = if unified { "memory.events" } else { "memory.oom_control" };
    let path = file_system_path(cgroups_path, unified, "memory").join(file);
    counter(&std::fs::read_to_string(path).ok()?)
}

fn counter(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::counter;

    #[test]
    fn the_counter_is_read_in_both_versions() {
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(counter("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(counter("low 0\n"), None);
    }
}
