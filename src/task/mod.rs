//! The owner of a containerd task, or of a command in one. It is the only caller of Tasks.* for it, from before
//! Tasks.Create until containerd reports that the task does not exist.
//!
//! Verbs, recovery and undo declare what they want ([`Task::create`], [`Task::start`], [`Task::end`]) and watch the
//! published state ([`Task::exit`], [`Task::gone`]). One state machine, [`Machine`], decides what to do about it, and
//! one owner carries that out, so two calls that change a task are never in flight at the same time. The owner notifies
//! the container, sandbox or command of the task through [`TaskObserver`].
//!
//! ```text
//!             Create             Start           the process ends      reported          Delete
//!   Absent ──────────► Created ────────► Runs ───────────────────► Ended ────► Reported ───────► Gone
//!      │ reply lost        │  reply lost   │ Kill        ▲
//!      ▼                   ▼               ▼             │
//!   Unknown: query containerd (Get) ◄─── Killed ─────────┘
//! ```
//! - After a lost reply, the owner queries the state and never assumes it.
//! - A task whose process may be alive is deleted only after a kill.
//! - The owner never gives up, however many errors there are and whatever they say. It waits longer between two tries,
//!   logs once a minute what it waits for, and shows it in `pontoon top`.
//! - An exit is reported once. The task is kept until the observer confirms that the exit has been written.

mod acts;
mod handle;
mod hints;
mod owner;
mod pace;
mod program;
mod state;

use std::future::Future;

use crate::containerd::{self, CreateTask, ExecTask, Exit};

pub use handle::Task;
pub use hints::ExitHints;
pub use owner::Owner;
pub use pace::{Health, Pace};
pub use state::{Found, Machine};

pub const SIGKILL: u32 = 9;

/// The exit of a process whose real exit could not be observed.
pub const UNSEEN: Exit = Exit { code: 255, at: 0 };

/// What an owner creates.
pub enum CreateRequest {
    /// A container's first process, and its task.
    Task(Box<CreateTask>),
    /// A command in a container's task.
    Exec(Box<ExecTask>),
}

/// The container, sandbox or command of a task, which the owner notifies of what happens to the task. A trait, because the
/// module that implements it (`runtime`) is above this one.
pub trait TaskObserver: Send + Sync + 'static {
    /// The process runs. Called before [`Task::start`] returns.
    fn started(&self, pid: u32) -> impl Future<Output = ()> + Send {
        let _ = pid;
        std::future::ready(())
    }

    /// The process has ended. The task is kept until this succeeds; after an error, it is called again.
    ///
    /// # Errors
    /// Why the exit cannot be recorded yet.
    fn ended(&self, exit: Exit) -> impl Future<Output = Result<(), containerd::Error>> + Send;

    /// Returns the exit of a process that has run and of which containerd has no record; `None` if the exit cannot be
    /// determined. `late` if containerd was away meanwhile: a shim then repeats its exit event some seconds later.
    fn lost_exit(&self, late: bool) -> impl Future<Output = Option<Exit>> + Send;

    /// containerd has no such task any more.
    fn gone(&self) -> impl Future<Output = ()> + Send;
}
