//! Who may look into this process.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// No core files, and to /proc/PID only who may look into any process: registry credentials pass through our memory. Programs
/// that we execute are not affected (prctl(2), `PR_SET_DUMPABLE`).
///
/// # Errors
/// The kernel's.
pub fn forbid() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
