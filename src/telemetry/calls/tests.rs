use std::fmt::{Debug, Write as _};

use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;
use crate::log_keys::current_keys;
use crate::tasks::Tasks;
use crate::telemetry::{Metrics, Stage, during};

const SECOND: Duration = Duration::from_secs(1);

/// Collects the lines of our own targets, each with its keys.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("pontoon") {
            let mut text = Text(String::new());
            event.record(&mut text);
            for (name, value) in current_keys().iter() {
                let _ = write!(text.0, "{name}={value} ");
            }
            self.0.lock().push(text.0);
        }
    }
}

impl Lines {
    fn collect() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
        (lines, guard)
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// An operation of two seconds, of which the second one is a stage. It learns its sandbox's id after the first.
async fn work(result: Result<(), std::fmt::Error>) -> Result<(), std::fmt::Error> {
    sleep(SECOND).await;
    add_keys(&LogKeys::default().with_sandbox("abc"));
    during(Stage::Cni, sleep(SECOND)).await;
    result
}

/// A call that starts the operation, for as long as its client stays. What `look` sees at the end is returned.
async fn call(tasks: &Tasks, result: Result<(), std::fmt::Error>, stays: Duration) -> String {
    let call = Call::default();
    let run = call.run(async {
        add_keys(&LogKeys::of_pod("default", "web"));
        tasks.operation(tasks.run_named(Verb::RunPodSandbox, "web".to_owned(), work(result))).await
    });
    if timeout(stays, run).await.is_ok() {
        return "answered".to_owned();
    }
    let stage = call.stage();
    call.run(async {
        call.complete_keys();
        call.leave();
    })
    .await;
    stage
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_operation_is_logged_when_its_client_has_left() {
    let (lines, _guard) = Lines::collect();
    let tasks = Tasks::new(Metrics::default());
    assert_eq!(call(&tasks, Ok(()), SECOND / 2).await, "running");
    assert_eq!(call(&tasks, Err(std::fmt::Error), SECOND * 3 / 2).await, "cni");
    assert_eq!(call(&tasks, Ok(()), SECOND * 3).await, "answered");
    tasks.drained().await;
    let lines = lines.take();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("method=RunPodSandbox result=OK ms=2000 "), "{lines:?}");
    assert!(lines[1].contains("method=RunPodSandbox result=failed ") && lines[1].contains("ms=2000 "), "{lines:?}");
    assert!(lines.iter().all(|line| line.ends_with(" pod=default/web sandbox=abc ")), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_joins_an_operation_knows_it_too() {
    let (lines, _guard) = Lines::collect();
    let tasks = Tasks::new(Metrics::default());
    let running = tasks.operation(tasks.run_named(Verb::StopContainer, "c".to_owned(), work(Ok(()))));
    let call = Call::default();
    let joined = call.run(tasks.operations().waiting_for(Verb::StopContainer, "c", running));
    assert!(timeout(SECOND * 3 / 2, joined).await.is_err());
    assert_eq!(call.stage(), "cni");
    let keys = call.run(async {
        call.complete_keys();
        call.leave();
        current_keys()
    });
    assert_eq!(keys.await, LogKeys::default().with_sandbox("abc"));
    assert_eq!(lines.take(), Vec::<String>::new(), "it has not ended yet");
    tasks.drained().await;
    assert_eq!(lines.take().len(), 1);
}

#[tokio::test(start_paused = true)]
#[allow(clippy::async_yields_async, reason = "the call names the operation, which runs after that")]
async fn an_operation_that_has_ended_when_its_client_leaves_is_logged_then() {
    let (lines, _guard) = Lines::collect();
    let tasks = Tasks::new(Metrics::default());
    let call = Call::default();
    assert_eq!(call.stage(), "not started");
    let named = call.run(async { tasks.run_named(Verb::StopContainer, "c".to_owned(), work(Ok(()))) }).await;
    named.await.unwrap();
    assert_eq!((call.stage(), lines.take().len()), ("ended".to_owned(), 0));
    call.leave();
    call.leave();
    assert_eq!(lines.take().len(), 1);
}

#[test]
fn a_failure_has_all_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::fmt::Error);
    let failed: Result<(), Outer> = Err(Outer(std::fmt::Error));
    assert_eq!(failed.failure(), Some(format!("outer: {}", std::fmt::Error)));
    assert_eq!(Ok::<(), Outer>(()).failure(), None);
    assert_eq!(millis(Duration::from_micros(1_999)), 1);
}
