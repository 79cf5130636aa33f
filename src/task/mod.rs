//! The owner of a containerd task, or of a command in one: the only caller of Tasks.* for it, from before Tasks.Create
//! until containerd says that there is none.
//!
//! Verbs, recovery and undo say what they want ([`Task::make`], [`Task::start`], [`Task::end`]) and watch what is known
//! ([`Task::exit`], [`Task::gone`]). What is done about it is decided in one place, [`Machine`], and carried out by one
//! owner, so no two calls about a task's life are ever under way at once. The owner tells the object that the task is of
//! through [`Follow`].
//!
//! ```text
//!             Create          Start           the process ends        told        Delete
//!   Absent ──────────► Made ────────► Runs ───────────────────► Ended ────► Told ───────► Gone
//!      │ answer lost    │  answer lost  │ Kill        ▲
//!      ▼                ▼               ▼             │
//!   Unsure: what there is, is asked ◄── Killed ───────┘
//! ```
//! - An answer that was lost is followed by a question, never by an assumption.
//! - Nothing is deleted that may live and was not killed.
//! - No error and no number of errors makes the owner give up; it waits longer between two tries, says in the log once a
//!   minute what it waits for, and shows it in `pontoon top`.
//! - An exit is told once; the task is kept until its object says that the exit is written.

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

/// SIGKILL's number.
pub const SIGKILL: u32 = 9;

/// The end of a process that nobody saw.
pub const UNSEEN: Exit = Exit { code: 255, at: 0 };

/// What is made.
pub enum Make {
    /// The first process of a container, and its task.
    Task(Box<CreateTask>),
    /// A command in a container's task.
    Exec(Box<ExecTask>),
}

/// The object that a task is of.
pub trait Follow: Send + Sync + 'static {
    /// Its process runs. Told before [`Task::start`] returns.
    fn started(&self, pid: u32) -> impl Future<Output = ()> + Send {
        let _ = pid;
        std::future::ready(())
    }

    /// Its process has ended; the task is kept until this succeeds. Repeated after an error.
    ///
    /// # Errors
    /// Why the exit cannot be told yet.
    fn ended(&self, exit: Exit) -> impl Future<Output = Result<(), containerd::Error>> + Send;

    /// The exit of a process that has run and of which containerd knows nothing any more; `None` when nobody can say. `late`
    /// when containerd was away meanwhile: a shim then tells it of the exit again, some seconds later.
    fn unseen(&self, late: bool) -> impl Future<Output = Option<Exit>> + Send;

    /// containerd has no such task any more.
    fn gone(&self) -> impl Future<Output = ()> + Send;
}
