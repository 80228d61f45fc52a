//! The job machine against a naive model that keeps the set of things in the world instead of states.

use model::job::{BadLog, Event, EventKind, JobState, Next, Plan, fold, next};
use proptest::prelude::*;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn plan(steps: usize, pivot: Option<usize>) -> Plan {
    Plan::new(&NAMES[..steps], pivot.map(|at| NAMES[at % steps])).expect("a plan")
}

fn event(log: &[Event], step: Option<&str>, kind: EventKind) -> Event {
    Event {
        seq: log.len() as u64,
        step: step.map(str::to_owned),
        kind,
        state: "{}".to_owned(),
        at_ms: 0,
    }
}

/// The world: what exists, and the order in which steps first began.
#[derive(Default)]
struct World {
    log: Vec<Event>,
    exists: Vec<usize>,
    pivoted: bool,
    stuck: bool,
}

impl World {
    fn record(&mut self, step: Option<usize>, kind: EventKind) {
        let event = event(&self.log, step.map(|at| NAMES[at]), kind);
        self.log.push(event);
    }

    /// One turn of a runner. `luck`: 0 dies after the start, 1 dies after the effect, 2..3 fails, else succeeds.
    fn turn(&mut self, plan: &Plan, luck: u8) -> Option<JobState> {
        let view = fold(plan, &self.log).expect("a log of this plan");
        match next(plan, &view) {
            Next::Start => self.record(None, EventKind::JobStarted),
            Next::Run { step, .. } => {
                assert!(self.exists.iter().all(|other| *other <= step));
                self.record(Some(step), EventKind::Started);
                let pivot = plan.pivot() == Some(step);
                // One that had an effect, found again by its name, does not fail any more.
                let fails = matches!(luck, 2 | 3) && !(pivot && self.pivoted);
                // A pivot that failed had no effect; others may leave something behind.
                if luck != 0 && !(pivot && fails) && !self.exists.contains(&step) {
                    self.exists.push(step);
                }
                self.pivoted |= pivot && luck != 0 && !fails;
                match luck {
                    0 | 1 => {}
                    _ if fails => self.record(Some(step), EventKind::Failed),
                    _ => self.record(Some(step), EventKind::Succeeded),
                }
            }
            Next::Undo { step } => {
                assert!(!self.pivoted, "undone after the pivot");
                assert!(
                    self.exists.iter().all(|other| *other <= step),
                    "out of order"
                );
                self.record(Some(step), EventKind::UndoStarted);
                match luck {
                    0 => {}
                    2 => self.record(Some(step), EventKind::UndoFailed),
                    _ => {
                        self.exists.retain(|other| *other != step);
                        if luck != 1 {
                            self.record(Some(step), EventKind::Undone);
                        }
                    }
                }
                self.stuck = luck == 2;
            }
            Next::Wait { step } => {
                assert!(self.stuck);
                if luck == 0 {
                    self.exists.retain(|other| *other != step);
                    self.record(None, EventKind::JobAbandoned);
                } else {
                    self.record(None, EventKind::JobRetryUndo);
                }
                self.stuck = false;
            }
            Next::End(_) => self.record(None, EventKind::JobEnded),
            Next::Done(state) => return Some(state),
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_job_ends_whole_or_without_a_trace(
        steps in 1usize..=5,
        pivot in proptest::option::of(0usize..5),
        lucks in proptest::collection::vec(0u8..8, 0..40),
        cancel_at in proptest::option::of(1usize..30),
    ) {
        let plan = plan(steps, pivot);
        let mut world = World::default();
        let mut cancelled = false;
        let mut ended = None;
        for (turn, luck) in lucks.into_iter().chain(std::iter::repeat_n(7, 40)).enumerate() {
            if cancel_at == Some(turn) && ended.is_none() {
                let view = fold(&plan, &world.log).unwrap();
                if !view.state.is_terminal() {
                    world.record(None, EventKind::JobCancelRequested);
                    cancelled = true;
                }
            }
            ended = world.turn(&plan, luck);
            if ended.is_some() {
                break;
            }
        }
        match ended {
            Some(JobState::Succeeded) => prop_assert_eq!(world.exists.len(), steps),
            Some(JobState::Failed) => prop_assert!(world.exists.is_empty() && !world.pivoted),
            Some(JobState::Cancelled) => prop_assert!(world.exists.is_empty() && cancelled && !world.pivoted),
            other => prop_assert!(false, "not ended: {:?}", other),
        }
        // Each prefix is a log of its own: a crash at any event resumes.
        for cut in 0..=world.log.len() {
            let view = fold(&plan, &world.log[..cut]).unwrap();
            prop_assert_eq!(view.next_seq, cut as u64);
        }
    }

    #[test]
    fn no_log_makes_the_fold_panic(
        steps in 1usize..=5,
        kinds in proptest::collection::vec((proptest::option::of(0usize..5), 0usize..11), 0..30),
    ) {
        const WORDS: [&str; 11] = ["job_started", "job_cancel_requested", "job_retry_undo", "job_abandoned", "job_ended",
            "started", "succeeded", "failed", "undo_started", "undone", "undo_failed"];
        let plan = plan(steps, Some(steps - 1));
        let mut log = vec![event(&[], None, EventKind::JobStarted)];
        for (step, kind) in kinds {
            let kind: EventKind = WORDS[kind].parse().unwrap();
            prop_assert_eq!(kind.to_string(), WORDS[WORDS.iter().position(|word| *word == kind.to_string()).unwrap()]);
            log.push(event(&log, step.map(|at| NAMES[at]), kind));
            match fold(&plan, &log) {
                Ok(view) => { let _ = next(&plan, &view); }
                Err(_) => { log.pop(); }
            }
        }
    }
}

fn logged(kinds: &[(Option<&str>, EventKind)]) -> Vec<Event> {
    let mut log = Vec::new();
    for (step, kind) in kinds {
        log.push(event(&log, *step, *kind));
    }
    log
}

#[test]
fn a_cancel_while_the_pivot_is_open_runs_the_pivot_again() {
    use EventKind::{JobCancelRequested, JobStarted, Started, Succeeded};
    let plan = plan(2, Some(0));
    let mut log = logged(&[
        (None, JobStarted),
        (Some("a"), Started),
        (None, JobCancelRequested),
    ]);
    let view = fold(&plan, &log).unwrap();
    assert_eq!(
        next(&plan, &view),
        Next::Run {
            step: 0,
            retries: 0
        }
    );
    log.push(event(&log, Some("a"), Started));
    log.push(event(&log, Some("a"), Succeeded));
    let view = fold(&plan, &log).unwrap();
    assert!(view.past_pivot);
    assert_eq!(
        next(&plan, &view),
        Next::Run {
            step: 1,
            retries: 0
        }
    );
}

#[test]
fn a_failed_step_is_undone_itself_and_first() {
    use EventKind::{Failed, JobStarted, Started, Succeeded};
    let plan = plan(3, None);
    let log = logged(&[
        (None, JobStarted),
        (Some("a"), Started),
        (Some("a"), Succeeded),
        (Some("b"), Started),
        (Some("b"), Failed),
    ]);
    let view = fold(&plan, &log).unwrap();
    assert_eq!(
        (view.state, view.failed_step),
        (JobState::Unwinding, Some(1))
    );
    assert_eq!(next(&plan, &view), Next::Undo { step: 1 });
}

#[test]
fn a_log_of_another_version_or_with_a_gap_is_refused() {
    let plan = plan(1, None);
    let mut log = logged(&[
        (None, EventKind::JobStarted),
        (Some("zz"), EventKind::Started),
    ]);
    assert!(matches!(fold(&plan, &log), Err(BadLog::UnknownStep { .. })));
    log[1].step = Some("a".to_owned());
    log[1].seq = 2;
    assert_eq!(
        fold(&plan, &log),
        Err(BadLog::Gap {
            expected: 1,
            found: 2
        })
    );
    log[1].seq = 1;
    log[1].kind = EventKind::Undone;
    assert!(matches!(fold(&plan, &log), Err(BadLog::OutOfPlace { .. })));
    assert!("job_danced".parse::<EventKind>().is_err());
}
