//! Answers that promise something to be durable: to FLUSH, and to writes and zeroes with FUA.
//!
//! The kernel said that all is well. That is passed on once no other sync of the device can have been told otherwise in
//! its place: see `crate::syncs`.

use super::{core::ServerCore, request::Stage};
use crate::{ctx::Ctx, error::LaneFault, stats::add, syncs::Half};
use sys::Backend;
use wire::NbdError;

impl ServerCore {
    /// The kernel has answered a sync of ours.
    pub(super) fn sync_ended(&mut self, half: Half, succeeded: bool) {
        if succeeded {
            self.syncs.end(half);
        } else {
            add(&self.export.counters.flush_failures, 1);
            self.syncs.fail(half);
        }
    }

    /// Answers a request whose syncs all ended well, now or on a later turn.
    pub(super) fn promise<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<(), LaneFault> {
        let since = self.export.watch.syncs.mark();
        self.promising.push_back((slot, since));
        self.keep_promises(ctx)
    }

    /// Answers what can be answered by now, oldest first: nobody is past before those who came earlier.
    pub(super) fn keep_promises<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
    ) -> Result<(), LaneFault> {
        while let Some((slot, since)) = self.promising.front().copied() {
            let Some(is_durable) = self.export.is_durable(since) else {
                return Ok(());
            };
            self.promising.pop_front();
            if let Some(entry) = self.requests.get_mut(slot) {
                if !is_durable {
                    entry.fail(NbdError::Io);
                } else if entry.stage == Stage::Flushing {
                    add(&self.export.counters.flushes, 1);
                }
            }
            self.finish(ctx, slot)?;
        }
        Ok(())
    }
}
