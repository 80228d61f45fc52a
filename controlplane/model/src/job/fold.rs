//! From events to the state they mean. What cannot have happened is an error, never a guess.

use super::{Event, EventKind, JobState, JobView, Plan, StepState};

/// A log that this plan cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLog {
    /// A number is missing or comes twice.
    #[error(
        "event {found} stands where number {expected} belongs: the log has a gap; restore the joblog tables, nothing was changed"
    )]
    Gap {
        /// The number that was due.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// The plan of this version has no such step.
    #[error(
        "event {seq} names the step {step:?}, which this version's plan does not have; run the version that began the job"
    )]
    UnknownStep {
        /// Where.
        seq: u64,
        /// The name in the log.
        step: String,
    },
    /// The event cannot follow what is before it.
    #[error(
        "event {seq} ({kind}) cannot follow the events before it: two runners, or another version's plan; the job is left as it is"
    )]
    OutOfPlace {
        /// Where.
        seq: u64,
        /// What.
        kind: EventKind,
    },
}

/// What `events`, all of them and in order, say about a job of this plan.
///
/// # Errors
/// When this plan cannot have written them.
pub fn fold(plan: &Plan, events: &[Event]) -> Result<JobView, BadLog> {
    let mut view = JobView {
        state: JobState::Pending,
        steps: vec![StepState::NotStarted; plan.steps().len()],
        next_seq: 0,
        cancel_requested: false,
        past_pivot: false,
        failed_step: None,
        retries: 0,
    };
    for event in events {
        apply(plan, &mut view, event)?;
    }
    Ok(view)
}

fn apply(plan: &Plan, view: &mut JobView, event: &Event) -> Result<(), BadLog> {
    if event.seq != view.next_seq {
        return Err(BadLog::Gap {
            expected: view.next_seq,
            found: event.seq,
        });
    }
    let step = event.step.as_ref().map(|name| {
        plan.find(name).ok_or_else(|| BadLog::UnknownStep {
            seq: event.seq,
            step: name.clone(),
        })
    });
    let in_place = match step.transpose()? {
        None => of_job(plan, view, event.kind),
        Some(step) => view.next_seq > 0 && of_step(plan, view, step, event.kind),
    };
    if !in_place {
        return Err(BadLog::OutOfPlace {
            seq: event.seq,
            kind: event.kind,
        });
    }
    view.next_seq += 1;
    if !view.state.is_terminal() {
        view.state = state_of(plan, view);
    }
    Ok(())
}

/// Takes an event of the job as a whole; false when it is out of place.
fn of_job(plan: &Plan, view: &mut JobView, kind: EventKind) -> bool {
    if (view.next_seq == 0) != (kind == EventKind::JobStarted) || view.state.is_terminal() {
        return false;
    }
    let stuck = view
        .steps
        .iter()
        .position(|step| *step == StepState::UndoFailed);
    match (kind, stuck) {
        (EventKind::JobStarted, _) => true,
        (EventKind::JobCancelRequested, _) => {
            view.cancel_requested = true;
            true
        }
        (EventKind::JobRetryUndo, Some(step)) => {
            view.steps[step] = StepState::Failed;
            true
        }
        (EventKind::JobAbandoned, Some(step)) => {
            view.steps[step] = StepState::Undone;
            true
        }
        (EventKind::JobEnded, _) => match super::next(plan, view) {
            super::Next::End(state) => {
                view.state = state;
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// Takes an event of a step; false when it is out of place.
fn of_step(plan: &Plan, view: &mut JobView, step: usize, kind: EventKind) -> bool {
    let before = view.steps[step];
    let open = !view.state.is_terminal();
    let (allowed, after) = match kind {
        EventKind::Started => (
            !unwinding(plan, view) && first_to_run(view) == Some(step),
            StepState::Started,
        ),
        EventKind::Succeeded => (before == StepState::Started, StepState::Succeeded),
        EventKind::Failed => (before == StepState::Started, StepState::Failed),
        EventKind::UndoStarted => (
            unwinding(plan, view)
                && last_to_undo(view) == Some(step)
                && before != StepState::UndoFailed,
            StepState::Undoing,
        ),
        EventKind::Undone => (before == StepState::Undoing, StepState::Undone),
        EventKind::UndoFailed => (before == StepState::Undoing, StepState::UndoFailed),
        _ => (false, before),
    };
    if !(open && allowed) {
        return false;
    }
    view.steps[step] = after;
    match kind {
        EventKind::Succeeded => {
            view.retries = 0;
            view.past_pivot |= plan.pivot() == Some(step);
        }
        EventKind::Failed if view.past_pivot => view.retries = view.retries.saturating_add(1),
        EventKind::Failed => view.failed_step = Some(step),
        _ => {}
    }
    true
}

/// Whether the job is on its way back, if no step is running.
pub(super) fn unwinding(plan: &Plan, view: &JobView) -> bool {
    let way_back = view.steps.iter().any(|step| {
        matches!(
            step,
            StepState::Undoing | StepState::Undone | StepState::UndoFailed
        )
    });
    // A pivot whose end is unknown may have taken effect: only running it again can tell.
    let pivot_open = plan
        .pivot()
        .is_some_and(|pivot| view.steps[pivot] == StepState::Started);
    way_back
        || view.failed_step.is_some()
        || view.cancel_requested && !view.past_pivot && !pivot_open && first_to_run(view).is_some()
}

/// The step that is to run next on the way forward.
pub(super) fn first_to_run(view: &JobView) -> Option<usize> {
    view.steps
        .iter()
        .position(|step| *step != StepState::Succeeded)
}

/// The step that is to be undone next on the way back.
pub(super) fn last_to_undo(view: &JobView) -> Option<usize> {
    view.steps
        .iter()
        .rposition(|step| !matches!(step, StepState::NotStarted | StepState::Undone))
}

fn state_of(plan: &Plan, view: &JobView) -> JobState {
    let any = |wanted: StepState| view.steps.contains(&wanted);
    if any(StepState::UndoFailed) {
        JobState::Stuck
    } else if unwinding(plan, view) {
        JobState::Unwinding
    } else if view.steps.iter().all(|step| *step == StepState::NotStarted) {
        JobState::Pending
    } else {
        JobState::Running
    }
}
