//! The calls that the owner of a task makes to containerd, and what it concludes from the replies.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::owner::Driver;
use super::program::Program;
use super::state::{Event, State};
use super::{CreateRequest, SIGKILL, TaskObserver, UNSEEN};
use crate::containerd::{Error, Exit, Kind, Process, ProcessStatus, Result};

/// Interval at which SIGKILL is repeated until the process is gone.
const KILL_AGAIN: Duration = Duration::from_secs(10);

impl<F: TaskObserver> Driver<F> {
    pub(super) async fn create(&mut self) {
        let request = self.task.create_request.lock().take();
        let containerd = &self.owner.containerd;
        let made = match request {
            Some(CreateRequest::Task(task)) => containerd.create_task(*task).await,
            Some(CreateRequest::Exec(exec)) => containerd.exec_task(*exec).await.map(|()| 0),
            // A task is never created twice.
            None => Err(self.lost_reply_error.take().unwrap_or_else(|| self.missing_error("create task"))),
        };
        match made {
            Ok(pid) => self.progress(Event::Created { pid }),
            Err(error) => self.refused(error),
        }
    }

    pub(super) async fn start(&mut self) {
        let (containerd, name) = (self.owner.containerd.clone(), self.task.name.clone());
        let pid = self.machine.pid();
        if !self.start_was_lost {
            self.init = Program::of(pid);
        }
        let started_before = self.init.filter(|_| self.start_was_lost);
        if started_before.is_some_and(|init| init.is_left_by(pid)) {
            return self.progress(Event::Started { pid });
        }
        let missed = async {
            match started_before {
                Some(init) => init.left_by(pid).await,
                None => std::future::pending().await,
            }
        };
        let (mut missed, mut started) = (pin!(missed), pin!(containerd.start_task(&name.id, &name.exec)));
        let mut wait = self.wait.take().unwrap_or_else(|| self.new_wait());
        let mut ended = None;
        // As soon as a command runs, it can disappear together with its container's whole task. So the wait begins
        // before the start.
        let started = loop {
            tokio::select! {
                biased;
                exit = &mut wait, if ended.is_none() => ended = Some(exit),
                started = &mut started => break started,
                // runc blocks, because the process has already been started.
                () = &mut missed => break Ok(pid),
            }
        };
        self.wait = Some(match ended {
            Some(exit) => std::future::ready(exit).boxed(),
            None => wait,
        });
        match started {
            Ok(pid) => self.progress(Event::Started { pid }),
            // If containerd is killed during Start, the shim kills runc, which may have started the process by then,
            // and the shim goes on to report "created".
            Err(error) if self.start_was_lost && error.kind() == Kind::FailedPrecondition => {
                self.progress(Event::Started { pid });
            }
            Err(error) => {
                self.start_was_lost |= error.is_away();
                self.refused(error);
            }
        }
    }

    pub(super) async fn query(&mut self) {
        let name = &self.task.name;
        match self.owner.containerd.get_task(&name.id, &name.exec).await {
            Ok(process) => {
                self.found(&process);
                if process.status == ProcessStatus::Unknown {
                    let error = Error::new("get task", &self.task.name.id, Kind::Other, "the shim does not answer");
                    self.back_off("its state is not known", &error).await;
                }
            }
            Err(error) if error.is_not_found() => self.query_the_list().await,
            Err(error) => {
                self.apply(Event::Found { status: ProcessStatus::Unknown, pid: self.machine.pid(), exit: UNSEEN });
                self.back_off("its state cannot be queried", &error).await;
            }
        }
    }

    /// Get has found nothing. Check the list of tasks as well, because containerd builds it in another way. Commands
    /// are in no list.
    async fn query_the_list(&mut self) {
        if !self.task.name.exec.is_empty() {
            return self.missing().await;
        }
        match self.owner.containerd.list_tasks().await {
            Ok(all) => match all.iter().find(|process| process.id == self.task.name.id) {
                Some(process) => self.found(process),
                None => self.missing().await,
            },
            Err(error) => self.back_off("its state cannot be queried", &error).await,
        }
    }

    pub(super) async fn watch(&mut self) {
        let mut wait = self.wait.take().unwrap_or_else(|| self.new_wait());
        let killed = self.machine.state() == State::Killed;
        let survived = async {
            if killed {
                tokio::time::sleep(KILL_AGAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            exit = &mut wait => self.waited(exit).boxed().await,
            _ = self.want.changed() => self.wait = Some(wait),
            () = survived => {
                self.wait = Some(wait);
                self.apply(Event::StillAlive);
                tracing::warn!(exec = self.exec_id(), "still not dead {KILL_AGAIN:?} after SIGKILL");
            }
        }
    }

    async fn waited(&mut self, exit: Result<Exit>) {
        match exit {
            Ok(exit) => self.progress(Event::Exited(exit)),
            Err(error) if error.is_not_found() => self.missing().await,
            Err(error) => {
                self.apply(Event::Lost);
                self.back_off("waiting for its end failed", &error).await;
            }
        }
    }

    pub(super) async fn kill(&mut self) {
        match self.owner.containerd.kill_task(&self.task.name.id, &self.task.name.exec, SIGKILL).await {
            Ok(()) => self.apply(Event::Killed),
            // A command that was created and not started has no process yet.
            Err(error) if error.kind() == Kind::FailedPrecondition && self.machine.state() == State::Created => {
                self.apply(Event::Killed);
            }
            Err(error) => {
                self.apply(Event::Lost);
                self.back_off("it cannot be killed yet", &error).await;
            }
        }
    }

    pub(super) async fn delete(&mut self) {
        let name = &self.task.name;
        let deleted = match name.exec.as_str() {
            "" => self.owner.containerd.delete_task(&name.id).await,
            exec => self.owner.containerd.delete_exec(&name.id, exec).await,
        };
        match deleted {
            Ok(_) => self.progress(Event::Deleted),
            // The reply was lost, or the call was refused because the process may be alive: query the state.
            Err(error) => {
                self.note_lost_reply(&error);
                self.apply(Event::Lost);
                self.back_off("it cannot be deleted yet", &error).await;
            }
        }
    }

    /// Handles the failure, or the lost reply, of a call that creates or starts.
    fn refused(&mut self, error: Error) {
        self.note_lost_reply(&error);
        // The caller of a command is not kept waiting while containerd is away.
        if error.is_away() && self.task.name.exec.is_empty() {
            self.lost_reply_error = Some(error);
            self.apply(Event::Lost);
        } else {
            self.fail(error);
            self.apply(Event::Refused);
        }
    }

    /// Handles that containerd has no such task.
    async fn missing(&mut self) {
        // If the reply to Start was lost, the process may have run to its end: containerd drops a task that ended while
        // containerd was down. If it were reported as never started, kubelet would run it twice.
        let may_have_run = self.machine.has_unreported_exit() || self.start_was_lost && !self.machine.has_failed();
        let exit = if may_have_run { self.observer.lost_exit(self.was_away).await } else { None };
        match exit {
            Some(exit) => self.progress(Event::Exited(exit)),
            None => {
                let failure = self.lost_reply_error.take().unwrap_or_else(|| self.missing_error("get task"));
                self.fail(failure);
                self.apply(Event::Missing);
            }
        }
    }

    fn found(&mut self, process: &Process) {
        self.apply(Event::Found { status: process.status, pid: process.pid, exit: process.exit });
    }

    fn new_wait(&self) -> BoxFuture<'static, Result<Exit>> {
        let (containerd, name) = (self.owner.containerd.clone(), self.task.name.clone());
        async move { containerd.wait_task(&name.id, &name.exec).await }.boxed()
    }

    fn missing_error(&self, operation: &'static str) -> Error {
        Error::new(operation, &self.task.name.id, Kind::NotFound, "containerd has no such task")
    }
}
