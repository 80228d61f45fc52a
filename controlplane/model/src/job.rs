//! The job machine: what the joblog means, and what comes next.
//!
//! 1. A job is its events, append-only, numbered from 0 without a gap; `(job_id, seq)` is the key, so two runners
//!    cannot both append.
//! 2. [`fold`] and [`next`] are pure. The runner obeys; it decides nothing.
//! 3. *Ensure, don't do*: a step looks for its result under a name made of job id and step before it creates anything.
//!    A step found started after a restart is run again.
//! 4. Every step that **started** is undone, in reverse, the failed one included. Undo means "ensure absent" and accepts
//!    "never was".
//! 5. After the **pivot** succeeded there is no way back: later steps are tried again for ever, cancelling is too late.
//!    A pivot whose end is unknown is run again, never undone; it may report failure only when it had no effect.
//! 6. An undo that fails makes the job `stuck` until an operator says `retry_undo` or `abandon` (the latter: "I looked,
//!    nothing of this step is left").
//! 7. Cancelling is a request, recorded at any time before the end; it takes effect between steps.

mod fold;
mod plan;

pub use fold::{BadLog, fold};
pub use plan::{BadPlan, Plan};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in the job.
    pub seq: u64,
    /// The step it is about; none for events of the job as a whole.
    pub step: Option<String>,
    /// What happened.
    pub kind: EventKind,
    /// What the step left behind for later ones, or why it failed: JSON text that this crate does not read.
    pub state: String,
    /// When, in milliseconds since 1970, by the recorder's clock. No decision depends on it.
    pub at_ms: i64,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The job was accepted; always number 0.
    JobStarted,
    /// Somebody wants it to end.
    JobCancelRequested,
    /// The operator: try the failed undo again.
    JobRetryUndo,
    /// The operator: nothing of the step is left, go on as if it were undone.
    JobAbandoned,
    /// All is done that will be done; the last event.
    JobEnded,
    /// A step began, perhaps not for the first time.
    Started,
    /// A step reached its end.
    Succeeded,
    /// A step did not.
    Failed,
    /// The undo of a step began.
    UndoStarted,
    /// Nothing of the step is left.
    Undone,
    /// The undo did not get through.
    UndoFailed,
}

const KINDS: [(EventKind, &str); 11] = [
    (EventKind::JobStarted, "job_started"),
    (EventKind::JobCancelRequested, "job_cancel_requested"),
    (EventKind::JobRetryUndo, "job_retry_undo"),
    (EventKind::JobAbandoned, "job_abandoned"),
    (EventKind::JobEnded, "job_ended"),
    (EventKind::Started, "started"),
    (EventKind::Succeeded, "succeeded"),
    (EventKind::Failed, "failed"),
    (EventKind::UndoStarted, "undo_started"),
    (EventKind::Undone, "undone"),
    (EventKind::UndoFailed, "undo_failed"),
];

const STATES: [(JobState, &str); 7] = [
    (JobState::Pending, "pending"),
    (JobState::Running, "running"),
    (JobState::Unwinding, "unwinding"),
    (JobState::Succeeded, "succeeded"),
    (JobState::Failed, "failed"),
    (JobState::Cancelled, "cancelled"),
    (JobState::Stuck, "stuck"),
];

/// A word of a newer program, or none at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} is no {what} that this version knows; the row was written by another version, run that one"
)]
pub struct UnknownWord {
    /// The word.
    pub word: String,
    /// What it should have been.
    pub what: &'static str,
}

impl fmt::Display for EventKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = KINDS.iter().find(|(kind, _)| kind == self);
        out.write_str(word.map_or("", |(_, word)| word))
    }
}

impl FromStr for EventKind {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = KINDS.iter().find(|(_, known)| *known == word);
        known.map(|(kind, _)| *kind).ok_or_else(|| UnknownWord {
            word: word.to_owned(),
            what: "event of a job",
        })
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// No step has started.
    Pending,
    /// On its way.
    Running,
    /// On its way back.
    Unwinding,
    /// All steps done.
    Succeeded,
    /// A step failed and everything is undone.
    Failed,
    /// Cancelled and everything is undone.
    Cancelled,
    /// An undo failed; an operator must act.
    Stuck,
}

impl JobState {
    /// Whether nothing will change any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = STATES.iter().find(|(state, _)| state == self);
        out.write_str(word.map_or("", |(_, word)| word))
    }
}

impl FromStr for JobState {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = STATES.iter().find(|(_, known)| *known == word);
        known.map(|(state, _)| *state).ok_or_else(|| UnknownWord {
            word: word.to_owned(),
            what: "state of a job",
        })
    }
}

/// Where one step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepState {
    /// Never touched.
    NotStarted,
    /// Begun; its end is not recorded.
    Started,
    /// Done.
    Succeeded,
    /// Ended without its result, or to be undone once more.
    Failed,
    /// Its undo has begun.
    Undoing,
    /// Nothing of it is left.
    Undone,
    /// Its undo failed.
    UndoFailed,
}

/// What the events say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// The job as a whole.
    pub state: JobState,
    /// Each step, in the plan's order.
    pub steps: Vec<StepState>,
    /// The number the next event must carry.
    pub next_seq: u64,
    /// Somebody asked to cancel.
    pub cancel_requested: bool,
    /// The pivot succeeded: no way back.
    pub past_pivot: bool,
    /// The step that failed first before the pivot, by index, if one did.
    pub failed_step: Option<usize>,
    /// How often in a row the present step has failed after the pivot.
    pub retries: u32,
}

/// What the runner has to do. Steps are indexes into the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Record `job_started`.
    Start,
    /// Record `started` and run the step; `retries` says how long to hold back first.
    Run {
        /// Which.
        step: usize,
        /// Failures of this step since the pivot.
        retries: u32,
    },
    /// Record `undo_started` and undo the step.
    Undo {
        /// Which.
        step: usize,
    },
    /// Stuck at the undo of a step: an operator must speak.
    Wait {
        /// Which.
        step: usize,
    },
    /// Record `job_ended`; the job will then be in this state.
    End(JobState),
    /// Nothing, for ever.
    Done(JobState),
}

/// What comes next for a job of which the caller runs no step at the moment.
#[must_use]
pub fn next(plan: &Plan, view: &JobView) -> Next {
    if view.next_seq == 0 {
        return Next::Start;
    }
    if view.state.is_terminal() {
        return Next::Done(view.state);
    }
    if fold::unwinding(plan, view) {
        return match fold::last_to_undo(view) {
            Some(step) if view.steps[step] == StepState::UndoFailed => Next::Wait { step },
            Some(step) => Next::Undo { step },
            None if view.failed_step.is_some() => Next::End(JobState::Failed),
            None => Next::End(JobState::Cancelled),
        };
    }
    match fold::first_to_run(view) {
        Some(step) => Next::Run {
            step,
            retries: view.retries,
        },
        None => Next::End(JobState::Succeeded),
    }
}
