//! The coordinator of a transfer, one step at a time instead of on a thread of its own.

use crate::{
    EngineError,
    error::{Blame, ErrorKind},
    transfer::{
        plan::Planner,
        shared::{MoveSettings, Phase, TransferShared, Work},
    },
};
use std::sync::{Arc, atomic::Ordering};

/// A transfer as its coordinator sees it.
pub(super) struct Copy {
    pub shared: Arc<TransferShared>,
    planner: Option<Planner>,
    /// Work a full queue refused.
    refused: Option<Work>,
    movers: usize,
    total_bytes: u64,
    done_bytes: u64,
    /// The target answered the flush.
    pub flushed: bool,
    /// The first thing progress did that it must not.
    pub misconduct: Option<String>,
    failure_told: bool,
}

impl Copy {
    pub(super) fn new(
        settings: MoveSettings,
        planner: Planner,
        movers: usize,
        total_bytes: u64,
    ) -> Self {
        Self {
            shared: Arc::new(TransferShared::new(settings, None)),
            planner: Some(planner),
            refused: None,
            movers,
            total_bytes,
            done_bytes: 0,
            flushed: false,
            misconduct: None,
            failure_told: false,
        }
    }

    /// Does what is due; true when the shards shall be woken.
    pub(super) fn step(&mut self) -> bool {
        self.watch_progress();
        let planned = self.plan();
        if self.shared.failed.load(Ordering::Acquire) {
            return !std::mem::replace(&mut self.failure_told, true) || planned;
        }
        self.next_phase() || planned
    }

    /// As the planning thread does it; true when movers wait for what was planned.
    fn plan(&mut self) -> bool {
        while let Some(planner) = &mut self.planner {
            let work = match self.refused.take() {
                Some(work) => Some(work),
                None => planner.next_work().expect("the map is known"),
            };
            match work {
                Some(work) if !self.shared.is_stopping() => {
                    if let Err(back) = self.shared.work.push(work) {
                        self.refused = Some(back);
                        return self.shared.hungry.swap(false, Ordering::AcqRel);
                    }
                }
                _ => {
                    self.planner = None;
                    self.shared.planned.store(true, Ordering::Release);
                    return true;
                }
            }
        }
        false
    }

    fn next_phase(&mut self) -> bool {
        let idle = self.shared.idle_movers.load(Ordering::Acquire) >= self.movers;
        match self.shared.phase() {
            Phase::Moving if idle => self.shared.set_phase(Phase::Flushing),
            Phase::Flushing if self.shared.is_flushed() => {
                self.flushed = true;
                self.shared.set_phase(Phase::Finishing);
            }
            _ => return false,
        }
        true
    }

    fn watch_progress(&mut self) {
        let shared = &self.shared;
        let counters = [
            &shared.data_bytes,
            &shared.zero_bytes,
            &shared.skipped_bytes,
        ];
        let done = counters.iter().map(|c| c.load(Ordering::Relaxed)).sum();
        let (before, total) = (self.done_bytes, self.total_bytes);
        if done < before || done > total {
            let what = format!("progress went from {before} to {done} of {total} bytes");
            self.misconduct.get_or_insert(what);
        }
        self.done_bytes = done;
    }

    pub(super) fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.shared.ended_movers.load(Ordering::Acquire) >= self.movers
    }

    /// What `transfer::run` would return.
    pub(super) fn result(&mut self) -> Result<(), EngineError> {
        self.watch_progress();
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        if self.shared.cancelled.load(Ordering::Acquire) {
            let (kind, blame) = (ErrorKind::Cancelled, Blame::Operator);
            return Err(EngineError::new(kind, blame, "interrupted", "transfer"));
        }
        if !self.flushed {
            let what = "ended without a flush and without an error";
            return Err(EngineError::bug(what, "transfer"));
        }
        if self.done_bytes != self.total_bytes {
            let (done, total) = (self.done_bytes, self.total_bytes);
            let what = format!("{done} of {total} bytes are counted at the end");
            self.misconduct.get_or_insert(what);
        }
        Ok(())
    }
}
