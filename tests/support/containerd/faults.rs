//! What goes wrong, and the log of all calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::status;

/// A call that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Service and method, such as `Tasks/Create`.
    pub method: String,
    /// Id, name or digest of what it is about.
    pub object: String,
}

impl Call {
    /// Whether it changes what containerd has, and is not only a question.
    pub fn is_mutating(&self) -> bool {
        let (_, verb) = self.method.split_once('/').unwrap_or_default();
        let questions = ["Get", "List", "ListStream", "Wait", "Metrics", "Mounts", "Stat", "Usage", "Info", "Read"];
        let service = ["Events/", "Introspection/", "Version/"].iter().any(|name| self.method.starts_with(name));
        !service && !questions.contains(&verb)
    }

    /// Whether it belongs to no operation but to somebody who watches.
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
    /// It is the last one that containerd gets before it is killed; a new one serves some time later.
    Outage(Outage),
}

/// Whether a call is carried out whose containerd is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is not.
    No,
    /// It is.
    Yes,
    /// It is a Start that runc has carried out, of which its shim does not know.
    Missed,
}

/// A time without containerd, which a call brings about.
#[derive(Clone, Debug)]
pub struct Outage {
    /// Whether the call that brings it about is carried out. Its answer is lost either way.
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

    /// Whether the call that brings it about has come.
    pub fn has_begun(&self) -> bool {
        self.times.began.borrow().is_some()
    }

    /// Resolves when containerd serves again; tells since when.
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

/// Whether an operation succeeds although this befell its call: a task whose answer was lost is asked for, and there it
/// is; one whose start was lost is started.
pub fn is_found_again(method: &str, fault: &Fault) -> bool {
    match method {
        "Tasks/Create" => matches!(fault, Fault::LoseReply),
        "Tasks/Start" => matches!(fault, Fault::LoseReply | Fault::Disconnect),
        _ => false,
    }
}

/// Where a call hangs.
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
    /// How many calls of the method pass before it; `None` for "each fails".
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

    /// Notes a call and tells what is to happen to it.
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

/// The error that an injected code comes with.
pub(super) fn injected(code: Code) -> Status {
    status(code, "injected by the test")
}
