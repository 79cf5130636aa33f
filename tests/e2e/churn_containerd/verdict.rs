//! Compares what CRI reported about the containers of a pod with what these wrote themselves.

use std::path::Path;

use super::calls::short;
use super::findings::{Kind, log_lines};
use super::pod::{Attempt, Pod, Work};
use super::starts::{self, Written};

/// What CRI reports when the exit code is not known.
const UNKNOWN: (i32, &str) = (255, "Unknown");
/// The exit code of a job that SIGTERM ended, and that of a process that SIGKILL ended.
const ASKED: i32 = 143;
const KILLED: i32 = 137;
/// How many seconds the longest call may take, counting only the time in which all daemons were running.
const LONGEST_CALL: f64 = 30.0;

/// All findings for a pod that its client has finished with: the kind, and what it is about.
pub fn of(pod: &Pod, logs: &Path) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    let (seconds, call) = pod.calls.longest();
    if seconds > LONGEST_CALL {
        found.push((Kind::CallLongerThanThirtySeconds, format!("{seconds:.1} s: {call}")));
    }
    for work in &pod.works {
        let written = |attempt: &Attempt| Written::read(&pod.starts.join(work.file(attempt)));
        let all: Vec<(&Attempt, Written)> = work.attempts.iter().map(|attempt| (attempt, written(attempt))).collect();
        for (attempt, written) in &all {
            let kinds = of_attempt(work, attempt, written, logs);
            let about = |kind| (kind, format!("{} {}", work.file(attempt), short(&attempt.id)));
            found.extend(kinds.into_iter().map(about));
        }
        if all.iter().filter(|(_, written)| written.end.is_some()).count() > 1 {
            found.push((Kind::TwoAttemptsRanToTheirEnd, work.name.to_owned()));
        }
        let at_once = |pair: &[(&Attempt, Written)]| matches!((pair[0].1.last, pair[1].1.first), (Some(last), Some(first)) if last > first);
        if all.windows(2).any(at_once) {
            found.push((Kind::TwoAttemptsAtOnce, work.name.to_owned()));
        }
    }
    found
}

fn of_attempt(work: &Work, attempt: &Attempt, written: &Written, logs: &Path) -> Vec<Kind> {
    let mut kinds = Vec::new();
    if written.starts > 1 {
        kinds.push(Kind::StartedTwice);
    }
    let after = |moment: Option<f64>| moment.zip(written.last).is_some_and(|(moment, last)| last > moment);
    if attempt.start_failed.is_some() {
        if written.end.is_some() || after(attempt.start_failed) {
            kinds.push(Kind::RanThoughItsStartFailed);
        } else if written.starts > 0 {
            kinds.push(Kind::StartUndone);
        }
    } else {
        if after(attempt.ended) {
            kinds.push(Kind::RanOnAfterItsEndWasTold);
        }
        kinds.extend(of_exit(work, attempt, written, logs));
    }
    kinds
}

/// The finding for a reported exit; `None` if the process really ended like that.
fn of_exit(work: &Work, attempt: &Attempt, written: &Written, logs: &Path) -> Option<Kind> {
    let (code, reason) = attempt.exit.as_ref()?;
    if (*code, reason.as_str()) == UNKNOWN {
        return Some(lost(attempt, logs));
    }
    let own = match (written.end, written.asked) {
        (Some(_), _) => *code == work.code,
        (None, Some(_)) => *code == ASKED,
        (None, None) => attempt.stopped && *code == KILLED,
    };
    (!own).then_some(Kind::ExitIsNotTheProcesses)
}

/// Whether containerd lost the exit: when it starts, it deletes each task whose process is gone, and logs that.
fn lost(attempt: &Attempt, logs: &Path) -> Kind {
    let lines = log_lines(logs, "containerd", &[&attempt.id]);
    if lines.iter().any(|line| line.contains("cleaning leaked shim process")) {
        Kind::ExitLostByContainerd
    } else {
        Kind::ExitLost
    }
}

/// What the daemons logged about a pod's sandboxes and containers.
pub fn logged(pod: &Pod, logs: &Path, daemons: &[&str]) -> Vec<String> {
    let of = |attempt: &'_ Attempt| [attempt.id.clone(), attempt.sandbox().to_owned()];
    let mut ids: Vec<String> = pod.works.iter().flat_map(|work| &work.attempts).flat_map(of).collect();
    ids.retain(|id| !id.is_empty());
    // RunPodSandbox is logged with the pod's name.
    ids.push(format!("{}_", pod.uid));
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    daemons.iter().flat_map(|daemon| log_lines(logs, daemon, &ids)).collect()
}

/// The containers of a pod. A third of the pods has only a job, and a third only a server.
pub fn works(number: u64, random: &mut super::outages::Random) -> Vec<Work> {
    let tenths = [0, 3, 5, 10, 20, 30][usize::try_from(random.below(6)).unwrap_or_default()];
    let code = i32::try_from(random.below(100)).unwrap_or_default();
    let job = Work::new("job", starts::Kind::Job(tenths), code);
    let server = Work::new("server", starts::Kind::Server, 43);
    match number % 3 {
        0 => vec![job],
        1 => vec![server],
        _ => vec![job, server],
    }
}
