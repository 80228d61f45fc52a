//! The coordinator of a transfer, one step at a time instead of on a thread of its own.

use crate::{
    EngineError, ExtentSet,
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
    /// What was acknowledged since the last flush was asked for.
    written: ExtentSet,
    /// What the flush under way will make durable.
    flushing: ExtentSet,
    /// What must survive everything from now on.
    pub durable: ExtentSet,
    wanted: ExtentSet,
    checkpoint_bytes: u64,
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
        wanted: ExtentSet,
    ) -> Self {
        let total_bytes = wanted.total_bytes();
        Self {
            shared: Arc::new(TransferShared::new(settings, None, movers)),
            planner: Some(planner),
            refused: None,
            movers,
            total_bytes,
            done_bytes: 0,
            written: ExtentSet::new(),
            flushing: ExtentSet::new(),
            durable: ExtentSet::new(),
            wanted,
            checkpoint_bytes: total_bytes / 4 + 1,
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
        let flushed = self.shared.is_flushed();
        if flushed {
            self.durable = self.durable.union(&std::mem::take(&mut self.flushing));
        }
        let is_due = self.written.total_bytes() >= self.checkpoint_bytes;
        match self.shared.phase() {
            Phase::Moving if idle && flushed => {
                self.ask_flush();
                self.shared.set_phase(Phase::Flushing);
            }
            Phase::Moving if flushed && is_due => self.ask_flush(),
            Phase::Flushing if flushed => {
                self.flushed = true;
                self.shared.set_phase(Phase::Finishing);
            }
            _ => return false,
        }
        true
    }

    fn ask_flush(&mut self) {
        self.watch_progress();
        self.flushing = std::mem::take(&mut self.written);
        self.shared.ask_flush();
    }

    fn watch_acks(&mut self) {
        let (wanted, written) = (&self.wanted, &mut self.written);
        let (flushing, durable) = (&self.flushing, &self.durable);
        let mut misconduct = None;
        self.shared.take_acks(|ack| {
            let range = ack.offset..ack.offset + ack.len;
            let twice = [&*written, flushing, durable]
                .iter()
                .any(|set| set.overlaps(range.clone()));
            if twice || !wanted.contains_range(range.clone()) {
                misconduct
                    .get_or_insert_with(|| format!("{range:?} was acknowledged twice or unasked"));
            }
            written.insert(range);
        });
        if let Some(what) = misconduct {
            self.misconduct.get_or_insert(what);
        }
    }

    fn watch_progress(&mut self) {
        self.watch_acks();
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
        if self.durable != self.wanted {
            let what = "the end came before all ranges were durable".to_owned();
            self.misconduct.get_or_insert(what);
        }
        if self.done_bytes != self.total_bytes {
            let (done, total) = (self.done_bytes, self.total_bytes);
            let what = format!("{done} of {total} bytes are counted at the end");
            self.misconduct.get_or_insert(what);
        }
        Ok(())
    }
}
