//! Protects the memory of this process from other processes.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Makes this process write no core files, and restricts its /proc/PID to processes that may inspect any process:
/// registry credentials pass through our memory. Programs that we execute are not affected (prctl(2),
/// `PR_SET_DUMPABLE`).
///
/// # Errors
/// The error of the system call.
pub fn forbid() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
