//! How much of what pods can cause goes on at once.

use std::sync::Arc;
use std::thread::available_parallelism;

use super::large::Large;
use crate::config;
use crate::container::io::{REPLY_CAP, ReplyBudget};
use crate::slots::{Bounds, Slots};

/// How many ExecSync commands may wait for a slot. Each is a call that a client holds open, and some KiB of our memory.
const EXECS_WAITING: usize = 4096;
/// How many commands may be started at once on a small node: each start is a run of runc, and mostly processor time.
const EXEC_STARTS: usize = 16;

/// The limits that pods share.
pub struct Limits {
    /// Slots for running commands, by sandbox and container.
    pub(super) execs: Slots,
    /// Slots for commands that are being started, by sandbox.
    pub(super) exec_starts: Slots,
    /// Slots for attached clients and forwarded connections, by sandbox.
    pub(super) streams: Slots,
    /// Permits to work on large containers.
    pub(super) large: Large,
    /// Memory budget for the replies of ExecSync.
    pub(super) replies: Arc<ReplyBudget>,
}

impl Limits {
    #[must_use]
    pub fn new(limits: &config::Limits) -> Self {
        Self {
            execs: Slots::new(Bounds {
                reserve: limits.exec_sync_reserve,
                per_object: limits.execs_per_container,
                waiting: EXECS_WAITING,
                ..Bounds::shared(limits.execs)
            }),
            exec_starts: Slots::new(Bounds { reserve: 1, ..Bounds::shared(exec_starts()) }),
            streams: Slots::new(Bounds { per_object: limits.streams_per_object, ..Bounds::shared(limits.streams) }),
            large: Large::default(),
            replies: ReplyBudget::new(limits.exec_reply_budget << 20, REPLY_CAP),
        }
    }
}

/// How many commands may be started at once, in addition to one for each pod.
fn exec_starts() -> usize {
    available_parallelism().map_or(EXEC_STARTS, |processors| EXEC_STARTS.max(2 * processors.get()))
}
