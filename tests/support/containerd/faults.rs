//! Injected faults, and the log of all calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::status;

/// A call that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Service and method, such as `Tasks/Create`.
    pub method: String,
    /// The id, name or digest of its object.
    pub object: String,
}

impl Call {
    /// Whether it changes objects of containerd, and does not only read them.
    pub fn is_mutating(&self) -> bool {
        let (_, verb) = self.method.split_once('/').unwrap_or_default();
        let questions = ["Get", "List", "ListStream", "Wait", "Metrics", "Mounts", "Stat", "Usage", "Info", "Read"];
        let service = ["Events/", "Introspection/", "Version/"].iter().any(|name| self.method.starts_with(name));
        !service && !questions.contains(&verb)
    }

    /// Whether it belongs to a watcher and not to an operation.
    pub fn is_watch(&self) -> bool {
        matches!(self.method.as_str(), "Tasks/Wait" | "Events/Subscribe" | "Events/Publish" | "Version/Version")
    }
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is refused and changes nothing.
    Error(Code),
    /// It waits, and is then carried out.
    Hang(Gate),
    /// Its connection breaks before it changes anything.
    Disconnect,
    /// It is carried out, and its connection breaks before the reply.
    LoseReply,
    /// It is the last call before containerd is killed. A new containerd serves some time later.
    Outage(Outage),
}

/// Whether the call at which containerd is killed is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    No,
    Yes,
    /// The call is a Start that runc has carried out, and its shim does not know that.
    Missed,
}

/// A time without containerd, which begins with a call.
#[derive(Clone, Debug)]
pub struct Outage {
    /// Whether that call is carried out. Its reply is lost either way.
    pub(super) done: Done,
    pub(super) lasts: Duration,
    times: Arc<Times>,
}

#[derive(Debug, Default)]
struct Times {
    began: watch::Sender<Option<Instant>>,
    over: watch::Sender<Option<Instant>>,
}

impl Outage {
    pub(super) fn new(done: Done, lasts: Duration) -> Self {
        Self { done, lasts, times: Arc::default() }
    }

    /// Whether that call has come.
    pub fn has_begun(&self) -> bool {
        self.times.began.borrow().is_some()
    }

    /// Resolves when containerd serves again. Returns since when it does.
    pub async fn over(&self) -> Instant {
        let over = self.times.over.subscribe().wait_for(Option::is_some).await.map(|at| *at);
        over.ok().flatten().unwrap_or_else(Instant::now)
    }

    pub(super) fn begin(&self) {
        self.times.began.send_replace(Some(Instant::now()));
    }

    pub(super) fn end(&self) {
        self.times.over.send_replace(Some(Instant::now()));
    }
}

/// Whether an operation succeeds in spite of a fault: after a lost reply the task is queried and found, and after a
/// lost start it is started.
pub fn is_found_again(method: &str, fault: &Fault) -> bool {
    match method {
        "Tasks/Create" => matches!(fault, Fault::LoseReply),
        "Tasks/Start" => matches!(fault, Fault::LoseReply | Fault::Disconnect),
        _ => false,
    }
}

/// A point at which calls hang.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    arrived: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// Resolves when a call hangs here.
    pub async fn arrived(&self) {
        let arrived = tokio::time::timeout(crate::support::PATIENCE, self.0.arrived.subscribe().wait_for(|yes| *yes))
            .await
            .is_ok();
        assert!(arrived, "no call came to the gate");
    }

    /// Lets all calls through.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    pub(super) async fn pass(&self) {
        self.0.arrived.send_replace(true);
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }
}

struct Rule {
    method: String,
    /// How many calls of the method come before the one that fails; `None` if each call fails.
    before: Option<usize>,
    fault: Fault,
}

#[derive(Default)]
pub(super) struct Faults {
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<Vec<Call>>,
}

impl Faults {
    pub(super) fn add(&self, method: &str, nth: usize, fault: Fault) {
        self.rules.lock().unwrap().push(Rule { method: method.to_owned(), before: nth.checked_sub(1), fault });
    }

    pub(super) fn clear(&self) {
        for rule in self.rules.lock().unwrap().drain(..) {
            if let Fault::Hang(gate) = rule.fault {
                gate.open();
            }
        }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Logs a call, and returns what is to happen to it.
    pub(super) fn note(&self, method: &str, object: String) -> Option<Fault> {
        self.calls.lock().unwrap().push(Call { method: method.to_owned(), object });
        let mut hit = None;
        for rule in self.rules.lock().unwrap().iter_mut().filter(|rule| rule.method == method || rule.method == "*") {
            match &mut rule.before {
                None => hit = Some(rule.fault.clone()),
                Some(0) => {
                    hit = Some(rule.fault.clone());
                    rule.before = Some(usize::MAX);
                }
                Some(more) => *more -= 1,
            }
        }
        hit
    }
}

/// The error for an injected code.
pub(super) fn injected(code: Code) -> Status {
    status(code, "injected by the test")
}
