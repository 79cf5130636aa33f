use proptest::prelude::*;

use super::*;

const EXIT: Exit = Exit { code: 3, at: 7 };

/// The task's process in [`World`], a simulated containerd whose calls fail as each [`Fault`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    None,
    Created,
    Running,
    Stopped,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The call is carried out, and the reply arrives.
    Fine,
    /// The call is not carried out, and there is no reply.
    Lost,
    /// The call is carried out, and its reply is lost.
    AnswerLost,
    /// The call is refused.
    Refused,
    /// The call is carried out, and the reply is an error.
    DoneAndRefused,
    /// The process ends on its own before the call.
    EndsFirst,
    /// The shim does not respond.
    Unresponsive,
    /// The shim takes a started process for a created one, and the runtime does not start it again.
    Missed,
}

impl Fault {
    /// What the owner learns from a call that replies with `success` if it is carried out, and with `refusal` if it is
    /// refused.
    fn of(self, success: Event, refusal: Event) -> Event {
        match self {
            Self::Fine | Self::EndsFirst | Self::Unresponsive | Self::Missed => success,
            Self::Lost | Self::AnswerLost => Event::Lost,
            Self::Refused | Self::DoneAndRefused => refusal,
        }
    }
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let one = prop_oneof![
        4 => Just(Fault::Fine),
        2 => Just(Fault::Lost),
        2 => Just(Fault::AnswerLost),
        1 => Just(Fault::Refused),
        1 => Just(Fault::DoneAndRefused),
        1 => Just(Fault::EndsFirst),
        1 => Just(Fault::Unresponsive),
        1 => Just(Fault::Missed),
    ];
    prop::collection::vec(one, 0..40)
}

struct World {
    process: Process,
    /// Whether the observer assumes from the beginning that the task was started.
    noted: bool,
    killed: bool,
    starts: u32,
    start_reports: u32,
    exit_reports: u32,
}

impl World {
    /// Carries out an act. Returns its result, or `None` if the owner has to try again.
    fn act(&mut self, act: Act, fault: Fault) -> Option<Event> {
        if matches!(fault, Fault::EndsFirst) && self.process == Process::Running {
            self.process = Process::Stopped;
        }
        let done = !matches!(fault, Fault::Lost | Fault::Refused);
        match act {
            Act::Rest | Act::Finish => None,
            Act::Create => {
                assert_eq!(self.process, Process::None, "made twice");
                if done {
                    self.process = Process::Created;
                }
                Some(fault.of(Event::Created { pid: 1 }, Event::Refused))
            }
            // A started process is not started again. The owner recognizes this refusal.
            Act::Start if self.starts > 0 => Some(fault.of(Event::Started { pid: 1 }, Event::Lost)),
            Act::Start if self.process != Process::Created => Some(fault.of(Event::Refused, Event::Refused)),
            Act::Start => {
                if done {
                    self.process = Process::Running;
                    self.starts += 1;
                }
                Some(fault.of(Event::Started { pid: 1 }, Event::Refused))
            }
            Act::ReportStart => {
                self.start_reports += 1;
                Some(Event::StartReported)
            }
            Act::Query => self.query(fault),
            Act::Watch => self.watch(fault),
            Act::Kill => {
                if done && self.process != Process::None {
                    self.killed = true;
                    self.process = Process::Stopped;
                }
                Some(fault.of(Event::Killed, Event::Lost))
            }
            Act::ReportExit(exit) => {
                assert!(exit == EXIT || exit == UNSEEN);
                assert!(self.process != Process::Running, "told of an end while it runs");
                let reported = matches!(fault, Fault::Fine | Fault::EndsFirst | Fault::Unresponsive | Fault::Missed);
                self.exit_reports += u32::from(reported);
                reported.then_some(Event::ExitReported)
            }
            Act::Delete => {
                assert!(self.process != Process::Running, "deleted while it runs");
                if done {
                    self.process = Process::None;
                }
                Some(fault.of(Event::Deleted, Event::Lost))
            }
        }
    }

    fn query(&self, fault: Fault) -> Option<Event> {
        let found = |status| Some(Event::Found { status, pid: 1, exit: EXIT });
        match (fault, self.process) {
            (Fault::Lost | Fault::AnswerLost | Fault::Refused, _) => None,
            (Fault::Unresponsive, _) => found(ProcessStatus::Unknown),
            (Fault::Missed, Process::Running) => found(ProcessStatus::Created),
            (_, Process::None) => Some(Event::Missing),
            (_, Process::Created) => found(ProcessStatus::Created),
            (_, Process::Running) => found(ProcessStatus::Running),
            (_, Process::Stopped) => found(ProcessStatus::Stopped),
        }
    }

    fn watch(&self, fault: Fault) -> Option<Event> {
        match (fault, self.process) {
            (Fault::Lost | Fault::AnswerLost | Fault::Refused, _) => Some(Event::Lost),
            (_, Process::None) => Some(Event::Missing),
            (_, Process::Stopped) => Some(Event::Exited(EXIT)),
            (_, Process::Created | Process::Running) => self.killed.then_some(Event::StillAlive),
        }
    }
}

fn drive(machine: &mut Machine, world: &mut World, want: Want, faults: &[Fault]) -> bool {
    for fault in faults {
        let act = machine.next(want);
        if act == Act::Finish {
            return true;
        }
        if let Some(event) = world.act(act, *fault) {
            machine.apply(event);
        }
    }
    machine.next(want) == Act::Finish
}

fn check(mut machine: Machine, mut world: World, faults: [Vec<Fault>; 3]) -> Result<(), TestCaseError> {
    let [making, running, ending] = faults;
    drive(&mut machine, &mut world, Want::Created, &making);
    drive(&mut machine, &mut world, Want::Runs, &running);
    drive(&mut machine, &mut world, Want::Ended, &ending);
    let left = drive(&mut machine, &mut world, Want::Ended, &[Fault::Fine; 12]);
    prop_assert!(left, "it does not end: {machine:?}");
    prop_assert_eq!(world.process, Process::None, "something is left");
    prop_assert!(world.starts <= 1, "started twice");
    prop_assert!(world.start_reports <= 1 && world.exit_reports <= 1, "told twice");
    prop_assert!(world.exit_reports <= world.starts.max(world.noted.into()), "an end of what never ran");
    Ok(())
}

fn world(process: Process) -> World {
    let starts = matches!(process, Process::Running | Process::Stopped).into();
    World { process, noted: false, killed: false, starts, start_reports: 0, exit_reports: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_lost_nothing_is_left_and_nothing_happens_twice(
        making in faults(), running in faults(), ending in faults(),
    ) {
        check(Machine::default(), world(Process::None), [making, running, ending])?;
    }

    #[test]
    fn what_a_former_daemon_left_ends_whatever_it_is(ending in faults(), process in 0..4) {
        let process = [Process::None, Process::Created, Process::Running, Process::Stopped][process as usize];
        for found in [Found::Leftover, Found::StartUnknown, Found::Started] {
            let noted = found != Found::Leftover;
            check(Machine::found(found), World { noted, ..world(process) }, [Vec::new(), Vec::new(), ending.clone()])?;
        }
    }
}

#[test]
fn a_start_whose_answer_was_lost_and_that_has_happened_is_a_start() {
    let mut machine = Machine::default();
    for event in [Event::Created { pid: 5 }, Event::Lost] {
        machine.apply(event);
    }
    assert_eq!(machine.next(Want::Runs), Act::Query);
    machine.apply(Event::Found { status: ProcessStatus::Running, pid: 5, exit: EXIT });
    assert_eq!(machine.next(Want::Runs), Act::ReportStart);
    machine.apply(Event::StartReported);
    assert_eq!(machine.next(Want::Runs), Act::Watch);
}

#[test]
fn what_was_started_is_not_killed_when_its_shim_says_created() {
    for (found, next) in
        [(Found::Started, Act::Watch), (Found::Running { pid: 5 }, Act::Watch), (Found::StartUnknown, Act::Kill)]
    {
        let mut machine = Machine::found(found);
        machine.apply(Event::Lost);
        machine.apply(Event::Found { status: ProcessStatus::Created, pid: 5, exit: EXIT });
        assert_eq!(machine.next(Want::Nothing), next, "{found:?}");
    }
    // If the process has to end, its own exit is awaited.
    let mut machine = Machine::found(Found::Running { pid: 5 });
    machine.apply(Event::Lost);
    machine.apply(Event::Found { status: ProcessStatus::Created, pid: 5, exit: EXIT });
    assert_eq!(machine.next(Want::Ended), Act::Kill);
    machine.apply(Event::Killed);
    assert_eq!(machine.next(Want::Ended), Act::Watch);
}

#[test]
fn a_process_that_ended_before_its_start_was_reported_is_reported_in_order() {
    let mut machine = Machine::default();
    for event in [Event::Created { pid: 5 }, Event::Lost] {
        machine.apply(event);
    }
    machine.apply(Event::Found { status: ProcessStatus::Stopped, pid: 5, exit: EXIT });
    assert_eq!(machine.next(Want::Runs), Act::ReportStart);
    machine.apply(Event::StartReported);
    assert_eq!(machine.next(Want::Runs), Act::ReportExit(EXIT));
    machine.apply(Event::ExitReported);
    assert_eq!(machine.next(Want::Runs), Act::Delete);
}

#[test]
fn no_process_stays_alive_after_its_exit_was_reported() {
    let mut machine = Machine::found(Found::Ended(EXIT));
    machine.apply(Event::ExitReported);
    machine.apply(Event::Found { status: ProcessStatus::Running, pid: 5, exit: EXIT });
    assert_eq!(machine.next(Want::Runs), Act::Kill);
}
