//! Which limits the cgroups of this host can have, besides those that every host has.

use std::path::Path;

use cgroups_rs::fs::hierarchies::auto;
use cgroups_rs::fs::{Controller as _, Subsystem};

/// The limits that depend on how the kernel was built and booted, and on which controllers are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalLimits {
    pub swap: bool,
    pub huge_pages: bool,
}

impl OptionalLimits {
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::of(&auto().subsystems(), Path::new("/proc/swaps").exists())
    }

    fn of(controllers: &[Subsystem], kernel_can_swap: bool) -> Self {
        let limits_swap = |controller: &Subsystem| match controller {
            // The root cgroup has no memory.swap.max. A child cgroup has one if the kernel can swap.
            Subsystem::Mem(memory) if memory.v2() => kernel_can_swap,
            // A kernel that does not count swap for cgroups (swapaccount=0) leaves out the file.
            Subsystem::Mem(memory) => memory.path().join("memory.memsw.limit_in_bytes").exists(),
            _ => false,
        };
        let limits_huge_pages = |controller: &Subsystem| matches!(controller, Subsystem::HugeTlb(_));
        Self { swap: controllers.iter().any(limits_swap), huge_pages: controllers.iter().any(limits_huge_pages) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use cgroups_rs::fs::hugetlb::HugeTlbController;
    use cgroups_rs::fs::memory::MemController;

    use super::super::fixture::tree;
    use super::*;

    fn memory(root: &Path, unified: bool) -> Subsystem {
        Subsystem::Mem(MemController::new(root.to_owned(), PathBuf::new(), unified))
    }

    #[test]
    fn v1_limits_swap_if_the_kernel_counts_it() {
        let (counted, not_counted) = (tree(&[("memory.memsw.limit_in_bytes", "1\n")]), tree(&[]));
        let swap = |root: &Path| OptionalLimits::of(&[memory(root, false)], true).swap;
        assert_eq!([swap(counted.path()), swap(not_counted.path())], [true, false]);
    }

    #[test]
    fn v2_limits_swap_with_the_memory_controller_if_the_kernel_can_swap() {
        let root = tree(&[]);
        let swap = |controllers: &[Subsystem], can_swap| OptionalLimits::of(controllers, can_swap).swap;
        let memory = [memory(root.path(), true)];
        assert_eq!([swap(&memory, true), swap(&memory, false), swap(&[], true)], [true, false, false]);
    }

    #[test]
    fn huge_pages_need_their_controller() {
        let root = tree(&[]);
        let huge_pages = Subsystem::HugeTlb(HugeTlbController::new(root.path().to_owned(), PathBuf::new(), true));
        let limited = |controllers: &[Subsystem]| OptionalLimits::of(controllers, true).huge_pages;
        assert_eq!(
            [limited(&[memory(root.path(), true), huge_pages]), limited(&[memory(root.path(), true)])],
            [true, false]
        );
    }
}
